"""From one environment to the next, such as from staging to prod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.operators.base import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.suite import Stores


class PromoteModelOperator(StepOperator):
    """
    Copy a registered version with its evidence into another environment; nothing is trained anew.

    Safe to retry: a second attempt finds what the first one made. The stores of the environment that
    ``MLOPS_ENVIRONMENT`` names are behind this operator's connections; those of environment ``prod`` behind connections
    of the same names with ``__prod`` at the end, or where ``MLOPS_PROD_TABLES_URI``, ``…_REGISTRY_URI`` and
    ``…_LEDGER_URL`` say. The event of each asset in ``outlets`` carries the model and its new version.

    :param model: Registered model. (templated)
    :param version: Its version in *source*. (templated)
    :param source: Environment it comes from, such as ``staging``. (templated)
    :param destination: Environment it goes to, such as ``prod``. (templated)
    :return: The version number in *destination*, as a string.
    :raises RolloutRefusedError: It never passed the gate in *source*, or was rolled back there. Not retried.
    :raises EvidenceError: Evidence or files were changed after they were recorded. Not retried.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*StepOperator.template_fields, "model", "version", "source", "destination")

    def __init__(self, *, model: str, version: str, source: str, destination: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.source = source
        self.destination = destination

    def stores_of(self, environment: str) -> Stores:
        """The stores of an environment."""
        from mlops_provider.hooks.stores import stores_of

        return stores_of(
            environment,
            tables_conn_id=self.tables_conn_id,
            registry_conn_id=self.registry_conn_id,
            ledger_conn_id=self.ledger_conn_id,
        )

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps.promote import promote

        version = promote(
            self.model,
            self.version,
            source=self.stores_of(self.source),
            destination=self.stores_of(self.destination),
            source_name=self.source,
            destination_name=self.destination,
            origin=origin,
        )
        self.announce(context, model=self.model, version=version)
        return version
