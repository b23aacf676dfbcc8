"""The steps as tasks call them: fresh stores, arguments and results that another process can be handed."""

from __future__ import annotations

import functools
import resource
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlops_provider import serving
from mlops_provider.core.references import TableRef
from mlops_provider.serving import process as server_process
from mlops_provider.serving.follower import Follower
from mlops_provider.steps import deploy, gate, ingest, monitor, score, segments, train
from mlops_provider.steps.rollback import rollback
from mlops_provider.targets import Server
from support.tiny import Place, ingest_month, origin, register_candidate


def land(place: Place, month: str, run: str) -> Any:
    return ingest.land(place.spec(), place.stores(), month, origin=origin("land_data", run)).as_json()


def validate(place: Place, month: str, run: str, landed: Mapping[str, Any]) -> Any:
    table = TableRef.from_json(landed)
    return ingest.validate(place.spec(), place.stores(), month, table, origin=origin("validate_data", run)).as_json()


def build_features(place: Place, month: str, run: str, clean: Mapping[str, Any]) -> Any:
    table = TableRef.from_json(clean)
    built = ingest.build_features(place.spec(), place.stores(), month, table, origin=origin("build_features", run))
    return built.as_json()


def score_batch(place: Place, month: str, run: str) -> Any:
    return score.score(place.spec(), place.stores(), month, origin=origin("score_batch", run)).as_json()


def deliver_predictions(place: Place, run: str) -> Any:
    spool, task = str(place.folder / "spool"), origin("deliver_predictions", run)
    return monitor.deliver_predictions(place.spec(), place.stores(), spool_dir=spool, origin=task)


def record_outcomes(place: Place, month: str, run: str) -> Any:
    task = origin("record_outcomes", run)
    return monitor.record_outcomes(place.spec(), place.stores(), month, origin=task).as_json()


def measure_performance(place: Place, month: str, run: str) -> Any:
    return monitor.measure_performance(place.spec(), place.stores(), month, origin=origin("measure_performance", run))


def detect_drift(place: Place, month: str, run: str) -> Any:
    workspace, task = str(place.folder / "workspace"), origin("detect_drift", run)
    return monitor.detect_drift(place.spec(), place.stores(), month, workspace=workspace, origin=task)


def decide_retrain(place: Place, month: str, run: str, performance: str, drift: str) -> Any:
    task = origin("decide_retrain", run)
    return monitor.decide_retrain(
        place.spec(), place.stores(), month, performance=performance, drift=drift, origin=task
    )


def declare_gate(place: Place, through: str, run: str) -> Any:
    return train.declare_gate(place.spec(), place.stores(), through, origin=origin("declare_gate", run))


def train_model(place: Place, through: str, run: str, declaration: str) -> Any:
    parameters = {"max_leaf_nodes": 9}
    task = origin("train_model", run)
    return train.train_model(
        place.spec(), place.stores(), through, parameters=parameters, declaration=declaration, origin=task
    )


def plan_segments(place: Place, through: str, run: str, run_id: str, declaration: str) -> Any:
    task = origin("plan_segments", run)
    return segments.plan_segments(
        place.spec(), place.stores(), through, run_id=run_id, declaration=declaration, origin=task
    )


def train_segment(
    place: Place, through: str, run: str, segment: Mapping[str, str], index: int, declaration: str
) -> Any:
    task = replace(origin("train_segment", run), map_index=index)
    return segments.train_segment(
        place.spec(), place.stores(), through, segment=segment, declaration=declaration, origin=task
    )


def assemble_model(place: Place, through: str, run: str, run_id: str, decided: list[str], declaration: str) -> Any:
    task = origin("assemble_model", run)
    return segments.assemble_model(
        place.spec(), place.stores(), through, run_id=run_id, segments=decided, declaration=declaration, origin=task
    )


def evaluate_model(place: Place, through: str, run: str, run_id: str, declaration: str) -> Any:
    task = origin("evaluate_model", run)
    return train.evaluate_model(
        place.spec(), place.stores(), through, run_id=run_id, declaration=declaration, origin=task
    )


def decide_gate(place: Place, run: str, evaluation: str, declaration: str) -> Any:
    task = origin("decide_gate", run)
    return gate.decide_gate(place.stores(), evaluation=evaluation, declaration=declaration, origin=task)[0]


def register_model(place: Place, run: str, run_id: str, verdict: str) -> Any:
    task = origin("register_model", run)
    return train.register_model(place.spec(), place.stores(), run_id=run_id, verdict=verdict, origin=task)


def check_serving(place: Place, version: str, url: str, run: str) -> Any:
    stores = place.stores()
    target = Server(url, model=place.spec().name, ledger=stores.ledger)
    return deploy.check_serving(place.spec(), stores, version, target=target, origin=origin("check_serving", run))


def deploy_model(place: Place, version: str, url: str, run: str) -> Any:
    stores = place.stores()
    target = Server(url, model=place.spec().name, ledger=stores.ledger)
    return deploy.deploy(place.spec(), stores, version, target=target, origin=origin("deploy_model", run)).as_json()


def rollback_model(place: Place, url: str, run: str) -> Any:
    stores = place.stores()
    target = Server(url, model=place.spec().name, ledger=stores.ledger)
    task = origin("rollback_model", run)
    return rollback(place.spec().name, stores, reason="it was late", target=target, origin=task).as_json()


def ingest_all(place: Place, month: str, run: str) -> Any:
    return ingest_month(place, month, run).as_json()


def train_all(place: Place, through: str, run: str) -> Any:
    return register_candidate(place, through, run)


def roll_out(place: Place, version: str, url: str, run: str) -> Any:
    check_serving(place, version, url, run)
    return deploy_model(place, version, url, run)


def on_a_small_disk(place: Place, step: str, largest: int, about: Mapping[str, Any]) -> Any:
    """Run a step whose files the system stops at *largest* bytes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    return globals()[step](place, **about)


def serve_model(place: Place, port: int) -> None:
    """Serve until killed, following the ledger closely."""
    stores = place.stores()
    server_process.Follower = functools.partial(Follower, poll_seconds=0.05)
    serving.run(
        [place.spec().name],
        port=port,
        ledger_url=stores.ledger.url,
        registry_uri=stores.registry.tracking_uri,
        spool_dir=place.folder / "spool",
        workers=1,
    )
