"""``mlops promote``: copy a registered version, with its evidence, from one environment to the next."""

from __future__ import annotations

import argparse
import logging

from mlops_provider.cli.home import use_home
from mlops_provider.cli.package import version_of
from mlops_provider.cli.run import origin_of


def main(arguments: argparse.Namespace) -> int:
    """Copy it and say what it is called there."""
    from mlops_provider.steps.promote import promote
    from mlops_provider.stores.environments import stores_of

    wanted = version_of(arguments.version)
    model, version = wanted.model, wanted.version
    use_home()
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    arrived = promote(
        model,
        version,
        source=stores_of(arguments.source),
        destination=stores_of(arguments.destination),
        source_name=arguments.source,
        destination_name=arguments.destination,
        origin=origin_of("promote_model", stage="promote"),
    )
    there = f"version {arrived} of {arguments.destination}"
    print(f"{model} version {version} of {arguments.source} is {there}, not deployed.")
    return 0
