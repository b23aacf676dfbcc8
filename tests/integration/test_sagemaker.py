"""Rollouts on SageMaker: over HTTP, on moto and the states, failures and containers that it lacks."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from mlops_provider.core.evidence import following
from mlops_provider.core.guards import Observed
from mlops_provider.core.names import Alias, Kind, Table
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import ConfigurationError, NothingToDo, ServingCheckError, StoreUnavailableError
from mlops_provider.hooks import aws as hooks
from mlops_provider.operators.deploy import (
    CheckServingOperator,
    DeployModelOperator,
    EndRolloutOperator,
    ReleaseOperator,
    RollbackModelOperator,
)
from mlops_provider.spec import ModelSpec
from mlops_provider.steps import rollouts
from mlops_provider.steps.approval import rolled_back
from mlops_provider.steps.deploy import Waiting, advance, check_serving, deploy
from mlops_provider.steps.drill import drill
from mlops_provider.steps.rollback import rollback
from mlops_provider.steps.targets import target_of
from mlops_provider.steps.traffic import DRILL, Lever, Standing
from mlops_provider.stores import predictions
from mlops_provider.targets.sagemaker import SageMaker as Target
from support.aws import Aws
from support.sagemaker import NO_CAPACITY, SageMaker, sagemaker
from support.serving import COLUMNS, DECLARED, MODEL, World, frame, origin
from support.stack import wait_until

ENDPOINT = "test-late-flights"
ROWS = frame(3)[list(COLUMNS)]
_ledgers = itertools.count()


class Cloud:
    """A model's stores with two registered versions, and a SageMaker."""

    def __init__(self, world: World, service: SageMaker, settings: dict[str, str]) -> None:
        self.world, self.service, self.settings = world, service, settings
        self.api = functools.cache(hooks.sagemaker)

    def spec(self, **changes: Any) -> ModelSpec:
        return self.world.spec(**{"rollout": {**DECLARED["rollout"], "strategy": "all_at_once"}, **changes})

    def target(self, **declared: Any) -> Target:
        spec = self.spec(serving={"sagemaker": declared})
        made = target_of(spec, self.world.stores, "sagemaker://test", settings=self.settings, sagemaker=self.api)
        assert isinstance(made, Target)
        made.poll_seconds = 0.0
        return made

    def deploy(self, version: str, target: Target, *, patience: float = 20, **declared: Any) -> dict[str, int]:
        """Check and deploy, as the tasks of the DAG do."""
        kwargs: Any = {"target": target, "patience": patience}
        spec, run = self.spec(**declared), f"run-{version}"
        check_serving(spec, self.world.stores, version, origin=origin("check_serving", run), **kwargs)
        return dict(deploy(spec, self.world.stores, version, origin=origin(run=run), **kwargs).split)

    def rollback(self, target: Target) -> dict[str, int]:
        task = origin("rollback_model")
        undone = rollback(MODEL, self.world.stores, reason="drill", target=target, origin=task, patience=20)
        return dict(undone.split)

    def serving_one(self, **declared: Any) -> Target:
        """Version 1 has settled, and version 2 may be deployed."""
        target = self.target(**declared)
        self.world.record("1", packable=True)
        self.world.settle({"1": 100})
        self.settled(target)
        self.world.record("2", champion="1", packable=True)
        self.service.calls.clear()
        return target

    def settled(self, target: Target) -> Target:
        """Let what was begun come to its end."""
        for _ in range(6):
            target.observe()
        return target

    @property
    def weights(self) -> dict[str, float]:
        return self.service.endpoints[ENDPOINT].weights

    @property
    def status(self) -> str:
        return self.service.endpoints[ENDPOINT].status


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path, aws: Aws) -> Iterator[Cloud]:
    """Two versions in a registry, and the service; what costs time to make."""
    world, bucket = World(tmp_path_factory.mktemp("stores"), empty_mlflow), aws.bucket()
    world.land_features()
    for seed in (1, 2):
        world.register(seed, recorded=False)
    with pytest.MonkeyPatch.context() as patch, sagemaker(aws, tmp_path_factory.mktemp("machines")) as service:
        for name, value in aws.environment().items():
            patch.setenv(name, value)
        patch.setenv("MLOPS_SPOOL_URI", f"s3://{bucket}/spool")
        patch.setenv("AIRFLOW_CONN_AWS_TEST", json.dumps(aws.connection(service.url)))
        settings = {
            "aws_conn_id": "aws_test",
            "role_arn": "arn:aws:iam::123456789012:role/mlops",
            "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/mlops:1",
            "archives": f"s3://{bucket}/archives",
        }
        yield Cloud(world, service, settings)
    world.close()


