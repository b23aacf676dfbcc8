"""Measure drift with Evidently, and keep its snapshots where its own UI shows them. Nothing else imports Evidently."""

from __future__ import annotations

import html
import json
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.core.drift import ColumnDrift, DriftPolicy

with warnings.catch_warnings():
    # Its own imports use deprecated parts of other libraries; none of it is in our hands.
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.report import Snapshot
    from evidently.legacy.utils import NumpyEncoder
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset
    from evidently.sdk.models import DashboardModel, DashboardPanelPlot, DashboardTabModel, PanelMetric, ProjectModel
    from evidently.sdk.panels import line_plot_panel

NUMERIC_METHOD = ("wasserstein", "Wasserstein distance (normed)")
CATEGORICAL_METHOD = ("jensenshannon", "Jensen-Shannon distance")

PREDICTION = "prediction"
"""Column of the predictions in scores and reports."""

_MISSING, _PRESENT = "(missing)", "(present)"
_LINES_PER_PLOT = 6  # Evidently has six colours, and cuts off long legends
_NAMESPACE = uuid.UUID("6f1f4a52-7f0e-5d43-9d0c-3f2b7c5a8e11")  # arbitrary; fixed so that names give the same UUIDs


@dataclass(frozen=True, slots=True)
class Drift:
    """
    What Evidently measured on one month.

    :param rows: Rows of the smaller side that was compared.
    :param html: Evidently's report: one page that needs no network.
    """

    columns: tuple[ColumnDrift, ...]
    rows: int
    html: str
    snapshot: Snapshot


def measure(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    policy: DriftPolicy,
    *,
    numeric: Sequence[str],
    categorical: Sequence[str],
    predictions: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    seed: int,
    as_of: datetime,
    name: str = "",
    title: str = "",
    labels: Mapping[str, str] | None = None,
) -> Drift:
    """
    Compare two frames column by column; scores in the result, the report and the snapshot are the same numbers.

    Numbers are compared by their Wasserstein distance in standard deviations of the reference, categories by their
    Jensen-Shannon distance, 0-0.83; a missing category is a category. A number that one side has no value of is
    compared by whether there is a value. Both sides are cut to a sample of fixed size.

    :param reference: What the model was trained on, (n_rows, n_columns).
    :param current: The month under review, same columns.
    :param predictions: Predictions to compare as well, as numbers, reference first; they need not be of the same rows.
    :param seed: The same seed and rows give the same sample.
    :param as_of: Data time of the snapshot.
    :param name: Name of the snapshot in Evidently's UI.
    :param title: Headline of the report.
    :param labels: Metadata of the snapshot, to filter by in Evidently's UI.
    """
    reference = _sample(reference, policy.sample_rows, seed)
    current = _sample(current, policy.sample_rows, seed)
    rows = min(len(reference), len(current))
    if predictions is not None:
        expected, made = (_sample(pd.DataFrame({PREDICTION: each}), policy.sample_rows, seed) for each in predictions)
        reference, current = _beside(reference, expected), _beside(current, made)
        numeric = [*numeric, PREDICTION]
    absent = [column for column in numeric if not (_has_values(reference[column]) and _has_values(current[column]))]
    numbers = [column for column in numeric if column not in absent]
    categories = [*categorical, *absent]

    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    report = Report(_tables(policy, numeric=numbers, categorical=categories), include_tests=False)
    with warnings.catch_warnings():
        # Constant columns make its plots divide by zero; the scores are not touched by it.
        warnings.simplefilter("ignore")
        snapshot = report.run(
            Dataset.from_pandas(_prepared(current, numbers, categorical, absent), data_definition=definition),
            Dataset.from_pandas(_prepared(reference, numbers, categorical, absent), data_definition=definition),
            timestamp=as_of.astimezone(UTC),
            metadata=dict(labels or {}),
            name=name or None,
        )
        page = _headed(snapshot.get_html_str(as_iframe=False), title)

    scores, limits = _scores(snapshot), _limits(policy, numbers, categories)
    columns = tuple(
        ColumnDrift(
            column=column,
            method=NUMERIC_METHOD[1] if column in numbers else CATEGORICAL_METHOD[1],
            score=scores[column],
            limit=limits[column],
            seasonal=column in policy.seasonal,
        )
        for column in [*numbers, *categories]
    )
    return Drift(columns=columns, rows=rows, html=page, snapshot=snapshot)


def _headed(page: str, title: str) -> str:
    """Evidently's page says neither which model nor which month it is about."""
    heading = f'<h1 style="font: 600 1.4rem system-ui, sans-serif; margin: 1rem 1.5rem">{html.escape(title)}</h1>'
    page = page.replace("<head>", f"<head><title>{html.escape(title)}</title>", 1)
    return page.replace("<body>", f"<body>{heading}", 1) if title else page


class _SeasonalTable(DataDriftPreset):  # type: ignore[misc]  # Evidently has no type information
    """Evidently's table of columns without its verdict on the data set: these columns raise no alarm."""

    def generate_metrics(self, context: Any) -> Sequence[Any]:
        """Only the columns; the preset's count of drifted columns is left out."""
        return [metric for metric in super().generate_metrics(context) if isinstance(metric, ValueDrift)]

    def render(self, context: Any, child_widgets: Any = None) -> list[Any]:
        """Only the table, under a title that says what it is."""
        table = super().render(context, child_widgets)[-1]
        table.title = "Seasonal columns: these warn, and raise no alarm"
        return [table]


