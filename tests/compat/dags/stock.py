"""A DAG with nothing of ours: does this Airflow run a task at all?"""

from __future__ import annotations

from airflow.sdk import DAG, task

with DAG("stock", schedule=None):

    @task
    def anything() -> int:
        return 1

    anything()
