"""A gate over predictions that somebody else made: no model is loaded, and none has to be registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import ValidationError

from mlops_provider.adapters import evaluation, tasks
from mlops_provider.core import gates
from mlops_provider.core.evaluation import CANDIDATE, CHAMPION, Contender, Evaluation
from mlops_provider.core.names import Kind
from mlops_provider.core.references import AnyTable
from mlops_provider.exceptions import ConfigurationError, DataRejectedError
from mlops_provider.spec_parts import Bootstrap, GateSpec
from mlops_provider.steps.evidence import decide_once

if TYPE_CHECKING:
    from datetime import datetime

    from mlops_provider.core.metrics import Interval
    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.files import Reader, Rows
    from mlops_provider.stores.ledger import Ledger

_SEED = 0
_LABEL = "label"
_BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Predictions:
    """
    Where predictions and labels stand.

    :param candidate: Table with the candidate's predictions.
    :param target: Column of what happened.
    :param prediction: Column of the predictions.
    :param champion: Table with the champion's predictions; None if they stand in the candidate's, or there are none.
    :param champion_prediction: Column of the champion's predictions; by default called as the candidate's.
    :param labels: Table with the labels; None if they stand in the candidate's table.
    :param keys: Columns that say which rows of the tables belong together.
    :param block: Column of the candidate's table whose values are resampled as a whole; empty for single rows.
    """

    candidate: AnyTable
    target: str
    prediction: str = "prediction"
    champion: AnyTable | None = None
    champion_prediction: str = ""
    labels: AnyTable | None = None
    keys: tuple[str, ...] = ()
    block: str = ""


def policy(primary: str, limits: Sequence[Mapping[str, Any]], minimum_rows: int) -> gates.GatePolicy:
    """
    Limits as a DAG gives them, checked as those of a ``model.yaml`` are.

    :raises ConfigurationError: A metric is unknown or a bound impossible. Not retried.
    """
    try:
        return GateSpec.model_validate(
            {"primary": primary, "limits": list(map(dict, limits)), "baselines": (), "minimum_rows": minimum_rows}
        ).policy()
    except ValidationError as error:
        raise ConfigurationError(f"The gate's limits are wrong: {_problems(error)}") from error


def gate_predictions(
    given: Predictions,
    *,
    read: Reader,
    policy: gates.GatePolicy,
    model: str,
    resamples: int,
    confidence: float,
    ledger: Ledger | None,
    origin: Origin,
    as_of: datetime | None = None,
) -> dict[str, Any]:
    """
    Hold a candidate's predictions against limits and, row by row, against the champion's.

    Rows that not every table has, and rows without a label, are left out and counted.

    :param read: Reads a table; of each only the columns named.
    :param model: What the decision is about, for the ledger.
    :param resamples: Bootstrap resamples that both are scored on, 100 or more.
    :param confidence: Coverage of the intervals, between 0 and 1.
    :return: The verdict with its numbers: ``passed``, ``summary``, ``reasons``, ``warnings``, ``notes``, ``metrics``,
        ``differences``, ``rows``, ``limits``, ``tables`` and ``record``.
    :raises DataRejectedError: No common rows, repeated keys, labels of one class, or a prediction missing. Not retried.
    """
    try:
        bootstrap = Bootstrap(resamples=resamples, confidence=confidence)
    except ValidationError as error:
        raise ConfigurationError(_problems(error)) from error

    joined = _joined(given, read)
    return decide_once(
        ledger,
        Kind.PREDICTIONS_GATE,
        model,
        lambda: _decided(joined, policy, bootstrap, model) | {"origin": origin.key},
        inputs={
            "tables": dict(joined.tables),
            "limits": policy.as_json(),
            "block": given.block,
            "bootstrap": bootstrap.model_dump(),
        },
        origin=origin,
        as_of=as_of,
    )


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg'].removeprefix('Value error, ')}"
        for each in error.errors()
    )


@dataclass(frozen=True)
class _Joined:
    """Rows that every table has and whose label is known."""

    frame: pd.DataFrame
    contenders: tuple[str, ...]
    block: str
    tables: Mapping[str, Any]
    warnings: tuple[str, ...]


def _joined(given: Predictions, read: Reader) -> _Joined:
    keys = list(given.keys)
    beside = given.champion_prediction if given.champion is None else ""
    if not keys and (given.champion is not None or given.labels is not None):
        raise ConfigurationError(
            "Predictions and labels of several tables are joined by keys: name the columns in keys."
        )
    own = [given.prediction, *filter(None, (beside, given.block)), *([given.target] if given.labels is None else [])]
    parts: dict[str, tuple[Rows, dict[str, str]]] = {
        CANDIDATE: (
            read(given.candidate, _distinct([*keys, *own])),
            {CANDIDATE: given.prediction}
            | ({CHAMPION: beside} if beside else {})
            | ({_BLOCK: given.block} if given.block else {})
            | ({_LABEL: given.target} if given.labels is None else {}),
        )
    }
    if given.champion is not None:
        column = given.champion_prediction or given.prediction
        parts[CHAMPION] = read(given.champion, _distinct([*keys, column])), {CHAMPION: column}
    if given.labels is not None:
        parts["labels"] = read(given.labels, _distinct([*keys, given.target])), {_LABEL: given.target}

    warnings: list[str] = []
    frame: pd.DataFrame | None = None
    for name, (rows, called) in parts.items():
        part = pd.DataFrame(
            {**{key: rows.frame[key] for key in keys}, **{new: rows.frame[old] for new, old in called.items()}}
        )
        _check_keys(part, keys, name)
        frame = part if frame is None else _merged(frame, part, keys, name, warnings)
    assert frame is not None
    unknown = int(frame[_LABEL].isna().sum())
    if unknown:
        warnings.append(f"{unknown:,} of {len(frame):,} rows have no label and were left out.")
        frame = frame[frame[_LABEL].notna()]
    if frame.empty:
        raise DataRejectedError(
            "No row has a prediction of each table and a label: are keys and tables the right ones?"
        )
    return _Joined(
        frame=frame.reset_index(drop=True),
        contenders=tuple(name for name in (CANDIDATE, CHAMPION) if name in frame),
        block=given.block,
        tables={name: dict(rows.about) for name, (rows, _) in parts.items()},
        warnings=tuple(warnings),
    )


def _distinct(columns: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(columns))


def _check_keys(part: pd.DataFrame, keys: Sequence[str], name: str) -> None:
    if keys and (repeated := int(part.duplicated(list(keys)).sum())):
        raise DataRejectedError(
            f"{repeated:,} of {len(part):,} rows in the table of {name} repeat a key ({', '.join(keys)}): name keys "
            "that tell rows apart, or read each row once."
        )


def _merged(frame: pd.DataFrame, part: pd.DataFrame, keys: list[str], name: str, warnings: list[str]) -> pd.DataFrame:
    try:
        merged = frame.merge(part, on=keys, how="inner", validate="one_to_one")
    except ValueError as error:
        kinds = ", ".join(f"{key} is {frame[key].dtype} and {part[key].dtype}" for key in keys)
        raise DataRejectedError(
            f"The table of {name} cannot be joined: {kinds}. Give the keys one type, say with a CAST in a query."
        ) from error
    if lost := len(frame) - len(merged):
        warnings.append(f"{lost:,} of {len(frame):,} rows are not in the table of {name} and were left out.")
    if more := len(part) - len(merged):
        warnings.append(f"{more:,} of {len(part):,} rows of {name} belong to no other row and were left out.")
    return merged


def _decided(joined: _Joined, policy: gates.GatePolicy, bootstrap: Bootstrap, model: str) -> dict[str, Any]:
    metrics = tuple(dict.fromkeys((policy.primary, *(limit.metric for limit in policy.limits))))
    task = _task(metrics)
    blocks = joined.frame[_BLOCK].astype(str) if _BLOCK in joined.frame else None
    scores = evaluation.evaluate(
        {name: _numbers(joined.frame[name], name) for name in joined.contenders},
        _numbers(joined.frame[_LABEL], "the label"),
        joined.frame,
        slices=(),
        slice_metric=policy.primary,
        resamples=bootstrap.resamples,
        confidence=bootstrap.confidence,
        seed=_SEED,
        task=task,
        metrics=metrics,
        blocks=blocks,
    )
    # The champion of somebody else's predictions has no version of ours.
    champion = "" if CHAMPION in joined.contenders else None
    found = Evaluation(
        model=model,
        run_id="",
        partition="",
        rows=scores.rows,
        contenders=tuple(
            Contender(name, champion if name == CHAMPION else None, measured)
            for name, measured in scores.metrics.items()
        ),
        comparisons=scores.comparisons,
        slices=(),
        champion_version=champion,
        data=None,
        task=task.about.name,
        block=None if blocks is None else joined.block,
        blocks=scores.blocks,
    )
    verdict = gates.decide(policy, found, declared_digest=policy.digest, champion_version=champion)
    verdict = replace(verdict, warnings=(*joined.warnings, *verdict.warnings))
    return {
        **verdict.as_json(),
        "summary": verdict.summary,
        "rows": found.rows,
        "metrics": {each.name: _as_json(each.metrics) for each in found.contenders},
        "differences": _as_json({each.metric: each.difference for each in found.comparisons}),
        "limits": policy.as_json(),
        "digest": policy.digest,
        "tables": dict(joined.tables),
        "resamples": bootstrap.resamples,
        "confidence": bootstrap.confidence,
        "seed": _SEED,
        "task": found.task,
        "block": found.block,
        "blocks": found.blocks,
    }


def _task(metrics: Sequence[str]) -> tasks.Task:
    """The kind of target that all these metrics are about."""
    for task in tasks.TASKS.values():
        if set(metrics) <= set(task.about.metrics):
            return task
    kinds = "; ".join(f"{task.about.name}: {', '.join(task.about.metrics)}" for task in tasks.TASKS.values())
    raise ConfigurationError(f"{', '.join(metrics)} are not about one kind of target. There are {kinds}.")


def _numbers(column: pd.Series, what: str) -> pd.Series:
    try:
        return column.astype("float64")
    except (TypeError, ValueError) as error:
        raise DataRejectedError(
            f"The column of {what} holds {column.dtype}, needed are numbers: labels 0 and 1, predictions as the metric "
            "takes them."
        ) from error


def _as_json(metrics: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.as_json() for name, interval in metrics.items()}
