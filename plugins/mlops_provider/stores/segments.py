"""
The prediction log where it begins: files that a replica appends to.

A segment is a file of JSON lines, ``<spool>/<name>/<sequence>.open`` while it is written and ``<sequence>.sealed``
once it is complete. Sequences rise for ever, so a table knows by the number alone what it already has.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_provider.exceptions import ConfigurationError, MLOpsError, StoreUnavailableError
from mlops_provider.stores.s3 import S3

log = logging.getLogger(__name__)

_OPEN, _SEALED = ".open", ".sealed"
_ADOPT_SECONDS = 30.0
"""Time between two looks for what other replicas left behind."""
_PATIENCE = 5.0
"""Seconds a starting replica waits for one of its name that ends."""
_PATIENCE_WITH_MOVERS = 60.0
"""Seconds it waits for others that seal or move what it left: longer than their turn and two tries of S3."""
_TURN_SECONDS, _PAUSE_SECONDS = 1.0, 0.2
"""Those who move what another replica left let go of its folder after a turn, for it to start again."""
_WRITES, _MOVES = b"w", b"m"
"""First byte of a folder's lock file: what for it was taken last."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed segment: who wrote it, and the how-manieth it is, from 1."""

    path: Path
    replica: str
    sequence: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    def read(self) -> bytes:
        """Its lines."""
        return self.path.read_bytes()

    def remove(self) -> None:
        """Forget it: it was delivered."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class ShippedSegment:
    """A sealed segment on S3, as :class:`Segment`."""

    uri: str
    size: int
    s3: S3

    @property
    def replica(self) -> str:
        """Who wrote it."""
        return self.uri.split("/")[-2]

    @property
    def sequence(self) -> int:
        """The how-manieth it is, from 1."""
        return int(self.uri.rpartition("/")[2].removesuffix(_SEALED))

    def read(self) -> bytes:
        """Its lines."""
        return self.s3.read(self.uri)

    def remove(self) -> None:
        """Forget it: it was delivered."""
        self.s3.delete(self.uri)


class SegmentWriter:
    """
    Writes one replica's segments. Safe to call from many threads.

    :param spool_dir: Folder of this model's segments; each replica has a folder of its own in it.
    :param name: Name of the replica, unique among those that share *spool_dir*.
    :param max_bytes: Size after which a segment is sealed.
    :param max_seconds: Age after which a segment that has rows is sealed.
    :param ship_to: Address on S3 to which sealed segments are moved, in their order, by a replica whose folder the
        delivering task can't see; ``<ship_to>/<replica>/<sequence>.sealed``.
    :param s3: Access to it; by default with what the environment holds.
    :raises ConfigurationError: Another process writes under this name. Not retried.
    :raises StoreUnavailableError: Another process still moves what was left under this name. Retried.
    """

    def __init__(
        self,
        spool_dir: Path | str,
        name: str,
        *,
        max_bytes: int = 32_000_000,
        max_seconds: float = 5.0,
        ship_to: str = "",
        s3: S3 | None = None,
    ) -> None:
        self.folder = Path(spool_dir) / name
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.ship_to = ship_to.rstrip("/")
        self.s3 = (s3 or S3()) if ship_to else None
        self._mutex = threading.Lock()
        self._stopping = threading.Event()
        self._file: int | None = None
        self._size, self._opened, self._unsynced = 0, 0.0, False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _owned(self.folder)
        # A spool that was wiped begins with 1 again: without a new identity its rows would count as delivered.
        self.replica = f"{name}-{_identity(self.folder)}"
        _seal_leftovers(self.folder)
        self._keeper = threading.Thread(target=self._keep, name=f"segments-{name}", daemon=True)
        self._keeper.start()
        # Threads of their own: S3 may take long to answer. What is logged meanwhile has to reach the disk, and what
        # others left must not hold up what this one wrote.
        self._shipper = threading.Thread(target=self._keep_shipping, name=f"shipping-{name}", daemon=True)
        self._adopter = threading.Thread(target=self._keep_adopting, name=f"adopting-{name}", daemon=True)
        if self.s3 is not None:
            self._shipper.start()
            self._adopter.start()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """
        Log rows; on return their bytes are with the operating system, so a killed process loses none.

        :raises StoreUnavailableError: The disk is full or gone; none of *rows* is logged. Retried.
        """
        self.append_lines(b"".join(json.dumps(row, default=str).encode() + b"\n" for row in rows))

    def append_lines(self, data: bytes) -> None:
        """
        Log rows that are JSON lines already, in one write; as :meth:`append`.

        :raises StoreUnavailableError: The disk is full or gone; none of the rows is logged. Retried.
        """
        if not data:
            return
        with self._mutex:
            try:
                if self._file is None:
                    self._open()
                self._write(data)
            except OSError as error:
                raise StoreUnavailableError(
                    f"The prediction log in {self.folder} can't be written ({error.strerror}): free space on that disk."
                ) from error
            if self._size >= self.max_bytes:
                self._tend(self._seal)

    def close(self) -> None:
        """Seal what is open, and ship it; nothing can be appended afterwards. What others left waits."""
        self._stopping.set()
        self._keeper.join()
        with self._mutex:
            self._seal()
        if self.s3 is not None:
            self._shipper.join()
            self._ship()
            self._adopter.join()
        os.close(self._lock)

    def _open(self) -> None:
        # The number is kept before it is used, so it can't come back after the segment was delivered and removed.
        sequence = _last_sequence(self.folder) + 1
        _write_whole(self.folder / "sequence", str(sequence))
        self._path = self.folder / f"{sequence:012d}{_OPEN}"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size, self._opened = 0, time.monotonic()

    def _write(self, data: bytes) -> None:
        """Write all of *data* or, on a full disk, none of it."""
        assert self._file is not None
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        self._unsynced = True

    def _seal(self) -> None:
        if self._file is None:
            return
        os.fsync(self._file)
        # Renamed before it is let go of: a segment that stayed behind would come after its successors.
        if self._size:
            self._path.rename(self._path.with_suffix(_SEALED))
        else:
            self._path.unlink()
        os.close(self._file)
        self._file, self._unsynced = None, False

    def _sync(self) -> None:
        """Bring what was written to the disk itself. Not under the mutex: rows can be logged meanwhile."""
        with self._mutex:
            if self._file is None or not self._unsynced:
                return
            file, self._unsynced = os.dup(self._file), False
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def _keep(self) -> None:
        """Each second: bring what was written to the disk, and seal a segment that is old enough."""
        while not self._stopping.wait(1.0):
            self._tend(self._sync)
            with self._mutex:
                if time.monotonic() - self._opened >= self.max_seconds:
                    self._tend(self._seal)

    def _keep_shipping(self) -> None:
        while not self._stopping.wait(1.0):
            self._ship()

    def _keep_adopting(self) -> None:
        wait = 1.0
        while not self._stopping.wait(wait):
            self._ship_for_others()
            wait = _ADOPT_SECONDS

    def _ship(self) -> None:
        """Move sealed segments to S3, oldest first; what can't be moved now stays, with all that follow it."""
        if self.s3 is None:
            return
        try:
            _shipped(self.folder, self.ship_to, self.s3)
        except (MLOpsError, OSError) as error:
            log.error("The prediction log in %s stays there for now: %s", self.folder, error)

    def _ship_for_others(self) -> None:
        """Move what replicas left in folders beside this one's, those that are no more."""
        assert self.s3 is not None
        try:
            ship_abandoned(self.folder.parent, self.ship_to, self.s3, stopping=self._stopping)
        except (MLOpsError, OSError) as error:
            log.error("What others left in %s stays there for now: %s", self.folder.parent, error)

    def _tend(self, action: Callable[[], None]) -> None:
        """Do what can wait: rows were logged before, so a failure is told and tried again in a second."""
        try:
            action()
        except OSError as error:
            log.error("The prediction log in %s can't be kept: %s", self.folder, error.strerror)


