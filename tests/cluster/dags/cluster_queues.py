"""Tasks on a queue that workers listen on, and on one that nobody does."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, task

with DAG("cluster_queues", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC), catchup=False):

    @task(queue="heavy")
    def served() -> list[str]:
        """Say which heavy libraries the worker had loaded before this task began."""
        import sys

        return sorted({"mlflow", "sklearn", "evidently", "great_expectations"} & sys.modules.keys())

    @task(queue="nobody")
    def unserved() -> None:
        """Never runs."""

    served()
    unserved()
