"""The hand on the lever: a rollout's reads and writes of the traffic record."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_provider.core import rollout
from mlops_provider.core.names import Kind
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import ConcurrentWriteError, MLOpsError, NothingToDo, StoreUnavailableError
from mlops_provider.steps.approval import rolled_back
from mlops_provider.steps.following import wait_until_served
from mlops_provider.steps.provenance import registration

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.replicas import Replica
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)

ROLLBACK = "rollback"
"""Strategy of a record that takes versions back."""
DRILL = "drill"
"""Strategy of a record that lets the version before answer for a moment, to see that it can."""
_DAY = 86_400.0
"""Seconds for which a record that nobody saw served is waited for again; an older one just stands."""


def champion(ledger: Ledger, model: str, *, other_than: str | None = None) -> str | None:
    """
    Return the version with most traffic when traffic last settled; a rollout under way has not decided yet.

    :param other_than: Version to look past: the last champion that is another one.
    """
    settled = map(rollout.champion, reversed(ledger.traffic_history(model)))
    return next((version for version in settled if version and version != other_than), None)


def drilling(ledger: Ledger, model: str) -> Record | None:
    """The newest traffic record, if in it a drill lets the version before answer; that is no rollout."""
    record = ledger.latest(Kind.TRAFFIC, model)
    return record if record and record.payload.get("strategy") == DRILL else None


def require_no_drill(ledger: Ledger, model: str, version: str) -> None:
    """
    Let a rollout wait for a drill.

    :raises ConcurrentWriteError: One is under way, or was interrupted. Retried.
    """
    if (drill := drilling(ledger, model)) is not None:
        raise ConcurrentWriteError(
            f"Version {version} of {model!r} has to wait: generation {drill.payload['generation']} "
            f"({rollout.describe(drill.payload['split'])}) is a rollback drill, which takes a moment. If nobody ends "
            f"it any more: {abort_command(model)}."
        )


def abort_command(model: str) -> str:
    """What a person says to bring back what settled last, or to wait until it is served."""
    return f"mlops rollout abort {model} --reason '…'"


def rollback_command(model: str, version: str | None = None) -> str:
    """What a person says to wait for a rollback, or to go further back; *version* is the one to leave."""
    leaving = f" --version {version}" if version else ""
    return f"mlops rollback --model {model}{leaving} --reason '…'"


def seconds_since(record: Record) -> float:
    """Seconds of the wall clock since a record was written."""
    return (datetime.now(UTC) - datetime.fromisoformat(record.recorded_at)).total_seconds()


def was_in_service(ledger: Ledger, model: str, month: str) -> bool:
    """Whether the version in service had passed its gate before *month* began, so that the month has predictions."""
    version = champion(ledger, model)
    registered = registration(ledger, model, version) if version else None
    return registered is not None and str(ledger.get(registered.payload["gate"]).payload["partition"]) < month


@dataclass(frozen=True, slots=True)
class Standing:
    """
    Where a rollout stands before its next move.

    :param generation: Newest generation, which the next one follows; 0 before the first.
    :param base: What to go on from; None when nothing ever settled.
    """

    generation: int
    base: Traffic | None


@dataclass(frozen=True, slots=True)
class Lever:
    """
    Moves the traffic of one model; every move is a record read-then-inserted.

    :param strategy: How traffic moves, for the record.
    :param origin: Task that moves it.
    """

    ledger: Ledger
    target: Target
    strategy: str
    origin: Origin

    @property
    def model(self) -> str:
        """Registered model whose traffic is moved."""
        return self.target.model

    def standing(self, version: str, *, abandoned_after: float) -> Standing:
        """
        Read where the rollout of *version* has to go on.

        Every try and every task that deploys the same version takes part in the same rollout. An unsettled
        rollout of another version is in the way, unless it failed or was silent for long; and so is a drill.

        :param abandoned_after: Seconds without a move after which another rollout counts as dead.
        :raises ConcurrentWriteError: A drill is under way. Retried.
        """
        if not (abandoned := self.drill_abandoned()):
            require_no_drill(self.ledger, self.model, version)
        record = self.ledger.latest(Kind.TRAFFIC, self.model)
        if record is None:
            return Standing(0, None)
        traffic = Traffic.from_json(record.payload)
        another = not traffic.settled and version not in traffic.split
        if abandoned or (another and self._dead(record, abandoned_after)):
            logger.warning("Taking over from generation %s, whose rollout never settled", traffic.generation)
            settled = [earlier for earlier in self.ledger.traffic_history(self.model) if earlier.settled]
            return Standing(
                traffic.generation, replace(settled[-1], generation=traffic.generation) if settled else None
            )
        return Standing(traffic.generation, traffic)

    def opened(self) -> bool:
        """Whether callers are answered: a version has settled once."""
        return any(traffic.settled for traffic in self.ledger.traffic_history(self.model))

    def strategy_of(self, traffic: Traffic) -> str:
        """How *traffic* came about."""
        record = self.ledger.find(Kind.TRAFFIC, f"{self.model}:{traffic.generation}")
        return str(record.payload["strategy"]) if record else ""

    def origin_of(self, traffic: Traffic) -> str:
        """Key of the task that moved it."""
        record = self.ledger.find(Kind.TRAFFIC, f"{self.model}:{traffic.generation}")
        return str(record.payload["origin"]) if record else ""

    def moved_before(self) -> Traffic | None:
        """
        What an earlier try of this very task moved.

        :raises NothingToDo: It did, and traffic has moved on since.
        """
        records = self.ledger.history(Kind.TRAFFIC, self.model)
        moved = [record for record in records if record.payload["origin"] == self.origin.key]
        if not moved:
            return None
        if moved[-1] is not records[-1]:
            raise NothingToDo(
                f"An earlier try of this task moved the traffic of {self.model!r}, which has moved on since."
            )
        return Traffic.from_json(moved[-1].payload)

    def seen_before(self) -> Traffic | None:
        """What an earlier try of this very task waited for, and saw served; None if traffic has moved since."""
        record = self.ledger.latest(Kind.TRAFFIC, self.model)
        if record is None or not self.ledger.find(
            Kind.SERVING_CHECK, f"{self.origin.key}/{record.payload['generation']}"
        ):
            return None
        return Traffic.from_json(record.payload)

    def move(
        self,
        standing: Standing,
        split: Mapping[str, int],
        *,
        settled: bool,
        reason: str,
        shadow: Sequence[str] = (),
        strategy: str = "",
    ) -> Traffic:
        """
        Make *split* the desired traffic.

        :param shadow: Versions with 0 percent that score what others answered.
        :param strategy: How traffic moves, if not as usual.
        :raises ConcurrentWriteError: Somebody moved it since *standing* was read. Retried.
        """
        traffic = self.ledger.propose_traffic(
            self.model,
            split,
            settled=settled,
            expected_generation=standing.generation,
            reason=reason,
            shadow=shadow,
            actor=self.origin.actor,
            origin=self.origin.key,
            strategy=strategy or self.strategy,
        )
        logger.info("Generation %s of %s: %s", traffic.generation, self.model, rollout.describe(traffic.split))
        self.target.apply(traffic)
        return traffic

    def take_back(
        self,
        reason: str,
        *,
        version: str | None = None,
        refuse: bool = True,
        readings: Sequence[Mapping[str, Any]] = (),
    ) -> Traffic:
        """
        Return to the newest settled split that holds no version that was ever taken back.

        What is left is recorded before traffic moves, so a version that was taken back stays out even if this
        process dies in between. What an earlier try of this task decided to leave is not left twice.

        :param reason: Why, for the record.
        :param version: Version to leave; nothing happens if it is not in the split. By default whatever the
            newest record brought in.
        :param refuse: Whether what is left may never return: *version*, or by default each that callers met. The
            rollout of another one ends as by an abort.
        :param readings: What guards measured, for the record.
        :raises RolloutRefusedError: There is no such split; traffic stays as it is. Not retried.
        """
        leaving: set[str] = {version} if version else self._left_before() if refuse else set()
        while True:
            records = self.ledger.traffic_history(self.model)
            history = self._without_drill(records)
            if history and leaving and not leaving & set(history[-1].split):
                drilled = self.end_drill(reason, of_any_run=True) if leaving & set(records[-1].split) else None
                return drilled or records[-1]
            split = rollout.rollback_split(history, rolled_back(self.ledger, self.model), leaving=leaving)
            current = history[-1]
            left = set(current.split) - set(split)
            leaving = leaving or left
            if refuse:
                bad = {version} if version else {each for each in left if current.split[each]}
                for unjudged in left - bad:
                    self.note_abort(unjudged, reason, current)
                self._refuse(current, split, sorted(bad), reason, readings)
            try:
                standing = Standing(current.generation, current)
                return self.move(standing, split, settled=True, reason=reason, strategy=ROLLBACK)
            except ConcurrentWriteError:
                logger.info("Traffic moved meanwhile; reading it again")

    def unseen(self) -> Traffic | None:
        """The newest record, if traffic came back by it in the last day and nobody saw that it is served."""
        ledger, record = self.ledger, self.ledger.latest(Kind.TRAFFIC, self.model)
        if record is None or record.payload["strategy"] != ROLLBACK or seconds_since(record) > _DAY:
            return None
        generation = record.payload["generation"]
        drills = (
            each.payload["generation"] == generation - 1 and each.payload["restored_seconds"] is not None
            for each in ledger.history(Kind.DRILL, self.model)
            if each.payload["generation"]
        )
        incidents = (
            each.payload["restored"] == generation and each.payload["replicas"]
            for each in ledger.history(Kind.INCIDENT, self.model)
        )
        checks = (each.payload["generation"] == generation for each in ledger.history(Kind.SERVING_CHECK, self.model))
        return None if any(checks) or any(incidents) or any(drills) else Traffic.from_json(record.payload)

    def see(self, back: Traffic, *, again: str, patience: float) -> None:
        """Wait until what came back is served, as :meth:`wait_for`, and record that."""
        began = time.monotonic()
        if replicas := self.wait_for(back, again=again, patience=patience):
            self.note_seen(back, replicas, reason=back.reason, seconds=time.monotonic() - began)

    def wait_for(self, back: Traffic, *, again: str, patience: float) -> Sequence[Replica]:
        """
        Wait until what came back is served.

        Without a live replica the record is all there is to do: servers follow it when they start.

        :param again: Command that goes on waiting.
        :param patience: Longest wait for the replicas, in seconds.
        :return: The replicas; none if none is live.
        :raises ConcurrentWriteError: Somebody moved the traffic meanwhile. Retried.
        :raises StoreUnavailableError: It stands in the ledger, but was not seen to be served. Retried.
        """
        try:
            if self.target.observe():
                return wait_until_served(self.target, back, patience=patience)
        except ConcurrentWriteError:
            raise
        except MLOpsError as unseen:
            raise StoreUnavailableError(
                f"For {self.model!r} generation {back.generation} ({rollout.describe(back.split)}) is recorded, but it "
                f"was not seen to be served yet: {unseen} To go on waiting for it: {again}."
            ) from unseen
        logger.warning("No replica of %s is live; servers follow generation %s", self.model, back.generation)
        return ()

    def note_seen(
        self, back: Traffic, replicas: Sequence[Replica], *, reason: str, seconds: float, passed: bool = True
    ) -> None:
        """Record that the replicas serve what came back, and how long that took."""
        seen = {
            "version": rollout.champion(back),
            "generation": back.generation,
            "passed": passed,
            "reason": reason,
            "replicas": [replica.replica for replica in replicas],
            "seconds": round(seconds, 3),
        }
        key = f"{self.origin.key}/{back.generation}"
        self.ledger.append(Kind.SERVING_CHECK, self.model, seen, key=key, actor=self.origin.actor)

    def note_abort(self, version: str, reason: str, current: Traffic) -> None:
        """Record that the rollout of *version* ends, which no task of its run goes on with then."""
        about = {
            "version": version,
            "generation": current.generation,
            "from": dict(current.split),
            "reason": reason,
            "origin": self.origin.key,
        }
        key = f"{self.model}:{current.generation}"
        self.ledger.append(Kind.ABORT, self.model, about, key=key, actor=self.origin.actor)

    def end_drill(self, reason: str = "drill: over", *, of_any_run: bool = False) -> Traffic | None:
        """
        Give the traffic back that a drill of this run has.

        :param of_any_run: Whether a drill of another run is ended, too.
        :return: The settled record; None if there is no such drill.
        :raises ConcurrentWriteError: Somebody moved the traffic meanwhile. Retried.
        """
        drill = drilling(self.ledger, self.model)
        if drill is None or not (of_any_run or self.origin.same_run(drill.payload["origin"])):
            return None
        there = Traffic.from_json(drill.payload)
        before = next(each for each in reversed(self.ledger.traffic_history(self.model)) if each.settled)
        standing = Standing(there.generation, there)
        return self.move(standing, before.split, settled=True, reason=reason, strategy=ROLLBACK)

    def end_abandoned_drill(self) -> None:
        """Give the traffic back that a drill has which nobody will end."""
        if self.drill_abandoned():
            self.end_drill("drill: nobody ended it", of_any_run=True)

    def drill_abandoned(self) -> bool:
        """Whether a drill has the traffic for longer than a drill waits, so that nobody will end it."""
        drill = drilling(self.ledger, self.model)
        return drill is not None and seconds_since(drill) > 3 * self.target.patience + 60

    def _without_drill(self, history: list[Traffic]) -> list[Traffic]:
        """What to decide on while a drill lasts: what it left, as if that were the newest record."""
        if history and self.strategy_of(history[-1]) == DRILL:
            return [*history[:-2], replace(history[-2], generation=history[-1].generation)]
        return history

    def _left_before(self) -> set[str]:
        """What an earlier try of this task decided to leave."""
        ours = [
            record.payload
            for record in self.ledger.history(Kind.ROLLBACK, self.model)
            if record.payload["origin"] == self.origin.key
        ]
        return set(ours[-1]["from"]) - set(ours[-1]["to"]) if ours else set()

    def _refuse(
        self,
        current: Traffic,
        split: Mapping[str, int],
        refused: Sequence[str],
        reason: str,
        readings: Sequence[Mapping[str, Any]],
    ) -> None:
        payload = {
            "generation": current.generation,
            "from": dict(current.split),
            "to": dict(split),
            "refused": list(refused),
            "reason": reason,
            "readings": list(readings),
            "origin": self.origin.key,
        }
        # One rollback per generation: of two at once, both find the first one's record.
        key = f"{self.model}:{current.generation}"
        self.ledger.append(Kind.ROLLBACK, self.model, payload, key=key, actor=self.origin.actor)

    def _dead(self, record: Record, abandoned_after: float) -> bool:
        if seconds_since(record) > abandoned_after:
            return True
        return any(
            check.seq > record.seq
            and not check.payload["passed"]
            and check.payload["version"] in record.payload["split"]
            for check in self.ledger.history(Kind.SERVING_CHECK, self.model)
        )
