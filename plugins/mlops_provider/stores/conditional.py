"""
Does a store let only one of several writers create a thing? Everything that is written exactly once stands on it.

A commit of a Delta table is a file that must not be there yet: on S3 an object put with ``If-None-Match: *``, in a
folder a hard link. A store that does not honour it tells two writers that they came first, and one commit is lost.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from urllib.parse import unquote, urlsplit

from mlops_provider.exceptions import ConfigurationError
from mlops_provider.stores.s3 import S3, is_s3

WRITERS, ROUNDS = 8, 5
_SCRATCH = "_mlops_probe"


def check(root: str, s3: S3 | None = None, *, writers: int = WRITERS, rounds: int = ROUNDS) -> None:
    """
    Let several writers create the same thing at the same moment, some times over, and see that one of them does.

    What is written lies below ``_mlops_probe`` and is removed.

    :param root: Root of the tables.
    :param s3: Access to S3, if the root is there; by default with what the environment holds.
    :raises ConfigurationError: The store does not honour it. Not retried.
    :raises StoreUnavailableError: S3 does not answer. Retried.
    """
    if is_s3(root):
        _check_s3(root.rstrip("/"), s3 or S3(), writers, rounds)
    else:
        parts = urlsplit(root)
        _check_folder(Path(unquote(parts.path)) if parts.scheme == "file" else Path(root), writers, rounds)


def _check_s3(root: str, s3: S3, writers: int, rounds: int) -> None:
    for number in range(1, rounds + 1):
        uri = f"{root}/{_SCRATCH}/{uuid.uuid4().hex}"
        try:
            won = _race(writers, lambda writer, uri=uri: s3.create(uri, str(writer).encode()))  # type: ignore[misc]
            kept = s3.read(uri).decode()
        finally:
            s3.delete(uri)
        if won != [int(kept)]:
            raise _broken(root, number, rounds, writers, len(won), _S3_ADVICE)


def _check_folder(folder: Path, writers: int, rounds: int) -> None:
    while not folder.exists():
        folder = folder.parent
    scratch = folder / f"{_SCRATCH}-{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        for number in range(1, rounds + 1):
            target = scratch / f"{number}"
            won = _race(writers, lambda writer, target=target: _linked(target, writer))  # type: ignore[misc]
            if [str(writer) for writer in won] != [target.read_text(encoding="ascii")]:
                raise _broken(str(folder), number, rounds, writers, len(won), _FOLDER_ADVICE)
    finally:
        for file in scratch.iterdir():
            file.unlink()
        scratch.rmdir()


def _linked(target: Path, writer: int) -> bool:
    own = target.with_name(f"{target.name}.{writer}")
    own.write_text(str(writer), encoding="ascii")
    try:
        os.link(own, target)
    except FileExistsError:
        return False
    return True


def _race(writers: int, create: Callable[[int], bool]) -> list[int]:
    """Let all begin at the same moment; give those that were told that they came first."""
    start = Barrier(writers)

    def run(writer: int) -> bool:
        start.wait()
        return create(writer)

    with ThreadPoolExecutor(writers) as pool:
        return [writer for writer, won in enumerate(pool.map(run, range(writers))) if won]


_S3_ADVICE = (
    "Keep the tables where PutObject honours If-None-Match (Amazon S3 does; of another store, ask for conditional "
    "writes), or in a folder."
)
_FOLDER_ADVICE = "Keep the tables on a file system that has hard links."


def _broken(root: str, number: int, rounds: int, writers: int, won: int, advice: str) -> ConfigurationError:
    return ConfigurationError(
        f"{root} does not hold conditional writes: in round {number} of {rounds}, {won} of {writers} writers of one "
        f"name were told that they came first, expected 1. Commits of two tasks could overwrite each other. {advice}"
    )
