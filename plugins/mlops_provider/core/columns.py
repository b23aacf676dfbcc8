"""What a model takes, column by column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "whole", "text", "flag", "time"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column a model was trained on."""

    name: str
    kind: Kind
