"""``mlops up``: start the local stack, wait until all of it answers, say where it is."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version

import httpx

from mlops_provider.cli import local_aws, settings_file
from mlops_provider.cli.home import ADMIN, LOOPBACK, PORTS, SETTINGS_FILE, Home, Secrets, Stack, configured_ports, url
from mlops_provider.cli.processes import Running, Service, members, recorded, start, tail
from mlops_provider.cli.stack import LOCAL_SETTINGS, airflow_environment, services, stop_stack
from mlops_provider.core import partitions
from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError

_PLACES = {"folder": "in a folder", "s3": "on S3, in memory"}
AIRFLOW_PARTS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}
TITLES = {
    "airflow": "Airflow",
    "mlflow": "MLflow",
    "server": "Model server",
    "evidently": "Evidently",
    "s3": "S3 (moto)",
}


def main(arguments: argparse.Namespace) -> int:
    """Start the stack, or say that it runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also then, stop what was started
    home = Home.here()
    fault = partitions.check(arguments.fault) if arguments.fault else ""
    if arguments.cluster and (fault or arguments.store != "folder"):
        raise ConfigurationError(
            "--fault and --store are for the demonstration: the cluster takes the data as it is, and keeps it on S3, "
            "as docs/operations.md says."
        )
    ports = configured_ports(store=arguments.store)
    if arguments.store == "s3":
        local_aws.require()
    home.make()
    following = ""
    with locked(home):
        if arguments.cluster:
            from mlops_provider.cli import cluster

            cluster.bring_up(home, timeout=arguments.timeout)
            following = "mlops replay --months 2: two months of the example through the chain"
        elif not already_up(home, fault=fault, store=arguments.store):
            discard_orphaned(home, store=arguments.store)
            bring_up(home, ports, fault=fault, timeout=arguments.timeout)
    print(addresses(home, following=following))
    return 0


def bring_up(home: Home, ports: Mapping[str, int], *, fault: str, timeout: float) -> None:
    """
    Start every part and wait until all of them answer; if one does not, stop them all.

    :param timeout: Longest wait, in seconds.
    :raises ConfigurationError: A port is taken; nothing was started.
    :raises SpecError: ``airflow_settings.yaml`` is wrong; nothing was started.
    :raises StoreUnavailableError: A part ended or did not answer in time; the message holds the end of its log.
    """
    began = time.monotonic()
    refuse_taken(ports)
    secrets = Secrets.of(home)
    airflow = airflow_environment(home, ports, secrets, fault=fault)
    if (home.project / SETTINGS_FILE).exists():
        settings_file.load(home.project / SETTINGS_FILE, airflow)  # a mistake in it is told before anything starts
    secrets.write_passwords(home)
    (home.airflow / "config" / "airflow_local_settings.py").write_text(LOCAL_SETTINGS, encoding="utf-8")
    parts = {service.name: service for service in services(home, ports, secrets, fault=fault)}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    running: dict[str, Running] = {}

    def launch(*names: str) -> None:
        for name in names:
            running[name], processes[name] = start(parts[name], home.run, home.project)

    discard_half_made(home)
    try:
        if "s3" in parts:
            home.in_memory.touch()
            launch("s3")
            wait_until_ready(ports, {"s3": parts["s3"]}, processes, began=began, timeout=timeout)
            local_aws.furnish(url(ports["s3"]))
        # These load their libraries while Airflow's database is made.
        launch("mlflow", "evidently", "server")
        say("preparing Airflow's database")
        prepare_database(home, airflow)
        launch("scheduler", "api-server", "dag-processor", "triggerer")
        wait_until_ready(ports, parts, processes, began=began, timeout=timeout)
        home.mlflow_stamp.touch()
    except BaseException:
        say("stopping what was started")
        stop_stack(list(running.values()), home, progress=say)
        raise
    Stack(ports=ports, fault=fault).write(home)
    say(f"everything is up after {time.monotonic() - began:.0f} s")


