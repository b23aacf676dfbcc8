"""The driver of a replay against an Airflow that answers as told; the real one is in tests/system."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlops_provider.cli import replay as replaying
from mlops_provider.cli.airflow_api import AirflowApi
from mlops_provider.cli.progress import Progress
from mlops_provider.cli.replay_table import Row, heading, line, row_of
from mlops_provider.core.metrics import Interval
from mlops_provider.core.names import Kind
from mlops_provider.exceptions import PermanentError, StoreUnavailableError
from mlops_provider.stores.ledger import Ledger

MODEL = "flights"
DAGS = ("ingest", "score", "monitor", "train", "deploy")


class Airflow:
    """Runs are over as soon as they are started, unless *states* says otherwise."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], dict[str, Any]] = {}
        self.states: dict[tuple[str, str], list[str]] = {}
        self.on_start: Callable[[str, str, str | None], None] = lambda *_: None
        self.paused = {f"{MODEL}_{name}": name == "train" for name in DAGS}
        self.cleared: list[str] = []
        self.started: list[str] = []

    def start(self, dag_id: str, run_id: str, key: str | None = None) -> dict[str, Any]:
        self.started.append(f"{dag_id} {run_id}")
        run = {"dag_id": dag_id, "dag_run_id": run_id, "state": "success", "partition_key": key}
        self.runs[dag_id, run_id] = run
        self.on_start(dag_id, run_id, key)
        return run

    def seen(self, dag_id: str, run_id: str) -> dict[str, Any]:
        run = self.runs[dag_id, run_id]
        if states := self.states.get((dag_id, run_id)):
            run["state"] = states.pop(0) if len(states) > 1 else states[0]
        return run

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v2")
        if path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        if path == "/dags":
            dags = [{"dag_id": dag, "is_paused": paused} for dag, paused in self.paused.items()]
            return httpx.Response(200, json={"dags": dags})
        if path == "/importErrors":
            return httpx.Response(200, json={"import_errors": []})
        if found := re.fullmatch(r"/dags/(\w+)", path):
            self.paused[found[1]] = False
            return httpx.Response(200, json={})
        if found := re.fullmatch(r"/dags/(\w+)/dagRuns", path):
            return self.many(found[1], request)
        if found := re.fullmatch(r"/dags/(\w+)/dagRuns/([^/]+)", path):
            known = (found[1], found[2]) in self.runs
            return httpx.Response(200, json=self.seen(found[1], found[2])) if known else httpx.Response(404)
        if path.endswith("/clear"):
            self.cleared.append(path)
            return httpx.Response(200, json={})
        if path.endswith("/taskInstances"):
            task = {"task_id": "train_model", "map_index": -1, "state": "failed", "try_number": 2}
            return httpx.Response(200, json={"task_instances": [task]})
        assert path.endswith("/taskInstances/train_model/logs/2")
        return httpx.Response(200, json={"content": [{"event": "/logs/attempt=2.log"}, {"event": "disk is full"}]})

    def many(self, dag_id: str, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"dag_runs": [run for (dag, _), run in self.runs.items() if dag == dag_id]})
        body = json.loads(request.content)
        if (dag_id, body["dag_run_id"]) in self.runs:
            return httpx.Response(409, json={"detail": "exists"})
        return httpx.Response(200, json=self.start(dag_id, body["dag_run_id"], body["partition_key"]))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "POLL_SECONDS", 0.01)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def airflow(ledger: Ledger) -> Airflow:
    """An Airflow whose features start a scoring, and whose second month starts a training and a deployment."""
    airflow = Airflow()

    def on_start(dag_id: str, run_id: str, key: str | None) -> None:
        if dag_id.endswith("ingest"):
            ledger.append(Kind.VALIDATION, MODEL, {"partition": key, "rows": 27_004, "quarantined": 7})
            airflow.start(f"{MODEL}_score", f"asset_{key}", key)
        if dag_id.endswith("monitor"):
            decide(ledger, run_id, str(key), retrain=key == "2013-02")
            if key == "2013-02":
                gate = ledger.append(Kind.GATE, MODEL, {"partition": key, "passed": True, "summary": "Passed."})
                ledger.append(Kind.REGISTRATION, MODEL, {"version": "1", "gate": gate.record_id})
                ledger.propose_traffic(MODEL, {"1": 100}, settled=True, expected_generation=0, reason="", actor="")
                airflow.start(f"{MODEL}_train", f"{MODEL}-first-{key}")
                airflow.start(f"{MODEL}_deploy", f"{MODEL}-version-1")

    airflow.on_start = on_start
    return airflow


