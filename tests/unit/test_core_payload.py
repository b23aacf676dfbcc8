from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import EvidenceError


@dataclass(frozen=True, slots=True)
class Inner(Payload):
    share: float

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError("a share is at most 1.")


@dataclass(frozen=True, slots=True)
class Outer(Payload):
    name: str
    count: int
    good: bool
    mode: Literal["a", "b"]
    inner: Inner
    many: tuple[Inner, ...]
    named: Mapping[str, Inner]
    free: Any
    maybe: Inner | None = None
    listed: tuple[str, ...] = field(default_factory=tuple)


def outer(**changes: Any) -> Outer:
    given: dict[str, Any] = {
        "name": "n",
        "count": 3,
        "good": True,
        "mode": "a",
        "inner": Inner(0.5),
        "many": (Inner(0.1), Inner(0.2)),
        "named": {"x": Inner(1.0)},
        "free": {"y": [1]},
    }
    return Outer(**{**given, **changes})


@pytest.mark.parametrize("payload", [outer(), outer(maybe=Inner(0.3), listed=("a",))])
def test_a_payload_comes_back_equal_from_json(payload: Outer) -> None:
    stored = json.dumps(payload.as_json())

    assert Outer.from_json(json.loads(stored)) == payload


def test_numbers_of_numpy_become_plain_numbers() -> None:
    written = outer(count=np.int64(4), good=np.bool_(True), inner=Inner(np.float64(0.25))).as_json()

    assert json.dumps([written["count"], written["good"], written["inner"]]) == '[4, true, {"share": 0.25}]'


def test_a_whole_number_in_a_float_field_is_written_as_it_is_read_back() -> None:
    payload = Inner(1)

    assert json.dumps(payload.as_json()) == json.dumps(Inner.from_json(payload.as_json()).as_json())


def test_unknown_fields_are_ignored_and_defaults_fill_in() -> None:
    stored = outer().as_json()
    del stored["maybe"], stored["listed"]

    assert Outer.from_json({**stored, "added_later": 1}) == outer()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "Outer.name: expected a text, got int."),
        ({"count": 1.5}, "Outer.count: expected a whole number, got float."),
        ({"count": True}, "Outer.count: expected a whole number, got bool."),
        ({"good": 1}, "Outer.good: expected true or false, got int."),
        ({"mode": "c"}, "Outer.mode: expected one of 'a', 'b', got str."),
        ({"inner": 3}, "Outer.inner: expected a mapping, got int."),
        ({"inner": {}}, "Outer.inner: share missing."),
        ({"inner": {"share": 2.0}}, "Outer.inner: a share is at most 1."),
        ({"many": "text"}, "Outer.many: expected a list, got str."),
        ({"many": [{"share": "high"}]}, "Outer.many[0].share: expected a number, got str."),
        ({"named": []}, "Outer.named: expected a mapping, got list."),
        ({"named": {"x": {"share": None}}}, "Outer.named['x'].share: expected a number, got NoneType."),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        Outer.from_json({**outer().as_json(), **change})

    assert str(caught.value) == f"Cannot read a stored Outer: {said}"
