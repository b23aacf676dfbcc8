"""Start processes that outlive the command, know them again later, and end them with all their children."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_PROC = Path("/proc/self")
GRACE_SECONDS = 10.0
"""Airflow's parts take two or three seconds of a core to end, all at once."""
FORCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Service:
    """
    One process of the stack.

    :param name: Stem of its pid file and log.
    :param command: Program and arguments.
    :param environment: Its whole environment.
    :param log: Where its output is appended.
    :param user: Whom it runs as, if not the caller.
    :param executable: The program file it runs in the end.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    user: str | None = None
    executable: str = sys.executable


@dataclass(frozen=True, slots=True)
class Running:
    """
    A process that was started by ``mlops up``, as its pid file tells.

    :param pid: Process ID; also the ID of its own session and process group.
    :param birth: When the process started, exactly; tells it from a later process with the same ID.
    :param executable: The program file it runs.
    """

    name: str
    pid: int
    birth: str
    executable: str

    def alive(self) -> bool:
        """Whether this very process runs (a dead one that nobody has waited for does not count)."""
        return birth_of(self.pid) == self.birth and not _zombie(self.pid)


def start(service: Service, pid_folder: Path, folder: Path) -> tuple[Running, subprocess.Popen[bytes]]:
    """
    Start a service in a session of its own and write its pid file.

    :param folder: Working directory of the process.
    """
    with service.log.open("ab") as log:
        process = subprocess.Popen(
            service.command,
            env=dict(service.environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **identity(service.user),
        )
    running = Running(service.name, process.pid, birth_of(process.pid) or "", os.path.realpath(service.executable))
    content = f"{running.pid}\n{running.birth}\n{running.executable}\n"
    (pid_folder / f"{service.name}.pid").write_text(content, encoding="utf-8")
    return running, process


def identity(user: str | None) -> dict[str, Any]:
    """Arguments of ``subprocess`` that make a process that of *user*, with none of the caller's groups."""
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}


def recorded(pid_folder: Path) -> list[Running]:
    """Read all pid files; a torn one is ignored."""
    found = []
    for path in sorted(pid_folder.glob("*.pid")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) == 3 and lines[0].isdecimal():
            found.append(Running(path.stem, int(lines[0]), lines[1], lines[2]))
    return found


def members(all_running: Sequence[Running]) -> dict[str, list[psutil.Process]]:
    """
    The living processes of each service's session, its leader included, by name of the service.

    The kernel gives a session's number to nobody else while one member lives. So if the leader is gone, what
    is left under its number is ours, unless all of ours ended and a foreign session got the number and lost
    its leader too: hence the look at owner and program.
    """
    births = {running.pid: birth_of(running.pid) for running in all_running}
    by_session = {running.pid: running for running in all_running if births[running.pid] in (None, running.birth)}
    found: dict[str, list[psutil.Process]] = {running.name: [] for running in all_running}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            running = by_session.get(os.getsid(process.pid))
            if running is None or process.status() == psutil.STATUS_ZOMBIE:
                continue
            led = births[running.pid] is not None
            if led or (process.uids().real == os.getuid() and os.path.realpath(process.exe()) == running.executable):
                found[running.name].append(process)
    return found


def stop(
    all_running: Sequence[Running],
    pid_folder: Path,
    *,
    progress: Callable[[str], None],
    grace_seconds: float = GRACE_SECONDS,
    force_seconds: float = FORCE_SECONDS,
) -> list[str]:
    """
    End sessions: ask the leaders, then ask every member, then end what is left.

    Members matter: a killed scheduler leaves its workers behind, and a task lives in a process
    group of its own.

    :return: Names of the services that were still there in any part.
    """
    living = members(all_running)
    names = [name for name, processes in living.items() if processes]
    for running in all_running:
        # Without its leader, nobody in a session would pass the request on.
        pids = [running.pid] if running.alive() else [process.pid for process in living[running.name]]
        for pid in pids:
            _send(pid, signal.SIGTERM)
    left = _wait_until_gone(all_running, grace_seconds)
    # A scheduler waits for its tasks until it is asked again.
    for sent, does in ((signal.SIGTERM, "still ending, asked again"), (signal.SIGKILL, "killed, as it did not end")):
        if not left:
            break
        progress(f"{does}: {', '.join(sorted(left))}")
        for processes in left.values():
            for process in processes:
                _send(process.pid, sent)
        left = _wait_until_gone(all_running, force_seconds)
    for running in all_running:
        if running.name not in left:
            (pid_folder / f"{running.name}.pid").unlink(missing_ok=True)
    return names


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Proportional set size: private memory, plus each shared page divided by its users. Linux only, else 0."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def birth_of(pid: int) -> str | None:
    """
    When a process started, as text to compare; ``None`` if there is no such process.

    Where there is a ``/proc``: this boot's ID and the clock ticks since, which no change of the wall clock can move.
    """
    try:
        if _PROC.is_dir():
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return f"{boot}:{status.rpartition(')')[2].split()[19]}"
        return f"{psutil.Process(pid).create_time():.2f}"
    except (OSError, psutil.Error):
        return None


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 16_384))
            return "\n".join(stream.read().decode("utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _wait_until_gone(all_running: Sequence[Running], seconds: float) -> dict[str, list[psutil.Process]]:
    """Wait until no process is left, *seconds* at most; gives the services that still have some."""
    deadline = time.monotonic() + seconds
    while True:
        left = {name: processes for name, processes in members(all_running).items() if processes}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def _send(pid: int, sent: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sent)


def _zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
