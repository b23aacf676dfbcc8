"""``mlops ledger prepare``: the ledger's tables, and who may append to them."""

from __future__ import annotations

import argparse

from mlops_provider.cli.home import required, use_home
from mlops_provider.core.names import Environment


def prepare(arguments: argparse.Namespace) -> int:
    """Make the tables if there are none, and let the role named use them."""
    from mlops_provider.stores.ledger import Ledger

    use_home()
    ledger = Ledger(required(Environment.LEDGER_URL))
    try:
        head = ledger.head()
        print(f"The ledger is ready and holds {head.seq if head else 0} records.")
        if arguments.role:
            ledger.grant(arguments.role)
            print(f"{arguments.role} may read it and append to it.")
    finally:
        ledger.close()
    return 0
