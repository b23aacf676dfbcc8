"""Segments of predictions: acknowledged rows survive, and each reaches the table once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError
from mlops_provider.stores import segments
from mlops_provider.stores.predictions import Delivery, SegmentWriter, deliver, sealed_segments
from mlops_provider.stores.tables import Tables


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"request_id": f"r{number}", "prediction": 0.5, "features": {"wind": 1.0}, **more}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "delays"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "data"))


@pytest.fixture
def uri(tables: Tables) -> str:
    return tables.uri("delays", "prediction_log")


def child(*arguments: object) -> subprocess.Popen[str]:
    """Run one of the programs at the end of this file in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipe, command = subprocess.PIPE, [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def logged(tables: Tables, uri: str) -> list[str]:
    return sorted(tables.read(uri, columns=["request_id"])["request_id"])


def test_sealed_rows_are_delivered_once_and_their_files_go(spool: Path, tables: Tables, uri: str) -> None:
    writer = SegmentWriter(spool, "a", max_bytes=100)
    for number in range(4):
        writer.append([row(number)])
    writer.close()
    assert len(sealed_segments(spool)) > 1

    first, second = deliver(tables, uri, spool), deliver(tables, uri, spool)

    assert first.rows == 4
    assert second == Delivery(0, 0)
    assert logged(tables, uri) == ["r0", "r1", "r2", "r3"]
    assert tables.version(uri) == 1, "many segments, one commit"
    assert sealed_segments(spool) == []
    assert json.loads(tables.read(uri)["features"][0]) == {"wind": 1.0}


def test_an_open_segment_is_not_delivered_until_it_is_sealed_by_age(spool: Path, tables: Tables, uri: str) -> None:
    writer = SegmentWriter(spool, "a", max_seconds=1.0)
    writer.append([row(1)])
    assert deliver(tables, uri, spool) == Delivery(0, 0)

    give_up = time.monotonic() + 10
    while not sealed_segments(spool) and time.monotonic() < give_up:
        time.sleep(0.05)

    assert deliver(tables, uri, spool) == Delivery(1, 1)
    writer.close()


def test_a_delivery_killed_before_it_removed_its_files_is_not_repeated(spool: Path, tables: Tables, uri: str) -> None:
    writer = SegmentWriter(spool, "a")
    writer.append([row(1)])
    writer.close()
    (segment,) = sealed_segments(spool)
    content = segment.path.read_bytes()
    deliver(tables, uri, spool)
    segment.path.write_bytes(content)
    writer = SegmentWriter(spool, "a")
    writer.append([row(2)])
    writer.close()

    assert deliver(tables, uri, spool) == Delivery(1, 1)

    assert logged(tables, uri) == ["r1", "r2"]
    assert sealed_segments(spool) == []


def test_deliveries_at_once_append_each_row_once(spool: Path, tables: Tables, uri: str) -> None:
    writer = SegmentWriter(spool, "a", max_bytes=50)
    done = threading.Event()
    numbers = iter(range(10_000))
    count = 0

    def write() -> None:
        nonlocal count
        while not done.is_set():
            writer.append([row(next(numbers))])
            count += 1
            time.sleep(0.005)

    writing = threading.Thread(target=write)
    writing.start()
    with ThreadPoolExecutor(3) as pool:
        deliveries = list(pool.map(lambda _: deliver(tables, uri, spool), range(9)))
    done.set()
    writing.join()
    writer.close()
    deliveries.append(deliver(tables, uri, spool))

    assert logged(tables, uri) == sorted(f"r{number}" for number in range(count))
    assert sum(delivery.rows for delivery in deliveries) == count


def test_replicas_deliver_side_by_side(spool: Path, tables: Tables, uri: str) -> None:
    writers = [SegmentWriter(spool, name) for name in ("a", "b")]
    for number, writer in enumerate(writers):
        writer.append([row(number)])
        writer.close()

    assert deliver(tables, uri, spool) == Delivery(2, 2)
    assert logged(tables, uri) == ["r0", "r1"]


def test_a_fresh_spool_is_another_replica(spool: Path, tables: Tables, uri: str) -> None:
    names = []
    for number in range(2):
        writer = SegmentWriter(spool, "a")
        names.append(writer.replica)
        writer.append([row(number)])
        writer.close()
        deliver(tables, uri, spool)
        for path in (spool / "a").iterdir():
            path.unlink()

    assert names[0] != names[1]
    assert logged(tables, uri) == ["r0", "r1"]


def test_numbers_go_on_after_a_restart(spool: Path, tables: Tables, uri: str) -> None:
    names = set()
    for number in range(3):
        writer = SegmentWriter(spool, "a")
        names.add(writer.replica)
        writer.append([row(number)])
        writer.close()
        deliver(tables, uri, spool)

    assert len(names) == 1
    assert logged(tables, uri) == ["r0", "r1", "r2"]


def test_one_name_has_one_writer(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_PATIENCE", 0.2)
    writer = SegmentWriter(spool, "a")

    with pytest.raises(ConfigurationError, match="Another process writes predictions"):
        SegmentWriter(spool, "a")

    writer.close()
    SegmentWriter(spool, "a").close()


def test_acknowledged_rows_survive_a_kill(spool: Path, tables: Tables, uri: str) -> None:
    acknowledged: list[str] = []
    for start in (0, 100_000):
        process = child("write", spool, start)
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.communicate()[0].split()

    deliver(tables, uri, spool)

    delivered = logged(tables, uri)
    assert set(acknowledged) <= set(delivered), "also those of a replica that never came back"
    assert len(delivered) == len(set(delivered))


@pytest.mark.parametrize("torn", [b'{"request_id": "r9"', b"\0" * 512, b'{"request_id": "r9"}'])
def test_what_was_never_acknowledged_is_dropped(spool: Path, tables: Tables, uri: str, torn: bytes) -> None:
    (spool / "a").mkdir(parents=True)
    whole = json.dumps(row(1)).encode() + b"\n"
    (spool / "a" / "000000000001.open").write_bytes(whole + torn)
    (spool / "a" / "000000000002.open").write_bytes(torn)

    SegmentWriter(spool, "a").close()

    assert deliver(tables, uri, spool) == Delivery(1, 1)
    assert logged(tables, uri) == ["r1"]


def test_a_full_disk_refuses_rows_and_keeps_the_others(spool: Path, tables: Tables, uri: str) -> None:
    out, err = child("limited", spool).communicate(timeout=60)

    assert "free space on that disk" in out, err
    accepted = [word for word in out.split() if word.startswith("r") and word[1:].isdigit()]
    assert accepted
    deliver(tables, uri, spool)
    assert logged(tables, uri) == sorted(accepted)


def test_rows_stay_while_the_table_cannot_be_written(spool: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    tables = Tables(str(tmp_path / "data"))
    writer = SegmentWriter(spool, "a")
    writer.append([row(1)])
    writer.close()

    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        deliver(tables, tables.uri("delays", "prediction_log"), spool)

    (tmp_path / "data").unlink()
    assert deliver(tables, tables.uri("delays", "prediction_log"), spool) == Delivery(1, 1)


# Programs that the tests above run in processes of their own.


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def write_forever(spool: str, start: str) -> None:
    writer = SegmentWriter(spool, "a", max_bytes=5_000)
    for number in range(int(start), int(start) + 100_000):
        writer.append([row(number)])
        say(f"r{number}")


def write_limited(spool: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
    writer = SegmentWriter(spool, "a")
    for number in range(1_000):
        try:
            writer.append([row(number)])
            say(f"r{number}")
        except StoreUnavailableError as error:
            say(error)
            break


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    {"write": write_forever, "limited": write_limited}[program](*arguments)