@pytest.fixture
def cloud(shared: Cloud) -> Cloud:
    """With a ledger of its own, and no endpoint."""
    shared.service.reset()
    shared.world.use_ledger(shared.world.folder / f"ledger-{next(_ledgers)}.db")
    return shared


def test_a_rollout_moves_weights_and_a_rollback_moves_them_back(cloud: Cloud) -> None:
    target = cloud.serving_one()

    assert cloud.deploy("2", target, rollout=DECLARED["rollout"]) == {"2": 100}

    weigh, removed = "UpdateEndpointWeightsAndCapacities", "DeleteEndpointConfig"
    assert cloud.service.calls == [
        "CreateModel",
        "CreateEndpointConfig",
        "UpdateEndpoint",
        weigh,
        weigh,
        weigh,
        removed,
    ]
    assert cloud.weights == {"v1": 0.0, "v2": 100.0}  # the version before waits beside it
    assert target.predict(ROWS).predictions == pytest.approx(cloud.world.expected("2", ROWS), abs=1e-12)
    assert cloud.rollback(target) == {"1": 100}
    assert {target.predict(ROWS).version for _ in range(5)} == {"1"}
    assert cloud.world.ledger.latest(Kind.SERVING_CHECK, MODEL).payload["seconds"] < 3
    assert cloud.settled(target).observe()[0].versions == ("1",)  # what was rolled back gives its machines back


def test_a_split_is_what_callers_get(cloud: Cloud) -> None:
    target = cloud.serving_one()
    cloud.world.settle({"1": 100, "2": 0}, settled=False)
    cloud.settled(target)
    cloud.world.settle({"1": 50, "2": 50}, settled=False)
    cloud.settled(target)

    answers = [target.predict(ROWS) for _ in range(40)]

    assert cloud.weights == {"v1": 50.0, "v2": 50.0}
    assert {answer.version for answer in answers} == {"1", "2"}
    for answer in answers:
        assert answer.predictions == pytest.approx(cloud.world.expected(answer.version, ROWS), abs=1e-12)


def test_a_rollback_during_a_change_of_weights_is_over_when_that_is_undone(cloud: Cloud) -> None:
    target = cloud.serving_one()
    loaded = cloud.world.settle({"1": 100, "2": 0}, settled=False)
    cloud.settled(target)
    cloud.service.looks = 12
    cloud.world.settle({"1": 50, "2": 50}, settled=False)
    target.observe()
    assert (cloud.status, target.look()[0].generation) == ("Updating", loaded.generation)

    assert cloud.rollback(target) == {"1": 100}

    for _ in range(30):  # whatever was begun comes to its end; nobody makes another move
        target.look()
    assert (cloud.status, cloud.weights["v1"], cloud.weights.get("v2", 0.0)) == ("InService", 100.0, 0.0)
    assert {target.predict(ROWS).version for _ in range(5)} == {"1"}


def test_an_abort_waits_for_the_old_weights_and_again_if_they_were_not_seen(cloud: Cloud) -> None:
    target, by = cloud.serving_one(), origin("abort", "by hand")
    cloud.world.settle({"1": 100, "2": 0}, settled=False)
    cloud.settled(target)
    cloud.world.settle({"1": 50, "2": 50}, settled=False)
    cloud.settled(target)
    cloud.world.settle({"2": 100}, settled=False)
    target.observe()
    cloud.service.stuck = True

    def abort(patience: float) -> Traffic:
        return rollouts.abort(
            cloud.spec(), cloud.world.stores, reason="a holiday", target=target, origin=by, patience=patience
        )

    with pytest.raises(StoreUnavailableError, match=r"generation 5 \(.*\) is recorded, but .* \(is Updating since"):
        abort(0.5)
    cloud.service.stuck = False
    back = abort(20)

    assert (back.generation, dict(back.split)) == (5, {"1": 100})
    assert (cloud.weights["v1"], cloud.weights.get("v2", 0.0)) == (100.0, 0.0)
    assert len(cloud.world.ledger.history(Kind.ABORT, MODEL)) == 1


def only_looks(target: Target) -> Target:
    """Whatever was begun comes to its end; nobody makes another move."""
    for _ in range(30):
        target.look()
    return target


