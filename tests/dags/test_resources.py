"""What model.yaml declares for a task reaches the executor that runs it."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import ApiClient, models
from kubernetes_validate import validate

from mlops_provider.exceptions import SpecError
from mlops_provider.spec import load_spec
from mlops_provider.stages.train import train

TINY = Path(__file__).parents[1] / "use_cases/tiny"
RESOURCES = """
resources:
  train_model:
    pool: training
    queue: heavy
    threads: 2
    pod:
      requests: {cpu: "2", memory: 4Gi}
      limits: {memory: 6Gi}
      node_selector: {disk: ssd}
  decide_gate: {queue: light}
  start_deployment: {pool: rollouts}
"""


@pytest.fixture
def model_yaml(tmp_path: Path) -> Path:
    for file in TINY.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    declared = (tmp_path / "model.yaml").read_text().partition("\nresources:")[0]
    (tmp_path / "model.yaml").write_text(declared + RESOURCES)
    return tmp_path / "model.yaml"


@pytest.fixture
def tasks(model_yaml: Path) -> dict[str, Any]:
    """The tasks as the scheduler sees them: serialised, and read again."""
    with DAG("trained", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC)) as dag:
        train(str(model_yaml), deploy_dag="deployed")
    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    return dict(read.task_dict)


def test_the_scheduler_sees_pool_and_queue_of_every_kind_of_task(tasks: dict[str, Any]) -> None:
    placed = {
        name: (tasks[name].pool, tasks[name].queue) for name in ("train_model", "decide_gate", "start_deployment")
    }

    assert placed == {
        "train_model": ("training", "heavy"),
        "decide_gate": ("default_pool", "light"),
        "start_deployment": ("rollouts", "default"),
    }
    assert (tasks["declare_gate"].pool, tasks["declare_gate"].queue) == ("default_pool", "default")
    assert not tasks["declare_gate"].executor_config


def test_the_kubernetes_executor_makes_the_declared_pod(tasks: dict[str, Any]) -> None:
    override = PodGenerator.from_obj(tasks["train_model"].executor_config)
    base = models.V1Pod(
        metadata=models.V1ObjectMeta(name="worker"),
        spec=models.V1PodSpec(
            containers=[
                models.V1Container(name="base", image="ours", env=[models.V1EnvVar(name="KEPT", value="yes")]),
                models.V1Container(name="sidecar", image="other"),
            ]
        ),
    )

    pod = PodGenerator.construct_pod(
        dag_id="trained", task_id="train_model", pod_id="trained-train-model", try_number=1, kube_image="ours:1",
        date=None, args=["run"], pod_override_object=override, base_worker_pod=base, namespace="airflow",
        scheduler_job_id="1",
    )  # fmt: skip

    made = ApiClient().sanitize_for_serialization(pod)
    validate({"apiVersion": "v1", "kind": "Pod", **made}, "1.37", strict=True)
    task, sidecar = made["spec"]["containers"]
    assert task["resources"] == {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "6Gi"}}
    assert {"name": "KEPT", "value": "yes"} in task["env"]
    assert "resources" not in sidecar
    assert made["spec"]["nodeSelector"] == {"disk": "ssd"}


def test_parsing_loads_the_kubernetes_client_for_a_declared_pod_only(model_yaml: Path) -> None:
    code = """
import sys
from airflow.sdk import DAG
from mlops_provider.stages.ingest import ingest
with DAG("parsed", schedule=None):
    ingest(sys.argv[1])
print("kubernetes" in sys.modules)
"""
    command = (sys.executable, "-W", "ignore", "-c", code, str(model_yaml))

    run = subprocess.run(command, capture_output=True, text=True, check=True)

    assert run.stdout.split()[-1] == "False"


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        ("{}", "expected requests, limits or a node_selector"),
        ("{requests: {memory: 4GB}}", "expected a quantity of Kubernetes"),
        ("{requests: {cpu: 2}}", "expected a text"),
    ],
)
def test_a_pod_that_kubernetes_would_refuse_is_refused_with_its_line(model_yaml: Path, pod: str, said: str) -> None:
    declared = model_yaml.read_text().partition("\nresources:")[0]
    model_yaml.write_text(f"{declared}\nresources:\n  train_model:\n    pod: {pod}\n")

    with pytest.raises(SpecError, match=rf"model.yaml:\d+: .*{said}"):
        load_spec(model_yaml)
