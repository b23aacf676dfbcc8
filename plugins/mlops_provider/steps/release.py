"""One version on its way to its traffic: verify, move, finish, or take back."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_provider.core import rollout
from mlops_provider.core.names import Alias, Kind
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    GuardBreachedError,
    InconclusiveRolloutError,
    MLOpsError,
    NothingToDo,
    NotLoadedError,
    ServingCheckError,
)
from mlops_provider.steps import incidents, verification
from mlops_provider.steps.approval import refuse_aborted, refuse_outdated, refuse_rolled_back, refuse_unapproved
from mlops_provider.steps.following import NotServedError, StillMovingError, require_replicas, wait_until_served
from mlops_provider.steps.traffic import DRILL, ROLLBACK, Lever, Standing, champion, seconds_since
from mlops_provider.steps.verification import Sample
from mlops_provider.steps.watch import watch

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.guards import Decision, Soak
    from mlops_provider.core.origin import Origin
    from mlops_provider.core.rollout import Step
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.replicas import Replica
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)


class Release:
    """
    One version on its way; every try of every task that deploys it takes part in the same rollout.

    :param patience: Longest wait for the replicas, in seconds.
    :param comes_back: Whether whoever waits for a target that takes its time prefers a StillMovingError.
    """

    def __init__(
        self,
        spec: ModelSpec,
        stores: Stores,
        version: str,
        target: Target,
        origin: Origin,
        patience: float,
        *,
        comes_back: bool = False,
    ) -> None:
        self.spec = spec
        self.stores = stores
        self.version = version
        self.target = target
        self.origin = origin
        self.patience = patience
        self.comes_back = comes_back
        self.policy = spec.rollout_policy
        self.lever = Lever(stores.ledger, target, self.policy.strategy, origin)

    @cached_property
    def sample(self) -> Sample:
        """What the version must answer; taken before anything moves."""
        return verification.sample(self.stores, self.spec.name, self.spec.feature_columns, self.version)

    def standing(self) -> Standing:
        """Where it has to go on, if it may at all, once what a killed try left is completed."""
        incidents.complete(self.stores, self.lever, self.version, patience=self.patience)
        self.lever.end_abandoned_drill()
        return self.found()

    def found(self) -> Standing:
        """Where it has to go on, if it may at all; only looked up."""
        ledger, model, soak = self.stores.ledger, self.spec.name, self.policy.soak
        declared, actor = self.spec.approval, self.origin.actor
        refuse_unapproved(ledger, model, self.version, declared.policy, actor=actor, approvers=declared.approvers)
        refuse_rolled_back(ledger, model, self.version)
        refuse_aborted(ledger, model, self.version, self.origin)
        # Between two moves lie at most a wait for replicas, two verifications, a soak, and the wait for samples.
        silence = 3 * self.patience + soak.seconds + soak.wait_at_most + 60
        held = soak.without_data == "hold"
        standing = self.lever.standing(self.version, abandoned_after=math.inf if held else silence)
        if standing.base is None or self.version not in standing.base.split:
            refuse_outdated(ledger, model, self.version, champion(ledger, model))
        return standing

    def plan(self, standing: Standing) -> tuple[Step, ...]:
        """
        What is left to do.

        :raises ConcurrentWriteError: Another version's rollout is not settled. Retried.
        """
        base = standing.base
        if base and not base.settled and self.version in base.split:
            trial = rollout.on_trial(self.stores.ledger.traffic_history(self.spec.name))
            if trial not in {None, self.version}:
                raise ConcurrentWriteError(
                    f"Version {self.version} of {self.spec.name!r} has to wait: version {trial} is being rolled out "
                    f"({rollout.describe(base.split)}). Let it finish, or end it: mlops rollout abort {self.spec.name} "
                    "--reason '…'."
                )
        return rollout.plan(base, self.version, self.policy)

    def settled_at(self, standing: Standing) -> Traffic | None:
        """The record that gave the version all traffic for good, if that is where it stands."""
        base = standing.base
        return base if base and base.settled and dict(base.split) == {self.version: 100} else None

    def is_over(self, traffic: Traffic) -> bool:
        """Whether the settled record is promoted, came about by a rollback, or was left for a drill."""
        return self._promoted(traffic) is not None or self.lever.strategy_of(traffic) in {ROLLBACK, DRILL}

    def at(self, standing: Standing, step: Step) -> Traffic | None:
        """The newest record, if it already says what *step* does."""
        base = standing.base
        if base is None or base.settled or dict(base.split) != dict(step.split) or base.shadow != step.shadow:
            return None
        return base

    def advance(self, standing: Standing, steps: Sequence[Step], *, soak: Soak | None = None) -> Decision | None:
        """
        Verify where it stands, ask the guards, and move on: at most one new generation.

        :param soak: How long to watch, if not as declared.
        :return: What the guards said, if they have to be asked again later; None once traffic has moved.
        :raises ServingCheckError: It failed. Not retried.
        :raises GuardBreachedError: Callers met worse than a guard allows. Not retried.
        :raises InconclusiveRolloutError: No minimum sample came. Not retried.
        """
        traffic = self.at(standing, steps[0])
        if traffic is None:
            self.enter(standing, steps[0])
            return None
        checked = self.verified(traffic)
        said: tuple[str, ...] = ()
        # Before its first version has settled, a model has no callers.
        if steps[0].watched and self.lever.opened():
            decision = watch(self.lever, self.spec, self.stores, traffic, self.version, since=checked, soak=soak)
            if decision.action == "roll_back":
                raise GuardBreachedError(" ".join(decision.reasons), decision.readings)
            if decision.action == "give_up":
                raise InconclusiveRolloutError(f"Version {self.version} was not judged: {' '.join(decision.reasons)}")
            if decision.action == "wait":
                return decision
            said = decision.reasons
        if len(steps) > 1:
            self.enter(standing, steps[1], said)
        else:
            self.settle(standing, said)
        return None

    def enter(self, standing: Standing, step: Step, said: Sequence[str] = ()) -> Traffic:
        """
        Write the generation of a step, unless nobody is there to follow it, or nothing to judge it by.

        :raises NotLoadedError: The registry's model can't be loaded. Not retried.
        """
        require_replicas(self.target)
        try:
            _ = self.sample
        except ServingCheckError as failure:
            if standing.base and self.version in standing.base.split:
                raise
            raise incidents.not_even_loaded(self.stores, self.lever, self.version, failure) from failure
        got = "is a shadow" if self.version in step.shadow else f"gets {step.split[self.version]} %"
        reason = "; ".join([f"version {self.version} {got}", *said])
        return self.lever.move(standing, step.split, settled=False, reason=reason, shadow=step.shadow)

    def settle(self, standing: Standing, said: Sequence[str] = (), *, strategy: str = "") -> Traffic:
        """Write the generation in which it has all traffic for good."""
        reason = "; ".join([f"version {self.version} settles", *said])
        return self.lever.move(standing, {self.version: 100}, settled=True, reason=reason, strategy=strategy)

    def verify(self, traffic: Traffic) -> Sequence[Replica]:
        """See every live replica serve *traffic* and the version answer as it does in the registry."""
        replicas = self._served(traffic)
        verification.verify_pinned(self.target, replicas, self.sample, patience=self.patience)
        if self.lever.opened():
            verification.verify_choice(self.target, traffic, replicas, self.sample, patience=self.patience)
        return replicas

    def verified(self, traffic: Traffic) -> Record:
        """Verify a generation once; later looks only see that the replicas still serve it. Gives the record of that."""
        key = f"{self.spec.name}:{traffic.generation}"
        checked = self.stores.ledger.find(Kind.SERVING_CHECK, key)
        if checked is None:
            return self.note_check(traffic.generation, key=key, replicas=self.verify(traffic))
        self._served(traffic)
        return checked

    def _served(self, traffic: Traffic) -> Sequence[Replica]:
        """
        Wait until every live replica serves *traffic*.

        :raises StillMovingError: It takes longer than a worker should be held, and there is still time.
        """
        in_one_go, waited = self.patience, 0.0
        if self.comes_back and self.target.holds < self.patience:
            in_one_go, waited = self.target.holds, self._age(traffic)
        try:
            return wait_until_served(self.target, traffic, candidate=self.version, patience=in_one_go, waited=waited)
        except NotServedError as error:
            if in_one_go < self.patience and (left := self.patience - self._age(traffic)) > 0:
                raise StillMovingError(str(error), left) from error
            raise

    def _age(self, traffic: Traffic) -> float:
        record = self.stores.ledger.find(Kind.TRAFFIC, f"{self.spec.name}:{traffic.generation}")
        return seconds_since(record) if record else 0.0

    def skip_if_over(self, traffic: Traffic) -> None:
        """Raise NothingToDo if the settled record is promoted, or came about by a rollback; once it is served."""
        self._skip_if(self._promoted(traffic) is not None, traffic)

    def _promoted(self, traffic: Traffic) -> Record | None:
        return self.stores.ledger.find(Kind.PROMOTION, f"{self.spec.name}:{traffic.generation}")

    def _skip_if(self, promoted: bool, traffic: Traffic) -> None:
        if promoted or self.lever.strategy_of(traffic) == ROLLBACK:
            # A target that is moved by looks, such as an endpoint that somebody deleted, may not be there yet.
            if self.target.observe():
                wait_until_served(self.target, traffic, patience=self.patience)
            raise NothingToDo(f"Version {self.version} of {self.spec.name!r} already has all traffic.")

    def finish(self, traffic: Traffic) -> Traffic:
        """
        Verify the settled record, project it into the registry, and note the promotion.

        :raises RolloutRefusedError: It was rolled back meanwhile. Not retried.
        """
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
        now = ledger.traffic(model)
        if now is not None and now.generation != traffic.generation:
            # Somebody may have rolled it back meanwhile, and shown that before we showed our version.
            incidents.project_rollback(self.stores, now)
            refuse_rolled_back(ledger, model, self.version)
        payload = {
            "version": self.version,
            "previous": before,
            "generation": traffic.generation,
            "strategy": self.lever.strategy_of(traffic),
            "steps": list(self.policy.shares),
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
        readings = failure.readings if isinstance(failure, GuardBreachedError) else ()
        # What callers met counts for good; what was seen before they met it does not. A version that can't be loaded
        # answered nobody, and the reason may be a full disk; but one that has settled would be a place to go back to.
        met = current.split[self.version] > 0 and self.lever.opened()
        refuse = bool(readings) or (met and (current.settled or not isinstance(failure, NotLoadedError)))
        return incidents.fail(
            self.stores,
            self.lever,
            self.version,
            failure,
            refuse=refuse,
            readings=[reading.as_json() for reading in readings],
            patience=self.patience,
        )

    def pause(self, trouble: BaseException) -> str:
        """Put the split before back, if possible, without holding *trouble* against the version; say what serves."""
        # A foreign message may hold values from the data, and the record stays for good.
        reason = str(trouble) if isinstance(trouble, MLOpsError) else f"{type(trouble).__name__}."
        # That the guards got no samples is the task's answer; anything else its teardown tells, if no try goes on.
        what = "inconclusive: " if isinstance(trouble, InconclusiveRolloutError) else incidents.PAUSED
        try:
            back = self.lever.take_back(f"{what}{reason}", version=self.version, refuse=False)
        except MLOpsError as error:
            logger.warning("Traffic stays as it is: %s", error)
            return str(error)
        restored = f"generation {back.generation} brings back {rollout.describe(back.split)}"
        return f"It was taken back, and may be deployed again; {restored}."

    def note_check(
        self, generation: int, *, key: str | None = None, reason: str = "", replicas: Sequence[Replica] = ()
    ) -> Record:
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
        return ledger.append(Kind.SERVING_CHECK, self.spec.name, payload, key=key, actor=self.origin.actor)
