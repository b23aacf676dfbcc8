"""Prediction segments of replicas whose folder no task can see: shipped to S3, delivered from there exactly once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.steps import monitor
from mlops_provider.stores.predictions import deliver
from mlops_provider.stores.segments import SegmentWriter, sealed_segments, shipped_segments
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
