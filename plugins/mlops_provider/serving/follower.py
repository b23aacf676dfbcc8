"""Keep one model of one replica in step with the ledger."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlops_provider.core.rollout import Traffic, rollback_split
from mlops_provider.exceptions import MLOpsError, PermanentError, RolloutRefusedError
from mlops_provider.serving.snapshot import LoadedVersion, Snapshot
from mlops_provider.steps.approval import rolled_back

if TYPE_CHECKING:
    from mlops_provider.stores.ledger import Ledger

logger = logging.getLogger(__name__)


class Follower:
    """
    Poll the traffic record, load new versions beside old ones, and swap when they are ready.

    Versions are in memory while a rollback could bring them back, so that it needs no registry; a replica that starts
    loads these, too, once it serves. The ledger or the registry being away changes nothing about what is served. Two
    threads: one polls and loads, one sends heartbeats, so that a slow load is not taken for a dead replica.

    :param model: Registered model to follow.
    :param replica: Name of this replica in the ledger.
    :param url: Address at which rollouts reach this replica.
    :param ledger: Ledger to follow and to report to.
    :param load: Gives a version that may serve; raises what stands against it.
    :param poll_seconds: Pause between looks at the ledger.
    :param beat_seconds: Longest pause between heartbeats.
    :param retry_seconds: Pause before a version that could not be loaded is tried again.
    """

    def __init__(
        self,
        model: str,
        *,
        replica: str,
        url: str,
        ledger: Ledger,
        load: Callable[[str, str], LoadedVersion],
        poll_seconds: float = 0.5,
        beat_seconds: float = 1.0,
        retry_seconds: float = 3.0,
    ) -> None:
        self.model = model
        self.replica = replica
        self.url = url
        self.ledger = ledger
        self.load = load
        self.poll_seconds = poll_seconds
        self.beat_seconds = beat_seconds
        self.retry_seconds = retry_seconds
        self.snapshot: Snapshot | None = None
        self.unreachable = ""
        self.unreleased = False  # no version has settled yet, which is nobody's trouble
        self.errors: dict[str, str] = {}
        self._loaded: dict[str, LoadedVersion] = {}
        self._wanted: list[str] = []
        self._retry_at = 0.0
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name=f"follow {model}", daemon=True),
            threading.Thread(target=self._beat, name=f"beat {model}", daemon=True),
        ]

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads; one that is loading is not waited for longer than a few seconds."""
        self._stopping.set()
        self._news.set()
        for thread in self._threads:
            thread.join(timeout=5)

    @property
    def trouble(self) -> str:
        """What stands between this replica and the newest traffic record, as sentences; empty when nothing does."""
        sentences = [self.unreachable] if self.unreachable else []
        # A copy: the other thread may add an error meanwhile.
        sentences += [f"Version {version} {problem}" for version, problem in list(self.errors.items())]
        return " ".join(sentences)

    def poll(self) -> None:
        """Look at the ledger once and do what it asks for."""
        try:
            traffic = self.ledger.traffic(self.model)
            self.unreleased = traffic is None or not self._opened(traffic)
            if traffic is None:
                self.unreachable = f"The ledger has no traffic record of {self.model}; deploy a version."
                return
            self.unreachable = ""
            if self.snapshot is None or self.snapshot.generation != traffic.generation or self.errors:
                self._move_to(traffic)
            elif self._wanted and time.monotonic() >= self._retry_at:
                self._load_spare(traffic)
        except MLOpsError as error:
            self.unreachable = f"The ledger can't be read: {error}"

    def _move_to(self, traffic: Traffic) -> None:
        self.errors = {version: problem for version, problem in self.errors.items() if version in traffic.split}
        new = [version for version in traffic.split if version not in self._loaded]
        if any(version not in self.errors for version in new) or time.monotonic() >= self._retry_at:
            for version in new:
                self._try_to_load(version)
        lacking = [version for version, weight in traffic.split.items() if weight and version not in self._loaded]
        if lacking and self.snapshot is not None and self.snapshot.open:
            return  # what serves now goes on serving, as a whole
        split = {version: weight for version, weight in traffic.split.items() if version in self._loaded}
        if not self._opened(traffic):
            split = dict.fromkeys(split, 0)
        if not split and self.snapshot is None:
            return
        versions = {version: self._loaded[version] for version in split}
        shadow = tuple(version for version in traffic.shadow if version in self._loaded)
        spare = self._spare(traffic)
        before, later = (
            {version: self._loaded[version] for version in names if version in self._loaded and version not in versions}
            for names in spare
        )
        swapped, present = Snapshot(self.model, traffic.generation, split, versions, shadow, before), self.snapshot
        self.snapshot, self._loaded = swapped, later | before | versions
        if present is None or (swapped.generation, swapped.split) != (present.generation, present.split):
            known = {*self._loaded, *traffic.split}
            self._wanted = [version for version in dict.fromkeys([*spare[0], *spare[1]]) if version not in known]
            logger.info("%s serves generation %s: %s", self.model, traffic.generation, split)
            self._news.set()

    def _try_to_load(self, version: str) -> None:
        try:
            self._loaded[version] = self.load(self.model, version)
            self.errors.pop(version, None)
            logger.info("Loaded version %s of %s", version, self.model)
            return
        except PermanentError as error:
            self.errors[version] = f"is refused: {error}"
        except MLOpsError as error:
            self.errors[version] = f"is not loaded yet: {error}"
        except Exception as error:  # a broken model file may raise anything, and the others must go on being served
            logger.exception("Version %s of %s can't be loaded", version, self.model)
            self.errors[version] = f"is refused: loading it failed with {type(error).__name__}."
        self._retry_at = time.monotonic() + self.retry_seconds
        self._news.set()

    def _load_spare(self, traffic: Traffic) -> None:
        """Load a version that only a rollback would need; what stands against it is no trouble of those who serve."""
        version = self._wanted.pop(0)
        try:
            self._loaded[version] = self.load(self.model, version)
        except PermanentError as error:
            logger.info("Version %s of %s is refused, should a rollback ask for it: %s", version, self.model, error)
            return
        except MLOpsError as error:
            logger.info("Version %s of %s is not ready for a rollback yet: %s", version, self.model, error)
            self._wanted.append(version)
            self._retry_at = time.monotonic() + self.retry_seconds
            return
        except Exception:  # a broken model file may raise anything, and nobody is served by it
            logger.exception("Version %s of %s can't be loaded, should a rollback ask for it", version, self.model)
            return
        logger.info("Version %s of %s is loaded in case of a rollback", version, self.model)
        self._move_to(traffic)

    def _opened(self, traffic: Traffic) -> bool:
        """
        Whether unpinned requests may be answered: not before the model's first settled record.

        A first version has no other beside which it could be loaded with weight 0, so until it has
        passed its serving check and settled, it answers pinned requests only.
        """
        if traffic.settled or (self.snapshot is not None and self.snapshot.open):
            return True
        return any(record.settled for record in self.ledger.traffic_history(self.model))

    def _spare(self, traffic: Traffic) -> tuple[list[str], list[str]]:
        """The versions that a rollback of *traffic* would bring back, and those that one more would."""
        refused = rolled_back(self.ledger, self.model)
        # Loading takes time: what was recorded meanwhile is for the next look.
        history = [each for each in self.ledger.traffic_history(self.model) if each.generation <= traffic.generation]
        settled = max((place for place, record in enumerate(history) if record.settled), default=-1)
        found: list[list[str]] = []
        for records in (history, history[: settled + 1]):
            try:
                found.append(list(rollback_split(records, refused)))
            except RolloutRefusedError:  # there is nowhere to go back to
                found.append([])
        return found[0], found[1]

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                self.poll()
            except Exception as error:  # a dead thread would leave this replica behind for good, unnoticed
                logger.exception("Following %s failed", self.model)
                self.unreachable = f"Following the ledger failed with {type(error).__name__}."
            self._stopping.wait(self.poll_seconds)

    def _beat(self) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            try:
                self.beat()
            except Exception:  # without heartbeats rollouts would take this replica for dead
                logger.exception("The heartbeat of %s failed", self.model)
            self._news.wait(self.beat_seconds)

    def beat(self) -> None:
        """Tell the ledger what is served; when it is away, the next heartbeat tells it."""
        snapshot = self.snapshot
        try:
            self.ledger.heartbeat(
                self.replica,
                self.model,
                url=self.url,
                generation=snapshot.generation if snapshot else 0,
                versions=tuple(sorted(snapshot.versions)) if snapshot else (),
                error=self.trouble,
            )
        except MLOpsError as error:
            logger.debug("No heartbeat: %s", error)
