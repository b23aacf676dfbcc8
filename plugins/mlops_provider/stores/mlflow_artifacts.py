"""Files that MLflow keeps: in a folder, behind its server, or in an object store that it reaches itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlops_provider.stores import mlflow_access
from mlops_provider.stores.trees import Tree


def is_folder(location: str) -> bool:
    """Whether an address is one of a folder."""
    return location.startswith("file:") or ("://" not in location and not location.startswith("mlflow-artifacts:"))


def folder_beside(database: str) -> str | None:
    """Folder for files beside an SQLite database, as an address; None for another database."""
    if not database.startswith("sqlite"):
        return None
    return (mlflow_access.sqlite_file(database).parent / "artifacts").as_uri()


class Artifacts(Tree):
    """
    The files of one experiment.

    :param location: Their address, as MLflow records it.
    :param tracking_uri: MLflow, which fetches and stores what is not in a folder.
    """

    def __init__(self, location: str, tracking_uri: str) -> None:
        super().__init__(location if is_folder(location) else "/")
        self.root = location
        self._remote: Any = None if is_folder(location) else get_artifact_repository(location, tracking_uri)
        self._tracking_uri = tracking_uri

    def names(self) -> list[str]:
        """Every file, by its path below the root, in their order."""
        if self._remote is None:
            return super().names()
        with mlflow_access.explained(self._tracking_uri):
            return sorted(self._listed(""))

    def pieces(self, name: str) -> Iterator[bytes]:
        """Content of a file, piece by piece."""
        if self._remote is None:
            yield from super().pieces(name)
            return
        with mlflow_access.explained(self._tracking_uri), tempfile.TemporaryDirectory() as folder:
            found = Path(self._remote.download_artifacts(name, folder))
            yield from Tree(str(found.parent)).pieces(found.name)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file, in place of what was there."""
        if self._remote is None:
            super().write(name, pieces)
            return
        path = PurePosixPath(name)
        with mlflow_access.explained(self._tracking_uri), tempfile.TemporaryDirectory() as folder:
            Tree(folder).write(path.name, pieces)
            inside = None if path.parent == PurePosixPath() else str(path.parent)
            self._remote.log_artifact(str(Path(folder, path.name)), inside)

    def _listed(self, folder: str) -> Iterator[str]:
        for each in self._remote.list_artifacts(folder or None):
            if each.is_dir:
                yield from self._listed(each.path)
            else:
                yield each.path
