"""Where models are served: the bundled server, or SageMaker."""

from __future__ import annotations

import os

from mlops_provider.core import names
from mlops_provider.hooks.base import StoreHook


class ServerHook(StoreHook):
    """
    Know where models are served, and how to get in.

    :param conn_id: Connection whose host is the server's URL, such as ``http://127.0.0.1:8090``, and whose password is
        a token, if the server asks for one. Or the host is ``sagemaker://`` and a prefix of the endpoints' names,
        and the extra fields hold the settings of :func:`mlops_provider.steps.targets.target_of`.
    """

    conn_name_attr = "server_conn_id"
    default_conn_name = names.SERVER_CONN
    conn_type = names.SERVER_CONN
    hook_name = "MLOps model server"
    address_variable = names.Environment.SERVER_URL
    allowed_schemes = frozenset({"http", "https", "sagemaker"})

    def __init__(self, conn_id: str = names.SERVER_CONN) -> None:
        super().__init__(conn_id)

    @property
    def settings(self) -> dict[str, str]:
        """What the target needs to know beside its address, which may hold it as a query."""
        if self.from_environment:
            aws_conn_id = os.environ.get(names.Environment.AWS_CONN_ID)
            return {"aws_conn_id": aws_conn_id} if aws_conn_id else {}
        extra = self.connection.extra_dejson
        return {name: str(extra[name]) for name in names.SAGEMAKER_SETTINGS if extra.get(name)}

    @property
    def token(self) -> str:
        """Token that the server asks for; empty if there is none. From where the address comes from."""
        if self.from_environment:
            return os.environ.get(names.Environment.SERVER_TOKEN, "")
        return str(self.get_connection(self.conn_id).password or "")
