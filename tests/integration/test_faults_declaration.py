"""A ``model.yaml`` that is wrong: file, line and what was expected, before any store is touched."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from mlops_provider.exceptions import SpecError
from support.tiny import JANUARY, USE_CASE, Place, ingest_month, write_month


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("ownr: tests", r"model\.yaml:{line}: ownr: "),
        ("label_lag_days: two", r"model\.yaml:{line}: label_lag_days: expected .*number.*'two'"),
        ("seed: -1", r"model\.yaml:{line}: seed: expected .*0.*-1"),
        ("target: {{name: late, task: colour}}", r"model\.yaml:{line}: target\.task: expected 'binary'.*'colour'"),
        ("expectations: wishes.yaml", r"model\.yaml:{line}: expectations: there is no file 'wishes\.yaml'"),
    ],
)
def test_a_wrong_declaration_is_told_by_file_and_line_and_touches_nothing(place: Place, wrong: str, said: str) -> None:
    write_month(place.source, JANUARY)
    folder = place.folder / "use_case"
    shutil.copytree(USE_CASE, folder)
    lines = (folder / "model.yaml").read_text().splitlines()
    key = wrong.partition(":")[0].replace("ownr", "owner")
    number = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
    lines[number] = wrong.format()
    (folder / "model.yaml").write_text("\n".join(lines))

    with pytest.raises(SpecError, match=said.format(line=number + 1)):
        ingest_month(replace(place, use_case=folder), JANUARY)

    assert sorted(path.name for path in place.folder.iterdir()) == ["source", "use_case"]
    ingest_month(place, JANUARY)
