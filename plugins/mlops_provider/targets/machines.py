"""What SageMaker needs before an endpoint can serve a version: packed files, models, endpoint configurations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlops_provider.core.names import Environment
from mlops_provider.stores.sagemaker import Variant
from mlops_provider.targets.variants import variant

if TYPE_CHECKING:
    from mlops_provider.stores.sagemaker import Endpoint, SageMakerApi
    from mlops_provider.targets.base import Packed

MODEL, GENERATION = "mlops.model", "mlops.generation"
"""Tags: whose it is; the generation it was made for, and of an endpoint the newest one that moved it."""
_FOLDER = "/opt/ml/model"
"""Where a container of SageMaker finds what was packed."""


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where and how versions are put on machines.

    :param image: Image of this package, in a registry that SageMaker can pull from.
    :param role: ARN of the role that containers run under.
    :param archives: Address on S3 below which packed versions are put.
    :param spool: Address on S3 to which containers ship the prediction log.
    :param instance_type: Machine of each variant.
    :param instances: How many of them a new variant gets.
    :param keep_previous: Whether the version before stays beside the new one, without traffic, so that a rollback is
        a matter of weights.
    """

    image: str
    role: str
    archives: str
    spool: str
    instance_type: str
    instances: int
    keep_previous: bool


class Machines:
    """
    Models and endpoint configurations of one endpoint; what is there already is taken, not made again.

    :param api: The endpoint's API.
    :param model: Registered model.
    :param place: Where and how versions are put on machines.
    :param pack: Gives a version that may serve as one file.
    """

    def __init__(self, api: SageMakerApi, *, model: str, place: Place, pack: Callable[[str], Packed]) -> None:
        self.api = api
        self.model = model
        self.place = place
        self.pack = pack
        self._configs, self._models = f"{api.endpoint}-g", f"{api.endpoint}-v"

    def config(self, generation: int, found: Endpoint | None, weights: Mapping[str, float]) -> str:
        """
        Make the endpoint configuration for *weights*, by version, and the models it needs; give its name.

        :param found: The endpoint, if there is one: its variants keep their models and machines.
        """
        there = self.api.variants(found.config) if found else {}
        variants = [
            replace(there[variant(version)], weight=weight) if variant(version) in there else self._new(version, weight)
            for version, weight in sorted(weights.items())
        ]
        content = [(each.name, each.model, each.instance_type, each.instances) for each in variants]
        digest = hashlib.sha256(repr(content).encode()).hexdigest()[:8]
        name = f"{self._configs}{generation}-{digest}"
        self.api.ensure_config(name, variants, {MODEL: self.model, GENERATION: str(generation)})
        return name

    def sweep(self, *, keep: str = "") -> None:
        """
        Remove configurations and models that served once.

        :param keep: Configuration that stays, with its models.
        """
        self.api.sweep(self._configs, self._models, keep=keep)

    def _new(self, version: str, weight: float) -> Variant:
        return Variant(
            name=variant(version),
            model=self._made(version),
            weight=weight,
            instance_type=self.place.instance_type,
            instances=self.place.instances,
        )

    def _made(self, version: str) -> str:
        """Put a version where SageMaker finds it, and make a model of it; give its name."""
        packed = self.pack(version)
        address = f"{self.place.archives.rstrip('/')}/{self.model}/{version}-{packed.digest[:16]}.tar.gz"
        self.api.s3.create(address, packed.content)
        environment = {
            Environment.PACKAGE: _FOLDER,
            Environment.PACKAGE_DIGEST: packed.digest,
            Environment.SPOOL_URI: self.place.spool,
        }
        made_of = f"{packed.digest}{self.place.image}{self.place.role}{self.place.spool}"
        name = f"{self._models}{version}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"
        self.api.ensure_model(
            name,
            image=self.place.image,
            archive=address,
            role=self.place.role,
            environment={str(key): value for key, value in environment.items()},
            tags={MODEL: self.model, "mlops.version": version, "mlops.package": packed.digest},
        )
        return name
