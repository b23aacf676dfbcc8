"""A task process that dies in the middle, under a running Airflow: retried, with one of everything afterwards."""

from __future__ import annotations

import psutil

from mlops_provider.core.names import Kind, Table
from support.stack import MODEL, RunningStack, wait_until


def kill_while_running(stack: RunningStack, dag_id: str, run_id: str, task_id: str) -> None:
    """End the task's own process with SIGKILL as soon as it is there."""

    def killed() -> bool:
        task = stack.tasks(dag_id, run_id).get(task_id, {})
        if task.get("state") != "running":
            return False
        for process in psutil.process_iter(["cmdline"]):
            if task["id"] in " ".join(process.info["cmdline"] or ()):
                process.kill()
                return True
        return False

    wait_until(killed, f"{task_id} to run")


def test_a_killed_landing_is_tried_again_and_lands_the_month_once(stack: RunningStack) -> None:
    run_id = "killed-landing"
    stack.start("flight_delays_ingest", run_id, partition_key="2013-01").raise_for_status()

    kill_while_running(stack, "flight_delays_ingest", run_id, "land_data")

    assert stack.finished("flight_delays_ingest", run_id) == "success"
    assert stack.tasks("flight_delays_ingest", run_id)["land_data"]["try_number"] == 2
    raw = stack.stores.tables.read(stack.stores.tables.uri(MODEL, Table.RAW), partitions=["2013-01"])
    assert not raw.duplicated(["flight_date", "carrier", "flight", "origin"]).any()
    assert stack.stores.ledger.verify() is None


def test_a_killed_training_continues_its_run_and_registers_one_version(stack: RunningStack) -> None:
    for month in ("2013-01", "2013-02", "2013-03"):
        stack.ingested(month)
    stack.at_rest()
    run_id, before = "killed-training", len(stack.stores.registry.versions(MODEL))
    form = {"through": "2013-03", "trials": 1, "reason": "demand"}
    stack.start("flight_delays_train", run_id, conf=form).raise_for_status()

    kill_while_running(stack, "flight_delays_train", run_id, "train_model")

    assert stack.finished("flight_delays_train", run_id) == "success"
    assert stack.tasks("flight_delays_train", run_id)["train_model"]["try_number"] == 2
    trainings = stack.stores.ledger.history(Kind.TRAINING, MODEL)
    verdicts = [record for record in stack.stores.ledger.history(Kind.GATE, MODEL) if run_id in (record.key or "")]
    assert len({record.payload["run_id"] for record in trainings}) == len(trainings)
    assert len(verdicts) == 1
    assert len(stack.stores.registry.versions(MODEL)) == before + verdicts[0].payload["passed"]
    assert stack.stores.ledger.verify() is None
