"""Where the local stack lives: its folder, its ports, its secrets, and the settings that follow from them."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from mlops_provider.cli import local_aws
from mlops_provider.core.names import Environment
from mlops_provider.exceptions import ConfigurationError

LOOPBACK = "127.0.0.1"
PORTS: Mapping[str, tuple[str, int]] = {
    "airflow": ("MLOPS_AIRFLOW_PORT", 8080),
    "mlflow": ("MLOPS_MLFLOW_PORT", 5000),
    "server": ("MLOPS_SERVER_PORT", 8090),
    "evidently": ("MLOPS_EVIDENTLY_PORT", 8000),
    "s3": ("MLOPS_MOTO_PORT", 9000),
}
STORES = ("folder", "s3")
"""Where the local stack may keep tables, reports and artifacts; the port "s3" is that of the second only."""
ADMIN = "admin"
SETTINGS_FILE = "airflow_settings.yaml"
TELEMETRY_OFF: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "SCARF_ANALYTICS": "false",
}
QUIET: Mapping[str, str] = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, slots=True)
class Home:
    """
    The folder of the local stack.

    :param root: ``.mlops``, or what ``MLOPS_HOME`` says.
    :param project: Folder that holds ``dags/``, ``plugins/`` and ``include/``.
    """

    root: Path
    project: Path

    @classmethod
    def here(cls) -> Home:
        """The home of the project in the current folder."""
        project = Path.cwd()
        return cls(root=Path(os.environ.get("MLOPS_HOME") or project / ".mlops").absolute(), project=project)

    @property
    def airflow(self) -> Path:
        """Airflow's own home."""
        return self.root / "airflow"

    @property
    def logs(self) -> Path:
        """One log per process, and Airflow's task logs below ``tasks/``."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What is running: one file per process, and :class:`Stack`."""
        return self.root / "run"

    @property
    def ledger(self) -> Path:
        """The ledger's SQLite file."""
        return self.root / "ledger.db"

    @property
    def airflow_stamp(self) -> Path:
        """The version of Airflow that its database was made or migrated for; missing until that is done once."""
        return self.airflow / "migrated"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's SQLite file."""
        return self.root / "mlflow" / "mlflow.db"

    @property
    def mlflow_stamp(self) -> Path:
        """There once MLflow has started with its database."""
        return self.root / "mlflow" / "made"

    @property
    def in_memory(self) -> Path:
        """There if the tables of this home were in the memory of a stack that has ended, or will end."""
        return self.root / "in_memory"

    @property
    def local(self) -> Path:
        """Where ``mlops run`` keeps its data while no stack is up."""
        return self.root / "local"

    def make(self) -> None:
        """Create the folders; in a new home only its owner may look, as it will hold secrets and data."""
        if not self.root.exists():
            self.root.mkdir(parents=True)
            self.root.chmod(0o700)
            (self.root / ".gitignore").write_text("*\n", encoding="utf-8")
        for folder in (self.airflow / "config", self.logs, self.run, *map(self.root.joinpath, _FOLDERS)):
            folder.mkdir(parents=True, exist_ok=True)

    def local_settings(self) -> dict[str, str]:
        """The ``MLOPS_*`` variables of work without any server."""
        return {
            Environment.TABLES_URI: str(self.local / "data"),
            Environment.LEDGER_URL: f"sqlite:///{self.local / 'ledger.db'}",
            Environment.REGISTRY_URI: f"sqlite:///{self.local / 'mlflow.db'}",
            Environment.SPOOL_DIR: str(self.local / "spool"),
            Environment.EVIDENTLY_WORKSPACE: str(self.local / "evidently"),
        }

    def make_local(self, environment: MutableMapping[str, str]) -> None:
        """Prepare for work without any server, and point unset variables there."""
        self.make()
        for folder in ("data", "spool", "evidently"):
            (self.local / folder).mkdir(parents=True, exist_ok=True)
        for name, value in self.local_settings().items():
            environment.setdefault(name, value)

    def settings(self, ports: Mapping[str, int]) -> dict[str, str]:
        """The ``MLOPS_*`` variables of this stack."""
        return {
            Environment.TABLES_URI: str(self.root / "data"),
            Environment.LEDGER_URL: f"sqlite:///{self.ledger}",
            Environment.REGISTRY_URI: url(ports["mlflow"]),
            Environment.SERVER_URL: url(ports["server"]),
            Environment.SPOOL_DIR: str(self.root / "spool"),
            Environment.EVIDENTLY_WORKSPACE: str(self.root / "evidently"),
        } | (local_aws.settings(url(ports["s3"])) if "s3" in ports else {})


