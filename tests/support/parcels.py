"""A small use case whose months can be bent, and its stores in one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlops_provider.core.names import Table
from mlops_provider.core.origin import Origin
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.steps import gate, monitor, score, train
from mlops_provider.stores.suite import Stores

FUNCTIONS = '''
"""Parcels: whether one arrives late follows from its weight, the distance and the depot it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

BENT = Path(__file__).parent / "bent.json"


def month(key):
    bent = json.loads(BENT.read_text()).get(key, {}) if BENT.exists() else {}
    rng = np.random.default_rng(int(key.replace("-", "")))
    rows = bent.get("rows", 800)
    frame = pd.DataFrame(
        {
            "parcel": int(key.replace("-", "")) * 10_000 + np.arange(rows),
            "sent_at": pd.date_range(f"{key}-01", periods=rows, freq="30min", tz="UTC"),
            "weight": rng.gamma(2.0, 2.0, rows) + bent.get("heavier", 0.0),
            "distance": rng.normal(0.0, 1.0, rows) + bent.get("farther", 0.0),
            "depot": rng.choice(["north", "south"], rows),
        }
    )
    sense = -1 if bent.get("reversed") else 1
    signal = 1.5 * sense * frame["distance"] + 0.8 * (frame["distance"] > 1) + (frame["depot"] == "south")
    frame["late"] = (rng.random(rows) < 1 / (1 + np.exp(1 - signal))).astype("int64")
    frame.loc[frame.index % 20 == 0, "late"] = -1  # lost parcels: no outcome
    return frame, bent


def land(key):
    return month(key)[0].drop(columns="late")


def features(frame, history, as_of):
    return frame


def outcomes(key):
    frame, bent = month(key)
    if bent.get("source") == "missing":
        raise FileNotFoundError("parcels.csv is missing")
    known = frame[frame["late"] >= 0][["parcel", "late"]]
    if bent.get("outcomes") == "none":
        return known.iloc[:0]
    if bent.get("outcomes") == "doubled":
        return pd.concat([known, known.head(3)])
    if bent.get("outcomes") == "strange":
        return known.assign(late=known["late"].where(known.index > 10, 7))
    if bent.get("outcomes") == "one class":
        return known.assign(late=0)
    return known


def estimator(params):
    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("words", words, ["depot"])], remainder="passthrough")
    trees = HistGradientBoostingClassifier(random_state=0, **{"max_iter": 20, "max_leaf_nodes": 6, **params})
    return Pipeline([("columns", columns), ("trees", trees)])