def already_up(home: Home, *, fault: str, store: str) -> bool:
    """
    Whether the stack runs; what is left of one that died is ended first.

    :raises ConfigurationError: Only some parts run, or it has another fault or store.
    """
    known = recorded(home.run)
    if not known:
        return False
    dead = [running.name for running in known if not running.alive()]
    stack = Stack.read(home)
    if stack and stack.settings:
        raise ConfigurationError(f"The cluster is up in {home.root}. Run `mlops down` first.")
    if not dead and stack and stack.fault != fault:
        raise ConfigurationError(
            f"The stack is up with {f'the fault in {stack.fault}' if stack.fault else 'no fault'}. "
            "Run `mlops down` first to start it otherwise."
        )
    if not dead and stack and stack.store != store:
        raise ConfigurationError(
            f"The stack is up with its tables {_PLACES[stack.store]}. Run `mlops down` first to start it otherwise."
        )
    if not dead and stack:
        say("the stack is already up")
        return True
    if len(dead) < len(known):
        raise ConfigurationError(
            f"A stack is up in {home.root}, but not all of it: {', '.join(dead) or 'it is still starting'}. "
            "Run `mlops down`, then `mlops up`."
        )
    left = sum(map(len, members(known).values()))
    stop_stack(known, home, progress=say)
    Stack.forget(home)
    if left:
        say(f"ended {left} processes that an earlier stack had left behind")
    return False


