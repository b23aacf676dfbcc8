"""The services of ``docker-compose.yaml`` as processes of this machine: their own commands, hosts and paths mapped."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from mlops_provider.cli import cluster_folder, compose_file
from mlops_provider.cli.compose_file import ComposeService
from mlops_provider.cli.home import LOOPBACK, Home, Secrets
from mlops_provider.cli.processes import Service
from mlops_provider.cli.stack import base_environment
from mlops_provider.exceptions import ConfigurationError

FOREIGN = {
    "postgres": ("postgres", "postgresql"),
    "redis": ("redis-server", "redis-server"),
    "nginx": ("nginx", "nginx-light"),
}
"""Program and Debian package that stand for an image that is not ours."""
MOTO = "motoserver/moto"
"""Image for which the Python package stands: S3 in memory."""
_NGINX_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_PASSED_ON = ("LANG", "LC_ALL", "TMPDIR", "TZ")


@dataclass(frozen=True, slots=True)
class Instance:
    """
    One container's worth of a service, on this machine.

    :param process: What is started.
    :param folder: Stands for the container's file system, but for its volumes.
    :param cwd: Where the process works.
    :param health: Command line that succeeds while the service works; empty if there is none.
    """

    service: ComposeService
    process: Service
    folder: Path
    cwd: Path
    health: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the service, with a number if there are several of it."""
        return self.process.name

    @property
    def runs_once(self) -> bool:
        """Whether it ends by itself, when its work is done."""
        return not self.health


