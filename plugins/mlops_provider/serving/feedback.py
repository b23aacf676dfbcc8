"""What became of predictions, as callers tell it: read, checked, and worded for the log."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from mlops_provider.core.pseudonyms import Pseudonyms
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.serving.protocol import JSON, decoded, media_type
from mlops_provider.serving.refusal import RefusedRequestError, listed

MOST = 10_000
"""Outcomes of one request."""
AHEAD = timedelta(minutes=5)
"""How far clocks may differ: nothing is observed later than now."""
_FIELDS = frozenset({"request_id", "row", "keys", "outcome", "observed_at"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MOST_ROW = 2**31 - 1
_encode = msgspec.json.Encoder().encode_lines


def lines(body: bytes, content_type: str, policy: ServingPolicy, pseudonyms: Pseudonyms) -> tuple[bytes, int]:
    """
    Check ``{"outcomes": [...]}`` and write a line for each.

    :return: The lines, and how many there are.
    :raises RefusedRequestError: Anything in it is not as it should be; then none of it counts.
    """
    if media_type(content_type) != JSON:
        raise RefusedRequestError(f"The content type must be {JSON}.", 415)
    content = decoded(body)
    given = content.get("outcomes") if isinstance(content, dict) and len(content) == 1 else None
    if not isinstance(given, list) or not 1 <= len(given) <= MOST:
        raise RefusedRequestError(f'The body must look like {{"outcomes": [...]}}, with 1 to {MOST:,} of them.')
    now = datetime.now(UTC)
    return _encode([_line(number, each, policy, pseudonyms, now) for number, each in enumerate(given)]), len(given)


def _line(number: int, given: Any, policy: ServingPolicy, pseudonyms: Pseudonyms, now: datetime) -> dict[str, Any]:
    if not isinstance(given, dict) or not given.keys() <= _FIELDS:
        raise _wrong(number, f"it must be an object with some of {', '.join(sorted(_FIELDS))}")
    if ("request_id" in given) == ("keys" in given):
        raise _wrong(number, "it must name either request_id or keys")
    return {
        **(_by_request(number, given) if "request_id" in given else _by_keys(number, given, policy, pseudonyms)),
        "outcome": _outcome(number, given, policy),
        "observed_at": _observed(number, given, now).isoformat(),
        "received_at": now.isoformat(),
    }


def _by_request(number: int, given: Mapping[str, Any]) -> dict[str, Any]:
    name, row = given["request_id"], given.get("row", 0)
    if not isinstance(name, str) or not _REQUEST_ID.fullmatch(name):
        raise _wrong(number, "request_id must be 1 to 128 letters, digits or any of . _ : - characters")
    if type(row) is not int or not 0 <= row <= _MOST_ROW:
        raise _wrong(number, "row must be the number of a row of that request, from 0")
    return {"request_id": name, "row": row, "keys": None}


def _by_keys(number: int, given: Mapping[str, Any], policy: ServingPolicy, pseudonyms: Pseudonyms) -> dict[str, Any]:
    keys = given["keys"]
    if not policy.keys:
        raise _wrong(number, "this server does not know the model's keys; name the request_id")
    if not isinstance(keys, dict) or keys.keys() != set(policy.keys):
        raise _wrong(number, f"keys must be an object of {listed(policy.keys)}")
    if "row" in given:
        raise _wrong(number, "row belongs to a request_id")
    if any(type(cell) not in (str, int, float, bool) for cell in keys.values()):
        raise _wrong(number, "keys must hold texts, numbers or flags")
    return {"request_id": None, "row": None, "keys": pseudonyms.identity(policy.keys, keys)}


def _outcome(number: int, given: Mapping[str, Any], policy: ServingPolicy) -> float:
    outcome = given.get("outcome")
    if type(outcome) not in (int, float) or not math.isfinite(_float(outcome)):
        raise _wrong(number, "outcome must be a finite number")
    if policy.binary and outcome not in (0, 1):
        raise _wrong(number, "outcome must be 0 or 1")
    return _float(outcome)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _observed(number: int, given: Mapping[str, Any], now: datetime) -> datetime:
    if "observed_at" not in given:
        return now
    text: Any = given["observed_at"]
    try:
        observed = datetime.fromisoformat(text)
        observed = (observed if observed.tzinfo else observed.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(number, "observed_at must be a time such as 2013-01-31T06:00:00Z") from None
    if not datetime(1970, 1, 1, tzinfo=UTC) <= observed <= now + AHEAD:
        raise _wrong(number, "observed_at must lie between 1970 and now")
    return observed


def _wrong(number: int, what: str) -> RefusedRequestError:
    return RefusedRequestError(f"Outcome {number}: {what}.")
