"""Look at what callers meet in a step of a rollout, and let the guards decide."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlops_provider.adapters import distance
from mlops_provider.core.guards import SURE, Decision, Observed, Reading, Soak, decide, judge
from mlops_provider.steps.traffic import Lever, champion, seconds_since

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.guards import Guards
    from mlops_provider.core.rollout import RolloutPolicy, Traffic
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)

_NOTHING = Observed()


def watch(
    lever: Lever,
    policy: RolloutPolicy,
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
    found = readings(lever.ledger, lever.target, policy.guards, traffic, version)
    decision = decide(soak or policy.soak, found, elapsed=seconds_since(since))
    logger.info("Generation %s of %s: %s: %s", traffic.generation, lever.model, decision.action, decision.reasons)
    return decision


def readings(ledger: Ledger, target: Target, guards: Guards, traffic: Traffic, version: str) -> tuple[Reading, ...]:
    """
    Hold what callers meet now against each guard.

    It is compared with the champion if that answers callers, or scores the same rows as a shadow.
    """
    seen = target.observed(traffic)
    candidate, other = seen.get(version, _NOTHING), champion(ledger, target.model, other_than=version)
    in_shadow = [each for each in (version, other) if each in traffic.shadow]
    compared = other is not None and (traffic.split.get(other, 0) > 0 or other in traffic.shadow)
    before = seen.get(other, _NOTHING) if other is not None and compared else None
    pairs = [*candidate.pairs, *(before.pairs if before else ())]
    apart = None
    if guards.predictions and before and candidate.predictions and before.predictions:
        apart = distance.wasserstein(before.predictions, candidate.predictions, deviations=SURE)
    return judge(guards, candidate, before, distance=apart, shadowed=bool(in_shadow), pairs=pairs)
