"""Does a store let one of eight writers come first? And what is said of one that does not."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlops_provider.cli import doctor
from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError
from mlops_provider.stores import conditional
from support.aws import Aws, proxy


def test_s3_lets_one_of_eight_come_first_and_nothing_stays_behind(aws: Aws) -> None:
    root, s3 = f"s3://{aws.bucket()}/tables", aws.s3()

    with proxy(aws) as (url, weather):
        conditional.check(root, aws.s3(url))
        puts = [seen for seen in weather.seen if seen.startswith("PUT")]

    assert len(puts) == 8 * 5
    assert s3.sizes(root) == {}


def test_a_store_that_does_not_know_conditions_is_told_by_its_numbers(aws: Aws) -> None:
    root = f"s3://{aws.bucket()}/tables"

    with proxy(aws) as (url, weather):
        weather.set(deaf=True)
        with pytest.raises(ConfigurationError, match=r"8 of 8 writers of one name were told.* honours If-None-Match"):
            conditional.check(root, aws.s3(url))

    assert aws.s3().sizes(root) == {}


def test_a_folder_is_proven_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditional.check(str(tmp_path / "not" / "yet"))
    assert list(tmp_path.iterdir()) == []

    def copied(own: Path, target: Path) -> None:
        Path(target).write_text(Path(own).read_text())

    monkeypatch.setattr(os, "link", copied)  # as on a file system whose links are copies
    with pytest.raises(ConfigurationError, match=r"writers of one name were told.* that has hard links"):
        conditional.check(f"file://{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_s3_that_is_away_is_no_verdict() -> None:
    with pytest.raises(StoreUnavailableError):
        conditional.check("s3://bucket/tables", Aws("http://127.0.0.1:9").s3())


def test_the_doctor_says_whether_they_hold(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_TABLES_URI", f"s3://{aws.bucket()}/tables")
    with proxy(aws) as (url, weather):
        for name, value in aws.environment(url).items():
            monkeypatch.setenv(name, value)
        found = {finding.what: finding.level for finding in doctor.stores()}
        assert found["conditional writes hold: of 8 writers at once one came first, 5 times"] == "ok"

        weather.set(deaf=True)
        [failed] = [finding for finding in doctor.stores() if finding.level == "fail"]
    assert "does not hold conditional writes" in failed.what
    assert doctor.main(SimpleNamespace()) == 1  # type: ignore[arg-type]
    assert "fail  tables" in capsys.readouterr().out  # the proxy is gone
