"""Which types a model file may hold: its list of types is the door through which loading could run code."""

from __future__ import annotations

from dataclasses import dataclass

from mlops_provider.core.payload import Payload

REVIEWED_TYPES = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""
Types beyond skops' own list that every stored model may hold; each was reviewed: arrays, numbers and other estimators,
whose making and filling runs no code but scikit-learn's own.
"""


OWN_TYPES = ("mlops_provider.adapters.segmented.Segmented",)
"""Types of this package; reviewed: a name, a mapping of names to estimators, and methods that only route rows."""


@dataclass(frozen=True, slots=True)
class Trust(Payload):
    """
    Somebody answers for types of a model that nobody reviewed here.

    :param types: Their full names.
    """

    reason: str
    owner: str
    types: tuple[str, ...]
