"""
SageMaker's endpoints, as moto lacks them: with states, failures, and containers that really answer.

An HTTP server in front of moto. It answers what belongs to endpoints itself; everything else (models, endpoint
configurations, S3) is moto's. What it can't know of Amazon's own is how long things take.
"""

from __future__ import annotations

import io
import re
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlops_provider.exceptions import MLOpsError
from mlops_provider.serving.app import ModelServerApp
from mlops_provider.serving.custom_attributes import CustomAttributes
from mlops_provider.serving.metrics import Metrics
from mlops_provider.serving.process import packaged
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.supervisor import Settings
from support.aws import REGION, Aws

_ARN = f"arn:aws:sagemaker:{REGION}:123456789012:endpoint"
NO_PING = "The primary container for production variant {} did not pass the ping health check."
NO_CAPACITY = "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error."


class RefusedError(Exception):
    """What the API answers with an error code."""

    def __init__(self, code: str, message: str, status: int = 400, **more: Any) -> None:
        super().__init__(message)
        self.code, self.status = code, status
        self.body = {"__type": code, "message": message, "Message": message, **more}


@dataclass
class Container:
    """A version, served out of its archive as a container would."""

    served: ServedModel
    client: httpx.AsyncClient


@dataclass
class Endpoint:
    """State of one endpoint; *looks* says how many more descriptions show it on its way, *desired* to which weights."""

    config: str
    status: str = "Creating"
    weights: dict[str, float] = field(default_factory=dict)
    desired: dict[str, float] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    reason: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    looks: int = 0
    coming: tuple[str, dict[str, float]] | None = None


