"""``mlops up --cluster``: the services of ``docker-compose.yaml``, started on this machine without Docker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from mlops_provider.cli import cluster_folder, local_aws, settings_file
from mlops_provider.cli.home import SETTINGS_FILE, Home, Stack, write_private
from mlops_provider.cli.native import FOREIGN, Cluster, Instance
from mlops_provider.cli.processes import identity, members, recorded, start, stop, tail
from mlops_provider.cli.stack import stop_stack
from mlops_provider.cli.up import refuse_taken, say
from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError

CHECKS_AT_ONCE = 3
POLL_SECONDS = 0.2
PUBLISHED = {
    "airflow": "api-server",
    "mlflow": "mlflow",
    "server": "model-proxy",
    "evidently": "evidently",
    "s3": "s3",
}
"""Service behind each port of the stack; the last is there only while S3 is the one in memory."""


def bring_up(home: Home, *, timeout: float) -> None:
    """
    Start every service that does not run, in the order that they need each other, and wait until all are healthy.

    What runs already is left alone, so the same command starts again what has died.

    :param timeout: Longest wait, in seconds.
    :raises ConfigurationError: A program is not installed, a port is taken, the project has no Compose file, or the
        local stack is up; nothing was started.
    :raises StoreUnavailableError: A service ended or did not get healthy in time; the message holds the end of its log.
    """
    began = time.monotonic()
    stack = Stack.read(home)
    if stack and not stack.settings:
        raise ConfigurationError(f"The local stack is up in {home.root}. Run `mlops down` first.")
    alive = end_halves(home)
    cluster = started_before(home) if alive else Cluster(home)
    refuse(cluster, alive)
    if not alive:
        cluster_folder.place(home, cluster.user)
        cluster = Cluster(home, ports=cluster.ports)  # all of its paths begin with that folder
        discard_orphaned(cluster)
    prepare(cluster)
    remember(cluster)
    # What ends by itself has done its work when anything else of this cluster still runs.
    missing = {
        name: instance
        for name, instance in cluster.instances.items()
        if name not in alive and not (instance.runs_once and alive)
    }
    say(f"starting {len(missing)} processes, which takes a minute or two" if missing else "the cluster is already up")
    try:
        with closing(_Start(cluster, missing, began)) as starting:
            starting.run(timeout)
    except BaseException:
        say("stopping what was started")
        stop_stack([each for each in recorded(home.run) if each.name in missing], home, progress=say)
        raise
    Stack(ports=ports(cluster), settings=cluster.settings()).write(home)
    say(f"everything is up after {time.monotonic() - began:.0f} s")


def end_halves(home: Home) -> set[str]:
    """End what is left of services whose first process is gone; give the names of those that run."""
    known = recorded(home.run)
    dead = [running for running in known if not running.alive()]
    if left := [running for running in dead if members([running])[running.name]]:
        say(f"ending what {', '.join(running.name for running in left)} left behind")
    stop(dead, home.run, progress=say)
    return {running.name for running in known} - {running.name for running in dead}


def refuse(cluster: Cluster, alive: set[str]) -> None:
    """
    Make sure that everything can be started.

    :raises ConfigurationError: Names each missing package and each taken port, and what to do.
    """
    if packages := cluster.missing_packages():
        programs = ", ".join(program for program, package in FOREIGN.values() if package in packages)
        raise ConfigurationError(
            f"Nothing was started. Not installed: {programs}. On Debian or Ubuntu: apt install {' '.join(packages)}"
        )
    if memory := cluster.in_memory:
        local_aws.require()
        if alive and memory.name not in alive:
            raise ConfigurationError(
                "The S3 of this cluster has ended, and the tables and models that were in its memory with it. Run "
                "`mlops down`, then `mlops up --cluster`: it starts afresh."
            )
    refuse_taken({name: port for name, port in ports(cluster).items() if PUBLISHED[name] not in alive})
    if (settings := cluster.home.project / SETTINGS_FILE).exists():
        settings_file.load(settings, os.environ | cluster.settings())


def discard_orphaned(cluster: Cluster) -> None:
    """
    Remove the volumes of an earlier cluster whose tables were in the memory of its S3: they speak of what is gone.

    :raises ConfigurationError: The volumes speak of tables in a bucket, and these are to be in memory.
    """
    home, database = cluster.home, cluster.volume("postgres") / "PG_VERSION"
    mark = cluster_folder.in_memory(home)
    cluster_folder.sweep(home)
    if mark.exists():
        say("the earlier cluster had its tables in memory: starting afresh")
        cluster_folder.empty(home)
    elif cluster.in_memory and database.exists():
        raise ConfigurationError(
            f"{cluster.folder} holds databases that speak of tables in a bucket. Name that bucket as before, or give "
            "the cluster with S3 in memory a home of its own: MLOPS_HOME=.mlops-s3, here and in what you run beside it."
        )
    if cluster.in_memory:
        cluster.folder.mkdir(exist_ok=True)
        mark.touch()


def ports(cluster: Cluster) -> dict[str, int]:
    """Port of this machine by the name it has in a stack."""
    return {name: port for name, service in PUBLISHED.items() if (port := cluster.published.get(service))}


def prepare(cluster: Cluster) -> None:
    """Make the folders that stand for the image, the volumes and the containers, and the files in them."""
    home, image = cluster.home, cluster.folder / "image"
    inside = image / cluster.image.folder.strip("/")
    (inside / "config").mkdir(parents=True, exist_ok=True)
    for target, source in cluster.image.copied.items():
        _link(inside / target, home.project / source)
    first = next(each for each in cluster.instances.values() if each.service.built)
    for line in cluster.image.run:
        subprocess.run(["/bin/sh", "-euc", line], cwd=inside, env=dict(first.process.environment), check=True)
    for instance in cluster.instances.values():
        instance.cwd.mkdir(parents=True, exist_ok=True)
        if instance.service.built:
            for content in inside.iterdir():
                _link(instance.cwd / content.name, content)
        for path, volume in instance.service.mounts.items():
            cluster.volume(volume).mkdir(parents=True, exist_ok=True)
            _link(instance.folder / path.strip("/"), cluster.volume(volume))
        for file, text in cluster.files(instance).items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            file.chmod(0o644)
    _let_others_through(cluster)


def _let_others_through(cluster: Cluster) -> None:
    """Give parts that run as another user the way to their data, now that everything beside is there to be closed."""
    if cluster.user:
        cluster_folder.let_through(cluster.home)
    for instance in cluster.instances.values():
        if user := instance.process.user:
            instance.folder.chmod(0o755)
            for volume in map(cluster.volume, instance.service.mounts.values()):
                shutil.chown(volume, user)


def remember(cluster: Cluster) -> None:
    """Keep ports and settings, so that what has died is started again as it was, whatever the shell says by then."""
    prefixes = ("MLOPS_", "AIRFLOW_CONN_", "COMPOSE_PROFILES")
    settings = {name: value for name, value in cluster.environment.items() if name.startswith(prefixes)}
    write_private(_started(cluster.home), json.dumps({"ports": cluster.ports, "environment": settings}, indent=2))


def started_before(home: Home) -> Cluster:
    """The cluster of *home*, as it was started."""
    content = json.loads(_started(home).read_text(encoding="utf-8"))
    return Cluster(home, ports=content["ports"], environment=content["environment"])


class _Start:
    """
    One start of the services that are *missing*.

    :param began: When the command began, for the lines of progress.
    """

    def __init__(self, cluster: Cluster, missing: Mapping[str, Instance], began: float) -> None:
        self.cluster = cluster
        self.waiting = dict(missing)
        self.missing = missing
        self.began = began
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ready: set[str] = set()
        self.checks: dict[str, Future[float]] = {}
        self.due: dict[str, float] = {}
        self.pool = ThreadPoolExecutor(CHECKS_AT_ONCE, "health")

    def run(self, timeout: float) -> None:
        while self.ready < set(self.missing):
            self._launch()
            self._look()
            if time.monotonic() - self.began > timeout:
                left = [name for name in self.missing if name not in self.ready]
                logs = ", ".join(str(self.missing[name].process.log) for name in left if name in self.processes)
                raise StoreUnavailableError(f"Not healthy after {timeout:.0f} s: {', '.join(left)}. See {logs}.")
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _launch(self) -> None:
        """Start everything whose needs are met."""
        home = self.cluster.home
        for name, instance in list(self.waiting.items()):
            if not all(self._met(service, condition) for service, condition in instance.service.needs.items()):
                continue
            if instance.service.image.startswith("postgres"):
                make_database(self.cluster, instance)
            _running, self.processes[name] = start(instance.process, home.run, instance.cwd)
            self.due[name] = 0.0
            del self.waiting[name]

    def _met(self, service: str, condition: str) -> bool:
        names = {each.name for each in self.cluster.instances.values() if each.service.name == service}
        started = names.isdisjoint(self.waiting)
        return started if condition == "service_started" else started and not (names & self.missing.keys()) - self.ready

    def _look(self) -> None:
        """See what has ended and what is healthy by now."""
        for name, process in self.processes.items():
            instance = self.missing[name]
            code = process.poll()
            if code == 0 and instance.runs_once:
                self._say_ready(name, "done")
                (self.cluster.home.run / f"{name}.pid").unlink(missing_ok=True)
            elif code is not None:
                log = instance.process.log
                raise StoreUnavailableError(f"{name} ended with code {code}. The end of {log}:\n{tail(log)}")
            elif name not in self.ready and instance.health:
                self._check(name, instance)

    def _check(self, name: str, instance: Instance) -> None:
        check = self.checks.get(name)
        if check is None:
            if time.monotonic() >= self.due[name]:
                self.checks[name] = self.pool.submit(healthy, instance)
        elif check.done():
            del self.checks[name]
            if took := check.result():
                # A check that starts Python is dear, and the services need the cores.
                self.due[name] = time.monotonic() + max(0.5, took)
            else:
                self._say_ready(name, "healthy")

    def _say_ready(self, name: str, word: str) -> None:
        if name not in self.ready:
            self.ready.add(name)
            say(f"{name:<15} {word:<7} after {time.monotonic() - self.began:5.1f} s")


def healthy(instance: Instance) -> float:
    """Ask a service whether it works: 0 if it does, else the seconds that asking took."""
    began = time.monotonic()
    health = instance.service.health
    assert health is not None
    try:
        done = subprocess.run(
            instance.health,
            env=dict(instance.process.environment),
            cwd=instance.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=health.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return health.timeout
    return 0.0 if done.returncode == 0 else time.monotonic() - began


def make_database(cluster: Cluster, instance: Instance) -> None:
    """
    Do what the image of Postgres does with an empty volume: make a cluster of databases, then run the start scripts.

    :raises ConfigurationError: A step failed; the message holds the end of the log.
    """
    (volume,) = instance.service.mounts.values()
    data, user = cluster.volume(volume), instance.process.user
    if (data / "PG_VERSION").exists():
        return
    say("making the databases")
    environment = dict(instance.process.environment)
    # Beside the volume until it is whole, which then is a matter of a name.
    fresh = data.with_name(f"{data.name}.fresh")
    if fresh.exists():  # what is left of a start that was interrupted
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    # Short, as the path of a socket may be: the scripts speak with the server while it listens there only.
    place = "/tmp" if user else None  # noqa: S108 - the folder in it is made afresh; a TMPDIR of root's may be closed
    with tempfile.TemporaryDirectory(prefix="pg", dir=place) as short, instance.process.log.open("ab") as log:
        password = Path(short, "password")
        password.write_text(environment["POSTGRES_PASSWORD"], encoding="utf-8")
        for path in (fresh, Path(short), password):
            if user:
                shutil.chown(path, user)
        server = ["pg_ctl", "--pgdata", str(fresh), "--wait", "--silent"]
        scripts = [path for path in cluster.files(instance) if path.parent.name == "docker-entrypoint-initdb.d"]
        steps = [
            ["initdb", "--pgdata", str(fresh), "--username", "postgres", "--pwfile", str(password),
             "--encoding", "UTF8", "--auth-local", "trust", "--auth-host", "scram-sha-256"],
            [*server, "--options", f"-c listen_addresses= -c unix_socket_directories={short}", "start"],
            *(["/bin/sh", str(path)] for path in sorted(scripts)),
            [*server, "--mode", "fast", "stop"],
        ]  # fmt: skip

        def run(step: list[str]) -> int:
            inside = environment | {"PGHOST": short}
            done = subprocess.run(step, env=inside, cwd=short, stdout=log, stderr=log, check=False, **identity(user))
            return done.returncode

        try:
            for step in steps:
                if run(step):
                    end = tail(instance.process.log)
                    raise ConfigurationError(f"`{step[0]}` failed. The end of {instance.process.log}:\n{end}")
        except BaseException:
            run([*server, "--mode", "immediate", "stop"])
            raise
        data.rmdir()
        fresh.rename(data)


def environment_of(home: Home, service: str) -> dict[str, str]:
    """What a service of the running cluster has in its environment."""
    return dict(started_before(home).instances[service].process.environment)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _started(home: Home) -> Path:
    return home.run / "cluster.json"
