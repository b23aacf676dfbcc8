"""Steps over chunks give what they give in one piece: rows, order, content hash, records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mlops_provider.adapters.sampling import bottom_k
from mlops_provider.core import chunks
from mlops_provider.core.chunks import Chunk, ChunkResult
from mlops_provider.core.names import Kind, Table, Task
from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    ConfigurationError,
    DataRejectedError,
    NothingToDo,
    SourceError,
    SpecError,
    StagedFilesGoneError,
)
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.steps import chunked, ingest, monitor, score
from mlops_provider.steps.chunked import features as feature_chunks
from mlops_provider.stores.suite import Stores
from support import flights, parcels
from support.aws import Aws
from support.flights import FEBRUARY, JANUARY
from support.parcels import Parcels

pytestmark = pytest.mark.integration

TABLES = (Table.RAW, Table.CLEAN, Table.QUARANTINE, Table.FEATURES)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred rows are many blocks, hence may be many chunks, and a look-back comes in many parts."""
    monkeypatch.setattr(chunks, "BLOCK_ROWS", 16)
    monkeypatch.setattr(feature_chunks, "_HISTORY_ROWS", 50)


class World:
    """The flights of two days, and stores of their own, under one declaration."""

    def __init__(self, folder: Path, source: pd.DataFrame, tables_uri: str = "", **declared: Any) -> None:
        self.folder = folder
        flights.write_source(folder / "source", source)
        self.yaml = flights.copy_use_case(folder)
        self.declare(**declared)
        self.stores = Stores(
            tables_uri=tables_uri or str(folder / "tables"), ledger_url=f"sqlite:///{folder}/ledger.db"
        )

    @property
    def spec(self) -> ModelSpec:
        return load_spec(self.yaml)

    def declare(self, **changes: Any) -> None:
        declaration = yaml.safe_load(self.yaml.read_text()) | changes
        self.yaml.write_text(yaml.safe_dump(declaration))

    def origin(self, task: str, run: str) -> Origin:
        return Origin("flight_delays_ingest", run, task, actor="ada")

    def as_mapped(self, step: Task, month: str, run: str, source: TableRef | None = None) -> list[ChunkResult]:
        """Plan and work as mapped tasks do: JSON in and out, the last chunk first."""
        planned = chunked.plan(
            step, self.spec, self.stores, month, source=source, origin=self.origin(f"{step}_plan", run)
        )
        given = [json.loads(json.dumps(chunk.as_json())) for chunk in planned]
        done = [chunked.work(self.spec, self.stores, Chunk.from_json(chunk)).as_json() for chunk in reversed(given)]
        return [ChunkResult.from_json(json.loads(json.dumps(each))) for each in done]

    def ingest(self, month: str = JANUARY, run: str = "first", *, mapped: bool = False) -> TableRef:
        spec, stores = self.spec, self.stores
        many = (lambda *step: self.as_mapped(step[0], month, run, *step[1:])) if mapped else (lambda *_: None)
        landed = ingest.land(
            spec,
            stores,
            month,
            chunks=many(Task.LAND_DATA) if spec.functions.parts else None,
            origin=self.origin("land_data", run),
        )
        clean = ingest.validate(
            spec,
            stores,
            month,
            landed,
            chunks=many(Task.VALIDATE_DATA, landed),
            origin=self.origin("validate_data", run),
        )
        return ingest.build_features(
            spec,
            stores,
            month,
            clean,
            chunks=many(Task.BUILD_FEATURES, clean),
            origin=self.origin("build_features", run),
        )

    def contents(self, month: str) -> list[str | None]:
        return [self.stores.tables.content(self.uri(table), month) for table in TABLES]

    def uri(self, table: Table) -> str:
        return self.stores.tables.uri("flight_delays", table)

    def read(self, table: Table, month: str) -> pd.DataFrame:
        return self.stores.tables.read(
            TableRef(self.uri(table), self.stores.tables.version(self.uri(table)) or 0, month)
        )

    def files(self, table: Table) -> list[str]:
        """Files below a table that no version of it is made of."""
        folder = Path(self.uri(table))
        there = {str(path.relative_to(folder)) for path in folder.rglob("*.*") if "_delta_log" not in path.parts}
        log = "".join(path.read_text() for path in (folder / "_delta_log").glob("*.json"))
        return sorted(path for path in there if path not in log)

    def validation(self) -> dict[str, Any]:
        payload = dict(self.stores.ledger.history(Kind.VALIDATION, "flight_delays")[-1].payload)
        payload.pop("plan", None)  # what came in chunks says of which
        places = {name: payload.pop(name) for name in ("data", "clean", "quarantine", "report")}
        return payload | {"clean": places["clean"]["content"], "quarantine": places["quarantine"]["content"]}


