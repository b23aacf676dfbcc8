"""One endpoint of SageMaker over its API, and SageMaker's refusals in our words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound

from mlops_provider.exceptions import ConfigurationError, MLOpsError, StoreUnavailableError
from mlops_provider.stores.s3 import DENIED, EXPIRED, S3

_DENIED = (*DENIED, "AccessDeniedException", "NotAuthorized", "OptInRequired")
_BUSY = ("Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded")
_METRICS: Mapping[str, str] = {
    "Invocations": "Sum",
    "Invocation4XXErrors": "Sum",
    "Invocation5XXErrors": "Sum",
    "ModelLatency": "p99",
}
"""What is read from CloudWatch, and its statistic."""
_INVALID = ("ValidationException", "ValidationError")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    What SageMaker says of an endpoint.

    :param status: ``Creating``, ``Updating``, ``InService``, ``Failed``, …
    :param config: Name of the endpoint configuration that it serves.
    :param weights: Variant to its weight now, of those that it has; shares are in proportion to them.
    :param desired: Variant to the weight that it was last asked to have; another one while that is on its way.
    :param reason: Why its creation or its last update failed; may be told long after.
    :param changed: When it was changed last.
    """

    arn: str
    status: str
    config: str
    weights: Mapping[str, float]
    desired: Mapping[str, float]
    reason: str
    changed: datetime


@dataclass(frozen=True, slots=True)
class Variant:
    """A model on machines of its own behind an endpoint."""

    name: str
    model: str
    weight: float
    instance_type: str
    instances: int


@dataclass(frozen=True, slots=True)
class Minutes:
    """
    What CloudWatch says of a variant over some minutes.

    :param latencies: The container's 99th percentile of each minute, in microseconds.
    """

    invocations: float
    errors: float
    latencies: Sequence[float]


@dataclass(frozen=True, slots=True)
class Invoked:
    """
    An answer of an endpoint.

    :param variant: Which one answered.
    :param attributes: Headers that the container sent back.
    """

    body: bytes
    variant: str
    attributes: Mapping[str, str]


