"""A use case of mlops init's, in a running Airflow, as it was written."""

from __future__ import annotations

from pathlib import Path

from mlops_provider.core.names import Kind
from support.orders import orders
from support.stack import RunningStack, wait_until


def test_the_dags_that_init_wrote_ingest_and_score_a_month(stack: RunningStack, tmp_path: Path) -> None:
    orders().to_csv(tmp_path / "orders.csv", index=False)
    written = stack.mlops(
        "init", str(tmp_path), "--data", str(tmp_path / "orders.csv"), "--target", "Returned", "--yes"
    )
    assert written.returncode == 0, written.stderr
    for file in (tmp_path / "dags").glob("*.py"):
        (stack.project / "dags" / file.name).symlink_to(file)

    for dag in ("orders_ingest", "orders_score"):
        wait_until(lambda dag=dag: stack.api.get(f"/dags/{dag}").status_code == 200, f"{dag} to be parsed", 180)
        stack.api.patch(f"/dags/{dag}", json={"is_paused": False}).raise_for_status()
    assert stack.start("orders_ingest", "first", partition_key="2024-03").status_code == 200

    assert stack.finished("orders_ingest", "first") == "success"
    [landing] = stack.stores.ledger.history(Kind.LANDING, "orders")
    assert landing.payload["rows"] > 400
    assert stack.stores.ledger.latest(Kind.VALIDATION, "orders").payload["reviewed"] is False  # type: ignore[union-attr]
    wait_until(lambda: [run["state"] for run in stack.runs("orders_score")] == ["success"], "scoring by the event")
