"""Layouts of our own tables: a number for each, and the steps that lead from an older one to this package's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_provider.core.names import Table
from mlops_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from deltalake import DeltaTable

_MARK = re.compile(r"mlops layout (\d+)")


@dataclass(frozen=True, slots=True)
class Step:
    """
    What leads to one layout.

    :param table: Table that it changes; others only get the number.
    :param does: What it does, in words.
    :param apply: Does it, to the newest version of the table; old versions stay as they are.
    """

    table: str
    does: str
    apply: Callable[[DeltaTable], None]


def renamed(before: str, after: str) -> Callable[[DeltaTable], None]:
    """Give a column another name, in one commit, streamed; nothing happens if it has it already."""

    def apply(handle: DeltaTable) -> None:
        import pyarrow as pa
        from deltalake import write_deltalake

        dataset = handle.to_pyarrow_dataset()
        if before not in dataset.schema.names:
            return
        names = [after if name == before else name for name in dataset.schema.names]
        schema = pa.schema([field.with_name(name) for field, name in zip(dataset.schema, names, strict=True)])
        batches = (batch.rename_columns(names) for batch in dataset.to_batches())
        write_deltalake(
            handle,
            pa.RecordBatchReader.from_batches(schema, batches),
            mode="overwrite",
            schema_mode="overwrite",
            partition_by=handle.metadata().partition_columns,
        )

    return apply


STEPS: tuple[Step, ...] = (
    Step(Table.PREDICTIONS, "column probability becomes prediction", renamed("probability", "prediction")),
)
"""The step at index n leads from layout n to n + 1. A new layout adds one at the end; a step may be repeated."""


def layout() -> int:
    """Number of this package's layout."""
    return len(STEPS)


def mark(number: int | None = None) -> str:
    """Description of a table of this layout; deltalake takes no properties of others' when it makes a table."""
    return f"mlops layout {layout() if number is None else number}"


def layout_of(handle: DeltaTable) -> int:
    """Layout of a table; 0 if it names none."""
    found = _MARK.fullmatch(handle.metadata().description or "")
    return int(found[1]) if found else 0


def pending(uri: str, handle: DeltaTable) -> list[Step]:
    """
    Steps that a table still needs.

    :raises ConfigurationError: A newer package made it. Not retried.
    """
    found = layout_of(handle)
    if found > layout():
        raise ConfigurationError(
            f"{uri} has layout {found}; this package reads {layout()}. Install the package version that wrote it."
        )
    return [step for step in STEPS[found:] if step.table == uri.rpartition("/")[2]]


def require_current(uri: str, handle: DeltaTable) -> None:
    """
    Keep away from a table that has to be upgraded first, or that a newer package made.

    :raises ConfigurationError: It is one. Not retried.
    """
    if steps := pending(uri, handle):
        raise ConfigurationError(
            f"{uri} has layout {layout_of(handle)}; this package reads {layout()}, in which "
            f"{'; '.join(step.does for step in steps)}. Upgrade it: mlops upgrade (--dry-run tells what would be done)."
        )
