"""From an Airflow connection of type ``aws`` to S3, through the Amazon provider's own hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from mlops_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from mlops_provider.stores.s3 import S3


def s3(aws_conn_id: str) -> S3:
    """
    Give access to S3 with what a connection holds: keys, session token, a role to assume, region, endpoint.

    :param aws_conn_id: Connection of type ``aws``, as every hook of the Amazon provider takes it.
    :raises ConfigurationError: There is no such connection, or the Amazon provider is not installed. Not retried.
    """
    from mlops_provider.stores.s3 import S3

    try:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    except ImportError as missing:
        raise ConfigurationError(
            f"The connection {aws_conn_id!r} is read by Airflow's Amazon provider, which comes with: "
            "pip install 'airflow-provider-mlops[amazon]'."
        ) from missing
    try:
        # The provider's hook would go on with whatever credentials the worker's environment has.
        BaseHook.get_connection(aws_conn_id)
    except AirflowNotFoundException as missing:
        raise ConfigurationError(
            f"Airflow has no connection {aws_conn_id!r}. Create it under Admin > Connections (type 'aws')."
        ) from missing
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
