"""Tell people outside Airflow what happens to a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlops_provider.core.names import Environment
from mlops_provider.spec import load_spec

AWS_CONN = "mlops_aws"
"""Connection by which the topic is reached, unless ``MLOPS_AWS_CONN_ID`` names another."""

if TYPE_CHECKING:
    from airflow.sdk import BaseNotifier


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