def damaged() -> pd.DataFrame:
    """Two days with impossible distances, exact copies, and flights that contradict each other."""
    frame = flights.two_days().sort_values(["month", "day", "sched_dep_time"]).reset_index(drop=True)
    frame.loc[[0, 40, 41, 150], "distance"] = -1
    return pd.concat([frame, frame.iloc[[30, 31]], frame.iloc[[100]].assign(distance=999.0)], ignore_index=True)


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[World, World]]:
    """The same damaged days, once in one piece and once in chunks of 64 rows."""
    whole = World(tmp_path / "whole", damaged(), look_back_hours=36)
    cut = World(tmp_path / "cut", damaged(), look_back_hours=36, chunk_rows=64)
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(tmp_path / "whole" / "source"))
    with closing(whole.stores.ledger), closing(cut.stores.ledger):
        yield whole, cut


OF_ROWS = """

def landings_in_parts(flights, kept=None):
    if len(flights) > 50:
        raise ValueError("too many at once")
    return landings(flights, kept)


def features_of_rows(frame, history, as_of):
    return features(frame, landings(history), as_of)


def no_frame(flights, kept=None):
    return len(flights)
"""


def with_history(world: World, **functions: str | None) -> None:
    file = world.yaml.parent / "features.py"
    file.write_text(file.read_text() + OF_ROWS)
    world.declare(functions=world.spec.functions.model_dump() | functions)


def test_chunks_give_the_same_content_records_and_reasons_as_one_piece(worlds: tuple[World, World]) -> None:
    whole, cut = worlds
    with_history(whole, features="features.py:features_of_rows", history=None)
    with_history(cut, history="features.py:landings_in_parts")
    for month in (JANUARY, FEBRUARY):
        whole.ingest(month)
        cut.ingest(month, mapped=True)

        assert cut.contents(month) == whole.contents(month)
        assert cut.validation() == whole.validation()
        for table in (Table.QUARANTINE, Table.FEATURES):
            pd.testing.assert_frame_equal(cut.read(table, month), whole.read(table, month))
    assert len(cut.as_mapped(Task.VALIDATE_DATA, JANUARY, "again", cut_ref(cut))) > 3
    assert [cut.files(table) for table in (Table.QUARANTINE, Table.FEATURES)] == [[], []]


def cut_ref(world: World, table: Table = Table.RAW, month: str = JANUARY) -> TableRef:
    return TableRef(world.uri(table), world.stores.tables.version(world.uri(table)) or 0, month)


def test_without_mapped_tasks_the_chunks_are_worked_on_one_after_the_other(worlds: tuple[World, World]) -> None:
    whole, cut = worlds

    whole.ingest()
    cut.ingest()

    assert cut.contents(JANUARY) == whole.contents(JANUARY)


