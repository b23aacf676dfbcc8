"""One version on its way to its traffic: verify, move, finish, or take back."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_provider.core import rollout
from mlops_provider.core.names import Alias, Kind, Tag
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    MLOpsError,
    NothingToDo,
    RolloutRefusedError,
    ServingCheckError,
)
from mlops_provider.steps import verification
from mlops_provider.steps.approval import refuse_outdated, refuse_rolled_back, refuse_unapproved
from mlops_provider.steps.traffic import ROLLBACK, Lever, Standing, champion
from mlops_provider.steps.verification import Sample

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.replicas import Replica
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)


class Release:
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

    @cached_property
    def sample(self) -> Sample:
        """What the version must answer; taken before anything moves."""
        return verification.sample(self.stores, self.spec.name, self.spec.feature_columns, self.version)

    def standing(self) -> Standing:
        """Where it has to go on, if it may at all."""
        ledger, model = self.stores.ledger, self.spec.name
        refuse_unapproved(ledger, model, self.version, self.spec.approval.policy)
        refuse_rolled_back(ledger, model, self.version)
        # Between two moves lie at most a wait for replicas, two verifications and a soak.
        silence = 3 * self.patience + self.spec.rollout.soak_seconds + 60
        standing = self.lever.standing(self.version, abandoned_after=silence)
        if standing.base is None or self.version not in standing.base.split:
            refuse_outdated(ledger, model, self.version, champion(ledger, model))
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
        """Write the next generation, unless nobody is there to follow it, or nothing to judge it by."""
        verification.require_replicas(self.target)
        _ = self.sample
        share = split[self.version]
        reason = f"version {self.version} settles" if settled else f"version {self.version} gets {share} %"
        return self.lever.move(standing, split, settled=settled, reason=reason)

    def verify(self, traffic: Traffic) -> Sequence[Replica]:
        """See every live replica serve *traffic* and the version answer as it does in the registry."""
        replicas = verification.wait_until_served(self.target, traffic, candidate=self.version, patience=self.patience)
        verification.verify_pinned(self.target, replicas, self.sample, patience=self.patience)
        if self.lever.opened():
            verification.verify_choice(self.target, traffic, replicas, self.sample, patience=self.patience)
        return replicas

    def skip_if_over(self, traffic: Traffic) -> None:
        """Raise NothingToDo if the settled record is promoted, or came about by a rollback."""
        self._skip_if(self._promoted(traffic) is not None, traffic)

    def _promoted(self, traffic: Traffic) -> Record | None:
        return self.stores.ledger.find(Kind.PROMOTION, f"{self.spec.name}:{traffic.generation}")

    def _skip_if(self, promoted: bool, traffic: Traffic) -> None:
        if promoted or self.lever.strategy_of(traffic) == ROLLBACK:
            raise NothingToDo(f"Version {self.version} of {self.spec.name!r} already has all traffic.")

    def finish(self, traffic: Traffic) -> Traffic:
        """Verify the settled record, project it into the registry, and note the promotion."""
        ledger, model, key = self.stores.ledger, self.spec.name, f"{self.spec.name}:{traffic.generation}"
        promoted = self._promoted(traffic)
        if promoted is not None and promoted.payload["origin"] == self.origin.key:
            return traffic
        # Not read again: the other try of this task may have promoted it meanwhile, and that is this one's success.
        self._skip_if(promoted is not None, traffic)
        replicas = self.verify(traffic)
        before = champion(ledger, model, other_than=self.version)
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
            project_rollback(self.stores, back)
        return ServingCheckError(
            f"{failure} Version {self.version} was taken back; generation {back.generation} serves "
            f"{rollout.describe(back.split)}."
        )

    def pause(self, trouble: Exception) -> None:
        """Put the split before back, as far as that is possible, without holding *trouble* against the version."""
        # A foreign message may hold values from the data, and the record stays for good.
        reason = str(trouble) if isinstance(trouble, MLOpsError) else type(trouble).__name__
        try:
            self.lever.take_back(f"paused: {reason}", version=self.version, refuse=False)
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
            "rows": 0 if reason else len(self.sample.rows),
        }
        ledger = self.stores.ledger
        record = ledger.append(Kind.SERVING_CHECK, self.spec.name, payload, key=key, actor=self.origin.actor)
        return record.record_id


def project_rollback(stores: Stores, traffic: Traffic) -> None:
    """Show a rollback in the registry; it must also work if the registry is away or refuses: traffic has moved."""
    decided = stores.ledger.find(Kind.ROLLBACK, f"{traffic.model}:{traffic.generation - 1}")
    reasons = dict.fromkeys(decided.payload["refused"], decided.payload["reason"]) if decided else {}
    try:
        if serving := rollout.champion(traffic):
            stores.registry.set_alias(traffic.model, Alias.CHAMPION, serving)
        for version, reason in reasons.items():
            stores.registry.tag_version(traffic.model, version, {Tag.ROLLED_BACK: reason})
    except MLOpsError as error:
        logger.warning("The registry does not show the rollback yet: %s", error)