_FOLDERS = ("data", "mlflow/artifacts", "spool", "evidently")


@dataclass(frozen=True, slots=True)
class Stack:
    """
    What ``mlops up`` started, kept for ``replay``, ``down`` and ``doctor``.

    :param ports: Port by name, as in :data:`PORTS`.
    :param fault: Month in which the source delivers bad data, or empty.
    :param settings: ``MLOPS_*`` variables of a cluster; the local stack's follow from its home.
    """

    ports: Mapping[str, int]
    fault: str = ""
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def store(self) -> str:
        """Where it keeps its tables: "folder" or "s3"."""
        return "s3" if "s3" in self.ports else "folder"

    @classmethod
    def read(cls, home: Home) -> Stack | None:
        """The stack of *home*, or ``None`` if none was started."""
        try:
            content = json.loads((home.run / "stack.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(ports=content["ports"], fault=content["fault"], settings=content.get("settings", {}))

    def write(self, home: Home) -> None:
        """Remember this stack."""
        content = {"ports": dict(self.ports), "fault": self.fault, "settings": dict(self.settings)}
        write_private(home.run / "stack.json", json.dumps(content, indent=2))

    @staticmethod
    def forget(home: Home) -> None:
        """Forget the stack of *home*; it was stopped."""
        (home.run / "stack.json").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the stack's parts need to trust each other; made once per home. Never printed but the password."""

    fernet_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    api_secret_key: str = field(repr=False)
    admin_password: str = field(repr=False)

    @classmethod
    def of(cls, home: Home) -> Secrets:
        """
        Read the secrets of *home*, or make them.

        :raises ConfigurationError: The file exists but is not what this version wrote.
        """
        path = home.root / "secrets.json"
        if not path.exists():
            made = cls(
                fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                jwt_secret=secrets.token_hex(64),
                api_secret_key=secrets.token_hex(32),
                admin_password=secrets.token_urlsafe(12),
            )
            write_private(path, json.dumps({name: getattr(made, name) for name in cls.__slots__}, indent=2))
            return made
        path.chmod(0o600)
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"{path} is damaged or from another version. Airflow's stored passwords need its fernet_key: "
                f"repair the file, or start over by removing {home.root}."
            ) from None

    def write_passwords(self, home: Home) -> Path:
        """Write the password file of Airflow's simple login."""
        path = home.airflow / "passwords.json"
        write_private(path, json.dumps({ADMIN: self.admin_password}))
        return path


def url(port: int) -> str:
    """Address of a local service."""
    return f"http://{LOOPBACK}:{port}"


def configured_ports(environment: Mapping[str, str] = os.environ, *, store: str = "folder") -> dict[str, int]:
    """
    Port by service, from the environment or the default.

    :param store: One of :data:`STORES`.
    :raises ConfigurationError: A variable is no port, or two services got the same one.
    """
    ports: dict[str, int] = {}
    for name, (variable, default) in PORTS.items():
        if name == "s3" != store:
            continue
        value = environment.get(variable) or str(default)
        if not value.isdecimal() or not 0 < int(value) < 65536:
            raise ConfigurationError(f"{variable} must be a port, 1 to 65535, and is {value!r}.")
        for other, port in ports.items():
            if port == int(value):
                raise ConfigurationError(f"{variable} and {PORTS[other][0]} both say {port}: give each its own port.")
        ports[name] = int(value)
    return ports


def use_home(environment: MutableMapping[str, str] = os.environ) -> Home:
    """
    Point unset ``MLOPS_*`` variables at what this project has: its stack, running or stopped, else local work.

    So ``mlops audit verify`` beside a demo means the demo; a variable that is set always wins.
    """
    home = Home.here()
    stack = Stack.read(home)
    settings: Mapping[str, str] = {}
    if stack and stack.settings:
        settings = stack.settings
    elif stack or home.ledger.exists():
        ports = stack.ports if stack else configured_ports(environment)
        settings = home.settings(ports) | (local_aws.variables(url(ports["s3"])) if "s3" in ports else {})
    elif home.local.is_dir():
        settings = home.local_settings()
    for name, value in {**settings, **TELEMETRY_OFF, **QUIET}.items():
        environment.setdefault(name, value)
    return home


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)
    fresh.replace(path)


def required(variable: Environment) -> str:
    """
    A setting that has no default.

    :raises ConfigurationError: It is not set, and no stack of this project is known.
    """
    if value := os.environ.get(variable):
        return value
    raise ConfigurationError(f"{variable} is not set, and no stack was started here: set it, or run `mlops up`.")