def test_features_with_a_look_back_are_those_of_the_whole_month_in_the_order_of_time(
    worlds: tuple[World, World],
) -> None:
    whole, cut = worlds
    for month in (JANUARY, FEBRUARY):
        cut.ingest(month, mapped=True)
    whole.declare(look_back_hours=None)
    for month in (JANUARY, FEBRUARY):
        whole.ingest(month)

    plain = whole.read(Table.FEATURES, FEBRUARY).sort_values("scheduled_departure", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(cut.read(Table.FEATURES, FEBRUARY), plain, check_exact=True)
    assert plain["origin_delay_6h"].notna().any()


def test_equal_content_makes_no_new_version_and_leaves_no_file(worlds: tuple[World, World]) -> None:
    _, cut = worlds
    cut.ingest(mapped=True)
    versions = [cut.stores.tables.version(cut.uri(table)) for table in TABLES]

    with pytest.raises(NothingToDo):
        cut.ingest(run="second", mapped=True)

    assert [cut.stores.tables.version(cut.uri(table)) for table in TABLES] == versions
    assert [cut.files(table) for table in TABLES] == [[], [], [], []]


def test_a_killed_chunk_leaves_files_that_the_commit_clears_away(worlds: tuple[World, World]) -> None:
    whole, cut = worlds
    whole.ingest()
    landed = ingest.land(cut.spec, cut.stores, JANUARY, origin=cut.origin("land_data", "first"))
    cut.as_mapped(Task.VALIDATE_DATA, JANUARY, "dead", landed)
    once = cut.as_mapped(Task.VALIDATE_DATA, JANUARY, "first", landed)
    again = chunked.work(cut.spec, cut.stores, once[0].chunk)
    assert again.pieces[0].path != once[0].pieces[0].path

    ingest.validate(
        cut.spec,
        cut.stores,
        JANUARY,
        landed,
        chunks=[again, *once[1:]],
        origin=cut.origin("validate_data", "first"),
    )

    assert cut.contents(JANUARY)[1:3] == whole.contents(JANUARY)[1:3]
    assert cut.files(Table.CLEAN) == []


def test_a_run_whose_partition_was_replaced_meanwhile_commits_nothing(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cut = worlds
    landed = ingest.land(cut.spec, cut.stores, JANUARY, origin=cut.origin("land_data", "first"))
    orphaned = cut.as_mapped(Task.VALIDATE_DATA, JANUARY, "first", landed)
    flights.write_source(cut.folder / "other", damaged().iloc[5:])
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(cut.folder / "other"))
    cut.ingest(run="second", mapped=True)
    after = cut.contents(JANUARY)

    with pytest.raises((ConcurrentWriteError, SourceError)):
        ingest.validate(
            cut.spec, cut.stores, JANUARY, landed, chunks=orphaned, origin=cut.origin("validate_data", "first")
        )

    assert cut.contents(JANUARY) == after


def test_a_retry_after_the_end_gets_what_was_recorded(worlds: tuple[World, World]) -> None:
    _, cut = worlds
    landed = ingest.land(cut.spec, cut.stores, JANUARY, origin=cut.origin("land_data", "first"))
    done = cut.as_mapped(Task.VALIDATE_DATA, JANUARY, "first", landed)
    origin = cut.origin("validate_data", "first")
    first = ingest.validate(cut.spec, cut.stores, JANUARY, landed, chunks=done, origin=origin)

    assert ingest.validate(cut.spec, cut.stores, JANUARY, landed, chunks=done, origin=origin) == first


def test_a_month_that_is_refused_leaves_nothing_behind(worlds: tuple[World, World]) -> None:
    _, cut = worlds
    landed = ingest.land(cut.spec, cut.stores, JANUARY, origin=cut.origin("land_data", "first"))
    expectations = cut.yaml.parent / "expectations.yaml"
    expectations.write_text(
        expectations.read_text().replace("max_value: 5200, mostly: 0.9", "max_value: 100, mostly: 0.9")
    )

    with pytest.raises(DataRejectedError, match=r"is refused: A flight covers 50 to 5,200 miles"):
        ingest.validate(
            cut.spec,
            cut.stores,
            JANUARY,
            landed,
            chunks=cut.as_mapped(Task.VALIDATE_DATA, JANUARY, "first", landed),
            origin=cut.origin("validate_data", "first"),
        )

    assert not cut.stores.tables.exists(cut.uri(Table.CLEAN))
    assert not list(Path(cut.uri(Table.CLEAN)).rglob("*.parquet"))


def test_a_landing_that_is_cleared_after_newer_chunks_were_refused_does_not_give_the_older_month(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cut = worlds
    origin = cut.origin("land_data", "first")

    def land() -> TableRef:
        return ingest.land(cut.spec, cut.stores, JANUARY, chunks=many, origin=origin)

    many = cut.as_mapped(Task.LAND_DATA, JANUARY, "first")
    landed = land()
    assert land() == landed  # a retry of what was committed
    flights.write_source(cut.folder / "refused", damaged()[damaged()["month"] != 1])
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(cut.folder / "refused"))
    many = cut.as_mapped(Task.LAND_DATA, JANUARY, "first")
    with pytest.raises(DataRejectedError, match="is refused"):
        land()

    with pytest.raises(StagedFilesGoneError, match="Clear the tasks of this step from its plan on"):
        land()

    flights.write_source(cut.folder / "newer", damaged().iloc[5:])
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(cut.folder / "newer"))
    many = cut.as_mapped(Task.LAND_DATA, JANUARY, "first")
    newer = land()
    assert land() == newer != landed
    flights.write_source(cut.folder / "newest", damaged().iloc[9:])
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(cut.folder / "newest"))
    many = cut.as_mapped(Task.LAND_DATA, JANUARY, "first")
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(cut.folder / "source"))
    other = cut.as_mapped(Task.LAND_DATA, JANUARY, "second")
    ingest.land(cut.spec, cut.stores, JANUARY, chunks=other, origin=cut.origin("land_data", "second"))
    with pytest.raises((ConcurrentWriteError, StagedFilesGoneError)):
        land()


