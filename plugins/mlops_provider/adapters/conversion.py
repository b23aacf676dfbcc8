"""
A fitted scikit-learn estimator as an ONNX graph over doubles that gives the same predictions.

Every comparison and every sum is made in the precision scikit-learn makes it in, so results differ in the last digits
at most. Text never enters the graph: encoders become dictionaries in front of it, which are asked for what they answer
to each of their categories, to a text they don't know and to nothing. What has no exact counterpart here is not
converted, and said so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from onnx import TensorProto
from sklearn import linear_model, tree
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from mlops_provider.adapters.onnx_graph import INPUT, Graph, Tree
from mlops_provider.adapters.scorers import TABLES_FROM, EstimatorScorer, OnnxScorer, Scorer
from mlops_provider.core.columns import Column

_ENCODERS = (OrdinalEncoder, OneHotEncoder, TargetEncoder)
_FORESTS = (RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor)
_SINGLE_TREES = (tree.DecisionTreeClassifier, tree.DecisionTreeRegressor)
_BOOSTED = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
_LINEAR = (
    linear_model.LinearRegression,
    linear_model.Ridge,
    linear_model.RidgeCV,
    linear_model.Lasso,
    linear_model.LassoCV,
    linear_model.ElasticNet,
    linear_model.ElasticNetCV,
    linear_model.HuberRegressor,
    linear_model.QuantileRegressor,
    linear_model.BayesianRidge,
)
_STAGED = (GradientBoostingClassifier, GradientBoostingRegressor)
_CONSTANT = (DummyClassifier, DummyRegressor)
_ADDED_UP = ("log_loss", "squared_error", "absolute_error", "huber", "quantile")
_IDENTITY = ("squared_error", "absolute_error", "quantile")
_LOG = ("poisson", "gamma")

_UNKNOWN_TEXT = "\x00 no category has this name"
_UNKNOWN_NUMBER = 3.0e38


TOLERANCE = 1e-9
"""Largest difference between what graph and estimator predict; relative for predictions beyond 1."""

_PROBED = 20
"""Rows whose cells are emptied and made unknown, to see that both refuse or answer the same."""


class NotConvertibleError(Exception):
    """An estimator, or a part of it, has no exact counterpart; the message ends a sentence: "not converted: …"."""


@dataclass(frozen=True, slots=True)
class _Raw:
    """A column of the table as it is."""

    column: Column


@dataclass(frozen=True, slots=True)
class _Coded:
    """
    A column of the table through a dictionary.

    :param codes: Category → number.
    :param unknown: Number of any other value; None: refused.
    :param missing: Number of no value; None: refused.
    """

    column: Column
    codes: tuple[tuple[Any, float], ...]
    unknown: float | None
    missing: float | None


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Columns that an operator of the graph gave."""

    name: str
    width: int


_Piece = _Raw | _Coded | _Tensor