class SageMaker:
    """
    The service, and what shall go wrong with it.

    :ivar looks: Descriptions of an endpoint until what was begun is done.
    :ivar fails: Why the next new variants don't come into service; told once.
    :ivar stuck: What is begun never ends.
    :ivar throttled: Calls that are turned away from now on.
    :ivar denied: Actions that are not allowed.
    :ivar limited: Quota that a new endpoint or an update exceeds from now on; empty for none.
    :ivar before_start: Called with the address of an archive before a container is given it.
    :ivar calls: Actions that changed something, in their order.
    """

    def __init__(self, aws: Aws, folder: Path) -> None:
        self.aws, self.folder = aws, folder
        self.endpoints: dict[str, Endpoint] = {}
        self.reset()
        self._random = np.random.default_rng(7)
        self._moto = httpx.AsyncClient(base_url=aws.url, timeout=60, trust_env=False)
        self.url = ""
        self._control, self._s3 = aws.client("sagemaker"), aws.client("s3")

    def reset(self) -> None:
        """Begin with no endpoint and no trouble."""
        for endpoint in self.endpoints.values():
            self._end(endpoint, endpoint.containers)
        self.endpoints.clear()
        self.looks, self.fails, self.stuck, self.throttled, self.limited = 1, "", False, 0, ""
        self.denied: set[str] = set()
        self.before_start: Callable[[str], object] = lambda archive: None
        self.calls: list[str] = []

    def app(self) -> Starlette:
        every = ["GET", "POST", "PUT", "DELETE", "HEAD"]
        return Starlette(
            routes=[
                Route("/endpoints/{name}/invocations", self.invoked, methods=["POST"]),
                Route("/{path:path}", self.called, methods=every),
            ]
        )

    async def called(self, request: Request) -> Response:
        target = request.headers.get("x-amz-target", "")
        if not target.startswith("SageMaker."):
            return await self._forward(request)
        action = target.removeprefix("SageMaker.")
        try:
            self._turn_away(action)
            own = getattr(self, "_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", action).lower(), None)
            content = await request.json()
            if action in ("AddTags", "ListTags") and ":endpoint/" not in content["ResourceArn"]:
                own = None
            if not action.startswith(("Describe", "List", "AddTags")):
                self.calls.append(action)
            return await self._forward(request) if own is None else JSONResponse(await own(content))
        except RefusedError as refused:
            return _refusal(refused)

    def _turn_away(self, action: str) -> None:
        if self.throttled:
            self.throttled -= 1
            raise RefusedError("ThrottlingException", "Rate exceeded")
        if action in self.denied:
            raise RefusedError("AccessDeniedException", f"User is not authorized to perform: sagemaker:{action}")

    async def _forward(self, request: Request) -> Response:
        headers = [(name, value) for name, value in request.headers.raw if name not in (b"host", b"content-length")]
        # moto's CloudWatch has no percentiles; of what tests put there, the largest is as good.
        body = (await request.body()).replace(b"\x63p99", b"\x67Maximum").replace(b'"p99"', b'"Maximum"')
        answer = await self._moto.request(
            request.method, str(request.url).removeprefix(self.url), headers=headers, content=body
        )
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name not in ("transfer-encoding", "content-encoding")
        }
        return Response(answer.content, answer.status_code, kept)

    # Endpoints.

    def measure(self, endpoint: str, variant: str, name: str, value: float, when: datetime) -> None:
        """Put a number into CloudWatch, as SageMaker does each minute."""
        dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
        point = {"MetricName": name, "Dimensions": dimensions, "Timestamp": when, "Value": value}
        self.aws.client("cloudwatch").put_metric_data(Namespace="AWS/SageMaker", MetricData=[point])

    def _endpoint(self, name: str) -> Endpoint:
        if name not in self.endpoints:
            raise RefusedError("ValidationException", f'Could not find endpoint "{_ARN}/{name}".')
        return self.endpoints[name]

    async def _create_endpoint(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name, config = asked["EndpointName"], asked["EndpointConfigName"]
        if name in self.endpoints:
            raise RefusedError("ValidationException", f'Cannot create already existing endpoint "{_ARN}/{name}".')
        self._limit()
        tags = {tag["Key"]: tag["Value"] for tag in asked.get("Tags", ())}
        made = self.endpoints[name] = Endpoint(config, tags=tags)
        self._begin(
            made,
            "Creating",
            config,
            {each["VariantName"]: each["InitialVariantWeight"] for each in self.variants(config)},
        )
        return {"EndpointArn": f"{_ARN}/{name}"}

    async def _update_endpoint(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name = asked["EndpointName"]
        found = self._idle(name)
        variants = self.variants(asked["EndpointConfigName"])
        self._limit()
        weights = {each["VariantName"]: each["InitialVariantWeight"] for each in variants}
        if asked.get("RetainAllVariantProperties"):
            weights |= {variant: weight for variant, weight in found.weights.items() if variant in weights}
        self._begin(found, "Updating", asked["EndpointConfigName"], weights)
        return {"EndpointArn": f"{_ARN}/{name}"}

    async def _update_endpoint_weights_and_capacities(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name = asked["EndpointName"]
        found = self._idle(name)
        desired = {each["VariantName"]: each["DesiredWeight"] for each in asked["DesiredWeightsAndCapacities"]}
        if unknown := desired.keys() - found.weights.keys():
            raise RefusedError("ValidationException", f"Variants {sorted(unknown)} do not exist.")
        found.desired = found.weights | desired
        self._begin(found, "Updating", found.config, found.desired)
        return {"EndpointArn": f"{_ARN}/{name}"}

    async def _delete_endpoint(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self._endpoint(asked["EndpointName"])
        gone = self.endpoints.pop(asked["EndpointName"])
        self._end(gone, gone.containers)
        return {}

    async def _describe_endpoint(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name = asked["EndpointName"]
        found = self._endpoint(name)
        if found.coming and not self.stuck:
            found.looks -= 1
            if found.looks < 0:
                self._arrive(found, *found.coming)
        told = {
            "EndpointName": name,
            "EndpointArn": f"{_ARN}/{name}",
            "EndpointConfigName": found.config,
            "EndpointStatus": found.status,
            "CreationTime": time.time(),
            "LastModifiedTime": time.time(),
            "ProductionVariants": [
                {"VariantName": variant, "CurrentWeight": weight, "DesiredWeight": found.desired[variant]}
                for variant, weight in found.weights.items()
            ],
        }
        return told | ({"FailureReason": found.reason} if found.reason else {})

    async def _add_tags(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        tags = self._endpoint(asked["ResourceArn"].rpartition("/")[2]).tags
        tags.update({tag["Key"]: tag["Value"] for tag in asked["Tags"]})
        return {"Tags": asked["Tags"]}

    async def _list_tags(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        tags = self._endpoint(asked["ResourceArn"].rpartition("/")[2]).tags
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    def _limit(self) -> None:
        if self.limited:
            limit = f"The account-level service limit '{self.limited}' is 0 Instances."
            raise RefusedError("ResourceLimitExceeded", limit)

    def _idle(self, name: str) -> Endpoint:
        found = self._endpoint(name)
        if found.status != "InService":
            raise RefusedError("ValidationException", f'Cannot update in-progress endpoint "{_ARN}/{name}".')
        return found

    def _begin(self, endpoint: Endpoint, status: str, config: str, weights: dict[str, float]) -> None:
        endpoint.status, endpoint.looks, endpoint.coming = status, self.looks, (config, weights)

    def _arrive(self, endpoint: Endpoint, config: str, weights: dict[str, float]) -> None:
        """What was begun is done, or fails: an endpoint that served before goes on with what it had."""
        endpoint.coming = None
        new = weights.keys() - endpoint.weights.keys()
        reason, self.fails = (self.fails, "") if new else ("", self.fails)
        started: dict[str, Container] = {}
        models = {each["VariantName"]: each["ModelName"] for each in self.variants(config)} if new else {}
        for variant in sorted(new) if not reason else ():
            try:
                started[variant] = self._started(models[variant])
            except MLOpsError:
                reason = NO_PING.format(variant)
        endpoint.reason = reason
        if reason:
            self._end(endpoint, started)
            endpoint.status = "InService" if endpoint.containers else "Failed"
            return
        left = {variant: each for variant, each in endpoint.containers.items() if variant not in weights}
        endpoint.containers |= started
        self._end(endpoint, left)
        endpoint.status, endpoint.config, endpoint.weights, endpoint.desired = "InService", config, weights, weights

    # Containers.

    def variants(self, config: str) -> list[dict[str, Any]]:
        found = self._control.describe_endpoint_config(EndpointConfigName=config)
        return [{"InitialVariantWeight": 0.0, **each} for each in found["ProductionVariants"]]

    def _started(self, model: str) -> Container:
        """Unpack the archive of a model, and serve it as its environment says."""
        found = self._control.describe_model(ModelName=model)["PrimaryContainer"]
        self.before_start(found["ModelDataUrl"])
        bucket, _, key = found["ModelDataUrl"].removeprefix("s3://").partition("/")
        content = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        folder = self.folder / f"{model}-{len(list(self.folder.iterdir()))}"
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder / "model", filter="data")
        environment, metrics = found["Environment"], Metrics()
        settings = Settings(
            models=(),
            host="",
            port=0,
            ledger_url="",
            registry_uri="",
            spool_dir=folder / "spool",
            spool_uri=environment["MLOPS_SPOOL_URI"],
            name=model,
            advertised_url="",
            workers=1,
            threads=1,
            policies={},
            package=folder / "model",
            package_digest=environment["MLOPS_PACKAGE_DIGEST"],
        )
        served = packaged(settings, metrics)
        app = CustomAttributes(ModelServerApp([served], metrics=metrics))
        return Container(served, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://container"))

    def _end(self, endpoint: Endpoint, containers: Mapping[str, Container]) -> None:
        for variant, container in list(containers.items()):
            endpoint.containers.pop(variant, None)
            threading.Thread(target=container.served.stop).start()

    async def invoked(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            self._turn_away("InvokeEndpoint")
            found = self.endpoints.get(name)
            if found is None or not found.containers:
                raise RefusedError("ValidationError", f"Endpoint {name} of account 123456789012 not found.")
            variant = request.headers.get("x-amzn-sagemaker-target-variant") or self._chosen(found)
            if variant not in found.containers:
                raise RefusedError("ValidationError", f"Variant {variant} not found for endpoint {name}.")
            passed = ("content-type", "x-amzn-sagemaker-custom-attributes")
            headers = {key: value for key, value in request.headers.items() if key in passed}
            answer = await found.containers[variant].client.post(
                "/invocations", content=await request.body(), headers=headers
            )
            if not answer.is_success:
                raise RefusedError(
                    "ModelError",
                    f"Received client error ({answer.status_code}) from primary.",
                    424,
                    OriginalStatusCode=answer.status_code,
                    OriginalMessage=answer.text,
                )
        except RefusedError as refused:
            return _refusal(refused)
        attributes = answer.headers.get("x-amzn-sagemaker-custom-attributes", "")
        told = {"x-Amzn-Invoked-Production-Variant": variant, "X-Amzn-SageMaker-Custom-Attributes": attributes}
        return Response(answer.content, 200, {"content-type": answer.headers["content-type"], **told})

    def _chosen(self, endpoint: Endpoint) -> str:
        names = sorted(endpoint.weights)
        weights = np.array([endpoint.weights[name] for name in names])
        return str(self._random.choice(names, p=weights / weights.sum()))


def _refusal(refused: RefusedError) -> Response:
    return JSONResponse(refused.body, refused.status, {"x-amzn-ErrorType": refused.code})


@contextmanager
def sagemaker(aws: Aws, folder: Path) -> Iterator[SageMaker]:
    """Run the service on a free port of the loopback interface."""
    service = SageMaker(aws, folder)
    listener = socket.create_server(("127.0.0.1", 0))
    service.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(service.app(), log_config=None, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        service.reset()
