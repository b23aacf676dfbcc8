"""The DAGs of the examples, as Airflow sees them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_provider.core.names import Environment
from mlops_provider.stages.monitor import tell

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "dags").glob("*.py"))

MODELS = ("adult_income", "airport_temperature", "flight_delays", "flight_delays_by_carrier")
STAGES = {
    "ingest": ["land_data", "validate_data", "build_features"],
    "score": ["score_batch"],
    "monitor": [
        "wait_for_labels",
        "deliver_predictions",
        "record_outcomes",
        "detect_drift",
        "measure_performance",
        "decide_retrain",
        "start_training",
    ],
    "train": [
        "declare_gate",
        "search_parameters",
        "train_model",
        "evaluate_model",
        "decide_gate",
        "register_model",
        "start_deployment",
    ],
    "deploy": ["check_serving", "deploy_model", "end_rollout"],
    "rollback": ["rollback_model"],
}
TASKS = {f"{model}_{stage}": tasks for model in MODELS for stage, tasks in STAGES.items()}
TASKS["flight_delays_drill"] = ["drill_rollback", "end_rollout"]
TASKS["flight_delays_by_carrier_train"] = [*STAGES["train"], "plan_segments", "train_segment", "assemble_model"]

PARSE = """
import importlib.util, json, os, sys
from airflow.sdk import DAG, BaseHook
def refuse(*args, **kwargs):
    raise AssertionError("a connection was looked up while the DAG was parsed")
BaseHook.get_connection = refuse
found, enter = [], DAG.__enter__
DAG.__enter__ = lambda dag: found.append(dag) or enter(dag)
before = set(sys.modules)
for file in sys.argv[1:]:
    child = os.fork()  # each file finds only Airflow loaded, which takes seconds
    if child:
        os.waitpid(child, 0)
        continue
    spec = importlib.util.spec_from_file_location("the_dag", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    [dag] = found
    heavy = {"mlflow", "sklearn", "evidently", "great_expectations", "pandas", "numpy", "deltalake", "optuna"}
    print(json.dumps({
        "path": file,
        "dag_id": dag.dag_id,
        "tasks": [task.task_id for task in dag.topological_sort()],
        "heavy": sorted({name.split(".")[0] for name in set(sys.modules) - before} & {*heavy, "pyarrow"}),
        "documented": bool(dag.doc_md),
        "retries": {task.task_id: task.retries for task in dag.tasks},
    }))
    break
"""


@pytest.fixture(scope="module")
def said() -> tuple[dict[str, dict[str, object]], str]:
    """What each DAG file holds, parsed in a process of its own where no connection exists; and the errors."""
    command = [sys.executable, "-c", PARSE, *map(str, FILES)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    found = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {each["path"]: each for each in found}, run.stderr


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def parsed(request: pytest.FixtureRequest, said: tuple[dict[str, dict[str, object]], str]) -> dict[str, object]:
    """One DAG file."""
    assert str(request.param) in said[0], said[1][-2000:]
    return {**said[0][str(request.param)], "file": request.param}


def test_a_dag_is_named_like_its_file_and_documented(parsed: dict[str, object]) -> None:
    assert parsed["dag_id"] == parsed["file"].stem  # type: ignore[attr-defined]
    assert parsed["documented"]


def test_a_dag_parses_without_any_machine_learning_library(parsed: dict[str, object]) -> None:
    assert parsed["heavy"] == []


def test_tasks_are_named_as_the_field_says(parsed: dict[str, object]) -> None:
    assert sorted(parsed["tasks"]) == sorted(TASKS[str(parsed["dag_id"])])  # type: ignore[call-overload]


def test_every_task_is_retried(parsed: dict[str, object]) -> None:
    assert min(parsed["retries"].values()) >= 2  # type: ignore[attr-defined]


def test_what_moves_traffic_outlives_minutes_without_a_store(parsed: dict[str, object]) -> None:
    moving = {"check_serving", "deploy_model", "end_rollout", "drill_rollback"}
    retries: dict[str, int] = parsed["retries"]  # type: ignore[assignment]
    assert {retries[task] for task in moving & set(retries)} <= {10}


def test_a_dag_file_fits_a_screen(parsed: dict[str, object]) -> None:
    assert len(parsed["file"].read_text().splitlines()) <= 50  # type: ignore[attr-defined]


def test_there_is_a_file_for_every_dag() -> None:
    assert {file.stem for file in FILES} == set(TASKS)


def skeleton(file: Path, model: str) -> str:
    """What a DAG file does, without its model's name, its dates and its words."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = node.value.replace(model, "<model>")
        if isinstance(node, ast.keyword) and node.arg in ("start_date", "end_date"):
            node.value = ast.Constant("a date")
    tree.body.pop(0)  # the docstring
    return ast.dump(tree, indent=1)


@pytest.mark.parametrize("stage", STAGES)
def test_the_dags_of_all_models_differ_in_names_and_dates_only(stage: str) -> None:
    assert len({skeleton(ROOT / f"dags/{model}_{stage}.py", model) for model in MODELS}) == 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_dag_file_only_wires(file: Path) -> None:
    logic = (ast.If, ast.IfExp, ast.For, ast.While, ast.FunctionDef, ast.Lambda, ast.Try, ast.ListComp, ast.BoolOp)

    assert [ast.unparse(node) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, logic)] == []


def test_without_a_topic_nobody_is_told_and_with_one_the_model_is_the_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(ROOT / "include/adult_income/model.yaml")
    monkeypatch.delenv(Environment.SNS_TOPIC, raising=False)
    assert tell(model, "x") is None

    monkeypatch.setenv(Environment.SNS_TOPIC, "arn:aws:sns:us-east-1:1:models")
    notifier = tell(model, "{{ mlops.summary }}")

    assert (notifier.subject, notifier.target_arn) == ("adult_income", "arn:aws:sns:us-east-1:1:models")
    assert (notifier.message, notifier.aws_conn_id) == ("{{ mlops.summary }}", "mlops_aws")
