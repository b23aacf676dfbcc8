"""``mlops rollout``: look at a rollout, move it on, or end it, without Airflow."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.cli.home import use_home
from mlops_provider.cli.run import origin_of
from mlops_provider.cli.target import spec_of, target_of
from mlops_provider.core import rollout
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.spec import ModelSpec

if TYPE_CHECKING:
    from mlops_provider.core.rollout import Step
    from mlops_provider.steps.rollouts import Status
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target


def status(arguments: argparse.Namespace) -> int:
    """Print where the traffic stands, and what the guards say."""
    from mlops_provider.steps import rollouts

    spec, stores, target = opened(arguments.model)
    print("\n".join(described(spec, rollouts.status(spec, stores, target=target))))
    return 0


def promote(arguments: argparse.Namespace) -> int:
    """Move on by one step if the guards let it; or, with a reason, to the end without asking them."""
    from mlops_provider.steps import rollouts

    if arguments.override != bool(arguments.reason):
        raise ConfigurationError("--override and --reason belong together: guards are not skipped without a reason.")
    if arguments.version and not arguments.override:
        raise ConfigurationError("--version is for --override; without it, the rollout under way moves on.")
    spec, stores, target = opened(arguments.model, releases=True)
    if arguments.dry_run:
        version = arguments.version or rollouts.on_trial(stores.ledger, spec.name)
        if version is None:
            print(f"No rollout of {spec.name} is under way: nothing would be done.")
            return 0
        plan = plan_text(spec, stores, version, target)  # refuses whom the run would refuse
        at_once = f"Version {version} of {spec.name} would get 100 % at once, without its guards. Nothing was done."
        print(at_once if arguments.override else plan)
        return 0
    origin = origin_of("promote_rollout", stage="rollout")
    how: Any = {"target": target, "patience": target.patience, "origin": origin}
    if arguments.override:
        traffic = rollouts.override(spec, stores, arguments.version, reason=arguments.reason, **how)
    else:
        traffic = rollouts.promote(spec, stores, **how)
    state = "settled" if traffic.settled else "under way"
    print(f"{spec.name}: {rollout.describe(traffic.split)} (generation {traffic.generation}, {state}).")
    return 0


def abort(arguments: argparse.Namespace) -> int:
    """End the rollout under way."""
    from mlops_provider.steps import rollouts

    spec, stores, target = opened(arguments.model)
    origin = origin_of("abort_rollout", stage="rollout")
    how: Any = {"target": target, "patience": target.patience, "origin": origin}
    traffic = rollouts.abort(spec, stores, reason=arguments.reason, **how)
    print(f"{spec.name} is back at {rollout.describe(traffic.split)} (generation {traffic.generation}).")
    return 0


def drill(arguments: argparse.Namespace) -> int:
    """Let the version before answer for a moment, and say how long it took."""
    from mlops_provider.steps.drill import drill

    spec, stores, target = opened(arguments.model)
    origin = origin_of("drill_rollback", stage="rollout")
    found = drill(spec, stores, target=target, origin=origin, patience=target.patience).payload
    print(f"{spec.name}: {_drilled(found)}; back after {found['restored_seconds']:.1f} s more.")
    return 0


def _drilled(found: Mapping[str, Any]) -> str:
    to = rollout.describe(found["to"])
    if not found["passed"]:
        return f"{to} could not take over: {found['reason']}"
    return f"{to} answered on every replica ({len(found['replicas'])}) after {found['seconds']:.1f} s"


def opened(model: str, *, releases: bool = False) -> tuple[ModelSpec, Stores, Target]:
    """
    Give the declaration, the stores and the target of a model.

    :param model: Its model.yaml, or its name, if that lies in ``include/<name>/``.
    :param releases: Whether a version will be brought in there.
    """
    from mlops_provider.stores.suite import Stores

    use_home()
    spec, stores = spec_of(model), Stores.from_environment()
    return spec, stores, target_of(spec, stores, releases=releases)


def plan_text(spec: ModelSpec, stores: Stores, version: str, target: Target) -> str:
    """What a deployment of *version* by this user would do from here, in lines."""
    from mlops_provider.steps import rollouts

    origin = origin_of("deploy_model", stage="deploy")
    steps = rollouts.planned(spec, stores, version, target=target, origin=origin)
    if not steps:
        return f"{spec.name} version {version} has all traffic; its promotion would be recorded. Nothing was done."
    head = f"{spec.name} version {version}, {spec.rollout.strategy}, from here:"
    return "\n".join([head, *_steps(steps), *_terms(spec), "Nothing was done."])


def _steps(steps: Sequence[Step]) -> Iterator[str]:
    for number, step in enumerate(steps, start=1):
        unseen = f"; version {', '.join(step.shadow)} as a shadow" if step.shadow else ""
        watched = "soak, guards" if step.watched else "loaded and checked on every replica"
        yield f"  {number}. {rollout.describe(step.split)}{unseen}: {watched}"
    yield f"  {len(steps) + 1}. settles"


def _terms(spec: ModelSpec) -> Iterator[str]:
    declared = spec.rollout
    yield f"  soak: {declared.soak_seconds:g} s a step, looked at every {declared.look_seconds:g} s at most"
    yield f"  without minimum samples after {declared.wait_at_most_seconds:g} s more: {declared.without_data}"
    yield from (f"  {sentence}" for sentence in spec.rollout_policy.guards.sentences)


def described(spec: ModelSpec, found: Status) -> Iterator[str]:
    """Write a status, line by line."""
    if found.traffic is None:
        yield f"{spec.name}: no version ever had traffic."
        return
    traffic = found.traffic
    state = "settled" if traffic.settled else "not settled"
    yield f"{spec.name}: {rollout.describe(traffic.split)} (generation {traffic.generation}, {state})"
    yield f"  for {found.seconds:.0f} s: {traffic.reason}"
    if found.version:
        yield f"rollout of version {found.version}, {spec.rollout.strategy}, what is left:"
        yield from _steps(found.steps)
        yield from _terms(spec)
    if found.readings:
        yield "guards now:"
        yield from (f"  {reading.verdict.replace('_', ' '):<10}  {reading.sentence}" for reading in found.readings)
    if found.unread:
        yield f"guards now: not known. {found.unread}"
    yield f"replicas: {len(found.replicas) or 'none that is alive'}"
    for replica in found.replicas:
        trouble = f"; {replica.error}" if replica.error else ""
        yield f"  {replica.replica}: generation {replica.generation}, loaded {', '.join(replica.versions)}{trouble}"
    if found.incident:
        about = found.incident.payload
        restored = "" if about["seconds"] is None else f"; restored in {about['seconds']:.1f} s"
        when = f"{found.incident.recorded_at[:19]}Z"
        yield f"last incident, {when}: version {about['version']}: {about['reason']}{restored}"
    if found.drill:
        yield f"last rollback drill, {found.drill.recorded_at[:19]}Z: {_drilled(found.drill.payload)}"
