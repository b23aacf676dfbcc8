"""
Give a version its traffic, step by step, or take it back.

Every generation of traffic is one ledger record, written by whoever read the one before; replicas follow it by
themselves. A version is loaded beside what serves, with 0 percent, and checked there first. The first version of a
model has nothing beside which it could be loaded: its record says 100 percent unsettled, and servers answer only
requests that pin it until a first record is settled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from mlops_provider.core import rollout
from mlops_provider.core.names import Alias, Kind, Tag
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    MLOpsError,
    NothingToDo,
    RolloutRefusedError,
    ServingCheckError,
    StoreUnavailableError,
)
from mlops_provider.steps import verification
from mlops_provider.steps.approval import refuse_outdated, refuse_rolled_back, require_approval
from mlops_provider.steps.traffic import ROLLBACK, Lever, Standing
from mlops_provider.steps.verification import Sample

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.replicas import Replica
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Longest wait, in seconds, for all replicas to load a version or to answer."""
MOST_CONFLICTS = 10
"""Moves by somebody else after which a rollout lets Airflow retry it later."""


def check_serving(
    spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin, patience: float = PATIENCE
) -> str:
    """
    Load *version* beside the others on every live replica and compare its answers with the registry's model.

    It stays loaded without traffic, for :func:`deploy`. If it fails, the split before is restored.

    :param patience: Longest wait for the replicas, in seconds.
    :return: Ledger ID of the check.
    :raises ServingCheckError: A replica can't load it or predicts differently. Not retried.
    :raises RolloutRefusedError: It never passed the gate, or was rolled back before. Not retried.
    :raises ConcurrentWriteError: Another rollout is under way. Retried.
    :raises StoreUnavailableError: No live replica, or a store is away. Retried.
    :raises NothingToDo: The version has all traffic already.
    """
    done = stores.ledger.find(Kind.SERVING_CHECK, origin.key)
    if done is not None:
        return done.record_id
    rolling = _Rollout(spec, stores, version, target, origin, patience)
    standing = rolling.standing()
    if rolling.settled_at(standing):
        raise NothingToDo(f"Version {version} of {spec.name!r} already has all traffic.")
    first, *_ = rollout.plan(standing.base, version, spec.rollout_steps)
    traffic = rolling.at(standing, first) or rolling.move(standing, first)
    try:
        replicas = rolling.verify(traffic)
    except ServingCheckError as failure:
        raise rolling.failed(failure) from failure
    return rolling.note_check(traffic.generation, key=origin.key, replicas=replicas)


def deploy(
    spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin, patience: float = PATIENCE
) -> Traffic:
    """
    Move traffic to *version* in the declared steps, verify each one on every replica, and settle it.

    A retry goes on at the step that was reached. If the version fails, the last settled split comes back and the
    version never returns; if servers or stores are away, the split comes back and a retry begins again.

    :param patience: Longest wait for the replicas at each step, in seconds.
    :return: The settled record.
    :raises ServingCheckError: It failed and was taken back. Not retried.
    :raises RolloutRefusedError: It never passed the gate, or was rolled back before. Not retried.
    :raises ConcurrentWriteError: Another rollout is under way. Retried.
    :raises StoreUnavailableError: No live replica, or a store is away. Retried.
    :raises NothingToDo: The version has all traffic already.
    """
    rolling = _Rollout(spec, stores, version, target, origin, patience)
    conflicts = 0
    while True:
        standing = rolling.standing()
        settled = rolling.settled_at(standing)
        # Another rollout is refused here, outside of the `try`: waiting for it is Airflow's business.
        splits = () if settled else rollout.plan(standing.base, version, spec.rollout_steps)
        try:
            if settled:
                return rolling.finish(settled)
            rolling.step(standing, splits)
        except ConcurrentWriteError:
            # An orphaned first try takes part in the same rollout; reading again tells what is left to do.
            conflicts += 1
            if conflicts > MOST_CONFLICTS:
                raise
        except ServingCheckError as failure:
            raise rolling.failed(failure) from failure
        except StoreUnavailableError as outage:
            if not settled:
                rolling.pause(outage)
            raise


