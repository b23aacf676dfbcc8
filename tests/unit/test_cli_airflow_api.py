"""What the driver says to Airflow, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from mlops_provider.cli.airflow_api import AirflowApi, DagRun, TaskTry
from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError

Answer = Callable[[httpx.Request], httpx.Response]
RUN = {"dag_id": "d", "dag_run_id": "r 1", "state": "running", "partition_key": "2013-01"}


def api(answer: Answer) -> AirflowApi:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        return answer(request)

    return AirflowApi("http://airflow", user="u", password="p", transport=httpx.MockTransport(handle))


def test_a_run_is_started_with_its_partition_and_no_logical_date() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=RUN)

    run = api(answer).trigger("d", "r 1", partition_key="2013-01")

    assert run == DagRun("d", "r 1", "running", "2013-01")
    assert json.loads(sent[0].content) == {
        "dag_run_id": "r 1",
        "logical_date": None,
        "partition_key": "2013-01",
        "conf": {},
    }
    assert sent[0].headers["Authorization"] == "Bearer t"


def test_a_run_that_exists_is_found_instead() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(409, json={"detail": "exists"})
        assert request.url.raw_path == b"/api/v2/dags/d/dagRuns/r%201"
        return httpx.Response(200, json=RUN | {"state": "success"})

    assert api(answer).trigger("d", "r 1").finished


def test_a_token_that_has_expired_is_renewed() -> None:
    answers = iter([httpx.Response(401), httpx.Response(200, json=RUN)])

    assert api(lambda _: next(answers)).run("d", "r 1") == DagRun("d", "r 1", "running", "2013-01")


def test_no_run_is_no_error() -> None:
    assert api(lambda _: httpx.Response(404)).run("d", "r") is None


def test_only_runs_of_the_very_partition_count() -> None:
    runs = [RUN, RUN | {"partition_key": "2013-010"}]

    found = api(lambda _: httpx.Response(200, json={"dag_runs": runs})).runs_of("d", "2013-01")

    assert [run.partition_key for run in found] == ["2013-01"]


def test_a_refusal_holds_what_airflow_said() -> None:
    refusing = api(lambda _: httpx.Response(400, json={"detail": "no such partition"}))

    with pytest.raises(ConfigurationError, match="no such partition"):
        refusing.trigger("d", "r")


def test_a_wrong_password_is_named() -> None:
    refusing = AirflowApi(
        "http://airflow", user="u", password="p", transport=httpx.MockTransport(lambda _: httpx.Response(401))
    )

    with pytest.raises(ConfigurationError, match="does not accept user 'u'"):
        refusing.known_dags()


def test_an_airflow_that_is_away_may_come_back() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(StoreUnavailableError, match="mlops up"):
        api(answer).known_dags()


def test_a_log_is_told_with_its_place_and_the_innermost_error() -> None:
    content = [
        {"event": "::group::Log message source details"},
        {"event": "/logs/dag_id=d/attempt=1.log"},
        {"event": "::endgroup::"},
        {"event": "Reading"},
        {
            "event": "Task failed with exception",
            "error_detail": [
                {
                    "exc_type": "SourceError",
                    "exc_value": "The file is gone.",
                    "frames": [{"filename": f"f{number}.py", "lineno": number, "name": "act"} for number in range(9)],
                }
            ],
        },
    ]

    place, lines = api(lambda _: httpx.Response(200, json={"content": content})).log(
        TaskTry("d", "r", "t", -1, "failed", 1)
    )

    assert place == "/logs/dag_id=d/attempt=1.log"
    assert lines[0] == "Reading"
    assert lines[-1] == "SourceError: The file is gone."
    assert "f8.py:8" in lines[-2]
