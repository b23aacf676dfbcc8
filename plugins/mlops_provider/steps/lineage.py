"""Facts about tables: which version holds what, made from which, by whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.core import partitions

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.names import Kind
    from mlops_provider.core.origin import Origin
    from mlops_provider.core.references import TableRef
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores
    from mlops_provider.stores.tables import Written


def record_written(
    kind: Kind,
    spec: ModelSpec,
    stores: Stores,
    written: Written,
    *,
    origin: Origin,
    sources: Sequence[TableRef] = (),
    **more: Any,
) -> Record:
    """
    Record that a partition holds this content. A retry that wrote the same gets the record of the first try.

    :param sources: Tables it was made from.
    :param more: Further fields of the record, JSON types.
    """
    return stores.ledger.append(
        kind,
        spec.name,
        {**described(written), "from": [source.as_json() for source in sources], "origin": origin.key, **more},
        key=f"{origin.key}:{written.content}",
        actor=origin.actor,
        as_of=partitions.end(partition) if (partition := written.ref.partition) else None,
    )


def described(written: Written) -> dict[str, Any]:
    """Say what was written: table, version, partition, rows, content and whether it is new."""
    return {
        **written.ref.as_json(),
        "rows": written.rows,
        "content": written.content,
        "changed": written.changed,
    }
