"""A model server of its own for a place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from support import children, tasks
from support.stack import free_port
from support.tiny import Place


@contextmanager
def served(place: Place) -> Iterator[str]:
    """Give the address of a model server that follows the place's ledger, and kill it afterwards."""
    port = int(free_port())
    process, address = children.start(tasks.serve_model, place, port=port), f"http://127.0.0.1:{port}"
    process.begin()
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{address}/ping", timeout=5)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, Path(place.folder, "children.log").read_text()[-3000:]
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.end()
