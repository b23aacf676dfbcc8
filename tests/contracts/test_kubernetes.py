"""What stands under deploy/kubernetes: accepted by Kubernetes' own schemas, in line with the rest."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.configuration import conf
from airflow.providers_manager import ProvidersManager
from airflow.sdk.module_loading import import_string
from kubernetes_validate import ValidationError, validate

from mlops_provider.core.names import Environment
from mlops_provider.serving.process import SHUTDOWN_SECONDS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/kubernetes"
KUBERNETES = ("1.30", "1.37")
"""Oldest and newest release that the manifests are held against."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


MANIFESTS = [document for name in ("model-server.yaml", "prepare.yaml") for document in documents(name)]
[VALUES] = documents("airflow-values.yaml")


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_kubernetes_accepts_a_manifest(manifest: dict[str, Any], version: str) -> None:
    validate(manifest, version, strict=True)


def test_kubernetes_would_not_accept_any_manifest() -> None:
    with pytest.raises(ValidationError, match="replica"):
        validate({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replica": 2}}, KUBERNETES[1], strict=True)


def test_the_parts_of_a_pod_in_the_values_make_a_pod() -> None:
    container = {
        "name": "base",
        "image": "{repository}:{tag}".format(**VALUES["images"]["airflow"]),
        "env": VALUES["env"],
        "envFrom": yaml.safe_load(VALUES["extraEnvFrom"]),
        "volumeMounts": VALUES["volumeMounts"],
    }
    parts = ("workers", "scheduler", "apiServer", "dagProcessor", "triggerer")
    pods = [
        {"containers": [container | {"resources": VALUES[part]["resources"]}], "volumes": VALUES["volumes"]}
        for part in parts
    ]

    server = VALUES["apiServer"]
    pods[parts.index("apiServer")] = {
        "initContainers": server["extraInitContainers"],
        "containers": [
            container
            | {
                "resources": server["resources"],
                "volumeMounts": [*VALUES["volumeMounts"], *server["extraVolumeMounts"]],
            }
        ],
        "volumes": [*VALUES["volumes"], *server["extraVolumes"]],
    }

    for pod in pods:
        validate({"apiVersion": "v1", "kind": "Pod", "spec": pod}, KUBERNETES[1], strict=True)


def test_the_image_holds_the_program_that_the_charts_health_checks_run(tmp_path: Path) -> None:
    stage = (ROOT / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2].partition("\nUSER ")[0]
    [made] = re.findall(r"^RUN (.*/entrypoint.*)$", stage, re.MULTILINE)
    program = shlex.quote(str(tmp_path / "entrypoint"))

    subprocess.run(["/bin/sh", "-euc", made.replace("/entrypoint", program)], check=True)
    check = f"CONNECTION_CHECK_MAX_COUNT=0 exec {program} \\\n printf '%s,' one 'two three'"
    done = subprocess.run(["/bin/sh", "-c", check], capture_output=True, text=True, check=True)

    assert done.stdout == "one,two three,"


def test_no_log_groomer_is_started_whose_program_the_image_lacks() -> None:
    assert [VALUES[part]["logGroomerSidecar"] for part in ("scheduler", "dagProcessor", "triggerer")] == [
        {"enabled": False}
    ] * 3


def test_tasks_open_the_tables_with_the_connection_of_the_logs() -> None:
    settings = {each["name"]: each["value"] for each in VALUES["env"]}

    assert settings["MLOPS_AWS_CONN_ID"] == VALUES["config"]["logging"]["remote_log_conn_id"]
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"airflow connections add {settings['MLOPS_AWS_CONN_ID']}" in page


def test_a_model_server_has_time_to_finish_and_to_ship() -> None:
    pod = documents("model-server.yaml")[0]["spec"]["template"]["spec"]
    _sleep, pause = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]

    assert pod["terminationGracePeriodSeconds"] >= int(pause) + 2 * SHUTDOWN_SECONDS


def test_airflow_knows_every_option_in_the_values() -> None:
    ProvidersManager().initialize_providers_configuration()
    unknown = [
        (section, option)
        for section, options in VALUES["config"].items()
        for option in options
        if not conf.get_default_value(section, option)
        and option not in conf.configuration_description.get(section, {}).get("options", {})
    ]

    assert unknown == []


def test_selectors_find_the_pods_they_mean() -> None:
    found = {manifest["kind"]: manifest["spec"] for manifest in documents("model-server.yaml")}
    labels = found["Deployment"]["template"]["metadata"]["labels"]

    assert found["Service"]["selector"] == labels
    assert found["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
    assert found["Deployment"]["selector"]["matchLabels"] == labels
    assert found["HorizontalPodAutoscaler"]["scaleTargetRef"]["name"] == "model-server"
    assert "replicas" not in found["Deployment"]


def test_images_are_the_one_that_compose_builds() -> None:
    compose = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    [ours] = re.findall(r"image: \$\{MLOPS_IMAGE:-(.+)\}", compose)
    named = [line.split(maxsplit=1)[1] for line in
             re.findall(r"image: .+", "".join(path.read_text() for path in FOLDER.glob("*.yaml")))]  # fmt: skip

    assert {*named, "{repository}:{tag}".format(**VALUES["images"]["airflow"])} == {ours}


def test_the_values_name_a_login_manager_that_the_image_holds_and_a_file_it_can_write() -> None:
    core = VALUES["config"]["core"]
    assert import_string(core["auth_manager"]).__name__ == "SimpleAuthManager"

    folder = str(Path(core["simple_auth_manager_passwords_file"]).parent)
    [volume] = [mount["name"] for mount in VALUES["apiServer"]["extraVolumeMounts"] if mount["mountPath"] == folder]
    assert "emptyDir" in next(each for each in VALUES["apiServer"]["extraVolumes"] if each["name"] == volume)


def test_only_the_job_reads_the_login_that_owns_the_ledger() -> None:
    readers = [
        document["kind"]
        for document in [*MANIFESTS, {"kind": "values"} | VALUES]
        if "mlops-ledger-owner" in str(document)
    ]

    assert readers == ["Job"]


def test_model_servers_know_the_tokens_and_tasks_have_one_if_the_cluster_does() -> None:
    [server] = documents("model-server.yaml")[0]["spec"]["template"]["spec"]["containers"]
    read = {
        who: {
            each["secretRef"]["name"]: each["secretRef"].get("optional", False) for each in given if "secretRef" in each
        }
        for who, given in (("server", server["envFrom"]), ("airflow", yaml.safe_load(VALUES["extraEnvFrom"])))
    }

    assert read == {
        "server": {"mlops-stores": False, "mlops-server-tokens": True, "mlops-pseudonyms": True},
        "airflow": {"mlops-stores": False, "mlops-server-token": True, "mlops-pseudonyms": True},
    }


def test_the_page_names_every_secret_and_setting() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    secrets = set(re.findall(r"mlops-(?:stores|settings|ledger|server|pseudonyms)[\w-]*", str([*MANIFESTS, VALUES])))
    secrets |= {value for key, value in {**VALUES, **VALUES["data"]}.items() if key.endswith("SecretName")}
    secrets |= {each["secret"]["secretName"] for each in VALUES["apiServer"]["extraVolumes"] if "secret" in each}

    assert {name for name in secrets if f"`{name}`" not in page} == set()
    assert {name for name in set(re.findall(r"MLOPS_\w+", page)) if name not in set(Environment)} == set()
