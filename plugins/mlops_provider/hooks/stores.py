"""All stores of a task, each opened from its connection when it is first used."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_provider.core import names
from mlops_provider.hooks import aws
from mlops_provider.hooks.ledger import LedgerHook
from mlops_provider.hooks.registry import RegistryHook
from mlops_provider.hooks.tables import TablesHook
from mlops_provider.stores import environments  # noqa: TID253 - names only
from mlops_provider.stores.suite import Stores  # noqa: TID253 - opens nothing before it is asked

if TYPE_CHECKING:
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.registry import Registry
    from mlops_provider.stores.reports import Reports
    from mlops_provider.stores.s3 import S3
    from mlops_provider.stores.sources import Sources
    from mlops_provider.stores.tables import Tables


class ConnectedStores(Stores):
    """
    The stores behind three connections.

    No connection is looked up before its store is used, so a task that only needs
    the ledger runs where the other connections do not exist.

    :param tables_conn_id: Connection of the tables and reports.
    :param registry_conn_id: Connection of the model registry.
    :param ledger_conn_id: Connection of the ledger.
    """

    def __init__(self, *, tables_conn_id: str, registry_conn_id: str, ledger_conn_id: str) -> None:
        super().__init__()
        self.tables_hook = TablesHook(tables_conn_id)
        self.registry_hook = RegistryHook(registry_conn_id)
        self.ledger_hook = LedgerHook(ledger_conn_id)

    @cached_property
    def tables(self) -> Tables:
        """The versioned tables."""
        from mlops_provider.stores.tables import Tables

        return Tables(self.tables_hook.address, self.tables_hook.s3, self.ledger_identity)

    @cached_property
    def registry(self) -> Registry:
        """The model registry."""
        return self.registry_hook.client

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of decisions."""
        return self.ledger_hook.client

    def spool_s3(self) -> S3:
        """Access to S3 for prediction segments, as for the tables."""
        return self.tables_hook.s3 or super().spool_s3()

    @cached_property
    def sources(self) -> Sources:
        """What others deliver, through the connections that model.yaml names."""
        from mlops_provider.hooks.sources import ConnectedSources

        return ConnectedSources()

    @cached_property
    def reports(self) -> Reports:
        """The reports beside the tables."""
        return self.tables_hook.reports


def stores_of(environment: str, *, tables_conn_id: str, registry_conn_id: str, ledger_conn_id: str) -> Stores:
    """
    Stores of a named environment.

    The environment that ``MLOPS_ENVIRONMENT`` names is this one: its stores are behind the connections
    themselves. Those of another one are where its variables say (``MLOPS_PROD_LEDGER_URL``, …), else behind the
    connections named after it: ``mlops_ledger__prod``.
    """
    if os.environ.get(names.Environment.NAME) == environment:
        suffix = ""
    elif environments.variable_of(environment, names.Environment.LEDGER_URL) in os.environ:
        stores = environments.stores_of(environment)
        conn_id = environments.settings_of(environment).get(names.Environment.AWS_CONN_ID)
        if conn_id and (stores.tables_uri or "").startswith("s3"):
            stores.s3 = aws.s3(conn_id)
        return stores
    else:
        suffix = f"__{environment}"
    return ConnectedStores(
        tables_conn_id=f"{tables_conn_id}{suffix}",
        registry_conn_id=f"{registry_conn_id}{suffix}",
        ledger_conn_id=f"{ledger_conn_id}{suffix}",
    )
