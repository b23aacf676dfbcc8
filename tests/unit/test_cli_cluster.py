"""The Compose file's services as processes of this machine."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_provider.cli import cluster, cluster_folder, compose_file, down, native, up
from mlops_provider.cli.home import Home, Secrets, Stack
from mlops_provider.cli.native import Cluster
from mlops_provider.exceptions import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("docker-compose.yaml", "Dockerfile", ".env.example", "dags", "include", "airflow_settings.yaml"):
        (project / name).symlink_to(ROOT / name)
    home = Home(tmp_path / "home", project)
    home.make()
    return home


@pytest.fixture
def services(home: Home) -> Cluster:
    return Cluster(home, environment={"MLOPS_WORKERS": "3", "MLOPS_AIRFLOW_PORT": "18080"})


def said(services: Cluster) -> dict[str, str]:
    """All texts of each process."""
    return {
        name: "\n".join(
            [
                *instance.process.command,
                *instance.health,
                *(f"{key}={value}" for key, value in instance.process.environment.items()),
                *services.files(instance).values(),
            ]
        )
        for name, instance in services.instances.items()
    }


def test_every_replica_of_every_service_is_a_process(services: Cluster) -> None:
    assert {"worker-1", "worker-2", "worker-3", "model-server-1", "model-server-2", "postgres"} <= set(
        services.instances
    )
    assert services.instances["airflow-init"].runs_once
    assert [name for name, each in services.instances.items() if each.runs_once] == ["s3-bucket", "airflow-init"]


def test_no_host_port_or_folder_of_a_container_is_left(services: Cluster) -> None:
    hosts = "|".join(services.services)
    for name, text in said(services).items():
        assert not re.findall(rf"(?<![\w.-])(?:{hosts}):\d+(?![\w@])", text), name
        assert "0.0.0.0" not in text
        assert not re.findall(r"(?<![\w./-])/(?:opt|srv)/\S+", text), name


def test_a_published_port_is_the_one_asked_for_and_the_others_are_free(services: Cluster) -> None:
    assert services.published["api-server"] == 18080
    assert "18080" in services.instances["api-server"].process.command
    assert "http://127.0.0.1:18080/execution/" in said(services)["worker-1"]
    assert len(set(services.ports.values())) == len(services.ports)
    assert not {5432, 6379} & set(services.ports.values())


def test_what_one_service_is_told_of_another_is_where_that_one_listens(services: Cluster) -> None:
    port = str(services.ports["model-server-2:8090"])

    assert port in services.instances["model-server-2"].process.command
    assert f"server 127.0.0.1:{port}" in said(services)["model-proxy"]


def test_a_volume_is_one_folder_for_all_who_mount_it_and_hidden_from_the_rest(services: Cluster) -> None:
    spool = str(services.volume("spool"))

    assert {name for name, text in said(services).items() if f"MLOPS_SPOOL_DIR={spool}" in text} == {
        "model-server-1", "model-server-2",
    }  # fmt: skip


def test_the_image_sets_what_the_dockerfile_says(services: Cluster) -> None:
    image = compose_file.image(ROOT / "Dockerfile")

    assert image.folder == "/opt/airflow"
    assert image.environment["OMP_NUM_THREADS"] == "1"
    assert set(image.copied) == {"dags", "include", "airflow_settings.yaml"}
    assert services.instances["scheduler"].process.environment["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in services.instances["redis"].process.environment


def test_folders_of_volumes_lead_from_the_container_and_the_dags_from_the_project(
    services: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.os, "getuid", lambda: 1000)  # pytest's folders are closed to the user of Postgres

    cluster.prepare(services)

    worker = services.instances["worker-2"]
    assert (worker.cwd / "logs").resolve() == services.volume("logs").resolve()
    assert (worker.cwd / "dags").resolve() == ROOT / "dags"
    assert "preload" in (worker.cwd / "config/airflow_local_settings.py").read_text()


def test_the_same_secrets_come_each_time_and_each_is_its_own(home: Home) -> None:
    asked = compose_file.variables(ROOT / ".env.example")
    one, two = (native.made_up(Secrets.of(home), asked) for _ in range(2))

    assert one == two
    assert len(set(one.values())) == len(one) >= 10


def test_a_variable_that_must_be_given_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("services: {one: {image: 'x:${TAG:?which one}'}}")

    with pytest.raises(ConfigurationError, match="needs TAG: which one"):
        compose_file.read(tmp_path / "file.yaml", {})
    assert compose_file.read(tmp_path / "file.yaml", {"TAG": "3"})["one"].image == "x:3"


def test_programs_that_are_missing_are_named_with_what_installs_them(
    services: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "search_path", lambda: str(tmp_path))

    with pytest.raises(ConfigurationError, match="apt install nginx-light postgresql redis-server"):
        cluster.refuse(services, set())


as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root needs another user for Postgres")


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In place of the system's folder for what lasts; other users may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="mlops-state-", dir="/var/tmp"))  # whatever TMPDIR is
    monkeypatch.setattr(cluster_folder, "STATE", folder)
    yield folder
    shutil.rmtree(folder)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@as_root
def test_in_a_home_that_is_closed_to_postgres_its_data_lies_outside_and_is_found_again(home: Home, state: Path) -> None:
    home.root.parent.chmod(0o700)
    cluster_folder.place(home, "postgres")
    services = Cluster(home, environment={})

    cluster.prepare(services)
    cluster.make_database(services, services.instances["postgres"])

    database = services.volume("postgres")
    assert state in database.parents
    assert ((database / "PG_VERSION").owner(), mode(database)) == ("postgres", 0o700)
    beside = [*services.folder.iterdir(), *database.parent.iterdir()]
    assert {mode(each) for each in beside if each.name not in ("volumes", "postgres")} == {0o700}
    assert mode(home.root) == 0o700
    cluster_folder.place(home, "postgres")
    assert Cluster(home, environment={}).volume("postgres") == database


@as_root
def test_what_lies_outside_goes_with_a_cluster_in_memory_and_stays_with_a_bucket(
    home: Home, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(home.root))
    home.root.parent.chmod(0o700)
    cluster_folder.place(home, "postgres")

    assert down.main(argparse.Namespace()) == 0
    [kept] = state.iterdir()
    cluster_folder.in_memory(home).touch()
    assert down.main(argparse.Namespace()) == 0

    assert kept.name.startswith("cluster-")
    assert list(state.iterdir()) == []
    assert not cluster_folder.is_outside(home)
    assert "Nothing is up here" in capsys.readouterr().out


@as_root
def test_a_home_that_was_closed_after_its_databases_were_made_is_refused_in_words(home: Home, state: Path) -> None:
    home.root.parent.chmod(0o700)
    database = home.root / "cluster/volumes/postgres/PG_VERSION"
    database.parent.mkdir(parents=True)
    database.touch()

    with pytest.raises(ConfigurationError, match=r"can't enter .* any more: chmod"):
        cluster_folder.place(home, "postgres")
    assert database.exists()
    (home.root / "cluster/in_memory").touch()  # what its S3 held is gone with it
    cluster_folder.place(home, "postgres")
    assert cluster_folder.is_outside(home)


@as_root
def test_where_postgres_can_go_nowhere_a_home_is_asked_for(home: Home, state: Path) -> None:
    home.root.parent.chmod(0o700)
    closed = home.root / "state"
    cluster_folder.STATE = closed

    with pytest.raises(ConfigurationError, match=f"nor {closed}: set MLOPS_HOME to a folder"):
        cluster_folder.place(home, "postgres")
    assert not (home.root / "cluster").exists()


def test_a_taken_port_is_named_with_its_variable(home: Home) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        services = Cluster(home, environment={"MLOPS_SERVER_PORT": str(port), "MLOPS_AIRFLOW_PORT": str(port + 1)})
        services.missing_packages = list  # type: ignore[method-assign]

        with pytest.raises(ConfigurationError, match="set MLOPS_SERVER_PORT"):
            cluster.refuse(services, set())


def test_the_local_stack_and_the_cluster_do_not_run_beside_each_other(home: Home) -> None:
    ports = {"airflow": 1, "mlflow": 2, "server": 3, "evidently": 4}
    Stack(ports=ports).write(home)
    with pytest.raises(ConfigurationError, match="local stack is up"):
        cluster.bring_up(home, timeout=1)

    Stack(ports=ports, settings={"MLOPS_LEDGER_URL": "postgresql://one/two"}).write(home)
    (home.run / "redis.pid").write_text("1\nlong ago\n/bin/redis\n")
    with pytest.raises(ConfigurationError, match="cluster is up"):
        up.already_up(home, fault="", store="folder")


def test_s3_is_the_one_in_memory_whatever_keys_the_shell_has(home: Home) -> None:
    cluster_of_somebody = Cluster(home, environment={"AWS_ACCESS_KEY_ID": "mine", "MLOPS_AWS_SESSION_TOKEN": "mine"})
    s3 = f"http://127.0.0.1:{cluster_of_somebody.ports['s3:5000']}"

    mlflow = cluster_of_somebody.instances["mlflow"].process.environment
    worker = cluster_of_somebody.instances["worker-1"].process.environment

    assert "mine" not in {*mlflow.values(), *worker.values()}
    assert mlflow["AWS_ENDPOINT_URL"] == s3
    assert json.loads(worker["AIRFLOW_CONN_MLOPS_AWS"])["extra"]["endpoint_url"] == s3
    assert cluster_of_somebody.settings()["AWS_ENDPOINT_URL"] == s3
    assert not [name for name in worker if name.startswith("AWS_")]


def test_a_bucket_of_ones_own_takes_the_place_of_the_one_in_memory(home: Home) -> None:
    own = {"COMPOSE_PROFILES": "", "MLOPS_BUCKET": "mine", "AIRFLOW_CONN_MLOPS_AWS": "aws://", "AWS_PROFILE": "unknown"}

    found = Cluster(home, environment=own)

    assert found.in_memory is None
    assert "s3" not in cluster.ports(found)
    assert found.settings()["MLOPS_TABLES_URI"] == "s3://mine/tables"
    assert found.instances["mlflow"].process.environment["AWS_ENDPOINT_URL"] == ""
    assert [name for name in found.settings() if name.startswith("AWS_")] == ["AWS_DEFAULT_REGION"]


def test_volumes_that_speak_of_tables_which_were_in_memory_are_discarded_and_others_never(home: Home) -> None:
    in_memory = Cluster(home, environment={})
    in_bucket = Cluster(home, environment={"COMPOSE_PROFILES": "", "MLOPS_BUCKET": "b", "AIRFLOW_CONN_MLOPS_AWS": "a"})
    database = in_memory.volume("postgres") / "PG_VERSION"

    for later in (in_memory, in_bucket):
        cluster.discard_orphaned(in_memory)
        database.parent.mkdir(parents=True)
        database.touch()
        cluster.discard_orphaned(later)
        assert not database.exists()

    database.parent.mkdir(parents=True)
    database.touch()
    cluster.discard_orphaned(in_bucket)
    with pytest.raises(ConfigurationError, match="speak of tables in a bucket"):
        cluster.discard_orphaned(in_memory)
    assert database.exists()


def test_a_removal_that_is_interrupted_leaves_no_volumes_without_their_mark(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Cluster(home, environment={})
    cluster.discard_orphaned(services)
    database = services.volume("postgres") / "PG_VERSION"
    database.parent.mkdir(parents=True)
    database.touch()

    def killed(folder: Path) -> None:
        (folder / "in_memory").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cluster.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            cluster.discard_orphaned(services)
    assert not services.folder.exists()

    cluster.discard_orphaned(services)
    assert [each.name for each in home.root.glob("cluster*")] == ["cluster"]
    assert not database.exists()


def test_a_cluster_whose_s3_has_ended_is_not_gone_on_with(services: Cluster) -> None:
    services.missing_packages = list  # type: ignore[method-assign]

    with pytest.raises(ConfigurationError, match="starts afresh"):
        cluster.refuse(services, {"postgres", "redis"})
