"""The model server: its own process, no Airflow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops_provider.core.serving import ServingPolicy


def run(
    models: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    ledger_url: str,
    registry_uri: str,
    spool_dir: str | Path,
    spool_uri: str = "",
    name: str = "server",
    advertised_url: str = "",
    workers: int = 2,
    threads: int = 1,
    processes: int = 1,
    policies: Mapping[str, ServingPolicy] | None = None,
) -> None:
    """
    Serve *models* until the process is told to end (SIGTERM or Ctrl-C), then seal the prediction log.

    Who may call is read from the environment: ``MLOPS_SERVER_TOKENS`` and ``MLOPS_SERVER_TOKENS_FILE``.

    :param models: Registered models to serve.
    :param host: Address to listen on.
    :param port: Port to listen on; 0 takes a free one, which the log tells.
    :param ledger_url: SQLAlchemy URL of the ledger to follow.
    :param registry_uri: MLflow tracking URI to load versions from.
    :param spool_dir: Folder of the prediction log, on a local disk; each model gets a folder below.
    :param spool_uri: Address on S3 to which its sealed segments are moved; by default they stay.
    :param name: Name of this replica, unique among those of a model.
    :param advertised_url: Where rollouts reach this replica; by default host and port.
    :param workers: Batches computed at the same time.
    :param threads: OpenMP and BLAS threads of one prediction.
    :param processes: Server processes that share the port. Each is a replica of its own, ``<name>-1`` and so on, which
        rollouts reach at the port that many above *port*; *advertised_url* then holds ``{port}``.
    :param policies: How a model answers, by name; see :class:`mlops_provider.core.serving.ServingPolicy`.
    :raises ConfigurationError: The port is taken, no model is named, *advertised_url* is no HTTP address, or a token
        is not of its form.
    """
    _prepare(threads)
    from mlops_provider.serving.supervisor import Settings, supervise

    settings = Settings(
        models=tuple(models),
        host=host,
        port=port,
        ledger_url=ledger_url,
        registry_uri=registry_uri,
        spool_dir=Path(spool_dir),
        spool_uri=spool_uri,
        name=name,
        advertised_url=advertised_url,
        workers=workers,
        threads=threads,
        policies=dict(policies or {}),
    )
    supervise(settings, processes)


def run_package(
    folder: Path,
    *,
    digest: str = "",
    host: str = "127.0.0.1",
    port: int = 8090,
    spool_dir: str | Path,
    spool_uri: str = "",
    name: str = "server",
    workers: int = 2,
    threads: int = 1,
    processes: int = 1,
) -> None:
    """
    Serve the version in a folder of ``mlops package``, which follows no ledger, until told to end.

    Its answers are logged as those of others are. For the other parameters see :func:`run`.

    :param digest: SHA-256 that its manifest must have, as whoever deployed it knows it; empty if nobody told.
    :raises ConfigurationError: The folder is no package, or the port is taken.
    :raises EvidenceError: The package was changed.
    """
    _prepare(threads)
    from mlops_provider.serving.supervisor import Settings, supervise

    settings = Settings(
        models=(),
        host=host,
        port=port,
        ledger_url="",
        registry_uri="",
        spool_dir=Path(spool_dir),
        spool_uri=spool_uri,
        name=name,
        advertised_url="",
        workers=workers,
        threads=threads,
        policies={},
        package=folder,
        package_digest=digest,
    )
    supervise(settings, processes)


def _prepare(threads: int) -> None:
    """Set what the numeric libraries read when they are loaded, hence before the first import of one."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
