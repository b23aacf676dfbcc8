"""Look at what callers meet in a step of a rollout, and let the guards decide."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlops_provider.adapters import distance
from mlops_provider.core.guards import SURE, Decision, Observed, Reading, Soak, decide, judge
from mlops_provider.steps.traffic import Lever, champion, seconds_since

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.rollout import Traffic
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)

_NOTHING = Observed()


def watch(
    lever: Lever,
    spec: ModelSpec,
    stores: Stores,
    traffic: Traffic,
    version: str,
    *,
    since: Record,
    soak: Soak | None = None,
) -> Decision:
    """
    Ask the guards about the step that *traffic* is.

    :param version: Version on trial.
    :param since: Record of the moment when every replica served it.
    :param soak: How long to watch, if not as declared.
    """
    policy = spec.rollout_policy
    if policy.guards.performance:
        from mlops_provider.steps import live  # scores models: few rollouts need it

        live.deliver(spec, stores, origin=lever.origin)
    found = readings(spec, stores, lever.target, traffic, version)
    decision = decide(soak or policy.soak, found, elapsed=seconds_since(since))
    logger.info("Generation %s of %s: %s: %s", traffic.generation, lever.model, decision.action, decision.reasons)
    return decision


def readings(spec: ModelSpec, stores: Stores, target: Target, traffic: Traffic, version: str) -> tuple[Reading, ...]:
    """
    Hold what callers meet now against each guard.

    It is compared with the champion if that answers callers, or scores the same rows as a shadow.
    """
    guards, seen = spec.rollout_policy.guards, target.observed(traffic)
    candidate, other = seen.get(version, _NOTHING), champion(stores.ledger, target.model, other_than=version)
    in_shadow = [each for each in (version, other) if each in traffic.shadow]
    compared = other is not None and (traffic.split.get(other, 0) > 0 or other in traffic.shadow)
    before = seen.get(other, _NOTHING) if other is not None and compared else None
    pairs = [*candidate.pairs, *(before.pairs if before else ())]
    apart = known = None
    if guards.predictions and before and candidate.predictions and before.predictions:
        apart = distance.wasserstein(before.predictions, candidate.predictions, deviations=SURE)
    if guards.performance:
        from mlops_provider.steps import live

        known = live.performance(spec, stores, guards.performance, version, other)
    return judge(guards, candidate, before, distance=apart, shadowed=bool(in_shadow), pairs=pairs, known=known)
