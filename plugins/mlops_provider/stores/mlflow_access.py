"""Reaching MLflow: is it there, and what its errors mean."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import ArgumentError

from mlops_provider.exceptions import ConcurrentWriteError, ConfigurationError, PermanentError, StoreUnavailableError

_SECONDS = 5.0
"""Longest wait for a sign of life."""

_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
_OVERTAKEN = ("IntegrityError", "UniqueViolation")
"""What the database behind MLflow says, through MLflow, to the second of two that write one row at the same moment."""
_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "IO_ERROR")


def shown(address: str) -> str:
    """The address without its password."""
    parts = urlsplit(address)
    if parts.password is None:
        return address
    return address.replace(f":{parts.password}@", ":***@", 1)


def check(address: str) -> None:
    """
    Look for a sign of life within seconds; MLflow itself would try for minutes.

    :raises StoreUnavailableError: There is none. Retried.
    :raises ConfigurationError: Not an address that MLflow can be reached at. Not retried.
    """
    scheme = urlsplit(address).scheme.split("+")[0]
    try:
        if scheme in ("http", "https"):
            answer = httpx.get(f"{address.rstrip('/')}/health", timeout=_SECONDS, follow_redirects=True)
            if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise _unavailable(address, f"it answers with status {answer.status_code}")
        elif scheme == "sqlite":
            _check_sqlite(sqlite_file(address))
        elif scheme in ("postgresql", "postgres"):
            parts = urlsplit(address)
            socket.create_connection((parts.hostname or "localhost", parts.port or 5432), _SECONDS).close()
        else:
            raise ConfigurationError(
                f"MLOPS_REGISTRY_URI must be http(s)://, sqlite:/// or postgresql://, got {shown(address)!r}."
            )
    except (httpx.HTTPError, httpx.InvalidURL, OSError, sqlite3.Error) as error:
        raise _unavailable(address, str(error) or type(error).__name__) from error


def sqlite_file(address: str) -> Path:
    """File behind a ``sqlite:///`` address."""
    try:
        return Path(str(sa.make_url(address).database)).absolute()
    except ArgumentError as error:
        raise ConfigurationError(f"MLOPS_REGISTRY_URI is not a database URL: {error}") from error


def _check_sqlite(file: Path) -> None:
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise OSError(f"its folder {file.parent} does not exist or cannot be written")
    if file.exists():
        with closing(sqlite3.connect(file, timeout=_SECONDS)) as connection:
            connection.execute("PRAGMA schema_version")


@contextmanager
def explained(address: str) -> Iterator[None]:
    """
    Say what an MLflow error means.

    :raises StoreUnavailableError: MLflow or its artifact store is away, busy or full. Retried.
    :raises ConcurrentWriteError: Somebody else wrote the same at the same moment. Retried.
    :raises ConfigurationError: Credentials are missing or wrong. Not retried.
    :raises PermanentError: It refuses the request itself. Not retried.
    """
    try:
        yield
    except MlflowException as error:
        said = (error.message.strip().splitlines() or ["no reason given"])[0][:300]
        if error.error_code in _DENIED:
            raise ConfigurationError(
                f"MLflow at {shown(address)} refuses the credentials: {said}. Set login and password in the "
                "connection, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            ) from error
        if error.error_code in _AWAY:
            raise _unavailable(address, said) from error
        if any(words in said for words in _OVERTAKEN):
            raise ConcurrentWriteError(
                f"MLflow at {shown(address)}: another try or run wrote the same at the same moment. Let the task retry."
            ) from error
        raise PermanentError(f"MLflow at {shown(address)} refuses: {said}") from error
    except (OSError, sa.exc.OperationalError) as error:
        raise _unavailable(address, " ".join(str(error).split())[:300]) from error


def _unavailable(address: str, said: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"MLflow at {shown(address)} cannot be used: {said}. Check that the server runs, that MLOPS_REGISTRY_URI (or "
        "the connection) names it, and that its database and artifact store have space."
    )