def rollback(
    model: str, stores: Stores, *, reason: str, target: Target, origin: Origin, patience: float = PATIENCE
) -> Traffic:
    """
    Give traffic back to the newest settled split without a version that was ever taken back.

    What is left never returns, so rolling back twice goes further back or is refused. A retry only completes what
    its first try began. Without a live replica the record is all there is to do: servers follow it when they start.

    :param reason: Why, for the record.
    :param patience: Longest wait for the replicas, in seconds.
    :return: The new traffic record.
    :raises RolloutRefusedError: There is nothing to go back to. Not retried.
    :raises StoreUnavailableError: A replica does not follow, or the ledger is away. Retried.
    :raises NothingToDo: A retry finds that traffic has moved on since its first try.
    """
    started = time.monotonic()
    lever = Lever(stores.ledger, target, ROLLBACK, origin)
    traffic = lever.moved_before() or lever.take_back(reason)
    rows = _rows_if_at_hand(stores, model)
    if target.observe():
        replicas = verification.wait_until_served(target, traffic, patience=patience)
        if rows is not None:
            verification.verify_choice(target, traffic, replicas, Sample(rows, {}), probes=1, patience=patience)
        seconds = round(time.monotonic() - started, 3)
        logger.info("Every replica of %s serves generation %s after %s s", model, traffic.generation, seconds)
        seen = {
            "version": rollout.champion(traffic),
            "generation": traffic.generation,
            "passed": True,
            "reason": f"rollback: {reason}",
            "replicas": [replica.replica for replica in replicas],
            "seconds": seconds,
        }
        stores.ledger.append(Kind.SERVING_CHECK, model, seen, key=origin.key, actor=origin.actor)
    else:
        logger.warning("No replica of %s is live; servers follow generation %s when started", model, traffic.generation)
    _project_rollback(stores, traffic)
    return traffic


