"""A model as files: scikit-learn in skops form, which loads no code of its own."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import mlflow.sklearn
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature

from mlops_provider.exceptions import ConfigurationError, ServingCheckError

# mlflow.pyfunc warns about type hints of its own classes. skops asks every loaded module for its functions, and
# Airflow's moved modules answer with a thousand warnings, which take seconds to print.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

_FLAVOR = "sklearn"
_LIBRARIES = ("sklearn.", "numpy.", "scipy.", "lightgbm.", "xgboost.")
"""Packages whose types a stored model may ask to trust. Its list comes from the model itself, so it proves nothing."""

_OWN = frozenset({"mlops_provider.adapters.segmented.Segmented"})
"""Types of this package that it may ask to trust."""

_UNREADABLE = (BadZipFile, UntrustedTypesFoundException, AttributeError, KeyError, TypeError, ValueError)
"""What skops raises for a file that is damaged, of other versions, or holds what is not trusted."""


def save(
    model: Any,
    folder: Path,
    about: Model,
    *,
    example: pd.DataFrame,
    pip_requirements: Sequence[str],
    trusted_types: Sequence[str],
    predict: str,
) -> None:
    """
    Write a fitted estimator in MLflow's layout.

    :param example: A few feature rows (n_rows, n_features), for the signature and as input example.
    :param pip_requirements: Pinned packages; given, so that MLflow does not probe the environment for seconds.
    :param trusted_types: Types beyond skops' own list that the model may hold.
    :param predict: Method that answers when MLflow's `predict` is called, such as ``predict_proba``.
    :raises ConfigurationError: The model holds a type that is not trusted. Not retried.
    """
    with warnings.catch_warnings():
        # Advice to store integers as floats because they could be missing: the feature table keeps its types.
        warnings.filterwarnings("ignore", message=".*integer column", category=UserWarning)
        signature = infer_signature(example, getattr(model, predict)(example))
        try:
            mlflow.sklearn.save_model(
                model,
                str(folder),
                mlflow_model=about,
                serialization_format="skops",
                signature=signature,
                input_example=example,
                pip_requirements=list(pip_requirements),
                pyfunc_predict_fn=predict,
                skops_trusted_types=list(trusted_types),
            )
        except MlflowException as error:
            raise ConfigurationError(f"The model cannot be stored: {error.message}") from error


def content_digest(folder: Path) -> str:
    """SHA-256, in hex, over paths and contents of all files below *folder*."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        total.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def load(folder: Path) -> Any:
    """
    Read a model back.

    :return: The fitted scikit-learn estimator.
    :raises ServingCheckError: The files are not a scikit-learn model in skops form, or ask to trust types of packages
        that models are not made of. Not retried.
    """
    try:
        flavor = Model.load(str(folder)).flavors[_FLAVOR]
        file, form = folder / flavor["pickled_model"], flavor["serialization_format"]
    except (MlflowException, KeyError) as error:
        raise ServingCheckError(f"The files in {folder} are not a scikit-learn model of MLflow's.") from error
    trusted = list(flavor.get("skops_trusted_types") or [])
    strange = [name for name in trusted if name not in _OWN and not name.startswith(_LIBRARIES)]
    if form != "skops" or strange:
        what = f"asks to trust {', '.join(strange[:10])}" if strange else f"is stored as {form}"
        raise ServingCheckError(f"The model {what}: loading it could run foreign code. Register it anew as skops.")
    try:
        return skops.io.load(file, trusted=trusted)
    except _UNREADABLE as error:
        raise ServingCheckError(
            f"The model cannot be loaded ({type(error).__name__}): its file is damaged, or was written by other "
            "package versions than are installed here."
        ) from error


def packed(model: Any, *, trusted_types: Sequence[str]) -> bytes:
    """
    Give a fitted estimator as one file in skops form.

    :param trusted_types: Types beyond skops' own list that it may hold.
    :raises ConfigurationError: It holds a type that is not trusted. Not retried.
    """
    content: bytes = skops.io.dumps(model)
    if strange := sorted(set(skops.io.get_untrusted_types(data=content)) - set(trusted_types)):
        raise ConfigurationError(f"The model cannot be stored: it holds {', '.join(strange)}, which nobody reviewed.")
    return content


def unpacked(content: bytes, *, trusted_types: Sequence[str]) -> Any:
    """
    Read back what :func:`packed` gave.

    :raises ServingCheckError: It is damaged, of other package versions, or holds a type that is not trusted. Not
        retried.
    """
    try:
        return skops.io.loads(content, trusted=list(trusted_types))
    except _UNREADABLE as error:
        raise ServingCheckError(
            f"A stored estimator cannot be loaded ({type(error).__name__}): it is damaged, holds a type that is not "
            "trusted, or was written by other package versions than are installed here."
        ) from error
