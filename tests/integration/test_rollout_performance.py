"""A version that looks fine to every other guard, and predicts what does not happen, is found by its labels."""

from __future__ import annotations

import argparse
import copy
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import httpx
import numpy as np
import pandas as pd
import pytest
from airflow.sdk.exceptions import AirflowFailException
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_provider.cli import rollout as cli
from mlops_provider.core.guards import Observed
from mlops_provider.core.names import Arm, Header, Kind, Table
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import StoreUnavailableError
from mlops_provider.operators.deploy import DeployModelOperator
from mlops_provider.steps import live, rollouts
from mlops_provider.steps.deploy import deploy
from mlops_provider.stores.s3 import S3
from mlops_provider.stores.tables import Tables
from support import serving
from support.in_process import InProcessTarget
from support.serving import COLUMNS, MODEL, World, frame, origin

WORSE, GOOD = "2", "3"
GUARDS: dict[str, Any] = {
    "errors": {"maximum": 0.05, "minimum_requests": 20},
    "latency": {"p99_ms": 5000, "minimum_requests": 20},
    "predictions": {"maximum": 0.7, "minimum_rows": 20},
    "performance": {"drop": 0.05, "limit": 0.6, "minimum_labels": 30},
}
QUICK: dict[str, Any] = {
    "strategy": "canary", "steps": [50, 100], "soak_seconds": 0.5, "look_seconds": 0.5, "wait_at_most_seconds": 60.0,
    "without_data": "rollback", "guards": GUARDS,
}  # fmt: skip


def fitted(seed: int) -> Any:
    """Late is what flies far; version 2 says the opposite, about as often."""
    rows = frame(300)
    late = (rows["distance"] > 1000).astype(int)
    columns = make_column_transformer(
        (OneHotEncoder(), ["carrier"]), remainder="passthrough", verbose_feature_names_out=False
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=2000))
    return model.fit(rows[list(COLUMNS)], 1 - late if str(seed) == WORSE else late)


class Callers:
    """They ask about one flight each, and tell soon after whether it was late."""

    def __init__(self, url: str, *, tell: bool = True) -> None:
        self.url, self.tell, self.done = url, tell, threading.Event()
        self.codes: set[int] = set()
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(3)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()

    def ask(self, number: int) -> None:
        rows = frame(5000, seed=50 + number)[list(COLUMNS)].to_dict(orient="records")
        with httpx.Client(base_url=f"{self.url}/models/{MODEL}", timeout=10, verify=False) as client:
            for row in rows:
                if self.done.is_set():
                    return
                answer = client.post("invocations", json={"dataframe_records": [row]})
                told = {"request_id": answer.headers[Header.REQUEST_ID], "outcome": int(row["distance"] > 1000)}
                noted = client.post("outcomes", json={"outcomes": [told]}) if self.tell else answer
                self.codes |= {answer.status_code, noted.status_code}
                time.sleep(0.01)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[World]:
    """Three versions, and a server in which the first one serves."""
    world = World(tmp_path_factory.mktemp("performance"), empty_mlflow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "pipeline", fitted)
        world.land_features()
        for seed in range(1, 4):
            world.register(seed, recorded=False)
    world.record("1")
    world.serve("a")
    deploy(world.spec(), world.stores, "1", target=world.target(), origin=origin(run="first"))
    yield world
    world.close()