class _Rollout:
    """One version on its way; every try of every task that deploys it takes part in the same rollout."""

    def __init__(
        self, spec: ModelSpec, stores: Stores, version: str, target: Target, origin: Origin, patience: float
    ) -> None:
        self.spec = spec
        self.stores = stores
        self.version = version
        self.target = target
        self.origin = origin
        self.patience = patience
        self.lever = Lever(stores.ledger, target, spec.rollout.strategy, origin)
        self._sample: Sample | None = None

    def standing(self) -> Standing:
        """Where it has to go on, if it may at all."""
        ledger, model = self.stores.ledger, self.spec.name
        require_approval(ledger, model, self.version)
        refuse_rolled_back(ledger, model, self.version)
        # Between two moves lie at most a wait for replicas, two verifications and a soak.
        silence = 3 * self.patience + self.spec.rollout.soak_seconds + 60
        standing = self.lever.standing(self.version, abandoned_after=silence)
        if standing.base is None or self.version not in standing.base.split:
            refuse_outdated(ledger, model, self.version, self.lever.champion())
        return standing

    def settled_at(self, standing: Standing) -> Traffic | None:
        """The record that gave the version all traffic for good, if that is where it stands."""
        base = standing.base
        return base if base and base.settled and dict(base.split) == {self.version: 100} else None

    def at(self, standing: Standing, split: Mapping[str, int]) -> Traffic | None:
        """The newest record, if it already says *split*."""
        base = standing.base
        return base if base and not base.settled and dict(base.split) == dict(split) else None

    def step(self, standing: Standing, splits: Sequence[Mapping[str, int]]) -> None:
        """Verify where it stands and move on: one new generation."""
        traffic = self.at(standing, splits[0])
        if traffic is None:
            self.move(standing, splits[0])
            return
        self.verify(traffic)
        if traffic.split[self.version] and self.spec.rollout.soak_seconds:
            time.sleep(self.spec.rollout.soak_seconds)
            self.verify(traffic)
        following = splits[1] if len(splits) > 1 else splits[0]
        self.move(standing, following, settled=len(splits) == 1)

    def move(self, standing: Standing, split: Mapping[str, int], *, settled: bool = False) -> Traffic:
        """Write the next generation, unless nobody is there to follow it."""
        verification.require_replicas(self.target)
        share = split[self.version]
        reason = f"version {self.version} settles" if settled else f"version {self.version} gets {share} %"
        return self.lever.move(standing, split, settled=settled, reason=reason)

    def verify(self, traffic: Traffic) -> Sequence[Replica]:
        """See every live replica serve *traffic* and the version answer as it does in the registry."""
        if self._sample is None:
            self._sample = verification.sample(self.stores, self.spec.name, self.spec.feature_columns, self.version)
        replicas = verification.wait_until_served(self.target, traffic, candidate=self.version, patience=self.patience)
        verification.verify_pinned(self.target, replicas, self._sample, patience=self.patience)
        if self.lever.opened():
            verification.verify_choice(self.target, traffic, replicas, self._sample, patience=self.patience)
        return replicas

    def finish(self, traffic: Traffic) -> Traffic:
        """Verify the settled record, project it into the registry, and note the promotion."""
        ledger, model, key = self.stores.ledger, self.spec.name, f"{self.spec.name}:{traffic.generation}"
        promoted = ledger.find(Kind.PROMOTION, key)
        if promoted is not None and promoted.payload["origin"] == self.origin.key:
            return traffic
        if promoted is not None or self.lever.strategy_of(traffic) == ROLLBACK:
            raise NothingToDo(f"Version {self.version} of {model!r} already has all traffic.")
        replicas = self.verify(traffic)
        before = self.lever.champion(other_than=self.version)
        self.stores.registry.set_alias(model, Alias.CHAMPION, self.version)
        self.stores.registry.remove_alias(model, Alias.CHALLENGER, self.version)
        if before is not None:
            self.stores.registry.set_alias(model, Alias.PREVIOUS, before)
        payload = {
            "version": self.version,
            "previous": before,
            "generation": traffic.generation,
            "strategy": self.spec.rollout.strategy,
            "steps": list(self.spec.rollout_steps),
            "replicas": [replica.replica for replica in replicas],
            "origin": self.origin.key,
        }
        ledger.append(Kind.PROMOTION, model, payload, key=key, actor=self.origin.actor)
        return traffic

    def failed(self, failure: ServingCheckError) -> ServingCheckError:
        """Take the version back and give the error that tells both what failed and what serves now."""
        current = self.stores.ledger.traffic(self.spec.name)
        if current is None or self.version not in current.split:
            return failure
        self.note_check(current.generation, reason=str(failure))
        had_traffic = current.split[self.version] > 0 and self.lever.opened()
        try:
            back = self.lever.take_back(str(failure), version=self.version, refuse=had_traffic)
        except RolloutRefusedError as nowhere:
            return ServingCheckError(f"{failure} {nowhere}")
        if had_traffic:
            _project_rollback(self.stores, back)
        return ServingCheckError(
            f"{failure} Version {self.version} was taken back; generation {back.generation} serves "
            f"{rollout.describe(back.split)}."
        )

    def pause(self, outage: StoreUnavailableError) -> None:
        """Put the split before back, as far as that is possible, without holding the outage against the version."""
        try:
            self.lever.take_back(f"paused: {outage}", version=self.version, refuse=False)
        except MLOpsError as error:
            logger.warning("Traffic stays as it is: %s", error)

    def note_check(
        self, generation: int, *, key: str | None = None, reason: str = "", replicas: Sequence[Replica] = ()
    ) -> str:
        """Record what was seen; only a success has a key, so that a failed check may be repeated."""
        payload = {
            "version": self.version,
            "generation": generation,
            "passed": not reason,
            "reason": reason,
            "replicas": [replica.replica for replica in replicas],
            "rows": len(self._sample.rows) if self._sample else 0,
        }
        ledger = self.stores.ledger
        record = ledger.append(Kind.SERVING_CHECK, self.spec.name, payload, key=key, actor=self.origin.actor)
        return record.record_id


def _rows_if_at_hand(stores: Stores, model: str) -> pd.DataFrame | None:
    """Rows to ask with; a rollback must also work while the tables are away."""
    try:
        return verification.sample_rows(stores, model)
    except MLOpsError as error:
        logger.warning("The rollback is seen by heartbeats only: %s", error)
        return None


def _project_rollback(stores: Stores, traffic: Traffic) -> None:
    """Show a rollback in the registry; it must also work while the registry is away."""
    decided = stores.ledger.find(Kind.ROLLBACK, f"{traffic.model}:{traffic.generation - 1}")
    reasons = dict.fromkeys(decided.payload["refused"], decided.payload["reason"]) if decided else {}
    try:
        if champion := rollout.champion(traffic):
            stores.registry.set_alias(traffic.model, Alias.CHAMPION, champion)
        for version, reason in reasons.items():
            stores.registry.tag_version(traffic.model, version, {Tag.ROLLED_BACK: reason})
    except StoreUnavailableError as error:
        logger.warning("The registry does not show the rollback yet: %s", error)
