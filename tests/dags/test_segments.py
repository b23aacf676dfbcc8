"""A model that declares segments gets a plan, a mapped task and an assembly between training and evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from jinja2 import Template

from mlops_provider.core.names import Task
from mlops_provider.stages.resources import chunks_of
from mlops_provider.stages.train import train

TINY = Path(__file__).parents[1] / "use_cases" / "tiny"
AROUND = {"declare_gate", "search_parameters", "train_model", "evaluate_model", "decide_gate", "register_model"}
BY_SEGMENT = {"plan_segments", "train_segment", "assemble_model"}


def trained(folder: Path, **changes: Any) -> DAG:
    copy = folder / "tiny"
    shutil.copytree(TINY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    declaration = yaml.safe_load((copy / "model.yaml").read_text()) | changes
    (copy / "model.yaml").write_text(yaml.safe_dump(declaration))
    with DAG("segments", schedule=None) as dag:
        train(str(copy / "model.yaml"), deploy_dag="deployed")
    return dag


def test_without_segments_there_is_no_further_task(tmp_path: Path) -> None:
    assert set(trained(tmp_path).task_ids) == AROUND | {"start_deployment"}


def test_segments_come_between_training_and_evaluation(tmp_path: Path) -> None:
    dag = trained(tmp_path, segments="line")

    assert set(dag.task_ids) == AROUND | BY_SEGMENT | {"start_deployment"}
    above = {name: dag.get_task(name).upstream_task_ids for name in (*BY_SEGMENT, "evaluate_model", "register_model")}
    assert above["plan_segments"] == {"declare_gate", "train_model"}
    assert above["train_segment"] == {"declare_gate", "plan_segments"}
    assert above["assemble_model"] == {"declare_gate", "train_model", "train_segment"}
    assert above["evaluate_model"] == {"declare_gate", "assemble_model"}
    assert "assemble_model" in above["register_model"]


def test_the_scheduler_sees_how_many_segments_run_at_once_and_what_they_are_called(tmp_path: Path) -> None:
    resources = {"train_segment": {"pool": "training", "threads": 1}}
    dag = trained(tmp_path, segments={"column": "line", "at_once": 3}, resources=resources)

    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    mapped = read.task_dict["train_segment"]

    assert mapped.is_mapped
    assert mapped.max_active_tis_per_dagrun == 3
    assert mapped.pool == "training"
    assert mapped.partial_kwargs["map_index_template"] == "{{ task.segment['value'][:250] }}"
    assert {task.trigger_rule for task in read.task_dict.values()} == {"all_success"}


def test_names_of_mapped_tasks_are_no_longer_than_airflows_database_holds(tmp_path: Path) -> None:
    dag = trained(tmp_path, segments="line")
    with DAG("chunks", schedule=None):
        file = tmp_path / "tiny" / "model.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"chunk_rows": 1000}))
        share = chunks_of(str(file), Task.SCORE_BATCH).operator
    templates = [task.partial_kwargs["map_index_template"] for task in (dag.get_task("train_segment"), share)]

    names = [Template(each).render(task={"segment": {"value": "ä" * 300}, "covers": "b" * 300}) for each in templates]

    assert names == ["ä" * 250, "b" * 250]
