"""
One interface to predict with, for the model server and for batch scoring alike.

A version is scored by its ONNX graph if it has one, else by the scikit-learn estimator itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from onnx import numpy_helper

from mlops_provider.adapters import tasks
from mlops_provider.adapters.onnx_graph import ABOUT, INPUT, ML_DOMAIN, OUTPUT
from mlops_provider.adapters.segmented import Segmented
from mlops_provider.adapters.tree_tables import TreeTables
from mlops_provider.core.columns import Column
from mlops_provider.exceptions import ServingCheckError

Cells = NDArray[Any]
Floats = NDArray[np.float64]

_STANDARD = ("", "ai.onnx", ML_DOMAIN)
_ERRORS_ONLY = 3


class GraphNotLoadedError(ServingCheckError):
    """A graph of standard operators that this ONNX Runtime can't run, or that lacks what belongs to it."""


TABLES_FROM = 1024
"""Rows from which on tables are faster than the runtime walking the trees."""


class Scorer(Protocol):
    """
    Predicts rows; safe to call from several threads at once.

    :ivar columns: What it takes, in order.
    :ivar segmented: The model, if it is made of segments: it names who answers a row.
    """

    columns: tuple[Column, ...]
    segmented: Segmented | None

    def predict(self, columns: Mapping[str, Cells]) -> Floats:
        """
        Predict the probability of class 1, or the number.

        :param columns: Cells by column, each (n_rows,): numbers as any numeric type, with NaN where one is missing;
            text as objects, with None where it is missing. Columns that are not needed are ignored.
        :return: Shape (n_rows,).
        :raises ValueError: It does not take a value that is there, such as a missing one.
        """

    def predict_table(self, rows: pa.Table) -> Floats:
        """Predict rows of an Arrow table, without a Python object per cell where that can be helped."""


class EstimatorScorer:
    """
    Scores with the scikit-learn estimator.

    :param model: A fitted classifier of two classes, or regressor.
    :param columns: What it takes, in order.
    """

    def __init__(self, model: Any, columns: Sequence[Column]) -> None:
        self.model = model
        self.columns = tuple(columns)
        self.segmented = model if isinstance(model, Segmented) else None
        self._task = tasks.of_model(model)

    def predict(self, columns: Mapping[str, Cells]) -> Floats:
        """Predict; see :class:`Scorer`."""
        return self._predicted(pd.DataFrame({each.name: columns[each.name] for each in self.columns}, copy=False))

    def predict_table(self, rows: pa.Table) -> Floats:
        """Predict; see :class:`Scorer`."""
        wanted = rows.select([each.name for each in self.columns])
        return self._predicted(wanted.to_pandas(coerce_temporal_nanoseconds=True))

    def _predicted(self, frame: pd.DataFrame) -> Floats:
        return self._task.predict(self.model, frame)


