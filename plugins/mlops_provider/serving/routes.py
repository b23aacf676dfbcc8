"""
Every route, declared once: what Starlette answers and what ``/openapi.json`` says both come from this table.

Starlette serves what is asked rarely; predictions at a known path never reach it, see
:class:`mlops_provider.serving.app.ModelServerApp`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mlops_provider.serving import openapi, openinference
from mlops_provider.serving.metrics import CONTENT_TYPE, Metrics
from mlops_provider.serving.openapi import Operation, schema
from mlops_provider.serving.predictions import Endpoint, Predictions, inference, invocations
from mlops_provider.serving.refusal import RefusedRequestError, failed, listed
from mlops_provider.serving.served import ServedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Routes:
    """
    The table, over the server it belongs to.

    :param models: What is served, by name.
    :param predictions: Answers predictions whose path names a version.
    :param secured: Whether callers need a token.
    """

    models: Mapping[str, ServedModel]
    predictions: Predictions
    metrics: Metrics
    secured: bool

    def starlette(self, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]]) -> Starlette:
        """Give the application that answers them."""
        made = Starlette(
            routes=[Route(each.path, each.answer, methods=[each.method]) for each in self.operations()],
            lifespan=lifespan,
            exception_handlers={
                RefusedRequestError: self._refused,
                HTTPException: self._refused,
                Exception: self._unexpected,
            },
        )
        made.router.redirect_slashes = False
        return made

    def operations(self) -> list[Operation]:
        """Everything the server answers."""
        words = {200: {"type": "string"}}
        ready = {200: schema("Ready"), 503: schema("Ready")}
        model_ready, metadata = {200: schema("ModelReady"), 503: schema("ModelReady")}, {200: schema("ModelMetadata")}
        operations = [each for served in self.models.values() for each in self._predictions(served)]
        if len(self.models) > 1:
            operations.append(
                Operation("POST", "/invocations", "Say that the path must name a model.", several_models, {400: None})
            )
        return [
            *operations,
            Operation("GET", "/v2", "Name, version and extensions of the server.", server, {200: schema("Server")}),
            Operation("GET", "/v2/health/live", "Whether the process answers.", live, {200: schema("Live")}),
            Operation("GET", "/v2/health/ready", "Whether callers should be sent here.", self.is_ready, ready),
            *(
                Operation("GET", f"/v2/models/{{model}}{version}{what}", summary, answer, answers | {404: None})
                for version in ("", "/versions/{version}")
                for what, summary, answer, answers in (
                    ("", "What a model takes and gives.", self.metadata, metadata | {503: None}),
                    ("/ready", "Whether a model, or a version of it, answers.", self.model_ready, model_ready),
                )
            ),
            Operation("GET", "/ping", "Whether the process answers.", health, words, "text/plain"),
            Operation("GET", "/health", "Whether the process answers.", health, words, "text/plain"),
            Operation(
                "GET", "/ready", "Whether callers should be sent here, or why not.", self.ready,
                {200: schema("Ready"), 503: None},
            ),
            Operation("GET", "/version", "Version of MLflow whose protocol is spoken.", version, words, "text/plain"),
            Operation("GET", "/traffic", "What is served now, by model.", self.traffic, {200: schema("Traffic")}),
            Operation(
                "GET", "/models/{model}/observed", "What callers met with each version in this generation of traffic.",
                self.observed, {200: schema("Observed"), 404: None},
            ),
            Operation("GET", "/metrics", "Counts and times, for Prometheus.", self.measured, words, "text/plain"),
            Operation("GET", "/openapi.json", "This description.", self.described, {200: {"type": "object"}}),
        ]  # fmt: skip

    def _predictions(self, served: ServedModel) -> list[Operation]:
        """Those of one model."""
        name = served.model
        mlflow, tensors = (Post(self.predictions, served, protocol) for protocol in (invocations, inference))
        refusals: dict[int, Any] = dict.fromkeys((400, 404, 408, 413, 415, 429, 500, 503, 504))
        predicted, inferred = refusals | {200: schema("Predictions")}, refusals | {200: schema("InferenceResponse")}
        operations = [
            Operation(
                "POST", f"/models/{name}/invocations", f"Predict with {name}, in MLflow's protocol.", mlflow, predicted,
                served=served,
            ),
            Operation(
                "POST", f"/v2/models/{name}/infer", f"Predict with {name}, in the Open Inference Protocol.", tensors,
                inferred, served=served,
            ),
            Operation(
                "POST", f"/v2/models/{name}/versions/{{version}}/infer", f"The same with one version of {name}.",
                tensors, inferred, served=served,
            ),
        ]  # fmt: skip
        told: dict[int, Any] = {200: schema("Accepted")} | dict.fromkeys((400, 404, 408, 413, 415, 429, 500, 503))
        operations.append(
            Operation(
                "POST", f"/models/{name}/outcomes", f"Tell what became of predictions of {name}.",
                Outcomes(self.predictions, served), told, body=openapi.outcomes(served),
            )
        )  # fmt: skip
        if len(self.models) == 1:
            operations.append(
                Operation("POST", "/invocations", "Predict, in MLflow's protocol.", mlflow, predicted, served=served)
            )
        return operations

    async def ready(self, request: Request) -> Response:
        """
        Say whether callers should be sent here: every model that was released has a version and a log to write.

        A model that waits for its first version keeps nobody from the others.
        """
        if reasons := self._reasons():
            raise RefusedRequestError(" ".join(reasons), 503, retry_after=1)
        return JSONResponse({"ready": True})

    async def is_ready(self, request: Request) -> Response:
        """Say the same to a client of the Open Inference Protocol."""
        ready = not self._reasons()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    def _reasons(self) -> list[str]:
        released = [served for served in self.models.values() if not served.follower.unreleased]
        return [reason for served in released or self.models.values() if (reason := served.not_ready)]

    async def metadata(self, request: Request) -> Response:
        """Tell what a model takes and gives."""
        served = self._named(request)
        snapshot = served.current
        asked = request.path_params.get("version")
        if not asked and not snapshot.open:
            raise RefusedRequestError(served.not_ready, 503, retry_after=1)
        version = snapshot.pinned(asked) if asked else snapshot.leading
        versions = [asked] if asked else sorted(snapshot.versions)
        return JSONResponse(
            openinference.metadata(served.model, versions, version.columns, segments=version.answered_by is not None)
        )

    async def model_ready(self, request: Request) -> Response:
        """Say whether a model answers; of a version, only whether it is loaded, as it may be asked by its number."""
        served, version = self._named(request), request.path_params.get("version")
        ready = bool(served.current.pinned(version)) if version else not served.not_ready
        return JSONResponse({"name": served.model, "ready": ready}, 200 if ready else 503)

    async def traffic(self, request: Request) -> Response:
        """Tell what is served right now."""
        return JSONResponse({name: served.state() for name, served in self.models.items()})

    async def observed(self, request: Request) -> Response:
        """Tell rollouts what callers met."""
        # The predictions are too many for a slow encoder: callers wait meanwhile.
        return Response(msgspec.json.encode(self._named(request).observed()), media_type="application/json")

    async def measured(self, request: Request) -> Response:
        """Tell counts and times."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def described(self, request: Request) -> Response:
        """Describe the API."""
        return JSONResponse(openapi.document(self.operations(), sorted(self.models), secured=self.secured))

    def _named(self, request: Request) -> ServedModel:
        try:
            return self.models[request.path_params["model"]]
        except KeyError:
            raise self._no_such_model() from None

    def _no_such_model(self) -> RefusedRequestError:
        return RefusedRequestError(f"No such model here; served are: {listed(sorted(self.models))}.", 404)

    async def _refused(self, request: Request, error: Exception) -> Response:
        """Word a refusal of ours, or Starlette's: no such path, or not with this method."""
        headers: dict[str, str] = {}
        path = request.url.path
        if isinstance(error, HTTPException):
            headers |= error.headers or {}
            sentence = {404: "There is no such path.", 405: "This path does not take this method."}
            named = path.removeprefix("/v2").split("/")
            if error.status_code == 404 and named[1:2] == ["models"] and not set(named[2:3]) & self.models.keys():
                error = self._no_such_model()
            else:
                error = RefusedRequestError(sentence.get(error.status_code, str(error.detail)), error.status_code)
        assert isinstance(error, RefusedRequestError)
        if error.retry_after:
            headers["Retry-After"] = str(error.retry_after)
        body = error.body(inference=path.startswith("/v2"))
        return Response(body, error.status, {**headers, "content-type": "application/json"})

    async def _unexpected(self, request: Request, error: Exception) -> Response:
        """The trace goes to the server's log, never to the caller."""
        return await self._refused(request, failed())


