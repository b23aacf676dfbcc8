"""Where a command finds what serves a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlops_provider.cli.home import required
from mlops_provider.core.names import Environment

if TYPE_CHECKING:
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.sagemaker import SageMakerApi
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target


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
