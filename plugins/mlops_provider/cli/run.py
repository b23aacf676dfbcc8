"""``mlops run``: a stage, or a whole month, in this process."""

from __future__ import annotations

import argparse
import getpass
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from mlops_provider.cli.home import Stack, use_home
from mlops_provider.cli.target import spec_of, target_of
from mlops_provider.core import partitions, rollout
from mlops_provider.core.names import Environment, Kind
from mlops_provider.core.origin import BY_HAND, Origin
from mlops_provider.exceptions import ConfigurationError, MLOpsError, NothingToDo, RolloutRefusedError, TransientError
from mlops_provider.spec import ModelSpec

if TYPE_CHECKING:
    from mlops_provider.stores.suite import Stores

_Result = TypeVar("_Result")

LONGEST_AWAY = 60.0
"""Longest time, in seconds, over which a failed rollout is tried to be ended while a store is away."""
PAUSE = 5.0
"""Seconds between two tries of that."""


def main(arguments: argparse.Namespace) -> int:
    """Run the stage asked for and print a line for each step."""
    from mlops_provider.stores.suite import Stores

    home = use_home()
    if Stack.read(home) is None and not os.environ.get(Environment.TABLES_URI):
        home.make_local(os.environ)
        print(f"No stack is up here and {Environment.TABLES_URI} is not set: working in {home.local}.")
    if arguments.dry_run and arguments.stage != "deploy":
        raise ConfigurationError("--dry-run is for deploy; the other stages say what they did, and move no traffic.")
    if arguments.stage != "deploy" and not arguments.partition:
        raise ConfigurationError(f"{arguments.stage} works on one month at a time: name it, as in --partition 2013-01.")
    # A deployment is about a version; everything else is about a month.
    month = "" if arguments.stage == "deploy" else partitions.check(arguments.partition)
    spec = spec_of(arguments.model)
    stages = Stages(spec, Stores.from_environment(), month, run_id=arguments.run_id or new_run_id())
    if arguments.stage == "deploy":
        stages.deploy(arguments.version, dry_run=arguments.dry_run)
    else:
        getattr(stages, arguments.stage)()
    return 0


