"""Eight tasks in a row, each of which needs the real libraries."""

import os
import time
from pathlib import Path

from airflow.sdk import DAG, chain, task

with DAG("eight_steps", schedule=None, max_active_runs=1):

    def step() -> None:
        """Import what a step of the suite imports, and note how long that took."""
        began = time.perf_counter()
        import evidently  # noqa: F401
        import great_expectations  # noqa: F401
        import mlflow.sklearn  # noqa: F401
        import pandas as pd  # noqa: F401
        import sklearn.ensemble  # noqa: F401

        with (Path(os.environ["AIRFLOW_HOME"]) / "import_seconds.txt").open("a") as file:
            file.write(f"{time.perf_counter() - began}\n")

    chain(*(task(task_id=f"step_{number}")(step)() for number in range(1, 9)))
