"""``mlops score``: predictions of a packaged version for the rows of a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlops_provider.cli.home import use_home


def main(arguments: argparse.Namespace) -> int:
    """Predict, and say on standard error how many rows there were."""
    use_home()
    from mlops_provider.steps.package_folder import opened, score_file

    packaged = opened(Path(arguments.package))
    target = Path(arguments.output) if arguments.output else None
    rows = score_file(packaged, Path(arguments.file), target, threads=arguments.threads, graph=not arguments.estimator)
    print(f"{packaged.model} version {packaged.version} predicted {rows:,} rows.", file=sys.stderr)
    return 0
