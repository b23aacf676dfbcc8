"""Rendered reports, one place per task, readable but never beyond their root."""

from __future__ import annotations

from pathlib import PurePosixPath

from upath import UPath

from mlops_provider.core.origin import Origin
from mlops_provider.exceptions import StoreUnavailableError


class Reports:
    """
    A folder or bucket of HTML pages at ``dag/run/task[/map]/name``.

    :param root_uri: A folder, or an address such as ``s3://bucket/prefix``.
    """

    def __init__(self, root_uri: str) -> None:
        self.root = UPath(root_uri)

    def write(self, origin: Origin, name: str, html: str) -> str:
        """
        Write a page; a retry replaces its own.

        :return: Path below the root.
        :raises StoreUnavailableError: It can't be written. Retried.
        """
        relative = f"{origin.path}/{name}"
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
        """
        place = self._inside(relative)
        try:
            return bytes(place.read_bytes())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(relative) from None
        except OSError as error:
            raise StoreUnavailableError(f"Report {relative} can't be read: {error.strerror or error}.") from error

    def _inside(self, relative: str) -> UPath:
        """Refuse what is not strictly below the root, through links too."""
        parts = PurePosixPath(relative).parts
        if not parts or relative.startswith("/") or any(part in ("..", ".") or "\\" in part for part in parts):
            raise FileNotFoundError(relative)
        place = self.root.joinpath(*parts)
        if self.root.protocol in ("", "file") and not place.resolve().is_relative_to(self.root.resolve()):
            raise FileNotFoundError(relative)
        return place
