"""When data DAGs run: after each month, for that month."""

from __future__ import annotations

from airflow.sdk import CronPartitionTimetable


def monthly() -> CronPartitionTimetable:
    """
    Run at the start of each month, UTC, for the month that just ended.

    Without the offset of -1 the run on 1 November would be given November, which has not happened.
    """
    return CronPartitionTimetable("0 0 1 * *", timezone="UTC", run_offset=-1, key_format="%Y-%m")
