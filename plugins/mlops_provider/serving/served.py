"""One model on one replica: the versions it follows, its prediction log, and what it answers."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_provider.core.names import Arm
from mlops_provider.core.pseudonyms import Pseudonyms
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.exceptions import StoreUnavailableError
from mlops_provider.serving import feedback
from mlops_provider.serving.columns import Arrays, Rows, arrays, logged
from mlops_provider.serving.lane import BATCH_BYTES, Call, Lane
from mlops_provider.serving.metrics import Metrics
from mlops_provider.serving.refusal import RefusedRequestError, failed, listed
from mlops_provider.serving.tally import Tallies

if TYPE_CHECKING:
    from mlops_provider.serving.fixed import Fixed
    from mlops_provider.serving.follower import Follower
    from mlops_provider.serving.snapshot import LoadedVersion, Snapshot
    from mlops_provider.stores.predictions import SegmentWriter

logger = logging.getLogger(__name__)

LOG_PAUSE = 5.0
"""Seconds that the replica calls itself not ready after its prediction log could not be written."""
FALLBACK_MARGIN = 0.1
"""Share of a deadline that is kept for the fallback answer."""
MOST_SHADOWED = 256
"""Requests that may wait for a shadow version; what comes on top is not scored by it."""
MOST_SHADOWED_BYTES = 16 * 1024 * 1024
"""Bytes of the requests that may wait for a shadow version."""

_PLAIN = frozenset({str, int, float, bool})
NO_PSEUDONYMS = Pseudonyms()
_encode_lines = msgspec.json.Encoder().encode_lines


class Scored(NamedTuple):
    """
    The rows of a request with what is answered for each.

    :param features: What the model was given, by column, as the log may hold it.
    :param identities: What each row is about, if that is known.
    :param answered_by: Of a model of segments, the segment whose own model answered.
    """

    call: Call
    predictions: list[float]
    features: Sequence[Mapping[str, Any]]
    identities: Sequence[str | None]
    answered_by: list[str] | None = None


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """A row of the prediction log, as ``docs/contracts.md`` has it."""

    request_id: str
    row: int
    model: str
    version: str
    generation: int
    arm: str
    answered_at: str
    latency_ms: float
    prediction: float
    features: Mapping[str, Any]
    answered_by: str | None = None
    keys: str | None = None


class ServedModel:
    """
    Answer for one model.

    No answer leaves before its rows are in the prediction log: on a full disk callers get 503 in
    words, and the replica is not ready, so that a proxy sends them to one that can keep its promise.

    :param follower: Keeps the snapshot in step with the ledger, or holds the one of a package.
    :param log: Prediction log of this model on this replica.
    :param policy: Whom it sticks to, how long callers wait, what they get when it can't answer.
    :param metrics: Counts and times.
    :param pseudonyms: What the log holds of declared columns.
    """

    def __init__(
        self,
        follower: Follower | Fixed,
        log: SegmentWriter,
        policy: ServingPolicy | None = None,
        metrics: Metrics | None = None,
        pseudonyms: Pseudonyms = NO_PSEUDONYMS,
    ) -> None:
        self.model = follower.model
        self.follower = follower
        self.log = log
        self.policy = policy or ServingPolicy()
        self.metrics = metrics or Metrics()
        self.pseudonyms = pseudonyms
        self.tallies = Tallies()
        self.log_failed_at = -LOG_PAUSE
        self.open_requests = 0
        # Neither what falls back nor a shadow may stand in line with what is scored for callers.
        self._aside = ThreadPoolExecutor(1, f"fallback-{self.model}")
        self._behind = ThreadPoolExecutor(1, f"shadow-{self.model}")
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._fallbacks = Lane(self._aside, self.fall_back)
        self._shadows: dict[str, Lane] = {}

    def start(self) -> None:
        """Begin to follow the ledger."""
        self.follower.start()

    def stop(self) -> None:
        """Stop following, let what is under way finish, and seal the prediction log."""
        self.follower.stop()
        self._aside.shutdown()
        self._behind.shutdown(cancel_futures=True)
        self.log.close()

    @property
    def current(self) -> Snapshot:
        """
        What is served now; a request reads it once.

        :raises RefusedRequestError: Nothing is loaded yet.
        """
        snapshot = self.follower.snapshot
        if snapshot is None:
            why = self.follower.trouble or "the ledger is being read; ask again in a moment."
            raise RefusedRequestError(f"No version of {self.model} is loaded yet: {why}", 503, retry_after=1)
        return snapshot

    @property
    def waiting(self) -> int:
        """Requests that wait to be scored."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    # On the event loop.

    def lane(self, call: Call, pool: Executor) -> Lane:
        """The lane of a call's version; a large request has one of its own, where it holds up no small ones."""
        key = call.version.version, call.size > BATCH_BYTES
        lane = self._lanes.get(key)
        if lane is None:
            known = self.follower.snapshot.versions if self.follower.snapshot else {}
            self._lanes = {key: each for key, each in self._lanes.items() if each.busy or key[0] in known}
            lane = self._lanes[key] = Lane(pool, self.score, self._shadow)
        return lane

    def enter(self, call: Call, pool: Executor, seconds: float) -> None:
        """
        Let a call wait for its version, if there is hope that it is answered in time.

        :param seconds: Time until its deadline.
        :raises RefusedRequestError: Too many wait (429), and there is no fallback.
        """
        lane = self.lane(call, pool)
        wait = lane.expected_wait
        if len(lane.waiting) < self.policy.most_waiting and wait < seconds:
            lane.put(call)
            return
        later = max(1, math.ceil(wait))
        refused = RefusedRequestError(f"Too many requests are waiting; try again in {later} s.", 429, retry_after=later)
        if not self.may_fall_back(call) or not call.settle():
            raise refused
        self._fall_back(call)

    def expire(self, call: Call) -> None:
        """Answer a call whose deadline has come, unless its rows are being logged at this moment."""
        if call.answered.done() or not call.settle():
            return
        if self.may_fall_back(call):
            self._fall_back(call)
            return
        call.answered.set_result(
            RefusedRequestError("The request could not be answered before its deadline.", 504, retry_after=1)
        )

    def may_fall_back(self, call: Call) -> bool:
        """Whether a caller may get the declared number: not one who asks for a version by its number."""
        return (
            self.policy.fallback is not None
            and call.arm == Arm.SPLIT
            and len(self._fallbacks.waiting) < self.policy.most_waiting
        )

    def _fall_back(self, call: Call) -> None:
        answer = Call(
            call.content,
            size=call.size,
            request_id=call.request_id,
            arm=Arm.FALLBACK,
            snapshot=call.snapshot,
            version=call.version,
            encode=call.encode,
            arrived=call.arrived,
            answered=call.answered,
        )
        call.pass_on()
        self._fallbacks.put(answer)

    def _shadow(self, batch: Sequence[Call]) -> None:
        """Copy what was answered to the shadow versions, as far as they keep up."""
        snapshot = batch[0].snapshot
        for version in snapshot.shadow:
            lane = self._shadows.get(version)
            if lane is None:
                self._shadows = {version: lane for version, lane in self._shadows.items() if lane.busy}
                lane = self._shadows[version] = Lane(self._behind, self.shadow)
            for call in batch:
                if call.arm != Arm.SPLIT or call.snapshot is not snapshot or not isinstance(call.outcome, bytes):
                    continue
                if len(lane.waiting) >= MOST_SHADOWED or lane.waiting_bytes + call.size > MOST_SHADOWED_BYTES:
                    self.metrics.shadow(self.model, version, "dropped").inc()
                    continue
                lane.put(
                    Call(
                        call.content,
                        size=call.size,
                        request_id=call.request_id,
                        arm=Arm.SHADOW,
                        snapshot=snapshot,
                        version=snapshot.versions[version],
                        encode=call.encode,
                        arrived=time.perf_counter(),
                        answered=call.answered,
                        beside=call.predictions,
                    )
                )

    # In the threads of the pools.

    def score(self, batch: Sequence[Call]) -> None:
        """Parse, predict and log the rows of a batch of one version; a bad row fails its own request only."""
        version = batch[0].version
        self.metrics.batches(self.model, version.version).observe(len(batch))
        try:
            scored = [part for calls in _alike(version, batch) for part in self._predicted(version, calls)]
            self._record([part for part in scored if part.call.settle()])
        except Exception:  # callers would wait for their deadlines
            logger.exception("Version %s of %s failed on %s requests", version.version, self.model, len(batch))
            for call in batch:
                call.outcome = call.outcome or failed()

    def fall_back(self, batch: Sequence[Call]) -> None:
        """Answer a batch with the declared number, and log that."""
        assert self.policy.fallback is not None
        scored: list[Scored] = []
        try:
            for call in batch:
                call.settle()
                for _, rows in _checked(call.version, [call]):
                    joined = arrays(call.version.columns, [rows])
                    scored += self._scored(call, [self.policy.fallback] * len(rows), logged(joined, [rows]))
            self._record(scored)
        except Exception:  # nobody else answers these
            logger.exception("The fallback of %s failed on %s requests", self.model, len(batch))
            for call in batch:
                call.outcome = call.outcome or failed()

    def shadow(self, batch: Sequence[Call]) -> None:
        """Score a batch that was answered already; whatever goes wrong stays here."""
        version, began = batch[0].version, time.perf_counter()
        for call in batch:  # callers would not stand in the line of the shadows
            call.arrived = began
        try:
            scored = [part for calls in _alike(version, batch) for part in self._predicted(version, calls)]
            self._record(scored)
        except Exception:  # nobody waits for it, and the next batch may go well
            logger.exception("Shadow version %s of %s failed", version.version, self.model)
        for call in batch:
            outcome = "scored" if isinstance(call.outcome, bytes) else "failed"
            self.metrics.shadow(self.model, version.version, outcome).inc()
            self.count(call, 200 if isinstance(call.outcome, bytes) else getattr(call.outcome, "status", 500))

    def count(self, call: Call, code: int) -> None:
        """
        Count a call that is over, for rollouts to judge its version by.

        :param code: Its HTTP status. A log that can't be written (503) is not the version's fault, nor are rows that
            no other version answers either; that others wait for it too long (429) is.
        """
        if not call.counts or code == 503 or (call.own_fault and code in (400, 500)):
            return
        tally = self.tallies.of(call.snapshot.generation, call.version.version)
        tally.count((time.perf_counter() - call.arrived) * 1000, failed=code != 200 or call.arm == Arm.FALLBACK)
        if call.arm != Arm.FALLBACK and call.predictions:
            tally.predicted(call.predictions, call.beside if call.arm == Arm.SHADOW else None)

    def _predicted(self, version: LoadedVersion, calls: Sequence[tuple[Call, Rows]]) -> Iterable[Scored]:
        """Give each call its predictions and the features they were made from; refuse those that can't be scored."""
        requests = [rows for _, rows in calls]
        joined = arrays(version.columns, requests)
        try:
            predictions = _finite(version.predict(joined), sum(map(len, requests)))
            answered_by = version.answered_by(joined).tolist() if version.answered_by else None
        except Exception as error:
            if len(calls) > 1:  # one of them may be to blame, and the others must not suffer
                return [part for each in calls for part in self._predicted(version, [each])]
            call = calls[0][0]
            if isinstance(error, ValueError | TypeError):
                logger.info("Version %s refused request %s: %s", version.version, call.request_id, type(error).__name__)
                refused = self._cannot_score(version, joined, error)
            else:
                logger.exception("Version %s of %s failed on request %s", version.version, self.model, call.request_id)
                refused = failed()
            others = _others_answer(call)
            call.refuse(refused, own_fault=bool(others) and not any(others))
            return []
        features, end = logged(joined, requests), 0
        parts: list[Scored] = []
        for call, rows in calls:
            begin, end = end, end + len(rows)
            who = answered_by[begin:end] if answered_by is not None else None
            parts += self._scored(call, predictions[begin:end], features[begin:end], who)
        return parts

    def _scored(
        self,
        call: Call,
        predictions: list[float],
        features: Sequence[Mapping[str, Any]],
        answered_by: list[str] | None = None,
    ) -> Sequence[Scored]:
        """Add what the log holds of a call's rows; one of which that can't be told fails alone."""
        try:
            identities = self._identities(call, len(features))
            return [Scored(call, predictions, self._without_names(features), identities, answered_by)]
        except Exception:
            logger.exception("What request %s to %s is about can't be logged", call.request_id, self.model)
            call.refuse(failed(), own_fault=True)
            return []

    def _cannot_score(self, version: LoadedVersion, joined: Arrays, error: Exception) -> RefusedRequestError:
        empty = [name for name, array in joined.items() if _lacks(array)]
        hint = f" Columns with missing cells: {listed(empty)}." if empty else ""
        return RefusedRequestError(
            f"Version {version.version} of {self.model} can't score these rows ({type(error).__name__}).{hint}"
        )

    def _record(self, scored: Sequence[Scored]) -> None:
        """Log a batch in one piece; only then do its calls have an answer."""
        if not scored:
            return
        answered_at, now = datetime.now(UTC).isoformat(), time.perf_counter()
        lines = [
            _Line(
                request_id=call.request_id,
                row=number,
                model=self.model,
                version=call.version.version,
                generation=call.snapshot.generation,
                arm=call.arm,
                answered_at=answered_at,
                latency_ms=int((now - call.arrived) * 1e6) / 1000,
                prediction=prediction,
                features=cells,
                answered_by=answered_by[number] if answered_by is not None else None,
                keys=identity or None,
            )
            for call, predictions, features, identities, answered_by in scored
            for number, (prediction, cells, identity) in enumerate(zip(predictions, features, identities, strict=True))
        ]
        data = _encode_lines(lines)
        try:
            self.log.append_lines(data)
        except StoreUnavailableError as error:
            self.log_failed_at = time.monotonic()
            self.metrics.log_failures(self.model).inc()
            logger.error("The prediction log of %s can't be written: %s", self.model, error)
            unlogged = RefusedRequestError(
                "The prediction log can't be written, so no prediction is given; try another replica.",
                503,
                retry_after=1,
            )
            for part in scored:
                part.call.outcome = unlogged
            return
        self.metrics.log_bytes(self.model).inc(len(data))
        first = scored[0].call
        self.metrics.rows(self.model, first.version.version, first.arm).inc(len(lines))
        for call, predictions, _, _, answered_by in scored:
            call.predictions = predictions
            call.outcome = call.encode(
                predictions,
                answered_by,
                fallback=call.arm == Arm.FALLBACK,
                model=self.model,
                version=call.version.version,
                request_id=call.request_id,
            )

    def _identities(self, call: Call, rows: int) -> Sequence[str | None]:
        """What each row is about, where the request says so by all of the model's keys."""
        keys, columns = self.policy.keys, []
        if not keys:
            return [None] * rows
        for key in keys:
            cells = call.content.column(key)
            if cells is None or len(cells) != rows:
                return [None] * rows
            columns.append(cells)
        return [
            self.pseudonyms.identity(keys, dict(zip(keys, cells, strict=True)))
            if all(type(cell) in _PLAIN for cell in cells)
            else None
            for cells in zip(*columns, strict=True)
        ]

    def _without_names(self, features: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Features as the log may hold them."""
        hidden = [name for name in self.pseudonyms.columns if features and name in features[0]]
        if not hidden:
            return features
        return [{**cells, **{name: self.pseudonyms.cell(name, cells[name]) for name in hidden}} for cells in features]

    def note_outcomes(self, body: bytes, content_type: str) -> int:
        """
        Log what became of predictions; blocks while it writes.

        :return: How many there were.
        :raises RefusedRequestError: They are not as they should be (400), or can't be logged now (503).
        """
        lines, count = feedback.lines(body, content_type, self.policy, self.pseudonyms)
        try:
            self.log.append_lines(lines)
        except StoreUnavailableError as error:
            self.metrics.log_failures(self.model).inc()
            logger.error("Outcomes of %s can't be logged: %s", self.model, error)
            sentence = "The outcomes can't be logged now; send them again, to another replica."
            raise RefusedRequestError(sentence, 503, retry_after=1) from None
        self.metrics.outcomes(self.model).inc(count)
        return count

    @property
    def not_ready(self) -> str:
        """Why callers should not be sent here, as a sentence; empty when they may."""
        snapshot = self.follower.snapshot
        if snapshot is None or not snapshot.open:
            return f"{self.model}: {self.follower.trouble or 'no version has traffic yet; deploy a version.'}"
        if time.monotonic() - self.log_failed_at < LOG_PAUSE:
            return f"{self.model}: the prediction log can't be written."
        return ""

    def observed(self) -> dict[str, Any]:
        """What callers met with each version since the present generation began."""
        return {"replica": self.follower.replica, **self.tallies.as_json()}

    def state(self) -> dict[str, Any]:
        """What is served, for a person or a monitor."""
        snapshot = self.follower.snapshot
        return {
            "replica": self.follower.replica,
            "generation": snapshot.generation if snapshot else 0,
            "split": dict(snapshot.split) if snapshot else {},
            "shadow": list(snapshot.shadow) if snapshot else [],
            "versions": sorted(snapshot.versions) if snapshot else [],
            "errors": [trouble] if (trouble := self.follower.trouble) else [],
            "ready": not self.not_ready,
        }


def _checked(version: LoadedVersion, batch: Sequence[Call]) -> Iterable[tuple[Call, Rows]]:
    """Yield calls with their rows; refuse those whose rows don't fit the version."""
    for call in batch:
        try:
            yield call, call.content.rows(version.columns)
        except RefusedRequestError as refused:
            call.refuse(refused, own_fault=not any(_others_answer(call)))


def _others_answer(call: Call) -> list[bool]:
    """Whether what a call's own version refused is answered by each other one, loaded or left by a rollout."""
    found = []
    for other in (*call.snapshot.versions.values(), *call.snapshot.before.values()):
        if other is not call.version:
            answers = False
            with contextlib.suppress(Exception):  # whatever it raises, it has no answer
                rows = call.content.rows(other.columns)
                answers = bool(_finite(other.predict(arrays(other.columns, [rows])), len(rows)))
            found.append(answers)
    return found


def _alike(version: LoadedVersion, batch: Sequence[Call]) -> Iterable[Sequence[tuple[Call, Rows]]]:
    """Group calls whose arrays have the same types, so that no request changes what another's rows look like."""
    groups: dict[tuple[int, ...], list[tuple[Call, Rows]]] = {}
    for call, rows in _checked(version, batch):
        groups.setdefault(rows.gaps, []).append((call, rows))
    return groups.values()


def _finite(predictions: NDArray[np.float64], rows: int) -> list[float]:
    """Give predictions as a list; a model that gives no number for a row can't answer."""
    if predictions.shape != (rows,) or not np.isfinite(predictions).all():
        raise ValueError("the model gave no finite number for each row")
    listed_: list[float] = predictions.tolist()
    return listed_


def _lacks(array: NDArray[Any]) -> bool:
    """Whether cells are missing."""
    if array.dtype == object:
        return any(cell is None for cell in array)
    return bool((array != array).any())  # noqa: PLR0124 - NaN and NaT only differ from themselves
