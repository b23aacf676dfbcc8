"""MLflow, on SQLite and as a server: one run, one model and one version per task, quickly, without global state."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

from mlops_provider.core.names import Alias, Tag
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import (
    ConfigurationError,
    EvidenceError,
    PermanentError,
    ServingCheckError,
    StoreUnavailableError,
)
from mlops_provider.stores.registry import Registry

# MLflow 3.17's own database code, on SQLAlchemy 2.1.

TRUSTED = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
PINNED = [f"{name}=={metadata.version(name)}" for name in ("mlflow", "scikit-learn", "pandas", "skops")]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow database; its tables take seconds to make, hence once."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server of our own."""
    folder, port = tmp_path_factory.mktemp("mlflow_server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    url, give_up = f"http://127.0.0.1:{port}", time.monotonic() + 90
    while True:
        try:
            if httpx.get(f"{url}/health").is_success:
                break
        except httpx.HTTPError:
            assert time.monotonic() < give_up, (folder / "log").read_text()
            time.sleep(0.2)
    yield url
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@pytest.fixture(params=["database", "server"])
def registry(request: pytest.FixtureRequest) -> Registry:
    return Registry(request.getfixturevalue(request.param))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for experiments and models of one test only."""
    return f"{request.node.originalname}_{time.time_ns()}"


@pytest.fixture(scope="session")
def rows() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "distance": random.integers(100, 3000, 500),
            "wind": random.normal(size=500),
            "carrier": random.choice(["AA", "UA", "DL"], 500),
        }
    )


@pytest.fixture(scope="session")
def pipeline(rows: pd.DataFrame) -> Pipeline:
    columns = ColumnTransformer([("carrier", OrdinalEncoder(), ["carrier"])], remainder="passthrough")
    model = Pipeline([("columns", columns), ("model", HistGradientBoostingClassifier(max_iter=100))])
    return model.fit(rows, rows["wind"] + rows["distance"] / 3000 > 0.5)


def new_run(registry: Registry, name: str, key: str = "dag/run/train/-1") -> str:
    return registry.ensure_run(name, key, name="2013-02", tags={Tag.MODEL: name})


def logged(registry: Registry, run_id: str, model: Any, rows: pd.DataFrame) -> str:
    return registry.log_model(run_id, model, example=rows.head(5), pip_requirements=PINNED, trusted_types=TRUSTED)


def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry.tracking_uri)


def at_once(times: int, action: Callable[[], str]) -> list[str]:
    """Do the same thing in several threads and return what each got."""
    together = threading.Barrier(times, timeout=60)

    def one(_: int) -> str:
        together.wait()
        return action()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(one, range(times)))


def test_a_task_has_one_run(registry: Registry, name: str) -> None:
    run_id = new_run(registry, name)

    assert new_run(registry, name) == run_id
    assert new_run(registry, name, "dag/other's run/train/-1") != run_id
    run = client(registry).get_run(run_id)
    assert run.info.run_name == "2013-02"
    assert run.data.tags[Tag.ORIGIN] == "dag/run/train/-1"
    assert registry.run_url(run_id, "http://127.0.0.1:5000/") == (
        f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run_id}"
    )


def test_tries_that_overlap_end_with_one_run(registry: Registry, name: str) -> None:
    found = at_once(4, lambda: new_run(registry, name))

    experiment = client(registry).get_experiment_by_name(name)
    assert experiment is not None
    (run,) = client(registry).search_runs([experiment.experiment_id])
    assert found == [run.info.run_id] * 4
    assert new_run(registry, name) == run.info.run_id


def test_a_run_deleted_by_hand_is_made_anew(registry: Registry, name: str) -> None:
    deleted = new_run(registry, name)
    client(registry).delete_run(deleted)

    assert new_run(registry, name) not in ("", deleted)


def test_what_is_logged_twice_is_there_once(registry: Registry, name: str) -> None:
    run_id = new_run(registry, name)

    for _ in range(2):
        registry.log(run_id, params={"depth": 3, "rate": 0.1}, metrics={"auc": 0.75}, tags={Tag.CAUSE: "drift"})
        registry.log_dataset(run_id, TableRef("/data/delays/features", 7, "2013-01"), "delays/features", "training")
        registry.finish(run_id)

    run = client(registry).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"depth": "3", "rate": "0.1", "mlops.run_id": run_id}
    assert [point.value for point in client(registry).get_metric_history(run_id, "auc")] == [0.75]
    assert run.data.tags[Tag.CAUSE] == "drift"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("delays/features", "v7-2013-01")
    assert '"delta_table_version": 7' in dataset.dataset.source
    with pytest.raises(PermanentError, match="depth"):
        registry.log(run_id, params={"depth": 4})


def test_many_parameters_fit(registry: Registry, name: str) -> None:
    run_id = new_run(registry, name)

    registry.log(run_id, params={f"p{number}": number for number in range(250)})

    assert {f"p{number}" for number in range(250)} < set(client(registry).get_run(run_id).data.params)


def test_a_model_comes_back_as_it_was(registry: Registry, name: str, pipeline: Pipeline, rows: pd.DataFrame) -> None:
    run_id = new_run(registry, name)

    uri = logged(registry, run_id, pipeline, rows)
    version = registry.ensure_version(name, run_id, tags={Tag.GATE_RECORD: "a1b2"})

    for address in (uri, f"models:/{name}/{version}"):
        model = registry.load_model(address)
        assert isinstance(model, Pipeline)
        np.testing.assert_array_equal(model.predict_proba(rows), pipeline.predict_proba(rows))
    (found,) = registry.versions(name)
    assert (found.version, found.run_id) == ("1", run_id)
    assert found.tags[Tag.GATE_RECORD] == "a1b2"


def test_a_stored_model_says_what_it_needs(
    registry: Registry, name: str, pipeline: Pipeline, rows: pd.DataFrame, tmp_path: Path
) -> None:
    run_id = new_run(registry, name)
    uri = logged(registry, run_id, pipeline, rows)

    location = client(registry).get_logged_model(uri.removeprefix("models:/")).artifact_location
    folder = mlflow.artifacts.download_artifacts(location, dst_path=str(tmp_path), tracking_uri=registry.tracking_uri)
    model = mlflow.models.Model.load(folder)

    assert model.run_id == run_id
    assert model.signature is not None
    assert model.signature.inputs.input_names() == ["distance", "wind", "carrier"]
    assert model.signature.outputs is not None
    assert set(Path(folder, "requirements.txt").read_text().split()) == set(PINNED)
    assert Path(folder, "input_example.json").exists()
    served = mlflow.pyfunc.load_model(folder).predict(rows.head(5))
    np.testing.assert_array_equal(served, pipeline.predict_proba(rows.head(5)))
    (output,) = client(registry).get_run(run_id).outputs.model_outputs
    assert uri == f"models:/{output.model_id}"


def test_a_retry_finds_model_and_version(registry: Registry, name: str, pipeline: Pipeline, rows: pd.DataFrame) -> None:
    run_id = new_run(registry, name)
    uri = logged(registry, run_id, pipeline, rows)
    version = registry.ensure_version(name, run_id, tags={})

    assert logged(registry, run_id, LogisticRegression(), rows) == uri
    assert registry.ensure_version(name, run_id, tags={}) == version
    assert len(registry.versions(name)) == 1


def test_tries_that_overlap_end_with_one_model_and_version(
    registry: Registry, name: str, pipeline: Pipeline, rows: pd.DataFrame
) -> None:
    run_id = new_run(registry, name)

    uris = at_once(3, lambda: logged(registry, run_id, pipeline, rows))
    numbers = at_once(3, lambda: registry.ensure_version(name, run_id, tags={}))

    experiment = client(registry).get_run(run_id).info.experiment_id
    (model,) = client(registry).search_logged_models([experiment])
    (version,) = registry.versions(name)
    assert set(uris) == {model.model_uri}
    assert set(numbers) == {version.version}
    assert version.source == model.artifact_location


def test_a_model_left_incomplete_by_a_killed_try_is_not_used(
    registry: Registry, name: str, pipeline: Pipeline, rows: pd.DataFrame
) -> None:
    run_id = new_run(registry, name)
    experiment = client(registry).get_run(run_id).info.experiment_id
    torn = client(registry).create_logged_model(experiment, "model", source_run_id=run_id)
    with pytest.raises(PermanentError, match="has stored no model"):
        registry.ensure_version(name, run_id, tags={})

    uri = logged(registry, run_id, pipeline, rows)

    assert uri != torn.model_uri


def test_versions_carry_aliases_and_tags(registry: Registry, name: str, pipeline: Pipeline, rows: pd.DataFrame) -> None:
    assert registry.versions(name) == []
    assert registry.aliases(name) == {}
    for key in ("first", "second"):
        run_id = new_run(registry, name, key)
        logged(registry, run_id, pipeline, rows)
        registry.ensure_version(name, run_id, tags={"mlops.key": key})

    registry.set_alias(name, Alias.CHALLENGER, "2")
    registry.set_alias(name, Alias.CHAMPION, "1")
    registry.set_alias(name, Alias.CHAMPION, "2")
    registry.tag_version(name, "1", {Tag.ROLLED_BACK: "worse"})

    assert registry.aliases(name) == {"challenger": "2", "champion": "2"}
    assert [version.version for version in registry.versions(name)] == ["1", "2"]
    assert registry.versions(name)[0].tags == {"mlops.key": "first", Tag.ROLLED_BACK: "worse"}
    assert name not in registry.models()
    registry.tag_version(name, "1", {Tag.MODEL: name})
    assert name in registry.models()
    with pytest.raises(PermanentError):
        registry.load_model(f"models:/{name}/9")


def test_an_estimator_that_is_kept_for_a_later_task_is_no_model_of_the_run(
    registry: Registry, name: str, pipeline: Pipeline, rows: pd.DataFrame
) -> None:
    run_id = new_run(registry, name)

    kept = [registry.keep_estimator(run_id, pipeline, folder="segments", trusted_types=TRUSTED) for _ in range(2)]
    again = registry.kept_estimator(run_id, kept[0], trusted_types=TRUSTED)

    assert np.array_equal(again.predict_proba(rows), pipeline.predict_proba(rows))
    assert kept[0]["path"] == f"segments/{kept[0]['sha256'][:16]}.skops"
    assert client(registry).search_logged_models([client(registry).get_run(run_id).info.experiment_id]) == []
    with pytest.raises(EvidenceError, match="was changed: SHA-256"):
        registry.kept_estimator(run_id, {**kept[1], "sha256": "0" * 64}, trusted_types=TRUSTED)
    with pytest.raises(
        PermanentError, match=r"nothing.skops of run .* is not there any more\..* start another training"
    ):
        registry.kept_estimator(run_id, {"path": "segments/nothing.skops", "sha256": ""}, trusted_types=TRUSTED)


def test_a_type_that_was_not_reviewed_is_not_stored(
    registry: Registry, name: str, pipeline: Pipeline, rows: pd.DataFrame
) -> None:
    run_id = new_run(registry, name)

    with pytest.raises(ConfigurationError, match="TreePredictor"):
        registry.log_model(run_id, pipeline, example=rows.head(5), pip_requirements=PINNED, trusted_types=[])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("- os.system", "asks to trust os.system"),
        ("- mlops_provider.adapters.segmented.np.save", "asks to trust mlops_provider.adapters.segmented.np.save"),
        ("serialization_format: pickle", "is stored as pickle"),
    ],
)
def test_a_model_that_could_run_foreign_code_is_not_loaded(
    database: str, name: str, pipeline: Pipeline, rows: pd.DataFrame, line: str, said: str
) -> None:
    registry = Registry(database)
    uri = logged(registry, new_run(registry, name), pipeline, rows)
    location = client(registry).get_logged_model(uri.removeprefix("models:/")).artifact_location
    file = Path(location.removeprefix("file://"), "MLmodel")
    whole = file.read_text()
    mine = f"- {TRUSTED[0]}" if line.startswith("-") else "serialization_format: skops"
    assert mine in whole
    file.write_text(whole.replace(mine, line))

    with pytest.raises(ServingCheckError, match=said):
        registry.load_model(uri)


def test_registries_do_not_disturb_each_other_nor_mlflow(
    database: str, server: str, name: str, pipeline: Pipeline, rows: pd.DataFrame
) -> None:
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run())

    for address in (database, server):
        registry = Registry(address)
        run_id = new_run(registry, name)
        logged(registry, run_id, pipeline, rows)
        assert registry.ensure_version(name, run_id, tags={}) == "1"

    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run()) == before


def test_artifacts_lie_beside_the_database(
    database: str,
    name: str,
    pipeline: Pipeline,
    rows: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = Registry(database)

    logged(registry, new_run(registry, name), pipeline, rows)

    assert list(tmp_path.iterdir()) == []
    assert list(Path(database.removeprefix("sqlite:///")).parent.rglob(f"{name}/**/MLmodel"))


def test_an_unreachable_server_fails_soon_and_is_named(name: str) -> None:
    port, began = free_port(), time.monotonic()

    with pytest.raises(StoreUnavailableError, match=rf"http://127\.0\.0\.1:{port} .*MLOPS_REGISTRY_URI"):
        new_run(Registry(f"http://127.0.0.1:{port}"), name)

    assert time.monotonic() - began < 15


def test_a_server_that_dies_in_between_fails_soon(name: str, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    registry = Registry(f"http://127.0.0.1:{port}")
    monkeypatch.setattr(registry, "ping", lambda: None)
    began = time.monotonic()

    with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{port}"):
        new_run(registry, name)

    assert time.monotonic() - began < 15


def test_a_silent_server_fails_soon() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        began = time.monotonic()

        with pytest.raises(StoreUnavailableError, match="timed out"):
            Registry(f"http://127.0.0.1:{listener.getsockname()[1]}").ping()

    assert time.monotonic() - began < 15


def test_a_missing_folder_or_wrong_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="nowhere does not exist"):
        Registry(f"sqlite:///{tmp_path}/nowhere/mlflow.db").versions("delays")
    with pytest.raises(ConfigurationError, match="MLOPS_REGISTRY_URI"):
        Registry(f"{tmp_path}/mlruns").versions("delays")
    with pytest.raises(StoreUnavailableError) as caught:
        Registry(f"postgresql://user:secret@127.0.0.1:{free_port()}/mlflow").ping()
    assert "secret" not in str(caught.value)
    assert ":***@" in str(caught.value)
