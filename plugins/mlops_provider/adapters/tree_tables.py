"""
Many rows through many small trees, without walking them: sets of leaves as bits.

After Lucchese et al., *QuickScorer: A Fast Algorithm to Rank Documents with Additive Ensembles of Regression Trees*
(SIGIR 2015). Between two neighbouring thresholds of a feature, the same nodes send a row the same way; so each such bin
has, per tree, one word whose bits are the leaves that the feature leaves over. The words of all features, and-ed, have
one bit: the leaf. That is a few passes over arrays per feature, whose cost does not depend on which way rows go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Floats = NDArray[np.float64]
Bins = NDArray[np.intp]

MOST_LEAVES = 64
_MOST_BYTES = 64 << 20
"""Tables beyond it no longer fit the processor's caches, and walking the trees is faster."""
_ROWS_AT_ONCE = 1024
"""Rows whose words stay in the cache while all features are gone through."""
_LESS_OR_EQUAL = 0
_CELLS = (256, 1024, 4096, 16384)
_MOST_IN_A_CELL = 3


class TreeTables:
    """
    A sum of trees.

    :param thresholds: Per feature, rising.
    :param words: Per feature (n_bins, n_trees): one bin before each threshold, one after the last, one for no value.
    :param leaves: What each leaf answers, (n_trees, n_bits).
    """

    def __init__(self, thresholds: Sequence[Floats], words: Sequence[NDArray[Any]], leaves: Floats) -> None:
        self._grids = [_Grid(each) for each in thresholds]
        self._words = words
        self._leaves = leaves
        self._used = [place for place, each in enumerate(thresholds) if len(each)]

    @classmethod
    def of(cls, node: onnx.NodeProto, width: int) -> TreeTables | None:
        """
        Make the tables of a TreeEnsemble operator.

        :param width: Columns of the matrix it takes.
        :return: None if its trees are too large, or ask for more than thresholds.
        """
        trees = _Trees(node)
        if trees.most_leaves > MOST_LEAVES or (trees.modes != _LESS_OR_EQUAL).any():
            return None
        word = np.dtype(np.uint32 if trees.most_leaves <= 32 else np.uint64)
        thresholds = [np.unique(trees.splits[trees.features == feature]) for feature in range(width)]
        if sum(len(each) + 2 for each in thresholds) * len(trees.roots) * word.itemsize > _MOST_BYTES:
            return None
        words = [np.full((len(each) + 2, len(trees.roots)), ~word.type(0), dtype=word) for each in thresholds]
        leaves = np.zeros((len(trees.roots), word.itemsize * 8))
        for tree in range(len(trees.roots)):
            trees.enter(tree, thresholds, words, leaves)
        return cls(thresholds, words, leaves)

    def bins(self, feature: int, values: Floats) -> Bins:
        """Number the bins that values of a feature lie in, (n_values,)."""
        return self._grids[feature].bins(values)

    def sums(self, bins: Mapping[int, Bins], rows: int) -> Floats:
        """
        Add up what the trees answer.

        :param bins: By feature, (n_rows,).
        :return: Shape (n_rows,).
        """
        trees, bits = self._leaves.shape
        word = self._words[0].dtype
        short = word == np.uint32
        shift, bias = (23, 127) if short else (52, 1023)
        first = np.arange(trees) * bits - bias
        values = self._leaves.ravel()
        at_once = min(rows, _ROWS_AT_ONCE)
        left, more = np.empty((at_once, trees), word), np.empty((at_once, trees), word)
        exact = np.empty((at_once, trees), np.float32 if short else np.float64)
        whole: NDArray[Any] = exact.view(np.int32 if short else np.int64)
        answers = np.empty(rows)
        for start in range(0, rows, at_once):
            stop = min(rows, start + at_once)
            have, took = left[: stop - start], more[: stop - start]
            have.fill(~word.type(0))
            for feature in self._used:
                np.take(self._words[feature], bins[feature][start:stop], axis=0, out=took, mode="clip")
                np.bitwise_and(have, took, out=have)
            # One bit is left, a power of two: its exponent as a floating-point number says which.
            exact[: stop - start] = have
            place = np.right_shift(whole[: stop - start], shift) + first
            values.take(place, mode="clip").sum(axis=1, out=answers[start:stop])
        return answers