class RefusedByModelError(Exception):
    """
    The container answered, but not with a prediction.

    :param status: HTTP status of its answer.
    :param said: Its answer.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


class SageMakerApi:
    """
    The calls that a rollout needs, on one endpoint.

    All of them raise StoreUnavailableError (retried) if SageMaker is away, busy or throttles, and ConfigurationError
    (not retried) if it refuses credentials, rights, quota or a name.

    :param endpoint: Name of the endpoint.
    :param control: boto3's client of ``sagemaker``.
    :param runtime: boto3's client of ``sagemaker-runtime``.
    :param metrics: boto3's client of ``cloudwatch``.
    :param s3: Access to the bucket of the archives.
    :param source: Where the credentials come from, for messages.
    """

    def __init__(self, endpoint: str, *, control: Any, runtime: Any, metrics: Any, s3: S3, source: str) -> None:
        self.endpoint = endpoint
        self.control = control
        self.runtime = runtime
        self.metrics = metrics
        self.s3 = s3
        self.source = source

    def describe(self) -> Endpoint | None:
        """Look at the endpoint; None if there is none."""
        try:
            with self._explained("sagemaker:DescribeEndpoint"):
                found = self.control.describe_endpoint(EndpointName=self.endpoint)
        except _MissingError:
            return None
        weights = {
            variant["VariantName"]: float(variant.get("CurrentWeight", 0.0))
            for variant in found.get("ProductionVariants") or ()
        }
        desired = {
            variant["VariantName"]: float(variant["DesiredWeight"])
            for variant in found.get("ProductionVariants") or ()
            if "DesiredWeight" in variant
        }
        return Endpoint(
            arn=found["EndpointArn"],
            status=found["EndpointStatus"],
            config=found.get("EndpointConfigName", ""),
            weights=weights,
            desired=weights | desired,
            reason=found.get("FailureReason") or "",
            changed=found["LastModifiedTime"],
        )

    def tags(self, arn: str) -> dict[str, str]:
        """Tags of the endpoint."""
        with self._explained("sagemaker:ListTags"):
            return {tag["Key"]: tag["Value"] for tag in self.control.list_tags(ResourceArn=arn)["Tags"]}

    def tag(self, arn: str, tags: Mapping[str, str]) -> None:
        """Add tags, in place of those with the same keys."""
        with self._explained("sagemaker:AddTags"):
            self.control.add_tags(ResourceArn=arn, Tags=_listed(tags))

    def ensure_model(
        self, name: str, *, image: str, archive: str, role: str, environment: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """
        Make a model; one of this name is there already if it was made before, and then nothing happens.

        :param archive: Address on S3 of what the container finds in ``/opt/ml/model``.
        :param environment: Variables of the container.
        """
        container = {"Image": image, "ModelDataUrl": archive, "Environment": dict(environment)}
        with self._explained("sagemaker:CreateModel (and iam:PassRole)", there_is_fine=True):
            self.control.create_model(
                ModelName=name, PrimaryContainer=container, ExecutionRoleArn=role, Tags=_listed(tags)
            )

    def ensure_config(self, name: str, variants: Sequence[Variant], tags: Mapping[str, str]) -> None:
        """Make an endpoint configuration, unless there is one of this name."""
        listed = [
            {
                "VariantName": variant.name,
                "ModelName": variant.model,
                "InitialVariantWeight": variant.weight,
                "InstanceType": variant.instance_type,
                "InitialInstanceCount": variant.instances,
            }
            for variant in variants
        ]
        with self._explained("sagemaker:CreateEndpointConfig", there_is_fine=True):
            self.control.create_endpoint_config(EndpointConfigName=name, ProductionVariants=listed, Tags=_listed(tags))

    def variants(self, config: str) -> dict[str, Variant]:
        """
        Variants by name, of the endpoint configuration that the endpoint serves.

        :raises ConfigurationError: Somebody deleted it. Not retried.
        """
        try:
            with self._explained("sagemaker:DescribeEndpointConfig"):
                found = self.control.describe_endpoint_config(EndpointConfigName=config)
        except _MissingError as missing:
            raise ConfigurationError(
                f"Endpoint {self.endpoint!r} serves endpoint configuration {config!r}, which somebody deleted: it "
                "can't take on another version any more; weights still change. When callers can do without it for some "
                f"minutes, delete it (aws sagemaker delete-endpoint --endpoint-name {self.endpoint}) and start the "
                "deploy DAG again, which makes it anew."
            ) from missing
        return {
            each["VariantName"]: Variant(
                name=each["VariantName"],
                model=each["ModelName"],
                weight=float(each.get("InitialVariantWeight", 0.0)),
                instance_type=each["InstanceType"],
                instances=int(each["InitialInstanceCount"]),
            )
            for each in found["ProductionVariants"]
        }

    def create(self, config: str, tags: Mapping[str, str]) -> None:
        """Begin to make the endpoint; nothing happens if somebody did meanwhile."""
        with self._explained("sagemaker:CreateEndpoint", there_is_fine=True):
            self.control.create_endpoint(EndpointName=self.endpoint, EndpointConfigName=config, Tags=_listed(tags))

    def update(self, config: str) -> None:
        """Begin to bring the endpoint to another configuration; variants that stay keep weight and machines."""
        with self._explained("sagemaker:UpdateEndpoint"):
            self.control.update_endpoint(
                EndpointName=self.endpoint, EndpointConfigName=config, RetainAllVariantProperties=True
            )

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Begin to give variants other weights."""
        desired = [{"VariantName": name, "DesiredWeight": weight} for name, weight in sorted(weights.items())]
        with self._explained("sagemaker:UpdateEndpointWeightsAndCapacities"):
            self.control.update_endpoint_weights_and_capacities(
                EndpointName=self.endpoint, DesiredWeightsAndCapacities=desired
            )

    def delete(self) -> None:
        """Begin to remove the endpoint; nothing happens if there is none."""
        self._delete("sagemaker:DeleteEndpoint", self.control.delete_endpoint, EndpointName=self.endpoint)

    def sweep(self, configs: str, models: str, *, keep: str = "") -> None:
        """
        Remove what served the endpoint once.

        :param configs: How the names of its configurations begin.
        :param models: How the names of its models begin.
        :param keep: Configuration that stays, with its models.
        """
        kept = {each.model for each in self.variants(keep).values()} if keep else set()
        right = "sagemaker:ListEndpointConfigs, ListModels, DeleteEndpointConfig and DeleteModel"
        with self._explained(right):
            pages = self.control.get_paginator("list_endpoint_configs").paginate(NameContains=configs)
            for name in [found["EndpointConfigName"] for page in pages for found in page["EndpointConfigs"]]:
                if _made_for(name, configs) and name != keep:
                    self._delete(right, self.control.delete_endpoint_config, EndpointConfigName=name)
            pages = self.control.get_paginator("list_models").paginate(NameContains=models)
            for name in [found["ModelName"] for page in pages for found in page["Models"]]:
                if _made_for(name, models) and name not in kept:
                    self._delete(right, self.control.delete_model, ModelName=name)

    def _delete(self, right: str, call: Callable[..., object], **named: str) -> None:
        """Delete one thing; it may be gone already, for two may sweep at once."""
        with suppress(_MissingError), self._explained(right):
            call(**named)

    def minutes(self, variant: str, began: datetime) -> Minutes:
        """
        Add up what CloudWatch knows of a variant, minute by minute.

        :param began: First minute; there is nothing before it is over.
        """
        now = datetime.now(UTC)
        if now <= began:
            return Minutes(0.0, 0.0, ())
        dimensions = [{"Name": "EndpointName", "Value": self.endpoint}, {"Name": "VariantName", "Value": variant}]
        asked = [
            {
                "Id": name.lower(),
                "MetricStat": {
                    "Metric": {"Namespace": "AWS/SageMaker", "MetricName": name, "Dimensions": dimensions},
                    "Period": 60,
                    "Stat": how,
                },
            }
            for name, how in _METRICS.items()
        ]
        with self._explained("cloudwatch:GetMetricData"):
            pages = self.metrics.get_paginator("get_metric_data").paginate(
                MetricDataQueries=asked, StartTime=began, EndTime=now
            )
            values: dict[str, list[float]] = {}
            for found in [found for page in pages for found in page["MetricDataResults"]]:
                values.setdefault(found["Id"], []).extend(found["Values"])
        invocations, refused, failed, latencies = (values.get(name.lower(), []) for name in _METRICS)
        return Minutes(sum(invocations), sum(refused) + sum(failed), latencies)

    def invoke(self, body: str, *, variant: str | None, attributes: Mapping[str, str]) -> Invoked:
        """
        Ask the endpoint.

        :param body: A request in JSON.
        :param variant: Which one must answer; by default whichever a caller would get.
        :param attributes: Headers for the container.
        :raises RefusedByModelError: The container refused or failed.
        """
        asked: dict[str, Any] = {
            "EndpointName": self.endpoint,
            "ContentType": "application/json",
            "Body": body.encode(),
            "CustomAttributes": ",".join(f"{name}={value}" for name, value in attributes.items()),
        }
        if variant:
            asked["TargetVariant"] = variant
        with self._explained("sagemaker:InvokeEndpoint"):
            answer = self.runtime.invoke_endpoint(**asked)
            content = bytes(answer["Body"].read())
        told = [part.partition("=")[::2] for part in (answer.get("CustomAttributes") or "").split(",")]
        return Invoked(content, answer.get("InvokedProductionVariant", ""), dict(told))

    @contextmanager
    def _explained(self, right: str, *, there_is_fine: bool = False) -> Iterator[None]:
        """
        Say in words what boto3 raises.

        :param right: What IAM has to allow for it.
        :param there_is_fine: Whether it counts as done if such a thing is there already.
        """
        try:
            yield
        except ClientError as error:
            about = error.response.get("Error", {})
            code, said = str(about.get("Code", "")), str(about.get("Message", ""))
            if code == "ModelError":
                answered = error.response.get("OriginalStatusCode", 500), error.response.get("OriginalMessage", said)
                raise RefusedByModelError(int(answered[0]), str(answered[1])) from error
            if there_is_fine and "already existing" in said.lower():
                return
            if code in _INVALID and re.search("could not find|^endpoint .* not found", said.lower()):
                raise _MissingError(
                    f"SageMaker says {code} about endpoint {self.endpoint!r}: {said[:400]} If somebody deleted it "
                    "meanwhile, the next look makes it anew."
                ) from error
            raise self._refusal(right, code, said) from error
        except (NoCredentialsError, ProfileNotFound) as error:
            raise ConfigurationError(f"{self.source} gives no credentials for SageMaker: {error}.") from error
        except BotoCoreError as error:
            raise StoreUnavailableError(
                f"SageMaker can't be reached for endpoint {self.endpoint!r}: {error}. Check the network, the region "
                f"and {self.source}."
            ) from error

    def _refusal(self, right: str, code: str, said: str) -> MLOpsError:
        about = f"SageMaker says {code} about endpoint {self.endpoint!r}: {said[:400]}"
        if code in _DENIED:
            return ConfigurationError(
                f"{about} {self.source} needs the right to {right}; then start the deploy DAG again."
            )
        if code in EXPIRED:
            return ConfigurationError(
                f"{about} Put new keys into {self.source}, or a role to assume; then start the deploy DAG again."
            )
        if code == "ResourceLimitExceeded":
            return ConfigurationError(
                f"{about} Ask for more under Service Quotas, or declare another serving.sagemaker.instance_type in "
                "model.yaml; then start the deploy DAG again."
            )
        if code in _BUSY:
            return StoreUnavailableError(f"{about} It was asked several times; the task tries again.")
        if code in _INVALID and "in-progress" not in said:
            return ConfigurationError(about)
        return StoreUnavailableError(about)


class _MissingError(StoreUnavailableError):
    """SageMaker knows no such thing, or no more. Retried: what a next look lacks it makes."""


def _made_for(name: str, beginning: str) -> bool:
    """Whether a name is this beginning, a number and a digest: that of another endpoint may begin alike."""
    return re.fullmatch(r"\d+-[0-9a-f]{8}", name.removeprefix(beginning)) is not None and name.startswith(beginning)


def _listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