def sealed_segments(spool_dir: Path | str) -> list[Segment]:
    """List the segments below *spool_dir* that wait for delivery, in the order they were written."""
    return [segment for folder in sorted(Path(spool_dir).glob("*/")) for segment in _sealed_in(folder)]


def shipped_segments(uri: str, s3: S3) -> list[ShippedSegment]:
    """List the segments below an address on S3, in the order they were written."""
    return [ShippedSegment(found, size, s3) for found, size in s3.sizes(uri).items() if found.endswith(_SEALED)]


def ship_abandoned(spool_dir: Path | str, ship_to: str, s3: S3, *, stopping: threading.Event | None = None) -> None:
    """
    Move to S3 what replicas left in their folders that are no more, the segment they were killed in included.

    A folder's lock is held meanwhile, so one process at a time moves its segments, in their order; after each second
    it is let go of, so that its replica can start again. A folder that can't be used is told in the log and passed
    over.

    :param stopping: Once it is set, no further segment is begun.
    :raises StoreUnavailableError: S3 does not answer; what was not moved stays. Retried.
    """
    stopping, hurried = stopping or threading.Event(), s3.hurried()

    def moved(folder: Path) -> None:
        while _ship_a_turn(folder, ship_to.rstrip("/"), hurried, stopping):
            if stopping.wait(_PAUSE_SECONDS):
                return

    _in_each_folder(spool_dir, moved)


