"""S3 in bad weather: busy, slow, tokens that end, two environments in one place. Nothing lost, nothing doubled."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.exceptions import ConcurrentWriteError, ConfigurationError, StoreUnavailableError
from mlops_provider.hooks import aws as aws_hook
from mlops_provider.steps import ingest
from mlops_provider.stores import s3 as s3_module
from mlops_provider.stores.suite import Stores
from support import soundness
from support.aws import Aws, Weather, proxy
from support.tiny import FEBRUARY, JANUARY, MODEL, Place, ingest_month, origin, trips, write_month


@pytest.fixture
def weather(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Weather]:
    """What happens between this test and S3."""
    with proxy(aws) as (url, found):
        for name, value in aws.environment(url).items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def on_s3(place: Place, aws: Aws, weather: Weather) -> Place:
    """The tiny use case with its tables on S3."""
    return replace(place, tables_uri=f"s3://{aws.bucket()}/tables")


def test_an_ingest_outlives_an_s3_that_answers_503_now_and_then(on_s3: Place, weather: Weather) -> None:
    write_month(on_s3.source, JANUARY)
    weather.set(every=7)

    ingest_month(on_s3, JANUARY)

    assert weather.turned_away > 0
    assert soundness.replacements(on_s3, Table.RAW, JANUARY) == 1
    soundness.assert_nothing_broken(on_s3)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_s3_that_keeps_answering_503_is_given_up_soon_and_a_retry_goes_through(
    on_s3: Place, weather: Weather, method: str
) -> None:
    ingest_one(on_s3, JANUARY)
    write_month(on_s3.source, FEBRUARY)
    contents = soundness.contents(on_s3)
    weather.set(unavailable=10_000, method=method)

    with pytest.raises(StoreUnavailableError, match=r"S3.* cannot be used for s3://.*/raw.* tries.*It said: .*503"):
        ingest_month(on_s3, FEBRUARY, "r")

    assert weather.turned_away <= 12  # tries are counted, not endless
    weather.set(unavailable=0)
    assert soundness.contents(on_s3) == contents
    assert soundness.records(on_s3, Kind.LANDING, "r") == []
    ingest_month(on_s3, FEBRUARY, "r")
    assert soundness.replacements(on_s3, Table.RAW, FEBRUARY) == 1
    soundness.assert_nothing_broken(on_s3)


def ingest_one(place: Place, month: str) -> None:
    write_month(place.source, month)
    ingest_month(place, month)


def test_a_slow_s3_is_waited_for(on_s3: Place, weather: Weather) -> None:
    write_month(on_s3.source, JANUARY)
    weather.set(seconds=0.15)
    ingest.land(on_s3.spec(), on_s3.stores(), JANUARY, origin=origin("land_data", f"ingest-{JANUARY}"))
    weather.set(seconds=0)
    ingest_month(on_s3, JANUARY)

    assert soundness.replacements(on_s3, Table.RAW, JANUARY) == 1
    soundness.assert_nothing_broken(on_s3)


def test_an_s3_that_never_answers_is_given_up(on_s3: Place, weather: Weather, monkeypatch: pytest.MonkeyPatch) -> None:
    write_month(on_s3.source, JANUARY)
    monkeypatch.setattr(s3_module, "_READ_SECONDS", 0.5)
    monkeypatch.setitem(s3_module._DELTA_LIMITS, "timeout", "1s")
    monkeypatch.setitem(s3_module._DELTA_LIMITS, "max_retries", "1")
    monkeypatch.setitem(s3_module._DELTA_LIMITS, "retry_timeout", "2s")
    weather.set(seconds=5)

    with pytest.raises(StoreUnavailableError, match="cannot be used for s3://.*/raw"):
        ingest.land(on_s3.spec(), on_s3.stores(), JANUARY, origin=origin("land_data"))
    with pytest.raises(StoreUnavailableError, match="cannot be used for s3://.*/_reports"):
        on_s3.stores().reports.write(origin("validate_data"), "report.html", "a")

    weather.set(seconds=0)
    ingest_month(on_s3, JANUARY)
    soundness.assert_nothing_broken(on_s3)


def with_connection(place: Place, monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any]) -> Stores:
    """Stores of a task whose tables are opened through a connection."""
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    return Stores(
        tables_uri=place.tables_uri,
        ledger_url=f"sqlite:///{place.folder}/ledger.db",
        s3=aws_hook.s3("warehouse"),
    )


def test_an_expired_token_names_the_connection_to_mend_and_is_not_tried_again(
    on_s3: Place, aws: Aws, weather: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_one(on_s3, JANUARY)
    write_month(on_s3.source, FEBRUARY)
    spec, url = on_s3.spec(), on_s3.stores().tables.s3.storage_options()["AWS_ENDPOINT_URL"]  # type: ignore[union-attr]
    weather.set(refused_token="yesterday")
    stores = with_connection(on_s3, monkeypatch, aws.connection(url, aws_session_token="yesterday"))
    mended = r"ExpiredToken for s3://.*connection 'warehouse' has expired\. Put a new .* clear this task"

    with pytest.raises(ConfigurationError, match=mended) as expired:
        ingest.land(spec, stores, FEBRUARY, origin=origin("land_data", "r"))
    with pytest.raises(ConfigurationError, match=mended):
        stores.reports.write(origin("validate_data"), "report.html", "a")

    assert "testing-secret" not in str(expired.value)
    stores = with_connection(on_s3, monkeypatch, aws.connection(url, aws_session_token="today"))
    ingest.land(spec, stores, FEBRUARY, origin=origin("land_data", "r"))
    assert soundness.replacements(on_s3, Table.RAW, FEBRUARY) == 1


def test_an_assumed_role_whose_session_ended_is_tried_again_with_a_new_one(
    on_s3: Place, aws: Aws, weather: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_month(on_s3.source, JANUARY)
    spec, url = on_s3.spec(), on_s3.stores().tables.s3.storage_options()["AWS_ENDPOINT_URL"]  # type: ignore[union-attr]
    role = aws.connection(
        url,
        role_arn="arn:aws:iam::123456789012:role/mlops",
        service_config={"sts": {"endpoint_url": aws.url}},
    )
    stores = with_connection(on_s3, monkeypatch, role)
    assert stores.s3 is not None
    weather.set(refused_token=stores.s3.storage_options()["AWS_SESSION_TOKEN"])

    with pytest.raises(
        StoreUnavailableError, match="session of connection 'warehouse' ended.*renewed for the next try"
    ):
        ingest.land(spec, stores, JANUARY, origin=origin("land_data", "r"))

    ingest.land(spec, with_connection(on_s3, monkeypatch, role), JANUARY, origin=origin("land_data", "r"))
    assert soundness.replacements(on_s3, Table.RAW, JANUARY) == 1


def another_environment(place: Place) -> Place:
    """An environment with a ledger of its own, whose tables were pointed at the same root by mistake."""
    folder = place.folder / "staging"
    folder.mkdir()
    return replace(place, folder=folder, ledger_url=f"sqlite:///{folder}/ledger.db")


@pytest.mark.parametrize("known", [True, False], ids=["with a history", "brand new"])
def test_a_second_environment_is_told_that_the_tables_are_anothers(on_s3: Place, known: bool) -> None:
    ingest_one(on_s3, JANUARY)
    ingest_one(on_s3, FEBRUARY)
    contents, versions, staging = soundness.contents(on_s3), soundness.versions(on_s3), another_environment(on_s3)
    if known:
        staging.stores().ledger.append(Kind.LANDING, MODEL, {})
    staging.source.mkdir()

    for month in (FEBRUARY, "2013-03"):
        write_month(staging.source, month, trips(month, seed=7))
        with pytest.raises(ConfigurationError, match="belongs to another environment.* Give each .*MLOPS_TABLES_URI"):
            ingest_month(staging, month)

    assert soundness.contents(on_s3) == contents
    assert soundness.versions(on_s3) == versions
    ingest_one(on_s3, "2013-03")
    soundness.assert_nothing_broken(on_s3)


def test_tables_may_be_taken_over_on_purpose(on_s3: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest_one(on_s3, JANUARY)
    ingest_one(on_s3, FEBRUARY)
    staging = another_environment(on_s3)
    staging.source.mkdir()
    monkeypatch.setenv("MLOPS_TABLES_TAKE_OVER", "1")
    ingest_one(staging, "2013-03")
    monkeypatch.delenv("MLOPS_TABLES_TAKE_OVER")

    ingest_one(staging, "2013-04")
    with pytest.raises(ConfigurationError, match="belongs to another environment"):
        ingest_one(on_s3, "2013-05")


def test_of_two_environments_that_write_at_once_one_wins_and_the_other_is_told(on_s3: Place) -> None:
    ingest_one(on_s3, JANUARY)
    staging = another_environment(on_s3)
    staging.source.mkdir()
    write_month(on_s3.source, FEBRUARY)
    write_month(staging.source, FEBRUARY, trips(FEBRUARY, seed=7))
    frames = [trips(FEBRUARY).drop(columns="delay"), trips(FEBRUARY, seed=7).drop(columns="delay")]
    uri = on_s3.table("scratch")
    writers = [stores.tables.replace_partition(uri, FEBRUARY) for stores in (on_s3.stores(), staging.stores())]
    outcomes: list[str] = []

    def write(index: int) -> None:
        try:
            writers[index].write(frames[index], origin_key=f"environment {index}")
            outcomes.append("written")
        except (ConcurrentWriteError, ConfigurationError) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=write, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outcomes.count("written") == 1
    assert len(on_s3.stores().tables.read(uri)) == len(frames[0])
