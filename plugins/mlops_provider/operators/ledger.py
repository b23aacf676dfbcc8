"""The ledger alone: keep a decision of somebody's own DAG, append-only and hash-chained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.core import names
from mlops_provider.hooks.ledger import LedgerHook
from mlops_provider.operators.base import MLOpsOperator, data_time

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class RecordingOperator(MLOpsOperator):
    """
    A step whose finding belongs into the ledger, and that needs no other store of the suite.

    :param model: What it is about, such as the model's name; by default the DAG's ID. (templated)
    :param ledger_conn_id: Connection of the ledger. (templated)
    """

    template_fields: Sequence[str] = ("model", "ledger_conn_id")

    def __init__(
        self, *, model: str = "{{ dag.dag_id }}", ledger_conn_id: str = names.LEDGER_CONN, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.ledger_conn_id = ledger_conn_id


class RecordDecisionOperator(RecordingOperator):
    """
    Record a decision in the ledger; a retry that decides the same finds the record of its first try.

    :param decision: What was decided, JSON with text keys; another task's output does. (templated)
    :return: Ledger ID of the record.
    :raises ConfigurationError: There is no ledger, or the decision is no JSON. Not retried.
    :raises StoreUnavailableError: The ledger can't be reached. Retried.
    """

    template_fields: Sequence[str] = (*RecordingOperator.template_fields, "decision")

    def __init__(self, *, decision: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decision = decision

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps.evidence import record_decision

        ledger = LedgerHook(self.ledger_conn_id).client
        record = record_decision(ledger, self.model, self.decision, origin=origin, as_of=data_time(context))
        self.log.info("Recorded in the ledger as %s.", record)
        return record
