"""An old store is upgraded, or refused in words; its chain and its rows stay what they were."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable, write_deltalake
from sqlalchemy.exc import DatabaseError

from mlops_provider.cli.main import main
from mlops_provider.core.names import Environment, Kind
from mlops_provider.exceptions import ConfigurationError, EvidenceError
from mlops_provider.steps.upgrade import upgrade
from mlops_provider.stores import layouts
from mlops_provider.stores.ledger import Ledger
from mlops_provider.stores.suite import Stores
from mlops_provider.stores.tables import Tables
from support.old_stores import old_ledger


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    address: str = request.getfixturevalue("postgres")("ledger")
    return address


def test_an_old_ledger_is_upgraded_and_its_chain_stays(url: str) -> None:
    digests = old_ledger(url)
    stores = Stores(ledger_url=url)
    with pytest.raises(EvidenceError, match="schema version 0; this package reads 1. Upgrade it .*mlops upgrade"):
        Ledger(url).head()

    [said] = upgrade(stores, dry_run=True)
    assert "schema 0 to 1: " in said
    with pytest.raises(EvidenceError, match="schema version 0"):
        Ledger(url).head()
    assert list(upgrade(stores, dry_run=False)) == [said]
    assert list(upgrade(stores, dry_run=False)) == []

    ledger = Ledger(url)
    assert [record.digest for record in ledger.records()] == digests
    assert ledger.append(Kind.LANDING, "delays", {"rows": 4}).previous == digests[-1]
    assert ledger.verify() is None
    ledger.heartbeat("a", "delays", url="http://127.0.0.1:1", generation=1, versions=["1"])
    assert ledger.replicas("delays")
    # From now on the database itself refuses changes.
    engine = sa.create_engine(url)
    with pytest.raises(DatabaseError, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql("UPDATE mlops_records SET actor = 'mallory'")
    engine.dispose()
    ledger.close()


def test_a_ledger_whose_chain_breaks_is_not_upgraded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    old_ledger(url)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE mlops_records SET actor = 'mallory' WHERE seq = 2")
    connection.close()

    with pytest.raises(EvidenceError, match="breaks at record 2 .*; nothing was changed"):
        list(upgrade(Stores(ledger_url=url), dry_run=False))

    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone() == (0,)
    connection.close()


def test_a_newer_ledger_is_refused(url: str) -> None:
    ledger = Ledger(url)
    ledger.append(Kind.LANDING, "delays", {"rows": 1})
    ledger.close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO mlops_ledger VALUES (99)")
    engine.dispose()

    with pytest.raises(EvidenceError, match="schema version 99; this package reads 1. Install the package version"):
        list(upgrade(Stores(ledger_url=url), dry_run=False))
    with pytest.raises(EvidenceError, match="schema version 99"):
        Ledger(url).head()


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Two tables of a model, as this version writes them."""
    tables = Tables(str(tmp_path / "tables"))
    for name in ("predictions", "features"):
        writer = tables.replace_partition(tables.uri("delays", name), "2013-01")
        writer.write(pd.DataFrame({"a": [1, 2]}), origin_key="test")
    return tables


def describe(uri: str, text: str) -> None:
    DeltaTable(uri).alter.set_table_description(text)


@pytest.fixture
def next_layout(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let this package read a layout more, in which a column of predictions has another name."""

    def apply() -> None:
        step = layouts.Step("predictions", "column a becomes b", layouts.renamed("a", "b"))
        monkeypatch.setattr(layouts, "STEPS", (*layouts.STEPS, step))

    return apply


def test_an_old_table_is_refused_then_upgraded_and_its_old_versions_stay(
    tables: Tables, next_layout: Callable[[], None]
) -> None:
    predictions, features = (tables.uri("delays", name) for name in ("predictions", "features"))
    writer = tables.replace_partition(predictions, "2013-02")
    before = writer.write(pd.DataFrame({"a": [3]}), origin_key="test").ref
    next_layout()
    stores = Stores(tables_uri=tables.root)

    with pytest.raises(ConfigurationError, match="in which column a becomes b. Upgrade it: mlops upgrade"):
        tables.read(predictions)
    assert list(tables.read(features)["a"]) == [1, 2]
    assert list(upgrade(stores, dry_run=True)) == [f"{predictions}: column a becomes b"]
    assert list(upgrade(stores, dry_run=False)) == [f"{predictions}: column a becomes b"]
    assert list(upgrade(stores, dry_run=False)) == []

    assert tables.read(predictions).to_dict("list") == {"b": [1, 2, 3]}
    assert tables.partitions(predictions) == ["2013-01", "2013-02"]
    assert tables.read(before).to_dict("list") == {"a": [3]}
    again = tables.replace_partition(predictions, "2013-02").write(pd.DataFrame({"b": [4]}), origin_key="test")
    assert again.changed
    assert tables.read(again.ref).to_dict("list") == {"b": [4]}
    # What is made new has the new layout already.
    fresh = tables.uri("other", "predictions")
    tables.replace_partition(fresh, "2013-01").write(pd.DataFrame({"b": [1]}), origin_key="test")
    assert layouts.layout_of(DeltaTable(fresh)) == layouts.layout()
    assert list(upgrade(stores, dry_run=False)) == []


def test_predictions_of_the_first_release_are_upgraded(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path / "tables"))
    uri = tables.uri("delays", "predictions")
    old = pd.DataFrame({"trip": ["a", "b"], "probability": [0.25, 0.75], "partition": ["2013-01", "2013-02"]})
    write_deltalake(uri, old, partition_by=["partition"])

    with pytest.raises(ConfigurationError, match="layout 0; this package reads 1, in which column probability becomes"):
        tables.partitions(uri)
    assert len(list(upgrade(Stores(tables_uri=tables.root), dry_run=False))) == 1

    assert tables.read(uri).to_dict("list") == {"trip": ["a", "b"], "prediction": [0.25, 0.75]}
    assert tables.partitions(uri) == ["2013-01", "2013-02"]


def test_an_upgrade_that_was_cut_off_after_the_rows_were_written_is_completed(
    tables: Tables, next_layout: Callable[[], None]
) -> None:
    uri, number = tables.uri("delays", "predictions"), layouts.layout()
    next_layout()
    list(upgrade(Stores(tables_uri=tables.root), dry_run=False))
    describe(uri, layouts.mark(number))

    assert len(list(upgrade(Stores(tables_uri=tables.root), dry_run=False))) == 1

    assert tables.read(uri).to_dict("list") == {"b": [1, 2]}


def test_a_newer_table_is_refused(tables: Tables) -> None:
    uri = tables.uri("delays", "features")
    describe(uri, "mlops layout 99")

    for attempt in (lambda: tables.read(uri), lambda: list(upgrade(Stores(tables_uri=tables.root), dry_run=True))):
        with pytest.raises(ConfigurationError, match=r"features has layout 99; .* Install the package version"):
            attempt()


def test_the_command_says_what_it_would_do_and_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    old_ledger(url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(Environment.LEDGER_URL, url)
    monkeypatch.delenv(Environment.TABLES_URI, raising=False)

    assert main(("audit", "verify")) == 1
    assert "mlops upgrade" in capsys.readouterr().err
    assert [main(("upgrade", "--dry-run")), main(("upgrade",)), main(("upgrade",)), main(("audit", "verify"))] == [
        0
    ] * 4
    said = capsys.readouterr().out
    assert "1 steps would be done." in said
    assert "1 steps done." in said
    assert "Nothing to do" in said
    assert "The chain holds: 3 records" in said