@dataclass(frozen=True, slots=True)
class Post:
    """Predicts at a path that the application does not know by heart."""

    predictions: Predictions
    served: ServedModel
    protocol: Callable[..., Endpoint]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self.protocol(self.served, scope["path"], **scope["path_params"])
        await self.predictions.answer(endpoint, dict(scope["headers"]), receive, send)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Takes what became of a model's predictions."""

    predictions: Predictions
    served: ServedModel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, once its outcomes are in the log."""
        headers = dict(scope["headers"])
        seconds = self.served.policy.deadline_seconds
        try:
            async with asyncio.timeout(seconds):
                body = await self.predictions.body(headers, receive)
        except TimeoutError:
            raise RefusedRequestError(f"The request did not arrive within {seconds:g} s.", 408) from None
        if body is None:
            return
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        count = await asyncio.to_thread(self.served.note_outcomes, body, content_type)
        await JSONResponse({"accepted": count})(scope, receive, send)


async def several_models(request: Request) -> Response:
    """Refuse: nobody knows which one is meant."""
    raise RefusedRequestError("Several models are served here: use /models/<name>/invocations.")


async def server(request: Request) -> Response:
    """Tell what speaks the Open Inference Protocol."""
    about = {"name": "mlops", "version": installed_version("airflow-provider-mlops"), "extensions": []}
    return JSONResponse(about)


async def live(request: Request) -> Response:
    """Say that the process answers."""
    return JSONResponse({"live": True})


async def health(request: Request) -> Response:
    """Say that the process answers, as MLflow's own server does."""
    return PlainTextResponse("\n")


async def version(request: Request) -> Response:
    """Give the version of MLflow whose protocol is spoken, as MLflow's own server does."""
    return PlainTextResponse(installed_version("mlflow"))
