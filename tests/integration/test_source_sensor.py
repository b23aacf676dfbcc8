"""Ingest waits for its file on S3 with the Amazon provider's own sensor, deferred."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.providers.amazon.aws.triggers.s3 import S3KeyTrigger
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from mlops_provider.sensors.source import SourceSensor
from mlops_provider.stages.ingest import ingest
from support import flights
from support.aws import Aws, proxy
from support.flights import JANUARY


def sensor(folder: Path, bucket: str, **arguments: Any) -> SourceSensor:
    model_yaml = flights.copy_use_case(folder)
    declared = yaml.safe_load(model_yaml.read_text())
    declared["sources"] = {"land": {"uri": f"s3://{bucket}/{{partition}}.parquet", "conn_id": "landing"}}
    model_yaml.write_text(yaml.safe_dump(declared))
    partition = arguments.pop("partition", JANUARY)
    return SourceSensor(task_id="wait_for_source", model_yaml=str(model_yaml), partition=partition, **arguments)


def context() -> Any:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="wait_for_source", map_index=-1)
    return {"ti": ti, "dag_run": SimpleNamespace(triggering_user_name=None)}


def fired(trigger: S3KeyTrigger) -> dict[str, Any]:
    """Run a trigger as the triggerer does, until its event."""

    async def first() -> dict[str, Any]:
        path, arguments = trigger.serialize()
        arguments |= arguments.pop("hook_params")
        async for event in S3KeyTrigger(**arguments).run():
            return dict(event.payload)
        raise AssertionError(path)

    return asyncio.run(asyncio.wait_for(first(), 60))


def test_a_file_that_comes_later_wakes_the_task(tmp_path: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LANDING", json.dumps(aws.connection()))
    bucket = aws.bucket()
    waiting = sensor(tmp_path, bucket, poll_interval=0.1)

    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute(context())
    aws.s3().write(f"s3://{bucket}/{JANUARY}.parquet", b"a month")
    event = fired(deferred.value.trigger)  # type: ignore[arg-type]

    assert deferred.value.method_name == "execute_complete"
    waiting.execute_complete(context(), event)
    assert waiting.execute(context()) is None  # there already: no deferral


def test_a_run_without_a_partition_fails_at_once(tmp_path: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LANDING", json.dumps(aws.connection()))

    with pytest.raises(AirflowFailException, match="partition key such as 2013-01"):
        sensor(tmp_path, aws.bucket(), partition="").execute(context())


def test_refused_credentials_are_said_instead_of_waited_for(
    tmp_path: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(aws) as (url, weather):
        weather.set(refused_token="old")
        monkeypatch.setenv("AIRFLOW_CONN_LANDING", json.dumps(aws.connection(url, aws_session_token="old")))

        with pytest.raises(AirflowFailException, match=r"connection 'landing'.* clear this task"):
            sensor(tmp_path, aws.bucket()).execute(context())


def test_the_stage_waits_only_for_what_is_on_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    def tasks() -> set[str]:
        with DAG("d", schedule=None) as dag:
            ingest(str(flights.MODEL_YAML))
        return set(dag.task_ids)

    without = tasks()
    monkeypatch.setenv("MLOPS_LANDING_URI", "https://airport.example")
    assert tasks() == without
    monkeypatch.setenv("MLOPS_LANDING_URI", "s3://airport")

    assert tasks() - without == {"wait_for_source"}
