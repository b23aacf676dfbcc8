"""Only a process that forks tasks loads their libraries."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from mlops_provider import preload

LIGHT = ["colorsys"]


@pytest.fixture(autouse=True)
def _not_yet_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    monkeypatch.delenv("MLOPS_PRELOAD", raising=False)
    yield
    gc.unfreeze()


@pytest.mark.parametrize("words", [["scheduler"], ["scheduler", "--skip-serve-logs"], ["celery", "worker", "-c", "2"]])
def test_what_forks_tasks_is_warmed(words: list[str]) -> None:
    assert preload.warm(LIGHT, ["airflow", *words]) == LIGHT
    assert "colorsys" in sys.modules
    assert gc.get_freeze_count()  # a forked task does not copy what it shares, by collecting garbage


@pytest.mark.parametrize(
    "words", [[], ["api-server"], ["dag-processor"], ["triggerer"], ["celery", "flower"], ["version"]]
)
def test_what_forks_none_is_not(words: list[str]) -> None:
    assert preload.warm(LIGHT, ["airflow", *words]) == []
    assert "colorsys" not in sys.modules


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_PRELOAD", "0")

    assert preload.warm(LIGHT, ["airflow", "scheduler"]) == []


def test_a_library_that_is_not_installed_keeps_nobody_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    assert preload.warm(["no_such_library", *LIGHT], ["airflow", "scheduler"]) == LIGHT
    assert "no_such_library" in caplog.text


def test_it_names_every_module_that_a_task_may_load() -> None:
    from importlib.util import find_spec

    names = preload.modules()

    assert {"mlops_provider.adapters.drift", "mlops_provider.stores.tables", "mlops_provider.steps.train"} <= set(names)
    assert [name for name in names if find_spec(name) is None] == []
