"""
One check at a time, in somebody's own DAG: over tables that anybody wrote, with no other part of the suite.

A table is named by a :class:`FileTable` (Parquet or Delta, on a disk or on S3), a :class:`SqlTable`, or the URI of
files. Of each table only the columns named are read; no model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.core.references import AnyTable, FileTable, SqlTable
from mlops_provider.exceptions import DataRejectedError, GateRejectedError
from mlops_provider.hooks.ledger import LedgerHook
from mlops_provider.links import ReportLink
from mlops_provider.operators.base import data_time
from mlops_provider.operators.ledger import RecordingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin
    from mlops_provider.exceptions import PermanentError
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.reports import Reports

__all__ = [
    "DetectTableDriftOperator",
    "FileTable",
    "GatePredictionsOperator",
    "SqlTable",
    "ValidateTableOperator",
]


class TableOperator(RecordingOperator):
    """
    A check of tables that anybody wrote, recorded where there is a ledger.

    Without a connection (or ``MLOPS_LEDGER_URL``) for the default ledger, the evidence is in the task's return value
    and log, which say "not recorded".
    """

    @property
    def ledger(self) -> Ledger | None:
        """The ledger, if there is one."""
        hook = LedgerHook(self.ledger_conn_id)
        return hook.client if hook.configured else None

    def given(self, context: Context, origin: Origin) -> dict[str, Any]:
        """What every check takes beside its tables and limits."""
        from mlops_provider.hooks import reading

        return {
            "read": reading.read,
            "model": self.model,
            "ledger": self.ledger,
            "origin": origin,
            "as_of": data_time(context),
        }

    def told(self, found: Mapping[str, Any]) -> None:
        """Say where the evidence is; write it to the log if that is all there is of it."""
        from mlops_provider.steps.evidence import RECORD

        if found[RECORD] is not None:
            self.log.info("Recorded in the ledger as %s.", found[RECORD])
            return
        self.log.warning(
            "Not recorded: there is no connection %r. The evidence is this task's return value:\n%s",
            self.ledger_conn_id,
            json.dumps(found, indent=2, sort_keys=True),
        )

    def concluded(
        self, context: Context, verdict: dict[str, Any], rejection: type[PermanentError], *, fail: bool
    ) -> dict[str, Any]:
        """Give a verdict that is yes; with one that is no, fail the task, or skip what follows."""
        self.log.info("%s", verdict["summary"])
        self.told(verdict)
        if not verdict["passed"]:
            if fail:
                self.leave(context, verdict)
                raise rejection(verdict["summary"])
            self.stop_here(context, verdict)
        return verdict


class ReportingOperator(TableOperator):
    """
    A step that also renders a page.

    :param reports_uri: Folder or ``s3://`` address for the page; by default where the suite keeps its reports, if
        a connection of the tables says so; else none is kept. (templated)
    :param aws_conn_id: Connection of type ``aws`` that the page is written to ``s3://`` with. (templated)
    """

    template_fields: Sequence[str] = (*TableOperator.template_fields, "reports_uri", "aws_conn_id")
    operator_extra_links = (ReportLink(),)

    def __init__(self, *, reports_uri: str = "", aws_conn_id: str = "aws_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reports_uri = reports_uri
        self.aws_conn_id = aws_conn_id

    @property
    def pages(self) -> Reports | None:
        """Where the page goes."""
        from mlops_provider.hooks.pages import pages

        return pages(self.reports_uri, self.aws_conn_id)

    def given(self, context: Context, origin: Origin) -> dict[str, Any]:
        """The same, and where the page goes."""
        return super().given(context, origin) | {"pages": self.pages}

    def told(self, found: Mapping[str, Any]) -> None:
        """Say where the evidence and the page are."""
        super().told(found)
        if found["report"] is None:
            self.log.info("No page was kept: reports_uri names no place, and there is no connection of the tables.")
        else:
            self.log.info("Report: %s below %s", found["report"], self.reports_uri or "the suite's reports")


class GatePredictionsOperator(TableOperator):
    """
    Hold a candidate's predictions against limits, and row by row against the champion's.

    Both are scored on the same rows and the same bootstrap resamples; the candidate passes if it keeps every limit and
    the whole interval of its difference to the champion lies above zero. A rejection is a verdict, not a
    failure: what follows is skipped and the run succeeds.

    :param candidate: Table with the candidate's predictions. (templated)
    :param target: Column of what happened: 0 or 1, or a number.
    :param primary: Metric on which the champion must be beaten, such as ``roc_auc`` or ``rmse``; it says which.
    :param prediction: Column of the predictions: the probability of 1, or the number.
    :param champion: Table with the champion's predictions, if it is another one. (templated)
    :param champion_prediction: Column of the champion's predictions; by default called as the candidate's. Without
        *champion* it stands in the candidate's table.
    :param labels: Table with the labels, if they are not in the candidate's. (templated)
    :param keys: Columns that join the tables.
    :param block: Column of the candidate's table whose values are resampled as a whole, such as a day: for rows of one
        block share what no other has. Empty for single rows.
    :param limits: Bounds of metrics, both included: ``[{"metric": "roc_auc", "minimum": 0.7}]``.
    :param minimum_rows: Rows below which nothing can be concluded, 1 or more.
    :param resamples: Bootstrap resamples, 100 or more.
    :param confidence: Coverage of the intervals, between 0 and 1.
    :param fail_on_reject: Fail the task on a rejection instead of skipping what follows.
    :return: The verdict: ``passed``, ``summary``, ``reasons``, ``warnings``, ``notes``, ``rows``, ``metrics``,
        ``differences``, ``limits``, ``tables``, and ``record``, its ledger ID or None.
    :raises GateRejectedError: The verdict is no and *fail_on_reject* is set. Not retried.
    :raises DataRejectedError: The rows can't be joined or scored. Not retried.
    :raises SourceError: A table or column does not exist. Not retried.
    :raises StoreUnavailableError: A table or the ledger can't be reached. Retried.
    """

    template_fields: Sequence[str] = (*TableOperator.template_fields, "candidate", "champion", "labels")
    extras = ("tables",)

    def __init__(
        self,
        *,
        candidate: AnyTable,
        target: str,
        primary: str,
        prediction: str = "prediction",
        champion: AnyTable | None = None,
        champion_prediction: str = "",
        labels: AnyTable | None = None,
        keys: Sequence[str] = (),
        block: str = "",
        limits: Sequence[Mapping[str, Any]] = (),
        minimum_rows: int = 1000,
        resamples: int = 1000,
        confidence: float = 0.95,
        fail_on_reject: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.candidate = candidate
        self.target = target
        self.primary = primary
        self.prediction = prediction
        self.champion = champion
        self.champion_prediction = champion_prediction
        self.labels = labels
        self.keys = keys
        self.block = block
        self.limits = limits
        self.minimum_rows = minimum_rows
        self.resamples = resamples
        self.confidence = confidence
        self.fail_on_reject = fail_on_reject

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import predictions_gate as gate

        verdict = gate.gate_predictions(
            gate.Predictions(
                candidate=self.candidate,
                target=self.target,
                prediction=self.prediction,
                champion=self.champion,
                champion_prediction=self.champion_prediction,
                labels=self.labels,
                keys=tuple(self.keys),
                block=self.block,
            ),
            policy=gate.policy(self.primary, self.limits, self.minimum_rows),
            resamples=self.resamples,
            confidence=self.confidence,
            **self.given(context, origin),
        )
        return self.concluded(context, verdict, GateRejectedError, fail=self.fail_on_reject)


class DetectTableDriftOperator(ReportingOperator):
    """
    Compare two tables column by column with Evidently, and say whether they lie too far apart.

    Numbers are compared by their Wasserstein distance in standard deviations of the reference, categories by their
    Jensen-Shannon distance, 0-0.83. Large tables are cut to the same sample in the verdict and the report.

    :param reference: Table with what is expected, such as the rows a model was trained on. (templated)
    :param current: Table with what came. (templated)
    :param numeric: Columns of numbers to compare.
    :param categorical: Columns of categories to compare.
    :param limit: Score from which a column of numbers counts as drifted, above 0, in standard deviations.
    :param categorical_limit: Score from which a column of categories does, above 0 and at most 0.83.
    :param alarm_share: Share of the columns that must have drifted for an alarm, 0-1; 0 means one is enough.
    :param minimum_rows: Rows below which nothing is judged, 1 or more.
    :param sample_rows: Rows of each table compared at most, 1 or more.
    :param fail_on_alarm: Fail the task on an alarm.
    :return: The verdict: ``alarm``, ``drifted``, ``reasons``, ``warnings``, ``columns``, ``rows``, ``tables``,
        ``report``, and ``record``, its ledger ID or None.
    :raises DataRejectedError: A table has no rows, or a column of numbers holds none; an alarm if *fail_on_alarm* is
        set. Not retried.
    :raises SourceError: A table or column does not exist. Not retried.
    :raises StoreUnavailableError: A table or the ledger can't be reached. Retried.
    """

    template_fields: Sequence[str] = (*ReportingOperator.template_fields, "reference", "current")
    extras = ("drift",)

    def __init__(
        self,
        *,
        reference: AnyTable,
        current: AnyTable,
        numeric: Sequence[str] = (),
        categorical: Sequence[str] = (),
        limit: float = 0.1,
        categorical_limit: float = 0.1,
        alarm_share: float = 0.0,
        minimum_rows: int = 1000,
        sample_rows: int = 10_000,
        fail_on_alarm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.reference = reference
        self.current = current
        self.numeric = numeric
        self.categorical = categorical
        self.limit = limit
        self.categorical_limit = categorical_limit
        self.alarm_share = alarm_share
        self.minimum_rows = minimum_rows
        self.sample_rows = sample_rows
        self.fail_on_alarm = fail_on_alarm

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import table_drift

        verdict = table_drift.detect_table_drift(
            self.reference,
            self.current,
            numeric=tuple(self.numeric),
            categorical=tuple(self.categorical),
            policy=table_drift.policy(
                limit=self.limit,
                categorical_limit=self.categorical_limit,
                alarm_share=self.alarm_share,
                minimum_rows=self.minimum_rows,
                sample_rows=self.sample_rows,
            ),
            **self.given(context, origin),
        )
        for sentence in (*verdict["reasons"], *verdict["warnings"]):
            self.log.info("%s", sentence)
        self.log.info("Drift alarm." if verdict["alarm"] else "No drift alarm.")
        self.told(verdict)
        if verdict["alarm"] and self.fail_on_alarm:
            self.leave(context, verdict)
            raise DataRejectedError(" ".join(("Drift alarm.", *verdict["reasons"][:10])))
        return verdict


class ValidateTableOperator(ReportingOperator):
    """
    Check a table against expectations; rows that break one are counted, the table stays as it is.

    :param table: Table to check. (templated)
    :param expectations: Path of an ``expectations.yaml``, or of a suite that Great Expectations wrote as JSON.
        (templated)
    :param fail_on_reject: Fail the task if an expectation that blocks is not met; otherwise what follows is skipped.
    :return: The verdict: ``passed``, ``summary``, ``reasons``, ``warnings``, ``rows``, ``failing``, ``outcomes``,
        ``tables``, ``report``, and ``record``, its ledger ID or None.
    :raises DataRejectedError: An expectation that blocks was not met and *fail_on_reject* is set. Not retried.
    :raises SpecError: The expectations are wrong. Not retried.
    :raises SourceError: The table does not exist. Not retried.
    :raises StoreUnavailableError: The table or the ledger can't be reached. Retried.
    """

    template_fields: Sequence[str] = (*ReportingOperator.template_fields, "table", "expectations")
    extras = ("validation",)

    def __init__(self, *, table: AnyTable, expectations: str, fail_on_reject: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.expectations = expectations
        self.fail_on_reject = fail_on_reject

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import table_validation

        verdict = table_validation.validate_table(self.table, self.expectations, **self.given(context, origin))
        return self.concluded(context, verdict, DataRejectedError, fail=self.fail_on_reject)
