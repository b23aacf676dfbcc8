"""Delta tables: versions, exactly once, and what happens when disk, schema or a rival get in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    ConfigurationError,
    DataRejectedError,
    SourceError,
    StoreUnavailableError,
)
from mlops_provider.stores import delta
from mlops_provider.stores.rows import Rows
from mlops_provider.stores.tables import Tables


def rows(count: int = 200, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "flight": np.arange(count),
            "delay": random.normal(size=count),
            "carrier": random.choice(["AA", "UA", None], count),
            "departure": pd.date_range("2013-01-01", periods=count, freq="h", tz="UTC"),
        }
    )


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path))


@pytest.fixture
def uri(tables: Tables) -> str:
    return tables.uri("delays", "clean")


def child(*arguments: object) -> subprocess.Popen[str]:
    """Run one of the programs at the end of this file in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_what_was_written_is_read_back(tables: Tables, uri: str) -> None:
    frame = rows()

    written = tables.replace_partition(uri, "2013-01").write(frame, origin_key="dag/run/land/-1")

    assert written.changed
    assert written.rows == 200
    assert written.ref == TableRef(uri, 1, "2013-01")
    pd.testing.assert_frame_equal(tables.read(written.ref), frame)
    assert list(tables.read(uri, columns=["partition", "flight"]).columns) == ["partition", "flight"]
    assert tables.content(uri, "2013-01") == written.content


def test_a_reference_reads_its_own_version_and_partition(tables: Tables, uri: str) -> None:
    first = tables.replace_partition(uri, "2013-01").write(rows(seed=1), origin_key="a")
    tables.replace_partition(uri, "2013-02").write(rows(50, seed=2), origin_key="b")
    second = tables.replace_partition(uri, "2013-01").write(rows(seed=3), origin_key="c")

    pd.testing.assert_frame_equal(tables.read(first.ref), rows(seed=1))
    pd.testing.assert_frame_equal(tables.read(second.ref), rows(seed=3))
    assert len(tables.read(TableRef(uri, second.ref.version))) == 250
    assert len(tables.read(second.ref, partitions=["2013-02"])) == 50
    assert tables.read(uri, partitions=["2013-09"]).empty
    assert tables.partitions(uri) == ["2013-01", "2013-02"]
    assert tables.version(uri) == second.ref.version


