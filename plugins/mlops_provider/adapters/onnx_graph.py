"""A graph of ONNX operators in the making; every number in it is a double, as in scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

INPUT, OUTPUT = "x", "prediction"
"""The matrix a graph takes, (n_rows, n_slots), and what it gives, (n_rows, 1); both doubles."""

ABOUT = "mlops.inputs"
"""Metadata of the file: how the columns of a table become the matrix, in JSON."""

ML_DOMAIN = "ai.onnx.ml"
OPSETS: Mapping[str, int] = {"": 21, ML_DOMAIN: 5}
"""Operator sets: version 5 is the first in which trees compare doubles with doubles."""
_IR_VERSION = 10

_LESS_OR_EQUAL, _MEMBER = 0, 6  # node modes of TreeEnsemble
_SUM = 1


class Graph:
    """Collects nodes and constants; every method gives the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], *, domain: str = "", **attributes: Any) -> str:
        """Add an operator with one output."""
        made = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [made], domain=domain, **attributes))
        return made

    def constant(self, values: Any, dtype: Any = np.float64) -> str:
        """Add an array."""
        made = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), made))
        return made

    def doubles(self, of: str) -> str:
        """Turn numbers of any type into doubles."""
        return self.add("Cast", [of], to=onnx.TensorProto.DOUBLE)

    def rounded(self, of: str) -> str:
        """Round doubles to single precision, as estimators do that learn from it."""
        return self.doubles(self.add("Cast", [of], to=onnx.TensorProto.FLOAT))

    def affine(self, of: str, weights: NDArray[np.float64], offset: float) -> str:
        """Multiply rows by *weights*, (n_columns,), and add *offset*: (n_rows, 1)."""
        product = self.add("MatMul", [of, self.constant(weights.reshape(-1, 1))])
        return self.add("Add", [product, self.constant([offset])])

    def trees(self, of: str, trees: Sequence[Tree]) -> str:
        """Add up what trees answer: (n_rows, 1)."""
        return self.add("TreeEnsemble", [of], domain=ML_DOMAIN, **_ensemble(trees))

    def finished(self, output: str, *, width: int, about: Mapping[str, Any]) -> bytes:
        """
        Close the graph and give the file.

        :param output: Name of what it answers, (n_rows, 1).
        :param width: Columns of the matrix it takes.
        :param about: Kept in the file, JSON types.
        """
        double = onnx.TensorProto.DOUBLE
        self.nodes.append(helper.make_node("Identity", [output], [OUTPUT]))
        graph = helper.make_graph(
            self.nodes,
            "scorer",
            [helper.make_tensor_value_info(INPUT, double, ["rows", width])],
            [helper.make_tensor_value_info(OUTPUT, double, ["rows", 1])],
            self.constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in OPSETS.items()],
            ir_version=_IR_VERSION,
            producer_name="mlops_provider",
        )
        helper.set_model_props(model, {ABOUT: json.dumps(about)})
        onnx.checker.check_model(model)
        return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


class Tree:
    """
    One tree as arrays over its nodes, (n_nodes,); the first is the root.

    A row goes left if its feature is at most the threshold, or is one of the node's categories.

    :param left: Node on the left; of a leaf anything.
    :param right: Node on the right.
    :param feature: Column of the matrix that is looked at.
    :param threshold: What it is compared with.
    :param missing_left: Whether a row without a value goes left.
    :param leaf: Whether it is a leaf.
    :param value: What a leaf answers.
    :param members: Categories that go left, by node, in place of a threshold.
    """

    def __init__(
        self,
        *,
        left: NDArray[Any],
        right: NDArray[Any],
        feature: NDArray[Any],
        threshold: NDArray[np.float64],
        missing_left: NDArray[Any],
        leaf: NDArray[np.bool_],
        value: NDArray[np.float64],
        members: Mapping[int, Sequence[float]] | None = None,
    ) -> None:
        self.left = left
        self.right = right
        self.feature = feature
        self.threshold = threshold
        self.missing_left = missing_left
        self.leaf = leaf
        self.value = value
        self.members = members or {}


def _ensemble(trees: Sequence[Tree]) -> dict[str, Any]:
    """Attributes of a TreeEnsemble: inner nodes and leaves are numbered apart, each through all trees."""
    found: dict[str, list[Any]] = {name: [] for name in ("feature", "split", "mode", "missing", "left", "right")}
    leaf_left: list[Any] = []
    leaf_right: list[Any] = []
    values: list[float] = []
    members: list[float] = []
    roots: list[int] = []
    for tree in (_with_root(each) for each in trees):
        inner = ~tree.leaf
        number = np.where(inner, len(found["split"]) + np.cumsum(inner) - 1, len(values) + np.cumsum(tree.leaf) - 1)
        roots.append(int(number[0]))
        values += tree.value[tree.leaf].tolist()
        left, right = tree.left[inner].astype(np.intp), tree.right[inner].astype(np.intp)
        found["feature"] += tree.feature[inner].tolist()
        found["split"] += tree.threshold[inner].tolist()
        found["mode"] += [_MEMBER if node in tree.members else _LESS_OR_EQUAL for node in np.flatnonzero(inner)]
        found["missing"] += tree.missing_left[inner].astype(int).tolist()
        found["left"] += number[left].tolist()
        found["right"] += number[right].tolist()
        leaf_left += tree.leaf[left].astype(int).tolist()
        leaf_right += tree.leaf[right].astype(int).tolist()
        for node in sorted(tree.members):
            members += [*tree.members[node], np.nan]
    attributes = {
        "n_targets": 1,
        "post_transform": 0,
        "aggregate_function": _SUM,
        "tree_roots": roots,
        "nodes_featureids": [int(each) for each in found["feature"]],
        "nodes_splits": numpy_helper.from_array(np.array(found["split"], np.float64)),
        "nodes_modes": numpy_helper.from_array(np.array(found["mode"], np.uint8)),
        "nodes_missing_value_tracks_true": found["missing"],
        "nodes_truenodeids": found["left"],
        "nodes_trueleafs": leaf_left,
        "nodes_falsenodeids": found["right"],
        "nodes_falseleafs": leaf_right,
        "leaf_targetids": [0] * len(values),
        "leaf_weights": numpy_helper.from_array(np.array(values, np.float64)),
    }
    if members:
        attributes["membership_values"] = numpy_helper.from_array(np.array(members, np.float64))
    return attributes


def _with_root(tree: Tree) -> Tree:
    """Put a node above a tree that is a single leaf: the operator wants a root that asks something."""
    if not tree.leaf[0]:
        return tree
    value = float(tree.value[0])
    return Tree(
        left=np.array([1, 0, 0]),
        right=np.array([2, 0, 0]),
        feature=np.zeros(3, np.intp),
        threshold=np.zeros(3),
        missing_left=np.zeros(3, bool),
        leaf=np.array([False, True, True]),
        value=np.array([0.0, value, value]),
    )
