"""What the replicas of the model server say they serve: the way "on every replica" is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from mlops_provider.core.payload import Payload
from mlops_provider.stores.ledger_schema import replicas

_NOW = {
    "sqlite": sa.text("(julianday('now') - 2440587.5) * 86400.0"),
    "postgresql": sa.text("extract(epoch from clock_timestamp())"),
}
"""Seconds since 1970 by the database's own clock, the one that all replicas share."""


@dataclass(frozen=True, slots=True)
class Replica(Payload):
    """
    What one model server said last.

    :param generation: Generation of the traffic record it serves; 0 if none yet.
    :param versions: Model versions it has loaded.
    :param error: Why it does not follow the ledger; empty if it does.
    :param seen_seconds_ago: Age of this word, in seconds.
    """

    replica: str
    model: str
    url: str
    generation: int
    versions: tuple[str, ...]
    error: str
    seen_seconds_ago: float


def note(
    connection: sa.Connection,
    replica: str,
    model: str,
    *,
    url: str,
    generation: int,
    versions: Sequence[str],
    error: str,
) -> None:
    """Keep what a replica says, in place of what it said before."""
    said = {"url": url, "generation": generation, "versions": json.dumps(list(versions)), "error": error}
    dialect = connection.dialect.name
    insert = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(replicas)
    insert = insert.values(replica=replica, model=model, seen_at=_NOW[dialect], **said)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["replica", "model"],
            set_={name: insert.excluded[name] for name in (*said, "seen_at")},
        )
    )


def alive(connection: sa.Connection, model: str, within_seconds: float) -> list[Replica]:
    """Replicas of *model* heard of in the last *within_seconds*, by name."""
    now = float(connection.scalar(sa.select(_NOW[connection.dialect.name])) or 0)
    rows = connection.execute(
        sa.select(replicas)
        .where(replicas.c.model == model, replicas.c.seen_at >= now - within_seconds)
        .order_by(replicas.c.replica)
    )
    return [
        Replica(
            replica=row.replica,
            model=row.model,
            url=row.url,
            generation=row.generation,
            versions=tuple(json.loads(row.versions)),
            error=row.error,
            seen_seconds_ago=max(0.0, now - row.seen_at),
        )
        for row in rows
    ]