def _limits(policy: DriftPolicy, numeric: Sequence[str], categorical: Sequence[str]) -> dict[str, float]:
    """Score from which each column counts as drifted."""
    return dict.fromkeys(numeric, policy.limit) | dict.fromkeys(categorical, policy.categorical_limit)


def _tables(policy: DriftPolicy, *, numeric: Sequence[str], categorical: Sequence[str]) -> list[Any]:
    """One table for the columns that count towards an alarm; a second for those that only warn."""
    method = {**dict.fromkeys(numeric, NUMERIC_METHOD[0]), **dict.fromkeys(categorical, CATEGORICAL_METHOD[0])}
    limit = _limits(policy, numeric, categorical)
    only_warn = [column for column in method if column in policy.seasonal and policy.seasonal_limit is None]
    counted = [column for column in method if column not in only_warn]
    if policy.seasonal_limit is not None:
        limit |= {column: policy.seasonal_limit for column in counted if column in policy.seasonal}
    tables: list[Any] = []
    for preset, columns in ((DataDriftPreset, counted), (_SeasonalTable, only_warn)):
        if columns:
            tables.append(
                preset(
                    columns=columns,
                    # Evidently calls a share of 0 an alarm even if nothing drifted.
                    drift_share=max(policy.alarm_share, 1 / len(columns)),
                    per_column_method={column: method[column] for column in columns},
                    per_column_threshold={column: limit[column] for column in columns},
                )
            )
    return tables


def _sample(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    return frame if len(frame) <= rows else frame.sample(n=rows, random_state=seed)


def _beside(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Put columns side by side although their rows have nothing to do with each other; the shorter is padded."""
    return pd.concat([rows.reset_index(drop=True), others.reset_index(drop=True)], axis=1)


def _has_values(column: pd.Series) -> bool:
    return bool(np.isfinite(column.astype("float64")).any())


def _prepared(
    frame: pd.DataFrame, numbers: Sequence[str], categorical: Sequence[str], absent: Sequence[str]
) -> pd.DataFrame:
    values = frame[list(numbers)].astype("float64").replace([np.inf, -np.inf], np.nan)
    categories = frame[list(categorical)].astype("object")
    categories = categories.where(categories.notna(), _MISSING).astype(str)
    presence = frame[list(absent)].notna().replace({True: _PRESENT, False: _MISSING})
    return pd.concat([values, categories, presence], axis=1).reset_index(drop=True)


def _scores(snapshot: Snapshot) -> dict[str, float]:
    scores = {
        metric["config"]["column"]: float(metric["value"])
        for metric in snapshot.dict()["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    }
    # SciPy takes the root of a sum that rounding can push just below zero: equal distributions, written as NaN.
    return {column: 0.0 if np.isnan(score) else score for column, score in scores.items()}


def log_snapshot(workspace: Path, project: str, drift: Drift, *, key: str) -> uuid.UUID:
    """
    Put the snapshot into an Evidently workspace folder, and give the project a dashboard.

    The same *key* replaces its own snapshot, so a retry adds none. Files appear whole: Evidently's UI refuses to start
    on half a snapshot, and ``evidently.ui.workspace.Workspace`` writes them in place and reads all others first.

    :param workspace: Folder that ``evidently ui --workspace`` shows.
    :param project: Project name; the project is made if there is none.
    :param key: What makes the snapshot unique within the project.
    :return: ID of the snapshot.
    """
    project_id = uuid.uuid5(_NAMESPACE, project)
    snapshot_id = uuid.uuid5(project_id, key)
    folder = workspace / str(project_id)
    if not (folder / "metadata.json").exists():
        _write(folder / "metadata.json", ProjectModel(id=project_id, name=project, description=_DESCRIPTION).dict())
    _write(folder / "dashboard.json", _dashboard(project_id, drift).dict())
    _write(folder / "snapshots" / f"{snapshot_id}.json", drift.snapshot.dump_dict())
    return snapshot_id


_DESCRIPTION = "Features of each month against those the serving version was trained on."


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not "*.json" and not in place, so that nobody reads half a file.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file, cls=NumpyEncoder)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    # A running UI watches for changes by name, and after a rename it sees the old name only. Writing the first byte
    # again is a change under the new name that leaves the content as it is.
    with path.open("r+b") as file:
        file.write(b"{")


def _dashboard(project_id: uuid.UUID, drift: Drift) -> DashboardModel:
    """Plots over time: the share of drifted columns, then the scores, a few columns to a plot."""

    def plot(title: str, description: str, values: list[PanelMetric]) -> DashboardPanelPlot:
        made = line_plot_panel(title=title, description=description, values=values)
        made.id = uuid.uuid5(project_id, title)
        return made

    share = PanelMetric(legend="share", metric="DriftedColumnsCount", metric_labels={"value_type": "share"})
    plots = [plot("Share of drifted columns", "Of the columns that count towards an alarm, 0-1.", [share])]
    for title, seasonal in (("Drift score", False), ("Drift score, seasonal columns", True)):
        names = sorted(column.column for column in drift.columns if column.seasonal is seasonal)
        parts = [names[first : first + _LINES_PER_PLOT] for first in range(0, len(names), _LINES_PER_PLOT)]
        for number, part in enumerate(parts, 1):
            lines = [PanelMetric(legend=name, metric="ValueDrift", metric_labels={"column": name}) for name in part]
            plots.append(
                plot(
                    title if len(parts) == 1 else f"{title}, part {number} of {len(parts)}",
                    "Distance from what the serving version was trained on.",
                    lines,
                )
            )
    tab = DashboardTabModel(id=uuid.uuid5(project_id, "Drift"), title="Drift", panels=[each.id for each in plots])
    return DashboardModel(tabs=[tab], panels=plots)
