"""The database that holds what was decided."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_provider.core import names
from mlops_provider.hooks.base import StoreHook

if TYPE_CHECKING:
    from mlops_provider.stores.ledger import Ledger


class LedgerHook(StoreHook):
    """
    Open the ledger.

    :param conn_id: Connection with host, port, schema (database), login and password of a Postgres
        server; or, for one machine, with a host such as ``sqlite:////data/ledger.db``.
    """

    conn_name_attr = "ledger_conn_id"
    default_conn_name = names.LEDGER_CONN
    conn_type = names.LEDGER_CONN
    hook_name = "MLOps ledger"
    address_variable = names.Environment.LEDGER_URL
    allowed_schemes = frozenset({"sqlite", "postgresql"})

    def __init__(self, conn_id: str = names.LEDGER_CONN) -> None:
        super().__init__(conn_id)

    def address_of(self, connection: Any) -> str:
        """A database URL: the host as it is when it holds one, else built for Postgres from the single fields."""
        host = super().address_of(connection)
        if "://" in host or not host:
            return host
        from sqlalchemy import URL

        url = URL.create(
            "postgresql+psycopg2",
            username=connection.login,
            password=connection.password,
            host=host,
            port=connection.port,
            database=connection.schema,
        )
        return url.render_as_string(hide_password=False)

    @cached_property
    def client(self) -> Ledger:
        """The ledger's client."""
        from mlops_provider.stores.ledger import Ledger

        return Ledger(self.address)
