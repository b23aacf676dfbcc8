"""What others deliver: a file in a folder, on S3 or behind HTTP, or the rows of a query. One frame, whichever it is."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from mlops_provider.exceptions import ConfigurationError, TransientError
from mlops_provider.stores.s3 import S3, is_s3

_SECONDS = httpx.Timeout(60, connect=5)


def _unzipped(content: bytes) -> pd.DataFrame:
    """The only file of an archive, as CSV."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise EOFError(f"it should hold one file and holds {len(names)}")
        return pd.read_csv(io.BytesIO(archive.read(names[0])))


def _parquet(content: bytes) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(content))
    except pa.ArrowInvalid as error:
        raise EOFError("it is cut short, damaged, or not Parquet") from error


FORMATS: Mapping[str, Callable[[bytes], pd.DataFrame]] = {
    ".parquet": _parquet,
    ".csv": lambda content: pd.read_csv(io.BytesIO(content)),
    ".csv.gz": lambda content: pd.read_csv(io.BytesIO(gzip.decompress(content))),
    ".csv.zip": _unzipped,
}
"""How a file is read, by the end of its name."""


class Sources:
    """
    Reads what is delivered, outside Airflow.

    S3 is opened with what the environment holds. A connection ID names the variable that Airflow reads too,
    ``AIRFLOW_CONN_<ID>``, which must hold a URL here.
    """

    def file(self, uri: str, conn_id: str = "") -> pd.DataFrame:
        """
        Read a file.

        :param uri: Folder path, ``file://``, ``s3://``, ``http://`` or ``https://`` address.
        :param conn_id: Connection with the credentials, where some are needed.
        :raises FileNotFoundError: There is none at this address.
        :raises EOFError: It is cut short or damaged.
        :raises TransientError: S3 or the web server does not answer. Retried.
        :raises ConfigurationError: The credentials are refused, or the file's format is not known. Not retried.
        """
        read = format_of(uri)
        scheme = urlsplit(uri).scheme
        if is_s3(uri):
            return read(self.s3(conn_id).read(uri))
        if scheme in ("http", "https"):
            return read(self._fetched(uri, conn_id))
        return read(Path(unquote(urlsplit(uri).path) if scheme == "file" else uri).read_bytes())

    def query(self, sql: str, conn_id: str) -> pd.DataFrame:
        """
        Read the rows of a query.

        :param conn_id: Connection of the database.
        :raises ConfigurationError: There is no such connection, or the database refuses the query. Not retried.
        :raises TransientError: The database does not answer. Retried.
        """
        engine = sa.create_engine(self._url(conn_id).replace("postgres://", "postgresql://", 1))
        try:
            with engine.connect() as connection:
                found = connection.execute(sa.text(sql.replace(":", r"\:")))
                return as_frame(list(found.keys()), [tuple(row) for row in found])
        except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
            raise TransientError(
                f"The database of {conn_id!r} does not answer: {type(error.orig).__name__}."
            ) from error
        except sa.exc.DBAPIError as error:
            raise ConfigurationError(
                f"The database of {conn_id!r} refuses the query ({type(error.orig).__name__}): mend it in model.yaml."
            ) from error
        finally:
            engine.dispose()

    def s3(self, conn_id: str) -> S3:
        """Access to S3."""
        return S3()

    def login(self, conn_id: str) -> tuple[str, str] | None:
        """User and password for a web server; None if it asks for none."""
        parts = urlsplit(self._url(conn_id))
        return (unquote(parts.username), unquote(parts.password or "")) if parts.username else None

    def _fetched(self, uri: str, conn_id: str) -> bytes:
        login = self.login(conn_id) if conn_id else None
        try:
            answer = httpx.get(uri, auth=login, timeout=_SECONDS, follow_redirects=True)
        except httpx.TransportError as error:
            raise TransientError(f"{uri} does not answer ({type(error).__name__}). It is tried again.") from error
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            raise FileNotFoundError(uri)
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            named = f"connection {conn_id!r}" if conn_id else "a connection with a login: name one in model.yaml"
            raise ConfigurationError(f"{uri} answers {answer.status_code}: mend {named}.")
        if not answer.is_success:
            raise TransientError(f"{uri} answers {answer.status_code}. It is tried again.")
        return answer.content

    @staticmethod
    def _url(conn_id: str) -> str:
        variable = f"AIRFLOW_CONN_{conn_id.upper()}"
        found = os.environ.get(variable, "")
        if "://" not in found:
            raise ConfigurationError(
                f"Outside Airflow, connection {conn_id!r} is read from {variable}: set it to the URL of the source."
            )
        return found


def format_of(uri: str) -> Callable[[bytes], pd.DataFrame]:
    """
    How to read a file, by its name.

    :raises ConfigurationError: Its end is none that is known. Not retried.
    """
    name = urlsplit(uri).path.lower()
    for end, read in FORMATS.items():
        if name.endswith(end):
            return read
    raise ConfigurationError(f"{uri}: the file's name should end with one of {', '.join(FORMATS)}.")


def as_frame(columns: list[str], rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """The rows of a query as a frame: decimal numbers as floats, a missing number as NaN, as a file would give it."""
    frame = pd.DataFrame.from_records(rows, columns=columns, coerce_float=True)
    return frame.infer_objects()
