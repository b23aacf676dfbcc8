"""A version in a folder of its own predicts the same elsewhere: a real lock, a clean environment, a real server."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlops_provider.adapters import locked, own_wheel
from mlops_provider.cli.main import main
from mlops_provider.core.columns import Column
from mlops_provider.core.evidence import Record
from mlops_provider.core.names import Environment, Kind, Table
from mlops_provider.exceptions import ConfigurationError, EvidenceError, RolloutRefusedError
from mlops_provider.steps import models, package, package_folder, reproduction
from mlops_provider.steps.stored_predictions import stored_predictions
from mlops_provider.stores.archive import MANIFEST, Archive
from support.parcels import Parcels

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
COLUMNS = (Column("weight", "number"), Column("distance", "number"), Column("depot", "text"))


@pytest.fixture(scope="module")
def scored(trained_parcels: Parcels, tmp_path_factory: pytest.TempPathFactory) -> Parcels:
    """The same, after it scored a month; not to be changed."""
    made = trained_parcels.copied(tmp_path_factory.mktemp("scored") / "copy")
    made.serve("1")
    made.score("2013-03")
    return made


@pytest.fixture(scope="module")
def written(scored: Parcels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its package; not to be changed."""
    folder = tmp_path_factory.mktemp("packages") / "parcels-1"
    package.package(scored.stores, "parcels", "1", folder, say=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def clean(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a clean environment that was made of its lock; made once, as most of the time is spent here."""
    return locked.environment(tmp_path_factory.mktemp("clean") / "environment", written / package.LOCK, python=PYTHON)


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A package of the test's own."""
    return Path(shutil.copytree(written, tmp_path / "package"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs a command over the stores of a place."""

    def command(place: Parcels, *words: str) -> int:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
        for name, address in (
            (Environment.TABLES_URI, place.stores.tables_uri),
            (Environment.REGISTRY_URI, place.stores.registry_uri),
            (Environment.LEDGER_URL, place.stores.ledger_url),
        ):
            monkeypatch.setenv(name, str(address))
        return main(words)

    return command


@pytest.fixture
def in_clean(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the environment that was made of an equal lock instead of making it again."""
    monkeypatch.setattr(locked, "environment", lambda *_, **__: clean)


@pytest.fixture
def first_way_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the seconds of the other ways, where one is enough."""
    every = reproduction._ways
    monkeypatch.setattr(reproduction, "_ways", lambda *given: itertools.islice(every(*given), 1))


def newest(place: Parcels) -> dict[str, Any]:
    record = place.stores.ledger.latest(Kind.PACKAGE, "parcels")
    assert record is not None
    return dict(record.payload)


@pytest.mark.slow
def test_stored_predictions_are_reproduced_in_a_clean_environment(
    scored: Parcels, written: Path, clean: Path, in_clean: None, run: Any, capsys: Any
) -> None:
    installed = subprocess.run(
        [clean, "-I", "-c", "from importlib import metadata as m; print(*(d.name for d in m.distributions()))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "airflow-provider-mlops" in installed
    assert not [name for name in installed if name.startswith("apache-airflow") or name in ("pytest", "evidently")]

    assert run(scored, "package", "parcels@1", "--to", str(written), "--verify") == 0

    said = capsys.readouterr()
    assert "Reproduced in a clean environment" in said.out
    assert "mlops serve" in said.err
    found = newest(scored)
    assert (found["reproduced"], found["reason"], found["version"]) == (True, "", "1")
    checks = {each["scorer"]: each for each in found["checks"]}
    assert set(checks) == {"scorer.onnx", "model.skops", "mlops serve"}
    assert {each["rows"] for each in checks.values()} == {800}
    assert checks["scorer.onnx"]["equal"] == checks["mlops serve"]["equal"] == 800
    assert max(each["largest_difference"] for each in checks.values()) < 1e-13
    assert found["files"] == scored.stores.registry.model_digest("models:/parcels/1")
    predicted = scored.stores.ledger.latest(Kind.PREDICTIONS, "parcels")
    assert predicted is not None
    assert found["sample"]["record"] == predicted.record_id
    assert scored.stores.ledger.verify() is None


@pytest.mark.slow
def test_what_differs_or_predicts_nothing_is_told_recorded_and_fails(
    scored: Parcels, copied: Path, clean: Path, in_clean: None, first_way_only: None, run: Any, capsys: Any
) -> None:
    sample = pq.read_table(copied / package.SAMPLE).to_pandas()
    sample.loc[3, "prediction"] += 1e-6
    sample.to_parquet(copied / package.SAMPLE)
    resigned(copied)
    skops = next(clean.parent.parent.glob("lib/python*/site-packages/skops"))
    away = skops.rename(skops.with_name("no-skops"))
    try:
        assert run(scored, "package", "parcels@1", "--to", str(copied), "--verify") == 1
        assert "predicts nothing: mlops score: The Python module 'skops'" in capsys.readouterr().err
        assert (newest(scored)["reproduced"], newest(scored)["checks"]) == (False, [])
    finally:
        away.rename(skops)

    assert run(scored, "package", "parcels@1", "--to", str(copied), "--verify") == 1

    said = capsys.readouterr()
    assert "Not reproduced in a clean environment" in said.out
    assert "scorer.onnx predicts 1 of 800 rows differently, by up to 1" in said.err
    assert newest(scored)["reproduced"] is False


def resigned(folder: Path) -> None:
    """Write a manifest that knows the files as they are now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    archive = Archive(folder, package_folder.WHAT)
    (folder / MANIFEST).unlink()
    for name in archive.tree.names():
        archive.add(name, [(folder / name).read_bytes()])
    archive.finish(package=manifest["package"], made_at=manifest["made_at"], about=manifest["about"])


def test_a_package_holds_files_evidence_lock_and_container_file(scored: Parcels, written: Path) -> None:
    files = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())

    assert {"Dockerfile", "README.md", "requirements.txt", "sample.parquet", "model/scorer.onnx"} < set(files)
    kinds = [path.stem.partition("-")[2] for path in sorted((written / "evidence").iterdir())]
    assert kinds == ["declaration", "training", "evaluation", "gate", "registration"]
    for path in (written / "evidence").iterdir():
        record = Record.from_json(json.loads(path.read_text()))
        assert record.digest == record.expected_digest == scored.stores.ledger.get(record.record_id).digest
    pins = locked.pins((written / package.LOCK).read_text())
    trained = scored.stores.ledger.history(Kind.TRAINING, "parcels")[0].payload["requirements"]
    assert {"scikit-learn", "onnx", "onnxruntime", "skops"} < {line.partition("==")[0] for line in trained}
    assert dict(line.split("==") for line in trained).items() <= pins.items()
    assert {"uvicorn", "msgspec", "mlflow"} < set(pins)
    assert not [name for name in pins if name.startswith("apache-airflow")]
    assert "://" not in (written / package.LOCK).read_text()
    container = (written / "Dockerfile").read_text()
    assert f"FROM python:{PYTHON}-slim" in container
    assert "USER 50000" in container
    assert "sample" not in container.partition("COPY --chown")[2]


def test_a_package_that_is_there_is_looked_through(
    scored: Parcels, written: Path, copied: Path, run: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(Environment.SPOOL_DIR, str(copied.parent / "spool"))
    assert run(scored, "package", "parcels@1", "--to", str(written)) == 0

    (copied / "README.md").write_text("something else")
    assert run(scored, "package", "parcels@1", "--to", str(copied)) == 1
    assert "README.md was changed" in capsys.readouterr().err
    (copied / "model" / "model.skops").write_bytes(b"something else")
    assert run(scored, "score", str(copied / package.SAMPLE), "--package", str(copied)) == 1
    assert "model/model.skops was changed" in capsys.readouterr().err
    resigned(copied)
    for command in (("score", str(copied / package.SAMPLE)), ("serve", "--port", "0")):
        assert run(scored, *command, "--package", str(copied)) == 1
        assert "None was opened; make the package anew" in capsys.readouterr().err


def test_only_a_version_with_evidence_is_packaged_into_a_folder_of_its_own(
    scored: Parcels, written: Path, tmp_path: Path, run: Any, capsys: Any
) -> None:
    with pytest.raises(RolloutRefusedError, match="Version 7 of 'parcels' was not registered through the gate"):
        package.package(scored.stores, "parcels", "7", tmp_path / "new", say=print)
    with pytest.raises(ConfigurationError, match="is not empty: a package gets a folder of its own"):
        package.package(scored.stores, "parcels", "1", written.parent, say=print)
    assert run(scored, "package", "parcels-1") == 1
    assert "such as flight_delays@3, got 'parcels-1'" in capsys.readouterr().err


def test_evidence_that_was_changed_is_not_packaged(trained_parcels: Parcels, tmp_path: Path) -> None:
    parcels = trained_parcels.copied(tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / "ledger.db") as connection:
        connection.execute("DROP TRIGGER mlops_records_no_update")
        connection.execute(
            "UPDATE mlops_records SET payload = replace(payload, '0.8', '0.9') WHERE kind = 'evaluation'"
        )
    connection.close()

    with pytest.raises(EvidenceError, match=r"\(evaluation\) of the ledger does not match its digest"):
        package.package(parcels.stores, "parcels", "1", tmp_path / "package", say=print)

    assert list((tmp_path / "package").iterdir()) == []


def test_without_stored_predictions_there_is_nothing_to_compare_with(
    trained_parcels: Parcels, tmp_path: Path, run: Any, capsys: Any
) -> None:
    folder = tmp_path / "package"

    assert run(trained_parcels, "package", "parcels@1", "--to", str(folder), "--verify") == 1

    said = capsys.readouterr()
    assert "no stored predictions of version 1" in said.err
    assert "mlops run score" in said.err
    assert not (folder / package.SAMPLE).exists()
    assert "sample.parquet" not in (folder / "README.md").read_text()
    assert package_folder.opened(folder).version == "1"


def test_rows_of_a_file_are_predicted_as_they_were(
    scored: Parcels, written: Path, tmp_path: Path, run: Any, capsys: Any
) -> None:
    sample = pq.read_table(written / package.SAMPLE).to_pandas()
    stored = sample.pop("prediction").to_numpy()
    sample.to_csv(tmp_path / "rows.csv", index=False)

    assert run(scored, "score", "rows.csv", "--package", str(written), "--output", "answers.csv") == 0
    np.testing.assert_array_equal(
        pd.read_csv(tmp_path / "answers.csv", float_precision="round_trip")["prediction"], stored
    )
    assert run(scored, "score", "answers.csv", "--package", str(written), "--output", "a.parquet", "--estimator") == 0
    again = pq.read_table(tmp_path / "a.parquet").to_pandas()
    np.testing.assert_allclose(again["prediction"], stored, rtol=0, atol=1e-13)
    assert list(again) == ["weight", "distance", "depot", "prediction"]

    sample[["weight"]].to_csv(tmp_path / "few.csv", index=False)
    assert run(scored, "score", "few.csv", "--package", str(written)) == 1
    assert "few.csv lacks 2 of 3 columns: distance, depot" in capsys.readouterr().err


def test_the_prediction_log_serves_as_stored_predictions(trained_parcels: Parcels, tmp_path: Path) -> None:
    parcels = trained_parcels.copied(tmp_path / "copy")
    tables = parcels.stores.tables
    uri = tables.uri("parcels", Table.PREDICTION_LOG)
    rows = tables.read(tables.uri("parcels", Table.FEATURES), partitions=["2013-03"]).head(40)[
        [c.name for c in COLUMNS]
    ]
    scorer = models.scorer(parcels.stores.registry, parcels.stores.ledger, "parcels", "1")
    answers = scorer.predict({name: rows[name].to_numpy() for name in rows})
    log = pd.DataFrame(
        {
            "request_id": [f"r{number}" for number in range(40)],
            "row": 0,
            "version": ["1"] * 30 + ["2"] * 10,
            "arm": ["fallback"] * 5 + ["split"] * 35,
            "prediction": answers,
            "features": [json.dumps(row) for row in rows.to_dict("records")],
        }
    )
    tables.append_once(uri, log, app_id="server", sequence=1, after=0)

    found = stored_predictions(parcels.stores, "parcels", "1", COLUMNS, rows=1000)

    assert found is not None
    assert found.about == {"prediction_log": {"table": uri, "version": tables.version(uri), "partition": None}}
    pd.testing.assert_frame_equal(
        found.rows.to_pandas(), rows.assign(prediction=answers)[5:30].reset_index(drop=True), check_exact=True
    )
    assert stored_predictions(parcels.stores, "parcels", "3", COLUMNS, rows=1000) is None


def test_a_month_whose_files_are_gone_is_no_sample(scored: Parcels, tmp_path: Path) -> None:
    parcels = scored.copied(tmp_path / "copy")
    found = stored_predictions(scored.stores, "parcels", "1", COLUMNS, rows=10)
    assert found is not None
    assert (len(found.rows), found.about["of"]) == (10, 800)

    for file in (tmp_path / "copy/data/parcels/predictions").rglob("*.parquet"):
        file.unlink()

    # Its ledger knows the tables where they were written first.
    shutil.rmtree(tmp_path / "copy/data/parcels/features")
    assert stored_predictions(parcels.stores, "parcels", "2", COLUMNS, rows=10) is None


def training(requirements: list[str], *types: str) -> Any:
    trust = {"trust": {"reason": "ours", "owner": "ada", "types": list(types)}} if types else {}
    return SimpleNamespace(record_id="abc", payload={"requirements": requirements, **trust})


PINNED = ["scikit-learn==1.9.1", "skops==0.16.0", "numpy==2.4.6"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (training(PINNED[:2]), r"training \(abc\) does not pin numpy"),
        (training([*PINNED, "pandas>=2"]), "no exact version of pandas>=2"),
        (training(PINNED, "support.own_types.Doubled"), "brings the module 'support'"),
    ],
    ids=["lacking", "loose", "of a loose module"],
)
def test_what_cannot_be_installed_elsewhere_is_refused(record: Any, said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        package._pinned(record)


def test_a_type_of_a_pinned_package_may_be_packaged() -> None:
    assert package._pinned(training([*PINNED, "mlflow==3.17.2"], "mlflow.Thing")) == [*PINNED, "mlflow==3.17.2"]


def test_a_lock_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be locked; uv said:(.|\n)*airflow-provider-mlops") as refused:
        locked.compiled(["airflow-provider-mlops==0.0.1"], python=PYTHON)
    assert "does not read pip's settings" in str(refused.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(locked.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigurationError, match="uv is not installed here"):
        locked.compiled(PINNED, python=PYTHON)


def test_equal_code_gives_an_equal_wheel_that_holds_all_of_it(tmp_path: Path) -> None:
    name, content = own_wheel.built()

    assert own_wheel.built() == (name, content)
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        inside = wheel.namelist()
        assert wheel.testzip() is None
    assert {"mlops_provider/serving/process.py", "mlops_provider/steps/templates/Dockerfile.jinja"} < set(inside)
    assert not [entry for entry in inside if "__pycache__" in entry]


def test_a_difference_beyond_the_tolerance_fails() -> None:
    stored = np.array([0.5, 200.0, 0.25])

    near = reproduction._compared("x", stored + np.array([0.0, 1e-8, 0.0]), stored)
    far = reproduction._compared("x", stored + np.array([2e-9, 0.0, 0.0]), stored)
    nothing = reproduction._compared("x", np.array([0.5, np.nan, 0.25]), stored)

    assert (near.passed, near.equal, far.passed, nothing.passed) == (True, 2, False, False)
    assert nothing.largest_difference is None
