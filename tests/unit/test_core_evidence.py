from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.core.evidence import GENESIS, Record, canonical, digest, first_break

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(st.text(), JSON, max_size=4)


def chain(*payloads: dict[str, Any]) -> list[Record]:
    records: list[Record] = []
    for seq, payload in enumerate(payloads, 1):
        previous = records[-1].digest if records else GENESIS
        fields: dict[str, Any] = {
            "seq": seq,
            "record_id": f"id-{seq}",
            "kind": "gate",
            "model": "m",
            "key": None,
            "payload": payload,
            "actor": "a",
            "as_of": None,
            "recorded_at": "2026-11-23T00:00:00+00:00",
        }
        records.append(Record(**fields, previous=previous, digest=digest(previous, **fields)))
    return records


@given(st.lists(PAYLOADS, max_size=5))
def test_an_untouched_chain_holds_also_after_storage(payloads: list[dict[str, Any]]) -> None:
    stored = [Record.from_json(json.loads(json.dumps(record.as_json()))) for record in chain(*payloads)]

    assert first_break(stored) is None


@given(
    payloads=st.lists(PAYLOADS, min_size=1, max_size=5),
    place=st.integers(0, 4),
    change=st.sampled_from(
        [
            {"kind": "drift"},
            {"record_id": "other"},
            {"model": "n"},
            {"key": "k"},
            {"actor": "b"},
            {"as_of": "2013-02-01"},
            {"recorded_at": "2026-11-24T00:00:00+00:00"},
            {"payload": {"changed": "by hand"}},
            {"digest": "f" * 64},
        ]
    ),
)
def test_any_changed_field_is_found_where_it_is(
    payloads: list[dict[str, Any]], place: int, change: dict[str, Any]
) -> None:
    records = chain(*payloads)
    place = place % len(records)
    records[place] = replace(records[place], **change)

    broken = first_break(records)

    assert broken is not None
    assert broken[0] == records[place]
    assert "changed after it was written" in broken[1]


@given(st.integers(2, 6), st.data())
def test_a_removed_record_is_noticed_by_the_next(count: int, data: st.DataObject) -> None:
    records = chain(*({"n": n} for n in range(count)))
    removed = data.draw(st.integers(0, count - 2))
    after = records[removed + 1]
    del records[removed]

    broken = first_break(records)

    assert broken is not None
    assert broken[0] == after
    assert ("the first record" if removed == 0 else f"record {removed}") in broken[1]


def test_a_changed_order_is_noticed() -> None:
    records = chain({"n": 1}, {"n": 2})

    broken = first_break(records[::-1])
    repeated = first_break([records[0], replace(records[1], seq=1)])

    assert broken is not None
    assert broken[0] == records[1]
    assert repeated is not None
    assert "the order was changed" in repeated[1]


def test_a_record_rewritten_with_a_fresh_digest_breaks_the_next_one() -> None:
    records = chain({"n": 1}, {"n": 2}, {"n": 3})
    forged = replace(records[1], payload={"n": 9})
    records[1] = replace(forged, digest=forged.expected_digest)

    broken = first_break(records)

    assert broken is not None
    assert broken[0] == records[2]


@given(PAYLOADS)
def test_canonical_text_is_a_fixed_point(payload: dict[str, Any]) -> None:
    text = canonical(payload)

    assert canonical(json.loads(text)) == text
    assert text.isascii()


def test_canonical_text_ignores_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": [1.0, None]}) == '{"a":[1.0,null],"b":1}'


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nan_is_no_evidence(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"auc": number})


def test_keys_that_would_come_back_in_another_order_are_refused() -> None:
    with pytest.raises(ValueError, match="keys must be texts"):
        canonical({9: "a", 10: "b"})


def test_types_json_does_not_have_are_refused() -> None:
    with pytest.raises(TypeError):
        canonical({"at": datetime.now(tz=UTC)})
