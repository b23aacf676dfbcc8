"""Outcomes and drift of a partition, and the decision to train again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlops_provider.core.names import Environment, Task
from mlops_provider.operators.base import Callbacks
from mlops_provider.operators.monitor import (
    DecideRetrainOperator,
    DeliverPredictionsOperator,
    DetectDriftOperator,
    MeasurePerformanceOperator,
    RecordOutcomesOperator,
)
from mlops_provider.operators.start import StartDagRunOperator
from mlops_provider.sensors.partition import LabelsSensor
from mlops_provider.spec import load_spec
from mlops_provider.stages.resources import chunks_of, placement, resources

if TYPE_CHECKING:
    from airflow.sdk import BaseNotifier

AWS_CONN = "mlops_aws"
"""Connection by which the topic is reached, unless ``MLOPS_AWS_CONN_ID`` names another."""


def monitor(
    model_yaml: str,
    *,
    train_dag: str,
    on_alarm_callback: Callbacks = None,
    on_retrain_callback: Callbacks = None,
) -> None:
    """
    Watch a partition and start a training if the policy says so.

    :param model_yaml: Path of the use case's ``model.yaml``.
    :param train_dag: DAG that trains; started with the decision's cause as its run ID.
    :param on_alarm_callback: Notifiers to call when drift raises an alarm.
    :param on_retrain_callback: Notifiers to call when the model is trained again.
    """
    labels = LabelsSensor(**resources(model_yaml, Task.WAIT_FOR_LABELS))
    delivered = DeliverPredictionsOperator(**resources(model_yaml, Task.DELIVER_PREDICTIONS))
    outcomes = RecordOutcomesOperator(**resources(model_yaml, Task.RECORD_OUTCOMES))
    performance = MeasurePerformanceOperator(**resources(model_yaml, Task.MEASURE_PERFORMANCE))
    drift = DetectDriftOperator(
        **resources(model_yaml, Task.DETECT_DRIFT),
        chunks=chunks_of(model_yaml, Task.DETECT_DRIFT, after=labels),
        on_alarm_callback=on_alarm_callback,
    )
    labels >> [delivered, outcomes, drift]
    [delivered, outcomes] >> performance

    decision = DecideRetrainOperator(
        **resources(model_yaml, Task.DECIDE_RETRAIN),
        multiple_outputs=True,
        performance=performance.output,
        drift=drift.output,
        on_retrain_callback=on_retrain_callback,
    )
    start = StartDagRunOperator(
        **placement(model_yaml, Task.START_TRAINING),
        trigger_dag_id=train_dag,
        trigger_run_id=decision.output["cause"],
        conf={"through": decision.output["through"], "reason": decision.output["trigger"]},
    )
    decision >> start


def tell(model_yaml: str, message: str) -> BaseNotifier | None:
    """
    Give a notifier that sends *message* to the SNS topic that ``MLOPS_SNS_TOPIC`` names.

    :param model_yaml: Path of the use case's ``model.yaml``; the model's name is the subject.
    :param message: What it says. (templated)
    :return: For a callback of a DAG, task or stage; None, which is no callback, if no topic is named.
    """
    topic = os.environ.get(Environment.SNS_TOPIC)
    if not topic:
        return None
    from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

    connection = os.environ.get(Environment.AWS_CONN_ID) or AWS_CONN
    return SnsNotifier(aws_conn_id=connection, target_arn=topic, subject=load_spec(model_yaml).name, message=message)
