"""Put the parts of the model server together and run them."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from mlops_provider.exceptions import ConfigurationError
from mlops_provider.serving.app import ModelServerApp
from mlops_provider.serving.follower import Follower
from mlops_provider.serving.loader import load
from mlops_provider.serving.served import ServedModel
from mlops_provider.stores.ledger import Ledger
from mlops_provider.stores.predictions import SegmentWriter
from mlops_provider.stores.registry import Registry

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 20
"""Time that requests under way get to finish."""


def serve(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    ledger_url: str,
    registry_uri: str,
    spool_dir: Path,
    spool_uri: str = "",
    name: str,
    advertised_url: str,
    workers: int,
    threads: int,
) -> None:
    """Run the server; :func:`mlops_provider.serving.run` says what the parameters mean."""
    if not models:
        raise ConfigurationError("No model to serve: name at least one.")
    if advertised_url and not advertised_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"The advertised address must begin with http:// or https://, and is {advertised_url!r} "
            "(--advertised-url, MLOPS_ADVERTISED_URL)."
        )
    listener = _listen(host, port)
    url = advertised_url.rstrip("/") or _address(host, listener.getsockname()[1])
    ledger, registry = Ledger(ledger_url), Registry(registry_uri)
    served = []
    for model in models:
        ship_to = f"{spool_uri.rstrip('/')}/{model}" if spool_uri else ""
        log = SegmentWriter(spool_dir / model, name, ship_to=ship_to)
        follower = Follower(model, replica=log.replica, url=url, ledger=ledger, load=partial(load, registry, ledger))
        served.append(ServedModel(follower, log))
    app = ModelServerApp(served, workers=workers, threads=threads).starlette()
    config = uvicorn.Config(
        app, access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn shuts down first and then raises the signal again, for whoever waits for it.
        signal.signal(number, _ended)
    logger.info("Serving %s at %s", ", ".join(models), url)
    uvicorn.Server(config).run(sockets=[listener])


def _ended(number: int, frame: FrameType | None) -> None:
    """Being told to end is a success."""
    raise SystemExit(0)


def _address(host: str, port: int) -> str:
    """Where others reach what listens here; behind a wildcard that is the machine's, or container's, name."""
    reachable = socket.gethostname() if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


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
