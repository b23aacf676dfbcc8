"""What the states, variants and reasons of an endpoint mean for a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops_provider.core.rollout import Traffic
    from mlops_provider.stores.sagemaker import Endpoint

SERVES = ("InService", "Updating", "SystemUpdating", "RollingBack", "UpdateRollbackFailed")
"""States in which the variants that an endpoint names answer."""
_ADVICE: Sequence[tuple[tuple[str, ...], str]] = (
    (("image", "ecr"), "Is the image there, in this region, and may the role pull it?"),
    (("model data", "s3", "artifact"), "May the role read the bucket of the archives?"),
    (("ping", "health"), "The container's log says why it did not start: /aws/sagemaker/Endpoints/{endpoint}."),
)


def variant(version: str) -> str:
    """Name of a version's production variant."""
    return f"v{version}"


def version_of(name: str) -> str:
    """The version of a production variant."""
    return name.removeprefix("v")


def served_generation(found: Endpoint | None, history: Sequence[Traffic]) -> int:
    """The newest generation whose split an endpoint shows; 0 if it shows none."""
    if found is None or found.status not in SERVES or not (total := sum(found.weights.values())):
        return 0
    shares = {version_of(name): 100 * weight / total for name, weight in found.weights.items()}
    for traffic in reversed(history):
        if traffic.split.keys() <= shares.keys() and all(
            abs(share - traffic.split.get(version, 0)) < 0.01 for version, share in shares.items()
        ):
            return traffic.generation
    return 0


def advice(endpoint: str, reason: str) -> str:
    """
    What to look at when SageMaker could not bring a variant into service.

    :param reason: What it says why.
    """
    low = reason.lower()
    found = (sentence for words, sentence in _ADVICE if any(word in low for word in words))
    return next(found, _ADVICE[-1][1]).format(endpoint=endpoint)
