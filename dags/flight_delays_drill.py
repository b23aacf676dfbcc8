"""
# Rollback drill

Once a week the version before answers every caller for a moment, about a second; then the traffic returns. The ledger
keeps whether it could, and how long it took until every replica did: `mlops rollout status`.

Skipped while a rollout is under way, and if there is no version to go back to. With `MLOPS_SNS_TOPIC` set, a drill that
failed is told there.
"""

from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.deploy import drill
from mlops_provider.stages.monitor import tell

MODEL = str(Path(__file__).resolve().parents[1] / "include/flight_delays/model.yaml")

# Without a start_date: unpaused, it waits for the next Monday.
with DAG(
    "flight_delays_drill",
    schedule="0 6 * * 1",
    catchup=False,
    max_active_runs=1,
    default_args={"on_failure_callback": tell(MODEL, "The rollback drill failed: {{ exception }}")},
    tags=["mlops", "flight_delays"],
    doc_md=__doc__,
):
    drill(MODEL)
