"""The chain of ``mlops ci``: the steps of production on a sample of the first three months, in a temporary home."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from mlops_provider.cli.home import LOOPBACK, url
from mlops_provider.cli.processes import tail
from mlops_provider.cli.run import Stages, new_run_id
from mlops_provider.core import partitions
from mlops_provider.core.names import Environment, Kind
from mlops_provider.exceptions import BrokenContractError, MLOpsError, NothingToDo, ServingCheckError, SourceError
from mlops_provider.spec import ModelSpec

if TYPE_CHECKING:
    from mlops_provider.cli.ci_report import Report
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import FunctionName
    from mlops_provider.stores.suite import Stores

_Result = TypeVar("_Result")

_SEGMENT_ROWS = 20
"""Rows that a segment of the sample needs: few, so that children are fitted, and enough to fit them."""
_SERVER_SECONDS = 90.0
"""Longest wait for the model server to answer."""


class SampledSpec(ModelSpec):
    """The same use case with small months; everything that it does with them is its own."""

    _rows: int = 0

    def function(self, name: FunctionName) -> Callable[..., Any]:
        """One of the use case's functions; ``land`` gives a sample."""
        from mlops_provider.steps.contracts import sampling

        found = super().function(name)
        return sampling(found, self._rows) if name == "land" else found


def sample_of(spec: ModelSpec, *, rows: int, trials: int) -> ModelSpec:
    """
    Declare a use case small: few rows, few trials, no soaking, and a gate that judges and lets everything pass.

    A sample is too small for the limits that real months have to meet.
    """
    declared = spec.model_dump()
    declared["search"] |= {"trials": trials}
    declared["bootstrap"] |= {"resamples": 100}
    declared["gate"] |= {"mode": "dry_run", "mode_reason": "mlops ci judges a sample"}
    declared["rollout"] |= {"soak_seconds": 0.0, "wait_at_most_seconds": 0.0, "without_data": "proceed"}
    declared["monitoring"] |= {"minimum_rows": 1}
    if spec.segments:
        declared["segments"] |= {"minimum_rows": _SEGMENT_ROWS}
        declared["bootstrap"] |= {"block": None}  # the last days of one month are too few to judge a child by
    small = SampledSpec.model_validate(declared)
    small._path, small._rows = spec.path, rows  # noqa: SLF001 - not declared in a yaml, hence no fields
    return small


class Chain(Stages):
    """The stages of a month, each of whose steps is a check."""

    def __init__(self, spec: ModelSpec, stores: Stores, month: str, *, report: Report) -> None:
        super().__init__(spec, stores, month, run_id=new_run_id())
        self.report = report

    def step(self, task_id: str, act: Callable[[Origin], _Result]) -> _Result:
        """Run one step as a check; what a function of the use case raises makes it red, too."""
        from mlops_provider.steps.contracts import described

        results: list[_Result] = []
        with self.report.check("chain", self.spec.name, f"{self.month} {task_id}"):
            try:
                with redirect_stdout(StringIO()):  # its line would say the same as the check's
                    results.append(super().step(task_id, act))
            except NothingToDo as nothing:
                raise BrokenContractError(f"{task_id} found nothing to do: {nothing}") from nothing
            except MLOpsError as error:
                raise BrokenContractError(f"{task_id}: {error}") from error
            except Exception as error:  # whatever the use case or a library makes of the sample
                where = described(error, self.spec)
                raise BrokenContractError(f"{task_id} fails: {where}: {error}") from error
        return results[0]


def run_chain(spec: ModelSpec, report: Report, *, rows: int, trials: int) -> None:
    """
    Run the whole chain of one use case; every step is a check.

    :raises RedError: One is red; nothing of the temporary home is left.
    """
    months = [partitions.following(spec.first_partition, count) for count in range(3)]
    small = sample_of(spec, rows=rows, trials=trials)
    with tempfile.TemporaryDirectory(prefix="mlops-ci-") as folder, temporary_home(Path(folder)):
        from mlops_provider.stores.suite import Stores

        stores = Stores.from_environment()
        first, second, third = (Chain(small, stores, month, report=report) for month in months)
        first.ingest()
        second.ingest()
        version = second.train()
        assert version is not None  # the gate judges and lets everything pass
        with served(spec, Path(folder), report):
            second.deploy(version)
            third.ingest()
            third.score()
            third.monitor()
        measured_something(stores, spec, report)
        stores.ledger.close()


def measured_something(stores: Stores, spec: ModelSpec, report: Report) -> None:
    """See that the month that was served has scores, and that its columns were compared."""
    with report.check("chain", spec.name, "performance and drift have numbers"):
        performance, drift = (stores.ledger.latest(kind, spec.name) for kind in (Kind.PERFORMANCE, Kind.DRIFT))
        assert performance is not None
        assert drift is not None
        if not performance.payload["metrics"]:
            raise SourceError(f"measure_performance: {performance.payload['reason']}")
        if not drift.payload["columns"]:
            raise SourceError(f"detect_drift compared no column: {'; '.join(drift.payload['warnings'])}")


@contextmanager
def temporary_home(folder: Path) -> Iterator[None]:
    """Point every setting at a folder for a while; none of the surrounding environment's stores is in reach."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    for name in ("tables", "spool", "evidently"):
        (folder / name).mkdir()
    settings: Mapping[str, str] = {
        Environment.TABLES_URI: str(folder / "tables"),
        Environment.LEDGER_URL: f"sqlite:///{folder}/ledger.db",
        Environment.REGISTRY_URI: f"sqlite:///{folder}/mlflow.db",
        Environment.SERVER_URL: url(port),
        Environment.SPOOL_DIR: str(folder / "spool"),
        Environment.EVIDENTLY_WORKSPACE: str(folder / "evidently"),
    }
    before = {name: value for name, value in os.environ.items() if name in list(Environment)}
    for name in before:
        del os.environ[name]
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def served(spec: ModelSpec, folder: Path, report: Report) -> Iterator[None]:
    """Run the real model server, in its own process, for as long as this lasts."""
    address = os.environ[Environment.SERVER_URL]
    log = folder / "server.log"
    command = (
        sys.executable,
        "-m",
        "mlops_provider.cli.main",
        "serve",
        str(spec.path),
        "--port",
        address.rpartition(":")[2],
    )
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        with report.check("chain", spec.name, "model server"):
            _wait_for(address, process, log)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SERVER_SECONDS
    while True:
        try:
            httpx.get(f"{address}/ping", timeout=5, trust_env=False)
            return
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServingCheckError(f"The model server does not answer. The end of its log:\n{tail(log)}") from None
        time.sleep(0.1)