def decide(ledger: Ledger, run_id: str, month: str, *, retrain: bool) -> None:
    reasons = ["Two months have features and outcomes."] if retrain else ["One month is not enough."]
    ledger.decide_once(
        Kind.RETRAIN,
        MODEL,
        f"{MODEL}_monitor/{run_id}/decide_retrain/-1",
        lambda: {
            "retrain": retrain,
            "trigger": "first_model" if retrain else "none",
            "reasons": reasons,
            "cause": f"{MODEL}-first-{month}" if retrain else None,
            "through": month,
        },
        inputs={"partition": month},
    )


@pytest.fixture
def replay(airflow: Airflow, ledger: Ledger) -> replaying.Replay:
    api = AirflowApi("http://airflow", user="u", password="p", transport=httpx.MockTransport(airflow))
    return replaying.Replay(api, ledger, MODEL, metric="roc_auc", progress=lambda *_: None, timeout=30)


def test_a_month_goes_through_every_dag_in_order(replay: replaying.Replay, airflow: Airflow) -> None:
    row = replay.month("2013-02")

    assert airflow.started == [
        "flights_ingest replay__2013-02",
        "flights_score asset_2013-02",
        "flights_monitor replay__2013-02",
        "flights_train flights-first-2013-02",
        "flights_deploy flights-version-1",
    ]
    assert (row.rows, row.quarantined, row.serving) == (27_004, 7, "1")
    assert row.decision == "Retrain (first model): Two months have features and outcomes. Passed the gate as v1."


def test_a_replay_that_was_cut_off_goes_on_without_starting_anything_twice(
    replay: replaying.Replay, airflow: Airflow
) -> None:
    first = replay.month("2013-02")
    started = list(airflow.started)

    assert replay.month("2013-02") == first
    assert airflow.started == started


def test_it_waits_for_a_run_that_takes_its_time(replay: replaying.Replay, airflow: Airflow) -> None:
    airflow.states["flights_monitor", "replay__2013-01"] = ["queued", "running", "running", "success"]

    assert replay.month("2013-01").decision == "Keep: One month is not enough."
    assert airflow.states["flights_monitor", "replay__2013-01"] == ["success"]


def test_a_failed_task_is_named_with_the_end_of_its_log(replay: replaying.Replay, airflow: Airflow) -> None:
    airflow.states["flights_train", "flights-first-2013-02"] = ["running", "failed"]

    with pytest.raises(PermanentError) as failed:
        replay.month("2013-02")

    for word in (
        "flights_train",
        "flights-first-2013-02",
        "train_model",
        "try 2",
        "disk is full",
        "/logs/attempt=2.log",
    ):
        assert word in str(failed.value)


def test_a_run_that_an_earlier_replay_left_failed_is_tried_again(replay: replaying.Replay, airflow: Airflow) -> None:
    airflow.start("flights_ingest", "replay__2013-01", "2013-01")["state"] = "failed"
    airflow.states["flights_ingest", "replay__2013-01"] = ["failed", "queued", "success"]

    replay.month("2013-01")

    assert airflow.cleared == ["/dags/flights_ingest/dagRuns/replay__2013-01/clear"]


def test_a_month_keeps_its_version_if_one_serves_and_none_is_trained(
    replay: replaying.Replay, airflow: Airflow, ledger: Ledger
) -> None:
    kept = {}
    for month in ("2013-01", "2013-02"):
        replay.month(month)
        kept[month] = replay.kept(month)
    decide(ledger, "replay__2013-03", "2013-03", retrain=False)

    assert kept == {"2013-01": False, "2013-02": False}
    assert replay.kept("2013-03")


def test_a_candidate_that_its_rollout_took_back_is_a_row_and_no_failure(
    replay: replaying.Replay, airflow: Airflow, ledger: Ledger
) -> None:
    ledger.propose_traffic(MODEL, {"1": 100}, settled=True, expected_generation=0)
    asked: list[dict[str, Any]] = []
    replay.callers = lambda month, **how: asked.append(how) or nullcontext()  # type: ignore[func-returns-value]

    def take_back(dag_id: str, run_id: str, key: str | None) -> None:
        about = {"version": "2", "reason": "errors: 14 of 72 requests failed.", "seconds": 0.34}
        ledger.append(Kind.INCIDENT, MODEL, {**about, "split": {"1": 90, "2": 10}})

    airflow.on_start = take_back
    airflow.states[f"{MODEL}_deploy", f"{MODEL}-version-2"] = ["running", "failed"]
    row = replay.faulty("2013-02", "2")
    again = replay.faulty("2013-02", "2")

    assert row == again
    assert airflow.started == [f"{MODEL}_deploy {MODEL}-version-2"]
    assert asked == [{"unseen": True}]
    assert row.serving == "1"
    assert row.decision == (
        "Injected: a candidate that fails some callers. Passed the gate as v2. Rolled back by itself at 10 %: errors: "
        "14 of 72 requests failed. Restored on every replica in 0.3 s."
    )


