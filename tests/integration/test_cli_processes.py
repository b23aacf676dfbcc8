"""What was started is found again and ended with all its children, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mlops_provider.cli.processes import Running, Service, members, pss_bytes, recorded, start, stop, tail

FOREVER = "import time\nwhile True: time.sleep(1)"
# Like Airflow: a worker forked from the service, and a task in a process group of its own forked from that.
FAMILY = """
import os, signal, time
if os.fork() == 0:
    if os.fork() == 0:
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
while True: time.sleep(1)
"""
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\n" + FOREVER


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[str, str], Running]]:
    begun: list[tuple[Running, subprocess.Popen[bytes]]] = []

    def act(name: str, code: str) -> Running:
        service = Service(name, (sys.executable, "-c", code), dict(os.environ), tmp_path / f"{name}.log")
        begun.append(start(service, tmp_path, tmp_path))
        return begun[-1][0]

    yield act
    for running, process in begun:
        for left in members([running])[running.name]:
            left.kill()
        process.kill()
        process.wait()


def ready(folder: Path, name: str, lines: int = 1) -> None:
    wait(lambda: tail(folder / f"{name}.log").count("ready") >= lines)


def wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(running: list[Running], folder: Path, **seconds: float) -> list[str]:
    return stop(running, folder, progress=lambda _: None, **seconds)


def test_a_process_is_found_again_by_its_pid_file(begin: Callable[[str, str], Running], tmp_path: Path) -> None:
    running = begin("one", FOREVER)

    assert recorded(tmp_path) == [running]
    assert running.alive()
    assert os.getsid(running.pid) == running.pid


def test_it_ends_with_all_its_children(begin: Callable[[str, str], Running], tmp_path: Path) -> None:
    running = begin("family", FAMILY)
    ready(tmp_path, "family", lines=3)
    family = members([running])["family"]

    stopped = end([running], tmp_path, grace_seconds=0.5)

    assert len(family) == 3
    assert stopped == ["family"]
    assert members([running]) == {"family": []}
    assert recorded(tmp_path) == []


def test_children_that_a_killed_parent_left_behind_are_ended(
    begin: Callable[[str, str], Running], tmp_path: Path
) -> None:
    running = begin("family", FAMILY)
    ready(tmp_path, "family", lines=3)
    os.kill(running.pid, signal.SIGKILL)
    wait(lambda: not running.alive())
    orphans = members(recorded(tmp_path))["family"]

    end(recorded(tmp_path), tmp_path)

    assert len(orphans) == 2
    assert members([running]) == {"family": []}


def test_what_ignores_the_request_is_killed(begin: Callable[[str, str], Running], tmp_path: Path) -> None:
    running = begin("stubborn", STUBBORN)
    ready(tmp_path, "stubborn")

    end([running], tmp_path, grace_seconds=0.2, force_seconds=0.2)

    assert not running.alive()


def test_a_later_process_with_the_same_id_is_left_alone(begin: Callable[[str, str], Running], tmp_path: Path) -> None:
    other = begin("other", FOREVER)
    stale = Running("stale", other.pid, "another-boot:1", other.executable)

    stopped = end([stale], tmp_path)

    assert stopped == []
    assert not stale.alive()
    assert other.alive()


def test_stopping_twice_stops_nothing_more(begin: Callable[[str, str], Running], tmp_path: Path) -> None:
    running = begin("one", FOREVER)

    assert end([running], tmp_path) == ["one"]
    assert end([running], tmp_path) == []


def test_a_torn_pid_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "torn.pid").write_text("123\n")

    assert recorded(tmp_path) == []


def test_memory_is_counted_in_shares() -> None:
    mine = pss_bytes([psutil.Process()])

    assert 10**6 < mine <= psutil.Process().memory_info().rss * 1.05


def test_the_end_of_a_log_is_told(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("\n".join(map(str, range(100))))

    assert tail(log, 2) == "98\n99"
    assert tail(tmp_path / "none.log") == ""
