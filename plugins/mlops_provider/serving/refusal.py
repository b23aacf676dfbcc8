"""How the server says no."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.types import Send

from mlops_provider.core.names import Header

CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""MLflow's word for a status; others are a BAD_REQUEST, or from 500 on an INTERNAL_ERROR."""


class RefusedRequestError(Exception):
    """
    A request that can't be answered.

    :param sentence: What is wrong and what is expected; goes to the caller as it is.
    :param status: HTTP status, 400-599; below 500 it is the caller's mistake.
    :param retry_after: Seconds after which it may be tried again; 0 if that would not help.
    """

    def __init__(self, sentence: str, status: int = 400, *, retry_after: int = 0) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status
        self.retry_after = retry_after

    def body(self, *, inference: bool) -> bytes:
        """Word it the way MLflow does, or the Open Inference Protocol."""
        if inference:
            return msgspec.json.encode({"error": self.sentence})
        code = CODES.get(self.status, "BAD_REQUEST" if self.status < 500 else "INTERNAL_ERROR")
        return msgspec.json.encode({"error_code": code, "message": self.sentence})


def failed() -> RefusedRequestError:
    """What a caller is told of a fault of ours; the trace goes to the server's log."""
    return RefusedRequestError("The server failed on this request; its log says why.", 500)


async def refuse(send: Send, refused: RefusedRequestError, path: str, *, request_id: str = "") -> None:
    """Send a refusal, in the words of the protocol that is spoken at *path*."""
    body = refused.body(inference=path.startswith("/v2"))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if request_id:
        headers.append((Header.REQUEST_ID.lower().encode(), request_id.encode()))
    if refused.retry_after:
        headers.append((b"retry-after", b"%d" % refused.retry_after))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def listed(names: Sequence[str], most: int = 10) -> str:
    """Join *names* for a sentence; beyond *most* they are only counted."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
