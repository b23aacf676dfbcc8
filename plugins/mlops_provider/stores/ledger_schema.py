"""The ledger's tables, and the triggers that keep its records append-only."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from mlops_provider.exceptions import ConfigurationError, EvidenceError, StoreUnavailableError
from mlops_provider.stores.database import Database

SCHEMA_VERSION = 1

_SWITCH_SECONDS = 30
"""Longest wait for the switch to a write-ahead log."""

_metadata = sa.MetaData()

records = sa.Table(
    "mlops_records",
    _metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("record_id", sa.String(64), nullable=False, unique=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("model", sa.String(250), nullable=False),
    sa.Column("key", sa.String(1000)),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("actor", sa.String(1000), nullable=False),
    sa.Column("as_of", sa.String(40)),
    sa.Column("recorded_at", sa.String(40), nullable=False),
    # Unique: no two records follow the same one, so the chain cannot fork.
    sa.Column("previous", sa.String(64), nullable=False, unique=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.UniqueConstraint("kind", "key"),
    sa.Index("mlops_records_by_model", "model", "kind", "seq"),
)

# What the replicas of the model server serve right now. Not evidence: rows are overwritten.
replicas = sa.Table(
    "mlops_replicas",
    _metadata,
    sa.Column("replica", sa.String(250), primary_key=True),
    sa.Column("model", sa.String(250), primary_key=True),
    sa.Column("url", sa.String(1000), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
)

_about = sa.Table("mlops_ledger", _metadata, sa.Column("schema_version", sa.Integer, primary_key=True))

# INSERT OR REPLACE would delete without firing the delete trigger, so the third one stops it.
_SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER mlops_records_no_update BEFORE UPDATE ON mlops_records
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END
    """,
    """
    CREATE TRIGGER mlops_records_no_delete BEFORE DELETE ON mlops_records
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END
    """,
    """
    CREATE TRIGGER mlops_records_in_line BEFORE INSERT ON mlops_records
    WHEN NEW.seq <> coalesce((SELECT max(seq) FROM mlops_records), 0) + 1
      OR NEW.previous <> (SELECT digest FROM mlops_records ORDER BY seq DESC LIMIT 1)
      OR EXISTS (SELECT 1 FROM mlops_records WHERE record_id = NEW.record_id OR digest = NEW.digest)
      OR EXISTS (SELECT 1 FROM mlops_records WHERE kind = NEW.kind AND "key" = NEW."key")
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a new record follows the newest one'); END
    """,
)
_TRIGGERS = (
    "mlops_records_no_update",
    "mlops_records_no_delete",
    "mlops_records_in_line",
    "mlops_records_no_change",
    "mlops_records_no_truncate",
)
_POSTGRES_TRIGGERS = (
    """
    CREATE OR REPLACE FUNCTION mlops_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$
    """,
    """
    CREATE TRIGGER mlops_records_no_change BEFORE UPDATE OR DELETE ON mlops_records
    FOR EACH ROW EXECUTE FUNCTION mlops_append_only()
    """,
    """
    CREATE TRIGGER mlops_records_no_truncate BEFORE TRUNCATE ON mlops_records
    FOR EACH STATEMENT EXECUTE FUNCTION mlops_append_only()
    """,
)

# All that tasks, pages and model servers do with a ledger on Postgres. Who owns the tables could drop their triggers.
_GRANTS = (
    "GRANT CONNECT ON DATABASE {database} TO {role}",
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT, INSERT ON mlops_records TO {role}",
    "GRANT SELECT ON mlops_ledger TO {role}",
    "GRANT SELECT, INSERT, UPDATE ON mlops_replicas TO {role}",
)


def prepare(database: Database) -> None:
    """
    Make the tables on first use, or check that they are ours.

    :raises EvidenceError: Another version of this package made them. Not retried.
    :raises StoreUnavailableError: The database is away or busy. Retried.
    """
    if database.dialect == "sqlite":
        _use_write_ahead_log(database)
    if found_version(database) is None:
        try:
            _create(database)
        except ProgrammingError as error:
            raise StoreUnavailableError(
                f"The ledger at {database.shown} has no tables yet, and this login may not make them. Let the owner "
                "of the database run `mlops ledger prepare --role <this login>` once."
            ) from error
    found = found_version(database) or 0
    if found < SCHEMA_VERSION:
        raise EvidenceError(
            f"The ledger at {database.shown} has schema version {found}; this package reads {SCHEMA_VERSION}. "
            "Upgrade it once nothing else uses it: mlops upgrade (--dry-run tells what would be done)."
        )
    refuse_newer(database)