@pytest.fixture
def spool(trained: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks see what the server logs."""
    monkeypatch.setenv("MLOPS_SPOOL_DIR", str(trained.spool))
    trained.stores.spool_s3 = S3


def task(world: World, version: str, told: list[str], **rollout: Any) -> Any:
    """Run the task that deploys a version."""
    made = DeployModelOperator(
        task_id="deploy_model",
        version=version,
        model_yaml=str(world.spec(rollout={**QUICK, **rollout}).path),
        deferrable=False,
        on_incident_callback=lambda context: told.append(context["mlops"]["summary"]),
    )
    made.stores, made.target = world.stores, world.target()
    world.record(version, champion="1")
    ti = SimpleNamespace(dag_id="late_flights_deploy", run_id=f"v{version}", task_id="deploy_model", map_index=-1)
    context: Any = {"ti": ti, "dag_run": SimpleNamespace(triggering_user_name="ada")}
    return made.execute(context)


@pytest.mark.slow
@pytest.mark.usefixtures("spool")
def test_a_version_that_predicts_worse_is_taken_back_though_all_else_is_fine(
    trained: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    with (
        Callers(trained.servers[0].url) as callers,
        pytest.raises(AirflowFailException, match="performance: roc_auc 0") as failure,
    ):
        task(trained, WORSE, told)

    incident = trained.ledger.latest(Kind.INCIDENT, MODEL).payload
    verdicts = {reading["guard"]: reading["verdict"] for reading in incident["readings"]}
    assert verdicts == {"errors": "passed", "latency": "passed", "predictions": "passed", "performance": "breached"}
    assert callers.codes == {200}
    assert told == [str(failure.value)]
    assert trained.ledger.traffic(MODEL).split == {"1": 100}
    assert trained.ledger.latest(Kind.ROLLBACK, MODEL).payload["refused"] == [WORSE]
    spec = trained.spec(rollout=QUICK)
    monkeypatch.setattr(cli, "opened", lambda model: (spec, trained.stores, trained.target()))
    cli.status(argparse.Namespace(model=MODEL))
    assert "last incident" in (said := capsys.readouterr().out)
    assert "performance: roc_auc 0" in said


@pytest.mark.slow
@pytest.mark.usefixtures("spool")
def test_a_version_that_predicts_as_well_settles(trained: World) -> None:
    told: list[str] = []

    with Callers(trained.servers[0].url) as callers:
        settled = task(trained, GOOD, told)

    assert settled["split"] == {GOOD: 100}
    assert "tolerated drop 0.0500" in settled["reason"]
    assert (callers.codes, told) == ({200}, [])


NUMBERS: dict[str, Any] = {"target": {"name": "late", "task": "regression"}, "gate": {"primary": "rmse"}}
PERFORMANCE = {"minimum_labels": 50}


@pytest.fixture
def world(four_versions: World, tmp_path: Path) -> World:
    """Version 2 gets 10 % beside version 1; nothing is logged yet."""
    world = copy.copy(four_versions)  # whose tables others use
    world.tables = Tables(str(tmp_path / "tables"))
    world.use_ledger(tmp_path / "ledger.db")
    world.settle({"1": 100})
    world.settle({"1": 90, "2": 10}, settled=False)
    return world


def logged(
    world: World, rows: pd.DataFrame, version: str, *, arm: str = Arm.SPLIT, generation: int = 2, part: int = 1
) -> None:
    """Deliver predictions of a version, one row a request."""
    about = {"version": version, "arm": arm, "generation": generation, "answered_at": datetime.now(UTC)}
    uri, app = world.tables.uri(MODEL, Table.PREDICTION_LOG), f"{version}-{arm}-{generation}"
    made = rows.assign(**{"row": 0, **rows, **about})[["request_id", "row", "prediction", "keys", *about]]
    world.tables.append_once(uri, made.astype({"answered_at": "datetime64[us, UTC]"}), app_id=app, sequence=part)


def told(world: World, rows: pd.DataFrame, *, part: int = 1, by_key: bool = False) -> None:
    """Deliver outcomes of requests, or of what they were about."""
    now = pd.Timestamp(datetime.now(UTC)).as_unit("us")
    known = pd.DataFrame(
        {"request_id": rows["request_id"], "row": rows.get("row", 0), "keys": None, "outcome": rows["outcome"]}
    )
    if by_key:
        known = known.assign(request_id=None, row=None, keys=rows["keys"])
    typed = known.astype({"request_id": "string", "keys": "string", "row": "Int64"})
    uri = world.tables.uri(MODEL, Table.OUTCOME_LOG)
    world.tables.append_once(uri, typed.assign(observed_at=now, received_at=now), app_id="server", sequence=part)


def numbers(rows: int, *, off: float, name: str, seed: int = 1) -> pd.DataFrame:
    """Requests whose predictions miss by *off* in the mean of squares."""
    random = np.random.default_rng(seed)
    outcome = random.normal(100, 20, rows)
    return pd.DataFrame(
        {
            "request_id": [f"{name}{number}" for number in range(rows)],
            "keys": [f'["{name}{number}"]' for number in range(rows)],
            "outcome": outcome,
            "prediction": outcome + random.normal(0, off, rows),
        }
    )


def said(world: World, **declared: Any) -> tuple[str, str]:
    """What the guard finds now."""
    guards = {"performance": {**PERFORMANCE, **declared}}
    spec = world.spec(**NUMBERS, rollout={"guards": guards})
    traffic = world.ledger.traffic(MODEL)
    (reading,) = live_readings(spec, world, traffic)
    return reading.verdict, reading.sentence


def live_readings(spec: Any, world: World, traffic: Any) -> Any:
    from mlops_provider.steps.watch import readings

    return readings(spec, world.stores, InProcessTarget(world), traffic, "2")


def test_without_labels_the_guard_waits_and_says_so(world: World) -> None:
    nothing = said(world)
    logged(world, numbers(60, off=1, name="a"), "1")
    unlabelled = said(world)

    assert nothing == unlabelled == ("waiting", "performance: 0 labelled predictions so far, 50 are needed.")


def test_predicted_numbers_are_held_against_the_champions(world: World) -> None:
    ours, theirs = numbers(80, off=30, name="b", seed=2), numbers(400, off=5, name="a")
    logged(world, ours, "2")
    logged(world, theirs, "1")
    told(world, pd.concat([ours, theirs]))

    verdict, sentence = said(world)
    lenient, _ = said(world, drop="900 %")
    capped, why = said(world, drop="900 %", limit=20)

    assert (verdict, lenient, capped) == ("breached", "passed", "breached")
    assert "of 80 labelled predictions" in sentence
    assert "worse than the champion's" in sentence
    assert "(10 %)" in sentence
    assert "limit 20" in why


def test_a_difference_that_may_be_chance_passes_and_says_so(world: World) -> None:
    ours, theirs = numbers(50, off=5.8, name="b", seed=2), numbers(400, off=5, name="a")
    logged(world, ours, "2")
    logged(world, theirs, "1")
    told(world, pd.concat([ours, theirs]))

    verdict, sentence = said(world, drop=0.0)

    assert verdict == "passed"
    assert "it may be chance" in sentence


def test_a_shadow_is_compared_on_the_very_rows_that_were_answered(world: World) -> None:
    world.settle({"1": 100, "2": 0}, settled=False)
    world.settle({"1": 100})
    world.ledger.propose_traffic(MODEL, {"1": 100, "2": 0}, settled=False, expected_generation=4, shadow=("2",))
    rows = numbers(60, off=5, name="a")
    logged(world, rows, "1", generation=5)
    wider = rows["outcome"] + 1.1 * (rows["prediction"] - rows["outcome"])
    logged(world, rows.assign(prediction=wider), "2", arm=Arm.SHADOW, generation=5)
    told(world, rows)
    spec = world.spec(**NUMBERS, rollout={"guards": {"performance": PERFORMANCE}})

    found = live.performance(spec, world.stores, spec.rollout_policy.guards.performance, "2", "1")

    assert found.met is not None
    assert (found.met.version, found.met.champion.labels) == (found.version, 60)
    assert found.met.worse.value == pytest.approx(0.1 * found.met.champion.score.value)
    assert found.met.worse.error < found.version.score.error / 5


def test_only_this_rollouts_answers_to_callers_count(world: World) -> None:
    ours = numbers(60, off=5, name="b", seed=2)
    logged(world, ours[:10], "2", generation=1)
    logged(world, ours[10:20], "2", arm=Arm.PINNED)
    logged(world, ours[20:30], "2", arm=Arm.FALLBACK)
    logged(world, ours[30:], "2")
    told(world, ours)

    assert said(world)[1] == "performance: 30 labelled predictions so far, 50 are needed."


def test_steps_are_not_thrown_together_as_each_has_its_share_and_its_times(world: World) -> None:
    world.settle({"1": 50, "2": 50}, settled=False)
    rows = []
    for generation, noise, ours, theirs in ((2, 10, 100, 900), (3, 25, 500, 500)):  # it gets harder for both
        for version, count in (("2", ours), ("1", theirs)):
            name = f"{generation}-{version}-"
            rows.append(numbers(count, off=noise, name=name, seed=generation * 10 + int(version)))
            logged(world, rows[-1], version, generation=generation)
    told(world, pd.concat(rows))

    verdict, sentence = said(world)

    assert verdict == "passed"
    assert "of 500 labelled predictions" in sentence


def test_where_callers_reach_no_champion_the_step_before_counts_and_the_limit(world: World) -> None:
    ours, theirs = numbers(60, off=5, name="b", seed=2), numbers(60, off=5, name="a")
    logged(world, ours, "2")
    logged(world, theirs, "1")
    world.settle({"2": 100}, settled=False)
    broken = numbers(80, off=40, name="c", seed=3)
    logged(world, broken[:40], "2", generation=3)
    told(world, pd.concat([ours, theirs, broken]))

    compared = said(world)
    few = said(world, limit=15)
    logged(world, broken[40:], "2", generation=3, part=2)
    many = said(world, limit=15)

    assert compared[0] == "passed"
    assert "of 60 labelled predictions" in compared[1]
    assert few == ("waiting", "performance: 40 labelled predictions so far, 50 are needed.")
    assert many[0] == "breached"
    assert "of 80 labelled predictions, limit 15" in many[1]


def test_a_busy_model_is_judged_on_a_sample_that_spans_the_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_provider.adapters.live.MOST", 300)
    parts = []
    for part, noise in enumerate((5, 20)):  # harder in the second half, for both
        for version, count in (("2", 150), ("1", 1350)):
            parts.append(numbers(count, off=noise, name=f"{part}-{version}-", seed=part * 10 + int(version)))
            logged(world, parts[-1], version, part=part + 1)
    told(world, pd.concat(parts))
    canary = said(world)
    world.settle({"2": 100}, settled=False)
    later = numbers(400, off=5, name="later")  # more rows than are kept, without a champion
    logged(world, later, "2", generation=3)
    told(world, later, part=2)

    assert canary[0] == said(world)[0] == "passed"


def test_ten_rows_of_a_request_count_at_most(world: World) -> None:
    rows = numbers(400, off=5, name="a")
    batch = rows.assign(request_id="batch", row=range(400))
    logged(world, batch, "2")
    told(world, batch)

    assert said(world)[1] == "performance: 10 labelled predictions so far, 50 are needed."


def test_what_is_asked_again_and_again_has_one_outcome(world: World) -> None:
    flights = numbers(20, off=5, name="a")
    polls = [flights.assign(request_id=[f"{poll}-{number}" for number in range(20)]) for poll in range(10)]
    logged(world, pd.concat(polls), "2")
    told(world, flights, by_key=True)
    of_flights = said(world)[1]
    told(world, polls[0], part=2)

    assert of_flights == "performance: 20 labelled predictions so far, 50 are needed."
    assert said(world)[1] == "performance: 40 labelled predictions so far, 50 are needed."  # told of each answer


def test_equal_models_of_something_rare_wait_for_ten_of_each_class(world: World) -> None:
    def few(late: int, name: str) -> pd.DataFrame:
        rows = numbers(300, off=1, name=name)
        return rows.assign(outcome=[1.0] * late + [0.0] * (300 - late), prediction=[0.9] * late + [0.1] * (300 - late))

    ours, theirs = few(9, "b"), few(20, "a")
    ours.loc[:4, "prediction"] = 0.05  # of few, some are unlucky
    logged(world, ours, "2")
    logged(world, theirs, "1")
    told(world, pd.concat([ours, theirs]))
    spec = world.spec(rollout={"guards": {"performance": PERFORMANCE}})

    (reading,) = live_readings(spec, world, world.ledger.traffic(MODEL))

    assert reading.sentence == "performance: 9 labelled predictions of the rarer class so far, 10 are needed."


def test_outcomes_of_the_table_count_by_key_once_the_rollout_began(world: World) -> None:
    ours, theirs = numbers(60, off=5, name="b", seed=2), numbers(60, off=5, name="a")
    logged(world, ours, "2")
    logged(world, theirs, "1")
    labels = pd.concat([ours, theirs])
    flights = labels["keys"].str.slice(2, -2)
    outcomes = pd.DataFrame({"flight": flights, "late": labels["outcome"]})
    writer = world.tables.replace_partition(world.tables.uri(MODEL, Table.OUTCOMES), "2013-01")
    before = said(world)
    ref = writer.write(outcomes, origin_key="test").ref
    world.ledger.append(Kind.OUTCOMES, MODEL, ref.as_json())

    assert before[0] == "waiting"
    assert "of 60 labelled predictions" in said(world)[1]


def test_a_log_without_generations_is_told_apart_by_time(world: World) -> None:
    ours = numbers(60, off=5, name="b", seed=2)
    logged(world, ours, "2", generation=0)
    told(world, ours)

    assert "0 labelled predictions of the champion so far, 50 are needed" in said(world)[1]


class Silent(InProcessTarget):
    """Its replicas live, but do not say what callers met."""

    def observed(self, _: Traffic) -> dict[str, Observed]:
        raise StoreUnavailableError("Replica a lives but does not say what callers met.")


def test_where_a_rollout_stands_is_told_though_a_replica_is_silent(world: World) -> None:
    spec = world.spec()

    lines = list(cli.described(spec, rollouts.status(spec, world.stores, target=Silent(world))))

    assert f"{MODEL}: version 1: 90 %, version 2: 10 % (generation 2, not settled)" in lines
    assert "guards now: not known. Replica a lives but does not say what callers met." in lines
    assert "replicas: 2" in lines


def test_the_plan_names_the_guard(world: World) -> None:
    spec = world.spec(**NUMBERS, rollout={"guards": {"performance": {"limit": 20}}})

    (sentence,) = spec.rollout_policy.guards.sentences
    assert sentence.startswith("performance: rmse at most 10 % worse than the champion's, and at most 20, of 200 label")
