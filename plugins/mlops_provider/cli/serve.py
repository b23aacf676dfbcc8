"""``mlops serve``: the model server in the foreground."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from mlops_provider import serving
from mlops_provider.cli.home import configured_ports, required, use_home
from mlops_provider.core.names import Environment
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.spec import load_spec


def main(arguments: argparse.Namespace) -> int:
    """Serve the declared models until told to end."""
    use_home()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells every look at MLflow
    if arguments.package and arguments.models:
        raise ConfigurationError("A package holds one version: name a package, or model.yaml files, not both.")
    package = arguments.package or os.environ.get(Environment.PACKAGE)
    if package and not arguments.models:
        digest = os.environ.get(Environment.PACKAGE_DIGEST, "")
        serving.run_package(Path(package), digest=digest, **_place(arguments))
        return 0
    files = [Path(file) for file in arguments.models] or sorted(Path("include").glob("*/model.yaml"))
    if not files:
        raise ConfigurationError("There is no include/*/model.yaml here: name the model.yaml to serve.")
    specs = [load_spec(file) for file in files]
    serving.run(
        [spec.name for spec in specs],
        ledger_url=required(Environment.LEDGER_URL),
        registry_uri=required(Environment.REGISTRY_URI),
        policies={spec.name: spec.serving_policy for spec in specs},
        advertised_url=arguments.advertised_url or os.environ.get("MLOPS_ADVERTISED_URL", ""),
        **_place(arguments),
    )
    return 0


def _place(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where it listens and logs, and by how many processes."""
    return {
        "host": arguments.host,
        "port": configured_ports()["server"] if arguments.port is None else arguments.port,
        "spool_dir": required(Environment.SPOOL_DIR),
        "spool_uri": os.environ.get(Environment.SPOOL_URI, ""),
        "name": os.environ.get("MLOPS_REPLICA", "server"),
        "processes": arguments.processes,
    }
