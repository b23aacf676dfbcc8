"""Search parameters, fit estimators and baselines: scikit-learn and Optuna, with bounded threads."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from packaging.requirements import Requirement
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from mlops_provider.adapters import evaluation, segmented, tasks
from mlops_provider.core.metrics import DIRECTIONS
from mlops_provider.core.trust import REVIEWED_TYPES

TRUSTED_TYPES = REVIEWED_TYPES
"""Types beyond skops' own list that a stored model may hold."""

_SERVING_PACKAGES = ("scikit-learn", "numpy", "scipy", "pandas", "skops", "mlflow", "onnx", "onnxruntime")
_NEAR_LIMIT = 0.01  # share of a parameter's range that counts as "on its limit"


@dataclass(frozen=True, slots=True)
class Examples:
    """Feature rows and their outcomes: X (n_rows, n_features), y (n_rows,)."""

    X: pd.DataFrame
    y: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.y)

    def sample(self, rows: int | None, seed: int) -> Examples:
        """Give *rows* of them, drawn without replacement; all of them if there are no more, or *rows* is None."""
        if rows is None or len(self) <= rows:
            return self
        picked = np.sort(np.random.default_rng(seed).choice(len(self), size=rows, replace=False))
        return Examples(self.X.iloc[picked], self.y[picked])


@dataclass(frozen=True, slots=True)
class Search:
    """
    Outcome of a parameter search.

    :param score: Validation score of *params*, as the metric is usually written (not negated).
    :param trials: Parameter sets that were tried.
    :param cut: Whether time was over before as many had been tried as were asked for.
    :param on_limit: One sentence per parameter whose best value lies on a limit of its range.
    """

    params: Mapping[str, Any]
    score: float
    trials: int
    cut: bool
    on_limit: tuple[str, ...]


def time_split(rows: pd.DataFrame, *, partition: str, event_time: str) -> NDArray[np.bool_]:
    """
    Say which rows to validate on, so that validation always lies after training: the last partition.

    With one partition only: the last fifth of the time it covers, by rows.

    :param partition: Column with the partition key of each row.
    :return: True for validation rows, (n_rows,).
    """
    latest = rows[partition].max()
    later = (rows[partition] == latest).to_numpy()
    if later.all():
        times = rows[event_time]
        later = (times > times.quantile(0.8, interpolation="lower")).to_numpy()
    return np.asarray(later, dtype=np.bool_)


@contextmanager
def bounded_threads(threads: int) -> Iterator[None]:
    """Bound OpenMP and BLAS: two tasks with a thread per core each are slower than one after the other."""
    with threadpool_limits(limits=threads):
        yield


def fit(estimator: BaseEstimator, examples: Examples, *, threads: int) -> BaseEstimator:
    """
    Fit *estimator* on *examples* with at most *threads* threads and return it.

    :raises DataRejectedError: The outcomes are all alike, or there are none. Not retried.
    """
    tasks.of_model(estimator).require_learnable(examples.y)
    with bounded_threads(threads):
        return estimator.fit(examples.X, examples.y)


def predictions(model: Any, X: pd.DataFrame, *, threads: int) -> NDArray[np.float64]:
    """Predict the probability of class 1, or the number, as the model is one for, (n_rows,)."""
    with bounded_threads(threads):
        return tasks.of_model(model).predict(model, X)


