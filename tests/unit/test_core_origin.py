from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.core import names
from mlops_provider.core.origin import Origin
from mlops_provider.core.references import ModelRef, TableRef

RUN = "manual__2013-02-01T00:00:00+00:00"


def test_the_key_is_the_task_instance() -> None:
    assert Origin("ingest", RUN, "land_data").key == f"ingest/{RUN}/land_data/-1"
    assert Origin("ingest", RUN, "land_data", 3).key == f"ingest/{RUN}/land_data/3"


def test_slashes_in_names_cannot_make_two_keys_equal() -> None:
    assert Origin("a/b", "c", "t").key != Origin("a", "b/c", "t").key
    assert Origin("a%2Fb", "c", "t").key != Origin("a/b", "c", "t").key


def test_the_path_keeps_plain_names_and_marks_changed_ones() -> None:
    assert Origin("ingest", "run_1", "group.task").path == "ingest/run_1/group.task"
    assert Origin("ingest", "run_1", "task", 0).path == "ingest/run_1/task/0"
    assert re.fullmatch(
        r"ingest/manual__2013-02-01T00_00_00_00_00-[0-9a-f]{8}/land_data", Origin("ingest", RUN, "land_data").path
    )


@given(st.lists(st.text(max_size=300), min_size=3, max_size=3))
def test_no_name_leaves_the_folder_or_needs_quoting(parts: list[str]) -> None:
    dag_id, run_id, task_id = parts
    path = Origin(dag_id, run_id, task_id).path

    assert re.fullmatch(r"([A-Za-z0-9_-][A-Za-z0-9._-]{0,254}/){2}[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}", path)


@given(st.text(max_size=20), st.text(max_size=20))
def test_different_runs_have_different_paths(one: str, other: str) -> None:
    assert (Origin("d", one, "t").path == Origin("d", other, "t").path) == (one == other)


def test_references_cross_xcom_as_plain_json() -> None:
    assert TableRef("s3://b/t", 7).as_json() == {"table": "s3://b/t", "version": 7, "partition": None}
    assert ModelRef.from_json({"model": "m", "version": "3"}) == ModelRef("m", "3")


def test_names_are_plain_texts() -> None:
    assert f"{names.Kind.GATE} {names.Table.RAW} {names.Tag.ORIGIN} {names.Alias.CHAMPION}" == (
        "gate raw mlops.origin champion"
    )
    assert names.features_asset("m") == "m/features"
    assert names.version_asset("m") == "m/version"
