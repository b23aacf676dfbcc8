"""
Write the parts of README.md that the code already says: `make docs`, or `--check` to only compare.

Each part stands between `<!-- name:begin -->` and `<!-- name:end -->`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from pathlib import Path

from airflow.sdk import BaseOperator

from mlops_provider.get_provider_info import get_provider_info

ROOT = Path(__file__).resolve().parents[1]


def public_classes(section: str, base: type) -> list[type]:
    """Classes that a section of the provider's metadata offers, as written there; bases of others are left out."""
    modules = [name for entry in get_provider_info().get(section, ()) for name in entry["python-modules"]]
    found = [
        member
        for name in modules
        for member in vars(importlib.import_module(name)).values()
        if inspect.isclass(member) and issubclass(member, base) and member.__module__ == name
    ]
    return [each for each in found if not any(each in other.__bases__ for other in found)]


def summary(documented: type) -> str:
    """The first sentence of a docstring, on one line; double backticks become Markdown's."""
    paragraph = inspect.cleandoc(documented.__doc__ or "").split("\n\n", 1)[0]
    sentence = re.split(r"(?<=\.)\s", " ".join(paragraph.split()), maxsplit=1)[0]
    return sentence.replace("``", "`").replace("|", "\\|")


def operators() -> str:
    """A table of what a DAG author can use."""
    rows = [
        f"| `{found.__name__}` | `{found.__module__}` | {summary(found)} |"
        for section in ("operators", "sensors")
        for found in public_classes(section, BaseOperator)
    ]
    return "\n".join(["| class | module | what it does |", "|---|---|---|", *rows])


PARTS = {ROOT / "README.md": {"operators": operators}}


def generated(text: str, name: str, content: str) -> str:
    """Put *content* between the markers of *name*."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(\n?<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"No markers of {name!r} found.")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2].lstrip()}", text)


def main() -> int:
    """Write every generated part; with ``--check``, only say which differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    check = parser.parse_args().check
    stale = []
    for path, parts in PARTS.items():
        before = after = path.read_text(encoding="utf-8")
        for name, write in parts.items():
            after = generated(after, name, write())
        if after == before:
            continue
        stale.append(path.name)
        if not check:
            path.write_text(after, encoding="utf-8")
    if check and stale:
        print(f"Out of date: {', '.join(stale)}. Run `make docs`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