def search(
    build: Callable[[Mapping[str, Any]], BaseEstimator],
    space: Callable[[optuna.Trial], Mapping[str, Any]],
    training: Examples,
    validation: Examples,
    *,
    metric: str,
    trials: int,
    timeout_seconds: float | None,
    seed: int,
    threads: int,
) -> Search:
    """
    Try *trials* parameter sets with Optuna's TPE sampler; the same seed tries the same sets.

    :param build: Gives an unfitted estimator for parameters.
    :param space: Asks a trial for parameters and returns them as *build* takes them.
    :param validation: Examples later than all of *training*.
    :param metric: What to optimise, a name of ``core.metrics.DIRECTIONS``.
    :param timeout_seconds: No further trial starts after this long; None for no limit.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if DIRECTIONS[metric] > 0 else "minimize", sampler=optuna.samplers.TPESampler(seed=seed)
    )

    def objective(trial: optuna.Trial) -> float:
        params = dict(space(trial))
        trial.set_user_attr("params", params)
        model = fit(build(params), training, threads=threads)
        predicted = predictions(model, validation.X, threads=threads)
        return evaluation.score(metric, predicted, validation.y, task=tasks.of_model(model))

    study.optimize(objective, n_trials=trials, timeout=timeout_seconds)
    best = study.best_trial
    return Search(
        params=best.user_attrs["params"],
        score=float(study.best_value),
        trials=len(study.trials),
        cut=len(study.trials) < trials,
        on_limit=_on_limit(best),
    )


def estimator_problem(
    build: Callable[[Mapping[str, Any]], Any], space: Callable[[optuna.Trial], Any], *, task: str, seed: int
) -> tuple[str, str] | None:
    """
    Say what a use case's ``estimator`` and ``space`` do not give as they should; None if nothing.

    :param task: "binary" or "regression".
    :return: Which of the two, and the end of a sentence that begins with it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    params = space(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask())
    if not isinstance(params, Mapping):
        return "space", f"gives a {type(params).__name__}, expected a mapping of parameters."
    made = build(dict(params))
    needed = "predict_proba" if task == "binary" else "predict"
    if not isinstance(made, BaseEstimator):
        return "estimator", f"gives a {type(made).__name__}, expected a scikit-learn estimator."
    if not hasattr(made, "fit") or not hasattr(made, needed):
        return "estimator", f"gives a {type(made).__name__} without {needed}, which a {task} target needs."
    if build(dict(params)) is made:
        return (
            "estimator",
            "gives the same object twice: make a new estimator in each call, or tries share what they fit.",
        )
    try:
        check_is_fitted(made)
    except NotFittedError:
        return None
    return "estimator", "gives an estimator that is fitted already: fitting is what the training step does."


def _on_limit(trial: optuna.trial.FrozenTrial) -> tuple[str, ...]:
    warnings = []
    for name, distribution in trial.distributions.items():
        if not isinstance(distribution, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution):
            continue
        scale = math.log if distribution.log else float
        low, high, value = scale(distribution.low), scale(distribution.high), scale(trial.params[name])
        if high == low:
            continue
        share = (value - low) / (high - low)
        if min(share, 1 - share) <= _NEAR_LIMIT:
            side, limit = ("lower", distribution.low) if share < 0.5 else ("upper", distribution.high)
            warnings.append(f"{name}={trial.params[name]:g} lies on its {side} limit {limit:g}: widen the range.")
    return tuple(warnings)


def baselines(
    examples: Examples,
    *,
    numeric: Sequence[str],
    categorical: Sequence[str],
    threads: int,
    task: tasks.Task = tasks.BINARY,
    metric: str = "",
) -> dict[str, BaseEstimator]:
    """
    Fit what any model has to beat: "dummy", which looks at no feature, and "linear", a regression of its kind.

    :param numeric: Columns that are imputed by their median and scaled.
    :param categorical: Columns that are one-hot encoded; values rarer than 1 % share a column, as do unknown ones.
    :param metric: Metric that the dummy should be best by.
    """
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()), list(numeric)),
        (
            OneHotEncoder(min_frequency=0.01, handle_unknown="infrequent_if_exist", sparse_output=False),
            list(categorical),
        ),
    )
    return {
        "dummy": fit(task.dummy(metric), examples, threads=threads),
        "linear": fit(make_pipeline(columns, task.linear()), examples, threads=threads),
    }


@functools.cache
def pinned_requirements(*, own: bool = False, types: tuple[str, ...] = ()) -> tuple[str, ...]:
    """
    Exact versions of what is needed to load a stored model, from the installed packages.

    MLflow would find them out by loading the model in a fresh process, which takes seconds. These are the packages
    that scikit-learn models are stored and scored with, and what scikit-learn itself requires.

    :param own: Whether the model holds types of this package.
    :param types: Types of other packages that it holds, by their full names; one of a loose module has no version.
    """
    needed = {*_SERVING_PACKAGES, segmented.DISTRIBUTION} if own else set(_SERVING_PACKAGES)
    for line in metadata.requires("scikit-learn") or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed.add(re.sub(r"[-_.]+", "-", requirement.name).lower())
    bringing = metadata.packages_distributions() if types else {}
    needed |= {name for each in types for name in bringing.get(each.partition(".")[0], ())}
    return tuple(f"{name}=={metadata.version(name)}" for name in sorted(needed))
