"""Reports: one place per task, and no way out of their root. Stores: each missed only when it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops_provider.core.origin import Origin
from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError
from mlops_provider.stores.reports import Reports
from mlops_provider.stores.suite import Stores

ORIGIN = Origin("delays_monitor", "scheduled__2013-04-01T00:00:00+00:00", "detect_drift")


def test_a_page_is_read_back_and_a_retry_replaces_it(tmp_path: Path) -> None:
    reports = Reports(str(tmp_path / "reports"))

    first = reports.write(ORIGIN, "drift.html", "<p>old</p>")
    second = reports.write(ORIGIN, "drift.html", "<p>naïve</p>")

    assert first == second
    assert first.startswith(f"{ORIGIN.path}/drift")
    assert reports.read(first).decode() == "<p>naïve</p>"


def test_tasks_do_not_share_a_place(tmp_path: Path) -> None:
    reports = Reports(str(tmp_path))
    mapped = Origin(ORIGIN.dag_id, ORIGIN.run_id, ORIGIN.task_id, map_index=1)

    assert reports.write(ORIGIN, "drift.html", "a") != reports.write(mapped, "drift.html", "b")


@pytest.mark.parametrize(
    "path",
    ["../secret", "a/../../secret", "/etc/passwd", "", ".", "..", "a\\..\\secret", "link/secret", "nothing.html", "a"],
)
def test_no_path_leaves_the_root(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "link").symlink_to(tmp_path)

    with pytest.raises(FileNotFoundError):
        Reports(str(tmp_path / "root")).read(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(StoreUnavailableError, match="can't be written"):
        Reports(str(tmp_path / "file")).write(ORIGIN, "drift.html", "a")


def test_stores_come_from_the_environment_each_when_used(tmp_path: Path) -> None:
    stores = Stores.from_environment(
        {"MLOPS_TABLES_URI": str(tmp_path), "MLOPS_LEDGER_URL": f"sqlite:///{tmp_path}/l.db"}
    )

    assert stores.tables.root == str(tmp_path)
    assert stores.ledger.head() is None
    relative = stores.reports.write(ORIGIN, "drift.html", "a")
    assert list(tmp_path.rglob("drift*"))
    assert stores.reports.read(relative) == b"a"
    with pytest.raises(ConfigurationError, match="MLOPS_REGISTRY_URI is not set"):
        _ = stores.registry
