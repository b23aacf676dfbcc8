"""``mlops rollback``: give traffic back, without Airflow."""

from __future__ import annotations

import argparse

from mlops_provider.cli.home import use_home
from mlops_provider.cli.run import origin_of
from mlops_provider.cli.target import target_of
from mlops_provider.core import rollout
from mlops_provider.core.names import Kind
from mlops_provider.spec import load_spec


def main(arguments: argparse.Namespace) -> int:
    """Move traffic back to the newest settled split and record why."""
    from mlops_provider.steps.rollback import rollback
    from mlops_provider.stores.suite import Stores

    use_home()
    spec, stores = load_spec(arguments.model), Stores.from_environment()
    target = target_of(spec, stores)
    traffic = rollback(
        spec.name,
        stores,
        reason=arguments.reason,
        target=target,
        origin=origin_of("rollback_model", stage="rollback"),
        patience=target.patience,
    )
    seen = stores.ledger.latest(Kind.SERVING_CHECK, spec.name)
    if seen and seen.payload["generation"] == traffic.generation:
        replicas = len(seen.payload["replicas"])
        print(f"Every replica ({replicas}) serves it {seen.payload['seconds']:.1f} s after the rollback began.")
    print(f"{spec.name} is back at {rollout.describe(traffic.split)} (generation {traffic.generation}).")
    return 0
