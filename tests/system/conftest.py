"""A running Airflow with MLflow and the model server, as `mlops up` starts it, shared by the system tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from mlops_provider.cli import local_aws
from mlops_provider.spec import load_spec
from mlops_provider.stores.suite import Stores
from support.aws import Aws
from support.stack import ROOT, RunningStack, free_port, month_of_flights, wait_until

STORE = os.environ.get("MLOPS_TEST_STORE", "folder")
"""Where the stack of these tests keeps its tables: `make test-s3` asks for "s3"."""


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The suite's own DAGs, and those of the tests, on a stack of their own."""
    project = tmp_path_factory.mktemp("project")
    (project / "dags").mkdir()
    for file in [*(ROOT / "dags").glob("*.py"), *(ROOT / "tests/system/dags").glob("*.py")]:
        (project / "dags" / file.name).symlink_to(file)
    for name in ("plugins", "include", "airflow_settings.yaml"):
        (project / name).symlink_to(ROOT / name)
    names = ("MLOPS_AIRFLOW_PORT", "MLOPS_MLFLOW_PORT", "MLOPS_SERVER_PORT", "MLOPS_EVIDENTLY_PORT", "MLOPS_MOTO_PORT")
    ports = {name: free_port() for name in names}
    home = project / ".mlops"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | ports
    environment["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"] = "25"  # tests of killed workers wait for it
    command = [sys.executable, "-m", "mlops_provider.cli.main"]
    try:
        up = subprocess.run(
            [*command, "up", "--store", STORE],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]
        airflow = f"http://127.0.0.1:{ports['MLOPS_AIRFLOW_PORT']}"
        password = json.loads((home / "secrets.json").read_text())["admin_password"]
        token = httpx.post(f"{airflow}/auth/token", json={"username": "admin", "password": password}, trust_env=False)
        api = httpx.Client(
            base_url=f"{airflow}/api/v2",
            headers={"Authorization": f"Bearer {token.raise_for_status().json()['access_token']}"},
            timeout=30,
            trust_env=False,
        )
        s3_url = f"http://127.0.0.1:{ports['MLOPS_MOTO_PORT']}" if STORE == "s3" else ""
        stores = Stores(
            tables_uri=f"s3://{local_aws.BUCKET}/tables" if s3_url else str(home / "data"),
            registry_uri=f"http://127.0.0.1:{ports['MLOPS_MLFLOW_PORT']}",
            ledger_url=f"sqlite:///{home / 'ledger.db'}",
            s3=Aws(s3_url).s3() if s3_url else None,
        )
        if s3_url:
            source = load_spec(ROOT / "include/flight_delays/model.yaml").sources.land
            assert source is not None
            landing = source.resolved(local_aws.settings(s3_url))
            for month in ("2013-01", "2013-02", "2013-03"):
                Aws(s3_url).s3().write(landing.address(month), month_of_flights(month))  # type: ignore[union-attr]
        with api:
            running = RunningStack(home, project, environment, api, stores, s3_url)
            expected = len(list((project / "dags").glob("*.py")))
            wait_until(lambda: api.get("/dags").json()["total_entries"] >= expected, "the DAGs to be parsed")
            yield running
    finally:
        subprocess.run([*command, "down"], cwd=project, env=environment, capture_output=True, text=True, check=True)
