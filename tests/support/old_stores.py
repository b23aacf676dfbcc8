"""Stores as the first versions of this package wrote them."""

from __future__ import annotations

import sqlalchemy as sa

from mlops_provider.core.evidence import GENESIS, canonical, digest

OLD_LEDGER = """
CREATE TABLE mlops_records (
    seq BIGINT PRIMARY KEY, record_id VARCHAR(64) NOT NULL UNIQUE, kind VARCHAR(64) NOT NULL,
    model VARCHAR(250) NOT NULL, "key" VARCHAR(1000), payload TEXT NOT NULL, actor VARCHAR(1000) NOT NULL,
    as_of VARCHAR(40), recorded_at VARCHAR(40) NOT NULL, previous VARCHAR(64) NOT NULL UNIQUE,
    digest VARCHAR(64) NOT NULL UNIQUE, UNIQUE (kind, "key")
)
"""
"""A ledger of schema 0: the records alone, without triggers, replicas or a version."""


def old_ledger(url: str, count: int = 3) -> list[str]:
    """Write one, with a chain that holds; give the digests."""
    engine, previous, digests = sa.create_engine(url), GENESIS, []
    with engine.begin() as connection:
        connection.exec_driver_sql(OLD_LEDGER)
        for seq in range(1, count + 1):
            fields = {
                "seq": seq,
                "record_id": f"{seq:032}",
                "kind": "landing",
                "model": "delays",
                "key": f"key-{seq}",
                "payload": {"rows": seq, "what": "é"},
                "actor": "ada",
                "as_of": None,
                "recorded_at": "2024-01-01T00:00:00+00:00",
            }
            new = digest(previous, **fields)  # type: ignore[arg-type]
            row = fields | {"payload": canonical(fields["payload"]), "previous": previous, "digest": new}
            columns = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(sa.text(f"INSERT INTO mlops_records ({columns}) VALUES ({values})"), row)
            previous = new
            digests.append(new)
    engine.dispose()
    return digests