def refuse_newer(database: Database) -> None:
    """
    Keep away from a ledger that a newer package made.

    :raises EvidenceError: It is one. Not retried.
    """
    if (found := found_version(database) or 0) > SCHEMA_VERSION:
        raise EvidenceError(
            f"The ledger at {database.shown} has schema version {found}; this package reads {SCHEMA_VERSION}. "
            "Install the package version that wrote it, or point MLOPS_LEDGER_URL at a new ledger."
        )


def grant(database: Database, role: str) -> None:
    """
    Let a role of Postgres read the ledger, append to it and send heartbeats, and nothing else.

    :raises ConfigurationError: Not on Postgres, there is no such role, or this login does not own the ledger.
    """
    if database.dialect != "postgresql":
        raise ConfigurationError(
            f"{database.shown} has no roles: only on Postgres can a login be kept from changing it."
        )
    try:
        with database.writing(queued=True) as connection:
            quote = connection.dialect.identifier_preparer.quote_identifier
            names = {
                "database": quote(connection.scalars(sa.select(sa.func.current_database())).one()),
                "schema": quote(connection.scalars(sa.select(sa.func.current_schema())).one()),
                "role": quote(role),
            }
            for statement in _GRANTS:
                connection.exec_driver_sql(statement.format(**names))
    except ProgrammingError as error:
        raise ConfigurationError(
            f"{role!r} was not let into the ledger at {database.shown}: {str(error.orig).strip()}."
        ) from error


def pending(database: Database) -> list[str]:
    """
    What an upgrade of the ledger would do, one sentence each; none if it is of this schema, or not there yet.

    :raises EvidenceError: A newer package made it. Not retried.
    """
    refuse_newer(database)
    found = found_version(database)
    if found is None:
        return []
    return [f"schema {step} to {step + 1}: {_UPGRADES[step][0]}" for step in range(found, SCHEMA_VERSION)]


def upgrade(database: Database) -> None:
    """
    Bring the ledger to this schema, in one transaction; no record is changed.

    :raises EvidenceError: A newer package made it. Not retried.
    :raises StoreUnavailableError: The database is away or busy. Retried.
    """
    refuse_newer(database)
    with database.writing(queued=True) as connection:
        found = _version_in(connection)
        if found is None:
            return
        for step in range(found, SCHEMA_VERSION):
            _UPGRADES[step][1](connection)
            connection.execute(sa.insert(_about).values(schema_version=step + 1))


def found_version(database: Database) -> int | None:
    """Schema version of what is there, 0 if it names none; None if nothing is there."""
    with database.reading() as connection:
        return _version_in(connection)


def _version_in(connection: sa.Connection) -> int | None:
    there = sa.inspect(connection)
    if there.has_table(_about.name):
        return connection.scalar(sa.select(sa.func.max(_about.c.schema_version))) or 0
    return 0 if there.has_table(records.name) else None


def _create(database: Database) -> None:
    with database.writing(queued=True) as connection:
        if sa.inspect(connection).has_table(_about.name):
            return  # somebody else was first
        _metadata.create_all(connection)
        _guard(connection)
        connection.execute(sa.insert(_about).values(schema_version=SCHEMA_VERSION))


def _guard(connection: sa.Connection) -> None:
    """Let the database itself keep the records append-only."""
    for trigger in _SQLITE_TRIGGERS if connection.dialect.name == "sqlite" else _POSTGRES_TRIGGERS:
        connection.exec_driver_sql(trigger)


def _drop_guard(connection: sa.Connection) -> None:
    on = "" if connection.dialect.name == "sqlite" else f" ON {records.name}"
    for name in _TRIGGERS:
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}{on}")


def _to_1(connection: sa.Connection) -> None:
    """The records are there; the rest is made around them."""
    _metadata.create_all(connection)
    for index in records.indexes:
        index.create(connection, checkfirst=True)
    _drop_guard(connection)
    _guard(connection)


_UPGRADES: Mapping[int, tuple[str, Callable[[sa.Connection], None]]] = {
    0: (
        "note the schema's version, make the tables that are missing, and let triggers keep records append-only",
        _to_1,
    ),
}
"""What leads from a schema version to the next one. A new schema adds an entry; it never changes a record."""


def _use_write_ahead_log(database: Database) -> None:
    """Let readers work beside a writer. SQLite's busy timeout does not cover this switch, so it is repeated."""
    give_up = time.monotonic() + _SWITCH_SECONDS
    while True:
        with database.reading() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            try:
                if driver.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                    driver.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise StoreUnavailableError(f"The ledger at {database.shown} cannot be used: {error}.") from error
        time.sleep(0.02)
