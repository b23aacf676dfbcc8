"""
Amazon's services on the loopback interface, for ``mlops up --store s3`` and the S3 of a cluster: moto, in memory.

Airflow's processes get no ``AWS_*`` variable: tasks, pages and task logs use the connection ``mlops_aws``, which
``--store s3`` has in Secrets Manager. Programs outside Airflow (MLflow, the model server, ``mlops``) get the variables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mlops_provider.core.names import Environment
from mlops_provider.exceptions import ConfigurationError

BUCKET, LANDING, LOGS, TOPIC, QUEUE = "mlops", "mlops-landing", "mlops-logs", "mlops", "mlops-inbox"
CONN_ID = "mlops_aws"
REGION = "us-east-1"
# moto takes any keys; they are no secret, and open nothing else.
_KEYS = {"aws_access_key_id": "local", "aws_secret_access_key": "local-only"}
_SECRETS_PREFIX = "airflow/connections"
ACCOUNT = "123456789012"
"""The account that moto plays."""


def require() -> None:
    """
    Make sure that moto is installed.

    :raises ConfigurationError: It is not.
    """
    if find_spec("moto") is None:
        raise ConfigurationError(
            "S3 in memory is moto's, a development package: `make demo STORE=s3` and `make cluster` install it, or: "
            "pip install 'moto[server]'."
        )


def settings(url: str) -> dict[str, str]:
    """The ``MLOPS_*`` variables that lead to S3."""
    return {
        Environment.TABLES_URI: f"s3://{BUCKET}/tables",
        Environment.SPOOL_URI: f"s3://{BUCKET}/spool",
        Environment.AWS_CONN_ID: CONN_ID,
        Environment.LANDING_URI: f"s3://{LANDING}",
        Environment.SNS_TOPIC: f"arn:aws:sns:{REGION}:{ACCOUNT}:{TOPIC}",
    }


def variables(url: str) -> dict[str, str]:
    """The ``AWS_*`` variables for programs outside Airflow."""
    return {
        "AWS_ACCESS_KEY_ID": _KEYS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": _KEYS["aws_secret_access_key"],
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": url,
    }


def airflow(url: str) -> dict[str, str]:
    """Airflow's settings: connections from Secrets Manager, task logs on S3."""
    backend = {
        "connections_prefix": _SECRETS_PREFIX,
        # Only this one: the others are in Airflow's database, and every look-up would cost a request.
        "connections_lookup_pattern": f"^{CONN_ID}$",
        "variables_prefix": None,
        "config_prefix": None,
        "endpoint_url": url,
        "region_name": REGION,
        **_KEYS,
    }
    return {
        "AIRFLOW__SECRETS__BACKEND": "airflow.providers.amazon.aws.secrets.secrets_manager.SecretsManagerBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(backend),
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
        "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": CONN_ID,
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": f"s3://{LOGS}",
    }


def furnish(url: str) -> None:
    """Make the buckets, the secret that is Airflow's connection, and a topic with a queue behind it."""
    s3, secrets, sns, sqs = (_client(url, service) for service in ("s3", "secretsmanager", "sns", "sqs"))
    for bucket in (BUCKET, LANDING, LOGS):
        s3.create_bucket(Bucket=bucket)
    connection: Mapping[str, Any] = {
        "conn_type": "aws",
        "login": _KEYS["aws_access_key_id"],
        "password": _KEYS["aws_secret_access_key"],
        "extra": {"region_name": REGION, "endpoint_url": url},
    }
    secrets.create_secret(Name=f"{_SECRETS_PREFIX}/{CONN_ID}", SecretString=json.dumps(connection))
    topic = sns.create_topic(Name=TOPIC)["TopicArn"]
    queue = sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)


def messages(url: str) -> list[dict[str, str]]:
    """
    Take what was sent to the topic out of its queue.

    :return: ``Subject`` and ``Message`` of each, in the order of their arrival.
    """
    sqs = _client(url, "sqs")
    queue, found = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"], []
    while batch := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
        for message in batch:
            body = json.loads(message["Body"])
            found.append({name: body.get(name, "") for name in ("Subject", "Message", "Timestamp")})
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return sorted(found, key=lambda each: each["Timestamp"])


def _client(url: str, service: str) -> Any:
    import boto3

    return boto3.client(service, endpoint_url=url, region_name=REGION, **_KEYS)
