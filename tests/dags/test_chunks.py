"""A model that declares chunks gets plans and mapped tasks; the steps keep their names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from airflow.sdk import DAG
from jinja2.sandbox import SandboxedEnvironment

from mlops_provider.operators.chunks import RunChunkOperator
from mlops_provider.stages.ingest import ingest
from mlops_provider.stages.monitor import monitor
from mlops_provider.stages.score import score

TINY = Path(__file__).parents[1] / "use_cases" / "tiny"


def declared(folder: Path, **changes: object) -> str:
    copy = folder / "tiny"
    shutil.copytree(TINY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    declaration = yaml.safe_load((copy / "model.yaml").read_text())
    parts = changes.pop("parts", None)
    declaration["functions"] |= {"parts": parts} if parts else {}
    (copy / "model.yaml").write_text(yaml.safe_dump(declaration | changes))
    return str(copy / "model.yaml")


def built(model_yaml: str) -> DAG:
    with DAG("chunks", schedule=None) as dag:
        ingest(model_yaml)
        score(model_yaml)
        monitor(model_yaml, train_dag="train")
    return dag


@pytest.mark.parametrize(
    ("changes", "cut"),
    [
        ({}, set()),
        ({"look_back_hours": 5, "parts": "data.py:parts"}, set()),
        ({"chunk_rows": 9000}, {"validate_data", "score_batch", "detect_drift"}),
        (
            {"chunk_rows": 9000, "look_back_hours": 5, "parts": "data.py:parts"},
            {"land_data", "validate_data", "build_features", "score_batch", "detect_drift"},
        ),
    ],
)
def test_steps_fan_out_where_their_chunks_are_declared(
    tmp_path: Path, changes: dict[str, object], cut: set[str]
) -> None:
    dag = built(declared(tmp_path, **changes))

    assert {task.task_id.removesuffix("_chunk") for task in dag.tasks if task.is_mapped} == cut
    assert {task.task_id.removesuffix("_plan") for task in dag.tasks if task.task_id.endswith("_plan")} == cut
    for step in cut:
        assert f"{step}_chunk" in dag.get_task(step).upstream_task_ids
        assert dag.get_task(f"{step}_chunk").upstream_task_ids == {f"{step}_plan"}


def test_mapped_tasks_are_named_after_what_they_cover(tmp_path: Path) -> None:
    dag = built(declared(tmp_path, chunk_rows=9000))

    [name] = {task.map_index_template for task in dag.tasks if task.is_mapped}
    chunk = {"step": "score_batch", "partition": "2013-01", "index": 1, "start": 16_384, "stop": 20_000, "about": {},
             "source": None, "target": {"table": "t", "partition": "2013-01", "sequence": 0, "run": "r"}}  # fmt: skip
    task = RunChunkOperator(task_id="chunk", model_yaml="model.yaml", chunk=chunk)

    assert SandboxedEnvironment().from_string(name).render(task=task) == "rows 16,385 to 20,000"


def test_drift_waits_for_the_labels_before_it_plans(tmp_path: Path) -> None:
    dag = built(declared(tmp_path, chunk_rows=9000))

    assert dag.get_task("detect_drift_plan").upstream_task_ids == {"wait_for_labels"}
    assert dag.get_task("validate_data_plan").upstream_task_ids == {"land_data"}
