"""The hash chain: each record's digest covers the one before it, so a change anywhere shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlops_provider.core.names import Kind
from mlops_provider.core.payload import Payload

GENESIS = "0" * 64
"""What the first record names as the digest before it."""


def canonical(payload: object) -> str:
    """
    Write JSON the one way that is hashed: sorted keys, no spaces, ASCII only, no NaN.

    Reading the text back and writing it again gives the same text.

    :raises TypeError: The payload holds something JSON has no type for.
    :raises ValueError: It holds NaN or infinity, or keys that would not come back in the same order.
    """
    text = _dumps(payload)
    if _dumps(json.loads(text)) != text:
        raise ValueError("The payload would not survive storage: its keys must be texts.")
    return text


def digest_of(payload: object) -> str:
    """Return the SHA-256, in hex, of a payload: equal payloads have equal digests, in every process."""
    return hashlib.sha256(canonical(payload).encode()).hexdigest()


def _dumps(payload: object) -> str:
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(
    previous: str,
    *,
    seq: int,
    record_id: str,
    kind: str,
    model: str,
    key: str | None,
    payload: Mapping[str, Any],
    actor: str,
    as_of: str | None,
    recorded_at: str,
) -> str:
    """Return the SHA-256, in hex, over the digest before and every field of a record."""
    fields = {
        "seq": seq,
        "record_id": record_id,
        "kind": kind,
        "model": model,
        "key": key,
        "payload": payload,
        "actor": actor,
        "as_of": as_of,
        "recorded_at": recorded_at,
    }
    return hashlib.sha256((previous + canonical(fields)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Record(Payload):
    """
    One entry of the ledger.

    :param seq: Position in the chain, rising.
    :param key: What makes the record unique within its kind; None if it may repeat.
    :param actor: Person or task that caused it.
    :param as_of: Data time it speaks about, ISO 8601; None if it has none.
    :param recorded_at: Wall clock when it was written, ISO 8601.
    :param previous: Digest of the record before, or ``GENESIS``.
    """

    seq: int
    record_id: str
    kind: str
    model: str
    key: str | None
    payload: Mapping[str, Any]
    actor: str
    as_of: str | None
    recorded_at: str
    previous: str
    digest: str

    @property
    def expected_digest(self) -> str:
        """The digest this record must carry if none of its fields was changed."""
        return digest(
            self.previous,
            seq=self.seq,
            record_id=self.record_id,
            kind=self.kind,
            model=self.model,
            key=self.key,
            payload=self.payload,
            actor=self.actor,
            as_of=self.as_of,
            recorded_at=self.recorded_at,
        )


def following(
    head: Record | None,
    *,
    record_id: str,
    kind: str,
    model: str,
    key: str | None,
    payload: Mapping[str, Any],
    actor: str,
    as_of: str | None,
    recorded_at: str,
) -> Record:
    """Make the record that continues the chain after *head* (None: it is the first)."""
    fields: dict[str, Any] = {
        "seq": head.seq + 1 if head else 1,
        "record_id": record_id,
        "kind": kind,
        "model": model,
        "key": key,
        "payload": payload,
        "actor": actor,
        "as_of": as_of,
        "recorded_at": recorded_at,
    }
    previous = head.digest if head else GENESIS
    return Record(**fields, previous=previous, digest=digest(previous, **fields))


IMPORTED_RECORD = "record"
"""Field of an imported record's payload that holds the record as it stood in its own ledger."""


def original(record: Record) -> Record:
    """
    Unwrap a record that was imported from another environment's ledger; any other is its own original.

    :raises EvidenceError: What it holds is no record. Not retried.
    """
    return Record.from_json(record.payload[IMPORTED_RECORD]) if record.kind == Kind.IMPORT else record


def first_break(records: Iterable[Record]) -> tuple[Record, str] | None:
    """
    Return the first record at which the chain does not hold, and why; None if it holds.

    :param records: The whole ledger, oldest first. Streamed: only one record is held at a time.
    """
    before: Record | None = None
    for record in records:
        if reason := break_at(record, before):
            return record, reason
        before = record
    return None


def break_at(record: Record, before: Record | None) -> str | None:
    """Say why *record* does not continue the chain after *before* (None: it is the first); None if it does."""
    seq, previous = (before.seq, before.digest) if before else (0, GENESIS)
    if record.seq <= seq:
        return f"it stands at position {record.seq}, after position {seq}: the order was changed"
    if record.previous != previous:
        where = f"record {seq}" if before else "the first record"
        return f"it does not follow {where}: a record before it was removed, inserted or changed"
    if record.digest != record.expected_digest:
        return "its content does not match its digest: it was changed after it was written"
    return None
