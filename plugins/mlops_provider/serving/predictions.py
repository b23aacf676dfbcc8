"""The path of a prediction: from a request's head to the answer's last byte. Plain ASGI, because it is the hot one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from secrets import token_hex

import msgspec
from starlette.types import Receive, Send

from mlops_provider.core.names import Arm, Header
from mlops_provider.serving import openinference, protocol
from mlops_provider.serving.deadlines import Deadline, Deadlines
from mlops_provider.serving.lane import BATCH_BYTES, Call
from mlops_provider.serving.metrics import Metrics
from mlops_provider.serving.protocol import Content
from mlops_provider.serving.refusal import RefusedRequestError, failed, refuse
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.snapshot import LoadedVersion, Snapshot

logger = logging.getLogger(__name__)

LARGEST_BODY = 10 * 1024 * 1024
"""Bytes of a request; larger ones are refused with 413."""
MOST_BYTES = 64 * 1024 * 1024
"""Bytes of all requests that are being read or answered; what comes on top is refused with 429."""
_LOOK = 0.05
"""Seconds between measurements of the event loop's lag."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_VERSION, _GENERATION, _NAME, _ENTITY, _DEADLINE, _ARM = (
    header.lower().encode()
    for header in (
        Header.VERSION, Header.GENERATION, Header.REQUEST_ID, Header.ENTITY, Header.DEADLINE, Header.ARM,
    )
)  # fmt: skip

Headers = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    A path at which a model predicts.

    :param served: The model.
    :param path: Where, in full.
    :param parse: Reads a body of its protocol.
    :param encode: Writes the answer.
    :param version: Version that the path names; empty if the split decides.
    """

    served: ServedModel
    path: str
    parse: Callable[[bytes, str], Content]
    encode: Callable[..., bytes]
    version: str = ""


def invocations(served: ServedModel, path: str) -> Endpoint:
    """MLflow's protocol."""
    return Endpoint(served, path, protocol.parse, protocol.answer)


def inference(served: ServedModel, path: str, version: str = "") -> Endpoint:
    """The Open Inference Protocol."""
    return Endpoint(served, path, openinference.parse, openinference.answer, version)


class Predictions:
    """
    Answers predictions.

    :param pool: Where they are computed.
    :param metrics: Counts and times.
    """

    def __init__(self, pool: Executor, metrics: Metrics) -> None:
        self.pool = pool
        self.metrics = metrics
        self.open_bytes = 0
        self.lag = 0.0
        self.deadlines = Deadlines()
        self._names = token_hex(11)
        self._count = itertools.count()

    async def answer(self, endpoint: Endpoint, headers: Headers, receive: Receive, send: Send) -> None:
        """Score the rows of a request and answer; whatever goes wrong is told in words."""
        arrived = time.perf_counter()
        served = endpoint.served
        request_id = version = ""
        arm: str = Arm.SPLIT
        size, code = 0, 200
        served.open_requests += 1
        deadline: Deadline | None = None
        call: Call | None = None
        try:
            request_id = _name(headers) or self._new_name()
            deadline = self.deadlines.begin(served, _seconds(headers, served), arrived, self.lag)
            body = await self.body(headers, receive)
            if body is None:
                return
            size = len(body)
            self.open_bytes += size
            call = await self._call(endpoint, headers, body, request_id, arrived)
            version, request_id = call.version.version, call.request_id
            served.enter(call, self.pool, deadline.seconds - (time.perf_counter() - arrived))
            deadline.call = call
            outcome = await call.answered
            arm = call.arm
            if isinstance(outcome, RefusedRequestError):
                raise outcome
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"application/json"),
                        (b"content-length", b"%d" % len(outcome)),
                        (_VERSION, version.encode()),
                        (_GENERATION, b"%d" % call.snapshot.generation),
                        (_NAME, request_id.encode()),
                        (_ARM, arm.encode()),
                    ],
                }
            )
            await send({"type": "http.response.body", "body": outcome})
        except RefusedRequestError as refused:
            code = refused.status
            await refuse(send, refused, endpoint.path, request_id=request_id)
        except asyncio.CancelledError:
            if deadline is None or not deadline.over:
                raise
            code = 408
            late = RefusedRequestError(f"The request did not arrive within {deadline.seconds:g} s.", 408)
            await refuse(send, late, endpoint.path, request_id=request_id)
        except Exception:
            logger.exception("A request to %s failed", served.model)
            code = 500
            await refuse(send, failed(), endpoint.path, request_id=request_id)
        finally:
            if deadline is not None:
                self.deadlines.forget(deadline)
            self.open_bytes -= size
            served.open_requests -= 1
        if call is not None:
            served.count(call, code)
        self.metrics.answered(served.model, version, arm, code, time.perf_counter() - arrived)

    async def _call(self, endpoint: Endpoint, headers: Headers, body: bytes, request_id: str, arrived: float) -> Call:
        """Read the rows and choose the version, once."""
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if b"inference-header-content-length" in headers:
            raise RefusedRequestError("The binary data extension is not spoken here: send JSON.")
        loop = asyncio.get_running_loop()
        if len(body) > BATCH_BYTES:  # so long that others would notice
            content = await loop.run_in_executor(self.pool, endpoint.parse, body, content_type)
        else:
            content = endpoint.parse(body, content_type)
        if isinstance(content, openinference.Tensors) and content.id and _NAME not in headers:
            request_id = content.id
        snapshot = endpoint.served.current
        version, arm = _chosen(endpoint, headers, snapshot, content, request_id)
        return Call(
            content,
            size=len(body),
            request_id=request_id,
            arm=arm,
            snapshot=snapshot,
            version=version,
            encode=endpoint.encode,
            arrived=arrived,
            answered=loop.create_future(),
        )

    async def body(self, headers: Headers, receive: Receive) -> bytes | None:
        """
        Read the whole body; None if the caller left.

        :raises RefusedRequestError: It is too large, or others hold too much.
        """
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and (len(announced) > 12 or int(announced) > LARGEST_BODY):
            raise _too_large()
        self._check_room()
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body: bytes = message.get("body", b"")
        return await self._whole(body, receive) if message.get("more_body", False) else body

    async def _whole(self, begun: bytes, receive: Receive) -> bytes | None:
        """Read on, counting what is held."""
        body = bytearray(begun)
        held = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > LARGEST_BODY:
                    raise _too_large()
                self.open_bytes += len(body) - held
                held = len(body)
                self._check_room()
                if not message.get("more_body", False):
                    return bytes(body)
        finally:
            self.open_bytes -= held

    def watch_lag(self) -> None:
        """Measure, from now on, how late the event loop is: so long do requests lie unread, and answers unsent."""
        loop = asyncio.get_running_loop()

        def look(due: float) -> None:
            self.lag = max(loop.time() - due, self.lag * 0.8)
            loop.call_later(_LOOK, look, loop.time() + _LOOK)

        loop.call_later(_LOOK, look, loop.time() + _LOOK)

    def _new_name(self) -> str:
        """Name a request that has none; unique, not secret."""
        return f"{self._names}{next(self._count):010x}"

    def _check_room(self) -> None:
        if self.open_bytes > MOST_BYTES:
            sentence = "The requests under way hold too much data; try again in 1 s."
            raise RefusedRequestError(sentence, 429, retry_after=1)


