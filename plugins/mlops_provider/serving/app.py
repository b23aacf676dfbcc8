"""The model server as an ASGI application: predictions by a plain callable, everything else by Starlette behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from threadpoolctl import threadpool_limits

from mlops_provider.serving.metrics import Metrics
from mlops_provider.serving.predictions import Endpoint, Predictions, inference, invocations, repeatable
from mlops_provider.serving.refusal import RefusedRequestError, refuse
from mlops_provider.serving.routes import Routes
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.tokens import OPEN_PATHS, Tokens


class ModelServerApp:
    """
    The server over its models.

    :param models: What is served.
    :param workers: Batches computed at the same time.
    :param threads: OpenMP and BLAS threads of one prediction.
    :param tokens: Who may call; everybody by default.
    :param metrics: Counts and times; the models should share it.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        workers: int = 2,
        threads: int = 1,
        tokens: Tokens | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.models = {served.model: served for served in models}
        self.tokens = tokens or Tokens()
        self.metrics = metrics or Metrics()
        self.metrics.watch(models)
        # OpenMP keeps its limit per thread: it is set in each thread of the pool.
        self.pool = ThreadPoolExecutor(workers, "predict", initializer=threadpool_limits, initargs=(threads,))
        self.predictions = Predictions(self.pool, self.metrics)
        self.hot = {endpoint.path: endpoint for served in models for endpoint in self._endpoints(served)}
        self.cold = Routes(self.models, self.predictions, self.metrics, secured=self.tokens.required).starlette(
            self.lifespan
        )

    def _endpoints(self, served: ServedModel) -> list[Endpoint]:
        endpoints = [
            invocations(served, f"/models/{served.model}/invocations"),
            inference(served, f"/v2/models/{served.model}/infer"),
        ]
        return [*endpoints, invocations(served, "/invocations")] if len(self.models) == 1 else endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or begin and end with the server."""
        if scope["type"] != "http":
            await self.cold(scope, receive, send)
            return
        path: str = scope["path"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self.tokens.required and path not in OPEN_PATHS:
            sentence = self.tokens.refusal(headers.get(b"authorization", b""))
            if sentence:
                refused = RefusedRequestError(sentence, 401)
                await refuse(send, refused, path, request_id=repeatable(headers))
                return
        endpoint = self.hot.get(path)
        if endpoint is not None and scope["method"] == "POST":
            await self.predictions.answer(endpoint, headers, receive, send)
        else:
            await self.cold(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Follow the ledger while the server runs; let what is under way finish before the logs are sealed."""
        for served in self.models.values():
            served.start()
        self.predictions.watch_lag()
        yield
        await asyncio.to_thread(self.pool.shutdown)
        for served in self.models.values():
            await asyncio.to_thread(served.stop)
