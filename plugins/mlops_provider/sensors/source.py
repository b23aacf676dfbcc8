"""Wait until others have delivered a partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlops_provider.core import partitions
from mlops_provider.operators.base import PartitionStepOperator

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class SourceSensor(PartitionStepOperator):
    """
    Wait, deferred, until the file of a partition is on S3, where ``sources: land`` of model.yaml has it.

    The work is done by the Amazon provider's ``S3KeySensor``, which is imported when the task runs, not when the DAG is
    parsed: its module pulls in boto3. A run without a partition fails at once instead of waiting for a file that never
    comes.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param poll_interval: Seconds between looks.
    :param wait_timeout: Longest wait for the file, in seconds; then the task fails. Retried.
    :raises ConfigurationError: S3 refuses the credentials of the source's connection. Not retried.
    :raises StoreUnavailableError: S3 does not answer. Retried.
    """

    def __init__(self, *, poll_interval: float = 5.0, wait_timeout: float = 7 * 86_400.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if poll_interval <= 0:
            raise ValueError(f"poll_interval is {poll_interval}; it must be above 0 seconds.")
        self.poll_interval = poll_interval
        self.wait_timeout = wait_timeout

    def step(self, context: Context, origin: Origin) -> None:
        month = partitions.check(self.partition)
        source = self.spec.source("land")
        if source is None or not source.on_s3:
            self.log.info("The source of %s is not on S3: nothing to wait for.", self.spec.name)
            return
        uri, access = source.address(month), self.stores.sources.s3(source.conn_id)
        with access.explained(uri):
            self.sensor(uri, source.conn_id).execute(context)  # defers, unless the file is there
        self.log.info("%s is there.", uri)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> None:
        """Called on resume: the file is there, or S3 could not be asked."""
        self.sensor("", "").execute_complete(context, dict(event))
        self.log.info("The file of %s is there.", self.partition)

    def sensor(self, uri: str, conn_id: str) -> S3KeySensor:
        """The provider's sensor for one file."""
        from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor

        return S3KeySensor(
            task_id=self.task_id,
            bucket_key=uri,
            aws_conn_id=conn_id or None,
            deferrable=True,
            poke_interval=self.poll_interval,
            timeout=self.wait_timeout,
        )
