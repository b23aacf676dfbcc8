"""What tasks hand each other instead of data."""

from __future__ import annotations

from dataclasses import dataclass

from mlops_provider.core.payload import Payload


@dataclass(frozen=True, slots=True)
class TableRef(Payload):
    """
    One version of a table, or of one of its partitions.

    :param table: Full URI of the table.
    :param version: Table version, from 0.
    :param partition: Month the reference is about; None for the whole table.
    """

    table: str
    version: int
    partition: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRef(Payload):
    """One version of a registered model."""

    model: str
    version: str
