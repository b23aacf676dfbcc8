"""One model per segment, between the training of their parent and the evaluation of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.links import RunLink
from mlops_provider.operators.base import ModelStepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class PlanSegmentsOperator(ModelStepOperator):
    """
    List the segments of the training rows, and fit the parent that their children are compared with.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param through: Month the candidate will be judged on. (templated)
    :param run_id: MLflow run of the parent, the model of all rows. (templated)
    :param declaration: Ledger ID of the gate's declaration. (templated)
    :return: The segments, for ``TrainSegmentOperator.partial(...).expand(segment=...)``.
    :raises DataRejectedError: There are more segments than declared, or none. Not retried.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "through", "run_id", "declaration")

    def __init__(self, *, through: str, run_id: str, declaration: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.through = through
        self.run_id = run_id
        self.declaration = declaration

    def step(self, context: Context, origin: Origin) -> list[dict[str, str]]:
        from mlops_provider.steps import segments

        return segments.plan_segments(
            self.spec, self.stores, self.through, run_id=self.run_id, declaration=self.declaration, origin=origin
        )


class TrainSegmentOperator(ModelStepOperator):
    """
    Fit a model on one segment, and take it if it is shown better there than the model of all rows.

    A segment that loses, or has too few rows, is a decision, not a failure.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param through: Month the candidate will be judged on. (templated)
    :param segment: The segment, one of those that ``PlanSegmentsOperator`` gave. (templated)
    :param declaration: Ledger ID of the gate's declaration. (templated)
    :return: Ledger ID of the decision.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "through", "segment", "declaration")

    def __init__(self, *, through: str, segment: Mapping[str, str], declaration: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.through = through
        self.segment = segment
        self.declaration = declaration

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import segments

        record = segments.train_segment(
            self.spec, self.stores, self.through, segment=self.segment, declaration=self.declaration, origin=origin
        )
        decision = self.stores.ledger.get(record).payload
        self.log.info("Answered by %s. %s", decision["answered_by"], decision["reason"])
        return record


class AssembleModelOperator(ModelStepOperator):
    """
    Put the parent and the children that won together, and log them to MLflow as one model.

    A retry continues the same MLflow run. The task links to that run.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param through: Month the candidate will be judged on. (templated)
    :param run_id: MLflow run of the parent. (templated)
    :param segments: Ledger IDs of what was decided about each segment. (templated)
    :param declaration: Ledger ID of the gate's declaration. (templated)
    :return: MLflow run ID of the candidate.
    :raises EvidenceError: A segment was not decided, or its model is not there any more. Not retried.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (
        *ModelStepOperator.template_fields,
        "through",
        "run_id",
        "segments",
        "declaration",
    )
    operator_extra_links = (RunLink(),)

    def __init__(self, *, through: str, run_id: str, segments: Sequence[str], declaration: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.through = through
        self.run_id = run_id
        self.segments = segments
        self.declaration = declaration

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import segments

        run_id = segments.assemble_model(
            self.spec,
            self.stores,
            self.through,
            run_id=self.run_id,
            segments=list(self.segments),
            declaration=self.declaration,
            origin=origin,
        )
        self.linked_run_id = run_id
        return run_id
