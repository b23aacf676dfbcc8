"""Amazon's services for tests: moto on the loopback interface, and a proxy before it that misbehaves."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx

from mlops_provider.stores.s3 import S3
from support import bad_weather
from support.stack import free_port, wait_until

REGION = "us-east-1"
KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing-secret"}
"""moto takes any keys."""


@dataclass(frozen=True)
class Aws:
    """An implementation of Amazon's services at one address."""

    url: str

    def client(self, service: str) -> Any:
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **KEYS)

    def bucket(self) -> str:
        """Make a bucket that nobody else has; give its name."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        self.client("s3").create_bucket(Bucket=name)
        return name

    def s3(self, url: str | None = None, **keys: str) -> S3:
        """Access with given keys, at another address if *url* is given."""
        session = boto3.session.Session(region_name=REGION, **(KEYS | keys))
        return S3(session, endpoint_url=url or self.url, source="connection 'aws_test'")

    def environment(self, url: str | None = None) -> dict[str, str]:
        """The variables by which programs outside Airflow find it."""
        return {
            "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": url or self.url,
        }

    def connection(self, url: str | None = None, **extra: Any) -> dict[str, Any]:
        """An Airflow connection of type ``aws``, as ``AIRFLOW_CONN_…`` takes it in JSON."""
        return {
            "conn_type": "aws",
            "login": KEYS["aws_access_key_id"],
            "password": KEYS["aws_secret_access_key"],
            "extra": {"region_name": REGION, "endpoint_url": url or self.url, **extra},
        }


@contextmanager
def moto(folder: Path) -> Iterator[Aws]:
    """Run moto in a process of its own."""
    port = free_port()
    with Path(folder, "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", port], stdout=log, stderr=log
        )
    try:
        found = Aws(f"http://127.0.0.1:{port}")
        wait_until(lambda: _answers(f"{found.url}/moto-api/"), "moto to answer", 60)
        yield found
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


class Weather:
    """What a proxy does to the requests that pass it; see :mod:`support.bad_weather`."""

    def __init__(self, url: str) -> None:
        self._control = f"{url}{bad_weather.CONTROL}"

    def set(self, **changes: Any) -> None:
        httpx.put(self._control, json=changes, timeout=30, trust_env=False).raise_for_status()

    @property
    def seen(self) -> list[str]:
        """Requests so far: method and path."""
        return list(self._told()["seen"])

    @property
    def turned_away(self) -> int:
        """Requests that were answered 503."""
        return int(self._told()["turned_away"])

    def _told(self) -> dict[str, Any]:
        return dict(httpx.get(self._control, timeout=30, trust_env=False).raise_for_status().json())


@contextmanager
def proxy(aws: Aws) -> Iterator[tuple[str, Weather]]:
    """A proxy before *aws*; give its address and its weather."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-W", "ignore", bad_weather.__file__, port, aws.url])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(f"{url}{bad_weather.CONTROL}"), "the proxy to answer", 60)
        yield url, Weather(url)
    finally:
        process.kill()
        process.wait()
