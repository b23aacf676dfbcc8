"""What the states, variants and reasons of an endpoint mean for a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlops_provider.exceptions import StoreUnavailableError

if TYPE_CHECKING:
    from mlops_provider.core.rollout import Traffic
    from mlops_provider.stores.sagemaker import Endpoint

SERVES = ("InService", "Updating", "SystemUpdating", "RollingBack", "UpdateRollbackFailed")
"""States in which the variants that an endpoint names answer."""
_NOBODYS_FAULT = ("capacity",)
"""What in a reason tells that no version is to blame."""
_ADVICE: Sequence[tuple[tuple[str, ...], str]] = (
    (("image", "ecr"), "Is the image there, in this region, and may the role pull it?"),
    (("model data", "s3", "artifact"), "May the role read the bucket of the archives?"),
    (("ping", "health"), "The container's log says why it did not start: /aws/sagemaker/Endpoints/{endpoint}."),
)


class NoMachinesError(StoreUnavailableError):
    """SageMaker lacks the machines for a new version."""


def variant(version: str) -> str:
    """Name of a version's production variant."""
    return f"v{version}"


def version_of(name: str) -> str:
    """The version of a production variant."""
    return name.removeprefix("v")


def served_generation(found: Endpoint | None, history: Sequence[Traffic]) -> int:
    """
    The newest generation whose split an endpoint shows; 0 if it shows none.

    While its weights change, that is one before the generation that they change to: a later record with the weights of
    now is not served yet, for they are about to go.
    """
    if found is None or found.status not in SERVES:
        return 0
    if found.status != "InService" and found.desired != found.weights:
        coming = _shown(found.desired, history)
        history = [traffic for traffic in history if traffic.generation < coming]
    return _shown(found.weights, history)


def _shown(weights: Mapping[str, float], history: Sequence[Traffic]) -> int:
    if not (total := sum(weights.values())):
        return 0
    shares = {version_of(name): 100 * weight / total for name, weight in weights.items()}
    for traffic in reversed(history):
        if traffic.split.keys() <= shares.keys() and all(
            abs(share - traffic.split.get(version, 0)) < 0.01 for version, share in shares.items()
        ):
            return traffic.generation
    return 0


def refusal(endpoint: str, versions: Sequence[str], reason: str, *, instance_type: str) -> str:
    """
    Say that versions could not be brought into service, why, and what to look at.

    :param reason: SageMaker's own words.
    :param instance_type: Machine they were to run on.
    :raises NoMachinesError: No version is to blame. Retried.
    """
    low = reason.lower()
    if any(word in low for word in _NOBODYS_FAULT):
        raise NoMachinesError(
            f"SageMaker has no machines for version {', '.join(versions)} at endpoint {endpoint!r}: {reason} Try again "
            f"later, or declare another serving.sagemaker.instance_type than {instance_type} in model.yaml."
        )
    found = (sentence for words, sentence in _ADVICE if any(word in low for word in words))
    advice = next(found, _ADVICE[-1][1]).format(endpoint=endpoint)
    sentence = f"SageMaker could not bring it into service at endpoint {endpoint!r}: {reason} {advice}"
    return " ".join(f"Version {each} is refused: {sentence}" for each in versions)
