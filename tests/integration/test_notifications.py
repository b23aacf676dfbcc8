"""Alarms and decisions to retrain are told through Airflow's notifiers; over SNS a message really arrives."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

from mlops_provider.operators.monitor import DecideRetrainOperator, DetectDriftOperator
from mlops_provider.steps import monitor
from support.aws import Aws
from support.tiny import JANUARY, USE_CASE, Place, ingest_months, origin

YAML = str(USE_CASE / "model.yaml")


@pytest.fixture
def inbox(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """A topic, and what takes the messages out of a queue behind it."""
    monkeypatch.setenv("AIRFLOW_CONN_TELL", json.dumps(aws.connection()))
    sns, sqs = aws.client("sns"), aws.client("sqs")
    name = aws.bucket()
    topic, queue = sns.create_topic(Name=name)["TopicArn"], sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

    def received() -> list[tuple[str, str]]:
        found = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        bodies = [json.loads(message["Body"]) for message in found]
        return [(body["Subject"], body["Message"]) for body in bodies]

    return topic, received


def context() -> Any:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="decide", map_index=-1)
    return {"ti": ti, "dag_run": SimpleNamespace(triggering_user_name=None)}


def notifier(topic: str) -> SnsNotifier:
    return SnsNotifier(
        aws_conn_id="tell",
        target_arn=topic,
        subject="{{ mlops.model }}",
        message="{{ mlops.partition }}: {{ mlops.summary }}",
    )


def test_a_decision_to_retrain_arrives_over_sns(place: Place, inbox: tuple[str, Any]) -> None:
    topic, received = inbox
    stores, spec = place.stores(), place.spec()
    month = {"model_yaml": YAML, "partition": "2013-02"}
    ingest_months(place, JANUARY, "2013-02")
    for labelled in (JANUARY, "2013-02"):
        monitor.record_outcomes(spec, stores, labelled, origin=origin("record_outcomes"))
    performance = monitor.measure_performance(spec, stores, "2013-02", origin=origin("measure_performance"))
    drift = monitor.detect_drift(spec, stores, "2013-02", origin=origin("detect_drift"))
    operator = DecideRetrainOperator(
        task_id="decide", performance=performance, drift=drift, on_retrain_callback=notifier(topic), **month
    )
    operator.stores = stores

    decision = operator.execute(context())

    assert decision["retrain"]
    [(subject, message)] = received()
    assert subject == "bus_delays"
    assert message.startswith("2013-02: Retrain: ")
    assert decision["reasons"][0] in message


@pytest.mark.parametrize("alarm", [True, False])
def test_an_alarm_is_told_and_quiet_is_not(
    place: Place, inbox: tuple[str, Any], monkeypatch: pytest.MonkeyPatch, alarm: bool
) -> None:
    topic, received = inbox
    found = {"alarm": alarm, "reasons": ["rain has drifted."], "warnings": []}
    stores = place.stores()
    record = stores.ledger.append("drift", "bus_delays", found)
    monkeypatch.setattr(monitor, "detect_drift", lambda *_, **__: record.record_id)
    operator = DetectDriftOperator(
        task_id="decide", model_yaml=YAML, partition=JANUARY, on_alarm_callback=[notifier(topic)]
    )
    operator.stores = stores

    operator.execute(context())

    assert received() == ([("bus_delays", "2013-01: rain has drifted.")] if alarm else [])


def test_a_message_that_cannot_be_sent_does_not_undo_the_decision(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = place.stores()
    record = stores.ledger.append("drift", "bus_delays", {"alarm": True, "reasons": ["a"], "warnings": []})
    monkeypatch.setattr(monitor, "detect_drift", lambda *_, **__: record.record_id)
    told: list[str] = []

    def broken(_: Any) -> None:
        raise OSError("nobody listens")

    callbacks = [broken, lambda context: told.append(context["mlops"]["summary"])]
    operator = DetectDriftOperator(task_id="decide", model_yaml=YAML, partition=JANUARY, on_alarm_callback=callbacks)
    operator.stores = stores

    assert operator.execute(context()) == record.record_id
    assert told == ["a"]
