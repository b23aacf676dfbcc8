"""Where a command finds what a model declares, and what serves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.cli.home import required
from mlops_provider.core.names import Environment
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.spec import ModelSpec, load_spec

if TYPE_CHECKING:
    from mlops_provider.stores.sagemaker import SageMakerApi
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target


def spec_of(model: str) -> ModelSpec:
    """
    Give a model's declaration.

    :param model: Its model.yaml, or its name, if that lies in ``include/<name>/``.
    :raises ConfigurationError: It is a name that no folder in ``include/`` has. Not retried.
    :raises SpecError: The file can't be read, or does not fit. Not retried.
    """
    named = Path("include", model, "model.yaml")
    if named.is_file():
        return load_spec(named)
    if Path(model).name != model or Path(model).suffix or Path(model).is_file():
        return load_spec(model)
    there = ", ".join(sorted(file.parent.name for file in Path("include").glob("*/model.yaml")))
    known = f", which has {there}" if there else ""
    raise ConfigurationError(f"There is no model {model!r} in include/{known}: name one of these, or a model.yaml.")


def target_of(spec: ModelSpec, stores: Stores, *, releases: bool = False, needed: bool = True) -> Target:
    """
    Give the target at ``MLOPS_SERVER_URL``.

    :param releases: Whether a version will be brought in there.
    :param needed: Whether it will be asked anything; else the address may be missing.
    """
    from mlops_provider.steps import targets

    token = os.environ.get(Environment.SERVER_TOKEN, "")
    how: Any = {"token": token, "releases": releases, "sagemaker": _sagemaker}
    address = required(Environment.SERVER_URL) if needed else os.environ.get(Environment.SERVER_URL, "")
    return targets.target_of(spec, stores, address, **how)


def _sagemaker(endpoint: str, aws_conn_id: str) -> SageMakerApi:
    from mlops_provider.hooks import aws

    return aws.sagemaker(endpoint, aws_conn_id)
