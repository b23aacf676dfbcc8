"""``mlops replay``: take months of history through the DAGs, one after the other, and print what was decided."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from mlops_provider.cli.airflow_api import FAILED_TASKS, AirflowApi, DagRun
from mlops_provider.cli.home import ADMIN, Secrets, Stack, required, url, use_home
from mlops_provider.cli.progress import Progress
from mlops_provider.cli.replay_callers import Callers
from mlops_provider.cli.replay_fault import bad_candidate
from mlops_provider.cli.replay_table import Row, fault_row, heading, incident_of, line, row_of
from mlops_provider.cli.target import spec_of
from mlops_provider.cli.up import addresses
from mlops_provider.core import partitions
from mlops_provider.core.names import Environment, Kind
from mlops_provider.core.origin import Origin
from mlops_provider.exceptions import ConfigurationError, PermanentError, StoreUnavailableError

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.ledger import Ledger

POLL_SECONDS = 0.3
DAGS_SECONDS = 120.0
LOG_LINES = 20


def main(arguments: argparse.Namespace) -> int:
    """Replay the months asked for against the stack of this project."""
    from mlops_provider.stores.suite import Stores

    home = use_home()
    stack = Stack.read(home)
    if stack is None:
        raise ConfigurationError(f"No stack is up in {home.root}: start it with `mlops up`.")
    require_fault(stack, arguments.fault)
    spec = spec_of(arguments.model)
    first = partitions.check(arguments.first or spec.first_partition)
    if arguments.months < 1:
        raise ConfigurationError("--months must be 1 or more.")
    api = AirflowApi(url(stack.ports["airflow"]), user=ADMIN, password=Secrets.of(home).admin_password)
    stores = Stores.from_environment()
    ledger = stores.ledger
    progress = Progress(sys.stderr)
    try:
        replay = Replay(
            api,
            ledger,
            spec.name,
            metric=spec.gate.primary,
            progress=progress.say,
            timeout=arguments.timeout,
            callers=partial(Callers, spec, stores, required(Environment.SERVER_URL)),
        )
        replay.wait_for_dags()
        print(heading(spec.gate.primary, spec.bootstrap.confidence), flush=True)
        wanted = arguments.bad_candidate
        for month in partitions.between(first, partitions.following(first, arguments.months - 1)):
            deliver(spec, month)
            row = replay.month(month)
            progress.clear()
            print(line(row), flush=True)
            # Of a month that a model was trained on, it would be no better than that model.
            if wanted and replay.kept(month):
                wanted = False
                progress.say(f"{month}  a candidate with a fault", "training it, and the gate")
                row = replay.faulty(month, bad_candidate(spec, stores, month))
                progress.clear()
                print(line(row), flush=True)
        if wanted:
            print("The candidate with the fault was left out: no month kept its version. Take more months.")
    finally:
        progress.clear()
        api.close()
        ledger.close()
    print(addresses(home))
    return 0


def deliver(spec: ModelSpec, month: str) -> None:
    """Play the part of those who deliver the data, if it is awaited on S3 and the use case has it to give."""
    source = spec.source("land")
    if source is None or not source.on_s3 or spec.functions.delivered is None:
        return
    from mlops_provider.stores.s3 import S3

    S3().write(source.address(month), spec.function("delivered")(month).to_parquet())


def require_fault(stack: Stack, fault: str | None) -> None:
    """
    Refuse a fault that the running stack does not have: its scheduler was started without.

    :raises ConfigurationError: Says how to start it with.
    """
    if fault and stack.fault != partitions.check(fault):
        has = f"has the fault in {stack.fault}" if stack.fault else "has no fault"
        raise ConfigurationError(f"The running stack {has}. Run `mlops down`, then `mlops up --fault {fault}`.")


class Replay:
    """
    Drives one model's DAGs over REST. Run IDs follow from the month, so a replay that was cut off goes on.

    :param metric: The metric of the table.
    :param progress: Told what is waited for, and what it is doing, each time it is looked at.
    :param timeout: Longest wait for one DAG run, in seconds.
    :param callers: Gives those who ask for predictions while a version is rolled out, for a month.
    """

    def __init__(
        self,
        api: AirflowApi,
        ledger: Ledger,
        model: str,
        *,
        metric: str,
        progress: Callable[[str, str], None],
        timeout: float,
        callers: Callable[..., AbstractContextManager[object]] = lambda *_, **__: nullcontext(),
    ) -> None:
        self.api = api
        self.callers = callers
        self.ledger = ledger
        self.model = model
        self.metric = metric
        self.progress = progress
        self.timeout = timeout

    def dag(self, stage: str) -> str:
        """The DAG of a stage of this model."""
        return f"{self.model}_{stage}"

    def wait_for_dags(self) -> None:
        """
        Wait until Airflow has read the DAG files, and unpause what is needed.

        :raises PermanentError: A DAG file does not load, or a DAG never appears.
        """
        needed = {self.dag(stage) for stage in ("ingest", "score", "monitor", "train", "deploy")}
        deadline = time.monotonic() + DAGS_SECONDS
        while missing := needed - (known := self.api.known_dags()).keys():
            if errors := self.api.import_errors():
                raise PermanentError("Airflow cannot load:\n" + "\n".join(errors))
            if time.monotonic() > deadline:
                raise PermanentError(f"Airflow does not know {', '.join(sorted(missing))} after {DAGS_SECONDS:.0f} s.")
            self.progress("waiting for the DAGs to be read", ", ".join(sorted(missing)))
            time.sleep(POLL_SECONDS)
        for dag_id in sorted(needed):
            if known[dag_id]:
                self.api.unpause(dag_id)

    def month(self, month: str) -> Row:
        """
        Take one month through: ingest, score, monitor, and what monitor started.

        :raises PermanentError: A task failed; names DAG, run and task, with the end of its log.
        """
        run_id = f"replay__{month}"
        self.finish(month, self.api.trigger(self.dag("ingest"), run_id, partition_key=month))
        self.finish(month, self.scoring(month))
        self.finish(month, self.api.trigger(self.dag("monitor"), run_id, partition_key=month))
        decision = self.ledger.decided(Kind.RETRAIN, self._decision(month))
        if decision and decision.payload["retrain"]:
            training = self.appear(month, self.dag("train"), decision.payload["cause"])
            self.finish(month, training)
            if version := self.released(month):
                with self.callers(month):
                    run = self.appear(month, self.dag("deploy"), f"{self.model}-version-{version}")
                    self.finish_deployment(month, run, version)
        return row_of(self.ledger, self.model, month, metric=self.metric)

    def kept(self, month: str) -> bool:
        """Whether a version served when the month was judged, and was kept."""
        decision = self.ledger.decided(Kind.RETRAIN, self._decision(month))
        traffic = self.ledger.traffic(self.model)
        return bool(decision and not decision.payload["retrain"] and traffic and traffic.settled)

    def _decision(self, month: str) -> str:
        return Origin(self.dag("monitor"), f"replay__{month}", "decide_retrain").key

    def faulty(self, month: str, version: str) -> Row:
        """Deploy the candidate with the fault, while some ask about what it can't answer; gives what came of it."""
        if self.incident(version) is None:
            with self.callers(month, unseen=True):
                run_id = f"{self.model}-version-{version}"
                run = self.api.trigger(self.dag("deploy"), run_id, conf={"version": version})
                self.finish_deployment(month, run, version)
        return fault_row(self.ledger, self.model, month, version)

    def finish_deployment(self, month: str, run: DagRun, version: str) -> None:
        """Wait until a deployment is over; that a guard ended it is no failure of the replay."""
        try:
            if self.incident(version) is None:
                self.finish(month, run)
        except PermanentError:
            if self.incident(version) is None:
                raise

    def incident(self, version: str) -> Record | None:
        """How the version failed, if it did."""
        return incident_of(self.ledger, self.model, version)

    def scoring(self, month: str) -> DagRun:
        """The scoring that the month's features started; an event starts it, so it may take a moment to appear."""
        return self.until(
            month,
            f"{self.dag('score')} to be started by the features",
            lambda: next(iter(self.api.runs_of(self.dag("score"), month)), None),
        )

    def appear(self, month: str, dag_id: str, run_id: str) -> DagRun:
        """The run that another DAG started under this ID."""
        return self.until(month, f"{dag_id} {run_id} to appear", lambda: self.api.run(dag_id, run_id))

    def until(self, month: str, what: str, look: Callable[[], DagRun | None]) -> DagRun:
        """Look again until there is a run."""
        deadline = time.monotonic() + min(self.timeout, DAGS_SECONDS)
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise StoreUnavailableError(f"{month}: waited in vain for {what}. Run the same command to go on.")
            self.progress(f"{month}  waiting for {what}", "")
            time.sleep(POLL_SECONDS)
        return found

    def finish(self, month: str, run: DagRun) -> None:
        """Wait until a run is over; one that an earlier replay left failed gets another chance."""
        began = time.monotonic()
        if run.state == "failed":
            self.api.clear_failed(run)
        while True:
            current = self.api.run(run.dag_id, run.run_id)
            if current is None:
                raise PermanentError(f"{month}: somebody deleted {run.dag_id} run {run.run_id}.")
            if current.state == "success":
                return
            if current.state == "failed":
                raise PermanentError(self.failure(current))
            if time.monotonic() - began > self.timeout:
                raise StoreUnavailableError(
                    f"{month}: {run.dag_id} run {run.run_id} is still {current.state} after {self.timeout:.0f} s."
                )
            busy = [task.task_id for task in self.api.tasks(current) if task.state == "running"]
            self.progress(f"{month}  {run.dag_id}", ", ".join(busy))
            time.sleep(POLL_SECONDS)

    def failure(self, run: DagRun) -> str:
        """Say which task of a failed run failed, with the end of its log and where the rest is."""
        tasks = [task for task in self.api.tasks(run) if task.state in FAILED_TASKS]
        failed = next((task for task in tasks if task.state == "failed"), None)
        if failed is None:
            return f"DAG {run.dag_id}, run {run.run_id} failed without a failed task."
        place, lines = self.api.log(failed)
        end = "\n".join(f"  {text}" for text in lines[-LOG_LINES:])
        return (
            f"DAG {run.dag_id}, run {run.run_id}, task {failed.task_id} (try {failed.number}) failed.\n{end}\n"
            f"Log: {place or 'none'}\nMend it and run the same command again: it goes on from here."
        )

    def released(self, month: str) -> str | None:
        """The version that passed the gate on this month, if one did."""
        for registration in reversed(self.ledger.history(Kind.REGISTRATION, self.model)):
            gate = self.ledger.get(registration.payload["gate"])
            if gate.payload["partition"] == month:
                return str(registration.payload["version"])
        return None
