"""The ledger alone: keep a decision of somebody's own DAG, append-only and hash-chained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.core import names
from mlops_provider.hooks.ledger import LedgerHook
from mlops_provider.operators.base import MLOpsOperator
from mlops_provider.operators.tables import data_time

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class RecordDecisionOperator(MLOpsOperator):
    """
    Record a decision in the ledger; a retry that decides the same finds the record of its first try.

    :param decision: What was decided, JSON with text keys; another task's output does. (templated)
    :param model: What it is about, such as the model's name; by default the DAG's ID. (templated)
    :param ledger_conn_id: Connection of the ledger. (templated)
    :return: Ledger ID of the record.
    :raises ConfigurationError: There is no ledger, or the decision is no JSON. Not retried.
    :raises StoreUnavailableError: The ledger can't be reached. Retried.
    """

    template_fields: Sequence[str] = ("decision", "model", "ledger_conn_id")

    def __init__(
        self,
        *,
        decision: Mapping[str, Any],
        model: str = "{{ dag.dag_id }}",
        ledger_conn_id: str = names.LEDGER_CONN,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.decision = decision
        self.model = model
        self.ledger_conn_id = ledger_conn_id

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps.evidence import record_decision

        ledger = LedgerHook(self.ledger_conn_id).client
        record = record_decision(ledger, self.model, self.decision, origin=origin, as_of=data_time(context))
        self.log.info("Recorded in the ledger as %s.", record)
        return record