def test_a_deployment_that_failed_without_an_incident_fails_the_replay(
    replay: replaying.Replay, airflow: Airflow
) -> None:
    airflow.states[f"{MODEL}_deploy", f"{MODEL}-version-2"] = ["failed"]

    with pytest.raises(PermanentError, match="disk is full"):
        replay.faulty("2013-02", "2")


def test_a_scoring_that_never_starts_is_told(replay: replaying.Replay, airflow: Airflow) -> None:
    airflow.on_start = lambda *_: None
    replay.timeout = 0.1

    with pytest.raises(StoreUnavailableError, match="flights_score to be started by the features"):
        replay.month("2013-01")


def test_paused_dags_are_unpaused(replay: replaying.Replay, airflow: Airflow) -> None:
    replay.wait_for_dags()

    assert not any(airflow.paused.values())


def test_a_month_without_a_model_shows_dashes(ledger: Ledger) -> None:
    row = row_of(ledger, MODEL, "2013-01", metric="roc_auc")

    assert row == Row("2013-01", None, None, None, (), "", None)
    assert line(row).count("\N{EN DASH}") == 6


def test_the_newest_record_of_a_month_counts(ledger: Ledger) -> None:
    for low in (0.60, 0.70):
        metrics = {"roc_auc": Interval(low + 0.01, low, low + 0.02).as_json()}
        ledger.append(Kind.PERFORMANCE, MODEL, {"partition": "2013-03", "metrics": metrics})
    ledger.append(Kind.DRIFT, MODEL, {"partition": "2013-03", "drifted": ["temp", "dewpoint_spread", "humid"]})

    row = row_of(ledger, MODEL, "2013-03", metric="roc_auc")

    assert row.score == Interval(0.71, 0.70, 0.72)
    assert "0.710 (0.700-0.720)" in line(row)
    assert "temp, dewpoint_spread +1" in line(row)


def test_a_month_keeps_the_version_that_served_when_it_was_closed(ledger: Ledger) -> None:
    ledger.append(Kind.LANDING, MODEL, {"partition": "2013-02"})
    ledger.propose_traffic(MODEL, {"1": 100}, settled=True, expected_generation=0, reason="", actor="")
    ledger.append(Kind.LANDING, MODEL, {"partition": "2013-03"})
    ledger.propose_traffic(MODEL, {"1": 90, "2": 10}, settled=False, expected_generation=1, reason="", actor="")
    ledger.propose_traffic(MODEL, {"2": 100}, settled=True, expected_generation=2, reason="", actor="")

    served = {
        month: row_of(ledger, MODEL, month, metric="roc_auc").serving for month in ("2013-01", "2013-02", "2013-03")
    }

    assert served == {"2013-01": None, "2013-02": "1", "2013-03": "2"}


def test_an_alarm_comes_before_the_decision(ledger: Ledger) -> None:
    ledger.append(
        Kind.DRIFT,
        MODEL,
        {"partition": "2013-04", "drifted": ["temp"], "alarm": True, "reasons": ["temp: 4.3, limit 1."]},
    )
    decide(ledger, "r", "2013-04", retrain=False)

    row = row_of(ledger, MODEL, "2013-04", metric="roc_auc")

    assert row.decision == "Drift alarm: temp: 4.3, limit 1. Keep: One month is not enough."


def test_a_rejection_says_why(ledger: Ledger) -> None:
    decide(ledger, "r", "2013-05", retrain=True)
    ledger.append(Kind.GATE, MODEL, {"partition": "2013-05", "passed": False, "summary": "Rejected. AUC 0.61."})

    assert row_of(ledger, MODEL, "2013-05", metric="roc_auc").decision.endswith(". Rejected. AUC 0.61.")


def test_every_cell_of_a_row_stands_under_its_name(ledger: Ledger) -> None:
    long = "retrain: " + "because " * 30
    row = Row("2013-04", 28_330, 1_234, Interval(0.7, 0.69, 0.71), ("a" * 40, "b"), long, "12")

    first, *rest = line(row).splitlines()
    head = heading("roc_auc").splitlines()[0]

    assert first.index("0.700 (") == head.index("AUC")
    assert first.index("v12") == head.index("serving")
    assert all(more.startswith(" " * head.index("decision")) for more in rest)
    assert " ".join([first[head.index("decision") :], *(more.strip() for more in rest)]) == long.strip()


def test_progress_off_a_terminal_is_one_line_per_change() -> None:
    stream = io.StringIO()
    progress = Progress(stream)

    for about, detail in (("a", "x"), ("a", "y"), ("b", "")):
        progress.say(about, detail)
    progress.clear()

    assert stream.getvalue() == "a\nb\n"


def test_progress_on_a_terminal_stays_on_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    progress = Progress(stream)

    progress.say("2013-01  ingest", "land_data")
    progress.say("2013-01  ingest", "")
    progress.clear()

    assert stream.getvalue() == "\r\033[K2013-01  ingest  land_data (0 s)" * 2 + "\r\033[K"
