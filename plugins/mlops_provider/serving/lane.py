"""Requests that wait for the same work, taken together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from mlops_provider.core.names import CHECK_REQUEST, Arm
from mlops_provider.serving.refusal import RefusedRequestError

if TYPE_CHECKING:
    from mlops_provider.serving.protocol import Content
    from mlops_provider.serving.snapshot import LoadedVersion, Snapshot

BATCH_BYTES = 64 * 1024
"""Bytes of the requests that are scored together; a larger one is scored alone."""
_NEWEST = 0.2
"""Weight of the newest batch in the mean time of a request."""

Outcome = bytes | RefusedRequestError


class Call:
    """
    One request under way.

    It is answered by whoever settles it first: the batch that scored it, or its deadline. So nothing is logged that
    was answered in another way, and nothing answered in another way than it was logged: what its batch refuses once the
    deadline has given it to the fallback, nobody is told.

    :param content: Its rows.
    :param size: Bytes of its body.
    :param request_id: What it is called in the prediction log.
    :param arm: Why this version answers: ``split``, ``pinned``, ``fallback`` or ``shadow``.
    :param snapshot: Generation it belongs to.
    :param version: Version that scores it.
    :param encode: Writes predictions as its protocol does; ``fallback`` marks those that are no model's.
    :param arrived: When it began, by ``time.perf_counter``.
    :param beside: Of a shadow's: what the callers were answered.
    """

    __slots__ = (
        "_settled", "answered", "arm", "arrived", "beside", "content", "encode", "outcome", "own_fault", "passed_on",
        "predictions", "request_id", "size", "snapshot", "version",
    )  # fmt: skip

    def __init__(
        self,
        content: Content,
        *,
        size: int,
        request_id: str,
        arm: str,
        snapshot: Snapshot,
        version: LoadedVersion,
        encode: Callable[..., bytes],
        arrived: float,
        answered: asyncio.Future[Outcome],
        beside: Sequence[float] = (),
    ) -> None:
        self.content = content
        self.size = size
        self.request_id = request_id
        self.arm = arm
        self.snapshot = snapshot
        self.version = version
        self.encode = encode
        self.arrived = arrived
        self.answered = answered
        self.beside = beside
        self.outcome: Outcome | None = None
        self.own_fault = False
        self.passed_on = False
        self.predictions: Sequence[float] = ()
        self._settled = threading.Lock()

    def refuse(self, refused: RefusedRequestError, *, own_fault: bool) -> None:
        """
        Say no.

        :param own_fault: Whether no other version would have answered it either.
        """
        self.outcome, self.own_fault = refused, own_fault

    def settle(self) -> bool:
        """Take the right to answer; False if another has it."""
        return self._settled.acquire(blocking=False)

    def pass_on(self) -> None:
        """Leave the answer to the fallback; on the event loop, as what a batch found is told there."""
        self.arm, self.passed_on = Arm.FALLBACK, True

    @property
    def counts(self) -> bool:
        """Whether rollouts judge by it: neither by what asked for a version, nor by what they sent themselves."""
        return self.arm != Arm.PINNED and not self.request_id.startswith(CHECK_REQUEST)

    @property
    def settled(self) -> bool:
        """Whether somebody has the right to answer."""
        return self._settled.locked()


class Lane:
    """
    Calls that can be worked on together. While a batch is under way the next one gathers; nobody waits for company.

    Belongs to the event loop: only *work* runs in another thread.

    :param pool: Where the work is done; one batch at a time.
    :param work: Gives every call of a batch its outcome.
    :param finished: Called on the event loop with a batch that is over.
    """

    def __init__(
        self,
        pool: Executor,
        work: Callable[[Sequence[Call]], None],
        finished: Callable[[Sequence[Call]], None] | None = None,
    ) -> None:
        self.pool = pool
        self.work = work
        self.finished = finished
        self.seconds_per_call = 0.0
        self.waiting: deque[Call] = deque()
        self.waiting_bytes = 0
        self.busy = False

    @property
    def expected_wait(self) -> float:
        """Seconds until a call that comes now is worked on, judged by the last batches."""
        return len(self.waiting) * self.seconds_per_call

    def put(self, call: Call) -> None:
        """Let a call wait; what arrives in the same turn of the loop is taken together."""
        self.waiting.append(call)
        self.waiting_bytes += call.size
        if not self.busy:
            self.busy = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        batch: list[Call] = []
        size = 0
        while self.waiting and (not batch or size + self.waiting[0].size <= BATCH_BYTES):
            call = self.waiting.popleft()
            self.waiting_bytes -= call.size
            if not call.settled:
                batch.append(call)
                size += call.size
        if not batch:
            self.busy = False
            return
        self.pool.submit(self._run, batch, asyncio.get_running_loop())

    def _run(self, batch: list[Call], loop: asyncio.AbstractEventLoop) -> None:
        began = time.perf_counter()
        try:
            self.work(batch)
        finally:
            loop.call_soon_threadsafe(self._end, batch, time.perf_counter() - began)

    def _end(self, batch: list[Call], seconds: float) -> None:
        self.seconds_per_call += _NEWEST * (seconds / len(batch) - self.seconds_per_call)
        self._begin()
        for call in batch:
            if call.outcome is not None and not call.passed_on and not call.answered.done():
                call.answered.set_result(call.outcome)
        if self.finished:
            self.finished(batch)
