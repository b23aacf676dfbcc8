"""``mlops upgrade``: ledger and tables of an older version of this package become those of this one."""

from __future__ import annotations

import argparse

from mlops_provider.cli.home import required, use_home
from mlops_provider.core.names import Environment


def main(arguments: argparse.Namespace) -> int:
    """Say each step, then do it."""
    from mlops_provider.steps.upgrade import upgrade
    from mlops_provider.stores.suite import Stores

    use_home()
    required(Environment.LEDGER_URL)
    count = 0
    for sentence in upgrade(Stores.from_environment(), dry_run=arguments.dry_run):
        count += 1
        print(sentence, flush=True)
    if not count:
        print("Nothing to do: ledger and tables have the layout of this version.")
    else:
        print(f"{count} steps {'would be done' if arguments.dry_run else 'done'}.")
    return 0
