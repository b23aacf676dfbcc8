"""
Steps in processes of their own, which can be killed or halted at any point of their work.

A point is where a step has just changed a store, or has read what its next change depends on. Children are forked
from a process that has imported the libraries and used none, as Airflow's own workers are.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient

from mlops_provider.adapters import drift
from mlops_provider.exceptions import TransientError
from mlops_provider.steps import following
from mlops_provider.stores import delta
from mlops_provider.stores.ledger import Ledger
from mlops_provider.stores.reports import Reports
from mlops_provider.stores.tables import Tables
from support import tasks
from support.tiny import Place

_PATIENCE = 120
"""Longest wait for a child, in seconds."""

_MLFLOW_CHANGES = (
    "create_experiment",
    "create_run",
    "delete_run",
    "log_artifact",
    "log_batch",
    "log_param",
    "log_inputs",
    "log_outputs",
    "set_terminated",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "delete_logged_model",
    "create_registered_model",
    "create_model_version",
    "delete_model_version",
    "set_registered_model_alias",
    "set_model_version_tag",
)


@dataclass(frozen=True)
class Halt:
    """
    Where a child stops.

    :param how: "kill" ends it as `kill -9` does; "stop" suspends it until :meth:`Child.go_on`.
    :param passed: Points to go past; it stops at the first other one, and only there.
    """

    how: Literal["kill", "stop"]
    passed: frozenset[str]


@dataclass
class Child:
    """A step in a process of its own."""

    process: Any
    connection: Connection
    points: list[str] = field(default_factory=list)
    result: Any = None
    error: str = ""
    message: str = ""
    transient: bool = False

    @property
    def killed(self) -> bool:
        return bool(self.process.exitcode == -signal.SIGKILL)

    @property
    def succeeded(self) -> bool:
        return self.process.exitcode == 0 and not self.error

    def begin(self) -> None:
        """Let it begin; it has prepared itself and waits."""
        assert self.connection.recv() == ("ready", None)
        self.connection.send("go")

    def halted(self) -> str | None:
        """Wait until it has stopped and give the point; None if it ended without stopping."""
        word = ""
        while word != "halts":
            try:
                word, value = self.connection.recv()
            except EOFError:
                return None
            self._note(word, value)
        while _state(self.process.pid) != "T":
            time.sleep(0.005)
        return self.points[-1]

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as `kill -9` does; nothing happens if it has ended already."""
        self.process.kill()

    def end(self) -> Child:
        """Wait for its end; one that does not end is killed, and the test fails."""
        deadline = time.monotonic() + _PATIENCE
        try:
            while self.connection.poll(deadline - time.monotonic()):
                self._note(*self.connection.recv())
            self.kill()
            raise AssertionError(f"The child did not end in {_PATIENCE} s; it came to {self.points}.")
        except (EOFError, ConnectionResetError):
            self.process.join()
        return self

    def _note(self, word: str, value: Any) -> None:
        if word == "passes" or word == "halts":
            self.points.append(value)
        elif word == "result":
            self.result = value
        else:
            self.error, self.message, self.transient = value


def start(step: Callable[..., Any], place: Place, halt: Halt | None = None, /, **arguments: Any) -> Child:
    """Start a step in a process of its own; it waits for :meth:`Child.begin`."""
    _ensure_forkserver()
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, step.__name__, place, halt, arguments), daemon=True)
    process.start()
    theirs.close()
    return Child(process, ours)


def run(step: Callable[..., Any], place: Place, halt: Halt | None = None, /, **arguments: Any) -> Child:
    """Run a step in a process of its own to its end, whichever it is."""
    child = start(step, place, halt, **arguments)
    child.begin()
    return child.end()


def killed_everywhere(step: Callable[..., Any], place: Place, /, **arguments: Any) -> tuple[Sequence[str], Child]:
    """
    Run a step and kill it at its first point; again, and kill it at the first point not seen so far; until it ends.

    :return: The points, and the run that ended.
    """
    seen: list[str] = []
    while True:
        child = run(step, place, Halt("kill", passed=frozenset(seen)), **arguments)
        if not child.killed:
            return seen, child
        seen.append(child.points[-1])


def overtaken(step: Callable[..., Any], place: Place, passed: Sequence[str], /, **arguments: Any) -> Sequence[Child]:
    """
    Halt a first try at its first point that is not among *passed*, let a second run to its end, let the first go on.

    :return: Both tries; only the first if it has no such point.
    """
    first = start(step, place, Halt("stop", passed=frozenset(passed)), **arguments)
    first.begin()
    if first.halted() is None:
        return [first.end()]
    try:
        second = run(step, place, **arguments)
    finally:
        first.go_on()
    return [first.end(), second]


def side_by_side(step: Callable[..., Any], place: Place, /, **arguments: Any) -> Sequence[Child]:
    """Let two tries begin at the same time."""
    return together(*(start(step, place, **arguments) for _ in range(2)))


def together(*children: Child) -> Sequence[Child]:
    """Let children begin at the same time, and wait for all of them."""
    for child in children:
        assert child.connection.poll(60)
    for child in children:
        child.begin()
    return [child.end() for child in children]


def _ensure_forkserver() -> None:
    multiprocessing.set_forkserver_preload(["support.warm"])
    # Python 3.11 does not tell the server where to look for what it is to import.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _state(pid: int) -> str:
    """What Linux says a process does: "T" is suspended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _child(connection: Connection, step: str, place: Place, halt: Halt | None, arguments: Mapping[str, Any]) -> None:
    log = os.open(place.folder / "children.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    act = getattr(tasks, step)
    following.PAUSE_SECONDS = 0.02  # a rollout waits for its server, which is as quick here
    _mark_points(connection, halt)
    connection.send(("ready", None))
    connection.recv()
    try:
        connection.send(("result", act(place, **arguments)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test that started the child judges it
        traceback.print_exc()
        connection.send(("error", (type(error).__name__, str(error), isinstance(error, TransientError))))


def _mark_points(connection: Connection, halt: Halt | None) -> None:
    """From now on, report each point that is reached, and halt at the one that is meant."""
    reached: Counter[str] = Counter()
    depth, halted = 0, False

    def reports(owner: Any, name: str, about: Callable[..., str | None] = lambda *_, **__: "") -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                answer = original(*args, **kwargs)
            finally:
                depth -= 1
            subject = about(*args, **kwargs)
            if depth == 0 and subject is not None:
                what = f"{name} {subject}".strip()
                reached[what] += 1
                reach(f"{what} #{reached[what]}")
            return answer

        setattr(owner, name, wrapped)

    def reach(point: str) -> None:
        nonlocal halted
        if halt is None or halted or point in halt.passed:
            connection.send(("passes", point))
            return
        halted = True
        connection.send(("halts", point))
        os.kill(os.getpid(), signal.SIGKILL if halt.how == "kill" else signal.SIGSTOP)

    reports(Tables, "replace_partition", lambda _, uri, *__: uri.rpartition("/")[2])
    reports(delta, "created", lambda uri, *_: uri.rpartition("/")[2])
    reports(delta, "committed", lambda handle, *_, **__: handle.table_uri.rstrip("/").rpartition("/")[2])
    reports(Ledger, "_append", lambda _, kind, *__: str(kind))
    reports(Reports, "write")
    reports(drift, "log_snapshot")
    reports(Path, "unlink", lambda path, *_, **__: path.suffix if path.suffix == ".sealed" else None)
    for change in _MLFLOW_CHANGES:
        reports(MlflowClient, change)
