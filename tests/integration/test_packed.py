"""A version as one file, served without ledger and registry; and that every way to predict predicts the same."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from mlops_provider.cli.main import main
from mlops_provider.core.names import CUSTOM_ATTRIBUTES, Table
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import ConfigurationError, EvidenceError, RolloutRefusedError
from mlops_provider.steps import models
from mlops_provider.steps.package_folder import EVIDENCE, opened
from mlops_provider.steps.packed import packed
from mlops_provider.steps.score import score
from mlops_provider.stores.archive import MANIFEST
from mlops_provider.targets import Packed
from support.serving import COLUMNS, MODEL, ServerProcess, World, origin
from support.stack import ROOT, free_port, wait_until

SERVING = {"sticky": ["carrier"], "fallback": 0.25}
FEBRUARY = "2013-02"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("packaged"), empty_mlflow)
    made.land_features()
    made.record(made.register(1, recorded=False), packable=True)
    made.settle({"1": 100})
    yield made
    made.close()


@pytest.fixture(scope="module")
def archive(world: World) -> Packed:
    return packed(world.spec(serving=SERVING), world.stores, "1")


@pytest.fixture
def unpacked(archive: Packed, tmp_path: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as content:
        content.extractall(tmp_path / "model", filter="data")
    return tmp_path / "model"


@pytest.fixture
def container(archive: Packed, unpacked: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """What the image runs as `serve`, where neither ledger nor registry are known."""
    port, log = free_port(), tmp_path / "container.log"
    made = re.search(r"printf '(.*)' > /usr/local/bin/serve", (ROOT / "Dockerfile").read_text())
    assert made
    program = tmp_path / "serve"
    program.write_text(made[1].replace("\\n", "\n"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_")}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT / "plugins"),
        "SAGEMAKER_BIND_TO_PORT": port,
        "MLOPS_PACKAGE": str(unpacked),
        "MLOPS_PACKAGE_DIGEST": archive.digest,
        "MLOPS_SPOOL_DIR": str(tmp_path / "spool"),
    }
    with log.open("wb") as sink:
        command = ["sh", str(program), "--host", "127.0.0.1"]
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment, cwd=tmp_path)
    server = ServerProcess(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until(lambda: _alive(server), "the container to answer /ping", 60)
        yield server
    finally:
        server.end(signal.SIGKILL)


def _alive(server: ServerProcess) -> bool:
    assert server.process.poll() is None, server.log.read_text()[-3000:]
    try:
        return server.get("/ping").status_code == 200
    except httpx.TransportError:
        return False


def test_server_batch_library_and_container_predict_the_same(world: World, container: ServerProcess) -> None:
    server = world.serve()
    server.wait_for_generation(1)
    table = world.tables.uri(MODEL, Table.FEATURES)
    features = TableRef(table, world.tables.version(table) or 0, FEBRUARY)
    rows = world.tables.read(features)[list(COLUMNS)]

    by_server = world.target(server).predict(rows).predictions
    by_batch = world.tables.read(score(world.spec(), world.stores, FEBRUARY, features, origin=origin("score_batch")))
    scorer = models.scorer(world.registry, world.ledger, MODEL, "1")
    by_library = scorer.predict_table(pa.Table.from_pandas(rows))
    content = {"dataframe_split": {"columns": list(COLUMNS), "data": rows.to_numpy().tolist()}}
    by_container = container.score(content, headers={CUSTOM_ATTRIBUTES: "X-MLOps-Request-Id=check-7,Other=1"})

    assert len(rows) == 200
    for predictions in (by_server, by_batch["prediction"], by_library, by_container.json()["predictions"]):
        np.testing.assert_allclose(predictions, world.expected("1", rows), rtol=0, atol=1e-12)
    told = by_container.headers[CUSTOM_ATTRIBUTES].split(",")
    assert {"X-MLOps-Version=1", "X-MLOps-Request-Id=check-7", "X-MLOps-Arm=split"} <= set(told)
    assert container.end() == 0


def test_equal_versions_give_equal_archives(world: World, archive: Packed) -> None:
    assert packed(world.spec(serving=SERVING), world.stores, "1") == archive
    assert packed(world.spec(), world.stores, "1").digest != archive.digest


def test_an_archive_is_a_package_that_says_how_to_answer(world: World, archive: Packed, unpacked: Path) -> None:
    found = opened(unpacked, archive.digest)

    assert (found.model, found.version) == (MODEL, "1")
    assert found.policy == world.spec(serving=SERVING).serving_policy
    assert {file.name for file in unpacked.iterdir()} == {MANIFEST, "model", "evidence"}


def _other_model(folder: Path) -> None:
    (folder / "model" / "model.skops").write_bytes(b"other")


def _passed_anyway(folder: Path) -> None:
    gate = next((folder / EVIDENCE).glob("*-gate.json"))
    gate.write_text(gate.read_text().replace('"reasons": []', '"reasons": ["mended"]'))


def _no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _unknown_policy(folder: Path) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text().replace('"sticky"', '"sticky_columns"'))


def _another_version(folder: Path) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text().replace('"version": "1"', '"version": "2"'))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (_other_model, EvidenceError, "model/model.skops was changed"),
        (_passed_anyway, EvidenceError, "gate.json was changed"),
        (_another_version, EvidenceError, "is not that of 'late_flights' version 2"),
        (_no_manifest, ConfigurationError, "holds no manifest.json"),
        (_unknown_policy, ConfigurationError, "is no package of a model version"),
    ],
)
def test_what_was_changed_is_not_served(
    unpacked: Path, change: Callable[[Path], None], error: type[Exception], sentence: str
) -> None:
    change(unpacked)

    with pytest.raises(error, match=sentence):
        opened(unpacked)


def test_another_archive_than_was_deployed_is_not_served(unpacked: Path) -> None:
    with pytest.raises(EvidenceError, match="and 0123 was deployed: the package was exchanged"):
        opened(unpacked, "0123")


def test_the_server_starts_with_no_other_package_than_was_deployed(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLOPS_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("MLOPS_PACKAGE_DIGEST", "0123")

    assert main(["serve", "--port", "0", "--package", str(unpacked)]) == 1

    assert "0123 was deployed: the package was exchanged" in capsys.readouterr().err


def test_a_version_without_a_passing_verdict_is_not_packed(world: World) -> None:
    version = world.register(3, passed=False)

    with pytest.raises(RolloutRefusedError, match="no passing verdict"):
        packed(world.spec(), world.stores, version)
