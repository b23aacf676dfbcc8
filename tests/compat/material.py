"""What the checks work on: small tables in files, in a database and on S3, and the servers they need, on 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd

ROWS = 4000
KEYS = {"aws_access_key_id": "compat", "aws_secret_access_key": "compat"}
AWS: dict[str, Any] = {
    "conn_type": "aws",
    "login": KEYS["aws_access_key_id"],
    "password": KEYS["aws_secret_access_key"],
    "extra": {"region_name": "us-east-1"},
}
EXPECTATIONS = """\
expectations:
  - type: expect_column_values_to_not_be_null
    kwargs: {column: carrier}
    severity: block
    meaning: every flight has a carrier
  - type: expect_column_values_to_be_between
    kwargs: {column: distance, min_value: 0, max_value: 100000}
    severity: block
    meaning: distances are possible
"""


def tables() -> dict[str, pd.DataFrame]:
    """Predictions of two models, the labels, and rows whose distances have moved."""
    random = np.random.default_rng(7)
    late = random.random(ROWS) < 0.3
    signal = late * 1.2 + random.normal(size=ROWS)
    flights = pd.DataFrame(
        {
            "flight": np.arange(ROWS),
            "late": late.astype("int64"),
            "distance": random.normal(500, 100, ROWS).clip(1),
            "carrier": random.choice(["AA", "B6", "UA"], ROWS),
        }
    )
    weak = 0.3 * signal + random.normal(size=ROWS)
    return {
        "labels": flights,
        "current": flights.assign(distance=flights["distance"] + 200),
        "candidate": pd.DataFrame({"flight": flights["flight"], "prediction": 1 / (1 + np.exp(-signal))}),
        "champion": pd.DataFrame({"flight": flights["flight"], "prediction": 1 / (1 + np.exp(-weak))}),
    }


def write(folder: Path) -> None:
    """Write the tables as Parquet and into a SQLite file, and the expectations beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(folder / "warehouse.db")
    for name, frame in tables().items():
        frame.to_parquet(folder / f"{name}.parquet")
        frame.to_sql(name, database, index=False, if_exists="replace")
    database.close()
    (folder / "expectations.yaml").write_text(EXPECTATIONS)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: list[str], port: int, path: str, log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a server until the block ends; give its address once it answers."""
    address = f"http://127.0.0.1:{port}"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=dict(environment), cwd=log.parent, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while not _answers(address + path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start; its log: {log}\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def s3(folder: Path, *buckets: str) -> Iterator[str]:
    """Run an S3 server with these buckets; the first holds the Parquet files of ``folder/data``. Gives its address."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with server(command, port, "/moto-api/", folder / "s3.log", os.environ) as address:
        client = boto3.client("s3", endpoint_url=address, region_name=AWS["extra"]["region_name"], **KEYS)
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        for file in sorted((folder / "data").glob("*.parquet")):
            client.upload_file(str(file), buckets[0], file.name)
        yield address


def aws_connection(address: str) -> str:
    """An Airflow connection to that server, as ``AIRFLOW_CONN_…`` takes it."""
    return json.dumps({**AWS, "extra": {**AWS["extra"], "endpoint_url": address}})


def mlflow_run(address: str) -> str:
    """Make a run by REST, as another tool would have; give the address of the model in it."""

    def ask(route: str, body: Mapping[str, object]) -> dict[str, dict[str, dict[str, str]]]:
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/{route}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, dict[str, dict[str, str]]] = json.loads(answer.read())
        return found

    run = ask("runs/create", {"experiment_id": "0", "start_time": int(time.time() * 1000)})["run"]["info"]
    return f"runs:/{run['run_id']}/model"
