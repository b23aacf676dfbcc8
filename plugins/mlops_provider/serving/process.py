"""Put the parts of the model server together and run them."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from types import FrameType

import uvicorn

from mlops_provider.core.names import Environment
from mlops_provider.core.pseudonyms import Pseudonyms
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.serving.app import ModelServerApp
from mlops_provider.serving.connection import Connection
from mlops_provider.serving.custom_attributes import CustomAttributes
from mlops_provider.serving.fixed import Fixed
from mlops_provider.serving.follower import Follower
from mlops_provider.serving.loader import load, loaded
from mlops_provider.serving.metrics import Metrics
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.supervisor import Settings
from mlops_provider.serving.tokens import Tokens
from mlops_provider.steps.package_folder import opened
from mlops_provider.stores.ledger import Ledger
from mlops_provider.stores.predictions import SegmentWriter
from mlops_provider.stores.registry import Registry

logger = logging.getLogger(__name__)

GARBAGE_AFTER = 5000
"""Objects made, and not freed, before a look for garbage: requests leave none, and the usual 700 cost 7 % of time."""
SHUTDOWN_SECONDS = 20
"""Time that requests under way get to finish."""


def serve(settings: Settings, listeners: Sequence[socket.socket]) -> None:
    """
    Run one server process.

    :param listeners: Where it listens; rollouts reach it at the last one, unless it is told to advertise another.
    """
    tokens = Tokens.from_environment(os.environ)
    host, own_port = settings.host, listeners[-1].getsockname()[1]
    url = settings.advertised_url.rstrip("/").replace("{port}", str(own_port)) or _address(host, own_port)
    metrics = Metrics()
    served = [packaged(settings, metrics)] if settings.package else _followed(settings, url, metrics)
    app = ModelServerApp(served, workers=settings.workers, threads=settings.threads, tokens=tokens, metrics=metrics)
    config = uvicorn.Config(
        CustomAttributes(app) if settings.package else app,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        http=Connection,
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn shuts down first and then raises the signal again, for whoever waits for it.
        signal.signal(number, _ended)
    if not tokens.required and host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("Whoever reaches %s may ask for predictions: set MLOPS_SERVER_TOKENS to ask for a token", url)
    # What was loaded so far stays; looking through it for garbage again and again would hold requests up.
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)
    logger.info("Serving %s at %s", ", ".join(each.model for each in served), url)
    uvicorn.Server(config).run(sockets=list(listeners))


def _followed(settings: Settings, url: str, metrics: Metrics) -> list[ServedModel]:
    """The models whose traffic the ledger tells."""
    ledger, registry = Ledger(settings.ledger_url), Registry(settings.registry_uri)
    secrets = os.environ.get(Environment.PSEUDONYM_KEYS, "")
    policies = {model: settings.policies.get(model) or ServingPolicy() for model in settings.models}
    pseudonyms = {model: Pseudonyms.of(policy.pseudonymise, secrets) for model, policy in policies.items()}
    served = []
    for model in settings.models:
        log = _log(settings, model)
        follower = Follower(model, replica=log.replica, url=url, ledger=ledger, load=partial(load, registry, ledger))
        served.append(ServedModel(follower, log, policies[model], metrics, pseudonyms[model]))
    return served


def packaged(settings: Settings, metrics: Metrics) -> ServedModel:
    """Give the version in a package."""
    assert settings.package is not None
    found = opened(settings.package, settings.package_digest)
    pseudonyms = Pseudonyms.of(found.policy.pseudonymise, os.environ.get(Environment.PSEUDONYM_KEYS, ""))
    log = _log(settings, found.model)
    fixed = Fixed(found.model, replica=log.replica, version=loaded(found.version, found.scorer()))
    return ServedModel(fixed, log, found.policy, metrics, pseudonyms)


def _log(settings: Settings, model: str) -> SegmentWriter:
    ship_to = f"{settings.spool_uri.rstrip('/')}/{model}" if settings.spool_uri else ""
    return SegmentWriter(settings.spool_dir / model, settings.name, ship_to=ship_to)


def _ended(number: int, frame: FrameType | None) -> None:
    """Being told to end is a success."""
    raise SystemExit(0)


def _address(host: str, port: int) -> str:
    """Where others reach what listens here; behind a wildcard that is the machine's, or container's, name."""
    reachable = socket.gethostname() if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
