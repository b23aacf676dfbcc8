"""The labelled fault in a replay: a candidate that is good on every past row, and fails callers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlops_provider.cli.run import origin_of
from mlops_provider.core.names import Kind
from mlops_provider.exceptions import PermanentError

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

BAD_CANDIDATE = "MLOPS_DEMO_BAD_CANDIDATE"
"""Tells ``estimator`` of the example to be strict about categories that it has not seen."""


def bad_candidate(spec: ModelSpec, stores: Stores, month: str) -> str:
    """
    Take a candidate with the fault through the same steps and the same gate as any other.

    Under its run's name again, steps that were recorded give what they gave.

    :param month: Month it is judged on.
    :return: The registered version.
    :raises PermanentError: The gate refused it.
    """
    from mlops_provider.steps import gate, train

    def origin(task: str) -> Origin:
        return origin_of(task, stage="bad_candidate", run_id=f"bad-candidate-{month}")

    searched = stores.ledger.latest(Kind.SEARCH, spec.name)
    parameters = searched.payload["params"] if searched else {}
    before = os.environ.get(BAD_CANDIDATE)
    os.environ[BAD_CANDIDATE] = "1"
    try:
        declaration = train.declare_gate(spec, stores, month, origin=origin("declare_gate"))
        run_id = train.train_model(
            spec, stores, month, parameters=parameters, declaration=declaration, origin=origin("train_model")
        )
        evaluation = train.evaluate_model(
            spec, stores, month, run_id=run_id, declaration=declaration, origin=origin("evaluate_model")
        )
        verdict_id, verdict = gate.decide_gate(
            stores,
            evaluation=evaluation,
            declaration=declaration,
            limits_digest=spec.gate_policy.digest,
            origin=origin("decide_gate"),
        )
        if not verdict.passed:
            raise PermanentError(f"The candidate with the fault did not get past the gate: {verdict.summary}")
        return train.register_model(spec, stores, run_id=run_id, verdict=verdict_id, origin=origin("register_model"))
    finally:
        os.environ.pop(BAD_CANDIDATE)
        if before is not None:
            os.environ[BAD_CANDIDATE] = before