def test_a_look_back_that_is_too_short_is_noticed(worlds: tuple[World, World]) -> None:
    whole, cut = worlds
    for world in (whole, cut):
        world.declare(look_back_hours=3)

    with pytest.raises(DataRejectedError, match=r"look further back than look_back_hours: 3 .* origin_delay_6h in"):
        cut.ingest(mapped=True)
    whole.ingest()
    with pytest.raises(DataRejectedError, match="look further back than look_back_hours: 3"):
        whole.ingest(FEBRUARY)


def test_a_history_that_keeps_more_than_a_chunk_has_is_refused(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cut = worlds
    monkeypatch.setattr(feature_chunks, "_KEPT_ROWS", 0)

    said = r"landings keeps \d+ rows of the first \d+ that flight_delays looks back on, .* \(64\).* raise chunk_rows"
    with pytest.raises(DataRejectedError, match=said):
        cut.ingest(mapped=True)

    cut.declare(chunk_rows=None)
    cut.ingest()


def test_a_history_that_is_no_frame_is_a_mistake_in_the_use_case(worlds: tuple[World, World]) -> None:
    whole, _ = worlds
    with_history(whole, history="features.py:no_frame")

    with pytest.raises(SpecError, match=r"no_frame returned int, expected a pandas DataFrame"):
        whole.ingest()


def test_keys_that_repeat_across_chunks_are_refused(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cut = worlds
    landed = ingest.land(cut.spec, cut.stores, JANUARY, origin=cut.origin("land_data", "first"))
    cut.declare(keys=["carrier", "origin"])
    monkeypatch.setattr(feature_chunks.feature_frames, "checked_features", lambda frame, *_, **__: frame)
    done = cut.as_mapped(Task.BUILD_FEATURES, JANUARY, "first", landed)

    with pytest.raises(DataRejectedError, match=r"rows repeat the key of another \(carrier, origin\)"):
        ingest.build_features(
            cut.spec, cut.stores, JANUARY, landed, chunks=done, origin=cut.origin("build_features", "first")
        )


LAND_BY_DAY = '''

def parts(key):
    """The days of the month."""
    return sorted(land(key)["flight_date"].unique())


def land_day(key, part):
    frame = land(key)
    return frame[frame["flight_date"] == part].reset_index(drop=True)


def stream(key):
    frame = land(key)
    yield frame.head(0)
    for first in range(0, len(frame), 37):
        yield frame.iloc[first : first + 37]


def broken_stream(key):
    yield land(key).head(40)
    raise ConnectionResetError("the line went dead")


def nothing(key):
    yield from ()
'''


def with_functions(world: World, **functions: str) -> None:
    data = world.yaml.parent / "data.py"
    data.write_text(data.read_text() + LAND_BY_DAY)
    world.declare(functions=world.spec.functions.model_dump(exclude_none=True) | functions)


@pytest.mark.parametrize("mapped", [True, False])
def test_parts_of_a_source_and_streams_land_like_one_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    source = damaged().sort_values(["month", "day"], kind="stable")
    early = source.assign(day=source["day"].where(source["day"] != 31, 31 - source.index % 3))
    worlds = [World(tmp_path / name, early) for name in ("whole", "parts", "stream")]
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(tmp_path / "whole" / "source"))
    whole, parts, stream = worlds
    with_functions(parts, land="data.py:land_day", parts="data.py:parts")
    with_functions(stream, land="data.py:stream")
    stream.declare(chunk_rows=50)
    raw = []
    for world in worlds:
        many = world.as_mapped(Task.LAND_DATA, JANUARY, "first") if mapped and world is not whole else None
        ingest.land(world.spec, world.stores, JANUARY, chunks=many, origin=world.origin("land_data", "first"))
        raw.append(world.read(Table.RAW, JANUARY))

    assert len(parts.as_mapped(Task.LAND_DATA, JANUARY, "again")) == 3
    files = stream.stores.tables.rows(cut_ref(stream)).files
    assert [file.metadata.num_rows for file in files[:-1]] == [50] * (len(files) - 1)
    assert stream.contents(JANUARY)[0] == whole.contents(JANUARY)[0]
    in_order = raw[0].sort_values("flight_date", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(raw[1], in_order)


def test_a_stream_that_breaks_off_lands_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, damaged())
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(tmp_path / "source"))
    with_functions(world, land="data.py:broken_stream")

    with pytest.raises(Exception, match="does not answer"):
        ingest.land(world.spec, world.stores, JANUARY, origin=world.origin("land_data", "first"))
    assert not world.stores.tables.exists(world.uri(Table.RAW))

    world.declare(functions=world.spec.functions.model_dump(exclude_none=True) | {"land": "data.py:nothing"})
    with pytest.raises(SourceError, match="gave no frame at all"):
        ingest.land(world.spec, world.stores, JANUARY, origin=world.origin("land_data", "second"))


