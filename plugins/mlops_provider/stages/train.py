"""Features become a candidate, and a candidate that passes the gate becomes a version."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, Param

from mlops_provider.core import names
from mlops_provider.core.names import Task
from mlops_provider.operators.segments import AssembleModelOperator, PlanSegmentsOperator, TrainSegmentOperator
from mlops_provider.operators.start import StartDagRunOperator
from mlops_provider.operators.train import (
    DecideGateOperator,
    DeclareGateOperator,
    EvaluateModelOperator,
    RegisterModelOperator,
    SearchParametersOperator,
    TrainModelOperator,
)
from mlops_provider.spec import load_spec
from mlops_provider.stages.resources import LONGEST_NAME, placement, resources

THROUGH = "{{ params.through }}"


def train_params() -> dict[str, Param]:
    """The form of a training: which month to judge on, how long to search, and why it was started."""
    return {
        "through": Param(
            type="string",
            pattern=r"^\d{4}-(0[1-9]|1[0-2])$",
            title="Judged on",
            description="Month the candidate is judged on, such as 2013-02; it is trained on all months before.",
        ),
        "trials": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=500,
            title="Trials",
            description="Trials of the parameter search; empty takes the number in model.yaml.",
        ),
        "reason": Param("demand", type="string", title="Reason", description="Why this training was started."),
    }


def train(model_yaml: str, *, deploy_dag: str) -> None:
    """
    Train a candidate, judge it, register it if it passed, and start its deployment.

    :param model_yaml: Path of the use case's ``model.yaml``.
    :param deploy_dag: DAG that moves traffic; started with the version in its run ID.
    """
    spec = load_spec(model_yaml)
    declaration = DeclareGateOperator(**resources(model_yaml, Task.DECLARE_GATE), through=THROUGH).output
    parameters = SearchParametersOperator(
        **resources(model_yaml, Task.SEARCH_PARAMETERS),
        through=THROUGH,
        declaration=declaration,
        trials="{{ params.trials or '' }}",
    ).output
    run_id = TrainModelOperator(
        **resources(model_yaml, Task.TRAIN_MODEL), through=THROUGH, parameters=parameters, declaration=declaration
    ).output
    if spec.segments:
        run_id = _by_segment(model_yaml, spec.segments.at_once, parent=run_id, declaration=declaration)

    evaluation = EvaluateModelOperator(
        **resources(model_yaml, Task.EVALUATE_MODEL), through=THROUGH, run_id=run_id, declaration=declaration
    ).output
    verdict = DecideGateOperator(
        **placement(model_yaml, Task.DECIDE_GATE),
        evaluation=evaluation,
        declaration=declaration,
        limits_digest=spec.gate_policy.digest,
    ).output

    version = RegisterModelOperator(
        **resources(model_yaml, Task.REGISTER_MODEL),
        run_id=run_id,
        verdict=verdict,
        outlets=[Asset(name=names.version_asset(spec.name))],
    ).output
    StartDagRunOperator(
        **placement(model_yaml, Task.START_DEPLOYMENT),
        trigger_dag_id=deploy_dag,
        trigger_run_id=f"{spec.name}-version-{version}",
        conf={"version": version},
    )


def _by_segment(model_yaml: str, at_once: int, *, parent: Any, declaration: Any) -> Any:
    """
    Train a child per segment and put those that win together with their parent.

    :param at_once: Segments trained side by side at most.
    :param parent: MLflow run of the model of all rows.
    :return: MLflow run of the whole.
    """
    segments = PlanSegmentsOperator(
        **resources(model_yaml, Task.PLAN_SEGMENTS), through=THROUGH, run_id=parent, declaration=declaration
    ).output
    decided = (
        TrainSegmentOperator.partial(
            **resources(model_yaml, Task.TRAIN_SEGMENT),
            through=THROUGH,
            declaration=declaration,
            max_active_tis_per_dagrun=at_once,
            map_index_template=f"{{{{ task.segment['value'][:{LONGEST_NAME}] }}}}",
        )
        .expand(segment=segments)
        .output
    )
    return AssembleModelOperator(
        **resources(model_yaml, Task.ASSEMBLE_MODEL),
        through=THROUGH,
        run_id=parent,
        segments=decided,
        declaration=declaration,
    ).output
