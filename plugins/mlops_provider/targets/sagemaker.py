"""
An endpoint of SageMaker as a deployment target.

Versions are production variants of one endpoint, their percents its weights. The endpoint is brought to the ledger's
newest traffic record in moves that SageMaker can make: variants are added without weight, then weights change, then
variants are dropped. Each look at the endpoint makes the next move, so a process that died in between leaves nothing
undone, and a move that an older record asked for is never made.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from mlops_provider.core import rollout
from mlops_provider.core.guards import Observed
from mlops_provider.core.names import CHECK_REQUEST, Arm, Header, Kind
from mlops_provider.exceptions import (
    ConfigurationError,
    MLOpsError,
    RolloutRefusedError,
    ServingCheckError,
    StoreUnavailableError,
)
from mlops_provider.stores.replicas import Replica
from mlops_provider.stores.sagemaker import RefusedByModelError
from mlops_provider.targets.base import Answer
from mlops_provider.targets.machines import GENERATION, MODEL, Machines
from mlops_provider.targets.server import body
from mlops_provider.targets.variants import SERVES, NoMachinesError, refusal, served_generation, variant, version_of

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.core.rollout import Traffic
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.sagemaker import Endpoint, SageMakerApi
    from mlops_provider.targets.base import Packed
    from mlops_provider.targets.machines import Place

logger = logging.getLogger(__name__)

ASKED = "mlops.asked"
"""Tag of an endpoint: the configuration it was last asked to take on, until it is known what came of it."""


class SageMaker:
    """
    An endpoint whose production variants are the versions of a model.

    :param api: The endpoint's API.
    :param model: Registered model.
    :param ledger: Ledger whose newest traffic record the endpoint is brought to.
    :param place: Where and how versions are put on machines.
    :param pack: Gives a version that may serve as one file.
    :param poll_seconds: Shortest time between two looks at the endpoint.
    """

    patience, holds = 1800.0, 10.0

    def __init__(
        self,
        api: SageMakerApi,
        *,
        model: str,
        ledger: Ledger,
        place: Place,
        pack: Callable[[str], Packed],
        poll_seconds: float = 2.0,
    ) -> None:
        self.api = api
        self.model = model
        self.ledger = ledger
        self.place = place
        self.machines = Machines(api, model=model, place=place, pack=pack)
        self.poll_seconds = poll_seconds
        self._seen: Replica | None = None
        self._looked = float("-inf")
        self._swept = 0

    def apply(self, traffic: Traffic) -> None:
        """
        Begin to move the endpoint to the newest record, which may be a later one than *traffic*.

        What SageMaker can't do or refuses now is left to the next look, which tells it: *traffic* is recorded, and
        whoever recorded it has more to do than to fail.
        """
        try:
            self._move()
        except MLOpsError as trouble:
            logger.warning("Generation %s of %s has to wait: %s", traffic.generation, self.model, trouble)

    def observe(self) -> Sequence[Replica]:
        """
        Look at the endpoint, make the next move, and tell what it serves, as one replica.

        Its generation is the newest whose split the endpoint's weights show. While SageMaker can't be asked it is what
        was seen last, with the trouble in words.

        :raises StoreUnavailableError: SageMaker can't be asked, or has no machines for a new version. Retried.
        :raises ConfigurationError: It refuses; the message says what to mend. Not retried.
        """
        if self._seen is None or time.monotonic() - self._looked >= self.poll_seconds:
            try:
                self._move()
            except NoMachinesError:
                raise
            except StoreUnavailableError as away:
                if self._seen is None:
                    raise
                self._seen = replace(self._seen, error=str(away))
        assert self._seen is not None
        return [self._seen]

    def look(self) -> Sequence[Replica]:
        """
        Tell what the endpoint serves, without a move.

        :raises StoreUnavailableError: SageMaker can't be asked. Retried.
        :raises ConfigurationError: It refuses. Not retried.
        """
        found = self.api.describe()
        if found is None:
            return []
        busy = "" if found.status == "InService" else f"is {found.status} since {found.changed:%H:%M} UTC"
        return [self._replica(found, served_generation(found, self.ledger.traffic_history(self.model)), busy)]

    def _replica(self, found: Endpoint | None, served: int, state: str) -> Replica:
        versions = tuple(sorted(map(version_of, found.weights))) if found and found.status in SERVES else ()
        return Replica(self.api.endpoint, self.model, found.arn if found else "", served, versions, state, 0.0)

    def predict(self, rows: pd.DataFrame, *, version: str | None = None, replica: Replica | None = None) -> Answer:
        """
        Ask the endpoint; the variant's name tells which version answered, and the container confirms it.

        Request IDs begin with ``check-``, by which the rows can be told from real ones in the prediction log.
        """
        request_id, name = f"{CHECK_REQUEST}{uuid4().hex}", self.api.endpoint
        try:
            answer = self.api.invoke(
                body(rows), variant=variant(version) if version else None, attributes={Header.REQUEST_ID: request_id}
            )
        except RefusedByModelError as refused:
            said = _reason(refused.said)
            if refused.status in (429, 502, 503, 504):
                raise StoreUnavailableError(f"Endpoint {name!r} can't answer now: {said}") from refused
            raise ServingCheckError(f"Endpoint {name!r} refused the request: {said}") from refused
        if answer.attributes.get(Header.ARM) == Arm.FALLBACK:
            raise StoreUnavailableError(f"Endpoint {name!r} is overloaded: it answers with its fallback.")
        told, by = answer.attributes.get(Header.VERSION), version_of(answer.variant)
        if told != by or answer.attributes.get(Header.REQUEST_ID) != request_id:
            raise ServingCheckError(
                f"Variant {answer.variant!r} of endpoint {name!r} does not answer as version {by} in a container of "
                f"this package: {self.place.image} has to run `mlops serve`."
            )
        generation = self._seen.generation if self._seen else self.observe()[0].generation
        try:
            return Answer(tuple(json.loads(answer.body)["predictions"]), by, generation)
        except (ValueError, KeyError, TypeError) as error:
            raise ServingCheckError(f"Endpoint {name!r} answered without predictions.") from error

    def observed(self, traffic: Traffic) -> Mapping[str, Observed]:
        """
        Read from CloudWatch what callers met since the first whole minute after the check of *traffic*.

        It is about a minute late. The percentile is that of the container in its slowest minute but one, as a single
        slow minute may be chance; predictions are not told.
        """
        checked = self.ledger.find(Kind.SERVING_CHECK, f"{self.model}:{traffic.generation}")
        if checked is None:
            return {version: Observed() for version in traffic.split}
        # The check asks the endpoint itself: what it asked is in the minutes before.
        began = datetime.fromisoformat(checked.recorded_at).replace(second=0, microsecond=0) + timedelta(minutes=1)
        return {version: self._observed(variant(version), began) for version in traffic.split}

    def _observed(self, name: str, began: datetime) -> Observed:
        seen = self.api.minutes(name, began)
        slowest = next(iter(sorted(seen.latencies)[-2:]), None)
        requests, p99_ms = int(seen.invocations), None if slowest is None else slowest / 1000
        # The two are counted apart, and may be told a moment apart.
        return Observed(requests=requests, errors=min(int(seen.errors), requests), p99_ms=p99_ms)

    def _move(self) -> None:
        """Look, and make the next move."""
        self._looked = time.monotonic()
        found = self.api.describe()
        history = self.ledger.traffic_history(self.model)
        served = served_generation(found, history)
        state = self._toward(history, found, served) if history else ""
        self._seen = self._replica(found, served, state)
        if state:
            logger.info("Endpoint %s %s", self.api.endpoint, state)

    def _toward(self, history: Sequence[Traffic], found: Endpoint | None, served: int) -> str:
        """Make the next move toward the newest record; tell what is still between, or nothing."""
        traffic = history[-1]
        if traffic.shadow:
            raise ConfigurationError(
                f"Generation {traffic.generation} of {self.model!r} asks for a shadow, which a target on SageMaker "
                "does not offer: declare another rollout.strategy in model.yaml, such as canary."
            )
        if found is None:
            self._create(traffic)
            return "is being created"
        if found.status == "Failed":
            return self._failed(traffic, found, any(record.settled for record in history))
        lacking = [version for version in traffic.split if variant(version) not in found.weights]
        done = not lacking and served == traffic.generation
        if found.status != "InService":
            return "" if done else f"is {found.status} since {found.changed:%H:%M} UTC"
        tags = self.api.tags(found.arn)
        self._require_ours(traffic, tags)
        spare = self._spare(history, found) if done and traffic.settled else []
        if done and not spare:
            self._sweep(traffic, found)
            return ""
        if lacking:
            # Nobody loses a variant that has traffic before others have its share.
            live = [version_of(name) for name, weight in found.weights.items() if weight]
            return self._update(traffic, found, tags, [*traffic.split, *live], lacking)
        if not done:
            self._mark(found, tags, traffic)
            self.api.weigh({name: float(traffic.split.get(version_of(name), 0)) for name in found.weights})
            return "gets other weights"
        return self._drop(traffic, found, tags, spare)

    def _create(self, traffic: Traffic) -> None:
        tags = {MODEL: self.model, GENERATION: str(traffic.generation)}
        config = self.machines.config(
            traffic.generation, None, {version: float(share) for version, share in traffic.split.items()}
        )
        self.api.create(config, tags)

    def _update(
        self, traffic: Traffic, found: Endpoint, tags: Mapping[str, str], versions: Sequence[str], new: Sequence[str]
    ) -> str:
        """Add variants, unless that has failed: this is told once, and tried again when asked again."""
        weights = {version: found.weights.get(variant(version), 0.0) for version in versions}
        config = self.machines.config(traffic.generation, found, weights)
        if tags.get(ASKED) == config:
            self.api.tag(found.arn, {ASKED: ""})
            return self._refused(new, found.reason or "it went back to the configuration before.")
        self._mark(found, tags, traffic)
        self.api.update(config)
        self.api.tag(found.arn, {ASKED: config})
        return f"is being updated to {config}"

    def _drop(self, traffic: Traffic, found: Endpoint, tags: Mapping[str, str], spare: Sequence[str]) -> str:
        """Drop variants that nothing will come back to. It is never urgent: if it fails, they stay for now."""
        stay = {version: weight for name, weight in found.weights.items() if (version := version_of(name)) not in spare}
        try:
            config = self.machines.config(traffic.generation, found, stay)
            if tags.get(ASKED) != config:
                self._mark(found, tags, traffic)
                self.api.update(config)
                self.api.tag(found.arn, {ASKED: config})
                logger.info("Endpoint %s drops version %s", self.api.endpoint, ", ".join(spare))
        except MLOpsError as error:
            logger.warning("Endpoint %s keeps version %s for now: %s", self.api.endpoint, ", ".join(spare), error)
        return ""

    def _refused(self, versions: Sequence[str], reason: str) -> str:
        return refusal(self.api.endpoint, versions, reason, instance_type=self.place.instance_type)

    def _sweep(self, traffic: Traffic, found: Endpoint) -> None:
        """Remove what served once, when a rollout is over; no rollout fails for it."""
        if traffic.settled and self._swept != traffic.generation:
            self._swept = traffic.generation
            try:
                self.machines.sweep(keep=found.config)
            except MLOpsError as error:
                logger.warning("What endpoint %s served before is still there: %s", self.api.endpoint, error)

    def _spare(self, history: Sequence[Traffic], found: Endpoint) -> list[str]:
        """Versions that have a variant, no traffic, and nobody who could come back to them."""
        kept = set(history[-1].split)
        if self.place.keep_previous:
            refused = {
                version
                for record in self.ledger.history(Kind.ROLLBACK, self.model)
                for version in record.payload["refused"]
            }
            with suppress(RolloutRefusedError):  # there is nowhere to go back to
                kept |= rollout.rollback_split(history, refused).keys()
        return sorted({version_of(name) for name in found.weights} - kept)

    def _failed(self, traffic: Traffic, found: Endpoint, opened: bool) -> str:
        """An endpoint that never served is removed, so that the next deployment begins anew."""
        self._require_ours(traffic, self.api.tags(found.arn))
        if not opened:
            self.api.delete()
            return self._refused(sorted(traffic.split), found.reason)
        raise ConfigurationError(
            f"Endpoint {self.api.endpoint!r} has failed and can't be updated any more: {found.reason} Delete it (aws "
            f"sagemaker delete-endpoint --endpoint-name {self.api.endpoint}); the next deployment or rollback of "
            f"{self.model!r} makes it anew."
        )

    def _require_ours(self, traffic: Traffic, tags: Mapping[str, str]) -> None:
        """
        Give up moves on what others made, or on what a newer record moved.

        :raises ConfigurationError: The endpoint is not this model's, or follows another ledger. Not retried.
        """
        name = self.api.endpoint
        if tags.get(MODEL) != self.model:
            raise ConfigurationError(
                f"Endpoint {name!r} is there already and is not one of {self.model!r}: its tag {MODEL} is "
                f"{tags.get(MODEL, 'missing')!r}. Choose another prefix in the address of the target."
            )
        if int(tags.get(GENERATION, 0)) > traffic.generation:
            raise ConfigurationError(
                f"Endpoint {name!r} was moved by generation {tags[GENERATION]}, and the newest that this ledger knows "
                f"is {traffic.generation}. If another environment uses it, choose another prefix; if this ledger was "
                f"restored, remove the endpoint's tag {GENERATION}."
            )

    def _mark(self, found: Endpoint, tags: Mapping[str, str], traffic: Traffic) -> None:
        """Say on the endpoint whose moves count from now on."""
        if tags.get(GENERATION) != str(traffic.generation):
            self.api.tag(found.arn, {GENERATION: str(traffic.generation)})


def _reason(said: str) -> str:
    try:
        return str(json.loads(said)["message"])
    except (ValueError, KeyError, TypeError):
        return said[:400]
