"""``mlops rollback``: give traffic back, without Airflow."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mlops_provider.cli.home import use_home
from mlops_provider.cli.run import origin_of
from mlops_provider.cli.target import spec_of, target_of
from mlops_provider.core import rollout
from mlops_provider.core.names import Kind

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.core.rollout import Traffic
    from mlops_provider.stores.ledger import Ledger


def main(arguments: argparse.Namespace) -> int:
    """Move traffic back to the newest settled split and record why."""
    from mlops_provider.steps.rollback import rollback
    from mlops_provider.stores.suite import Stores

    use_home()
    spec, stores = spec_of(arguments.model), Stores.from_environment()
    target, origin = target_of(spec, stores), origin_of("rollback_model", stage="rollback")
    traffic = rollback(
        spec.name,
        stores,
        reason=arguments.reason,
        target=target,
        origin=origin,
        version=arguments.version,
        patience=target.patience,
    )
    seen = stores.ledger.latest(Kind.SERVING_CHECK, spec.name)
    if seen and seen.payload["generation"] == traffic.generation:
        replicas = len(seen.payload["replicas"])
        print(f"Every replica ({replicas}) serves it {seen.payload['seconds']:.1f} s after the rollback began.")
    print(f"{spec.name} is back at {rollout.describe(traffic.split)} (generation {traffic.generation}).")
    print(_left(stores.ledger, traffic, origin))
    return 0


def _left(ledger: Ledger, traffic: Traffic, origin: Origin) -> str:
    """Say what became of the versions that were left, or that they had left before."""
    from mlops_provider.steps.traffic import rollback_command

    model, serving = traffic.model, rollout.champion(traffic)
    moved = ledger.find(Kind.TRAFFIC, f"{model}:{traffic.generation}")
    further = f"to leave version {serving} as well: {rollback_command(model, serving)}"
    if moved is None or moved.payload["origin"] != origin.key:
        return f"It was brought back before ({traffic.reason}), so nothing was moved now; {further}."
    decided = ledger.find(Kind.ROLLBACK, f"{model}:{traffic.generation - 1}")
    if decided is None:
        return f"That ended a rollback drill; {further}."
    refused, left = decided.payload["refused"], set(decided.payload["from"]) - set(traffic.split)
    said = [f"Version {version} does not return." for version in refused]
    for version in sorted(left - set(refused)):
        share = decided.payload["from"][version]
        had = f"was on trial with {share} %" if share else "had no share"
        said.append(f"Version {version} {had}: its rollout ended, and it may be deployed again; {further}.")
    return " ".join(said)
