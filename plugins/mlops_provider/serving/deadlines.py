"""How long callers wait: one timer looks after all deadlines, as setting one for each request costs it more time."""

from __future__ import annotations

import asyncio
import time

from mlops_provider.serving.lane import Call
from mlops_provider.serving.served import FALLBACK_MARGIN, ServedModel

TICK = 0.002
"""Seconds between looks: a deadline is noticed so much late at most, and what the loop itself is late."""
_MOST_LAG = 0.6
"""Share of a deadline that is given up for the lag at most: a server that refused everybody would be of no use."""


class Deadline:
    """
    How long one caller waits, from the head of the request on.

    :param served: Who answers.
    :param seconds: Until the answer must be under way.
    :param tick: The look at which it is over.
    :param task: Reads the request, and is told to stop if that alone takes too long.
    """

    __slots__ = ("call", "over", "seconds", "served", "task", "tick")

    def __init__(self, served: ServedModel, seconds: float, tick: int, task: asyncio.Task[None] | None) -> None:
        self.served = served
        self.seconds = seconds
        self.tick = tick
        self.task = task
        self.call: Call | None = None
        self.over = False

    def end(self) -> None:
        """Answer for the model; or, if the request is not even read, stop reading it."""
        self.over = True
        if self.call is not None:
            self.served.expire(self.call)
        elif self.task is not None:
            self.task.cancel()


class Deadlines:
    """
    The deadlines of all requests under way, by the look at which each is over. Belongs to the event loop.

    The timer runs only while there are some.
    """

    def __init__(self) -> None:
        # In the order in which they came, so that those of one look expire in it; a set would forget it.
        self._due: dict[int, dict[Deadline, None]] = {}
        self._looked = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, served: ServedModel, seconds: float, arrived: float, lag: float) -> Deadline:
        """
        Set a deadline.

        :param seconds: That the caller waits. Some of it is kept for the fallback answer, if there may be one.
        :param arrived: When the request began, by ``time.perf_counter``.
        :param lag: Seconds by which the event loop is late, with reading requests and with sending answers.
        """
        own = seconds if served.policy.fallback is None else seconds * (1 - FALLBACK_MARGIN)
        own -= min(2 * lag, seconds * _MOST_LAG)
        loop = self._loop
        if loop is None:
            loop = self._watch(arrived)
        tick = int((arrived + own) / TICK) + 1
        deadline = Deadline(served, own, tick, asyncio.current_task(loop))
        due = self._due.get(tick)
        if due is None:
            self._due[tick] = {deadline: None}
        else:
            due[deadline] = None
        return deadline

    def forget(self, deadline: Deadline) -> None:
        """Forget a deadline whose request is answered."""
        due = self._due.get(deadline.tick)
        if due is not None:
            due.pop(deadline, None)
            if not due:
                del self._due[deadline.tick]

    def _watch(self, arrived: float) -> asyncio.AbstractEventLoop:
        """Begin to look, at each tick; the first deadline, however short, comes after the tick of its arrival."""
        loop = self._loop = asyncio.get_running_loop()
        self._looked = int(arrived / TICK)
        loop.call_later(self._until(self._looked + 1), self._look)
        return loop

    @staticmethod
    def _until(tick: int) -> float:
        return max(0.0, tick * TICK - time.perf_counter())

    def _look(self) -> None:
        assert self._loop is not None
        now = int(time.perf_counter() / TICK)
        for tick in range(self._looked + 1, now + 1):
            for deadline in self._due.pop(tick, ()):
                deadline.end()
        self._looked = now
        if self._due:
            self._loop.call_later(self._until(now + 1), self._look)
        else:
            self._loop = None