class _Conversion:
    """One estimator on its way into a graph."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.slots: list[_Raw | _Coded] = []
        self.parts: list[tuple[str, list[int]]] = []

    def tensor(self, pieces: Sequence[_Piece]) -> str:
        """Put pieces side by side: one matrix."""
        tensors: list[str] = []
        waiting: list[_Raw | _Coded] = []
        for piece in [*pieces, None]:
            if isinstance(piece, _Raw | _Coded):
                waiting.append(piece)
                continue
            if waiting:
                tensors.append(self._columns(waiting))
                waiting = []
            if piece is not None:
                tensors.append(piece.name)
        return tensors[0] if len(tensors) == 1 else self.graph.add("Concat", tensors, axis=1)

    def slot(self, piece: _Raw | _Coded) -> int:
        """Number of the matrix column that holds a piece."""
        if isinstance(piece, _Raw) and piece.column.kind in ("text", "time"):
            raise NotConvertibleError(
                f"column {piece.column.name!r} holds {piece.column.kind} and reaches the model as it is"
            )
        if piece not in self.slots:
            self.slots.append(piece)
        return self.slots.index(piece)

    def _columns(self, pieces: Sequence[_Raw | _Coded]) -> str:
        wanted = [self.slot(piece) for piece in pieces]
        name = f"columns_{len(self.parts)}"
        self.parts.append((name, wanted))
        return name

    def finished(self, output: str, columns: Sequence[Column], finite: Mapping[str, tuple[bool, bool]]) -> bytes:
        """
        Give the file.

        :param finite: Per column that reaches the model as a number: whether it may be missing, and infinite.
        """
        cut = Graph()
        cut.constants, cut.nodes = self.graph.constants, []
        for name, wanted in self.parts:
            if wanted == list(range(len(self.slots))):
                made = cut.add("Identity", [INPUT])
            else:
                made = cut.add("Gather", [INPUT, cut.constant(wanted, np.int64)], axis=1)
            cut.nodes[-1].output[0], cut.nodes[-1].name = name, made
        self.graph.nodes = [*cut.nodes, *self.graph.nodes]
        about = {
            "columns": [{"name": each.name, "kind": each.kind} for each in columns],
            "slots": [_described(slot, finite) for slot in self.slots],
        }
        return self.graph.finished(output, width=len(self.slots), about=about)


def converted(model: Any, columns: Sequence[Column], example: pd.DataFrame) -> bytes:
    """
    Convert a fitted estimator.

    :param model: Predicts the probability of class 1, or a number.
    :param columns: What it takes, in order.
    :param example: A real row (1, n_columns) or more, to learn how it treats what is missing.
    :return: The ONNX file.
    :raises NotConvertibleError: Says which part has no exact counterpart.
    """
    if is_classifier(model) and len(model.classes_) != 2:
        raise NotConvertibleError(f"it tells {len(model.classes_)} classes apart, not two")
    conversion = _Conversion()
    output = _predicted(conversion, model, [_Raw(column) for column in columns])
    example = example[[column.name for column in columns]]
    finite = {
        slot.column.name: _tolerated(model, example, slot.column) for slot in conversion.slots if isinstance(slot, _Raw)
    }
    return conversion.finished(output, columns, finite)


def largest_difference(graph: bytes, model: Any, columns: Sequence[Column], rows: pd.DataFrame) -> float:
    """
    Compare a graph with the estimator it was made from.

    :param rows: Real rows (n_rows, n_columns); some of them also with single cells missing, or of a category that no
        encoder knows.
    :return: Largest difference of two predictions; relative for predictions beyond 1.
    :raises NotConvertibleError: It is beyond the tolerance, or one of the two refuses what the other answers.
    """
    scorers = OnnxScorer(graph), EstimatorScorer(model, columns)
    largest = 0.0
    few = rows.head(TABLES_FROM - 1)
    # Few rows go through the runtime, many through tables: both are compared.
    for what, given in (("real rows", rows), ("real rows, few at once,", few), *_probes(columns, rows.head(_PROBED))):
        cells = {each.name: given[each.name].to_numpy() for each in columns}
        ours, theirs = (_answers(scorer, cells) for scorer in scorers)
        if ours is None or theirs is None:
            if ours is not theirs:
                who = "the graph" if ours is None else "the model"
                raise NotConvertibleError(f"of {what}, only {who} refuses some")
            continue
        found = np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))
        if not (found <= TOLERANCE).all():
            raise NotConvertibleError(
                f"{int((~(found <= TOLERANCE)).sum()):,} of {len(found):,} {what} are predicted differently, by up to "
                f"{np.nanmax(found):.3g}; allowed are {TOLERANCE:.0e}"
            )
        largest = max(largest, float(found.max(initial=0.0)))
    return largest


def _probes(columns: Sequence[Column], rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for column in columns:
        text = column.kind == "text"
        emptied = pd.Series([None if text else np.nan] * len(rows), rows.index, object if text else float)
        yield f"rows without {column.name!r}", rows.assign(**{column.name: emptied})
        if text:
            yield f"rows with an unknown {column.name!r}", rows.assign(**{column.name: _UNKNOWN_TEXT})


def _answers(scorer: Scorer, cells: Mapping[str, NDArray[Any]]) -> NDArray[np.float64] | None:
    try:
        with _quiet():
            return scorer.predict(cells)
    except (ValueError, TypeError):
        return None


def _described(slot: _Raw | _Coded, finite: Mapping[str, tuple[bool, bool]]) -> dict[str, Any]:
    if isinstance(slot, _Raw):
        missing, infinite = finite[slot.column.name]
        return {"column": slot.column.name, "missing": missing, "infinite": infinite}
    return {
        "column": slot.column.name,
        "codes": [[value, code] for value, code in slot.codes],
        "unknown": slot.unknown,
        "missing": slot.missing,
    }


def _tolerated(model: Any, example: pd.DataFrame, column: Column) -> tuple[bool, bool]:
    """Whether a model answers rows whose *column* is missing, and infinite."""

    def answered(value: float) -> bool:
        try:
            with _quiet():
                model.predict(example.head(1).assign(**{column.name: value}))
        except ValueError:
            return False
        return True

    return answered(np.nan), answered(np.inf)


def _predicted(conversion: _Conversion, model: Any, pieces: Sequence[_Piece]) -> str:
    """Convert whatever predicts."""
    if isinstance(model, Pipeline):
        return _predicted(conversion, model.steps[-1][1], _through(conversion, model.steps[:-1], pieces))
    kinds: tuple[tuple[tuple[type, ...], Callable[..., str]], ...] = (
        (_BOOSTED, _boosted),
        (_STAGED, _boosted_trees),
        (_FORESTS, _forest),
        (_SINGLE_TREES, _forest),
        ((linear_model.LogisticRegression, linear_model.LogisticRegressionCV), _logistic),
        (_LINEAR, _linear),
    )
    for types, convert in kinds:
        if type(model) in types:
            return convert(conversion, model, pieces)
    raise NotConvertibleError(f"there is no exact counterpart for {_named(model)}")


def _through(conversion: _Conversion, steps: Sequence[tuple[str, Any]], pieces: Sequence[_Piece]) -> Sequence[_Piece]:
    """Convert transformers, one after the other."""
    waiting: list[Any] = []  # imputers before an encoder belong to its dictionary
    transformers = [step for _, step in steps if step is not None and not isinstance(step, str)]
    for number, transformer in enumerate(transformers):
        following = transformers[number + 1 : number + 2]
        if (
            isinstance(transformer, SimpleImputer)
            and following
            and isinstance(following[0], (SimpleImputer, *_ENCODERS))
        ):
            waiting.append(transformer)
            continue
        pieces = _transformed(conversion, transformer, pieces, waiting)
        waiting = []
    return pieces


def _transformed(
    conversion: _Conversion, transformer: Any, pieces: Sequence[_Piece], before: Sequence[Any] = ()
) -> Sequence[_Piece]:
    if isinstance(transformer, Pipeline):
        return _through(conversion, transformer.steps, pieces)
    if type(transformer) is ColumnTransformer:
        return _side_by_side(conversion, transformer, pieces)
    if type(transformer) in _ENCODERS:
        return _encoded(conversion, transformer, pieces, before)
    if type(transformer) is FunctionTransformer and transformer.func is None:
        return pieces
    convert = _NUMERIC.get(type(transformer))
    if convert is None:
        raise NotConvertibleError(f"there is no exact counterpart for {_named(transformer)}")
    given = conversion.tensor(pieces)
    return [_Tensor(*convert(conversion.graph, transformer, given))]


def _side_by_side(conversion: _Conversion, transformer: ColumnTransformer, pieces: Sequence[_Piece]) -> list[_Piece]:
    """Convert a ColumnTransformer: each of its parts gets its own columns."""
    found: list[_Piece] = []
    for part, chosen in _parts(transformer, pieces):
        through = isinstance(part, str) and part == "passthrough"
        found += chosen if through else _transformed(conversion, part, chosen)
    return found


def _parts(transformer: ColumnTransformer, pieces: Sequence[_Piece]) -> Iterator[tuple[Any, list[_Piece]]]:
    """Yield the fitted parts of a ColumnTransformer with their columns, in the order of its output."""
    if any(isinstance(piece, _Tensor) for piece in pieces):
        raise NotConvertibleError("a ColumnTransformer stands behind another transformer")
    names = [piece.column.name for piece in pieces if not isinstance(piece, _Tensor)]
    for _, part, wanted in transformer.transformers_:
        chosen = [pieces[place] for place in _places(wanted, names)]
        if chosen and not (isinstance(part, str) and part == "drop"):
            yield part, chosen


def _places(wanted: Any, names: Sequence[str]) -> list[int]:
    """Positions of the columns that a ColumnTransformer names, in any of the ways it may."""
    if isinstance(wanted, str):
        return [names.index(wanted)]
    if isinstance(wanted, slice) and (isinstance(wanted.start, str) or isinstance(wanted.stop, str)):
        start = names.index(wanted.start) if wanted.start is not None else 0
        return list(range(start, names.index(wanted.stop) + 1 if wanted.stop is not None else len(names)))
    if not isinstance(wanted, slice) and len(wanted) and all(isinstance(each, str) for each in wanted):
        return [names.index(each) for each in wanted]
    return [int(each) for each in np.atleast_1d(np.arange(len(names))[wanted])]


def _encoded(
    conversion: _Conversion, encoder: Any, pieces: Sequence[_Piece], before: Sequence[Any]
) -> Sequence[_Piece]:
    """
    Convert an encoder into dictionaries, by asking it for what it makes of every category.

    :param before: Imputers that stand before it.
    """
    if any(isinstance(piece, _Tensor) for piece in pieces):
        raise NotConvertibleError(f"{_named(encoder)} stands behind another transformer")
    if type(encoder) is TargetEncoder and getattr(encoder, "target_type_", "") == "multiclass":
        raise NotConvertibleError("a TargetEncoder of more than two classes")
    names = [piece.column.name for piece in pieces if not isinstance(piece, _Tensor)]
    widths = encoder._n_features_outs if type(encoder) is OneHotEncoder else [1] * len(pieces)  # noqa: SLF001
    ends = np.cumsum(widths)
    usual = [next(each for each in categories if not _is_missing(each)) for categories in encoder.categories_]
    as_objects = any(categories.dtype == object for categories in encoder.categories_)
    fitted_on = getattr([*before, encoder][0], "feature_names_in_", None)

    def ask(column: int, values: Sequence[Any]) -> NDArray[np.float64] | None:
        cells = {name: [value] * len(values) for name, value in zip(names, usual, strict=True)}
        cells[names[column]] = list(values)
        rows = pd.DataFrame(cells)
        if any(value is None or isinstance(value, str) for value in values):
            rows = rows.astype({names[column]: object})
        asked: Any = (
            rows.to_numpy(object if as_objects else None) if fitted_on is None else rows.set_axis(fitted_on, axis=1)
        )
        try:
            with _quiet():
                for transformer in [*before, encoder]:
                    asked = transformer.transform(asked)
        except (ValueError, TypeError):
            return None
        answer = asked.toarray() if hasattr(asked, "toarray") else np.asarray(asked)
        return np.asarray(answer, dtype=np.float64)[:, ends[column] - widths[column] : ends[column]]

    return [
        _dictionary(conversion, piece, encoder.categories_[place], partial(ask, place))
        for place, piece in enumerate(pieces)
        if not isinstance(piece, _Tensor)
    ]


def _dictionary(
    conversion: _Conversion,
    piece: _Raw | _Coded,
    categories: Sequence[Any],
    ask: Callable[[Sequence[Any]], NDArray[np.float64] | None],
) -> _Piece:
    """
    Make one column's dictionary; of answers of several numbers a table in the graph, by the dictionary's number.

    :param ask: Gives what the encoder makes of values, (n_values, n_numbers); None if it refuses one.
    """
    text = piece.column.kind == "text"
    if isinstance(piece, _Coded):  # a second encoder: it is asked for what the first one answers
        values = [value for value, _ in piece.codes]
        known = ask([code for _, code in piece.codes])
        unknown = None if piece.unknown is None else ask([piece.unknown])
        missing = None if piece.missing is None else ask([piece.missing])
    else:
        values = [_plain(each) for each in categories if not _is_missing(each)]
        known = ask([each for each in categories if not _is_missing(each)])
        unknown = ask([_UNKNOWN_TEXT if text else _UNKNOWN_NUMBER])
        missing = ask([None if text else np.nan])
    if known is None:
        raise NotConvertibleError(f"the encoder of column {piece.column.name!r} refuses its own categories")
    if known.shape[1] == 1:
        found = [None if answer is None else float(answer[0, 0]) for answer in (unknown, missing)]
        return _Coded(piece.column, tuple(zip(values, known[:, 0].tolist(), strict=True)), *found)
    table = np.vstack([known, *(answer for answer in (unknown, missing) if answer is not None)])
    numbers = iter(range(len(known), len(table)))
    found = [None if answer is None else float(next(numbers)) for answer in (unknown, missing)]
    coded = _Coded(piece.column, tuple((value, float(number)) for number, value in enumerate(values)), *found)
    graph = conversion.graph
    index = graph.add("Cast", [conversion.tensor([coded])], to=TensorProto.INT64)
    flat = graph.add("Reshape", [index, graph.constant([-1], np.int64)])
    return _Tensor(graph.add("Gather", [graph.constant(table), flat], axis=0), known.shape[1])


def _plain(value: Any) -> Any:
    """A category as JSON has it."""
    return value.item() if isinstance(value, np.generic) else value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _imputed(graph: Graph, imputer: SimpleImputer, given: str) -> tuple[str, int]:
    statistics = np.asarray(imputer.statistics_)
    if imputer.add_indicator or not _is_missing(imputer.missing_values) or statistics.dtype == object:
        raise NotConvertibleError(f"{_named(imputer)} adds columns, or imputes other things than missing numbers")
    kept = np.flatnonzero(~np.isnan(statistics.astype(float)))
    if len(kept) < len(statistics):
        given = graph.add("Gather", [given, graph.constant(kept, np.int64)], axis=1)
    filled = graph.add("Where", [graph.add("IsNaN", [given]), graph.constant(statistics[kept]), given])
    return filled, len(kept)


def _standardised(graph: Graph, scaler: StandardScaler, given: str) -> tuple[str, int]:
    if scaler.mean_ is not None and scaler.with_mean:
        given = graph.add("Sub", [given, graph.constant(scaler.mean_)])
    if scaler.scale_ is not None:
        given = graph.add("Div", [given, graph.constant(scaler.scale_)])
    return given, scaler.n_features_in_


def _robust(graph: Graph, scaler: RobustScaler, given: str) -> tuple[str, int]:
    if scaler.center_ is not None:
        given = graph.add("Sub", [given, graph.constant(scaler.center_)])
    if scaler.scale_ is not None:
        given = graph.add("Div", [given, graph.constant(scaler.scale_)])
    return given, scaler.n_features_in_


def _between(graph: Graph, scaler: MinMaxScaler, given: str) -> tuple[str, int]:
    given = graph.add("Mul", [given, graph.constant(scaler.scale_)])
    given = graph.add("Add", [given, graph.constant(scaler.min_)])
    if scaler.clip:
        low, high = scaler.feature_range
        given = graph.add("Min", [graph.add("Max", [given, graph.constant(low)]), graph.constant(high)])
    return given, scaler.n_features_in_


def _max_abs(graph: Graph, scaler: MaxAbsScaler, given: str) -> tuple[str, int]:
    if getattr(scaler, "clip", False):
        raise NotConvertibleError(f"{_named(scaler)} clips")
    return graph.add("Div", [given, graph.constant(scaler.scale_)]), scaler.n_features_in_


_NUMERIC: Mapping[type, Callable[[Graph, Any, str], tuple[str, int]]] = {
    SimpleImputer: _imputed,
    StandardScaler: _standardised,
    RobustScaler: _robust,
    MinMaxScaler: _between,
    MaxAbsScaler: _max_abs,
}


def _boosted(conversion: _Conversion, model: Any, pieces: Sequence[_Piece]) -> str:
    """Convert histogram-based gradient boosting; doubles are compared with doubles."""
    if model._preprocessor is not None:  # noqa: SLF001 - it encodes categories itself
        own = _parts(model._preprocessor, pieces)  # noqa: SLF001
        pieces = [
            piece
            for part, chosen in own
            for piece in (_encoded(conversion, part, chosen, ()) if isinstance(part, _ENCODERS) else chosen)
        ]
    graph, given = conversion.graph, conversion.tensor(pieces)
    trees = []
    for (predictor,) in model._predictors:  # noqa: SLF001
        nodes = predictor.nodes
        members = {
            node: _members(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]])
            for node in range(len(nodes))
            if nodes["is_categorical"][node] and not nodes["is_leaf"][node]
        }
        trees.append(
            Tree(
                left=nodes["left"],
                right=nodes["right"],
                feature=nodes["feature_idx"],
                threshold=nodes["num_threshold"],
                missing_left=nodes["missing_go_to_left"],
                leaf=nodes["is_leaf"].astype(bool),
                value=nodes["value"],
                members=members,
            )
        )
    total = graph.add("Add", [graph.trees(given, trees), graph.constant(np.ravel(model._baseline_prediction))])  # noqa: SLF001
    if is_classifier(model):
        return graph.add("Sigmoid", [total])
    if model.loss in _LOG:
        return graph.add("Exp", [total])
    if model.loss not in _IDENTITY:
        raise NotConvertibleError(f"{_named(model)} with the loss {model.loss!r}")
    return total


def _members(bits: NDArray[np.uint32]) -> list[float]:
    """Categories whose bit is set."""
    return [float(each) for each in range(32 * len(bits)) if bits[each // 32] >> np.uint32(each % 32) & np.uint32(1)]


def _forest(conversion: _Conversion, model: Any, pieces: Sequence[_Piece]) -> str:
    """Convert trees that learn from numbers in single precision, one or many of equal weight."""
    members = model.estimators_ if hasattr(model, "estimators_") else [model]
    if getattr(model, "n_outputs_", 1) != 1:
        raise NotConvertibleError(f"{_named(model)} of {model.n_outputs_} outputs")
    trees = []
    for each in members:
        grown = each.tree_
        value = grown.value[:, 0, :]
        answer = value[:, 1] / value.sum(axis=1) if is_classifier(model) else value[:, 0]
        trees.append(_grown(grown, answer / len(members)))
    graph = conversion.graph
    return graph.trees(graph.rounded(conversion.tensor(pieces)), trees)


def _boosted_trees(conversion: _Conversion, model: Any, pieces: Sequence[_Piece]) -> str:
    """Convert gradient boosting over trees that learn from numbers in single precision."""
    if not (isinstance(model.init_, str) or type(model.init_) in _CONSTANT) or model.loss not in _ADDED_UP:
        raise NotConvertibleError(f"{_named(model)} with the loss {model.loss!r} and init={model.init!r}")
    trees = [_grown(each.tree_, each.tree_.value[:, 0, 0] * model.learning_rate) for each in model.estimators_[:, 0]]
    graph = conversion.graph
    start = model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32))  # noqa: SLF001
    total = graph.add(
        "Add", [graph.trees(graph.rounded(conversion.tensor(pieces)), trees), graph.constant(np.ravel(start))]
    )
    return graph.add("Sigmoid", [total]) if is_classifier(model) else total


def _grown(grown: Any, value: NDArray[np.float64]) -> Tree:
    return Tree(
        left=grown.children_left,
        right=grown.children_right,
        feature=grown.feature,
        threshold=grown.threshold,
        missing_left=grown.missing_go_to_left,
        leaf=grown.children_left == grown.children_right,
        value=value,
    )


def _logistic(conversion: _Conversion, model: Any, pieces: Sequence[_Piece]) -> str:
    graph = conversion.graph
    total = graph.affine(conversion.tensor(pieces), np.asarray(model.coef_, np.float64)[0], float(model.intercept_[0]))
    return graph.add("Sigmoid", [total])


def _linear(conversion: _Conversion, model: Any, pieces: Sequence[_Piece]) -> str:
    weights = np.asarray(model.coef_, np.float64)
    if weights.size != weights.shape[-1]:
        raise NotConvertibleError(f"{_named(model)} of several targets")
    offset = float(np.ravel(model.intercept_)[0])
    return conversion.graph.affine(conversion.tensor(pieces), weights.ravel(), offset)


@contextmanager
def _quiet() -> Iterator[None]:
    """Encoders warn of what they don't know; that is what they are asked about here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _named(of: Any) -> str:
    return f"{type(of).__module__}.{type(of).__qualname__}"
