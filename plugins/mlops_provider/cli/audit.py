"""``mlops audit verify``: does the ledger's hash chain hold?"""

from __future__ import annotations

import argparse

from mlops_provider.cli.home import required, use_home
from mlops_provider.core.names import Environment
from mlops_provider.exceptions import EvidenceError


def main(arguments: argparse.Namespace) -> int:
    """Recompute every digest; fail with the first record that does not fit."""
    from mlops_provider.stores.ledger import Ledger

    use_home()
    ledger = Ledger(required(Environment.LEDGER_URL))
    try:
        if broken := ledger.verify():
            record, reason = broken
            raise EvidenceError(
                f"The chain breaks at record {record.seq} ({record.kind} of {record.model}, {record.record_id}): "
                f"{reason} Nothing from there on is evidence; compare with a copy."
            )
        head = ledger.head()
    finally:
        ledger.close()
    print("The ledger is empty." if head is None else f"The chain holds: {head.seq} records, head {head.digest}.")
    return 0