def new_run_id() -> str:
    """An ID for another attempt."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"


def origin_of(task_id: str, *, stage: str, run_id: str | None = None) -> Origin:
    """A step that a person runs by hand; another *run_id* is another attempt, the same one continues it."""
    return Origin(
        dag_id=f"{BY_HAND}{stage}",
        run_id=run_id or new_run_id(),
        task_id=task_id,
        actor=getpass.getuser(),
    )


class Stages:
    """
    The stages of one model and month, each a sequence of the same steps that the DAGs' tasks run.

    :param run_id: Under the same ID again, steps that were recorded give what they gave.
    """

    def __init__(self, spec: ModelSpec, stores: Stores, month: str, *, run_id: str) -> None:
        self.spec = spec
        self.stores = stores
        self.month = month
        self.run_id = run_id
        self.stage = ""

    def all(self) -> None:
        """Everything a month needs: ingest, score, monitor, and training and deployment if they are called for."""
        for stage in (self.ingest, self.score):
            try:
                stage()
            except NothingToDo as reason:
                print(f"  nothing to do: {reason}")
        if not self.monitor()["retrain"]:
            return
        version = self.train()
        if version is None:
            return
        if os.environ.get(Environment.SERVER_URL):
            self.deploy(version)
        else:
            print(f"  {Environment.SERVER_URL} is not set: version {version} is registered, not deployed.")

    def ingest(self) -> None:
        """Land, validate, build features."""
        from mlops_provider.steps import ingest

        self.stage = "ingest"
        landed = self.step("land_data", lambda o: ingest.land(self.spec, self.stores, self.month, origin=o))
        clean = self.step(
            "validate_data", lambda o: ingest.validate(self.spec, self.stores, self.month, landed, origin=o)
        )
        self.step(
            "build_features", lambda o: ingest.build_features(self.spec, self.stores, self.month, clean, origin=o)
        )

    def score(self) -> None:
        """Predict the month with the version in service."""
        from mlops_provider.steps import score

        self.stage = "score"
        self.step("score_batch", lambda o: score.score(self.spec, self.stores, self.month, origin=o))

    def monitor(self) -> dict[str, Any]:
        """Deliver, record outcomes, measure, compare, decide; gives the decision."""
        from mlops_provider.steps import monitor

        self.stage = "monitor"
        spec, stores, month = self.spec, self.stores, self.month
        if os.environ.get(Environment.SPOOL_URI) or os.environ.get(Environment.SPOOL_DIR):
            self.step("deliver_predictions", lambda o: monitor.deliver_predictions(spec, stores, origin=o))
        self.step("record_outcomes", lambda o: monitor.record_outcomes(spec, stores, month, origin=o))
        performance = self.step(
            "measure_performance", lambda o: monitor.measure_performance(spec, stores, month, origin=o)
        )
        drift = self.step("detect_drift", lambda o: monitor.detect_drift(spec, stores, month, origin=o))
        return self.step(
            "decide_retrain",
            lambda o: monitor.decide_retrain(spec, stores, month, performance=performance, drift=drift, origin=o),
        )

    def train(self) -> str | None:
        """Declare, search, train, evaluate, decide, register; gives the version if the gate said yes."""
        from mlops_provider.steps import gate, train

        self.stage = "train"
        spec, stores, month = self.spec, self.stores, self.month
        declaration = self.step("declare_gate", lambda o: train.declare_gate(spec, stores, month, origin=o))
        parameters = self.step(
            "search_parameters",
            lambda o: train.search_parameters(spec, stores, month, declaration=declaration, origin=o),
        )
        run_id = self.step(
            "train_model",
            lambda o: train.train_model(spec, stores, month, parameters=parameters, declaration=declaration, origin=o),
        )
        if spec.segments:
            run_id = self.by_segment(run_id, declaration)
        evaluation = self.step(
            "evaluate_model",
            lambda o: train.evaluate_model(spec, stores, month, run_id=run_id, declaration=declaration, origin=o),
        )
        verdict_id, verdict = self.step(
            "decide_gate",
            lambda o: gate.decide_gate(
                stores,
                evaluation=evaluation,
                declaration=declaration,
                limits_digest=spec.gate_policy.digest,
                origin=o,
            ),
        )
        print(f"  {verdict.summary}")
        if not verdict.passed:
            return None
        return self.step(
            "register_model", lambda o: train.register_model(spec, stores, run_id=run_id, verdict=verdict_id, origin=o)
        )

    def by_segment(self, parent: str, declaration: str) -> str:
        """Plan, train and assemble segments, one after the other; gives the MLflow run of the whole."""
        from mlops_provider.steps import segments

        spec, stores, month = self.spec, self.stores, self.month
        planned = self.step(
            "plan_segments",
            lambda o: segments.plan_segments(spec, stores, month, run_id=parent, declaration=declaration, origin=o),
        )

        def train_all(origin: Origin) -> list[str]:
            return [
                segments.train_segment(
                    spec,
                    stores,
                    month,
                    segment=segment,
                    declaration=declaration,
                    origin=replace(origin, map_index=index),
                )
                for index, segment in enumerate(planned)
            ]

        decided = self.step("train_segment", train_all)
        for record in map(stores.ledger.get, decided):
            print(f"    {record.payload['segment']}: {record.payload['reason']}")
        return self.step(
            "assemble_model",
            lambda o: segments.assemble_model(
                spec, stores, month, run_id=parent, segments=decided, declaration=declaration, origin=o
            ),
        )

    def deploy(self, version: str | None = None, *, dry_run: bool = False) -> None:
        """
        Check a version in the server, then move traffic to it.

        :param version: By default the newest registered one.
        :param dry_run: Only print what would be done.
        """
        from mlops_provider.steps import deploy

        self.stage = "deploy"
        spec, stores = self.spec, self.stores
        if version is None:
            registered = stores.ledger.latest(Kind.REGISTRATION, spec.name)
            if registered is None:
                raise RolloutRefusedError(f"No version of {spec.name!r} is registered: train one first.")
            version = str(registered.payload["version"])
        chosen = version
        if dry_run:
            from mlops_provider.cli.rollout import plan_text

            print(plan_text(spec, stores, chosen, target_of(spec, stores, releases=True, needed=False)))
            return
        target = target_of(spec, stores, releases=True)
        how: Any = {"target": target, "patience": target.patience}
        loaded = False
        try:
            self.step("check_serving", lambda o: deploy.check_serving(spec, stores, chosen, origin=o, **how))
            loaded = True
            traffic = self.step("deploy_model", lambda o: deploy.deploy(spec, stores, chosen, origin=o, **how))
        except NothingToDo:
            raise
        except (Exception, KeyboardInterrupt) as error:
            # Whatever it was: callers would keep the share of a version that nobody watches any more.
            self.take_back(chosen, how, error, insist=loaded)
            raise
        print(f"  {spec.name} now serves {rollout.describe(traffic.split)}.")

    def take_back(self, version: str, how: dict[str, Any], error: BaseException, *, insist: bool) -> None:
        """
        End the rollout that *error* left under way, if it did; who presses Ctrl-C meanwhile leaves at once.

        :param insist: Whether to try again for a while if a store is away.
        """
        from mlops_provider.steps import rollouts

        origin, pressed = self.origin("end_rollout"), isinstance(error, KeyboardInterrupt)
        # A foreign message may hold values from the data, and the record stays for good.
        why = str(error) if isinstance(error, MLOpsError) else f"{type(error).__name__}."
        reason = f"Interrupted at the keyboard by {origin.actor}." if pressed else f"The deployment failed: {why}"
        what = "interrupted: ending the rollout; Ctrl-C again" if pressed else "failed: ending the rollout; Ctrl-C"
        advice = f"to go back: mlops rollout abort {self.spec.name} --reason '…'"
        deadline = time.monotonic() + (LONGEST_AWAY if insist else 0.0)
        try:
            while True:
                try:
                    under_way = rollouts.on_trial(self.stores.ledger, self.spec.name) == version
                    if under_way or pressed:
                        print(f"  {what} leaves at once", flush=True)
                    elif not self.has_moved():
                        return
                    print(f"  {rollouts.end(self.spec, self.stores, version, reason=reason, origin=origin, **how)}")
                    rollouts.wait_until_back(self.spec, self.stores, target=how["target"], origin=origin)
                    return
                except NothingToDo as nothing:
                    print(f"  {nothing}")
                    return
                except MLOpsError as trouble:
                    print(f"  {trouble}", flush=True)
                    if not isinstance(trouble, TransientError) or time.monotonic() >= deadline:
                        print(f"  the rollout may still be under way; {advice}")
                        return
                print(f"  trying again in {PAUSE:.0f} s; Ctrl-C leaves at once", flush=True)
                time.sleep(PAUSE)
        except KeyboardInterrupt:
            print(f"  left at once; {advice}")
            raise

    def has_moved(self) -> bool:
        """Whether this run moved traffic."""
        moved = self.stores.ledger.history(Kind.TRAFFIC, self.spec.name)
        return any(self.origin("deploy_model").same_run(record.payload["origin"]) for record in moved)

    def origin(self, task_id: str) -> Origin:
        """Say which step of this run it is."""
        return origin_of(task_id, stage=self.stage, run_id=self.run_id)

    def step(self, task_id: str, act: Callable[[Origin], _Result]) -> _Result:
        """Run one step and print how long it took."""
        began = time.monotonic()
        result = act(self.origin(task_id))
        print(f"  {self.month:<7}  {task_id:<20} {time.monotonic() - began:6.1f} s", flush=True)
        return result