@pytest.mark.parametrize("pressed", [False, True])
def test_a_drill_that_was_interrupted_while_weights_change_is_over_when_they_are_back(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, pressed: bool
) -> None:
    """Killed, and ended by its retry; or by Ctrl-C."""
    target, by = cloud.serving_one(), origin("drill_rollback", "monday")
    cloud.deploy("2", target)
    cloud.service.looks = 4

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    if pressed:
        monkeypatch.setattr("mlops_provider.steps.drill.wait_until_served", interrupted)
    else:
        settled = cloud.world.ledger.traffic(MODEL)
        assert settled is not None
        lever = Lever(cloud.world.ledger, target, DRILL, by)
        lever.move(Standing(settled.generation, settled), {"1": 100}, settled=False, reason="drill")
    with pytest.raises(KeyboardInterrupt if pressed else NothingToDo):
        drill(cloud.spec(), cloud.world.stores, target=target, origin=by, patience=20)

    only_looks(target)
    assert (cloud.status, cloud.weights) == ("InService", {"v1": 0.0, "v2": 100.0})


def test_a_take_back_that_sagemaker_refused_is_completed_by_the_teardown(cloud: Cloud) -> None:
    target, run = cloud.serving_one(), "deploy"
    canary = {**DECLARED["rollout"], "steps": [50, 100], "soak_seconds": 600.0}
    spec = cloud.spec(rollout=canary)
    waiting = advance(spec, cloud.world.stores, "2", target=target, origin=origin(run=run), patience=20)
    half = (type(waiting), cloud.weights)
    cloud.service.denied = {"DescribeEndpoint", "UpdateEndpointWeightsAndCapacities"}
    with pytest.raises(ConfigurationError, match="needs the right to sagemaker:DescribeEndpoint"):
        advance(spec, cloud.world.stores, "2", target=target, origin=origin(run=run), patience=20)
    refused = (dict(cloud.world.ledger.traffic(MODEL).split), cloud.weights)

    teardown = EndRolloutOperator(task_id="end_rollout", version="2", model_yaml=str(spec.path))
    teardown.__dict__.update(stores=cloud.world.stores, target=target)

    with pytest.raises(StoreUnavailableError, match=r"generation 4 \(version 1: 100 %\) is recorded, but .* right to"):
        teardown.step({}, origin("end_rollout", run))
    cloud.service.denied = set()
    with pytest.raises(NothingToDo, match="generation 4 is version 1: 100 %"):
        teardown.step({}, origin("end_rollout", run))

    only_looks(target)
    assert half == (Waiting, {"v1": 50.0, "v2": 50.0})
    assert refused == ({"1": 100}, half[1])
    assert (cloud.weights["v1"], cloud.weights.get("v2", 0.0)) == (100.0, 0.0)


@pytest.mark.parametrize("said_again", ["rollback", "deploy"])
def test_an_endpoint_that_served_and_failed_is_made_anew_once_it_is_deleted(cloud: Cloud, said_again: str) -> None:
    target, stores = cloud.serving_one(), cloud.world.stores
    cloud.deploy("2", target)
    endpoint = cloud.service.endpoints[ENDPOINT]
    endpoint.status, endpoint.reason = "Failed", "The machines are gone."

    with pytest.raises(StoreUnavailableError, match=r"is recorded, but .*machines are gone\. Delete it .* mlops rollb"):
        cloud.rollback(target)
    projected = stores.registry.aliases(MODEL)[Alias.CHAMPION]
    target.api.delete()
    how: Any = {"target": target, "origin": origin("again", "again"), "patience": 20}
    if said_again == "rollback":
        assert rollback(MODEL, stores, reason="drill", **how).split == {"1": 100}
    else:
        with pytest.raises(NothingToDo, match="Version 1 of 'late_flights' already has all traffic"):
            check_serving(cloud.spec(), stores, "1", **how)

    assert projected == "1"
    assert rolled_back(stores.ledger, MODEL) == {"2"}
    assert cloud.weights == {"v1": 100.0}
    assert only_looks(target).predict(ROWS).version == "1"