def test_rows_that_hold_a_text_are_read_alone_in_their_order(tables: Tables, uri: str) -> None:
    for month, seed in (("2013-01", 1), ("2013-02", 2)):
        tables.replace_partition(uri, month).write(rows(seed=seed), origin_key=month)
    everything = tables.read(uri, columns=["carrier", "delay", "partition"])

    found = tables.read(uri, columns=["delay", "partition"], equal=("carrier", "UA"))

    expected = everything[everything["carrier"] == "UA"][["delay", "partition"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected)
    assert tables.read(uri, equal=("carrier", "nobody"), partitions=["2013-01"]).empty


def test_rows_of_a_span_of_time_come_a_bounded_number_at_a_time(tables: Tables, uri: str) -> None:
    frame = rows(1000).assign(flight=lambda all_of: all_of["flight"].where(all_of["flight"] % 7 > 0))
    tables.replace_partition(uri, "2013-01").write(frame.drop(columns="carrier"), origin_key="a")
    written = tables.replace_partition(uri, "2013-02").write(rows(10), origin_key="b")  # a column more
    january = tables.rows(TableRef(uri, written.ref.version, "2013-01"))
    low, high = frame["departure"].iloc[[100, 900]]

    parts = list(january.batches_between("departure", low, high, 64))

    assert {len(part) for part in parts} <= {*range(1, 65)}
    together = pd.concat(parts, ignore_index=True)
    pd.testing.assert_frame_equal(together, january.between("departure", low, high))
    assert together["carrier"].isna().all()
    pd.testing.assert_frame_equal(
        together.drop(columns="carrier"), frame[100:900].drop(columns="carrier").reset_index(drop=True)
    )
    assert list(january.batches_between("departure", high + pd.Timedelta(days=99), None, 64)) == []
    assert len(january.between("departure", None, None, columns=["delay"]).columns) == 1


def test_unchanged_content_makes_no_version_and_names_the_first(tables: Tables, uri: str) -> None:
    first = tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")
    tables.replace_partition(uri, "2013-02").write(rows(seed=2), origin_key="b")

    again = tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")

    assert not again.changed
    assert again.ref == first.ref
    assert tables.version(uri) == 2


def test_a_fingerprint_changes_with_its_partitions_only(tables: Tables, uri: str) -> None:
    first = tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a").ref

    def now() -> str:
        return tables.fingerprint(TableRef(uri, tables.version(uri) or 0, "2013-01"))

    before = now()
    tables.replace_partition(uri, "2013-02").write(rows(seed=1), origin_key="a")
    beside = now()
    tables.replace_partition(uri, "2013-01").write(rows(seed=2), origin_key="a")
    replaced = now()
    DeltaTable(uri).restore(first.version)

    assert before == beside == now() == tables.fingerprint(first)
    assert replaced != before
    assert tables.fingerprint(first, ["2013-02"]) != before


def test_what_was_restored_may_be_replaced_by_what_came_between(tables: Tables, uri: str) -> None:
    first = tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a").ref
    tables.replace_partition(uri, "2013-01").write(rows(seed=1), origin_key="a")
    DeltaTable(uri).restore(first.version)

    again = tables.replace_partition(uri, "2013-01").write(rows(seed=1), origin_key="a")

    assert again.changed
    pd.testing.assert_frame_equal(tables.read(again.ref), rows(seed=1))


def test_an_orphaned_first_try_that_writes_late_loses(tables: Tables, uri: str) -> None:
    tables.replace_partition(uri, "2013-01").write(rows(), origin_key="earlier")
    orphan = tables.replace_partition(uri, "2013-01")
    second_try = tables.replace_partition(uri, "2013-01")
    kept = second_try.write(rows(seed=2), origin_key="second try")

    with pytest.raises(ConcurrentWriteError, match="second try"):
        orphan.write(rows(seed=1), origin_key="orphan")

    assert tables.version(uri) == kept.ref.version
    pd.testing.assert_frame_equal(tables.read(uri), rows(seed=2))


def test_an_orphan_with_the_same_content_finds_it_written(tables: Tables, uri: str) -> None:
    orphan = tables.replace_partition(uri, "2013-01")
    kept = tables.replace_partition(uri, "2013-01").write(rows(), origin_key="second try")

    late = orphan.write(rows(), origin_key="orphan")

    assert not late.changed
    assert late.ref == kept.ref


def test_a_try_overtaken_between_look_and_write_names_the_version_that_was_written(
    tables: Tables, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.replace_partition(uri, "2013-02").write(rows(seed=2), origin_key="another month")
    orphan, opened = tables.replace_partition(uri, "2013-01"), []

    def overtake(*arguments: Any) -> Any:
        handle = existing(*arguments)
        if not opened:
            opened.append(handle)
            opened.append(tables.replace_partition(uri, "2013-01").write(rows(), origin_key="second try"))
        return handle

    existing = delta.existing
    monkeypatch.setattr(delta, "existing", overtake)
    late = orphan.write(rows(), origin_key="orphan")

    assert not late.changed
    assert late.ref == opened[1].ref == TableRef(uri, 2, "2013-01")


def test_the_first_write_of_a_table_has_one_winner_too(tables: Tables, uri: str) -> None:
    orphan, second_try = tables.replace_partition(uri, "2013-01"), tables.replace_partition(uri, "2013-01")
    second_try.write(rows(seed=2), origin_key="second try")

    with pytest.raises(ConcurrentWriteError):
        orphan.write(rows(seed=1), origin_key="orphan")


def test_writers_of_other_partitions_do_not_disturb_each_other(tables: Tables, uri: str) -> None:
    months = [f"2013-{month:02}" for month in range(1, 5)]
    processes = [child("months", tables.root, uri, month, 5) for month in months]

    outputs = [process.communicate(timeout=120) for process in processes]

    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert tables.partitions(uri) == months
    assert tables.version(uri) == 4 * 5
    for out, _ in outputs:
        for line in out.splitlines():
            version, month, seed = line.split()
            frame = tables.read(TableRef(uri, int(version), month))
            pd.testing.assert_frame_equal(frame, rows(seed=int(seed)))


def test_of_processes_that_replace_one_partition_at_once_one_wins(tables: Tables, uri: str) -> None:
    tables.replace_partition(uri, "2013-01").write(rows(), origin_key="earlier")
    processes = [child("race", tables.root, uri, "2013-01", seed) for seed in (1, 2, 3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].strip() for process in processes]

    assert sorted(said) == ["ConcurrentWriteError", "ConcurrentWriteError", "written"]
    winner = said.index("written") + 1
    pd.testing.assert_frame_equal(tables.read(uri), rows(seed=winner))


def test_a_killed_writer_leaves_whole_partitions_only(tables: Tables, uri: str) -> None:
    tables.replace_partition(uri, "2013-01").write(rows(20_000), origin_key="first")
    for round_ in range(3):
        process = child("forever", tables.root, uri, "2013-01", 20_000)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.03 * round_)
        process.send_signal(signal.SIGKILL)
        process.communicate()

        assert len(tables.read(uri)) == 20_000

    written = tables.replace_partition(uri, "2013-01").write(rows(100), origin_key="retry")
    assert written.changed
    assert len(tables.read(uri)) == 100


def test_an_append_happens_once(tables: Tables, uri: str) -> None:
    assert tables.append_once(uri, rows(10), app_id="server-1", sequence=1)
    assert not tables.append_once(uri, rows(10), app_id="server-1", sequence=1)
    assert tables.append_once(uri, rows(10), app_id="server-2", sequence=1)
    assert tables.append_once(uri, rows(10), app_id="server-1", sequence=2)

    assert len(tables.read(uri)) == 30
    assert tables.appended(uri, "server-1") == 2
    assert tables.appended(uri, "server-3") == 0


def test_appends_by_many_processes_happen_once_each(tables: Tables, uri: str) -> None:
    processes = [child("append", tables.root, uri, "server-1", 6) for _ in range(3)]

    outputs = [process.communicate(timeout=120) for process in processes]

    assert [process.returncode for process in processes] == [0] * 3, outputs
    assert sum(int(out) for out, _ in outputs) == 6
    assert len(tables.read(uri)) == 60


def test_a_batch_that_no_longer_follows_is_refused(tables: Tables, uri: str) -> None:
    tables.append_once(uri, rows(10), app_id="server-1", sequence=3, after=0)

    with pytest.raises(ConcurrentWriteError, match="stands at 3"):
        tables.append_once(uri, rows(10), app_id="server-1", sequence=5, after=0)


def test_schema_of_another_month_is_refused_in_words(tables: Tables, uri: str) -> None:
    tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")
    writer = tables.replace_partition(uri, "2013-02")

    with pytest.raises(DataRejectedError, match="lack 'delay'"):
        writer.write(rows().drop(columns="delay"), origin_key="b")
    with pytest.raises(DataRejectedError, match=r"'delay' is string here and double"):
        writer.write(rows().assign(delay="late"), origin_key="b")
    with pytest.raises(DataRejectedError, match=r"'flight' has values that int64"):
        writer.write(rows().assign(flight=0.5), origin_key="b")
    with pytest.raises(DataRejectedError, match=r"'delay' \(object\) mixes types") as caught:
        writer.write(rows(2).assign(delay=[1.5, "secret"]), origin_key="b")
    assert "secret" not in str(caught.value)
    with pytest.raises(DataRejectedError, match="more than once: 'delay'"):
        writer.write(pd.concat([rows(), rows()[["delay"]]], axis=1), origin_key="b")

    assert tables.version(uri) == 1


def test_columns_may_come_and_retired_ones_may_be_left_empty(tables: Tables, uri: str) -> None:
    tables.replace_partition(uri, "2013-01").write(rows(3), origin_key="a")

    wider = rows(3).drop(columns="delay").assign(visibility=10.0)
    tables.replace_partition(uri, "2013-02").write(wider, origin_key="b", missing_as_null=True)

    frame = tables.read(uri, columns=["partition", "delay", "visibility"])
    assert frame["visibility"].notna().tolist() == [False] * 3 + [True] * 3
    assert frame["delay"].notna().tolist() == [True] * 3 + [False] * 3


def test_types_that_delta_lacks_are_exchanged(tables: Tables, uri: str) -> None:
    frame = pd.DataFrame(
        {
            "carrier": pd.Categorical(["AA", "UA"]),
            "seats": np.array([1, 2], dtype="uint16"),
            "local": pd.to_datetime(["2013-01-01 05:00", "2013-01-01 06:00"]),
            "there": pd.to_datetime(["2013-01-01 05:00", "2013-01-01 06:00"]).tz_localize("America/New_York"),
            "nothing": [None, None],
        }
    )
    tables.replace_partition(uri, "2013-01").write(frame, origin_key="a")

    back = tables.read(uri)

    assert back["carrier"].tolist() == ["AA", "UA"]
    assert back["seats"].tolist() == [1, 2]
    assert back["local"].tolist() == frame["local"].tolist()
    assert back["there"].tolist() == frame["there"].dt.tz_convert("UTC").tolist()
    assert back["nothing"].isna().all()


def test_a_partition_may_become_empty(tables: Tables, uri: str) -> None:
    tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")

    written = tables.replace_partition(uri, "2013-01").write(rows().head(0), origin_key="b")

    assert written.changed
    assert written.rows == 0
    assert tables.read(written.ref).empty
    assert list(tables.read(written.ref).columns) == list(rows().columns)
    assert tables.content(uri, "2013-01") == written.content


def test_what_is_not_there_is_named(tables: Tables, uri: str) -> None:
    assert tables.version(uri) is None
    assert not tables.exists(uri)
    assert tables.partitions(uri) == []
    assert tables.content(uri, "2013-01") is None
    with pytest.raises(SourceError, match="no table at"):
        tables.read(uri)

    tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")
    with pytest.raises(SourceError, match="no version 99"):
        tables.read(TableRef(uri, 99))
    with pytest.raises(SourceError, match="no column 'dealy'"):
        tables.read(uri, columns=["dealy"])


def test_one_root_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert Tables("data").root == Tables(f"file://{tmp_path}/data/").root == str(tmp_path / "data")
    with pytest.raises(ConfigurationError, match="MLOPS_TABLES_URI"):
        Tables("gopher://data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB that is really full when it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root; the limited process below tests the same path")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_fails_in_words_and_shows_nothing_of_the_write(small_disk: Path) -> None:
    tables = Tables(str(small_disk))
    uri = tables.uri("delays", "raw")
    tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")
    writer = tables.replace_partition(uri, "2013-02")

    with pytest.raises(StoreUnavailableError, match=r"Disk full while writing .*raw.*free space"):
        writer.write(rows(100_000), origin_key="b")

    assert tables.version(uri) == 1
    pd.testing.assert_frame_equal(tables.read(uri), rows())
    (small_disk / "rest").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
    with pytest.raises(StoreUnavailableError, match="Disk full"):
        tables.replace_partition(tables.uri("delays", "clean"), "2013-01").write(rows(), origin_key="a")
    assert not tables.exists(tables.uri("delays", "clean"))

    (small_disk / "rest").unlink()
    assert writer.write(rows(10), origin_key="b").changed
    assert tables.partitions(uri) == ["2013-01", "2013-02"]


def test_a_write_over_the_process_limit_fails_in_words(tables: Tables, uri: str) -> None:
    tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")

    out, err = child("limited", tables.root, uri).communicate(timeout=60)

    assert "Disk full while writing" in out, err
    assert tables.version(uri) == 1
    pd.testing.assert_frame_equal(tables.read(uri), rows())


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    tables = Tables(str(tmp_path / "file"))
    uri = tables.uri("delays", "raw")

    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")


# Programs that the tests above run in processes of their own.


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def write_months(root: str, uri: str, month: str, times: str) -> None:
    for seed in range(int(times)):
        written = Tables(root).replace_partition(uri, month).write(rows(seed=seed), origin_key=month)
        say(f"{written.ref.version} {month} {seed}")


def write_at_a_word(root: str, uri: str, month: str, seed: str) -> None:
    writer = Tables(root).replace_partition(uri, month)
    say("ready")
    sys.stdin.readline()
    try:
        writer.write(rows(seed=int(seed)), origin_key=seed)
        say("written")
    except ConcurrentWriteError as error:
        say(type(error).__name__)


def write_forever(root: str, uri: str, month: str, count: str) -> None:
    for seed in range(1, 10_000):
        Tables(root).replace_partition(uri, month).write(rows(int(count), seed), origin_key="killed")
        say(seed)


def append_all(root: str, uri: str, app_id: str, times: str) -> None:
    wrote = [Tables(root).append_once(uri, rows(10), app_id=app_id, sequence=n + 1) for n in range(int(times))]
    say(sum(wrote))


def write_limited(root: str, uri: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        Tables(root).replace_partition(uri, "2013-02").write(rows(100_000), origin_key="b")
    except StoreUnavailableError as error:
        say(error)


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    {
        "months": write_months,
        "race": write_at_a_word,
        "forever": write_forever,
        "append": append_all,
        "limited": write_limited,
    }[program](*arguments)


def test_blocks_are_the_rows_of_all_files_in_their_order(tmp_path: Path) -> None:
    schema = pa.schema([("number", pa.float64()), ("text", pa.string())])
    early = pa.table(
        {"number": pa.array(range(500), pa.int64()), "text": [None if n % 7 else str(n) for n in range(500)]}
    )
    late = pa.table({"number": pa.array([n / 2 for n in range(700)])})  # from before there was text
    for name, held in (("a.parquet", early), ("b.parquet", late)):
        pq.write_table(held, tmp_path / name, row_group_size=150)
    files = delta.fragments(["a.parquet", "b.parquet"], delta.filesystem(str(tmp_path), {}))
    rows = Rows(schema, files, uri="somewhere")

    for start, stop in ((0, None), (3, 4), (140, 160), (490, 900), (1199, 1200), (700, 700)):
        blocks = list(rows.blocks(64, start=start, stop=stop))
        assert all(0 < len(block) <= 64 for block in blocks)
        assert pa.concat_tables([schema.empty_table(), *blocks]).equals(rows.table(start, stop))
    assert next(rows.blocks(10, columns=["text"])).column_names == ["text"]
