"""``mlops validate infer``: expectations from the first snapshot that landed, for a person to review."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlops_provider.cli.home import use_home
from mlops_provider.spec import load_spec


def infer(arguments: argparse.Namespace) -> int:
    """Write the suite, and say what it holds and that somebody has to read it."""
    from mlops_provider.steps.inference import infer_expectations
    from mlops_provider.stores.suite import Stores

    use_home()
    spec = load_spec(arguments.model)
    path = Path(arguments.output) if arguments.output else spec.expectations_path
    found = infer_expectations(spec, Stores.from_environment(), partition=arguments.partition, path=path)
    counts = ", ".join(f"{count} {severity}" for severity, count in found.severities.items())
    print(
        f"{path}: {sum(found.severities.values())} expectations ({counts}) from {found.partition}, {found.rows:,} rows."
    )
    print("It is not reviewed: read it, mend it, then sign it under `reviewed`.")
    return 0
