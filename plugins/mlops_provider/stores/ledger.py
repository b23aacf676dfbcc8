"""
The ledger: what was decided, by whom, on what. Append-only and hash-chained, in SQLite or Postgres.

Writers queue for one lock, so the chain has neither gaps nor retry storms; UNIQUE columns and triggers hold the rules
for whoever does not queue.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mlops_provider.core.evidence import (
    IMPORTED_RECORD,
    Record,
    canonical,
    digest_of,
    first_break,
    following,
    original,
)
from mlops_provider.core.names import Kind
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import ConcurrentWriteError, EvidenceError
from mlops_provider.stores import replicas
from mlops_provider.stores.database import Database
from mlops_provider.stores.ledger_schema import found_version, grant, prepare, records, refuse_newer
from mlops_provider.stores.replicas import Replica

_ATTEMPTS = 5
_PAGE = 500
"""Records held in memory while the chain is verified."""


class Ledger:
    """
    One ledger. Connects, and makes its tables, on first use.

    :param url: ``sqlite:////folder/ledger.db`` or ``postgresql://user:password@host/database``.

    Every method raises ``StoreUnavailableError`` (retried) if the database is away, and ``EvidenceError`` (not
    retried) if what it holds was not written by this package.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def _connected(self) -> Database:
        """The database, whatever its schema."""
        return Database(self.url)

    @cached_property
    def _database(self) -> Database:
        prepare(self._connected)
        return self._connected

    def grant(self, role: str) -> None:
        """
        Let a role of Postgres read and append, and nothing else.

        :raises ConfigurationError: Not on Postgres, no such role, or not the owner's login. Not retried.
        """
        grant(self._database, role)

    def append(
        self,
        kind: str,
        model: str,
        payload: Mapping[str, Any],
        *,
        key: str | None = None,
        actor: str = "",
        as_of: datetime | str | None = None,
    ) -> Record:
        """
        Append a record; if *kind* already has one under *key*, return that one instead.

        :param payload: What is recorded; JSON types only, no NaN.
        :param key: What makes it unique within its kind; None if it may repeat.
        :param actor: Person or task that caused it.
        :param as_of: Data time it speaks about.
        """
        return self._append(kind, model, payload, key, actor, as_of)[0]

    def decide_once(
        self,
        kind: str,
        model: str,
        key: str,
        compute: Callable[[], Mapping[str, Any]],
        *,
        inputs: Mapping[str, Any] | None = None,
        actor: str = "",
        as_of: datetime | str | None = None,
    ) -> Record:
        """
        Return the record under *key*; if there is none, compute it. Whoever records first wins.

        :param inputs: What *compute* reads, JSON types. The newest record under *key* counts only if it was computed
            from equal inputs; else a further one is made, see :meth:`decided`.
        """
        if inputs is None:
            return self.find(kind, key) or self.append(kind, model, compute(), key=key, actor=actor, as_of=as_of)
        before, read = self._decided(kind, key), digest_of(inputs)
        if before and str(before[-1].key).endswith(f":{read}"):
            return before[-1]
        # The count tells inputs that came back apart from those of the first time: the newest record is what holds.
        key = f"{key}:{len(before)}:{read}"
        return self.append(kind, model, compute(), key=key, actor=actor, as_of=as_of)

    def decided(self, kind: str, key: str) -> Record | None:
        """Newest record that :meth:`decide_once` made under *key*, whatever its inputs were."""
        return next(iter(self._decided(kind, key)[-1:]), None)

    def import_record(self, record: Record, *, source: str, actor: str = "") -> Record:
        """
        Append a record of another ledger, whole and under its own ID; once, however often it is repeated.

        :param record: The record as it stands there; :meth:`get` gives it back unchanged.
        :param source: Environment whose ledger it comes from.
        :raises EvidenceError: Its content does not match its digest, or another record has its ID. Not retried.
        """
        if record.digest != record.expected_digest:
            raise EvidenceError(
                f"Record {record.record_id!r} ({record.kind} of {record.model}) of {source} was changed after it was "
                "written: its content does not match its digest."
            )
        about = {"from": source, IMPORTED_RECORD: record.as_json()}
        # A ledger that was restored from a backup of *source* holds it as its own.
        found = self._first(records.c.record_id == record.record_id)
        if found is None:
            found, _ = self._append(
                Kind.IMPORT, record.model, about, record.record_id, actor, record.as_of, record_id=record.record_id
            )
        if original(found) != record:
            raise EvidenceError(
                f"The ledger at {self._database.shown} holds another record {record.record_id!r} than {source}."
            )
        return found

    @property
    def identity(self) -> str | None:
        """
        Digest that tells this ledger from every other: of the record that made it a copy, else of its first one.

        None while there is none.
        """
        begun = self._first(records.c.kind == str(Kind.COPY)) or self._first(records.c.seq == 1)
        return begun.digest if begun else None

    def holds(self, record: Record) -> bool:
        """Whether this very record is one of its own, and was not imported."""
        return self._first(records.c.record_id == record.record_id) == record

    @property
    def schema_version(self) -> int | None:
        """Schema of what is there; None if nothing is."""
        return found_version(self._connected)

    def find(self, kind: str, key: str) -> Record | None:
        """The record of *kind* under *key*."""
        return self._first(records.c.kind == str(kind), records.c.key == key)

    def get(self, record_id: str) -> Record:
        """
        The record with this ID; one that was imported, as it stood in its own ledger.

        :raises EvidenceError: There is none. Not retried.
        """
        found = self._first(records.c.record_id == record_id)
        if found is None:
            raise EvidenceError(
                f"The ledger at {self._database.shown} has no record {record_id!r}. Is it another ledger?"
            )
        return original(found)

    def latest(self, kind: str, model: str) -> Record | None:
        """Newest record of *kind* about *model*."""
        return self._first(records.c.kind == str(kind), records.c.model == model)

    def history(self, kind: str, model: str, limit: int | None = None) -> list[Record]:
        """Records of *kind* about *model*, oldest first; only the newest *limit* if given."""
        return self._all(records.c.kind == str(kind), records.c.model == model, limit=limit)

    def records(self, model: str | None = None, limit: int | None = None) -> list[Record]:
        """Records of every kind, oldest first; about one *model* and only the newest *limit* if given."""
        return self._all(*([] if model is None else [records.c.model == model]), limit=limit)

    def models(self, besides: Sequence[str] = ()) -> list[str]:
        """Names of all models that have records of other kinds than *besides*."""
        about = sa.select(records.c.model).where(records.c.kind.not_in(list(map(str, besides)))).distinct()
        with self._database.reading() as connection:
            return sorted(connection.scalars(about))

    def head(self) -> Record | None:
        """Newest record of the chain."""
        return self._first()

    def verify(self) -> tuple[Record, str] | None:
        """Return the first record at which the chain does not hold, and why; None if it holds."""
        return chain_break(self._database)

    def everything(self, after: int = 0) -> Iterator[Record]:
        """
        Every record behind position *after*, oldest first, as one moment had them; only some are held in memory.

        The ledger may be of an older schema.

        :raises EvidenceError: A newer package made it. Not retried.
        """
        refuse_newer(self._connected)
        if self.schema_version is None:
            return
        with self._connected.reading() as connection:
            wanted = sa.select(records).where(records.c.seq > after).order_by(records.c.seq)
            yield from map(_record, connection.execution_options(yield_per=_PAGE).execute(wanted))

    def restore(self, kept: Iterable[Record]) -> int:
        """
        Fill an empty ledger with the records of another one, all or none; the chain stays as it was.

        :return: How many there are.
        :raises EvidenceError: The ledger holds records already, or the chain of *kept* breaks. Not retried.
        """
        count = 0

        def inserted(connection: sa.Connection) -> Iterator[Record]:
            nonlocal count
            for record in kept:
                connection.execute(sa.insert(records).values(record.as_json() | {"payload": canonical(record.payload)}))
                count += 1
                yield record

        with self._database.writing(queued=True) as connection:
            if _newest(connection) is not None:
                raise EvidenceError(f"The ledger at {self._database.shown} is not empty: records are never replaced.")
            if broken := first_break(inserted(connection)):
                record, reason = broken
                raise EvidenceError(f"The chain breaks at record {record.seq} ({record.record_id}): {reason}.")
        return count

    def traffic(self, model: str) -> Traffic | None:
        """Desired traffic of *model* now; None before its first rollout."""
        found = self.latest(Kind.TRAFFIC, model)
        return Traffic.from_json(found.payload) if found else None

    def traffic_history(self, model: str) -> list[Traffic]:
        """Every traffic record of *model*, oldest first."""
        return [Traffic.from_json(record.payload) for record in self.history(Kind.TRAFFIC, model)]

    def propose_traffic(
        self,
        model: str,
        split: Mapping[str, int],
        *,
        settled: bool,
        expected_generation: int,
        reason: str = "",
        shadow: Sequence[str] = (),
        actor: str = "",
        origin: str = "",
        strategy: str = "",
        as_of: datetime | str | None = None,
    ) -> Traffic:
        """
        Make *split* the desired traffic, if *expected_generation* is still the newest one.

        :param split: Version to percent, 100 in all.
        :param expected_generation: Generation this proposal was decided on; 0 before the first.
        :param shadow: Versions with 0 percent that score what others answered.
        :param origin: Key of the proposing task; its retry gets the record of its first try.
        :raises ConcurrentWriteError: Somebody else moved traffic meanwhile. Retried, having read again.
        """
        if expected_generation and self.find(Kind.TRAFFIC, f"{model}:{expected_generation}") is None:
            raise ValueError(f"{model!r} has no generation {expected_generation} to follow.")
        traffic = Traffic(model, expected_generation + 1, split, settled, reason, tuple(shadow))
        payload = {**traffic.as_json(), "strategy": strategy, "origin": origin}
        key = f"{model}:{traffic.generation}"
        record, ours = self._append(Kind.TRAFFIC, model, payload, key, actor, as_of)
        if ours or (origin and record.payload == payload):
            return traffic
        by = record.actor or record.payload.get("origin") or "somebody else"
        raise ConcurrentWriteError(
            f"Generation {traffic.generation} of {model!r} was taken by {by} meanwhile: "
            f"{record.payload.get('reason') or 'no reason given'}. Read the traffic again and decide again."
        )

    def heartbeat(
        self, replica: str, model: str, *, url: str, generation: int, versions: Sequence[str], error: str = ""
    ) -> None:
        """Say what a model server serves; the last word counts."""
        with self._database.writing(queued=False) as connection:
            replicas.note(connection, replica, model, url=url, generation=generation, versions=versions, error=error)

    def replicas(self, model: str, alive_within_seconds: float = 15.0) -> list[Replica]:
        """Model servers heard of in the last *alive_within_seconds*, by name."""
        with self._database.reading() as connection:
            return replicas.alive(connection, model, alive_within_seconds)

    def close(self) -> None:
        """Close idle connections. The next call opens new ones."""
        self._connected.close()

    def _append(
        self,
        kind: str,
        model: str,
        payload: Mapping[str, Any],
        key: str | None,
        actor: str,
        as_of: datetime | str | None,
        *,
        record_id: str | None = None,
    ) -> tuple[Record, bool]:
        """Append; return the record under *key* and whether it is the one appended now."""
        text = canonical(payload)
        about: dict[str, Any] = {
            "kind": str(kind),
            "model": model,
            "key": key,
            "payload": json.loads(text),
            "actor": actor,
            "as_of": as_of.isoformat() if isinstance(as_of, datetime) else as_of,
        }
        for _ in range(_ATTEMPTS):
            try:
                with self._database.writing(queued=True) as connection:
                    if key is not None and (
                        found := _newest(connection, records.c.kind == str(kind), records.c.key == key)
                    ):
                        return found, False
                    now = datetime.now(UTC).isoformat(timespec="microseconds")
                    record = following(
                        _newest(connection), record_id=record_id or uuid.uuid4().hex, recorded_at=now, **about
                    )
                    connection.execute(sa.insert(records).values(record.as_json() | {"payload": text}))
                return record, True
            except IntegrityError:
                continue  # a writer that does not queue took this place in the chain
        raise ConcurrentWriteError(
            f"The ledger at {self._database.shown} was busy: {_ATTEMPTS} appends were overtaken."
        )

    def _decided(self, kind: str, key: str) -> list[Record]:
        """Records made under *key* with inputs, oldest first."""
        found = self._all(records.c.kind == str(kind), records.c.key.startswith(f"{key}:", autoescape=True), limit=None)
        return [record for record in found if str(record.key).startswith(f"{key}:")]  # LIKE of SQLite ignores case

    def _first(self, *conditions: sa.ColumnElement[bool]) -> Record | None:
        with self._database.reading() as connection:
            return _newest(connection, *conditions)

    def _all(self, *conditions: sa.ColumnElement[bool], limit: int | None) -> list[Record]:
        newest = sa.select(records).where(*conditions).order_by(records.c.seq.desc()).limit(limit)
        with self._database.reading() as connection:
            return [_record(row) for row in connection.execute(newest)][::-1]


def chain_break(database: Database) -> tuple[Record, str] | None:
    """Return the first record at which the chain does not hold, and why; None if it holds. Also of an older schema."""
    with database.reading() as connection:
        rows = connection.execution_options(yield_per=_PAGE).execute(sa.select(records).order_by(records.c.seq))
        return first_break(_record(row, lenient=True) for row in rows)


def _newest(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Record | None:
    row = connection.execute(sa.select(records).where(*conditions).order_by(records.c.seq.desc()).limit(1)).first()
    return _record(row) if row else None


def _record(row: sa.Row[Any], *, lenient: bool = False) -> Record:
    """Read a row; a *lenient* reader takes a payload that is no JSON as it is, for the digest to disagree."""
    fields = row._asdict()
    try:
        fields["payload"] = json.loads(fields["payload"])
    except ValueError as error:
        if not lenient:
            raise EvidenceError(f"Record {row.seq} of the ledger is unreadable: it was changed by hand.") from error
    return Record(**fields)