def _ship_a_turn(folder: Path, ship_to: str, s3: S3, stopping: threading.Event) -> bool:
    """Move segments of a folder whose replica is no more, for a second; give whether it is worth another turn."""
    if stopping.is_set() or not any(path.suffix in (_OPEN, _SEALED) for path in folder.iterdir()):
        return False
    with _abandoned(folder) as ours:
        if not ours:
            return False
        _seal_leftovers(folder)
        turn = time.monotonic() + _TURN_SECONDS
        return not _shipped(folder, ship_to, s3, lambda: time.monotonic() < turn and not stopping.is_set())


def _shipped(folder: Path, ship_to: str, s3: S3, go_on: Callable[[], bool] = lambda: True) -> bool:
    """Move segments to S3 as long as *go_on* says so; give whether all were moved."""
    for segment in _sealed_in(folder):
        if not go_on():
            return False
        s3.write(f"{ship_to}/{segment.replica}/{segment.path.name}", segment.read())
        segment.remove()
    return True


def _sealed_in(folder: Path) -> list[Segment]:
    paths = sorted(folder.glob(f"*{_SEALED}"))
    replica = f"{folder.name}-{_identity(folder)}" if paths else ""
    return [Segment(path, replica, int(path.stem)) for path in paths]


def _owned(folder: Path) -> int:
    """Hold the lock of a replica's own folder as long as the process lives."""
    started = time.monotonic()
    while (lock := _locked(folder, _WRITES)) is None:
        moved = (folder / "lock").read_bytes()[:1] == _MOVES
        patience = _PATIENCE_WITH_MOVERS if moved else _PATIENCE
        if time.monotonic() - started >= patience:
            if moved:
                raise StoreUnavailableError(
                    f"What was left in {folder} is being moved by another process, for {patience:.0f} seconds already. "
                    "Does S3 take long to answer it? Start this replica again."
                )
            raise ConfigurationError(
                f"Another process writes predictions to {folder}: give each replica a name or a spool folder of its "
                "own."
            )
        time.sleep(0.05)
    return lock


def _locked(folder: Path, purpose: bytes) -> int | None:
    """Take the folder's lock and say in it what for; None if another process holds it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    with suppress(OSError):  # the disk is full: who waits is told less
        os.pwrite(lock, purpose, 0)
    return lock


def _identity(folder: Path) -> str:
    """Random text that names this folder's series of segments, made once."""
    path = folder / "identity"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        _write_whole(path, uuid.uuid4().hex[:12])
        return path.read_text(encoding="utf-8")


def _last_sequence(folder: Path) -> int:
    try:
        kept = int((folder / "sequence").read_text(encoding="utf-8"))
    except FileNotFoundError:
        kept = 0
    return max([kept, *(int(path.stem) for path in folder.glob("*") if path.suffix in (_OPEN, _SEALED))])


def seal_abandoned(spool_dir: Path | str) -> None:
    """Seal what replicas left open that are no more; a folder that can't be used is told in the log."""

    def sealed(folder: Path) -> None:
        if any(path.suffix == _OPEN for path in folder.iterdir()):
            with _abandoned(folder) as ours:
                if ours:
                    _seal_leftovers(folder)

    _in_each_folder(spool_dir, sealed)


def _in_each_folder(spool_dir: Path | str, action: Callable[[Path], None]) -> None:
    """Do something for each replica's folder; one that can't be used keeps nobody from the others."""
    for folder in sorted(Path(spool_dir).glob("*/")):
        try:
            action(folder)
        except OSError as error:
            log.error("What was left in %s stays there for now: %s", folder, error)


@contextmanager
def _abandoned(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder whose replica is no more; false if it lives."""
    lock = _locked(folder, _MOVES)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _seal_leftovers(folder: Path) -> None:
    """Seal what a killed process left open, up to the first line that is not whole: that was never acknowledged."""
    for path in sorted(folder.glob(f"*{_OPEN}")):
        whole = _whole_bytes(path.read_bytes())
        if whole == 0:
            path.unlink()
            continue
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        path.rename(path.with_suffix(_SEALED))


def _whole_bytes(content: bytes) -> int:
    """Length of the leading lines that can be read; after a power cut blocks of zeros may follow them."""
    whole = 0
    for line in content.splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        whole += len(line)
    return whole


def _write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
