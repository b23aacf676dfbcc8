"""
A gate over two tables of predictions, in a DAG of your own: copy it, and name your own tables.

It needs `pip install 'airflow-provider-mlops[tables]'` and no more: no server, no ledger, no `model.yaml`.
"""

from __future__ import annotations

import tempfile

from airflow.sdk import DAG, Param, task

from mlops_provider.operators.tables import GatePredictionsOperator

FOLDER = Param(
    f"{tempfile.gettempdir()}/example_mlops_gate",
    type="string",
    description="Folder for the tables of this example; every worker must see it.",
)

with DAG("example_mlops_gate", schedule=None, params={"folder": FOLDER}, tags=["example", "mlops"], doc_md=__doc__):

    @task
    def predict(params: dict[str, str] | None = None) -> dict[str, str]:
        """Stand in for your two models: 4,000 flights, the late ones known, and what each model said of them."""
        from pathlib import Path

        import numpy as np
        import pandas as pd

        folder = Path((params or {})["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        random, rows = np.random.default_rng(7), 4000
        late = random.random(rows) < 0.3
        signal = late + random.normal(size=rows)
        scores = {"candidate": signal, "champion": 0.3 * signal + random.normal(size=rows)}
        paths = {}
        for name, score in scores.items():
            paths[name] = str(folder / f"{name}.parquet")
            table = {"flight": np.arange(rows), "late": late.astype(int), "prediction": 1 / (1 + np.exp(-score))}
            pd.DataFrame(table).to_parquet(paths[name])
        return paths

    @task
    def use_the_candidate() -> str:
        return "The candidate passed."

    tables = predict()
    gate = GatePredictionsOperator(
        task_id="gate",
        candidate=tables["candidate"],
        champion=tables["champion"],
        keys=["flight"],
        target="late",
        primary="roc_auc",
        limits=[{"metric": "roc_auc", "minimum": 0.65}],
    )
    gate >> use_the_candidate()
