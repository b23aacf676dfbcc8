"""Our headers where SageMaker hands on only one of its own."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops_provider.core.names import CUSTOM_ATTRIBUTES, Header

_ATTRIBUTES = CUSTOM_ATTRIBUTES.lower().encode()
_OURS = {header.lower().encode(): header.encode() for header in Header}


class CustomAttributes:
    """
    Let our headers travel in that one: ``X-MLOps-Request-Id=a,X-MLOps-Version=3``.

    :param app: The model server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Unfold it in a request, and fold it in an answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(_ATTRIBUTES, b"")
        named = [part.partition(b"=")[::2] for part in told.split(b",")]
        asked = [(name.strip().lower(), value.strip()) for name, value in named if name.strip().lower() in _OURS]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [
                    _OURS[name.lower()] + b"=" + value for name, value in message["headers"] if name.lower() in _OURS
                ]
                message = {**message, "headers": [*message["headers"], (_ATTRIBUTES, b",".join(ours))]}
            await send(message)

        await self.app({**scope, "headers": [*scope["headers"], *asked]}, receive, answer)