class OnnxScorer:
    """
    Scores with an ONNX graph over doubles; dictionaries in front of it turn text into numbers.

    :param content: The file, as :mod:`mlops_provider.adapters.conversion` writes it.
    :param threads: Threads of one prediction at most; they sleep while there is nothing to do.
    :raises ServingCheckError: The file is no graph, or could reach beyond itself. Not retried.
    :raises GraphNotLoadedError: It can't be run by what is installed here. Not retried.
    """

    def __init__(self, content: bytes, *, threads: int = 1) -> None:
        require_closed(content)
        self.segmented: Segmented | None = None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            about = json.loads(self._session.get_modelmeta().custom_metadata_map[ABOUT])
            self.columns = tuple(Column(each["name"], each["kind"]) for each in about["columns"])
            slots = [_Slot(each) for each in about["slots"]]
        except Exception as error:  # the runtime raises many types of its own, and a damaged file may lack anything
            raise GraphNotLoadedError(
                f"The ONNX file of the model can't be loaded ({type(error).__name__}): it is damaged, or was written "
                "by other package versions than are installed here."
            ) from error
        self._columns = list(enumerate(slots))
        self._width = len(slots)
        self._trees = _sum_of_trees(content)
        self._building = Lock()

    def predict(self, columns: Mapping[str, Cells]) -> Floats:
        """Predict; see :class:`Scorer`."""
        rows = len(columns[self.columns[0].name])
        return self._answered(((place, slot.of_cells(columns[slot.column])) for place, slot in self._columns), rows)

    def predict_table(self, rows: pa.Table) -> Floats:
        """Predict; see :class:`Scorer`."""
        return self._answered(((place, slot.of_arrow(rows[slot.column])) for place, slot in self._columns), len(rows))

    def _answered(self, columns: Iterable[tuple[int, Cells]], rows: int) -> Floats:
        """Answer from the columns of the matrix: through the runtime, or where it pays through tables."""
        tables = self._tables if rows >= TABLES_FROM else None
        if self._trees is not None and tables is not None:
            bins = {place: tables.bins(place, np.asarray(values, dtype=np.float64)) for place, values in columns}
            return self._trees.finished(tables.sums(bins, rows))
        matrix = np.empty((rows, self._width))
        for place, values in columns:
            matrix[:, place] = values
        (answers,) = self._session.run([OUTPUT], {INPUT: matrix})
        return np.asarray(answers, dtype=np.float64).reshape(-1)

    @property
    def _tables(self) -> TreeTables | None:
        """Tables of the graph's trees, made when they are first needed."""
        if self._trees is None:
            return None
        with self._building:
            if self._trees.tables is None:
                self._trees.tables = TreeTables.of(self._trees.node, self._width)
                if self._trees.tables is None:  # too large
                    self._trees = None
                    return None
            return self._trees.tables


