"""What a command takes for a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops_provider.cli.target import spec_of
from mlops_provider.exceptions import ConfigurationError, SpecError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("model", ["adult_income", "include/adult_income/model.yaml"])
def test_a_model_is_named_or_is_a_file(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)

    assert spec_of(model).name == "adult_income"


def test_a_name_that_is_not_there_is_answered_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)

    with pytest.raises(
        ConfigurationError, match="There is no model 'nope' in include/, which has adult_income, .*flight"
    ):
        spec_of("nope")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"model\.yaml: cannot be read: No such file"):
        spec_of(str(tmp_path / "model.yaml"))
