"""The description of the API is true: what is made up from it is answered as it says, over HTTP."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import checks

from mlops_provider.core.columns import Column
from mlops_provider.core.names import Header
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.serving.app import ModelServerApp
from mlops_provider.serving.columns import Arrays
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.snapshot import LoadedVersion, Snapshot
from mlops_provider.serving.tokens import Tokens
from mlops_provider.stores.predictions import SegmentWriter
from support.stack import free_port

MODEL = "flights"
COLUMNS = (
    Column("distance", "number"),
    Column("seats", "whole"),
    Column("carrier", "text"),
    Column("wet", "flag"),
    Column("scheduled", "time"),
)
SETTINGS = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
AUTHORIZED = {"Authorization": "Bearer a-token-of-some-length"}
# What rows a model can score, only the model knows: a schema can't say that it takes no missing cells, or which texts
# are times. Columns it does not know are ignored, so not everything that the schema has no word for is refused.
# Of statuses from 500 on, one is no failure of ours: see below.
UNSAID = [
    checks.CHECKS.get_one(name)
    for name in ("positive_data_acceptance", "negative_data_rejection", "not_a_server_error")
]


def picky(columns: Arrays) -> np.ndarray[Any, np.dtype[np.float64]]:
    if np.isnan(columns["distance"]).any():
        raise ValueError("distance is missing")
    return np.tanh(columns["distance"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    versions = {number: LoadedVersion(number, picky, COLUMNS) for number in ("1", "2")}
    follower: Any = SimpleNamespace(
        model=MODEL, trouble="", unreleased=False, replica="server-1", start=lambda: None, stop=lambda: None,
        snapshot=Snapshot(MODEL, 4, {"1": 50, "2": 50}, versions),
    )  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("openapi")
    served = ServedModel(follower, SegmentWriter(folder, "server"), ServingPolicy(keys=("flight",), binary=True))
    app = ModelServerApp([served], tokens=Tokens("web a-token-of-some-length"), metrics=served.metrics)
    port = int(free_port())
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_it_is_openapi_3_1(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json", headers=AUTHORIZED).json()

    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")
    row = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"][1]
    record = row["properties"]["dataframe_records"]["items"]
    assert list(record["properties"]) == record["required"] == [column.name for column in COLUMNS]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_whatever_is_sent_is_answered_as_described(url: str, mode: schemathesis.GenerationMode) -> None:
    described = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=AUTHORIZED)
    statuses: Counter[int] = Counter()
    for operation in (found.ok() for found in described.get_all_operations()):

        @given(case=operation.as_strategy(generation_mode=mode))
        @SETTINGS
        def asked(case: schemathesis.Case) -> None:
            response = case.call_and_validate(headers=AUTHORIZED, excluded_checks=UNSAID)
            statuses[response.status_code] += 1
            # Who waits for 3 ms is told that they are over.
            assert response.status_code < 500 or (response.status_code == 504 and Header.DEADLINE in case.headers)
            assert "Traceback" not in response.text

        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with a request that takes nothing
            asked()

    assert statuses[200] + statuses[400] > 30