def test_another_machine_is_for_versions_that_come_then(cloud: Cloud) -> None:
    cloud.serving_one()
    target = cloud.target(instance_type="ml.c5.large", instances=2)
    cloud.world.settle({"1": 100, "2": 0}, settled=False)

    cloud.settled(target)

    variants = cloud.service.variants(cloud.service.endpoints[ENDPOINT].config)
    assert {each["VariantName"]: (each["InstanceType"], each["InitialInstanceCount"]) for each in variants} == {
        "v1": ("ml.m5.large", 1),
        "v2": ("ml.c5.large", 2),
    }


def test_what_is_refused_is_told_in_the_servers_words(cloud: Cloud) -> None:
    target = cloud.serving_one()

    with pytest.raises(ServingCheckError, match="'test-late-flights' refused the request: .*seats"):
        target.predict(ROWS.drop(columns="seats"))
    with pytest.raises(ConfigurationError, match="Variant v9 not found"):
        target.predict(ROWS, version="9")


def test_predictions_are_logged_once_on_s3(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_SPOOL_URI", f"s3://{cloud.service.aws.bucket()}/spool")
    target, world = cloud.serving_one(), cloud.world
    spool = f"{target.place.spool}/{MODEL}"
    target.predict(ROWS)
    target.api.delete()
    wait_until(lambda: cloud.service.aws.s3().sizes(spool) != {}, "segments on S3", 20)

    uri = world.tables.uri(MODEL, Table.PREDICTION_LOG)
    predictions.deliver(world.tables, uri, spool, cloud.service.aws.s3())

    log = world.tables.read(uri)
    assert set(log["version"]) == {"1"}
    assert log["request_id"].str.startswith("check-").all()
    assert not log.duplicated(["request_id", "row"]).any()


def test_an_endpoint_that_cannot_be_made_is_told_and_made_anew_next_time(cloud: Cloud) -> None:
    cloud.world.record("1", packable=True)
    cloud.service.fails = "The image could not be pulled from ECR."

    with pytest.raises(ServingCheckError, match="Version 1 is refused: .*could not be pulled.*may the role pull it"):
        cloud.deploy("1", cloud.target())

    assert cloud.service.endpoints == {}
    assert cloud.deploy("1", cloud.target()) == {"1": 100}


def test_a_version_that_does_not_come_up_leaves_the_old_one_serving(cloud: Cloud) -> None:
    target = cloud.serving_one()
    cloud.service.fails = "The container did not pass the ping health check."

    with pytest.raises(ServingCheckError, match="Version 2 is refused: .*/aws/sagemaker/Endpoints/test-late-flights.*"):
        cloud.deploy("2", target)

    assert cloud.weights == {"v1": 100.0}
    assert target.predict(ROWS).version == "1"
    assert cloud.world.ledger.traffic(MODEL).split == {"1": 100}
    assert cloud.deploy("2", target) == {"2": 100}  # it never had traffic, so it may come again


def test_an_archive_that_was_exchanged_is_not_opened(cloud: Cloud) -> None:
    target, s3 = cloud.serving_one(), cloud.service.aws.s3()
    other = target.machines.pack("1").content
    cloud.service.before_start = lambda archive: s3.write(archive, other)

    with pytest.raises(ServingCheckError, match="Version 2 is refused: .*did not pass the ping health check"):
        cloud.deploy("2", target)

    assert cloud.weights == {"v1": 100.0}


def test_without_machines_the_task_is_retried(cloud: Cloud) -> None:
    target = cloud.serving_one()
    cloud.service.fails = NO_CAPACITY

    with pytest.raises(StoreUnavailableError, match="no machines for version 2 .*another .*instance_type than ml.m5"):
        cloud.deploy("2", target)

    assert cloud.weights == {"v1": 100.0}
    assert cloud.settled(target).observe()[0].versions == ("1", "2")


def test_an_update_that_never_ends_leaves_the_old_version_serving(cloud: Cloud) -> None:
    target = cloud.serving_one()
    cloud.service.stuck = True

    with pytest.raises(
        StoreUnavailableError, match=r"after 1 s: test-late-flights .* \(is Updating since \d\d:\d\d UTC"
    ):
        cloud.deploy("2", target, patience=1)
    assert target.predict(ROWS).version == "1"
    cloud.service.stuck = False
    assert cloud.settled(target).observe()[0].versions == ("1", "2")


def test_a_throttled_call_is_made_again_and_then_by_the_task(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.world.record("1", packable=True)
    cloud.service.throttled = 2
    assert cloud.deploy("1", cloud.target()) == {"1": 100}
    monkeypatch.setitem(hooks._LIMITS, "retries", {"mode": "standard", "total_max_attempts": 1})
    cloud.api.cache_clear()
    target = cloud.target()
    cloud.api.cache_clear()
    cloud.service.throttled = 1

    with pytest.raises(StoreUnavailableError, match="SageMaker says ThrottlingException about endpoint"):
        target.observe()
    assert target.observe()[0].error == ""
    cloud.service.throttled = 1
    assert "ThrottlingException" in target.observe()[0].error  # what was seen before still counts
    assert target.observe()[0].versions == ("1",)


@pytest.mark.parametrize("action", ["CreateModel", "UpdateEndpoint", "AddTags"])
def test_a_right_that_is_missing_is_named(cloud: Cloud, action: str) -> None:
    target = cloud.serving_one()
    cloud.service.denied = {action}

    with pytest.raises(
        ConfigurationError,
        match=f"connection 'aws_test' needs the right to sagemaker:{action}.*; then start the deploy DAG",
    ):
        cloud.deploy("2", target)

    assert target.predict(ROWS).version == "1"
    cloud.service.denied = set()
    assert cloud.settled(target).observe()[0].versions == ("1", "2")


def test_a_quota_that_is_too_small_is_named(cloud: Cloud) -> None:
    target = cloud.serving_one()
    cloud.service.limited = "ml.m5.large for endpoint usage"

    with pytest.raises(ConfigurationError, match="'ml.m5.large for endpoint usage' is 0 Instances.* Service Quotas"):
        cloud.deploy("2", target)

    assert cloud.weights == {"v1": 100.0}


def test_moves_of_an_older_generation_are_given_up(cloud: Cloud) -> None:
    target = cloud.serving_one()
    older = cloud.world.settle({"1": 100, "2": 0}, settled=False)
    cloud.world.settle({"1": 100})

    target.apply(older)
    cloud.settled(target)

    assert cloud.weights == {"v1": 100.0}
    cloud.service.endpoints[ENDPOINT].tags["mlops.generation"] = "99"
    cloud.world.settle({"1": 100, "2": 0}, settled=False)
    with pytest.raises(ConfigurationError, match="was moved by generation 99, and the newest .* is 4"):
        target.observe()
    assert cloud.weights == {"v1": 100.0}


def test_a_configuration_that_somebody_deleted_stops_new_versions_but_no_rollback(cloud: Cloud) -> None:
    target = cloud.serving_one()
    control = cloud.service.aws.client("sagemaker")

    def lost() -> None:
        control.delete_endpoint_config(EndpointConfigName=cloud.service.endpoints[ENDPOINT].config)

    cloud.deploy("2", target)
    lost()
    assert cloud.rollback(target) == {"1": 100}
    cloud.settled(target)
    assert cloud.weights == {"v1": 100.0, "v2": 0.0}  # it can't be dropped any more

    cloud.world.settle({"1": 100, "3": 0}, settled=False)
    with pytest.raises(
        ConfigurationError, match="which somebody deleted: .* delete-endpoint --endpoint-name test-late"
    ):
        target.observe()
    assert cloud.weights == {"v1": 100.0, "v2": 0.0}


def test_two_may_sweep_at_once(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    target = cloud.serving_one()
    control, other = target.api.control, cloud.service.aws.client("sagemaker")
    delete, deleted = control.delete_model, []

    def late(**named: str) -> None:
        other.delete_model(**named)  # another process was quicker
        deleted.append(named["ModelName"])
        delete(**named)

    monkeypatch.setattr(control, "delete_model", late)

    target.api.delete()
    target.machines.sweep()

    assert any(name.startswith(f"{ENDPOINT}-v1-") for name in deleted)
    assert other.list_models(NameContains=f"{ENDPOINT}-v")["Models"] == []


def test_an_endpoint_that_somebody_deleted_meanwhile_is_asked_again(cloud: Cloud) -> None:
    target = cloud.serving_one()
    found = target.api.describe()
    assert found is not None
    cloud.service.endpoints.clear()

    for call in (
        lambda: target.api.tags(found.arn),
        lambda: target.api.weigh({"v1": 1.0}),
        lambda: target.predict(ROWS),
    ):
        with pytest.raises(StoreUnavailableError, match="the next look makes it anew"):
            call()


def test_what_callers_met_is_read_from_cloudwatch(cloud: Cloud) -> None:
    target, ledger = cloud.target(), cloud.world.ledger
    checked = datetime.now(UTC) - timedelta(minutes=10)
    about: dict[str, Any] = {"kind": Kind.SERVING_CHECK, "model": MODEL, "key": f"{MODEL}:1", "payload": {}}
    kept: dict[str, Any] = {"actor": "ada", "as_of": None, "recorded_at": checked.isoformat(), "record_id": "checked"}
    ledger.restore([following(None, **about, **kept)])
    for minutes, name, value in [
        (0, "Invocations", 70.0),  # of the check itself
        (3, "Invocations", 40.0),
        (4, "Invocations", 60.0),
        (4, "Invocation4XXErrors", 2.0),
        (4, "Invocation5XXErrors", 1.0),
        (3, "ModelLatency", 4000.0),
        (4, "ModelLatency", 12000.0),
    ]:
        cloud.service.measure(ENDPOINT, "v2", name, value, checked + timedelta(minutes=minutes))
    for name, value in (("Invocations", 5.0), ("Invocation5XXErrors", 6.0)):
        cloud.service.measure(ENDPOINT, "v3", name, value, checked + timedelta(minutes=4))

    seen = target.observed(Traffic(MODEL, 1, {"1": 90, "2": 10}, settled=False))

    assert (seen["2"].requests, seen["2"].errors, seen["2"].p99_ms) == (100, 3, 4.0)
    assert seen["1"] == Observed()
    ahead = target.observed(Traffic(MODEL, 1, {"1": 90, "3": 10}, settled=False))["3"]
    assert (ahead.requests, ahead.errors) == (5, 5)  # an error may be told before its request
    assert target.observed(Traffic(MODEL, 2, {"1": 100}, settled=False)) == {"1": Observed()}  # not checked yet


def test_a_shadow_is_refused(cloud: Cloud) -> None:
    target = cloud.serving_one()
    cloud.world.ledger.propose_traffic(MODEL, {"1": 100, "2": 0}, settled=False, expected_generation=1, shadow=["2"])

    with pytest.raises(ConfigurationError, match="asks for a shadow, which .* does not offer"):
        target.observe()

    assert cloud.weights == {"v1": 100.0}


@pytest.mark.parametrize(
    "declared",
    [
        {"strategy": "shadow"},
        {"strategy": "blue_green"},
        {"strategy": "canary", "guards": {"agreement": {"minimum": 0.9, "within": 0.1, "minimum_rows": 20}}},
    ],
)
def test_a_rollout_that_needs_a_shadow_is_refused_before_it_begins_and_a_rollback_works(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, declared: dict[str, Any]
) -> None:
    connection = {"conn_type": "mlops_server", "host": "sagemaker://test", "extra": dict(cloud.settings)}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_SERVER", json.dumps(connection))
    yaml = str(cloud.spec(rollout={**DECLARED["rollout"], **declared}).path)

    for operator in (CheckServingOperator, DeployModelOperator):
        with pytest.raises(ConfigurationError, match="declares a rollout with a shadow .*, or a guard on agreement"):
            _ = _stored(cloud, operator(task_id="task", version="2", model_yaml=yaml)).target
    back = _stored(cloud, RollbackModelOperator(task_id="back", model_yaml=yaml, reason="drill")).target
    assert isinstance(back, Target)


def _stored(cloud: Cloud, operator: Any) -> Any:
    operator.__dict__["stores"] = cloud.world.stores
    return operator


def test_an_endpoint_of_somebody_else_is_left_alone(cloud: Cloud) -> None:
    target = cloud.serving_one()
    cloud.service.endpoints[ENDPOINT].tags = {}

    with pytest.raises(ConfigurationError, match="is there already and is not one of 'late_flights'.*another prefix"):
        cloud.deploy("2", target)

    cloud.world.settle({"1": 100})  # which its weights happen to show
    cloud.service.calls.clear()
    with pytest.raises(ConfigurationError, match="is there already and is not one of 'late_flights'"):
        cloud.target().observe()
    assert cloud.service.calls == []


def test_a_task_that_died_after_it_recorded_is_completed_by_the_next_look(cloud: Cloud) -> None:
    target = cloud.serving_one()
    recorded = cloud.world.settle({"1": 90, "2": 10}, settled=False)  # nobody applied it

    seen = cloud.settled(target).observe()[0]

    assert (seen.generation, seen.versions, cloud.weights) == (
        recorded.generation,
        ("1", "2"),
        {"v1": 90.0, "v2": 10.0},
    )


def test_who_asks_for_the_state_of_a_rollout_moves_nothing(cloud: Cloud) -> None:
    target = cloud.serving_one()
    cloud.world.settle({"1": 100, "2": 0}, settled=False)  # nobody applied it

    seen = [rollouts.status(cloud.spec(), cloud.world.stores, target=target).replicas for _ in range(3)]

    assert [(each.generation, each.versions, each.error) for (each,) in seen] == [(1, ("1",), "")] * 3
    assert cloud.service.calls == []


def test_tasks_check_out_while_sagemaker_takes_its_time(cloud: Cloud) -> None:
    target, world = cloud.serving_one(), cloud.world
    target.holds, cloud.service.stuck = 0.0, True
    context: Any = {
        "ti": SimpleNamespace(dag_id="deploy", run_id="one", task_id="task", map_index=-1),
        "dag_run": SimpleNamespace(triggering_user_name="ada"),
    }

    def task(operator: type[ReleaseOperator]) -> Any:
        made = operator(task_id="task", version="2", model_yaml=str(cloud.spec().path))
        made.__dict__.update(stores=world.stores, target=target)
        return made

    with pytest.raises(TaskDeferred) as first:
        task(CheckServingOperator).execute(context)
    cloud.service.stuck, target.holds = False, 20.0
    checked = task(CheckServingOperator).execute_complete(context)
    target.holds, cloud.service.stuck = 0.0, True
    with pytest.raises(TaskDeferred):
        task(DeployModelOperator).execute(context)
    cloud.service.stuck, target.holds = False, 20.0
    settled = task(DeployModelOperator).execute_complete(context)

    assert first.value.method_name == "execute_complete"
    assert world.ledger.get(checked).payload["passed"]
    assert (settled["split"], settled["settled"]) == ({"2": 100}, True)
    assert [dict(record.split) for record in world.ledger.traffic_history(MODEL)] == [
        {"1": 100},
        {"1": 100, "2": 0},
        {"2": 100},
        {"2": 100},
    ]


def test_without_the_version_before_a_rollback_brings_it_up_anew(cloud: Cloud) -> None:
    target = cloud.serving_one(keep_previous=False)
    cloud.deploy("2", target)
    assert cloud.settled(target).observe()[0].versions == ("2",)

    assert cloud.rollback(target) == {"1": 100}

    assert target.predict(ROWS).version == "1"


def test_a_connection_leads_there_and_names_what_it_lacks(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "mlops_server", "host": "sagemaker://prod", "extra": dict(cloud.settings)}
    yaml = str(cloud.world.spec().path)
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_SERVER", json.dumps(connection))

    operator = RollbackModelOperator(task_id="back", model_yaml=yaml, reason="drill")
    operator.__dict__["stores"] = cloud.world.stores

    assert operator.target.api.endpoint == "prod-late-flights"
    assert operator.target.place.role == cloud.settings["role_arn"]
    del operator.__dict__["target"], connection["extra"]["image"]
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_SERVER", json.dumps(connection))
    with pytest.raises(ConfigurationError, match="needs 'image': in the extra of the connection 'mlops_server'"):
        _ = operator.target


@pytest.mark.parametrize(
    ("address", "spool", "lacks"),
    [
        (
            "sagemaker://a-prefix-of-more-letters-than-there-is-room-for",
            "s3://b/spool",
            "45 at most",
        ),
        ("sagemaker://has_underscores", "s3://b/spool", "Choose another prefix"),
        ("sagemaker://prod", "/srv/spool", "MLOPS_SPOOL_URI must be an address on S3"),
        ("sagemaker://prod?image=", "s3://b/spool", "needs 'image'"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, address: str, spool: str, lacks: str
) -> None:
    monkeypatch.setenv("MLOPS_SPOOL_URI", spool)
    settings = {name: value for name, value in cloud.settings.items() if f"{name}=" not in address}

    with pytest.raises(ConfigurationError, match=lacks):
        target_of(cloud.spec(), cloud.world.stores, address, settings=settings, sagemaker=cloud.api)


def test_a_model_whose_log_needs_a_secret_is_refused(cloud: Cloud) -> None:
    spec = cloud.spec(serving={"pseudonymise": ["flight"]})

    with pytest.raises(ConfigurationError, match="declares pseudonyms for flight .* serve it with the bundled server"):
        target_of(spec, cloud.world.stores, "sagemaker://test", settings=cloud.settings, sagemaker=cloud.api)
