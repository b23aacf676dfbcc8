"""Which target an address leads to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from mlops_provider.core import names
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.targets import Server

if TYPE_CHECKING:
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.sagemaker import SageMakerApi
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Packed, Target

_LONGEST = 45
"""Characters of an endpoint's name: SageMaker takes 63, and ours of configurations and models are longer."""


def target_of(
    spec: ModelSpec,
    stores: Stores,
    address: str,
    *,
    token: str = "",
    settings: Mapping[str, str] | None = None,
    releases: bool = False,
    sagemaker: Callable[[str, str], SageMakerApi],
) -> Target:
    """
    Give the target of a model.

    :param address: ``http://…`` or ``https://…`` of the bundled server, or ``sagemaker://<prefix>``, whose query may
        hold *settings* too: ``sagemaker://prod?role_arn=…&image=…``.
    :param token: Token that the server asks for.
    :param settings: For SageMaker: ``role_arn`` of the role that containers run under, ``image`` of this package,
        ``archives``, an address on S3 below which packed versions are put, and ``aws_conn_id``.
    :param releases: Whether a version will be brought in there, rather than looked at or taken back: then the declared
        rollout must be one that the target offers.
    :param sagemaker: Gives access to an endpoint by its name and the connection's ID.
    :raises ConfigurationError: A setting is missing or can't be used. Not retried.
    """
    parts = urlsplit(address)
    if parts.scheme != "sagemaker":
        return Server(address, model=spec.name, ledger=stores.ledger, token=token)
    from mlops_provider.targets.machines import Place
    from mlops_provider.targets.sagemaker import SageMaker

    given = dict(parse_qsl(parts.query)) | dict(settings or {})
    sizes = spec.serving.sagemaker
    place = Place(
        image=_given(given, "image"),
        role=_given(given, "role_arn"),
        archives=_given(given, "archives"),
        spool=os.environ.get(names.Environment.SPOOL_URI, ""),
        instance_type=sizes.instance_type,
        instances=sizes.instances,
        keep_previous=sizes.keep_previous,
    )
    if not place.spool.startswith("s3://"):
        raise ConfigurationError(
            f"{names.Environment.SPOOL_URI} must be an address on S3 for models on SageMaker: the disks of its "
            "containers don't last, and a prediction is only answered once it is logged."
        )
    if spec.serving.pseudonymise:
        raise ConfigurationError(
            f"{spec.name!r} declares pseudonyms for {', '.join(spec.serving.pseudonymise)} (serving: pseudonymise). On "
            "SageMaker its containers would need the secret, and whoever may describe a model there could read it: "
            "serve it with the bundled server, or keep these columns out of it."
        )
    if releases and spec.rollout_policy.shadows:
        raise ConfigurationError(
            f"{spec.name!r} declares a rollout with a shadow (rollout: strategy shadow or blue_green, or a guard on "
            "agreement), which a target on SageMaker does not offer: declare canary or all_at_once without that guard."
        )
    endpoint = _endpoint(parts.netloc, spec.name)
    return SageMaker(
        sagemaker(endpoint, given.get("aws_conn_id", "")),
        model=spec.name,
        ledger=stores.ledger,
        place=place,
        pack=partial(_pack, spec, stores),
    )


def _pack(spec: ModelSpec, stores: Stores, version: str) -> Packed:
    from mlops_provider.steps.packed import packed  # opens models: a rollback does without

    return packed(spec, stores, version)


def _endpoint(prefix: str, model: str) -> str:
    """``prod-flight-delays``, in the letters that SageMaker takes."""
    name = "-".join(filter(None, [prefix, model.replace("_", "-")]))
    if len(name) > _LONGEST or not re.fullmatch(r"[A-Za-z0-9](-*[A-Za-z0-9])*", name):
        raise ConfigurationError(
            f"Model {model!r} would be served by an endpoint {name!r}: names have letters, digits and single hyphens, "
            f"{_LONGEST} at most. Choose another prefix in the address of the target, sagemaker://<prefix>."
        )
    return name


def _given(settings: Mapping[str, str], name: str) -> str:
    if value := settings.get(name):
        return value
    raise ConfigurationError(
        f"A target on SageMaker needs {name!r}: in the extra of the connection {names.SERVER_CONN!r}, or in the query "
        f"of {names.Environment.SERVER_URL}."
    )