class Cluster:
    """
    The services of the project's ``docker-compose.yaml`` on this machine.

    A service that publishes a port listens on that one, every other on a free one; hosts become 127.0.0.1, volumes and
    containers folders of the home.

    :param ports: Port of this machine by service and port of the container, as an earlier start chose them.
    :param environment: Where the file's variables are taken from, but for secrets. If it does not say
        ``COMPOSE_PROFILES``, what ``.env.example`` says of S3 holds: the one in memory.
    :raises ConfigurationError: The project has no such file, or a variable of it is not set.
    """

    def __init__(
        self, home: Home, *, ports: Mapping[str, int] | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.home = home
        self.environment: Mapping[str, str] = environment
        file = home.project / "docker-compose.yaml"
        if not file.exists():
            raise ConfigurationError(f"There is no {file.name} in {home.project}: run this in the root of the project.")
        self.image = compose_file.image(home.project / "Dockerfile")
        example = compose_file.variables(home.project / ".env.example")
        filled_in = made_up(Secrets.of(home), example)
        if "COMPOSE_PROFILES" not in environment:
            # Whole: keys and addresses of somebody's shell do not belong to the example's bucket.
            others = {name: value for name, value in environment.items() if "AWS_" not in name}
            self.environment = others | {name: value for name, value in example.items() if value}
        self.services = compose_file.read(file, {**self.environment, **filled_in})
        self.ports = dict(ports or self._chosen_ports())

    @property
    def folder(self) -> Path:
        """Where volumes and containers have their files."""
        return cluster_folder.folder(self.home)

    @property
    def user(self) -> str | None:
        """Who beside the caller runs a part of it; None if nobody does."""
        return next((each.process.user for each in self.instances.values() if each.process.user), None)

    @property
    def published(self) -> dict[str, int]:
        """Port of this machine by name of the service that publishes it."""
        return {name: port for name, found in self.services.items() for port in found.published.values()}

    @cached_property
    def instances(self) -> dict[str, Instance]:
        """Every process, by name, in the order of the file."""
        found = (
            self._instance(each, each.name if each.replicas == 1 else f"{each.name}-{number}")
            for each in self.services.values()
            for number in range(1, each.replicas + 1)
        )
        return {instance.name: instance for instance in found}

    def settings(self) -> dict[str, str]:
        """
        Where commands of this machine find the cluster's stores.

        The ``MLOPS_*`` variables of a worker, and the ``AWS_*`` variables of MLflow: a worker has a connection instead.
        """
        environments = {each.service.name: each.process.environment for each in self.instances.values()}
        return {
            name: value
            for service, prefix in (("worker", "MLOPS_"), ("mlflow", "AWS_"))
            for name, value in environments[service].items()
            if name.startswith(prefix) and value
        }

    def missing_packages(self) -> list[str]:
        """Debian packages without whose programs it can't run."""
        wanted = {FOREIGN[image] for image in map(_foreign, self.services.values()) if image in FOREIGN}
        return sorted(package for program, package in wanted if not shutil.which(program, path=search_path()))

    @property
    def in_memory(self) -> Instance | None:
        """The process that plays S3 in its memory; None if buckets are somewhere else."""
        return next((each for each in self.instances.values() if _foreign(each.service) == MOTO), None)

    def volume(self, name: str) -> Path:
        """Folder of a volume."""
        return self.folder / "volumes" / name

    def _chosen_ports(self) -> dict[str, int]:
        names = "|".join(map(re.escape, self.services))
        everything = repr([replace(service, image="") for service in self.services.values()])
        used = {f"{name}:{port}" for name, port in re.findall(rf"(?<![\w.-])({names}):(\d+)(?![\w@])", everything)}
        published = {
            f"{each.name}:{port}": here for each in self.services.values() for port, here in each.published.items()
        }
        inner = sorted(used - set(published))
        return published | dict(zip(inner, free_ports(len(inner)), strict=True))

    def _instance(self, service: ComposeService, name: str) -> Instance:
        folder = self.folder / name
        environment = {
            "HOME": str(folder),
            "HOSTNAME": name,
            "PATH": search_path(),
            **{key: os.environ[key] for key in _PASSED_ON if key in os.environ},
        }
        if service.built:
            package = base_environment({}).get("PYTHONPATH")
            environment |= {"PYTHONPATH": package} if package else {}
            environment |= self.image.environment
        environment |= service.environment
        environment = {key: self._mapped(value, service, folder) for key, value in environment.items()}
        command = tuple(self._own(word, service, folder) for word in service.command) or self._command(service, folder)
        # A service that listens on its own name: `--host model-server-1`.
        command = tuple(LOOPBACK if pair == ("--host", service.name) else pair[1] for pair in pairwise(("", *command)))
        image = _foreign(service)
        user = "postgres" if image == "postgres" and os.getuid() == 0 else None
        program = shutil.which(FOREIGN[image][0], path=search_path()) if image in FOREIGN else None
        process = Service(
            name, command, environment, self.home.logs / f"{name}.log", user=user, executable=program or sys.executable
        )
        cwd = folder / self.image.folder.strip("/") if service.built else folder
        return Instance(service, process, folder, cwd, self._health(service, folder))

    def _health(self, service: ComposeService, folder: Path) -> tuple[str, ...]:
        if service.health is None:
            return ()
        kind, *words = (self._own(word, service, folder) for word in service.health.test)
        return ("/bin/sh", "-c", *words) if kind == "CMD-SHELL" else tuple(words)

    def _command(self, service: ComposeService, folder: Path) -> tuple[str, ...]:
        """What an image runs when the file says nothing."""
        match _foreign(service):
            case "postgres":
                (data,) = service.mounts.values()
                port = next(port for key, port in self.ports.items() if key.startswith(f"{service.name}:"))
                return (
                    "postgres", "-D", str(self.volume(data)), "-p", str(port), "-c", f"listen_addresses={LOOPBACK}",
                    "-c", "unix_socket_directories=",
                )  # fmt: skip
            case "nginx":
                return ("nginx", "-e", "stderr", "-c", str(folder / "nginx.conf"))
            case name if name == MOTO:
                return (sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.published[service.name]))
        raise ConfigurationError(f"Service {service.name} has no command.")

    def files(self, instance: Instance) -> dict[Path, str]:
        """Content of every file that a container starts with."""
        service, folder = instance.service, instance.folder
        found = {
            Path(self._paths(path, service, folder)): self._own(content, service, folder)
            for path, content in service.files.items()
        }
        if _foreign(service) == "nginx":
            user = "user root;\n" if os.getuid() == 0 else ""
            temporary = "\n".join(f"  {name}_temp_path {folder / name};" for name in _NGINX_TEMPORARY)
            found[folder / "nginx.conf"] = (
                f"{user}daemon off;\npid {folder / 'nginx.pid'};\nevents {{}}\nhttp {{\n  access_log off;\n"
                f"{temporary}\n  include {folder}/etc/nginx/conf.d/*.conf;\n}}\n"
            )
        return found

    def _own(self, text: str, service: ComposeService, folder: Path) -> str:
        """Map a text of the service itself, where its own ports and interfaces stand without its name."""
        own = {key.partition(":")[2]: port for key, port in self.ports.items() if key.startswith(f"{service.name}:")}
        text = self._mapped(text, service, folder).replace("0.0.0.0", LOOPBACK)  # noqa: S104 - replaced, not bound
        if not own:
            return text
        return re.sub(rf"(?<![\w./-])({'|'.join(own)})(?![\w.-])", lambda match: str(own[match[1]]), text)

    def _mapped(self, text: str, service: ComposeService, folder: Path) -> str:
        """Map the paths and the ``host:port`` pairs in a text."""
        pairs = "|".join(map(re.escape, self.ports))
        return re.sub(
            rf"(?<![\w.-])({pairs})(?![\w@])",
            lambda match: f"{LOOPBACK}:{self.ports[match[1]]}",
            self._paths(text, service, folder),
        )

    def _paths(self, text: str, service: ComposeService, folder: Path) -> str:
        known = {path for each in self.services.values() for path in (*each.mounts, *each.files)} | {self.image.folder}
        longest_first = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
        return re.sub(
            rf"(?<![\w.-])({longest_first})(?![\w.-])",
            lambda match: str(
                self.volume(service.mounts[match[1]]) if match[1] in service.mounts else folder / match[1].strip("/")
            ),
            text,
        )


def made_up(secrets: Secrets, example: Mapping[str, str]) -> dict[str, str]:
    """A value for everything that ``.env.example`` leaves empty, the same each time."""
    known = {
        "AIRFLOW_FERNET_KEY": secrets.fernet_key,
        "AIRFLOW_JWT_SECRET": secrets.jwt_secret,
        "AIRFLOW_API_SECRET_KEY": secrets.api_secret_key,
        "MLOPS_ADMIN_PASSWORD": secrets.admin_password,
    }
    return {name: known.get(name) or _derived(secrets.jwt_secret, name) for name, value in example.items() if not value}


def search_path() -> str:
    """Where programs are looked for: this environment's first, then the system's, then Debian's Postgres."""
    system = os.environ.get("PATH", os.defpath).split(os.pathsep)
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return os.pathsep.join([str(Path(sys.executable).parent), *system, "/usr/sbin", *map(str, postgres)])


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on."""
    with ExitStack() as held:  # one that is let go of at once may be given again
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _foreign(service: ComposeService) -> str:
    """Name of the image, if it is not the one that is built here."""
    return "" if service.built else service.image.partition(":")[0]


def _derived(secret: str, name: str) -> str:
    return hmac.new(secret.encode(), name.encode(), hashlib.sha256).hexdigest()
