"""A month of flights from each kind of source: the same content in the table, whichever it came from."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
import yaml

from mlops_provider.core.names import Table
from mlops_provider.core.origin import Origin
from mlops_provider.exceptions import ConfigurationError, SourceError, SpecError, TransientError
from mlops_provider.hooks.stores import ConnectedStores
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.steps import ingest, outcomes
from mlops_provider.stores.sources import Sources
from mlops_provider.stores.suite import Stores
from support import flights
from support.aws import Aws, proxy
from support.flights import FEBRUARY, JANUARY

ORIGIN = Origin("a_dag", "run-1", "land_data")


@pytest.fixture
def delivered() -> pd.DataFrame:
    """What an airport delivers for January."""
    frame = flights.two_days()
    return frame[frame["month"] == 1].reset_index(drop=True)


def declare(folder: Path, **source: str) -> ModelSpec:
    """The flight example, with a source for both of its functions."""
    model_yaml = flights.copy_use_case(folder)
    declared = yaml.safe_load(model_yaml.read_text())
    declared["sources"] = {"land": source, "outcomes": source}
    model_yaml.write_text(yaml.safe_dump(declared))
    return load_spec(model_yaml)


def landed(spec: ModelSpec, stores: Stores) -> tuple[str | None, str | None]:
    """Land January and its outcomes; give the hash of either."""
    ingest.land(spec, stores, JANUARY, origin=ORIGIN)
    outcomes.record_outcomes(spec, stores, JANUARY, origin=ORIGIN)
    tables = stores.tables
    return tuple(tables.content(tables.uri(spec.name, table), JANUARY) for table in (Table.RAW, Table.OUTCOMES))  # type: ignore[return-value]


def plain(folder: Path) -> Stores:
    folder.mkdir(exist_ok=True)
    return Stores(tables_uri=str(folder / "tables"), ledger_url=f"sqlite:///{folder}/ledger.db")


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    """Stores as a task has them."""
    monkeypatch.setenv("MLOPS_TABLES_URI", str(tmp_path / "tables"))
    monkeypatch.setenv("MLOPS_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    return ConnectedStores(
        tables_conn_id="mlops_tables", registry_conn_id="mlops_registry", ledger_conn_id="mlops_ledger"
    )


@pytest.fixture
def expected(tmp_path: Path, delivered: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> tuple[str | None, str | None]:
    """What the use case lands when it finds its files itself."""
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(tmp_path / "source"))
    flights.write_source(tmp_path / "source", delivered)
    return landed(load_spec(flights.MODEL_YAML), plain(tmp_path / "expected"))


@pytest.mark.parametrize(
    "name", ["{partition}.csv", "{year}/{month}.csv.gz", "{partition}.csv.zip", "{partition}.parquet"]
)
def test_a_file_in_a_folder_lands_the_same(
    tmp_path: Path, expected: object, connected: Stores, delivered: pd.DataFrame, name: str
) -> None:
    file = tmp_path / name.format(partition=JANUARY, year="2013", month="01")
    file.parent.mkdir(exist_ok=True)
    delivered.to_parquet(file) if name.endswith("parquet") else delivered.to_csv(file, index=False)

    assert landed(declare(tmp_path, uri=str(tmp_path / name)), connected) == expected


def test_a_file_on_s3_lands_the_same(
    tmp_path: Path,
    expected: object,
    connected: Stores,
    delivered: pd.DataFrame,
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = aws.bucket()
    aws.s3().write(f"s3://{bucket}/flights/{JANUARY}.parquet", delivered.to_parquet())
    spec = declare(tmp_path, uri=f"s3://{bucket}/flights/{{partition}}.parquet", conn_id="landing")
    monkeypatch.setenv("AIRFLOW_CONN_LANDING", json.dumps(aws.connection()))

    assert landed(spec, connected) == expected

    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    assert landed(spec, plain(tmp_path / "without_airflow")) == expected
    with pytest.raises(SourceError, match=rf"cannot be read: s3://{bucket}/flights/{FEBRUARY}.parquet"):
        ingest.land(spec, connected, FEBRUARY, origin=ORIGIN)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server, and the folder it shows."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


def test_a_file_behind_http_lands_the_same(
    tmp_path: Path, expected: object, connected: Stores, delivered: pd.DataFrame, web: tuple[str, Path]
) -> None:
    url, folder = web
    delivered.to_csv(folder / f"{JANUARY}.csv.gz", index=False)
    spec = declare(tmp_path, uri=f"{url}/{{partition}}.csv.gz")

    assert landed(spec, connected) == expected
    with pytest.raises(SourceError, match=f"{FEBRUARY}.csv.gz"):
        ingest.land(spec, connected, FEBRUARY, origin=ORIGIN)


def test_the_rows_of_a_query_land_the_same(
    tmp_path: Path,
    expected: object,
    connected: Stores,
    delivered: pd.DataFrame,
    postgres: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = postgres("warehouse")
    engine = sa.create_engine(database)
    pd.concat([delivered, delivered.assign(month=2, day=1)]).to_sql(
        "departures", engine, index=False, if_exists="replace"
    )
    engine.dispose()
    address = sa.make_url(database)
    warehouse = f"postgres://{address.username}@{address.host}:{address.port}/{address.database}"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse)
    sql = (
        "SELECT * FROM departures WHERE '{start}'::timestamptz <= make_date(year::int, month::int, day::int) "
        "AND make_date(year::int, month::int, day::int) < '{end}'::timestamptz ORDER BY ctid"
    )
    spec = declare(tmp_path, sql=sql, conn_id="warehouse")

    assert landed(spec, connected) == expected
    assert landed(spec, plain(tmp_path / "without_airflow")) == expected


def damage(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("name", [f"{JANUARY}.parquet", f"{JANUARY}.csv.gz", f"{JANUARY}.csv.zip"])
def test_a_file_that_was_cut_short_is_no_month(
    tmp_path: Path, connected: Stores, delivered: pd.DataFrame, name: str
) -> None:
    write: Callable[[Any], Any] = delivered.to_parquet if name.endswith("parquet") else delivered.to_csv
    write(tmp_path / name)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    spec = declare(tmp_path, uri=str(tmp_path / name.replace(JANUARY, "{partition}")))

    with pytest.raises(SourceError, match="cannot be read"):
        ingest.land(spec, connected, JANUARY, origin=ORIGIN)


def test_a_source_that_is_away_is_tried_again(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        Sources().file("http://127.0.0.1:9/flights.csv")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql+psycopg://u:p@127.0.0.1:9/db")
    with pytest.raises(TransientError, match="'warehouse' does not answer"):
        Sources().query("SELECT 1", "warehouse")
    with proxy(aws) as (url, weather):
        weather.set(unavailable=1)
        with pytest.raises(TransientError, match="answers 503"):
            Sources().file(f"{url}/flights.csv")


def test_a_connection_of_the_wrong_kind_is_named(connected: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no connection 'warehouse'"):
        connected.sources.query("SELECT 1", "warehouse")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "aws://")
    with pytest.raises(ConfigurationError, match="'aws', which has no DbApiHook"):
        connected.sources.query("SELECT 1", "warehouse")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, "either 'uri' or 'sql'"),
        ({"uri": "a/{partition}.csv", "sql": "SELECT 1"}, "either 'uri' or 'sql'"),
        ({"sql": "SELECT '{partition}'"}, "needs 'conn_id'"),
        ({"uri": "s3://bucket/flights.csv"}, "every partition would get the same rows"),
    ],
)
def test_a_source_that_cannot_work_is_refused_with_its_line(tmp_path: Path, source: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError, match=rf"model\.yaml:\d+: .*{said}"):
        declare(tmp_path, **source)


def test_a_source_named_by_a_variable_that_is_not_set_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec(flights.MODEL_YAML)
    assert spec.source("land") is None

    monkeypatch.setenv("MLOPS_LANDING_URI", "s3://bucket/{year}")

    source = spec.source("land")
    assert source is not None
    assert source.address(JANUARY) == "s3://bucket/2013/flights/2013-01.parquet"
    assert source.on_s3
