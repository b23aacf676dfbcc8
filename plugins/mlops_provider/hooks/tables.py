"""The folder or bucket that holds the Delta tables."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_provider.core import names
from mlops_provider.hooks.base import StoreHook

if TYPE_CHECKING:
    from mlops_provider.stores.reports import Reports
    from mlops_provider.stores.tables import Tables


class TablesHook(StoreHook):
    """
    Open the versioned tables, and the reports that lie beside them.

    :param conn_id: Connection whose host is the root, such as ``/data`` or ``s3://bucket/prefix``.
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

        return Tables(self.address)

    @property
    def reports_root(self) -> str:
        """Root of the reports: ``MLOPS_REPORTS_URI``, or a folder beside the tables."""
        return os.environ.get(names.Environment.REPORTS_URI) or f"{self.address.rstrip('/')}/{names.REPORTS_FOLDER}"

    @cached_property
    def reports(self) -> Reports:
        """The reports; opening them imports no ML library, so the web server may do it."""
        from mlops_provider.stores.reports import Reports

        return Reports(self.reports_root)
