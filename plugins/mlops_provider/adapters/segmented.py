"""
One model made of several: a child per segment where it earned its place, and the parent for everybody else.

Loading such a model needs this package to be installed, and with it the Airflow that it depends on. No Airflow has to
run, nothing of it is imported, and no ``model.yaml`` is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

from mlops_provider.core.evaluation import PARENT
from mlops_provider.core.trust import OWN_TYPES

DISTRIBUTION = "airflow-provider-mlops"
"""What has to be installed to load one."""

TRUSTED_TYPES = OWN_TYPES
"""Types for skops to trust."""


class Segmented(BaseEstimator):  # type: ignore[misc] # scikit-learn has no type information
    """
    Fitted estimators behind one interface: the column says which of them answers a row.

    Rows keep their order. A row whose value has no child, is unknown or is missing is answered by the parent. It is a
    classifier or a regressor as its parent is, and is fitted by being made.

    :param parent: Fitted estimator.
    :param children: Fitted estimators of the same kind, columns and classes, by value of *column*.
    :param column: Column of the features that holds the segment.
    """

    def __init__(self, parent: Any, children: Mapping[str, Any], column: str) -> None:
        self.parent = parent
        self.children = children
        self.column = column

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Columns it takes, in order."""
        return np.asarray(self.parent.feature_names_in_)

    @property
    def classes_(self) -> NDArray[Any]:
        """Classes it tells apart; a regressor has none."""
        return np.asarray(self.parent.classes_)

    def predict(self, X: pd.DataFrame) -> NDArray[Any]:
        """Predict classes or numbers, (n_rows,)."""
        return self._answers("predict", X)

    @available_if(lambda self: hasattr(self.parent, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Predict the probability of each class, (n_rows, n_classes)."""
        return self._answers("predict_proba", X)

    def answered_by(self, X: pd.DataFrame) -> NDArray[Any]:
        """Name, for each row, the segment whose child answers it, or "parent", (n_rows,)."""
        return np.array([*self.children, PARENT], dtype=object)[self._routes(X)]

    def __sklearn_tags__(self) -> Any:
        """It is what its parent is."""
        return get_tags(self.parent)

    def __sklearn_is_fitted__(self) -> bool:
        """All its parts are."""
        return True

    def _routes(self, X: pd.DataFrame) -> NDArray[np.intp]:
        """Number of the child that answers each row; -1 for the parent."""
        known = pd.Index(list(self.children), dtype=object)
        return np.asarray(known.get_indexer(pd.Index(X[self.column])), dtype=np.intp)

    def _answers(self, method: str, X: pd.DataFrame) -> NDArray[Any]:
        """Let each model answer its rows in one call, and put the answers where the rows stood."""
        routes = self._routes(X)
        order = np.argsort(routes, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(routes[order])) + 1)
        models = [*self.children.values(), self.parent]
        if len(groups) == 1:
            return np.asarray(getattr(models[routes[0] if len(routes) else -1], method)(X))
        answers = [np.asarray(getattr(models[routes[rows[0]]], method)(X.iloc[rows])) for rows in groups]
        found = np.concatenate(answers)
        answered = np.empty_like(found)
        answered[order] = found
        return answered
