"""SQLite and Postgres, spoken to in the same way: one writer at a time, errors in words."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from mlops_provider.exceptions import ConfigurationError, EvidenceError, StoreUnavailableError

_BUSY_SECONDS = 30
"""Longest wait for another writer."""
_CONNECT_SECONDS = 5
_LOCK = 0x6D6C6F70
"""Number of the Postgres advisory lock that writers queue for."""
_QUEUED = "mlops_queued"


class Database:
    """
    A database that is connected to on first use.

    :param address: ``sqlite:////folder/file.db`` or ``postgresql://user:password@host/database``.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    @cached_property
    def engine(self) -> sa.Engine:
        """
        The engine behind it.

        :raises ConfigurationError: Not such an address, or the driver is not installed. Not retried.
        :raises StoreUnavailableError: The folder of the SQLite file does not exist. Retried.
        """
        try:
            engine = _engine(sa.make_url(self.address))
        except (ArgumentError, NoSuchModuleError) as error:
            raise ConfigurationError(f"MLOPS_LEDGER_URL is not a database URL: {error}") from error
        except ImportError as error:
            raise ConfigurationError(f"The driver of the ledger's database is not installed: {error}") from error
        event.listen(engine, "begin", _begin)
        weakref.finalize(self, engine.dispose)
        return engine

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    @property
    def shown(self) -> str:
        """The address without its password."""
        return sa.make_url(self.address).render_as_string(hide_password=True)

    def close(self) -> None:
        """Close idle connections. The next use opens new ones."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read with."""
        with self._explained(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, queued: bool) -> Iterator[sa.Connection]:
        """
        A transaction to write with.

        :param queued: Wait for all other queued writers before the first statement.
        """
        with (
            self._explained(),
            self.engine.connect().execution_options(**{_QUEUED: queued}) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            raise StoreUnavailableError(
                f"The ledger at {self.shown} cannot be used: {_said(error)}. Check that the database runs, that "
                "MLOPS_LEDGER_URL (or the connection) names it, and that its disk has space."
            ) from error
        except DBAPIError as error:
            if type(error.orig) is not sqlite3.DatabaseError:
                raise
            raise EvidenceError(
                f"The ledger at {self.shown} is damaged or no database: {_said(error)}. Restore it from a copy."
            ) from error


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(
            url,
            isolation_level="READ COMMITTED",
            pool_size=2,
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_SECONDS},
        )
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise ConfigurationError(
            "MLOPS_LEDGER_URL must be sqlite:////folder/ledger.db or postgresql://user:password@host/database, "
            f"got {url.render_as_string()!r}."
        )
    folder = Path(str(url.database)).absolute().parent
    if not folder.is_dir():
        raise StoreUnavailableError(
            f"The ledger's folder {folder} does not exist. Create it, or mend MLOPS_LEDGER_URL."
        )
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _plain_sqlite)
    return engine


def _plain_sqlite(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver must not begin transactions on its own; `_begin` does
    connection.execute("PRAGMA synchronous = FULL")  # what was decided must survive a power cut


def _begin(connection: sa.Connection) -> None:
    """Begin; a queued writer waits here, so that what it reads next cannot move under it."""
    queued = connection.get_execution_options().get(_QUEUED, False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if queued else "BEGIN")
    elif queued:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_BUSY_SECONDS}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _said(error: DBAPIError) -> str:
    """First line of what the driver said."""
    return (str(error.orig).strip().splitlines() or ["no reason given"])[0].rstrip(".")
