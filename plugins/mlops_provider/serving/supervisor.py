"""One server process, or several that share a port."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from mlops_provider.core.serving import ServingPolicy
from mlops_provider.exceptions import ConfigurationError, MLOpsError, PermanentError

logger = logging.getLogger(__name__)

_STARTS_AGAIN = 1.0
"""Pause, in seconds, before a process that ended is started again."""
_PATIENCE = 30.0
"""Longest wait, in seconds, for the processes to finish what is under way."""
_MISCONFIGURED = 78  # EX_CONFIG of sysexits.h


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What a server process is told; :func:`mlops_provider.serving.run` says what the fields mean.

    :param package: Folder of a packaged version, which is served in place of *models*.
    :param package_digest: SHA-256 that its manifest must have; empty for any.
    """

    models: tuple[str, ...]
    host: str
    port: int
    ledger_url: str
    registry_uri: str
    spool_dir: Path
    spool_uri: str
    name: str
    advertised_url: str
    workers: int
    threads: int
    policies: Mapping[str, ServingPolicy]
    package: Path | None = None
    package_digest: str = ""


def supervise(settings: Settings, processes: int) -> None:
    """
    Serve until told to end; of several processes, start again whichever ends by itself.

    :raises ConfigurationError: A setting can't be used.
    """
    _check(settings, processes)
    public = _listen(settings.host, settings.port)
    if processes == 1:
        from mlops_provider.serving.process import serve

        with public:
            serve(settings, [public])
        return
    port = public.getsockname()[1]
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for told in (signal.SIGTERM, signal.SIGINT):
        signal.signal(told, stop)
    children = [_started(settings, number, port, public) for number in range(1, processes + 1)]
    try:
        while not stopping.is_set():
            wait([child.sentinel for child in children], timeout=0.2)
            for number, child in enumerate(children, start=1):
                if child.is_alive() or stopping.is_set():
                    continue
                if child.exitcode == _MISCONFIGURED:
                    raise ConfigurationError(
                        f"Server process {number} of {processes} could not start; its log says why."
                    )
                logger.error("Server process %s ended (%s): it is started again", number, child.exitcode)
                stopping.wait(_STARTS_AGAIN)
                children[number - 1] = _started(settings, number, port, public)
    finally:
        _end(children)


def _check(settings: Settings, processes: int) -> None:
    if not settings.models and settings.package is None:
        raise ConfigurationError("No model to serve: name at least one.")
    if processes < 1:
        raise ConfigurationError(f"There must be at least one server process, got {processes}.")
    told = settings.advertised_url
    if told and not told.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"The advertised address must begin with http:// or https://, and is {told!r} "
            "(--advertised-url, MLOPS_ADVERTISED_URL)."
        )
    if told and processes > 1 and "{port}" not in told:
        raise ConfigurationError(
            f"Each of {processes} server processes has a port of its own: the advertised address must hold {{port}}, "
            f"and is {told!r} (--advertised-url, MLOPS_ADVERTISED_URL)."
        )


def _started(settings: Settings, number: int, port: int, public: socket.socket) -> SpawnProcess:
    own = dataclasses.replace(settings, name=f"{settings.name}-{number}", port=port + number if settings.port else 0)
    child = multiprocessing.get_context("spawn").Process(
        target=_child, args=(own, public, logging.getLogger().level), name=own.name
    )
    child.start()
    return child


def _child(settings: Settings, public: socket.socket, level: int) -> None:
    """What a process does: serve at the shared port and at its own, as long as the supervisor lives."""
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {settings.name} %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        from mlops_provider.serving.process import serve

        serve(settings, [public, _listen(settings.host, settings.port)])
    except PermanentError as error:
        logger.error("%s", error)
        raise SystemExit(_MISCONFIGURED) from None
    except MLOpsError as error:
        logger.error("%s", error)
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _end(children: Sequence[SpawnProcess]) -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _PATIENCE
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        if child.is_alive():
            logger.error("Server process %s does not end and is killed", child.name)
            child.kill()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"The model server can't listen on {host} port {port} ({error.strerror}). "
            "End what uses it, or choose another port (MLOPS_SERVER_PORT)."
        ) from error
    return listener
