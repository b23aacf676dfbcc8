"""``docs/contracts.md`` as data: what stands in its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from support.stack import ROOT

WRITTEN = ("table", "version", "partition", "rows", "content", "changed")
"""What the page calls "written"."""


@dataclass(frozen=True)
class Documented:
    """
    Keys that a record holds.

    :param always: Keys of every record.
    :param sometimes: Further keys; those of one group come together or not at all.
    """

    always: frozenset[str]
    sometimes: tuple[frozenset[str], ...]

    def differences(self, keys: set[str]) -> list[str]:
        """What is wrong with the keys of a record, in words."""
        every = self.always.union(*self.sometimes)
        found = [f"{key} is not documented" for key in sorted(keys - every)]
        found += [f"{key} is missing" for key in sorted(self.always - keys)]
        for group in self.sometimes:
            if keys & group and (missing := group - keys):
                found.append(f"{sorted(missing)} without {sorted(keys & group)}")
        return found


@cache
def rows(section: str, first_column: str) -> list[dict[str, str]]:
    """Rows of the tables in a section whose first column has this name: cells by the name of their column."""
    text = (ROOT / "docs/contracts.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    found: list[dict[str, str]] = []
    for table in re.findall(r"(?:^\|.*\n?)+", body, re.MULTILINE):
        head, _, *lines = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in table.splitlines()
        ]
        if head[0] == first_column:
            found += [dict(zip(head, line, strict=True)) for line in lines]
    assert found, f"'{section}' has no table that begins with the column {first_column!r}."
    return found


def words(cell: str) -> list[str]:
    """What a cell sets as code, leaving out what explains it in parentheses."""
    return re.findall(r"`([^`]+)`", re.sub(r"\([^()]*\)", "", cell))


def payload(cell: str) -> Documented:
    """Read the cell that says what a record's payload holds; what follows a semicolon holds on its condition only."""
    first, *others = re.sub(r"\([^()]*\)", "", cell).split(";")
    always = set(words(first)) | (set(WRITTEN) if re.search(r"\bwritten\b", first) else set())
    return Documented(frozenset(always), tuple(frozenset(words(other)) for other in others))
