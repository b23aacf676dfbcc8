"""Prediction segments of replicas whose folder no task can see: shipped to S3, delivered from there exactly once."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.exceptions import StoreUnavailableError
from mlops_provider.steps import monitor
from mlops_provider.stores import segments as stored
from mlops_provider.stores.predictions import deliver, without_gaps
from mlops_provider.stores.segments import Segment, SegmentWriter, sealed_segments, ship_abandoned, shipped_segments
from mlops_provider.stores.tables import Tables
from support.aws import Aws, proxy
from support.stack import wait_until
from support.tiny import MODEL, Place, origin


def rows(first: int, count: int = 3) -> list[dict[str, object]]:
    return [{"request_id": f"r{number}", "row": 0, "prediction": 0.5} for number in range(first, first + count)]


def test_what_replicas_ship_is_delivered_once_each(place: Place, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = f"s3://{aws.bucket()}/spool"
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLOPS_SPOOL_URI", spool)
    writers = [
        SegmentWriter(place.folder / f"pod-{number}", "server", max_bytes=1, ship_to=f"{spool}/{MODEL}", s3=aws.s3())
        for number in range(2)
    ]
    for first in (0, 3):
        for number, writer in enumerate(writers):
            writer.append(rows(100 * number + first))
    for writer in writers:
        writer.close()
    assert len(shipped_segments(f"{spool}/{MODEL}", aws.s3())) == 4
    assert not sealed_segments(place.folder / "pod-0")

    first = monitor.deliver_predictions(place.spec(), place.stores(), origin=origin("deliver_predictions"))
    again = monitor.deliver_predictions(place.spec(), place.stores(), origin=origin("deliver_predictions", "run-2"))

    assert (first, again) == ({"rows": 12, "segments": 4}, {"rows": 0, "segments": 0})
    logged = place.stores().tables.read(place.table(Table.PREDICTION_LOG))
    assert len(logged) == logged["request_id"].nunique() == 12
    assert shipped_segments(f"{spool}/{MODEL}", aws.s3()) == []
    assert len(place.stores().ledger.history(Kind.DELIVERY, MODEL)) == 1


def test_a_segment_that_was_delivered_and_not_removed_is_not_delivered_again(tmp_path: Path, aws: Aws) -> None:
    spool, s3, tables = f"s3://{aws.bucket()}/spool", aws.s3(), Tables(str(tmp_path / "tables"))
    writer = SegmentWriter(tmp_path / "pod", "server", max_bytes=1, ship_to=spool, s3=s3)
    writer.append(rows(0))
    writer.close()
    [segment] = shipped_segments(spool, s3)
    content = segment.read()

    assert deliver(tables, tables.uri("m", "log"), spool, s3).rows == 3
    s3.write(segment.uri, content)  # as if the task had been killed before it removed it

    assert deliver(tables, tables.uri("m", "log"), spool, s3).rows == 0
    assert shipped_segments(spool, s3) == []


def test_while_s3_is_away_segments_stay_and_follow_in_their_order(tmp_path: Path, aws: Aws) -> None:
    spool = f"s3://{aws.bucket()}/spool"
    with proxy(aws) as (url, weather):
        weather.set(unavailable=10_000, method="PUT")
        writer = SegmentWriter(tmp_path, "server", max_bytes=1, ship_to=spool, s3=aws.s3(url))
        writer.append(rows(0))
        writer.append(rows(3))
        wait_until(lambda: weather.turned_away > 3, "a try to ship")
        assert len(sealed_segments(tmp_path)) == 2
        weather.set(unavailable=0)
        wait_until(lambda: not sealed_segments(tmp_path), "the segments to be shipped")
        writer.close()

    assert [segment.sequence for segment in shipped_segments(spool, aws.s3())] == [1, 2]


def left_behind(folder: Path, name: str, *batches: int, max_bytes: int = 400) -> None:
    """What a replica leaves that was killed and never comes back: sealed segments, and one that was still written."""
    made = folder.with_name(f"made-{name}")
    writer = SegmentWriter(made, name, max_bytes=max_bytes)
    for first in batches:
        writer.append(rows(first, 2))
    shutil.copytree(made / name, folder / name)
    writer.close()


def test_what_a_lost_replica_did_not_ship_is_shipped_by_those_beside_it(
    tmp_path: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, s3, pods = f"s3://{aws.bucket()}/spool", aws.s3(), tmp_path / "pods"
    tables = Tables(str(tmp_path / "tables"))
    uri = tables.uri("m", "log")
    pods.mkdir()
    left_behind(pods, "lost", 0, 2, 4, 6, 8)
    alive = SegmentWriter(pods, "alive")
    alive.append(rows(100))

    writers = [SegmentWriter(pods, name, ship_to=spool, s3=s3) for name in ("one", "other")]
    wait_until(lambda: not any(path.suffix == ".open" for path in (pods / "lost").iterdir()), "the last one's sealing")
    wait_until(lambda: not sealed_segments(pods), "the lost replica's segments to be shipped")

    assert list((pods / "alive").glob("*.open"))
    assert deliver(tables, uri, spool, s3).rows == 10
    for writer in (*writers, alive):
        writer.close()
    assert deliver(tables, uri, spool, s3).rows == 0
    assert tables.read(uri)["request_id"].is_unique


def test_what_a_lost_replica_did_not_ship_is_delivered_by_the_task_if_it_sees_the_folder(
    place: Place, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLOPS_SPOOL_URI", f"s3://{aws.bucket()}/spool")
    monkeypatch.setenv("MLOPS_SPOOL_DIR", str(place.folder / "spool"))
    (place.folder / "spool" / MODEL).mkdir(parents=True)
    left_behind(place.folder / "spool" / MODEL, "lost", 0, 2)

    first = monitor.deliver_predictions(place.spec(), place.stores(), origin=origin("deliver_predictions"))
    again = monitor.deliver_predictions(place.spec(), place.stores(), origin=origin("deliver_predictions", "run-2"))

    assert (first["rows"], again["rows"]) == (4, 0)


def test_a_replica_that_starts_again_while_others_move_what_it_left_gets_in(
    tmp_path: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, pods, tables = f"s3://{aws.bucket()}/spool", tmp_path / "pods", Tables(str(tmp_path / "tables"))
    pods.mkdir()
    left_behind(pods, "lost", *range(0, 12, 2), max_bytes=1)
    with proxy(aws) as (url, weather):
        weather.set(seconds=1.5, method="PUT")
        moving = threading.Thread(target=ship_abandoned, args=(pods, spool, aws.s3(url)))
        moving.start()
        wait_until(lambda: (pods / "lost" / "lock").read_bytes() == b"m", "the move to begin")
        with monkeypatch.context() as hurry:
            hurry.setattr(stored, "_PATIENCE_WITH_MOVERS", 0.0)
            with pytest.raises(StoreUnavailableError, match="is being moved by another process"):
                SegmentWriter(pods, "lost")

        monkeypatch.setattr(stored, "_PATIENCE", 0.0)
        writer = SegmentWriter(pods, "lost", ship_to=spool, s3=aws.s3())
        assert len(sealed_segments(pods)) > 1, "it had not to wait for all"
        moving.join()
        writer.append(rows(100))
        writer.close()

    uri = tables.uri("m", "log")
    assert deliver(tables, uri, spool, aws.s3()).rows == 15
    assert tables.read(uri)["request_id"].is_unique


def test_a_replica_that_ends_moves_what_is_its_own_and_leaves_what_others_left(tmp_path: Path, aws: Aws) -> None:
    spool, pods = f"s3://{aws.bucket()}/spool", tmp_path / "pods"
    pods.mkdir()
    left_behind(pods, "lost", *range(0, 40, 2), max_bytes=1)
    with proxy(aws) as (url, weather):
        weather.set(seconds=0.2, method="PUT")
        writer = SegmentWriter(pods, "ends", max_seconds=600, ship_to=spool, s3=aws.s3(url))
        writer.append(rows(100))
        wait_until(lambda: any("/spool/lost-" in request for request in weather.seen), "the move to begin")
        writer.close()

    moved = [segment.replica for segment in shipped_segments(spool, aws.s3())]
    left = [segment.path.parent.name for segment in sealed_segments(pods)]
    assert moved.count(writer.replica) == 1
    assert set(left) == {"lost"}
    assert len(left) + len(moved) - 1 == 20


def test_a_folder_that_cannot_be_used_keeps_nobody_from_the_others(
    tmp_path: Path, aws: Aws, caplog: pytest.LogCaptureFixture
) -> None:
    spool, s3, pods = f"s3://{aws.bucket()}/spool", aws.s3(), tmp_path / "pods"
    tables = Tables(str(tmp_path / "tables"))
    pods.mkdir()
    for name in ("broken", "lost"):
        left_behind(pods, name, 0)
    (pods / "broken" / "lock").unlink()
    (pods / "broken" / "lock").mkdir()

    assert deliver(tables, tables.uri("m", "log"), spool, s3, left_in=pods).rows == 2
    assert f"What was left in {pods / 'broken'} stays there for now" in caplog.text
    assert [path.suffix for path in (pods / "broken").glob("0*")]

    left_behind(pods, "other", 10)
    assert deliver(tables, tables.uri("m", "near"), pods).rows == 2, "also where segments stay in their folder"


def test_what_came_while_a_listing_went_on_waits_for_what_it_missed(tmp_path: Path) -> None:
    segments = [Segment(tmp_path / f"{number}.sealed", "a", number) for number in range(1, 5)]
    listings = [[segments[0], segments[2]], segments]  # the first one missed the second segment

    assert without_gaps(lambda: listings.pop(0)) == segments[:3]
