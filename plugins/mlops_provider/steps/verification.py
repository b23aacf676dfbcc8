"""Seen with one's own eyes: that every live replica serves a generation and answers as the registry's model does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_provider.adapters import tasks
from mlops_provider.core.names import Table
from mlops_provider.core.rollout import Traffic, describe
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    ConfigurationError,
    NotLoadedError,
    PermanentError,
    ServingCheckError,
    SourceError,
    StoreUnavailableError,
)
from mlops_provider.steps import models
from mlops_provider.steps.following import PAUSE_SECONDS, require_replicas
from mlops_provider.steps.provenance import promoted, provenance

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.stores.replicas import Replica
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Answer, Target

logger = logging.getLogger(__name__)

TOLERANCE = 1e-9
"""Largest difference between a served prediction and the registry model's own; relative for predictions beyond 1."""
SAMPLE_ROWS = 50
PROBES = 20
"""Requests without a pinned version that are sent to see which versions answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """
    Real feature rows, and what each version makes of them outside the server.

    :param rows: Shape (n_rows, n_columns).
    :param expected: Version -> predictions, shape (n_rows,).
    """

    rows: pd.DataFrame
    expected: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]


def sample_rows(
    stores: Stores, model: str, columns: Sequence[str] | None = None, *, version: str | None = None
) -> pd.DataFrame:
    """
    Take rows spread over the newest month of features; the same rows each time.

    :param version: Where there are no features yet, the month is taken that this version was gated on: a promoted one
        brought it along.
    :raises SourceError: The model has no features. Not retried.
    """
    uri = stores.tables.uri(model, Table.FEATURES)
    months = stores.tables.partitions(uri) if stores.tables.exists(uri) else []
    if not months and version is not None and promoted(stores.ledger, model, version):
        made = provenance(stores.ledger, model, version)
        uri, months = made.features.table, [made.gated_on]
    if not months:
        raise SourceError(f"{model!r} has no feature rows to compare answers on: run its ingest DAG first.")
    frame = stores.tables.read(uri, columns=columns, partitions=months[-1:])
    if frame.empty:
        raise SourceError(f"The features of {model!r} for {months[-1]} have no rows to compare answers on.")
    spread = np.unique(np.linspace(0, len(frame) - 1, SAMPLE_ROWS).astype(int))
    return frame.iloc[spread].reset_index(drop=True)


def sample(stores: Stores, model: str, columns: Sequence[str], version: str) -> Sample:
    """
    Take sample rows, and let the registry's own model predict them.

    :param columns: What the model takes, if it does not know that itself.
    :raises NotLoadedError: Its files are gone, can't be loaded, or are not those that were registered. Not retried.
    :raises ConfigurationError: MLflow refuses the credentials. Not retried.
    """
    try:
        pipeline = models.estimator(stores.registry, stores.ledger, model, version)
    except ConfigurationError:
        raise
    except PermanentError as error:
        raise NotLoadedError(str(error)) from error
    rows = sample_rows(stores, model, list(getattr(pipeline, "feature_names_in_", columns)), version=version)
    return Sample(rows, {version: tasks.of_model(pipeline).predict(pipeline, rows)})


def verify_pinned(target: Target, replicas: Sequence[Replica], sample: Sample, *, patience: float) -> None:
    """
    Let each replica score the sample with the versions it names, as the registry's own models did.

    :param patience: Longest time, in seconds, over which an unanswered request is repeated.
    :raises ServingCheckError: An answer differs. Not retried.
    :raises StoreUnavailableError: No answer. Retried.
    """
    answered = 0
    for replica in replicas:
        for version in sample.expected:
            answer = _asked(
                target, partial(target.predict, sample.rows, version=version, replica=replica), replica, patience
            )
            if answer is not None:
                _require_equal(answer, version, sample, where=f"replica {replica.replica}")
                answered += 1
    if not answered:
        require_replicas(target)
        raise StoreUnavailableError(f"Every replica of {target.model!r} ended while it was asked; others live now.")


def verify_choice(
    target: Target,
    traffic: Traffic,
    replicas: Sequence[Replica],
    sample: Sample,
    *,
    probes: int = PROBES,
    patience: float,
) -> None:
    """
    Ask as callers do, without naming a version: only those with traffic may answer.

    :param replicas: Each is asked, and the address that callers use.
    :param sample: Predictions of the versions in ``expected`` are compared, those of others not: a champion that
        answers differently since a library changed is no reason against the candidate.
    :param probes: Requests in all; at least one per replica is sent.
    :param patience: Longest time, in seconds, over which an unanswered request is repeated.
    :raises ServingCheckError: An answer differs, or comes from a version without traffic. Not retried.
    :raises ConcurrentWriteError: A newer generation answered: the traffic was moved meanwhile. Retried.
    :raises StoreUnavailableError: No answer, or still one of an older generation. Retried.
    """

    def ask(replica: Replica | None) -> Answer:
        answer = target.predict(sample.rows, replica=replica)
        if answer.generation < traffic.generation:
            raise StoreUnavailableError(
                f"Callers of {traffic.model!r} still get answers of generation {answer.generation}, not "
                f"{traffic.generation}. Does the server's address lead to a replica that follows this ledger?"
            )
        return answer

    asked = [None, *replicas]
    for probe in range(max(probes, len(asked))):
        replica = asked[probe % len(asked)]
        answer = _asked(target, partial(ask, replica), replica, patience)
        if answer is None:
            continue
        if answer.generation > traffic.generation:
            raise ConcurrentWriteError(
                f"Generation {answer.generation} of {traffic.model!r} answers instead of {traffic.generation}: "
                "somebody moved the traffic meanwhile."
            )
        if not traffic.split.get(answer.version):
            raise ServingCheckError(
                f"Version {answer.version} answered, which has no traffic in generation {traffic.generation}: "
                f"{describe(traffic.split)}."
            )
        if answer.version in sample.expected:
            _require_equal(answer, answer.version, sample, where="the server")


def _asked(target: Target, ask: Callable[[], Answer], replica: Replica | None, patience: float) -> Answer | None:
    """Repeat *ask* while there is no answer, for at most *patience* seconds; None if *replica* has died meanwhile."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return ask()
        except StoreUnavailableError:
            if replica is not None and replica.replica not in {alive.replica for alive in target.observe()}:
                logger.warning("Replica %s of %s ended and is left out", replica.replica, target.model)
                return None
            if time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_SECONDS)


def _require_equal(answer: Answer, version: str, sample: Sample, *, where: str) -> None:
    if answer.version != version:
        raise ServingCheckError(f"On {where} version {answer.version} answered for version {version}.")
    expected = sample.expected[version]
    if len(answer.predictions) != len(expected):
        raise ServingCheckError(
            f"On {where} version {version} answered {len(answer.predictions)} predictions to {len(expected)} rows."
        )
    difference = np.abs(np.array(answer.predictions) - expected)
    wrong = int((~(difference <= TOLERANCE * np.maximum(1.0, np.abs(expected)))).sum())
    if wrong:
        raise ServingCheckError(
            f"On {where} version {version} predicts {wrong} of {len(expected)} rows differently from the registry's "
            f"model: by up to {np.nanmax(difference):.3g}, allowed are {TOLERANCE:.0e} (of the prediction, beyond 1)."
        )
