"""
A proxy that misbehaves, in a process of its own: deltalake keeps the interpreter to itself while it waits for S3.

``python bad_weather.py <port> <upstream>``; JSON put at ``/-weather`` changes what it does, a GET there tells what it
saw.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx

CONTROL = "/-weather"
CALM: dict[str, Any] = {"unavailable": 0, "every": 0, "seconds": 0.0, "refused_token": "", "deaf": False, "method": ""}
"""
unavailable: requests that are answered 503 from now on. every: each so-manieth is answered 503. seconds: pause before
each is passed on. refused_token: session token that is answered ExpiredToken. deaf: leave conditions out, as a store
does that never heard of them. method: what the first three are about; empty, all.
"""


class Handler(BaseHTTPRequestHandler):
    """Passes requests on, unless the weather is against it."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in two small packets is held back for 40 ms (Nagle's algorithm, delayed acknowledgement)
    upstream: httpx.Client
    weather: ClassVar[dict[str, Any]] = dict(CALM)
    seen: ClassVar[list[str]] = []
    turned_away = 0
    lock = threading.Lock()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == CONTROL:
            self.control(body)
            return
        token = self.headers.get("x-amz-security-token")
        if self.refused():
            self.error(503, "SlowDown", "Please reduce your request rate.")
        elif self.weather["refused_token"] and token == self.weather["refused_token"]:
            self.error(400, "ExpiredToken", "The provided token has expired.")
        else:
            self.pass_on(body)

    def control(self, body: bytes) -> None:
        if self.command == "PUT":
            self.weather.update(json.loads(body))
        self.reply(200, json.dumps({"seen": self.seen, "turned_away": Handler.turned_away}).encode(), {})

    def refused(self) -> bool:
        weather = self.weather
        if weather["method"] not in ("", self.command):
            return False
        time.sleep(weather["seconds"])
        with self.lock:
            self.seen.append(f"{self.command} {self.path}")
            refused = weather["unavailable"] > 0 or (weather["every"] and len(self.seen) % weather["every"] == 0)
            weather["unavailable"] -= weather["unavailable"] > 0
            Handler.turned_away += bool(refused)
        return bool(refused)

    def pass_on(self, body: bytes) -> None:
        dropped = {"connection", "transfer-encoding"}
        if self.weather["deaf"]:
            dropped |= {"if-none-match", "if-match"}
        headers = [(name, value) for name, value in self.headers.items() if name.lower() not in dropped]
        answered = self.upstream.request(self.command, self.path, headers=headers, content=body)
        own = ("connection", "transfer-encoding", "content-encoding", "date", "server")
        kept = {name: value for name, value in answered.headers.items() if name not in own}
        self.reply(answered.status_code, answered.content, kept)

    def error(self, status: int, code: str, message: str) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.reply(status, content, {"content-type": "application/xml"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        length = headers.pop("content-length", "0") if self.command == "HEAD" else str(len(content))
        headers.pop("content-length", None)
        self.send_response(status)
        for name, value in (headers | {"content-length": length}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


def main(port: int, upstream: str) -> None:
    Handler.upstream = httpx.Client(base_url=upstream, timeout=60, trust_env=False)
    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
