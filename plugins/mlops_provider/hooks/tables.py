"""The folder or bucket that holds the Delta tables."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowNotFoundException

from mlops_provider.core import names
from mlops_provider.hooks.base import StoreHook

if TYPE_CHECKING:
    from mlops_provider.stores.reports import Reports
    from mlops_provider.stores.s3 import S3
    from mlops_provider.stores.tables import Tables


class TablesHook(StoreHook):
    """
    Open the versioned tables, and the reports that lie beside them.

    :param conn_id: Connection whose host is the root, such as ``/data`` or ``s3://bucket/prefix``. For S3 its
        extra ``aws_conn_id`` names the connection of type ``aws`` that holds credentials, region and endpoint.
    """

    conn_name_attr = "tables_conn_id"
    default_conn_name = names.TABLES_CONN
    conn_type = names.TABLES_CONN
    hook_name = "MLOps tables"
    address_variable = names.Environment.TABLES_URI
    allowed_schemes = frozenset({"file", "s3"})

    def __init__(self, conn_id: str = names.TABLES_CONN) -> None:
        super().__init__(conn_id)

    @cached_property
    def client(self) -> Tables:
        """The tables under this root."""
        from mlops_provider.stores.tables import Tables

        return Tables(self.address, self.s3)

    @property
    def aws_conn_id(self) -> str:
        """
        Connection that holds the credentials of S3; empty if none is named.

        Then the worker's own are used: its ``AWS_*`` variables, profile or instance role.
        """
        if self.from_environment:
            return os.environ.get(names.Environment.AWS_CONN_ID, "")
        try:
            return str(self.get_connection(self.conn_id).extra_dejson.get("aws_conn_id") or "")
        except AirflowNotFoundException:
            return ""

    @cached_property
    def s3(self) -> S3 | None:
        """Access to S3 through the named connection; None if none is named."""
        from mlops_provider.hooks import aws

        return aws.s3(self.aws_conn_id) if self.aws_conn_id else None

    @property
    def reports_root(self) -> str:
        """Root of the reports: ``MLOPS_REPORTS_URI``, or a folder beside the tables."""
        return os.environ.get(names.Environment.REPORTS_URI) or f"{self.address.rstrip('/')}/{names.REPORTS_FOLDER}"

    @cached_property
    def reports(self) -> Reports:
        """The reports; opening them imports no ML library, so the web server may do it."""
        from mlops_provider.stores.reports import Reports

        return Reports(self.reports_root, self.s3)
