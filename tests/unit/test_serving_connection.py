from __future__ import annotations

import asyncio
from typing import Any, cast

from mlops_provider.serving.connection import JoinedWrites


class _Written(asyncio.Transport):
    """Keeps each write; the real one is a socket, of which one can't tell how often it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def _through(*steps: str) -> list[bytes]:
    under = _Written()
    joined = JoinedWrites(under, asyncio.get_running_loop())
    for step in steps:
        if step == "turn":
            await asyncio.sleep(0)
        elif step == "close":
            joined.close()
        elif step == "lost":
            under.closed = True
        else:
            joined.write(step.encode())
    await asyncio.sleep(0)
    return under.writes


def test_head_and_body_leave_in_one_write_and_what_stays_alone_leaves_at_the_next_turn() -> None:
    assert asyncio.run(_through("head", "body")) == [b"headbody"]
    assert asyncio.run(_through("head", "turn", "body")) == [b"head", b"body"]
    assert asyncio.run(_through("head", "body", "head", "body")) == [b"headbody", b"headbody"]


def test_nothing_written_is_lost_by_closing_and_nothing_is_written_to_a_caller_who_left() -> None:
    assert asyncio.run(_through("head", "close")) == [b"head"]
    assert asyncio.run(_through("head", "lost")) == []


def test_an_answer_arrives_whole_over_a_real_connection() -> None:
    async def asked() -> bytes:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            await asyncio.sleep(0.01)  # the head must not wait for the body
            await send({"type": "http.response.body", "body": b"body"})

        import uvicorn

        from mlops_provider.serving.connection import Connection

        config = uvicorn.Config(app, http=cast("type[asyncio.Protocol]", Connection), lifespan="off", log_config=None)
        config.load()
        server = uvicorn.Server(config)
        listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(config=config, server_state=server.server_state, app_state={}), "127.0.0.1"
        )
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        told = await reader.read()
        writer.close()
        listener.close()
        return told

    head, _, body = asyncio.run(asked()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"body"
