"""The HTTP side of the model server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version as installed_version
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from threadpoolctl import threadpool_limits

from mlops_provider.core import names
from mlops_provider.serving.protocol import RefusedRequestError, listed
from mlops_provider.serving.served import ServedModel

logger = logging.getLogger(__name__)

LARGEST_BODY = 10 * 1024 * 1024
"""Bytes of a request; larger ones are refused with 413."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class ModelServerApp:
    """
    Routes of the server over its models.

    :param models: What is served.
    :param workers: Predictions computed at the same time.
    :param most_waiting: Requests that may wait for a free worker; beyond it 429 is answered at once.
    :param threads: OpenMP and BLAS threads of one prediction.
    """

    def __init__(
        self, models: Sequence[ServedModel], *, workers: int = 2, most_waiting: int = 256, threads: int = 1
    ) -> None:
        self.models = {served.model: served for served in models}
        self.most_open = workers + most_waiting
        self.open_requests = 0
        # OpenMP keeps its limit per thread: it is set in each thread of the pool.
        self.pool = ThreadPoolExecutor(workers, "predict", initializer=threadpool_limits, initargs=(threads,))

    def starlette(self) -> Starlette:
        """Give the ASGI application; models follow the ledger while it runs, and seal their logs when it ends."""
        routes = [
            Route("/invocations", self.invocations, methods=["POST"]),
            Route("/models/{name}/invocations", self.invocations, methods=["POST"]),
            Route("/ping", self.health),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/version", self.version),
            Route("/traffic", self.traffic),
        ]
        handlers: Mapping[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
            HTTPException: _http_refusal,
            Exception: _unexpected,
        }
        return Starlette(routes=routes, lifespan=self.lifespan, exception_handlers=dict(handlers))

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Follow the ledger while the server runs; let what is under way finish before the logs are sealed."""
        for served in self.models.values():
            served.start()
        yield
        await asyncio.to_thread(self.pool.shutdown)
        for served in self.models.values():
            await asyncio.to_thread(served.stop)

    async def invocations(self, request: Request) -> Response:
        """Score rows: MLflow's protocol in, ``{"predictions": [...]}`` out; of segments also who answered each."""
        request_id = request.headers.get(names.Header.REQUEST_ID) or uuid4().hex
        try:
            return await self.scored(request, request_id)
        except RefusedRequestError as refused:
            return refusal(refused.sentence, refused.status, _named(request_id))
        except ClientDisconnect:
            return Response(status_code=400)

    async def scored(self, request: Request, request_id: str) -> Response:
        """Choose the version once, compute in the pool, and answer when the rows are logged."""
        if not _REQUEST_ID.fullmatch(request_id):
            raise RefusedRequestError(
                f"{names.Header.REQUEST_ID} must be 1 to 128 letters, digits or any of . _ : - characters."
            )
        served = self.named(request.path_params.get("name"))
        body = await _body(request)
        snapshot = served.current
        pin = request.headers.get(names.Header.VERSION)
        version = snapshot.pinned(pin) if pin else snapshot.chosen(request_id)
        if self.open_requests >= self.most_open:
            raise RefusedRequestError("Too many requests are waiting; try again in a second.", 429)
        self.open_requests += 1
        try:
            answers = await asyncio.get_running_loop().run_in_executor(
                self.pool,
                served.answer,
                snapshot,
                version,
                body,
                request.headers.get("content-type", ""),
                request_id,
            )
        finally:
            self.open_requests -= 1
        return Response(
            json.dumps(answers, allow_nan=False),
            media_type="application/json",
            headers={
                names.Header.VERSION: version.version,
                names.Header.GENERATION: str(snapshot.generation),
                names.Header.REQUEST_ID: request_id,
            },
        )

    def named(self, name: str | None) -> ServedModel:
        """
        Find the model a request is for.

        :raises RefusedRequestError: There is none of that name, or several and the path names none.
        """
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is None:
            raise RefusedRequestError("Several models are served here: use /models/<name>/invocations.")
        try:
            return self.models[name]
        except KeyError:
            raise RefusedRequestError(f"No such model here; served are: {listed(sorted(self.models))}.", 404) from None

    async def health(self, request: Request) -> Response:
        """Say that the process answers."""
        return PlainTextResponse("\n")

    async def ready(self, request: Request) -> Response:
        """
        Say whether callers should be sent here: every model that was released has a version and a log to write.

        A model that waits for its first version keeps nobody from the others.
        """
        released = [served for served in self.models.values() if not served.follower.unreleased]
        reasons = [reason for served in released or self.models.values() if (reason := served.not_ready)]
        return refusal(" ".join(reasons), 503) if reasons else JSONResponse({"ready": True})

    async def version(self, request: Request) -> Response:
        """Give the version of MLflow whose protocol is spoken, as MLflow's own server does."""
        return PlainTextResponse(installed_version("mlflow"))

    async def traffic(self, request: Request) -> Response:
        """Tell what is served right now."""
        return JSONResponse({name: served.state() for name, served in self.models.items()})


async def _body(request: Request) -> bytes:
    too_large = RefusedRequestError(f"The body is larger than {LARGEST_BODY // 2**20} MB; send fewer rows.", 413)
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > LARGEST_BODY:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise too_large
    return bytes(body)


def _named(request_id: str) -> dict[str, str]:
    """The header that names a request, if its name may be repeated."""
    return {names.Header.REQUEST_ID: request_id} if _REQUEST_ID.fullmatch(request_id) else {}


def refusal(sentence: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Word a failure the way MLflow does."""
    code = {400: "BAD_REQUEST", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 503: "TEMPORARILY_UNAVAILABLE"}
    later = {"Retry-After": "1"} if status in (429, 503) else {}
    content = {"error_code": code.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"), "message": sentence}
    return JSONResponse(content, status, headers={**(headers or {}), **later})


async def _http_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "There is no such path.", 405: "This path does not take this method."}.get(error.status_code)
    return refusal(sentence or str(error.detail), error.status_code, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    """The trace goes to the server's log, never to the caller."""
    named = _named(request.headers.get(names.Header.REQUEST_ID, ""))
    return refusal("The server failed on this request; its log says why.", 500, named)
