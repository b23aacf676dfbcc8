"""All stores of a project in one hand, each opened when it is first used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_provider.core.names import REPORTS_FOLDER, Environment
from mlops_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.registry import Registry
    from mlops_provider.stores.reports import Reports
    from mlops_provider.stores.s3 import S3
    from mlops_provider.stores.sources import Sources
    from mlops_provider.stores.tables import Tables


class Stores:
    """
    Tables, registry, ledger and reports.

    An address that is missing is missed only when its store is used; so is the library behind it.

    :param tables_uri: Root of the tables, such as ``/data`` or ``s3://bucket/prefix``.
    :param registry_uri: MLflow's tracking URI.
    :param ledger_url: Database URL of the ledger.
    :param reports_uri: Root of the reports; by default a folder beside the tables.
    :param s3: Access to S3, where tables and reports may lie; by default with what the environment holds.
    """

    def __init__(
        self,
        *,
        tables_uri: str | None = None,
        registry_uri: str | None = None,
        ledger_url: str | None = None,
        reports_uri: str | None = None,
        s3: S3 | None = None,
    ) -> None:
        self.tables_uri = tables_uri
        self.registry_uri = registry_uri
        self.ledger_url = ledger_url
        self.reports_uri = reports_uri
        self.s3 = s3

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Stores:
        """Take the addresses from the ``MLOPS_*`` variables."""
        return cls(
            tables_uri=environment.get(Environment.TABLES_URI),
            registry_uri=environment.get(Environment.REGISTRY_URI),
            ledger_url=environment.get(Environment.LEDGER_URL),
            reports_uri=environment.get(Environment.REPORTS_URI),
        )

    @cached_property
    def tables(self) -> Tables:
        """The versioned tables."""
        from mlops_provider.stores.tables import Tables

        return Tables(_given(self.tables_uri, Environment.TABLES_URI), self.s3, self.ledger_identity)

    @cached_property
    def registry(self) -> Registry:
        """The model registry."""
        from mlops_provider.stores.registry import Registry

        return Registry(_given(self.registry_uri, Environment.REGISTRY_URI))

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of decisions."""
        from mlops_provider.stores.ledger import Ledger

        return Ledger(_given(self.ledger_url, Environment.LEDGER_URL))

    def ledger_identity(self) -> str | None:
        """Which ledger knows what these stores hold; None if none is declared, or it is empty."""
        try:
            return self.ledger.identity
        except ConfigurationError:
            return None

    def spool_s3(self) -> S3:
        """Access to S3 for prediction segments that were shipped there."""
        from mlops_provider.stores.s3 import S3

        return self.s3 or S3()

    @cached_property
    def sources(self) -> Sources:
        """What others deliver."""
        from mlops_provider.stores.sources import Sources

        return Sources()

    @cached_property
    def reports(self) -> Reports:
        """The rendered reports."""
        from mlops_provider.stores.reports import Reports

        beside = f"{self.tables_uri.rstrip('/')}/{REPORTS_FOLDER}" if self.tables_uri else None
        return Reports(_given(self.reports_uri or beside, Environment.REPORTS_URI), self.s3)


def _given(address: str | None, variable: Environment) -> str:
    if address:
        return address
    raise ConfigurationError(f"{variable} is not set: it says where this store is. `mlops doctor` lists all settings.")
