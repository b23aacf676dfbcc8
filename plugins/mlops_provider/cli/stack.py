"""The parts of the local stack: which processes there are, with which command line and environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mlops_provider
from mlops_provider.cli import local_aws
from mlops_provider.cli.home import ADMIN, LOOPBACK, QUIET, TELEMETRY_OFF, Home, Secrets, url
from mlops_provider.cli.processes import Running, Service, stop
from mlops_provider.exceptions import ConfigurationError

FAULT = "MLOPS_DEMO_FAULT"
STOPPED_FIRST = ("scheduler", "dag-processor", "triggerer", "worker")
STOPPED_LAST = ("postgres", "redis", "s3")
LOCAL_SETTINGS = '''"""Written by `mlops up`: the scheduler loads the ML libraries once, before it forks its workers."""

__all__: list[str] = []

import mlops_provider.preload

mlops_provider.preload.warm()
'''


def services(home: Home, ports: Mapping[str, int], secrets: Secrets, *, fault: str = "") -> list[Service]:
    """
    Give the processes of the stack, those that need longest to start first.

    Everything listens on the loopback interface. ``--skip-serve-logs`` matters: Airflow's log servers
    would listen on all interfaces, and nothing here needs them.
    """
    airflow = airflow_environment(home, ports, secrets, fault=fault)
    # Outside Airflow, programs find S3 by variables.
    plain = base_environment() | (local_aws.variables(url(ports["s3"])) if "s3" in ports else {})
    artifacts = f"s3://{local_aws.BUCKET}/artifacts" if "s3" in ports else str(home.root / "mlflow" / "artifacts")
    mlflow = plain | {
        # One process instead of four: no job runners (they are for evaluations of language models).
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }

    def service(name: str, environment: Mapping[str, str], *command: str) -> Service:
        return Service(name, (sys.executable, "-m", *command), environment, home.logs / f"{name}.log")

    s3 = [service("s3", plain, "moto.server", "-H", LOOPBACK, "-p", str(ports["s3"]))] if "s3" in ports else []
    return [
        *s3,
        service("scheduler", airflow, "airflow", "scheduler", "--skip-serve-logs"),
        service(
            "api-server", airflow, "airflow", "api-server", "--host", LOOPBACK,
            "--port", str(ports["airflow"]), "--workers", "1",
        ),
        service("dag-processor", airflow, "airflow", "dag-processor"),
        service("triggerer", airflow, "airflow", "triggerer", "--skip-serve-logs"),
        service(
            "mlflow", mlflow, "mlflow", "server", "--host", LOOPBACK, "--port", str(ports["mlflow"]), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{home.mlflow_database}",
            "--artifacts-destination", artifacts,
        ),
        service(
            "server", plain | home.settings(ports), "mlops_provider.cli.main", "serve", "--host", LOOPBACK,
            "--port", str(ports["server"]),
        ),
        service(
            "evidently", plain, "evidently.cli", "ui", "--host", LOOPBACK, "--port", str(ports["evidently"]),
            "--workspace", str(home.root / "evidently"),
        ),
    ]  # fmt: skip


def base_environment(inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """
    What every process of the stack gets: the caller's environment, without telemetry, with bytecode.

    Thread pools are held to one thread: several processes that each use all cores are slower than
    one after the other. Training raises the limit for itself.
    """
    environment = dict(inherited)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode every import takes twice as long
    environment |= TELEMETRY_OFF
    environment = {**QUIET, **environment}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")
    environment.setdefault("PYTHONUNBUFFERED", "1")
    package_root = Path(mlops_provider.__file__).parents[1]
    if package_root.name != "site-packages":
        others = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(package_root), *others]))
    return environment


def airflow_environment(home: Home, ports: Mapping[str, int], secrets: Secrets, *, fault: str = "") -> dict[str, str]:
    """
    What Airflow's processes get, and so the tasks.

    What makes this stack itself (addresses, database, secrets) is fixed; the rest are defaults,
    which variables of the caller override. Users that the caller names come beside the admin.
    """
    environment = base_environment() | home.settings(ports)
    if not (home.project / "dags").is_dir():
        raise ConfigurationError(f"There is no dags/ in {home.project}: run this in the root of the project.")
    others = environment.get("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "")
    fixed = {
        "AIRFLOW_HOME": str(home.airflow),
        "AIRFLOW__API__BASE_URL": url(ports["airflow"]),
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(ports["airflow"]),
        "AIRFLOW__API__SECRET_KEY": secrets.api_secret_key,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.jwt_secret,
        "AIRFLOW__CORE__DAGS_FOLDER": str(home.project / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url(ports['airflow'])}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": secrets.fernet_key,
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home.project / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home.airflow / "passwords.json"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(filter(None, [f"{ADMIN}:admin", others])),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.airflow / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home.logs / "tasks"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home.logs / "dag_processor"),
        # For what people's own code in a task sends to MLflow; the provider names its server itself.
        "MLFLOW_TRACKING_URI": url(ports["mlflow"]),
        FAULT: fault,
    }
    if "s3" in ports:
        fixed |= local_aws.airflow(url(ports["s3"]))
    defaults = {
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    }
    return defaults | environment | fixed


def stop_stack(known: Sequence[Running], home: Home, *, progress: Callable[[str], None]) -> list[str]:
    """
    Stop processes of the stack: those that talk to the others first, as they wait for answers; databases last.

    :return: Names of the services that were still there in any part.
    """
    waves: tuple[list[Running], ...] = ([], [], [])
    for running in known:
        part = re.sub(r"-\d+$", "", running.name)
        waves[0 if part in STOPPED_FIRST else 2 if part in STOPPED_LAST else 1].append(running)
    return [name for wave in waves for name in stop(wave, home.run, progress=progress)]
