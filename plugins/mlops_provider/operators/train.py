"""From features to a registered version: train, evaluate, and pass the gate first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.exceptions import GateRejectedError
from mlops_provider.links import ReportLink, RunLink
from mlops_provider.operators.base import ModelStepOperator, StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class DeclareGateOperator(ModelStepOperator):
    """
    Fix the limits and the champion to beat, before any training, in the ledger.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param through: Month the candidate is judged on; it is trained on the months before. (templated)
    :return: Ledger ID of the declaration.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "through")

    def __init__(self, *, through: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.through = through

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import train

        return train.declare_gate(self.spec, self.stores, self.through, origin=origin)


class SearchParametersOperator(ModelStepOperator):
    """
    Search the estimator's parameters with a small Optuna study.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param through: Month the candidate will be judged on; the search never sees it. (templated)
    :param declaration: Ledger ID of the gate's declaration. (templated)
    :param trials: Number of trials, 1 or more; by default the one of ``model.yaml``. (templated)
    :return: The best parameters.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "through", "declaration", "trials")

    def __init__(self, *, through: str, declaration: str, trials: int | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.through = through
        self.declaration = declaration
        self.trials = trials

    def step(self, context: Context, origin: Origin) -> Mapping[str, Any]:
        from mlops_provider.steps import train

        trials = int(self.trials) if self.trials not in (None, "", "None") else None
        return train.search_parameters(
            self.spec, self.stores, self.through, declaration=self.declaration, trials=trials, origin=origin
        )


class TrainModelOperator(ModelStepOperator):
    """
    Fit the estimator on every month before *through* and log it to MLflow.

    A retry continues the same MLflow run. The task links to that run.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param through: Month the candidate will be judged on. (templated)
    :param parameters: Parameters of the estimator. (templated)
    :param declaration: Ledger ID of the gate's declaration. (templated)
    :return: MLflow run ID.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "through", "parameters", "declaration")
    operator_extra_links = (RunLink(),)

    def __init__(self, *, through: str, parameters: Mapping[str, Any], declaration: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.through = through
        self.parameters = parameters
        self.declaration = declaration

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import train

        run_id = train.train_model(
            self.spec,
            self.stores,
            self.through,
            parameters=self.parameters,
            declaration=self.declaration,
            origin=origin,
        )
        self.linked_run_id = run_id
        return run_id


class EvaluateModelOperator(ModelStepOperator):
    """
    Score candidate, champion and baselines on the same fresh rows, with paired intervals.

    The task links to the report.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param through: Month they are judged on. (templated)
    :param run_id: MLflow run of the candidate. (templated)
    :param declaration: Ledger ID of the gate's declaration, which names the champion. (templated)
    :return: Ledger ID of the evaluation.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "through", "run_id", "declaration")
    operator_extra_links = (ReportLink(),)

    def __init__(self, *, through: str, run_id: str, declaration: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.through = through
        self.run_id = run_id
        self.declaration = declaration

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import evaluate

        return evaluate.evaluate_model(
            self.spec, self.stores, self.through, run_id=self.run_id, declaration=self.declaration, origin=origin
        )


class DecideGateOperator(StepOperator):
    """
    Hold an evaluation against the limits declared before training.

    A rejection is a verdict, not a failure: what follows is skipped and the run succeeds.

    :param evaluation: Ledger ID of the evaluation. (templated)
    :param declaration: Ledger ID of the gate's declaration. (templated)
    :param limits_digest: Digest of the limits as they stand now; the gate refuses if they are no longer the
        declared ones. Not checked if empty. (templated)
    :param fail_on_reject: Fail the task on a rejection instead of skipping what follows.
    :return: Ledger ID of the verdict.
    :raises GateRejectedError: The verdict is no and *fail_on_reject* is set. Not retried.
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "evaluation", "declaration", "limits_digest")

    def __init__(
        self,
        *,
        evaluation: str,
        declaration: str,
        limits_digest: str = "",
        fail_on_reject: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.evaluation = evaluation
        self.declaration = declaration
        self.limits_digest = limits_digest
        self.fail_on_reject = fail_on_reject

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import gate

        record, verdict = gate.decide_gate(
            self.stores,
            evaluation=self.evaluation,
            declaration=self.declaration,
            limits_digest=self.limits_digest or None,
            origin=origin,
        )
        self.log.info("%s", verdict.summary)
        if not verdict.passed:
            if self.fail_on_reject:
                raise GateRejectedError(verdict.summary)
            self.stop_here(context, record)
        return record


class RegisterModelOperator(ModelStepOperator):
    """
    Put a model in the registry as ``challenger``, but only one that passed the gate.

    Safe to retry: a second attempt finds the version the first one made. The event
    of each asset in ``outlets`` carries the model's name, version and run.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param run_id: MLflow run that logged the model. (templated)
    :param verdict: Ledger ID of the gate's verdict on that run. (templated)
    :return: The version number, as a string.
    :raises NotApprovedError: No passing verdict on this very run. Not retried.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "run_id", "verdict")
    operator_extra_links = (RunLink(),)

    def __init__(self, *, run_id: str, verdict: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.verdict = verdict

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import train

        version = train.register_model(self.spec, self.stores, run_id=self.run_id, verdict=self.verdict, origin=origin)
        self.linked_run_id = self.run_id
        self.announce(context, model=self.spec.name, version=version, run_id=self.run_id)
        self.log.info("Registered %s version %s from run %s", self.spec.name, version, self.run_id)
        return version
