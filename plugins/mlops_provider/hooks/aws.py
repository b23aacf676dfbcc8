"""From an Airflow connection of type ``aws`` to S3 and SageMaker, through the Amazon provider's own hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from mlops_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from mlops_provider.stores.s3 import S3
    from mlops_provider.stores.sagemaker import SageMakerApi

_LIMITS = {"connect_timeout": 5, "read_timeout": 65, "retries": {"mode": "standard", "total_max_attempts": 5}}
"""Of calls to SageMaker, in botocore's words; an endpoint itself gives up on its container after 60 seconds."""


def s3(aws_conn_id: str) -> S3:
    """
    Give access to S3 with what a connection holds: keys, session token, a role to assume, region, endpoint.

    :param aws_conn_id: Connection of type ``aws``, as every hook of the Amazon provider takes it.
    :raises ConfigurationError: There is no such connection, or the Amazon provider is not installed. Not retried.
    """
    _require_provider(f"The connection {aws_conn_id!r}", aws_conn_id)
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    from mlops_provider.stores.s3 import S3

    source = f"connection {aws_conn_id!r}"
    hook = AwsBaseHook(aws_conn_id=aws_conn_id, client_type="s3")
    with S3(source=source).explained(source):
        session = hook.get_session(region_name=hook.region_name)
    return S3(
        session,
        endpoint_url=hook.conn_config.get_service_endpoint_url("s3"),
        config=hook.config,
        verify=hook.verify,
        source=source,
    )


def _require_provider(what: str, aws_conn_id: str) -> None:
    try:
        import airflow.providers.amazon.aws.hooks.base_aws  # noqa: F401 - only whether it is there
    except ImportError as missing:
        raise ConfigurationError(
            f"{what} is read by Airflow's Amazon provider, which comes with: "
            "pip install 'airflow-provider-mlops[amazon]'."
        ) from missing
    if not aws_conn_id:
        return
    try:
        # The provider's hook would go on with whatever credentials the worker's environment has.
        BaseHook.get_connection(aws_conn_id)
    except AirflowNotFoundException as missing:
        raise ConfigurationError(
            f"Airflow has no connection {aws_conn_id!r}. Create it under Admin > Connections (type 'aws')."
        ) from missing


def sagemaker(endpoint: str, aws_conn_id: str) -> SageMakerApi:
    """
    Give access to an endpoint of SageMaker, through the Amazon provider's own hooks.

    :param endpoint: Name of the endpoint, which need not be there yet.
    :param aws_conn_id: Connection of type ``aws``; empty for what the worker's environment holds.
    :raises ConfigurationError: There is no such connection, or the Amazon provider is not installed. Not retried.
    """
    _require_provider("SageMaker", aws_conn_id)
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

    from mlops_provider.stores.s3 import S3
    from mlops_provider.stores.sagemaker import SageMakerApi

    access = s3(aws_conn_id) if aws_conn_id else S3()
    with access.explained(access.source):
        control = SageMakerHook(aws_conn_id=aws_conn_id or None, config=_LIMITS).conn
        runtime, metrics = (
            AwsBaseHook(aws_conn_id=aws_conn_id or None, client_type=client, config=_LIMITS).conn
            for client in ("sagemaker-runtime", "cloudwatch")
        )
    return SageMakerApi(endpoint, control=control, runtime=runtime, metrics=metrics, s3=access, source=access.source)
