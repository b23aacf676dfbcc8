"""Files below one address, a folder or a prefix on S3: listed, read and written in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pyarrow import NativeFile
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from mlops_provider.exceptions import FileGoneError, StoreUnavailableError
from mlops_provider.stores.s3 import S3, is_s3, split

_PIECE = 1 << 20
"""Bytes held in memory while a file is copied."""


class Tree:
    """
    The files below one address.

    :param root: A folder, ``file://`` or ``s3://`` address; it need not exist.
    :param s3: Access to S3, if the root is there; by default with what the environment holds.
    """

    def __init__(self, root: str, s3: S3 | None = None) -> None:
        self.root = root.rstrip("/")
        if is_s3(self.root):
            self.path = "/".join(split(self.root))
            self.filesystem: FileSystem = (s3 or S3()).filesystem()
        else:
            parts = urlsplit(self.root)
            self.path = str(Path(unquote(parts.path) if parts.scheme == "file" else self.root).absolute())
            self.filesystem = LocalFileSystem()

    def names(self) -> list[str]:
        """Every file, by its path below the root, in their order; none if there is no such place."""
        with self._explained():
            found = self.filesystem.get_file_info(FileSelector(self.path, recursive=True, allow_not_found=True))
        return sorted(str(each.path)[len(self.path) + 1 :] for each in found if each.type == FileType.File)

    def pieces(self, name: str) -> Iterator[bytes]:
        """
        Content of a file, piece by piece.

        :raises FileGoneError: There is no such file (any more). Retried.
        """
        with self._explained(), self._opened(name) as stream:
            while piece := stream.read(_PIECE):
                yield bytes(piece)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file, in place of what was there."""
        place = f"{self.path}/{name}"
        with self._explained():
            if isinstance(self.filesystem, LocalFileSystem):
                Path(place).parent.mkdir(parents=True, exist_ok=True)
            with self.filesystem.open_output_stream(place) as stream:
                for piece in pieces:
                    stream.write(piece)

    def _opened(self, name: str) -> NativeFile:
        try:
            return self.filesystem.open_input_stream(f"{self.path}/{name}")
        except FileNotFoundError as error:
            raise FileGoneError(f"{self.root}/{name} is gone: somebody removed it meanwhile.") from error

    @contextmanager
    def _explained(self) -> Iterator[Any]:
        try:
            yield
        except OSError as error:
            said = " ".join(str(error).split())[:300]
            raise StoreUnavailableError(f"{self.root} cannot be read or written: {said}.") from error