class _Grid:
    """
    Thresholds of one feature, found by dividing instead of searching.

    Equal cells lie between the first and the last threshold, so many that few thresholds share one. Which cell a value
    falls into is computed as it was for the thresholds, by steps that never reverse an order; so only the thresholds of
    its own cell remain to be compared with.

    :param thresholds: Rising, (n_thresholds,).
    """

    def __init__(self, thresholds: Floats) -> None:
        self._thresholds = thresholds
        self._beyond: list[Floats] = []
        finite = thresholds[np.isfinite(thresholds)]
        spread = float(finite[-1] - finite[0]) if len(finite) else 0.0
        for cells in _CELLS:
            self._last = float(cells - 1)
            self._low, self._scale = (float(finite[0]), cells / spread) if spread > 0 else (0.0, 0.0)
            if not np.isfinite(self._scale) or not len(thresholds):
                return
            cell = self._cells(thresholds)
            most = int(np.bincount(cell).max())
            if most <= _MOST_IN_A_CELL:
                self._before = np.searchsorted(cell, np.arange(cells), side="left")
                rank = np.arange(len(thresholds)) - self._before[cell]
                self._beyond = [np.full(cells, np.inf) for _ in range(most)]
                for place, which in enumerate(rank):
                    self._beyond[which][cell[place]] = thresholds[place]
                return

    def bins(self, values: Floats) -> Bins:
        """Count the thresholds below each value; one more than there are, if there is no value."""
        if self._beyond:
            cell = self._cells(values)
            found = self._before.take(cell)
            for each in self._beyond:
                found += values > each.take(cell)
        else:
            found = np.searchsorted(self._thresholds, values, side="left")
        missing = np.isnan(values)
        if missing.any():
            found[missing] = len(self._thresholds) + 1
        return found

    def _cells(self, values: Floats) -> Bins:
        with np.errstate(over="ignore"):  # beyond the last cell is in it
            place = np.subtract(values, self._low)
            place *= self._scale
        np.fmax(place, 0.0, out=place)  # what is not a number goes anywhere
        np.fmin(place, self._last, out=place)
        return place.astype(np.intp)


class _Trees:
    """Attributes of a TreeEnsemble operator as arrays."""

    def __init__(self, node: onnx.NodeProto) -> None:
        held = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        self.features = np.array(held["nodes_featureids"])
        self.splits = numpy_helper.to_array(held["nodes_splits"]).astype(np.float64)
        self.modes = numpy_helper.to_array(held["nodes_modes"])
        self.missing = np.array(held["nodes_missing_value_tracks_true"], dtype=bool)
        self.true = list(zip(held["nodes_truenodeids"], held["nodes_trueleafs"], strict=True))
        self.false = list(zip(held["nodes_falsenodeids"], held["nodes_falseleafs"], strict=True))
        self.values = numpy_helper.to_array(held["leaf_weights"]).astype(np.float64)
        self.roots = list(held["tree_roots"])
        # Inner nodes and leaves are numbered through all trees; a tree has one leaf more than inner nodes.
        ends = [*self.roots[1:], len(self.splits)]
        self.sizes = [end - root for root, end in zip(self.roots, ends, strict=True)]

    @property
    def most_leaves(self) -> int:
        """Leaves of the largest tree."""
        return int(max(self.sizes)) + 1

    def enter(self, tree: int, thresholds: Sequence[Floats], words: Sequence[NDArray[Any]], leaves: Floats) -> None:
        """Take what each node of a tree excludes out of the words of its bins."""
        root, size = self.roots[tree], self.sizes[tree]
        first_leaf = root + tree
        leaves[tree, : size + 1] = self.values[first_leaf : first_leaf + size + 1]
        below: dict[int, int] = {}

        def bits(child: tuple[int, int]) -> int:
            number, is_leaf = child
            return 1 << (number - first_leaf) if is_leaf else below[number]

        for node in self._children_first(root):
            low, high = bits(self.true[node]), bits(self.false[node])
            below[node] = low | high
            column, feature = words[self.features[node]], self.features[node]
            place = int(np.searchsorted(thresholds[feature], self.splits[node]))
            full = int(np.iinfo(column.dtype).max)
            without_low, without_high = column.dtype.type(full ^ low), column.dtype.type(full ^ high)
            column[: place + 1, tree] &= without_high
            column[place + 1 : -1, tree] &= without_low
            column[-1, tree] &= without_high if self.missing[node] else without_low
        # Bits that no leaf has are excluded by the root.
        rest = words[self.features[root]].dtype.type(below[root])
        words[self.features[root]][:, tree] &= rest

    def _children_first(self, root: int) -> list[int]:
        order, waiting = [], [root]
        while waiting:
            node = waiting.pop()
            order.append(node)
            waiting += [number for number, is_leaf in (self.true[node], self.false[node]) if not is_leaf]
        return order[::-1]
