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
        """The tracking URI; the connection's credentials replace an earlier connection's in MLflow's environment."""
        _withdraw()
        if connection.login:
            _export("MLFLOW_TRACKING_USERNAME", connection.login)
            _export("MLFLOW_TRACKING_PASSWORD", connection.password or "")
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


_exported: dict[str, tuple[str, str | None]] = {}
"""Variables that a connection of this process set: its value, and the value before it."""


def _export(variable: str, value: str) -> None:
    _exported[variable] = value, os.environ.get(variable)
    os.environ[variable] = value


def _withdraw() -> None:
    """Restore what connections changed, so that no server gets another one's credentials."""
    while _exported:
        variable, (ours, before) = _exported.popitem()
        if os.environ.get(variable) != ours:
            continue  # somebody else has set it since
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
