"""The use case in ``tests/use_cases/tiny``: its source, good and bad, and stores of its own in one folder."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.steps import gate, ingest, train
from mlops_provider.stores.suite import Stores

MODEL = "bus_delays"
USE_CASE = Path(__file__).parents[1] / "use_cases" / "tiny"
JANUARY, FEBRUARY, MARCH = "2013-01", "2013-02", "2013-03"
ANY_MODEL_PASSES = {"primary": "roc_auc", "baselines": [], "mode": "dry_run", "mode_reason": "the test is not about it"}
"""A gate for models that shall follow each other."""


def trips(month: str, rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """A month of trips, late in the middle distances with little rain and otherwise in time: no line parts the two."""
    random = np.random.default_rng([seed, *map(int, month.split("-"))])
    distance, rain = random.uniform(0, 20, rows), random.uniform(0, 10, rows)
    late = random.random(rows) < np.where(((distance - 10) / 10) ** 2 + ((rain - 5) / 5) ** 2 < 0.6, 0.9, 0.1)
    minutes = np.sort(random.integers(0, 28 * 24 * 60, rows))
    return pd.DataFrame(
        {
            "trip": [f"{month}-{number:05}" for number in range(rows)],
            "line": random.choice(["A", "B", "C"], rows),
            "started": pd.Timestamp(f"{month}-01", tz="UTC") + pd.to_timedelta(minutes, unit="min"),
            "distance": distance.round(6),
            "rain": rain.round(6),
            "delay": np.where(late, 12.0, 1.0),
        }
    )


def write_month(folder: Path, month: str, frame: pd.DataFrame | None = None) -> Path:
    """Write a month of the source; the good one if no *frame* is given."""
    file = folder / f"{month}.csv.gz"
    (trips(month) if frame is None else frame).to_csv(file, index=False)
    return file


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def _not_packed(file: Path) -> None:
    file.write_bytes(b"trip,line\n1,A\n")


def _damaged(file: Path) -> None:
    """Change bytes in the middle, as a bad disk does."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = b"\xff" * 40
    file.write_bytes(content)


BAD_FRAMES: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "missing column": lambda frame: frame.drop(columns="rain"),
    "missing key": lambda frame: frame.drop(columns="trip"),
    "missing time": lambda frame: frame.drop(columns="started"),
    "wrong type": lambda frame: frame.assign(distance="far"),
    "no rows": lambda frame: frame.head(0),
}
"""What a source may hold that must not get in."""

BAD_FILES: Mapping[str, Callable[[Path], None]] = {
    "missing file": Path.unlink,
    "empty file": _emptied,
    "truncated file": _truncated,
    "damaged file": _damaged,
    "another format": _not_packed,
}
"""What may happen to a source's file."""


def with_bad_rows(frame: pd.DataFrame, share: float = 0.02) -> pd.DataFrame:
    """Give *share* of the rows a distance that cannot be."""
    bad = np.arange(len(frame)) < len(frame) * share
    return frame.assign(distance=frame["distance"].where(~bad, -1.0))


@dataclass(frozen=True)
class Place:
    """
    A folder with a source, a use case and stores; cheap to hand to another process.

    :param tables_uri: Where the tables are, if not in the folder; the addresses of the other stores likewise.
    """

    folder: Path
    use_case: Path = USE_CASE
    tables_uri: str = ""
    registry_uri: str = ""
    ledger_url: str = ""

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def spec(self) -> ModelSpec:
        return load_spec(self.use_case / "model.yaml")

    def stores(self) -> Stores:
        """Fresh clients, as a task has them."""
        os.environ["TINY_SOURCE"] = str(self.source)
        return Stores(
            tables_uri=self.tables_uri or str(self.folder / "tables"),
            registry_uri=self.registry_uri or f"sqlite:///{self.folder}/mlflow.db",
            ledger_url=self.ledger_url or f"sqlite:///{self.folder}/ledger.db",
        )

    def declared(self, **changes: object) -> Place:
        """The same place with another declaration: top-level fields of ``model.yaml`` replaced."""
        copy = self.folder / "use_case"
        shutil.copytree(self.use_case, copy, ignore=shutil.ignore_patterns("__pycache__"))
        declaration = yaml.safe_load((copy / "model.yaml").read_text())
        (copy / "model.yaml").write_text(yaml.safe_dump(declaration | changes))
        return replace(self, use_case=copy)

    def table(self, table: str) -> str:
        """Address of a table."""
        return self.stores().tables.uri(MODEL, table)


def environments(place: Place, folder: Path, empty_mlflow: Path) -> tuple[Place, Place]:
    """
    Give staging and prod in *folder*.

    Staging has copies of the place's databases, which thus stay as they are, and its tables, whose addresses are in its
    records; prod is empty.
    """
    for name in ("ledger.db", "mlflow.db"):
        with closing(sqlite3.connect(place.folder / name)) as source, closing(sqlite3.connect(folder / name)) as copy:
            source.backup(copy)
    prod = Place(folder / "prod", place.use_case)
    prod.folder.mkdir()
    shutil.copy(empty_mlflow, prod.folder)
    staging = replace(
        place,
        tables_uri=str(place.folder / "tables"),
        registry_uri=f"sqlite:///{folder}/mlflow.db",
        ledger_url=f"sqlite:///{folder}/ledger.db",
    )
    return staging, prod


def origin(task: str, run: str = "run-1") -> Origin:
    """The task instance that acts; *run* names its DAG run."""
    return Origin("bus_delays_dag", run, task, actor="ada")


def ingest_month(place: Place, month: str, run: str | None = None) -> TableRef:
    """Land, validate and featurise a month in one DAG run."""
    spec, stores, run = place.spec(), place.stores(), run or f"ingest-{month}"
    landed = ingest.land(spec, stores, month, origin=origin("land_data", run))
    clean = ingest.validate(spec, stores, month, landed, origin=origin("validate_data", run))
    return ingest.build_features(spec, stores, month, clean, origin=origin("build_features", run))


def ingest_months(place: Place, *months: str) -> None:
    """Write the source of *months*, then ingest each."""
    for month in months:
        write_month(place.source, month)
        ingest_month(place, month)


def train_candidate(place: Place, through: str, run: str) -> tuple[str, str]:
    """Declare, train, evaluate and judge in one DAG run; give the MLflow run and the ledger ID of the verdict."""
    spec, stores = place.spec(), place.stores()
    declaration = train.declare_gate(spec, stores, through, origin=origin("declare_gate", run))
    run_id = train.train_model(
        spec, stores, through, parameters={}, declaration=declaration, origin=origin("train_model", run)
    )
    evaluation = train.evaluate_model(
        spec, stores, through, run_id=run_id, declaration=declaration, origin=origin("evaluate_model", run)
    )
    judging = origin("decide_gate", run)
    verdict, _ = gate.decide_gate(stores, evaluation=evaluation, declaration=declaration, origin=judging)
    return run_id, verdict


def register_candidate(place: Place, through: str, run: str) -> str:
    """Train a candidate that passes, and register it; give the version."""
    run_id, verdict = train_candidate(place, through, run)
    spec, stores = place.spec(), place.stores()
    return train.register_model(spec, stores, run_id=run_id, verdict=verdict, origin=origin("register_model", run))
