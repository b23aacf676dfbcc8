"""Rendered reports, one place per task, readable but never beyond their root."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mlops_provider.core.origin import Origin
from mlops_provider.exceptions import StoreUnavailableError
from mlops_provider.stores.s3 import S3, is_s3

if TYPE_CHECKING:
    from mlops_provider.stores.trees import Tree


class Reports:
    """
    A folder or bucket of HTML pages at ``dag/run/task[/map]/name``.

    :param root_uri: A folder, or an address such as ``s3://bucket/prefix``.
    :param s3: Access to S3, if the root is there; by default with what the environment holds.
    """

    def __init__(self, root_uri: str, s3: S3 | None = None) -> None:
        self.root = root_uri.rstrip("/") or "/"
        self.s3 = (s3 or S3()) if is_s3(root_uri) else None

    @property
    def tree(self) -> Tree:
        """All files of it."""
        from mlops_provider.stores.trees import Tree  # pyarrow: the web server reads single reports without it

        return Tree(self.root, self.s3)

    def write(self, origin: Origin, name: str, html: str) -> str:
        """
        Write a page; a retry replaces its own.

        :return: Path below the root.
        :raises StoreUnavailableError: It can't be written. Retried.
        :raises ConfigurationError: S3 refuses the credentials. Not retried.
        """
        relative = _checked(f"{origin.path}/{name}")
        if self.s3 is not None:
            self.s3.write(f"{self.root}/{relative}", html.encode(), media_type="text/html; charset=utf-8")
            return relative
        place = self._inside(relative)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(html, encoding="utf-8")
        except OSError as error:
            raise StoreUnavailableError(
                f"Report {place} can't be written ({error.strerror or error}): check that the disk has room and that "
                "this user may write there."
            ) from error
        return relative

    def read(self, relative: str) -> bytes:
        """
        Read a page.

        :raises FileNotFoundError: There is none at this path, or the path leaves the root.
        :raises StoreUnavailableError: It can't be read. Retried.
        :raises ConfigurationError: S3 refuses the credentials. Not retried.
        """
        if self.s3 is not None:
            return self.s3.read(f"{self.root}/{_checked(relative)}")
        place = self._inside(_checked(relative))
        try:
            return place.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(relative) from None
        except OSError as error:
            raise StoreUnavailableError(f"Report {relative} can't be read: {error.strerror or error}.") from error

    def _inside(self, relative: str) -> Path:
        """Refuse what a link leads out of the folder."""
        parts = urlsplit(self.root)
        root = Path(unquote(parts.path)) if parts.scheme == "file" else Path(self.root)
        place = root / relative
        if not place.resolve().is_relative_to(root.resolve()):
            raise FileNotFoundError(relative)
        return place


def _checked(relative: str) -> str:
    """Refuse a path that is not strictly below the root."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or any(part in ("..", ".") or "\\" in part for part in parts):
        raise FileNotFoundError(relative)
    return "/".join(parts)