# Predictions and drift.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Parcels:
    """A version in service, and a later month of features."""
    made = Parcels(tmp_path_factory.mktemp("served"))
    made.build("2013-01", "2013-02", "2013-03")
    version = made.train("2013-02")
    assert version
    made.serve(version)
    made.stores.ledger.close()
    return made


def mapped(world: Parcels, step: Task) -> list[ChunkResult]:
    planned = chunked.plan(
        step, world.spec, world.stores, "2013-03", origin=parcels.origin(f"{step}_plan", "score 2013-03")
    )
    return [chunked.work(world.spec, world.stores, chunk) for chunk in reversed(planned)]


def test_predictions_and_drift_of_chunks_are_those_of_one_piece(served: Parcels, tmp_path: Path) -> None:
    whole, cut = served.copied(tmp_path / "whole"), served.copied(tmp_path / "cut")
    cut.declare(chunk_rows=100)
    whole.score("2013-03")
    predicted = mapped(cut, Task.SCORE_BATCH)
    origin = parcels.origin("score_batch", "score 2013-03")
    score.score(cut.spec, cut.stores, "2013-03", chunks=predicted, origin=origin)

    assert len(predicted) == 8
    predictions = [each.stores.tables.uri("parcels", Table.PREDICTIONS) for each in (whole, cut)]
    assert cut.stores.tables.content(predictions[1], "2013-03") == whole.stores.tables.content(
        predictions[0], "2013-03"
    )

    sampled = mapped(cut, Task.DETECT_DRIFT)
    watch = parcels.origin("detect_drift", "watch")
    found = [
        monitor.detect_drift(whole.spec, whole.stores, "2013-03", origin=watch),
        monitor.detect_drift(cut.spec, cut.stores, "2013-03", chunks=sampled, origin=watch),
    ]
    one, other = whole.payload(found[0]), cut.payload(found[1])
    assert [one[name] for name in ("columns", "alarm", "rows")] == [
        other[name] for name in ("columns", "alarm", "rows")
    ]
    assert one["rows"] == 600
    assert not list(Path(predictions[1]).rglob("*.npz"))
    assert len(list(Path(predictions[1]).rglob("*.parquet"))) == 8


def test_drift_is_recorded_under_the_versions_that_were_measured(served: Parcels, tmp_path: Path) -> None:
    world = served.copied(tmp_path / "again")
    world.score("2013-03")
    sampled = mapped(world, Task.DETECT_DRIFT)
    features, watch = world.stores.tables.uri("parcels", Table.FEATURES), parcels.origin("detect_drift", "watch")
    planned = world.stores.tables.version(features)
    frame = world.stores.tables.read(features, partitions=["2013-03"])
    world.stores.tables.replace_partition(features, "2013-03").write(
        frame.assign(distance=frame["distance"] * 9), origin_key="landed again"
    )

    before = monitor.detect_drift(world.spec, world.stores, "2013-03", chunks=sampled, origin=watch)
    after = monitor.detect_drift(
        world.spec, world.stores, "2013-03", chunks=mapped(world, Task.DETECT_DRIFT), origin=watch
    )

    assert [world.payload(record)["features"]["version"] for record in (before, after)] == [planned, planned + 1]
    assert [world.payload(record)["alarm"] for record in (before, after)] == [False, True]


