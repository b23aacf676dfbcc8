"""Land, validate, build features: on a real table store and ledger, with a few hundred real flights."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    DataRejectedError,
    EarlierPartitionMissingError,
    MissingPartitionError,
    NothingToDo,
    SourceError,
    SpecError,
    StoreUnavailableError,
    TransientError,
)
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.steps import ingest
from mlops_provider.steps.chunked import features
from mlops_provider.stores.suite import Stores
from support import flights
from support.flights import FEBRUARY, JANUARY

pytestmark = pytest.mark.integration


@dataclass
class World:
    """A source, a use case that reads it, and stores of its own."""

    folder: Path
    spec: ModelSpec
    stores: Stores

    def source(self, flights_there: pd.DataFrame) -> Path:
        folder = self.folder / "source"
        flights.write_source(folder, flights_there)
        return folder

    def land(self, month: str = JANUARY, run: str = "first") -> TableRef:
        return ingest.land(self.spec, self.stores, month, origin=origin("land_data", run))

    def validate(self, landed: TableRef, month: str = JANUARY, run: str = "first") -> TableRef:
        return ingest.validate(self.spec, self.stores, month, landed, origin=origin("validate_data", run))

    def build(self, clean: TableRef, month: str = JANUARY, run: str = "first") -> TableRef:
        return ingest.build_features(self.spec, self.stores, month, clean, origin=origin("build_features", run))

    def ingest(self, month: str = JANUARY, run: str = "first") -> TableRef:
        return self.build(self.validate(self.land(month, run), month, run), month, run)

    def version(self, table: Table) -> int | None:
        return self.stores.tables.version(self.stores.tables.uri(self.spec.name, table))

    def read(self, table: Table) -> pd.DataFrame:
        return self.stores.tables.read(self.stores.tables.uri(self.spec.name, table))

    def records(self, kind: Kind) -> list[dict[str, Any]]:
        return [dict(record.payload) for record in self.stores.ledger.history(kind, self.spec.name)]

    def changed(self, file: str, old: str, new: str) -> World:
        """The same world with one file of the use case edited."""
        copy = self.spec.folder
        if copy == flights.MODEL_YAML.parent:
            copy = flights.copy_use_case(self.folder).parent
        text = (copy / file).read_text()
        assert old in text
        (copy / file).write_text(text.replace(old, new))
        return replace(self, spec=load_spec(copy / "model.yaml"))


def origin(task: str, run: str) -> Origin:
    return Origin("flight_delays_ingest", run, task, actor="ada")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    stores = Stores(
        tables_uri=str(tmp_path / "tables"),
        registry_uri=f"sqlite:///{tmp_path}/mlflow.db",
        ledger_url=f"sqlite:///{tmp_path}/ledger.db",
    )
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(tmp_path / "source"))
    made = World(tmp_path, load_spec(flights.MODEL_YAML), stores)
    made.source(flights.two_days())
    with closing(stores.ledger):
        yield made


# Land.


def test_the_same_source_lands_once(world: World) -> None:
    first, again, retried = world.land(), world.land(run="second"), world.land()

    assert first == again == retried
    assert len(world.read(Table.RAW)) == (flights.two_days()["month"] == 1).sum()
    landings = world.records(Kind.LANDING)
    assert [landing["changed"] for landing in landings] == [True, False]
    assert landings[0]["origin"] == "flight_delays_ingest/first/land_data/-1"
    assert landings[0]["rows"] == len(world.read(Table.RAW))


def test_a_corrected_source_makes_a_new_version(world: World) -> None:
    first = world.land()
    world.source(flights.two_days().assign(distance=500))

    second = world.land(run="second")

    assert second.version > first.version
    assert (world.stores.tables.read(first)["distance"] != 500).any()
    assert (world.stores.tables.read(second)["distance"] == 500).all()


def test_a_month_without_key_is_refused_in_words(world: World) -> None:
    with pytest.raises(MissingPartitionError, match="partition key"):
        world.land("")


BAD_SOURCES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "missing column": (lambda frame: frame.drop(columns="distance"), r"missing: distance"),
    "wrong type": (lambda frame: frame.assign(distance="a secret"), r"The distance is a number"),
    "no rows": (lambda frame: frame[frame["month"] != 1], r"The month has flights .* found 0"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_source_of_the_wrong_shape_is_refused_and_never_enters_the_table(world: World, name: str) -> None:
    damage, said = BAD_SOURCES[name]
    world.source(damage(flights.two_days()))

    with pytest.raises(DataRejectedError, match=said) as raised:
        world.land()

    (record,) = world.records(Kind.VALIDATION)
    assert not record["passed"]
    assert record["report"] in str(raised.value)
    assert b"Refused" in world.stores.reports.read(record["report"])
    assert "secret" not in str(raised.value)
    assert world.version(Table.RAW) is None
    # The first month was bad; the mended one is not held to what it was.
    world.source(flights.two_days())
    assert world.land().version >= 0


def test_a_truncated_file_is_named_with_what_to_do(world: World) -> None:
    folder = world.source(flights.two_days())
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.write(folder / "flights.csv", "flights.csv")
    whole = (folder / "flights.csv.zip").read_bytes()
    (folder / "flights.csv.zip").write_bytes(whole[:-500])

    with pytest.raises(SourceError, match=r"2013-01 cannot be read: flights\.csv\.zip is truncated.*clear"):
        world.land()
    assert world.version(Table.RAW) is None


def test_a_source_that_does_not_answer_is_tried_again(world: World) -> None:
    away = world.changed("data.py", "    floats = [", "    raise ConnectionResetError\n    floats = [")

    with pytest.raises(TransientError, match="does not answer"):
        away.land()


def test_a_parser_s_complaint_is_passed_on_without_the_value(world: World) -> None:
    broken = world.changed("data.py", "    floats = [", '    int("a secret")\n    floats = [')

    with pytest.raises(SourceError, match=r"not what data\.py:land expects") as raised:
        broken.land()
    assert "secret" not in str(raised.value)


def test_a_land_that_gives_no_frame_is_a_mistake_in_the_use_case(world: World) -> None:
    wrong = world.changed("data.py", "return _with_demonstration_fault(raw, key)", "return None")

    with pytest.raises(SpecError, match=r"data\.py:land returned NoneType, expected a pandas DataFrame"):
        wrong.land()


def test_an_orphaned_first_try_that_ends_last_loses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ingest.read_landing

    def slowly(spec: ModelSpec, stores: Stores, month: str) -> pd.DataFrame | Iterator[pd.DataFrame]:
        mine = read(spec, stores, month)
        monkeypatch.setattr(ingest, "read_landing", read)
        world.source(flights.two_days().assign(distance=500))
        world.land()
        return mine

    monkeypatch.setattr(ingest, "read_landing", slowly)

    with pytest.raises(ConcurrentWriteError):
        world.land()
    assert (world.read(Table.RAW)["distance"] == 500).all()
    assert len(world.records(Kind.LANDING)) == 1


# Validate.


def damaged() -> pd.DataFrame:
    """Two days with a few impossible distances, an exact copy and a contradiction, all on 31 January."""
    frame = flights.two_days().reset_index(drop=True)
    frame.loc[[0, 1, 2], "distance"] = -1
    contradicting = frame.loc[[20]].assign(arr_delay=777)
    return pd.concat([frame, frame.loc[[10]], contradicting], ignore_index=True)


def test_bad_rows_go_to_quarantine_with_reasons_and_none_is_lost(world: World) -> None:
    world.source(damaged())
    landed = world.land()

    clean = world.validate(landed)

    raw, good, bad = (world.read(table) for table in (Table.RAW, Table.CLEAN, Table.QUARANTINE))
    assert len(good) + len(bad) == len(raw)
    assert world.stores.tables.read(clean).equals(good)
    assert bad[ingest.REASONS].value_counts().to_dict() == {
        "A flight covers 50 to 5,200 miles": 3,
        "A flight of a carrier leaves an origin once a day": 3,
    }
    assert not good.duplicated(list(world.spec.keys)).any()
    both = pd.concat([good, bad.drop(columns=ingest.REASONS)])
    order = [*world.spec.keys, "arr_delay"]
    pd.testing.assert_frame_equal(
        both.sort_values(order, ignore_index=True), raw.sort_values(order, ignore_index=True), check_dtype=False
    )


def test_the_verdict_is_recorded_with_its_numbers_and_its_report(world: World) -> None:
    world.source(damaged())
    landed = world.land()

    clean = world.validate(landed)

    (record,) = world.records(Kind.VALIDATION)
    assert (record["passed"], record["rows"], record["quarantined"]) == (True, len(world.read(Table.RAW)), 6)
    assert record["data"] == landed.as_json()
    assert record["clean"]["version"] == clean.version
    assert record["quarantine"]["rows"] == 6
    assert len(record["reasons"]) == 2
    assert b"rows in quarantine" in world.stores.reports.read(record["report"])


def test_a_retry_adds_no_record_and_no_version(world: World) -> None:
    landed = world.land()

    first, again = world.validate(landed), world.validate(landed)

    assert first == again
    assert len(world.records(Kind.VALIDATION)) == 1


def test_too_many_bad_rows_refuse_the_month_naming_expectation_and_report(world: World) -> None:
    before = world.validate(world.land())
    frame = flights.two_days().reset_index(drop=True)
    frame.loc[frame.index % 5 == 0, "distance"] = -1
    world.source(frame)

    with pytest.raises(DataRejectedError, match=r"expect_column_values_to_be_between.*at most 10\.0% may") as raised:
        world.validate(world.land(run="second"), run="second")

    record = world.records(Kind.VALIDATION)[-1]
    assert not record["passed"]
    assert record["report"] in str(raised.value)
    assert world.version(Table.CLEAN) == before.version


def test_a_cleared_run_is_judged_anew_after_the_source_was_mended(world: World) -> None:
    frame = flights.two_days()
    world.source(frame.assign(distance=-1))
    with pytest.raises(DataRejectedError):
        world.validate(world.land())
    world.source(frame)

    world.validate(world.land())

    assert [record["passed"] for record in world.records(Kind.VALIDATION)] == [False, True]


def test_a_month_without_bad_rows_makes_no_quarantine(world: World) -> None:
    world.validate(world.land())

    assert world.version(Table.QUARANTINE) is None
    assert world.records(Kind.VALIDATION)[0]["quarantine"] is None


def test_a_mended_month_leaves_the_quarantine(world: World) -> None:
    world.source(damaged())
    world.validate(world.land())
    world.source(flights.two_days())

    world.validate(world.land(run="second"), run="second")

    assert len(world.read(Table.QUARANTINE)) == 0


# Build features.


def test_features_are_the_declared_columns_in_one_type_per_column(world: World) -> None:
    built = world.ingest()

    frame = world.stores.tables.read(built)
    assert list(frame.columns) == list(
        dict.fromkeys([*world.spec.keys, world.spec.event_time, *world.spec.feature_columns])
    )
    assert set(frame[list(world.spec.features.numeric)].dtypes.astype(str)) == {"float64"}
    assert len(frame) == len(world.read(Table.CLEAN))


def test_the_month_before_is_the_history_of_the_first_hours(world: World) -> None:
    world.ingest(JANUARY, "january")

    built = world.ingest(FEBRUARY, "february")

    first_hours = world.stores.tables.read(built).sort_values("scheduled_departure").head(10)
    assert first_hours["origin_delay_6h"].notna().any()
    record = world.records(Kind.FEATURES)[-1]
    assert [source["partition"] for source in record["from"]] == [FEBRUARY, JANUARY]


def test_a_month_without_the_one_before_waits_for_it(world: World) -> None:
    with pytest.raises(EarlierPartitionMissingError, match=r"no clean rows of 2013-01 yet.*Ingest 2013-01 first"):
        world.ingest(FEBRUARY)
    world.ingest()

    world.ingest(FEBRUARY)

    assert [source["partition"] for source in world.records(Kind.FEATURES)[-1]["from"]] == [FEBRUARY, "2013-01"]


def test_another_run_with_the_same_features_has_nothing_to_do(world: World) -> None:
    world.ingest()

    with pytest.raises(NothingToDo, match=r"2013-01 have not changed since version 1, built by .*/first/"):
        world.ingest(run="second")
    assert len(world.records(Kind.FEATURES)) == 1


def test_a_retry_of_the_run_that_built_them_succeeds(world: World) -> None:
    first = world.ingest()

    assert world.ingest() == first
    assert len(world.records(Kind.FEATURES)) == 1


def test_a_run_killed_between_table_and_ledger_is_finished_by_its_retry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = world.validate(world.land())

    def killed(*args: Any, **kwargs: Any) -> None:
        raise StoreUnavailableError("The ledger is away.")

    with monkeypatch.context() as during:
        during.setattr(features, "record_written", killed)
        with pytest.raises(StoreUnavailableError):
            world.build(clean)
    built = world.build(clean)

    assert [record["version"] for record in world.records(Kind.FEATURES)] == [built.version]


def test_features_that_come_back_after_a_change_are_news(world: World) -> None:
    world.ingest()
    world.source(flights.two_days().assign(distance=500))
    world.ingest(run="second")
    world.source(flights.two_days())

    third = world.ingest(run="third")

    assert [record["version"] for record in world.records(Kind.FEATURES)][-1] == third.version
    assert len(world.records(Kind.FEATURES)) == 3


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("described.drop(columns=['hour', 'flight'])", "column 'flight' is missing; column 'hour' is missing"),
        ("described.assign(hour='ten')", "'hour' is object, declared as numeric"),
        ("described.assign(carrier=1.5)", "'carrier' is float64, declared as categorical"),
        ("described.head(5)", "5 rows for"),
        ("pd.concat([described.iloc[1:], described.tail(1)])", "1 rows repeat the key"),
        (
            "described.assign(scheduled_departure=described['scheduled_departure'].dt.tz_localize(None))",
            "expected a time with a time zone",
        ),
        (
            "described.assign(scheduled_departure=described['scheduled_departure'] + pd.Timedelta(days=40))",
            "rows have a 'scheduled_departure' outside the month",
        ),
    ],
)
def test_features_that_are_not_as_declared_are_refused(world: World, returned: str, said: str) -> None:
    wrong = world.changed("features.py", "    return described\n", f"    return {returned}\n")

    with pytest.raises(DataRejectedError) as raised:
        wrong.ingest()

    assert said in str(raised.value)
    assert world.version(Table.FEATURES) is None


def test_flights_without_an_arrival_have_features_too(world: World) -> None:
    built = world.ingest()

    cancelled = world.read(Table.CLEAN)["arr_delay"].isna()
    assert cancelled.any()
    assert len(world.stores.tables.read(built)) == len(cancelled)


@pytest.mark.parametrize("declared", ["", "look_back_hours: 36\n"])
def test_a_mistake_in_features_is_told_with_its_place_and_without_the_value(world: World, declared: str) -> None:
    clean = world.validate(world.land())
    wrong = world.changed("features.py", "    local = described", '    int("a secret")\n    local = described')
    wrong = wrong.changed("model.yaml", "slices:", f"{declared}slices:")

    with pytest.raises(
        SpecError, match=r"features\.py:features failed with ValueError in features\.py, line"
    ) as raised:
        wrong.build(clean)
    assert "secret" not in str(raised.value)