def discard_orphaned(home: Home, *, store: str) -> None:
    """
    Remove ledger and databases that speak of tables which were in the memory of an earlier stack: those are gone.

    :raises ConfigurationError: The home holds the data of a stack in a folder, and this one is to be on S3.
    """
    if home.in_memory.exists():
        say("the earlier stack had its tables in memory: starting afresh")
        for file in (home.ledger, home.airflow / "airflow.db", home.mlflow_database):
            for suffix in ("", "-wal", "-shm", "-journal"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
        for folder in ("spool", "evidently"):
            shutil.rmtree(home.root / folder, ignore_errors=True)
        for stamp in (home.airflow_stamp, home.mlflow_stamp, home.in_memory):
            stamp.unlink(missing_ok=True)
        home.make()
    elif store == "s3" and home.ledger.exists():
        raise ConfigurationError(
            f"{home.root} holds a ledger that speaks of tables in its folder. Give the stack on S3 a home of its own: "
            "MLOPS_HOME=.mlops-s3, here and in what you run beside it."
        )


def refuse_taken(ports: Mapping[str, int]) -> None:
    """
    Make sure that every port is free.

    :raises ConfigurationError: Names each taken port and the variable that changes it.
    """
    taken = []
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                taken.append(f"port {port} for {TITLES[name]} ({error.strerror}): set {PORTS[name][0]} to another one")
    if taken:
        raise ConfigurationError("Nothing was started. Not available: " + "; ".join(taken) + ".")


def discard_half_made(home: Home) -> None:
    """Remove a database whose first start was cut off: it holds nothing yet, and MLflow could not go on with it."""
    for database, stamp in (
        (home.airflow / "airflow.db", home.airflow_stamp),
        (home.mlflow_database, home.mlflow_stamp),
    ):
        if not stamp.exists():
            for suffix in ("", "-wal", "-shm", "-journal"):
                database.with_name(database.name + suffix).unlink(missing_ok=True)


def prepare_database(home: Home, environment: Mapping[str, str]) -> None:
    """
    Bring Airflow's database to this version, and the declared connections, pools and variables into it.

    :raises ConfigurationError: One of the two failed; the message holds the end of the log.
    """
    log = home.logs / "database.log"
    log.unlink(missing_ok=True)
    # Airflow needs seconds to find out that nothing has to be migrated.
    stamp, this = home.airflow_stamp, version("apache-airflow")
    stamped = stamp.exists() and (home.airflow / "airflow.db").exists() and stamp.read_text(encoding="utf-8") == this
    steps: list[tuple[str, ...]] = [] if stamped else [("airflow", "db", "migrate")]
    if (home.project / SETTINGS_FILE).exists():
        steps.append(("mlops_provider.cli.main", "settings", "apply", str(home.project / SETTINGS_FILE)))
    for step in steps:
        command = (sys.executable, "-m", *step)
        with log.open("ab") as stream:
            done = subprocess.run(
                command, env=dict(environment), cwd=home.project, stdout=stream, stderr=stream, check=False
            )
        if done.returncode:
            raise ConfigurationError(f"`{' '.join(step)}` failed. The end of {log}:\n{tail(log)}")
    stamp.write_text(this, encoding="utf-8")


def wait_until_ready(
    ports: Mapping[str, int],
    parts: Mapping[str, Service],
    processes: Mapping[str, subprocess.Popen[bytes]],
    *,
    began: float,
    timeout: float,
) -> None:
    """Wait until every part answers, with a line for each; raise if one ends before that, or time is up."""
    since = datetime.now(UTC)
    waiting = dict.fromkeys(parts)
    with httpx.Client(timeout=20, trust_env=False) as client:
        while waiting:
            for name in sorted(ready(client, ports, since) & waiting.keys()):
                del waiting[name]
                say(f"{name:<14} ready after {time.monotonic() - began:5.1f} s")
            for name, process in processes.items():
                if process.poll() is not None:
                    raise StoreUnavailableError(_ended(parts[name], process.returncode))
            if time.monotonic() - began > timeout:
                logs = ", ".join(str(parts[name].log) for name in waiting)
                raise StoreUnavailableError(f"Not ready after {timeout:.0f} s: {', '.join(waiting)}. See {logs}.")
            time.sleep(0.2)


def ready(client: httpx.Client, ports: Mapping[str, int], since: datetime) -> set[str]:
    """Names of the parts that answer; a heartbeat older than *since* is that of an earlier stack."""
    found = set()
    probes = {"mlflow": "/health", "server": "/health", "evidently": "/api/version", "s3": "/moto-api/"}
    for name, path in probes.items():
        if name in ports and _answer(client, url(ports[name]) + path):
            found.add(name)
    if health := _answer(client, url(ports["airflow"]) + "/api/v2/monitor/health"):
        # The first call to the execution API builds it, which takes seconds: better here than in the first task.
        if _answer(client, url(ports["airflow"]) + "/execution/health"):
            found.add("api-server")
        for name, key in AIRFLOW_PARTS.items():
            part = health.json().get(key) or {}
            beat = part.get(f"latest_{key}_heartbeat")
            if part.get("status") == "healthy" and beat and datetime.fromisoformat(beat) > since:
                found.add(name)
    return found


def addresses(home: Home, *, following: str = "") -> str:
    """
    Where everything is, and how to log in and stop.

    :param following: What to try next.
    """
    stack = Stack.read(home)
    assert stack is not None
    lines = [f"{TITLES[name]:<14} {url(port)}" for name, port in stack.ports.items()]
    lines[0] += f"   user {ADMIN}, password {Secrets.of(home).admin_password}"
    if stack.store == "s3":
        lines.append(f"{'':<14} tables, artifacts and logs are in its memory: they end with `mlops down`")
    lines += [f"{'Logs':<14} {home.logs}", *([f"{'Next':<14} {following}"] if following else [])]
    return "\n".join(["", *lines, f"{'Stop':<14} mlops down", ""])


def say(line: str) -> None:
    """Print a line of progress at once."""
    print(f"  {line}", flush=True)


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Let only one ``up`` or ``down`` at a time work on *home*."""
    with (home.run / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"Another `mlops up` or `mlops down` is working on {home.root}.") from None
        yield


def _answer(client: httpx.Client, address: str) -> httpx.Response | None:
    try:
        response = client.get(address)
    except httpx.TransportError:
        return None
    return response if response.is_success else None


def _ended(service: Service, code: int) -> str:
    return f"{service.name} ended with code {code}. The end of {service.log}:\n{tail(service.log)}"
