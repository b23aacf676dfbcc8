"""Point-in-time features of one month of flights, as the ingest DAG computes them."""

from __future__ import annotations

from datetime import UTC, datetime

from measure import ROOT, figure, machine, seconds

from mlops_provider.spec import load_spec

if __name__ == "__main__":
    print(machine())
    spec = load_spec(ROOT / "include/flight_delays/model.yaml")
    land, features, landed = (spec.function(name) for name in ("land", "features", "history"))
    month, history = land("2013-06"), land("2013-05")
    as_of = datetime(2026, 1, 1, tzinfo=UTC)
    figure(
        f"features of {len(month):,} flights, {len(history):,} before them",
        seconds(lambda: features(month, landed(history), as_of), runs=5),
        "under 5 s",
    )