class _Slot:
    """A column of the matrix: numbers as they are, or numbers of a dictionary."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.column: str = about["column"]
        self._codes: _Codes | None = None
        if "codes" in about:
            self._codes = _Codes(self.column, about["codes"], about["unknown"], about["missing"])
        else:
            self._may_be_missing, self._may_be_infinite = bool(about["missing"]), bool(about["infinite"])

    def of_cells(self, cells: Cells) -> Cells:
        """Numbers of NumPy cells."""
        if self._codes is None:
            return self._allowed(cells)
        values = cells if cells.dtype == object else cells.tolist()
        return np.fromiter(map(self._codes.__getitem__, values), np.float64, count=len(cells))

    def of_arrow(self, cells: pa.ChunkedArray) -> Cells:
        """Numbers of Arrow cells; each distinct value is looked up once."""
        if self._codes is None:
            return self._allowed(_as_numbers(cells))
        if not len(cells):
            return np.empty(0)
        if not pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_encode()
        packed = cells.unify_dictionaries().combine_chunks()
        values, indices = packed.dictionary.to_pylist(), packed.indices
        if indices.null_count:
            values.append(None)
            indices = indices.fill_null(len(values) - 1)
        numbers = np.fromiter(map(self._codes.__getitem__, values), np.float64, count=len(values))
        found: Cells = numbers.take(indices.to_numpy(zero_copy_only=False))
        return found

    def _allowed(self, cells: Cells) -> Cells:
        if self._may_be_missing and self._may_be_infinite:
            return cells
        numbers = np.asarray(cells, dtype=np.float64)
        if not self._may_be_missing and np.isnan(numbers).any():
            raise ValueError(f"column {self.column!r} must not be missing")
        if not self._may_be_infinite and np.isinf(numbers).any():
            raise ValueError(f"column {self.column!r} must be finite")
        return numbers


class _SumOfTrees:
    """
    A graph that adds up trees and a constant, which large blocks go through without the runtime.

    :param node: The operator.
    :param offset: What is added.
    :param link: What is made of the sum.
    """

    def __init__(self, node: onnx.NodeProto, offset: float, link: Callable[[Floats], Floats]) -> None:
        self.node = node
        self.offset = offset
        self.link = link
        self.tables: TreeTables | None = None

    def finished(self, sums: Floats) -> Floats:
        """Make predictions of sums."""
        return self.link(sums + self.offset)


def _sigmoid(sums: Floats) -> Floats:
    with np.errstate(over="ignore"):  # then the answer is 0
        return 1.0 / (1.0 + np.exp(-sums))


_LINKS: Mapping[str, Callable[[Floats], Floats]] = {"Sigmoid": _sigmoid, "Exp": np.exp, "Identity": np.asarray}


def _sum_of_trees(content: bytes) -> _SumOfTrees | None:
    """The trees of a graph that is nothing else, on the whole matrix; None of any other graph."""
    graph = onnx.ModelProto.FromString(content).graph
    operators = [node.op_type for node in graph.node]
    link = operators[3] if len(operators) > 3 else ""
    wanted = ["Identity", "TreeEnsemble", "Add", link, *(["Identity"] if link != "Identity" else [])]
    if operators != wanted or link not in _LINKS or list(graph.node[0].input) != [INPUT]:
        return None
    offset = next(each for each in graph.initializer if each.name == graph.node[2].input[1])
    return _SumOfTrees(graph.node[1], float(numpy_helper.to_array(offset).ravel()[0]), _LINKS[link])


class _Codes(dict[Any, float]):
    """Number of each category; of others, and of nothing, the number they share."""

    def __init__(self, column: str, codes: Sequence[tuple[Any, float]], unknown: float | None, missing: float | None):
        super().__init__((value, code) for value, code in codes)
        self._column = column
        self._unknown = unknown
        self._missing = missing
        if missing is not None:
            self[None] = missing

    def __missing__(self, value: Any) -> float:
        nothing = value is None or value != value  # noqa: PLR0124 - NaN is the only value that differs from itself
        code = self._missing if nothing else self._unknown
        if code is None:
            trouble = "must not be missing" if nothing else "holds a category that training never saw"
            raise ValueError(f"column {self._column!r} {trouble}")
        return code


def _as_numbers(cells: pa.ChunkedArray) -> Cells:
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.uint8())
    if cells.null_count:
        cells = pc.fill_null(cells.cast(pa.float64(), safe=False), np.nan)
    numbers: Cells = cells.to_numpy()
    return numbers


def require_closed(content: bytes) -> None:
    """
    Refuse an ONNX file that is more than a graph of standard operators over numbers of its own.

    :raises ServingCheckError: It holds operators of another domain, or names other files. Not retried.
    """
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own type lies in another package with every implementation
        raise ServingCheckError("The ONNX file of the model is damaged: it can't be parsed.") from error
    graphs = [model.graph, *model.functions]
    strange = {f"{node.domain}::{node.op_type}" for graph in graphs for node in _nodes(graph)} - _allowed(graphs)
    if strange:
        raise ServingCheckError(
            f"The ONNX file of the model holds operators that are not ONNX's own: {', '.join(sorted(strange)[:10])}. "
            "They could run foreign code."
        )
    if model.functions:
        raise ServingCheckError("The ONNX file of the model defines functions of its own, which are not loaded.")
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "another file")
            raise ServingCheckError(
                f"The ONNX file of the model takes {tensor.name!r} from {where!r}: a model is one file, and reads no "
                "other."
            )


def _allowed(graphs: Sequence[Any]) -> set[str]:
    return {f"{node.domain}::{node.op_type}" for graph in graphs for node in _nodes(graph) if node.domain in _STANDARD}


def _nodes(graph: Any) -> Iterator[onnx.NodeProto]:
    """Operators of a graph, and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Arrays of a graph, of its operators, and of the graphs inside them."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)  # noqa: PD011 - no frame
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)  # noqa: PD011 - no frame
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
