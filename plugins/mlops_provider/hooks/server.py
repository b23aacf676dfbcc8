"""The model server that answers predictions."""

from __future__ import annotations

import os

from mlops_provider.core import names
from mlops_provider.hooks.base import StoreHook


class ServerHook(StoreHook):
    """
    Know where the model server is, and its token.

    :param conn_id: Connection whose host is the server's URL, such as ``http://127.0.0.1:8090``, and whose password is
        a token, if the server asks for one.
    """

    conn_name_attr = "server_conn_id"
    default_conn_name = names.SERVER_CONN
    conn_type = names.SERVER_CONN
    hook_name = "MLOps model server"
    address_variable = names.Environment.SERVER_URL
    allowed_schemes = frozenset({"http", "https"})

    def __init__(self, conn_id: str = names.SERVER_CONN) -> None:
        super().__init__(conn_id)

    @property
    def token(self) -> str:
        """Token that the server asks for; empty if there is none. From where the address comes from."""
        if self.from_environment:
            return os.environ.get(names.Environment.SERVER_TOKEN, "")
        return str(self.get_connection(self.conn_id).password or "")
