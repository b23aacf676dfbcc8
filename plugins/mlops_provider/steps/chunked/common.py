"""What the chunks of every step have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlops_provider.adapters.expectations import Findings, Keys, Part
from mlops_provider.core.chunks import ChunkResult, Target, ranges
from mlops_provider.core.names import Kind
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import NothingToDo, PermanentError, StagedFilesGoneError
from mlops_provider.stores.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlops_provider.core.names import Table, Task
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


PLAN = "plan"
"""Field of a record: digest of the chunks that it was made of."""


def target(spec: ModelSpec, stores: Stores, table: Table, partition: str, origin: Origin) -> Target:
    """Where a run's chunks go. What others commit to the partition from now on wins over them."""
    uri = stores.tables.uri(spec.name, table)
    run = hashlib.sha256(f"{origin.dag_id}\0{origin.run_id}".encode()).hexdigest()[:12]
    return Target(uri, partition, stores.tables.replaced(uri, partition), run)


def cut(spec: ModelSpec, rows: int) -> list[tuple[int, int]]:
    """Stretches of ``chunk_rows`` rows; one of all rows if none is declared."""
    return ranges(rows, spec.chunk_rows or max(rows, 1))


def beside(target: Target, table: str, sequence: int) -> Target:
    """The same run's place beside another table."""
    return replace(target, table=table, sequence=sequence)


def in_order(chunks: Sequence[ChunkResult]) -> list[ChunkResult]:
    """The results in the order of their chunks, whatever the order in which they ended."""
    return sorted(chunks, key=lambda each: each.chunk.index)


def of_the_step(origin: Origin, step: Task) -> Origin:
    """The task that commits what the task of *origin* plans."""
    group = origin.task_id.rpartition(".")[0]
    return replace(origin, task_id=f"{group}.{step}" if group else str(step), map_index=-1)


def unless_done(
    stores: Stores,
    kind: Kind,
    spec: ModelSpec,
    origin: Origin,
    finish: Callable[[], TableRef],
    done: Callable[[Mapping[str, Any]], TableRef] = TableRef.from_json,
    *,
    plan: str,
) -> TableRef:
    """
    Finish a step; a retry that finds its files gone because its first try had ended gets what that one recorded.

    :param done: Takes the payload of the first try's record.
    :param plan: Digest of the chunks, which tells a retry from a task that was cleared after other chunks were refused.
    """
    try:
        return finish()
    except StagedFilesGoneError:
        said = [record for each in {kind, Kind.VALIDATION} for record in stores.ledger.history(each, spec.name)]
        ours = [record for record in said if record.payload["origin"] == origin.key]
        last = max(ours, key=lambda record: record.seq, default=None)
        if last is None or not last.payload.get("passed", True) or last.payload.get(PLAN) != plan:
            raise
        return done(last.payload)


@contextmanager
def cleared(*stagings: Staging) -> Iterator[None]:
    """Remove waiting files once they have been committed or will never be; a retry still finds them."""
    try:
        yield
    except (PermanentError, NothingToDo):
        for each in stagings:
            each.discard()
        raise
    for each in stagings:
        each.discard()


def keep(staging: Staging, found: Findings) -> str:
    """Write findings for the task that adds them up."""
    arrays: dict[str, NDArray[Any]] = {f"rows{number}": part.rows for number, part in found.parts.items()}
    for number, keys in found.keys.items():
        arrays |= {f"hashes{number}": keys.hashes, f"positions{number}": keys.positions}
    about = {
        "parts": {
            number: {
                "checked": part.checked,
                "met": part.met,
                "considered": part.considered,
                "breaking": part.breaking,
                "observed": part.observed,
            }
            for number, part in found.parts.items()
        },
        "keys": list(found.keys),
    }
    return staging.keep(arrays, about)


@dataclass(frozen=True, slots=True)
class Kept:
    """
    Findings that were kept in files; gone through one at a time, as often as it takes.

    :param files: Path and first row of each chunk.
    """

    staging: Staging
    files: Sequence[tuple[str, int]]

    def __iter__(self) -> Iterator[Findings]:
        for path, start in self.files:
            arrays, about = self.staging.kept(path)
            yield _findings(arrays, about, start)


def _findings(arrays: Mapping[str, Any], about: Mapping[str, Any], start: int) -> Findings:
    return Findings(
        start=start,
        parts={int(number): Part(**values, rows=arrays[f"rows{number}"]) for number, values in about["parts"].items()},
        keys={number: Keys(arrays[f"hashes{number}"], arrays[f"positions{number}"]) for number in about["keys"]},
    )
