"""
A model as files: scikit-learn in skops form, and beside it the ONNX graph that predicts the same.

Neither runs code when it is loaded. A skops file names the types it holds; those that nobody reviewed are refused
before anything is made of them.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import mlflow.sklearn
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature

from mlops_provider.core.columns import Column, Kind
from mlops_provider.core.trust import OWN_TYPES, REVIEWED_TYPES
from mlops_provider.exceptions import ConfigurationError, ServingCheckError

# mlflow.pyfunc warns about type hints of its own classes. skops asks every loaded module for its functions, and
# Airflow's moved modules answer with a thousand warnings, which take seconds to print.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

_FLAVOR = "sklearn"
_SKOPS = "skops"
_NAMED = 10
"""Types a message names; the rest are counted."""

SCORER = "scorer.onnx"
"""The ONNX graph among the files of a model, if it could be converted."""

_KINDS: Mapping[str, Kind] = {
    "double": "number",
    "float": "number",
    "integer": "whole",
    "long": "whole",
    "string": "text",
    "boolean": "flag",
    "datetime": "time",
}

_UNREADABLE = (BadZipFile, ImportError, UntrustedTypesFoundException, AttributeError, KeyError, TypeError, ValueError)
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
                serialization_format=_SKOPS,
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


def load(folder: Path, *, trusted: Sequence[str] = ()) -> Any:
    """
    Read a model back.

    The list of types that the files themselves ask to trust proves nothing: what counts is skops' own list, ours, and
    *trusted*.

    :param trusted: Further types that the model may hold, because somebody answers for them.
    :return: The fitted scikit-learn estimator.
    :raises ServingCheckError: The files are not a scikit-learn model in skops form, or hold types that are not trusted.
        Not retried.
    """
    try:
        flavor = Model.load(str(folder)).flavors[_FLAVOR]
        name, form = str(flavor["pickled_model"]), str(flavor["serialization_format"])
    except (MlflowException, KeyError) as error:
        raise ServingCheckError(f"The files in {folder} are not a scikit-learn model of MLflow's.") from error
    allowed = {*REVIEWED_TYPES, *OWN_TYPES, *trusted}
    asked = sorted(set(map(str, flavor.get("skops_trusted_types") or ())) - allowed)
    if form != _SKOPS or asked or Path(name).name != name:
        what = f"is stored as {form}" if form != _SKOPS else f"names the file {name!r}, outside its folder"
        what = f"asks to trust {_listed(asked)}" if asked and form == _SKOPS else what
        raise ServingCheckError(f"The model {what}: loading it could run foreign code. Register it anew as skops.")
    try:
        held = set(skops.io.get_untrusted_types(file=folder / name))
        if strange := sorted(held - allowed):
            raise ServingCheckError(
                f"The model holds {_listed(strange)}, which nobody reviewed: loading it could run foreign code. If it "
                "is yours, say under `trust` in model.yaml who answers for it, and train it anew."
            )
        return skops.io.load(folder / name, trusted=sorted(held))
    except BadZipFile as error:
        raise ServingCheckError(
            f"The model's file {name} is no skops file but something else, such as a pickle, which could run foreign "
            "code. It was not opened. Register the model anew as skops."
        ) from error
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


def foreign_types(model: Any) -> tuple[str, ...]:
    """Types a fitted estimator holds that are neither on skops' list nor on ours, by name."""
    held = set(skops.io.get_untrusted_types(data=skops.io.dumps(model)))
    return tuple(sorted(held - {*REVIEWED_TYPES, *OWN_TYPES}))


def columns(folder: Path) -> tuple[Column, ...]:
    """
    What a model takes, in order, as its signature says.

    :raises ServingCheckError: It has none, or columns that are not plain. Not retried.
    """
    signature = Model.load(str(folder)).signature
    schema = signature.inputs if signature else None
    if schema is None or not schema.has_input_names():
        raise ServingCheckError("The model was logged without a signature that names its columns.")
    types = {str(column.name): getattr(column.type, "name", "") for column in schema.inputs}
    if strange := [name for name, kind in types.items() if kind not in _KINDS]:
        raise ServingCheckError(f"Columns of a type that can't be served: {_listed(strange)}.")
    return tuple(Column(name, _KINDS[kind]) for name, kind in types.items())


def python_version(folder: Path) -> str:
    """
    Version of Python that a model was stored with, such as "3.12.4".

    :raises ServingCheckError: The files do not say. Not retried.
    """
    said = Model.load(str(folder)).flavors.get("python_function", {}).get("python_version")
    if not said:
        raise ServingCheckError("The model's files do not say which Python they were stored with: log it with MLflow.")
    return str(said)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
