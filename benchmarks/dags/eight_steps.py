"""Eight tasks in a row, each of which needs the real libraries."""

from airflow.sdk import DAG, chain, task

with DAG("eight_steps", schedule=None, max_active_runs=1):

    def step() -> None:
        """Import what a step of the suite imports."""
        import evidently  # noqa: F401
        import great_expectations  # noqa: F401
        import mlflow.sklearn  # noqa: F401
        import pandas as pd  # noqa: F401
        import sklearn.ensemble  # noqa: F401

    chain(*(task(task_id=f"step_{number}")(step)() for number in range(1, 9)))
