"""Logging and registering a model: ours beside MLflow's default, which probes the environment."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from measure import figure, machine, seconds
from sklearn.ensemble import HistGradientBoostingClassifier

from mlops_provider.adapters import training
from mlops_provider.stores.registry import Registry

if __name__ == "__main__":
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{Path(folder) / 'mlflow.db'}"
        generator = np.random.default_rng(0)
        rows = pd.DataFrame(generator.normal(size=(5_000, 20)), columns=[f"feature_{number}" for number in range(20)])
        model = HistGradientBoostingClassifier(random_state=0).fit(rows, generator.integers(0, 2, 5_000))
        registry, numbers = Registry(uri), itertools.count()

        def ours() -> None:
            """One run with a logged model and a registered version."""
            key = f"bench/{next(numbers)}"
            run_id = registry.ensure_run("bench", key, name=key, tags={})
            registry.log_model(
                run_id,
                model,
                example=rows.head(5),
                pip_requirements=list(training.pinned_requirements()),
                trusted_types=list(training.TRUSTED_TYPES),
            )
            registry.ensure_version("bench", run_id, tags={})

        def default() -> None:
            """The same through MLflow's own call, left to find out the requirements by itself."""
            mlflow.set_tracking_uri(uri)
            if mlflow.get_experiment_by_name("default_call") is None:
                mlflow.create_experiment("default_call", artifact_location=(Path(folder) / "artifacts").as_uri())
            mlflow.set_experiment("default_call")
            with mlflow.start_run():
                mlflow.sklearn.log_model(
                    model,
                    name="model",
                    input_example=rows.head(5),
                    skops_trusted_types=list(training.TRUSTED_TYPES),
                    registered_model_name="default_call",
                )

        figure("log and register, this suite", seconds(ours, runs=5), "under 1 s")
        figure("log and register, MLflow's default", seconds(default, runs=3))
