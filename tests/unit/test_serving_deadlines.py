from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

from mlops_provider.core.serving import ServingPolicy
from mlops_provider.serving.deadlines import Deadline, Deadlines
from mlops_provider.serving.served import FALLBACK_MARGIN


class _Served:
    """Notes whose deadline came."""

    def __init__(self, fallback: float | None = None) -> None:
        self.policy = ServingPolicy(fallback=fallback)
        self.expired: asyncio.Queue[Any] = asyncio.Queue()

    def expire(self, call: Any) -> None:
        self.expired.put_nowait(call)


def _begun(deadlines: Deadlines, served: _Served, seconds: float, lag: float = 0.0) -> Deadline:
    deadline = deadlines.begin(cast("Any", served), seconds, time.perf_counter(), lag)
    deadline.call = cast("Any", SimpleNamespace(seconds=seconds))
    return deadline


def test_deadlines_come_in_their_order_and_those_of_answered_requests_never() -> None:
    async def run() -> list[float]:
        deadlines, served = Deadlines(), _Served()
        later, sooner, answered = (_begun(deadlines, served, seconds) for seconds in (0.06, 0.02, 0.02))
        deadlines.forget(answered)
        came = [(await served.expired.get()).seconds for _ in range(2)]
        assert (later.over, sooner.over, answered.over) == (True, True, False)
        return came

    assert asyncio.run(run()) == [0.02, 0.06]


def test_requests_that_are_late_together_are_answered_in_the_order_they_came_in() -> None:
    async def run() -> list[float]:
        deadlines, served = Deadlines(), _Served()
        arrived = time.perf_counter()
        for number in range(100):
            deadlines.begin(cast("Any", served), 0.01, arrived, 0.0).call = cast("Any", number)
        return [await served.expired.get() for _ in range(100)]

    assert asyncio.run(run()) == list(range(100))


def test_no_deadline_comes_early_and_the_timer_rests_while_there_is_none() -> None:
    async def run() -> None:
        deadlines, served = Deadlines(), _Served()
        for _ in range(2):  # it must wake up again
            began = time.perf_counter()
            _begun(deadlines, served, 0.03)
            await served.expired.get()
            assert time.perf_counter() - began >= 0.03
            assert deadlines._loop is None

    asyncio.run(run())


def test_a_deadline_that_is_over_when_it_is_set_comes_at_the_next_look() -> None:
    async def run() -> Any:
        deadlines, served = Deadlines(), _Served()
        deadline = deadlines.begin(cast("Any", served), 0.004, time.perf_counter() - 0.5, 0.0)
        deadline.call = cast("Any", "late")
        return await asyncio.wait_for(served.expired.get(), 10)

    assert asyncio.run(run()) == "late"


def test_a_request_that_is_not_read_in_time_is_no_longer_read() -> None:
    async def run() -> bool:
        deadlines = Deadlines()
        deadline: list[Deadline] = []

        async def reading() -> None:
            deadline.append(deadlines.begin(cast("Any", _Served()), 0.01, time.perf_counter(), 0.0))
            await asyncio.sleep(60)

        task = asyncio.create_task(reading())
        await asyncio.wait([task])
        return task.cancelled() and deadline[0].over

    assert asyncio.run(run())


def test_part_of_the_time_is_kept_for_the_fallback_and_for_a_loop_that_is_late() -> None:
    async def run() -> list[float]:
        deadlines = Deadlines()
        with_fallback, plain = _Served(0.5), _Served()
        begun = [
            _begun(deadlines, with_fallback, 1.0),
            _begun(deadlines, plain, 1.0, lag=0.1),
            _begun(deadlines, plain, 1.0, lag=9.0),
        ]
        for deadline in begun:
            deadlines.forget(deadline)
        return [round(deadline.seconds, 6) for deadline in begun]

    assert asyncio.run(run()) == [1 - FALLBACK_MARGIN, 0.8, 0.4]
