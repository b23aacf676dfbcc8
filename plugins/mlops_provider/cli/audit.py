"""``mlops audit verify``: does the ledger's hash chain hold, and does the registry say the same?"""

from __future__ import annotations

import argparse

from mlops_provider.cli.home import required, use_home
from mlops_provider.core.names import Environment


def main(arguments: argparse.Namespace) -> int:
    """Recompute every digest and compare the registry's versions and champions; fail with what does not fit."""
    from mlops_provider.steps import audit
    from mlops_provider.stores.suite import Stores

    use_home()
    required(Environment.LEDGER_URL)
    stores = Stores.from_environment()
    try:
        found = audit.verify(stores)
    finally:
        stores.ledger.close()
    head = found.head
    print("The ledger is empty." if head is None else f"The chain holds: {head.seq} records, head {head.digest}.")
    if found.versions is None:
        print(f"The registry was not compared: {Environment.REGISTRY_URI} is not set.")
    else:
        print(f"The registry agrees with it: {found.versions} versions and the champions of all models.")
    return 0
