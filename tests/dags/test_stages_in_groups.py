"""
The stages inside somebody's task group, where Airflow prefixes the tasks' IDs.

Tasks run here in this process: templates and references are resolved by Airflow's own operators, the steps are real,
and what tasks hand each other is kept in a dictionary.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, TaskGroup
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.exceptions import DagRunTriggerException, DownstreamTasksSkipped

from mlops_provider.core import chunks
from mlops_provider.core.names import Environment, Kind
from mlops_provider.core.origin import Origin
from mlops_provider.stages.deploy import deploy, rollback
from mlops_provider.stages.ingest import ingest
from mlops_provider.stages.monitor import monitor
from mlops_provider.stages.score import score
from mlops_provider.stages.train import train
from support.tiny import (
    ANY_MODEL_PASSES,
    FEBRUARY,
    JANUARY,
    MARCH,
    MODEL,
    USE_CASE,
    Place,
    ingest_month,
    trips,
    write_month,
)

ROOT = Path(__file__).resolve().parents[2]
MODEL_YAML = str(USE_CASE / "model.yaml")
MEASURED = {Kind.PERFORMANCE: "measure_performance", Kind.DRIFT: "detect_drift"}
STAGES: dict[str, Callable[[], None]] = {
    "ingest": lambda: ingest(MODEL_YAML),
    "score": lambda: score(MODEL_YAML),
    "monitor": lambda: monitor(MODEL_YAML, train_dag="training"),
    "train": lambda: train(MODEL_YAML, deploy_dag="deployment"),
    "deploy": lambda: deploy(MODEL_YAML),
    "rollback": lambda: rollback(MODEL_YAML),
}


def made(stage: str, group: str | None = None, **options: Any) -> DAG:
    with DAG("somebodys", schedule=None) as dag:
        if group is None:
            STAGES[stage]()
        else:
            with TaskGroup(group, **options):
                STAGES[stage]()
    return dag


def edges(dag: DAG) -> set[tuple[str, str]]:
    return {(task.task_id, below) for task in dag.tasks for below in task.downstream_task_ids}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_the_same_graph_inside_a_group(stage: str) -> None:
    flat, grouped, plain = made(stage), made(stage, "g"), made(stage, "g", prefix_group_id=False)

    assert sorted(grouped.task_ids) == sorted(f"g.{task_id}" for task_id in flat.task_ids)
    assert edges(grouped) == {(f"g.{above}", f"g.{below}") for above, below in edges(flat)}
    assert (sorted(plain.task_ids), edges(plain)) == (sorted(flat.task_ids), edges(flat))


def test_one_dag_may_hold_a_stage_twice() -> None:
    with DAG("somebodys", schedule=None) as dag:
        for name in ("buses", "trams"):
            with TaskGroup(name):
                ingest(MODEL_YAML)

    assert len(dag.tasks) == 6
    assert {above.split(".")[0] == below.split(".")[0] for above, below in edges(dag)} == {True}


@pytest.mark.parametrize(("filled_in", "version"), [({}, ""), ({"version": None}, ""), ({"version": "3"}, "3")])
def test_a_rollback_takes_its_version_from_the_form_if_one_is_named(filled_in: dict[str, Any], version: str) -> None:
    [task] = made("rollback").tasks

    task.render_template_fields({"params": {"reason": "complaints", **filled_in}})  # type: ignore[typeddict-item]

    assert (task.reason, task.version) == ("complaints", version)


@dataclass
class Run:
    """
    One run of a DAG.

    :param handed: What tasks returned or pushed, by task ID and key.
    :param started: Runs of other DAGs that were asked for.
    :param called: What mapped tasks are called in the UI.
    """

    dag: DAG
    run_id: str
    partition: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    handed: dict[tuple[str, str], Any] = field(default_factory=dict)
    started: list[DagRunTriggerException] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)
    called: dict[tuple[str, int], str] = field(default_factory=dict)

    def go(self) -> Run:
        for task in self.dag.topological_sort():
            if task.upstream_task_ids & self.skipped:
                self.skipped.add(task.task_id)
            if task.task_id not in self.skipped:
                self.execute(task)
        return self

    def execute(self, task: BaseOperator) -> None:
        if isinstance(task, MappedOperator):
            self.handed[task.task_id, "return_value"] = [self.mapped(task, index) for index in range(self.size(task))]
            return
        for name in task.template_fields:  # Airflow asks its server for what mapped tasks gave
            given = getattr(task, name)
            if isinstance(given, PlainXComArg) and isinstance(given.operator, MappedOperator):
                setattr(task, name, self.handed[given.operator.task_id, given.key])
        context = self.context(task)
        task.render_template_fields(context)
        try:
            result = task.execute(context)
        except DagRunTriggerException as trigger:
            self.started.append(trigger)
            return
        except DownstreamTasksSkipped as skip:
            self.skipped |= set(skip.tasks)
            result = self.handed[task.task_id, "return_value"]
        self.handed[task.task_id, "return_value"] = result
        if task.multiple_outputs:
            self.handed |= {(task.task_id, key): value for key, value in result.items()}

    def size(self, task: MappedOperator) -> int:
        ((_, given),) = task.expand_input.value.items()
        return len(self.handed[given.operator.task_id, given.key])

    def mapped(self, task: MappedOperator, index: int) -> Any:
        ((name, given),) = task.expand_input.value.items()
        one = task.unmap({name: self.handed[given.operator.task_id, given.key][index]})
        context = self.context(one)
        context["ti"].map_index = index
        one.render_template_fields(context)
        result = one.execute(context)
        self.called[task.task_id, index] = (
            context["task"]
            .get_template_env()
            .from_string(str(task.partial_kwargs["map_index_template"]))
            .render(task=one)
        )
        return result

    def context(self, task: BaseOperator) -> Any:
        def pull(task_ids: Any = None, key: str = "return_value", **_: Any) -> Any:
            assert isinstance(task_ids, str)
            return self.handed[task_ids, key]

        def push(key: str, value: Any) -> None:
            self.handed[task.task_id, key] = value

        ti = SimpleNamespace(
            dag_id=self.dag.dag_id,
            run_id=self.run_id,
            task_id=task.task_id,
            map_index=-1,
            xcom_pull=pull,
            xcom_push=push,
            get_dag=lambda _: SimpleNamespace(is_paused=False),
            task=task,
            is_mapped=False,
        )
        dag_run = SimpleNamespace(run_id=self.run_id, partition_key=self.partition, triggering_user_name="ada")
        events: Any = defaultdict(lambda: SimpleNamespace(extra={}))
        return {
            "ti": ti,
            "task_instance": ti,
            "task": task,
            "dag": self.dag,
            "dag_run": dag_run,
            "params": self.params,
            "outlet_events": events,
            "expanded_ti_count": None,
        }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Stores of the tiny use case, named by the environment as in a worker."""
    found = Place(tmp_path)
    found.source.mkdir()
    monkeypatch.setenv("TINY_SOURCE", str(found.source))
    monkeypatch.setenv(Environment.TABLES_URI, str(tmp_path / "tables"))
    monkeypatch.setenv(Environment.REGISTRY_URI, f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv(Environment.LEDGER_URL, f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setenv(Environment.SPOOL_DIR, str(tmp_path / "spool"))
    for month in (JANUARY, FEBRUARY):
        write_month(found.source, month)
    return found


def test_months_go_through_grouped_stages_up_to_a_version_and_its_deployment(place: Place) -> None:
    for month in (JANUARY, FEBRUARY):
        Run(made("ingest", "data"), f"in-{month}", partition=month).go()
    first = Run(made("monitor", "watch"), "first", partition=JANUARY).go()
    watched = Run(made("monitor", "watch"), "second", partition=FEBRUARY).go()
    form = {"through": FEBRUARY, "trials": 1, "reason": "demand"}
    trained = Run(made("train", "training"), watched.started[0].dag_run_id, params=form).go()

    assert first.started == []
    assert first.skipped == {"watch.start_training"}
    (training,) = watched.started
    assert (training.trigger_dag_id, training.dag_run_id) == ("training", f"{MODEL}-first_model-{FEBRUARY}")
    assert training.conf == {"through": FEBRUARY, "reason": "first_model"}
    (deployment,) = trained.started
    assert (deployment.trigger_dag_id, deployment.dag_run_id) == ("deployment", f"{MODEL}-version-1")
    assert deployment.conf == {"version": "1"}
    verdict = Origin("somebodys", trained.run_id, "training.decide_gate")
    assert place.stores().ledger.decided(Kind.GATE, verdict.key) is not None
    report = Origin("somebodys", trained.run_id, "training.evaluate_model").path
    assert place.stores().reports.read(f"{report}/report.html")


def test_segments_are_trained_by_mapped_tasks_that_bear_their_names(place: Place, tmp_path: Path) -> None:
    divided = place.declared(segments={"column": "line", "minimum_rows": 20})
    for month in (JANUARY, FEBRUARY):
        Run(made("ingest"), f"in-{month}", partition=month).go()
    with DAG("divided", schedule=None) as dag:
        train(str(divided.use_case / "model.yaml"), deploy_dag="deployment")

    trained = Run(dag, "by-hand", params={"through": FEBRUARY, "trials": 1, "reason": "demand"}).go()

    assert trained.called == {("train_segment", index): line for index, line in enumerate("ABC")}
    decided = [place.stores().ledger.get(record) for record in trained.handed["train_segment", "return_value"]]
    assert [each.payload["segment"] for each in decided] == ["A", "B", "C"]
    assert [each.key.split("/")[3].split(":")[0] for each in decided] == ["0", "1", "2"]
    parent, whole = (trained.handed[task, "return_value"] for task in ("train_model", "assemble_model"))
    assert place.stores().ledger.find(Kind.TRAINING, whole).payload["parent"] == parent != whole
    (deployment,) = trained.started
    assert deployment.dag_run_id == f"{MODEL}-version-1"


def test_a_month_that_is_watched_in_chunks_gets_the_verdicts_of_one_piece(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "BLOCK_ROWS", 16)  # a few hundred rows are several chunks
    whole = place.declared(
        segments={"column": "line", "minimum_rows": 20},
        gate=ANY_MODEL_PASSES,
        monitoring={"alarm_share": 0.0, "sample_rows": 300, "minimum_rows": 100},
        retrain={"windows_needed": 1, "windows_considered": 1},
    )
    cut = replace(whole, use_case=place.folder / "cut")
    shutil.copytree(whole.use_case, cut.use_case)
    (cut.use_case / "model.yaml").write_text((whole.use_case / "model.yaml").read_text() + "chunk_rows: 160\n")
    write_month(place.source, MARCH, trips(MARCH).assign(rain=lambda frame: frame["rain"] + 8))
    for month in (JANUARY, FEBRUARY, MARCH):
        ingest_month(whole, month)
    with DAG("divided", schedule=None) as dag:
        train(str(whole.use_case / "model.yaml"), deploy_dag="deployment")
    Run(dag, "first", params={"through": FEBRUARY, "trials": 1, "reason": "demand"}).go()
    ledger = place.stores().ledger
    ledger.propose_traffic(MODEL, {"1": 100}, settled=True, expected_generation=0)

    def run(at: Place, stage: Callable[[str], None], run_id: str) -> Run:
        with DAG("watched", schedule=None) as dag:
            stage(str(at.use_case / "model.yaml"))
        return Run(dag, run_id, partition=MARCH).go()

    def watch(model_yaml: str) -> None:
        monitor(model_yaml, train_dag="training")

    run(cut, score, "cut")
    watched = {name: run(at, watch, name) for name, at in (("cut", cut), ("whole", whole))}

    assert len(watched["cut"].called) > 15
    assert watched["cut"].called["detect_drift_chunk", 0] == f"current {MARCH}, rows 1 to 160"
    assert watched["whole"].called == {}
    told = {}
    for name, each in watched.items():
        records = {kind: ledger.get(each.handed[task, "return_value"]) for kind, task in MEASURED.items()}
        told[name] = {kind: {**record.payload, "report": None} for kind, record in records.items()}
        told[name]["decision"] = each.handed["decide_retrain", "return_value"]
        told[name]["started"] = [(training.dag_run_id, training.conf) for training in each.started]
    assert told["cut"] == told["whole"]
    assert told["cut"][Kind.DRIFT]["alarm"]
    assert "rain" in told["cut"][Kind.DRIFT]["drifted"]
    assert {each["column"] for each in told["cut"][Kind.PERFORMANCE]["slices"]} == {"line", "answered_by"}
    assert [run_id for run_id, _ in told["cut"]["started"]] == [told["cut"]["decision"]["cause"]]


def test_the_example_of_the_page_makes_a_dag() -> None:
    page = (ROOT / "docs/stages.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}

    exec(example.replace("include/orders/model.yaml", MODEL_YAML), found)

    dag = found["dag"]
    assert dag.dag_id == "orders"
    assert {"sent", "training.declare_gate", "training.start_deployment"} <= set(dag.task_ids)
    assert dag.get_task("training.declare_gate").upstream_task_ids == {"sent"}
    assert dag.get_task("told").upstream_task_ids == {"training.start_deployment"}
    assert "through" in dag.params
