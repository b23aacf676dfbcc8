"""The MLflow server that holds runs, artifacts and registered models."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_provider.core import names
from mlops_provider.hooks.base import StoreHook

if TYPE_CHECKING:
    from mlops_provider.stores.registry import Registry


class RegistryHook(StoreHook):
    """
    Open the model registry.

    :param conn_id: Connection whose host is MLflow's tracking URI. Its login and password, if any, are put
        into the task's own environment, the only place where MLflow looks for them.
    """

    conn_name_attr = "registry_conn_id"
    default_conn_name = names.REGISTRY_CONN
    conn_type = names.REGISTRY_CONN
    hook_name = "MLOps model registry (MLflow)"
    address_variable = names.Environment.REGISTRY_URI
    allowed_schemes = frozenset({"http", "https", "sqlite", "postgresql"})

    def __init__(self, conn_id: str = names.REGISTRY_CONN) -> None:
        super().__init__(conn_id)

    def address_of(self, connection: Any) -> str:
        """The tracking URI; credentials of the connection are exported for MLflow's client."""
        if connection.login:
            os.environ["MLFLOW_TRACKING_USERNAME"] = connection.login
            os.environ["MLFLOW_TRACKING_PASSWORD"] = connection.password or ""
        return super().address_of(connection)

    @cached_property
    def client(self) -> Registry:
        """The registry's client."""
        from mlops_provider.stores.registry import Registry

        return Registry(self.address)

    @property
    def ui_url(self) -> str:
        """Address of MLflow's pages for a person's browser: ``MLOPS_REGISTRY_UI_URL``, else the tracking URI."""
        return os.environ.get("MLOPS_REGISTRY_UI_URL") or self.address
