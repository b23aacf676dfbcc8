"""Bring a ledger and tables that an older version of this package wrote to the layout of this one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlops_provider.exceptions import EvidenceError
from mlops_provider.stores import ledger_schema
from mlops_provider.stores.database import Database
from mlops_provider.stores.ledger import chain_break

if TYPE_CHECKING:
    from mlops_provider.stores.suite import Stores


def upgrade(stores: Stores, *, dry_run: bool) -> Iterator[str]:
    """
    Upgrade ledger and tables; each step is told, before it is done, in one sentence. Nothing needs to be done twice.

    The ledger's records stay as they are, and its chain is recomputed before and after.

    :param dry_run: Only tell.
    :raises EvidenceError: The chain breaks, or a newer package wrote the ledger. Not retried.
    :raises ConfigurationError: A newer package wrote a table. Not retried.
    :raises StoreUnavailableError: A store is away. Retried.
    """
    if stores.ledger_url:
        yield from _upgraded_ledger(stores.ledger_url, dry_run=dry_run)
    if stores.tables_uri:
        for uri in stores.tables.all():
            for does, apply in stores.tables.pending_upgrades(uri):
                yield f"{uri}: {does}"
                if not dry_run:
                    apply()


def _upgraded_ledger(url: str, *, dry_run: bool) -> Iterator[str]:
    database = Database(url)
    try:
        pending = ledger_schema.pending(database)
        if pending:
            _require_whole(database, "nothing was changed")
            yield from (f"ledger {database.shown}, {sentence}" for sentence in pending)
        if pending and not dry_run:
            ledger_schema.upgrade(database)
            _require_whole(database, "restore it from a backup")
    finally:
        database.close()


def _require_whole(database: Database, advice: str) -> None:
    if broken := chain_break(database):
        record, reason = broken
        raise EvidenceError(
            f"The chain of the ledger at {database.shown} breaks at record {record.seq} ({record.record_id}): "
            f"{reason}; {advice}."
        )
