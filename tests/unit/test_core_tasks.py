from __future__ import annotations

from mlops_provider.core.metrics import METRICS
from mlops_provider.core.tasks import TASKS


def test_every_metric_belongs_to_exactly_one_kind_of_target() -> None:
    named = [metric for task in TASKS.values() for metric in task.metrics]

    assert sorted(named) == sorted(METRICS)


def test_what_reports_show_is_measured() -> None:
    for task in TASKS.values():
        assert set(task.shown) <= set(task.metrics)
