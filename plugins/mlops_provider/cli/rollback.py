"""``mlops rollback``: give traffic back, without Airflow."""

from __future__ import annotations

import argparse
import os

from mlops_provider.cli.home import required, use_home
from mlops_provider.cli.run import origin_of
from mlops_provider.core import rollout
from mlops_provider.core.names import Environment, Kind
from mlops_provider.spec import load_spec
from mlops_provider.targets import Server


def main(arguments: argparse.Namespace) -> int:
    """Move traffic back to the newest settled split and record why."""
    from mlops_provider.steps.rollback import rollback
    from mlops_provider.stores.suite import Stores

    use_home()
    model = load_spec(arguments.model).name
    stores = Stores.from_environment()
    token = os.environ.get(Environment.SERVER_TOKEN, "")
    target = Server(required(Environment.SERVER_URL), model=model, ledger=stores.ledger, token=token)
    traffic = rollback(
        model, stores, reason=arguments.reason, target=target, origin=origin_of("rollback_model", stage="rollback")
    )
    seen = stores.ledger.latest(Kind.SERVING_CHECK, model)
    if seen and seen.payload["generation"] == traffic.generation:
        replicas = len(seen.payload["replicas"])
        print(f"Every replica ({replicas}) serves it {seen.payload['seconds']:.1f} s after the rollback began.")
    print(f"{model} is back at {rollout.describe(traffic.split)} (generation {traffic.generation}).")
    return 0
