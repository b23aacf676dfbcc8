"""A person's word before a version gets traffic, asked for in Airflow's own pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlops_provider.links import report_url
from mlops_provider.operators.base import ModelStepOperator, origin_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin


class ApproveVersionOperator(ModelStepOperator):
    """
    Ask a person whether a version may have traffic, if model.yaml wants that; skip what follows if not.

    Waits without a worker slot, under Required Actions of Airflow's pages. Who started the training or the deployment
    is asked again when they approve it themselves. A question that nobody answers in time is rejected. The waiting is
    done by Airflow's ``ApprovalOperator``.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param version: Registered version. (templated)
    :return: Ledger ID of the answer; None if nobody had to be asked.
    :raises RolloutRefusedError: The version never passed the gate, or is out of date. Not retried.
    """

    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "version")

    def __init__(self, *, version: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version

    def step(self, context: Context, origin: Origin) -> str | None:
        from mlops_provider.steps import human_approval

        spec = self.spec
        asked = human_approval.ask(
            spec.name,
            self.stores,
            self.version,
            policy=spec.approval.policy,
            approvers=spec.approval.approvers,
            links=self._links,
            origin=origin,
        )
        if asked.answer is not None:
            return self._follow(context, asked.answer)
        if asked.request is None:
            self.log.info("model.yaml asks for nobody's approval (approval: %s)", spec.approval.policy)
            return None
        self._form(asked.request).execute(context)
        raise AssertionError("waiting for an answer ended without one")

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> str | None:
        """Record what was answered; called by Airflow when it was, or when the time was over."""
        return self.in_words(lambda: self._answered(context, event))  # type: ignore[no-any-return]

    def _answered(self, context: Context, event: Mapping[str, Any]) -> str | None:
        from airflow.providers.standard.operators.hitl import ApprovalOperator

        from mlops_provider.exceptions import EvidenceError, NotApprovedError
        from mlops_provider.steps import human_approval

        origin, model = origin_of(context), self.spec.name
        request = human_approval.asked_by(self.stores, model, self.version, origin)
        if request is None:
            raise EvidenceError(f"The ledger holds no question about version {self.version} of {model!r} by this task.")
        if "error" in event and event.get("error_type") != "timeout":
            raise RuntimeError(f"Airflow could not take the answer: {event['error']}")
        user = event.get("responded_by_user") or {}
        late = not user
        reason = (event.get("params_input") or {}).get("reason") or "no reason given"
        try:
            record = human_approval.answer(
                self.stores,
                request,
                approved=not late and event["chosen_options"] == [ApprovalOperator.APPROVE],
                reason=f"nobody answered within {self.spec.approval.timeout_hours:g} hours" if late else reason,
                by=str(user.get("name") or user.get("id") or ""),
                also_called=(str(user.get("id") or ""),),
                approvers=self.spec.approval.approvers,
                responded_at=event.get("responded_at"),
                origin=origin,
            )
        except NotApprovedError as refused:
            self.log.warning("%s The question is asked again.", refused)
            return self.step(context, origin)
        return self._follow(context, record)

    def _follow(self, context: Context, answer: Record) -> str:
        """Go on, or stop here."""
        from mlops_provider.steps import approval, human_approval

        if not answer.payload["approved"]:
            human_approval.show(self.stores, answer)
            self.log.warning("%s", approval.rejection(answer))
            self.stop_here(context, answer.record_id)
        self.log.info("Version %s was approved by %s", self.version, answer.payload["by"])
        return answer.record_id

    def _form(self, request: Record) -> Any:
        from airflow.providers.standard.operators.hitl import ApprovalOperator
        from airflow.sdk import Param

        spec = self.spec
        return ApprovalOperator(
            task_id=self.task_id,
            subject=f"Give traffic to {spec.name} version {self.version}?",
            body=request.payload["body"],
            defaults=ApprovalOperator.REJECT,
            params={"reason": Param(None, type=["null", "string"], title="Reason", description="For the record.")},
            assigned_users=[{"id": name, "name": name} for name in spec.approval.approvers] or None,
            response_timeout=timedelta(hours=spec.approval.timeout_hours),
        )

    def _links(self, evaluation: Record) -> Mapping[str, str]:
        """The evaluation's report, and the version in MLflow where that has pages."""
        from mlops_provider.hooks.registry import RegistryHook

        found = {}
        if report := evaluation.payload.get("report"):
            found["Report of the evaluation"] = report_url(report, self.tables_conn_id)
        ui_url = RegistryHook(self.registry_conn_id).ui_url
        if ui_url.startswith(("http://", "https://")):
            found["MLflow"] = f"{ui_url.rstrip('/')}/#/models/{self.spec.name}/versions/{self.version}"
        return found
