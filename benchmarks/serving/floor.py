"""
The floor: an ASGI callable that parses, encodes, runs the ONNX model and answers, and does nothing else.

No log, no routing between versions, no authentication, no checks. `python floor.py FOLDER PORT [starlette]`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from scored import onnx

scorer = onnx(Path(sys.argv[1]))
encoding = list(zip(scorer.columns, scorer.codes, strict=True))


def predicted(body: bytes) -> bytes:
    """One prediction per row."""
    matrix = [
        [record[name] if codes is None else codes.get(record[name], -1.0) for name, codes in encoding]
        for record in json.loads(body)["dataframe_records"]
    ]
    values = scorer.predicted(np.array(matrix, dtype=np.float64))
    return json.dumps({"predictions": values.tolist()}).encode()


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = predicted(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def with_starlette() -> Any:
    """The same on Starlette."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        return Response(predicted(await request.body()), media_type="application/json")

    return Starlette(routes=[Route("/invocations", answer, methods=["POST"])])


if __name__ == "__main__":
    app = with_starlette() if "starlette" in sys.argv else bare
    uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning", lifespan="off", server_header=False)
