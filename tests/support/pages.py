"""Code blocks of a page, so that a test can do what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\S+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """
    One fenced block.

    :param language: What stands after the fence: ``bash`` is run, ``python`` and ``yaml`` are saved.
    :param path: File that its first line, a comment, names; empty if it names none.
    """

    language: str
    text: str
    path: str


def blocks(page: Path) -> Iterator[Block]:
    """Give the blocks of a page in their order."""
    for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        named = _FILE.match(text)
        yield Block(language, text, named[1] if named else "")
