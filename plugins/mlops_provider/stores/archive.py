"""A backup or a package as a folder: files, and a manifest that knows the digest of each and is written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import ConfigurationError, EvidenceError, FileGoneError
from mlops_provider.stores.trees import Tree

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of what such a folder looks like."""
_LISTED = 10


@dataclass(frozen=True, slots=True)
class Entry(Payload):
    """One file: its size in bytes and its SHA-256, in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest(Payload):
    """
    What the folder holds.

    :param format: Version of its layout.
    :param package: Version of this package that made it.
    :param made_at: When, ISO 8601.
    :param about: What it is made of, for people and for who reads it.
    :param files: Every file by its path.
    """

    format: int
    package: str
    made_at: str
    about: Mapping[str, Any]
    files: Mapping[str, Entry]


class Archive:
    """
    A folder of files under a manifest.

    :param folder: Where it is.
    :param what: What it is called in messages.
    """

    def __init__(self, folder: Path, what: str = "backup") -> None:
        self.folder = folder.absolute()
        self.what = what
        self.tree = Tree(str(self.folder))
        self.entries: dict[str, Entry] = {}

    def begin(self) -> None:
        """
        Make the folder.

        :raises ConfigurationError: It holds something already. Not retried.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            occupied = any(self.folder.iterdir())
        except OSError as error:
            raise ConfigurationError(f"{self.folder} can't be used for a {self.what}: {error.strerror}.") from error
        if occupied:
            raise ConfigurationError(
                f"{self.folder} is not empty: a {self.what} gets a folder of its own. Name a new one."
            )

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """
        Write a file and remember its digest.

        :raises FileGoneError: What it is a copy of is gone; nothing was written. Retried.
        """
        total, size = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in pieces:
                total.update(piece)
                size += len(piece)
                yield piece

        try:
            self.tree.write(name, counted())
        except FileGoneError:
            (self.folder / name).unlink(missing_ok=True)
            raise
        self.entries[name] = Entry(size, total.hexdigest())

    def add_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write rows as lines of JSON; give how many there were."""
        count = 0

        def lines() -> Iterator[bytes]:
            nonlocal count
            for row in rows:
                count += 1
                yield json.dumps(row, sort_keys=True).encode() + b"\n"

        self.add(name, lines())
        return count

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Read back what :meth:`add_lines` wrote."""
        with (self.folder / name).open("rb") as stream:
            yield from map(json.loads, stream)

    def finish(self, *, package: str, made_at: str, about: Mapping[str, Any]) -> Manifest:
        """Write the manifest, whole or not at all."""
        manifest = Manifest(FORMAT, package, made_at, about, self.entries)
        fresh = self.folder / f".{MANIFEST}"
        with fresh.open("w", encoding="utf-8") as stream:
            json.dump(manifest.as_json(), stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self.folder / MANIFEST)
        return manifest

    def opened(self, only: Sequence[str] = ()) -> Manifest:
        """
        Read the manifest, and see that every file is as it was written and that there is no other.

        :param only: Look at the files of these folders only; the others need not be there.
        :raises ConfigurationError: It is no such folder, an unfinished one, or one of a newer package. Not retried.
        :raises EvidenceError: Files were changed, lost or added. Not retried.
        """
        try:
            content = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(
                f"{self.folder} holds no {MANIFEST}: it is no {self.what}, or one that was cut off. Name another one."
            ) from error
        except ValueError as error:
            raise EvidenceError(f"{self.folder / MANIFEST} is damaged: it is no JSON.") from error
        if content.get("format") != FORMAT:
            raise ConfigurationError(
                f"{self.folder} has format {content.get('format')}; this package reads {FORMAT}. Use it with version "
                f"{content.get('package')} of the package, which made it."
            )
        manifest = Manifest.from_json(content)
        self.entries = dict(manifest.files)
        looked_at = tuple(f"{folder}/" for folder in only) or ("",)
        if problems := list(self._problems(looked_at)):
            more = [f"and {len(problems) - _LISTED} more."] * (len(problems) > _LISTED)
            raise EvidenceError(
                "\n".join([f"The {self.what} in {self.folder} is not whole.", *problems[:_LISTED], *more])
            )
        return manifest

    def below(self, folder: str) -> list[str]:
        """Files of a folder in it, by their paths below it, in their order."""
        return sorted(name.removeprefix(f"{folder}/") for name in self.entries if name.startswith(f"{folder}/"))

    def _problems(self, looked_at: tuple[str, ...]) -> Iterator[str]:
        there = {name for name in self.tree.names() if name != MANIFEST and name.startswith(looked_at)}
        for name in sorted(there - self.entries.keys()):
            yield f"{name} was added."
        for name, entry in self.entries.items():
            if not name.startswith(looked_at):
                continue
            if name not in there:
                yield f"{name} is missing."
                continue
            total, size = hashlib.sha256(), 0
            for piece in self.tree.pieces(name):
                total.update(piece)
                size += len(piece)
            if Entry(size, total.hexdigest()) != entry:
                now = f"{size:,} bytes with SHA-256 {total.hexdigest()}"
                yield f"{name} was changed: {now}, written were {entry.size:,} with {entry.sha256}."