def space(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True)}
'''

DECLARED: Mapping[str, Any] = {
    "name": "parcels",
    "owner": "depot",
    "functions": {name: f"parcels.py:{name}" for name in ("land", "features", "outcomes", "estimator", "space")},
    "keys": ["parcel"],
    "event_time": "sent_at",
    "first_partition": "2013-01",
    "label_lag_days": 5,
    "target": {"name": "late"},
    "expectations": "expectations.yaml",
    "features": {"numeric": ["weight", "distance"], "categorical": ["depot"]},
    "slices": ["depot"],
    "seed": 7,
    "search": {"trials": 2, "timeout_seconds": 30, "sample_rows": 500},
    "bootstrap": {"resamples": 100},
    "gate": {
        "primary": "roc_auc",
        "limits": [{"metric": "roc_auc", "minimum": 0.6}],
        "baselines": ["dummy"],
        "minimum_rows": 100,
    },
    "rollout": {
        "strategy": "canary",
        "steps": [100],
        "soak_seconds": 0.0,
        "guards": {"errors": {"maximum": 0.01, "minimum_requests": 20}},
        "wait_at_most_seconds": 0.0,
        "without_data": "proceed",
    },
    "monitoring": {
        "limit": 0.5,
        "categorical_limit": 0.2,
        "seasonal": ["weight"],
        "alarm_share": 0.0,
        "sample_rows": 600,
        "minimum_rows": 100,
    },
    "retrain": {
        "windows_needed": 2,
        "windows_considered": 3,
        "performance_drop": 0.05,
        "max_age_days": 400,
        "cooldown_days": 20,
    },
}


class Parcels:
    """The use case in a folder, its stores, and short ways through its life."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "parcels"
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            (self.folder / "parcels.py").write_text(FUNCTIONS)
            (self.folder / "expectations.yaml").write_text("expectations: []\n")
            self.declare()
        self.stores = Stores(
            tables_uri=str(root / "data"),
            registry_uri=f"sqlite:///{root}/mlflow.db",
            ledger_url=f"sqlite:///{root}/ledger.db",
            reports_uri=str(root / "reports"),
        )

    def copied(self, root: Path) -> Parcels:
        """The same in another folder. What MLflow stored stays where it is: its addresses are absolute."""
        self.stores.ledger.close()
        shutil.copytree(self.root, root)
        return Parcels(root)

    def declare(self, **changes: Any) -> None:
        """Write ``model.yaml`` anew."""
        (self.folder / "model.yaml").write_text(yaml.safe_dump({**DECLARED, **changes}))

    @property
    def spec(self) -> ModelSpec:
        return load_spec(self.folder / "model.yaml")

    def bend(self, **months: Mapping[str, Any]) -> None:
        """Bend months, written as ``m2013_04={"farther": 2}``."""
        bent = {name.removeprefix("m").replace("_", "-"): how for name, how in months.items()}
        (self.folder / "bent.json").write_text(json.dumps(bent))

    def build(self, *months: str) -> None:
        """Put months into the features table."""
        for month in months:
            uri = self.stores.tables.uri("parcels", Table.FEATURES)
            writer = self.stores.tables.replace_partition(uri, month)
            writer.write(self.spec.function("land")(month), origin_key=f"test/{month}")

    def train(self, through: str, run: str = "run") -> str | None:
        """Go through training; the version, or None if the gate said no."""
        spec, stores = self.spec, self.stores
        declaration = train.declare_gate(spec, stores, through, origin=origin("declare_gate", run))
        run_id = train.train_model(
            spec, stores, through, parameters={}, declaration=declaration, origin=origin("train_model", run)
        )
        evaluation = train.evaluate_model(
            spec, stores, through, run_id=run_id, declaration=declaration, origin=origin("evaluate_model", run)
        )
        verdict_id, verdict = gate.decide_gate(
            stores, evaluation=evaluation, declaration=declaration, origin=origin("decide_gate", run)
        )
        if not verdict.passed:
            return None
        return train.register_model(
            spec, stores, run_id=run_id, verdict=verdict_id, origin=origin("register_model", run)
        )

    def serve(self, version: str) -> None:
        """Give a version all traffic, as a settled rollout does."""
        current = self.stores.ledger.traffic("parcels")
        self.stores.ledger.propose_traffic(
            "parcels", {version: 100}, settled=True, expected_generation=current.generation if current else 0
        )

    def watch(self, month: str, workspace: Path | None = None, run: str = "") -> tuple[str, str, dict[str, Any]]:
        """Go through a month of monitoring: ledger IDs of performance and drift, and the retrain decision."""
        spec, stores, run = self.spec, self.stores, run or f"monitor {month}"
        monitor.record_outcomes(spec, stores, month, origin=origin("record_outcomes", run))
        performance = monitor.measure_performance(spec, stores, month, origin=origin("measure_performance", run))
        drift = monitor.detect_drift(
            spec, stores, month, workspace=str(workspace) if workspace else None, origin=origin("detect_drift", run)
        )
        decision = monitor.decide_retrain(
            spec, stores, month, performance=performance, drift=drift, origin=origin("decide_retrain", run)
        )
        return performance, drift, decision

    def score(self, month: str) -> None:
        """Predict a month with the version in service."""
        score.score(self.spec, self.stores, month, origin=origin("score_batch", f"score {month}"))

    def payload(self, record_id: str) -> Mapping[str, Any]:
        return self.stores.ledger.get(record_id).payload


def origin(task: str, run: str = "run") -> Origin:
    return Origin("parcels", run, task, actor="ada")