def test_a_month_without_a_model_has_one_chunk_and_no_drift(tmp_path: Path) -> None:
    unserved = Parcels(tmp_path)
    unserved.build("2013-03")
    sampled = mapped(unserved, Task.DETECT_DRIFT)

    record = monitor.detect_drift(
        unserved.spec, unserved.stores, "2013-03", chunks=sampled, origin=parcels.origin("detect_drift")
    )

    assert len(sampled) == 1
    assert unserved.payload(record)["version"] is None
    with pytest.raises(NothingToDo):
        mapped(unserved, Task.SCORE_BATCH)


def test_a_sample_is_the_same_however_rows_are_cut() -> None:
    rows = pd.DataFrame({"a": range(500), "b": [f"k{row % 7}" for row in range(500)], "x": range(500)})
    whole = bottom_k(rows, ["a", "b"], 40, seed=3)
    parts = [bottom_k(rows[first : first + 90], ["a", "b"], 40, seed=3) for first in range(0, 500, 90)]

    assert bottom_k(pd.concat(parts[::-1]), ["a", "b"], 40, seed=3).equals(whole)
    assert len(whole.merge(bottom_k(rows, ["a", "b"], 40, seed=4), on="a")) < 15
    assert abs(whole["x"].mean() - 250) < 80


def test_chunks_on_s3_carry_the_mark_of_their_ledger_and_stay_out_of_another_one_s_table(
    tmp_path: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(tmp_path / "one" / "source"))
    root, declared = f"s3://{aws.bucket()}/tables", {"look_back_hours": 36, "chunk_rows": 256}
    one, other = (World(tmp_path / name, damaged(), root, **declared) for name in ("one", "other"))
    with closing(one.stores.ledger), closing(other.stores.ledger):
        one.ingest(mapped=True)
        clean = cut_ref(one, Table.CLEAN)
        for table in (Table.CLEAN, Table.FEATURES):
            newest = one.stores.tables.commits_after(one.uri(table), -1)[-1]
            assert newest["mlops.ledger"] == one.stores.ledger_identity() is not None
        contents, files = one.contents(JANUARY), list(one.stores.tables.tree.names())
        assert not [name for name in files if name.endswith(".npz")]

        monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(tmp_path / "other" / "source"))
        many = other.as_mapped(Task.BUILD_FEATURES, JANUARY, "first", clean)
        with pytest.raises(ConfigurationError, match="belongs to another environment"):
            ingest.build_features(
                other.spec,
                other.stores,
                JANUARY,
                clean,
                chunks=many,
                origin=other.origin("build_features", "first"),
            )

        assert one.contents(JANUARY) == contents
        assert list(one.stores.tables.tree.names()) == files


def test_a_retry_on_s3_that_finds_its_files_committed_gets_what_its_first_try_recorded(
    tmp_path: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(tmp_path / "one" / "source"))
    one = World(tmp_path / "one", damaged(), f"s3://{aws.bucket()}/tables", look_back_hours=36, chunk_rows=256)
    with closing(one.stores.ledger):
        one.ingest()
        landed, origin = cut_ref(one), one.origin("validate_data", "again")
        many = one.as_mapped(Task.VALIDATE_DATA, JANUARY, "again", landed)

        tries = [ingest.validate(one.spec, one.stores, JANUARY, landed, chunks=many, origin=origin) for _ in range(2)]

        assert tries[0] == tries[1]


def test_the_rows_of_a_table_are_found_where_it_was_restored(worlds: tuple[World, World]) -> None:
    whole, _ = worlds
    whole.ingest()
    clean, former = cut_ref(whole, Table.CLEAN), "/elsewhere/flight_delays/clean"

    whole.stores.tables.note_moved(clean.table, former)

    rows = whole.stores.tables.rows(TableRef(former, clean.version, JANUARY))
    pd.testing.assert_frame_equal(rows.frame(), whole.stores.tables.read(clean))