def _chosen(
    endpoint: Endpoint, headers: Headers, snapshot: Snapshot, content: Content, request_id: str
) -> tuple[LoadedVersion, Arm]:
    """
    Give the version that shall answer, and why.

    :raises RefusedRequestError: The one that is asked for is not loaded, or none has traffic.
    """
    pin = headers.get(_VERSION, b"").decode("latin-1")
    if endpoint.version:
        if pin and pin != endpoint.version:
            raise RefusedRequestError(f"The path and the header {Header.VERSION} ask for different versions.")
        pin = endpoint.version
    if pin:
        return snapshot.pinned(pin), Arm.PINNED
    if _ENTITY in headers:
        return snapshot.chosen(headers[_ENTITY].decode("latin-1")), Arm.SPLIT
    sticky = endpoint.served.policy.sticky
    if sticky and len(snapshot.split) > 1:
        cells = [content.first(name) for name in sticky]
        if any(cell is not None for cell in cells):
            return snapshot.chosen(msgspec.json.encode(cells).decode()), Arm.SPLIT
    return snapshot.chosen(request_id), Arm.SPLIT


def _name(headers: Headers) -> str:
    """
    What its caller names the request; empty if it has no name.

    :raises RefusedRequestError: The given name has other characters.
    """
    given = headers.get(_NAME)
    if not given:
        return ""
    if name := repeatable(headers):
        return name
    raise RefusedRequestError(f"{Header.REQUEST_ID} must be 1 to 128 letters, digits or any of . _ : - characters.")


def repeatable(headers: Headers) -> str:
    """The name that the caller gave the request, if it may be repeated; else empty."""
    name = headers.get(_NAME, b"").decode("latin-1")
    return name if _REQUEST_ID.fullmatch(name) else ""


def _seconds(headers: Headers, served: ServedModel) -> float:
    """
    How long the caller waits.

    :raises RefusedRequestError: The header is no number of milliseconds above 0.
    """
    given = headers.get(_DEADLINE)
    if given is None:
        return served.policy.deadline_seconds
    if not given.isdigit() or len(given) > 9 or int(given) == 0:
        raise RefusedRequestError(f"{Header.DEADLINE} must be a whole number of milliseconds above 0.")
    return min(int(given) / 1000, served.policy.longest_deadline_seconds)


def _too_large() -> RefusedRequestError:
    return RefusedRequestError(f"The body is larger than {LARGEST_BODY // 2**20} MB; send fewer rows.", 413)
