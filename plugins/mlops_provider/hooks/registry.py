"""The MLflow server that holds runs, artifacts and registered models."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_provider.core import names
from mlops_provider.hooks.base import StoreHook

if TYPE_CHECKING:
    from mlops_provider.stores.registry import Registry
    from mlops_provider.stores.registry_api import RegistryApi


class RegistryHook(StoreHook):
    """
    Open the model registry: by MLflow's own client, or by its REST API alone.

    :param conn_id: Connection whose host is MLflow's tracking URI. A password without a login is an access token.
    """

    conn_name_attr = "registry_conn_id"
    default_conn_name = names.REGISTRY_CONN
    conn_type = names.REGISTRY_CONN
    hook_name = "MLOps model registry (MLflow)"
    address_variable = names.Environment.REGISTRY_URI
    allowed_schemes = frozenset({"http", "https", "sqlite", "postgresql"})

    def __init__(self, conn_id: str = names.REGISTRY_CONN) -> None:
        super().__init__(conn_id)

    @cached_property
    def client(self) -> Registry:
        """
        MLflow's client. It looks for credentials in the process's own environment and nowhere else, so they are put
        there: for a task's own process, not for one that serves many connections.
        """
        from mlops_provider.stores.registry import Registry

        address, (login, password) = self.address, self.credentials
        _withdraw()
        if login and not self.from_environment:
            _export("MLFLOW_TRACKING_USERNAME", login)
            _export("MLFLOW_TRACKING_PASSWORD", password)
        elif password and not self.from_environment:
            _export("MLFLOW_TRACKING_TOKEN", password)
        return Registry(address)

    @cached_property
    def api(self) -> RegistryApi:
        """
        The registry by REST: no MLflow has to be installed, and credentials stay with this client.

        :raises ConfigurationError: The registry is a database, not a server. Not retried.
        """
        from mlops_provider.stores.registry_api import RegistryApi

        login, password = self.credentials
        return RegistryApi(self.address, login=login, password=password)

    @property
    def credentials(self) -> tuple[str, str]:
        """
        Login and password, or empty and an access token; from the connection, else from MLflow's variables.

        :raises ConfigurationError: There is neither connection nor address. Not retried.
        """
        if self.from_environment:
            login, password, token = (_own(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD", "TOKEN"))
            return (login, password) if login else ("", token)
        connection = self.connection
        return connection.login or "", connection.password or ""

    @property
    def ui_url(self) -> str:
        """Address of MLflow's pages for a person's browser: ``MLOPS_REGISTRY_UI_URL``, else the tracking URI."""
        return os.environ.get("MLOPS_REGISTRY_UI_URL") or self.address


_exported: dict[str, tuple[str, str | None]] = {}
"""Variables that a connection of this process set: its value, and the value before it."""


def _own(variable: str) -> str:
    """Value that the variable had before a connection set it."""
    ours, before = _exported.get(variable, (None, None))
    value = os.environ.get(variable)
    return (before if value == ours else value) or ""


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
