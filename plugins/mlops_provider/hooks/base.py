"""How every hook of this package finds its address: argument, then environment, then Airflow connection."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from mlops_provider.exceptions import ConfigurationError


class StoreHook(BaseHook):
    """
    Base of the hooks: resolves the address of one store.

    A connection ID other than the default one is an argument and wins; otherwise the
    environment variable *address_variable* is used if it is set; otherwise the connection.

    :param conn_id: Airflow connection ID.
    """

    address_variable: ClassVar[str]
    conn_type: ClassVar[str]
    default_conn_name: ClassVar[str]
    allowed_schemes: ClassVar[frozenset[str]]

    def __init__(self, conn_id: str) -> None:
        super().__init__()
        self.conn_id = conn_id

    @property
    def configured(self) -> bool:
        """Whether anybody said where this store is; a connection ID of the DAG's own choice counts as said."""
        if self.conn_id != self.default_conn_name or self.from_environment:
            return True
        try:
            self.get_connection(self.conn_id)
        except AirflowNotFoundException:
            return False
        return True

    @property
    def address(self) -> str:
        """
        Address of the store as a URI; may hold a password, so it is not for logs.

        :raises ConfigurationError: Neither variable nor connection exist, or the scheme is not allowed.
        """
        if self.from_environment:
            return self.checked(os.environ[self.address_variable])
        return self.checked(self.address_of(self.connection))

    @property
    def connection(self) -> Any:
        """
        The Airflow connection.

        :raises ConfigurationError: There is none.
        """
        try:
            return self.get_connection(self.conn_id)
        except AirflowNotFoundException as missing:
            default = self.conn_id == self.default_conn_name
            instead = f", or set {self.address_variable} in the worker's environment" if default else ""
            raise ConfigurationError(
                f"Airflow has no connection {self.conn_id!r}. Create it under Admin > Connections (type "
                f"{self.conn_type!r}){instead}."
            ) from missing

    @property
    def from_environment(self) -> bool:
        """Whether the address is that of the environment variable."""
        return self.conn_id == self.default_conn_name and bool(os.environ.get(self.address_variable))

    def address_of(self, connection: Any) -> str:
        """Read the address out of a connection; its host holds the whole URI unless a hook says otherwise."""
        return str(connection.host or "")

    def checked(self, address: str) -> str:
        """Refuse addresses with a scheme that this store cannot speak; a plain path counts as ``file``."""
        scheme = address.split("://", 1)[0].split("+", 1)[0] if "://" in address else "file"
        if not address or scheme not in self.allowed_schemes:
            allowed = ", ".join(sorted(self.allowed_schemes))
            raise ConfigurationError(
                f"Connection {self.conn_id!r} gives no usable address (scheme {scheme!r}): allowed are {allowed}."
            )
        return address
