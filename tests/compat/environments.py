"""
Clean environments: stock Airflow first, then the wheel, as Airflow's users do it.

Stock Airflow is installed once for each version and interpreter; every environment begins as a copy of that one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_SECONDS = 900
"""Longest that one command may take; the slowest, a `pip install`, takes about a minute."""
OWN = ("AIRFLOW_", "AWS_", "COMPAT_", "MLFLOW_", "MLOPS_", "PYTHON", "VIRTUAL_ENV")


class FailedError(Exception):
    """A command failed; the message says which, the end of what it printed, and where the rest is."""


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout, without isolation: nothing is fetched."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def interpreter(version: str) -> str:
    """
    An interpreter of a version such as 3.12.

    :raises FailedError: None is to be found.
    """
    found = shutil.which(f"python{version}")
    candidates = [found] if found else []
    candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), reverse=True))
    for candidate in candidates:
        run = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode == 0 and run.stdout.strip() == version:
            return candidate
    raise FailedError(
        f"There is no Python {version} on the PATH. Install it, or leave it out: make compat PYTHONS=3.11"
    )


@dataclass(frozen=True)
class Environment:
    """
    A virtual environment and a home for its Airflow.

    :param folder: Holds ``venv``, ``home`` and the logs.
    """

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "venv" / "bin"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def create(self, python: str) -> None:
        """Begin anew, with an interpreter and pip."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.home.mkdir(parents=True)
        self.run("venv", [uv(), "venv", "--quiet", "--seed", "--python", python, str(self.folder / "venv")])

    def begin_as(self, other: Environment) -> None:
        """
        Begin anew as a copy of another environment and of its Airflow's database.

        Files are hard links: installers replace files, they don't write into them. What names its own place, the
        scripts, is written anew.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.home.mkdir(parents=True)
        shutil.copytree(other.folder / "venv", self.folder / "venv", symlinks=True, copy_function=os.link)
        for script in self.bin.iterdir():
            if script.is_symlink() or not script.is_file():
                continue
            content, mode = script.read_bytes(), script.stat().st_mode
            script.unlink()
            script.write_bytes(content.replace(bytes(other.bin.parent), bytes(self.bin.parent)))
            script.chmod(mode)
        shutil.copy(other.home / "airflow.db", self.home)

    def install(self, *requirements: str) -> None:
        """Install with uv, which is quick; with pip where uv reaches no index."""
        by_uv = [uv(), "pip", "install", "--quiet", "--python", str(self.bin / "python"), *requirements]
        try:
            self.run("install", by_uv)
        except FailedError as error:
            if "No solution found" in str(error):
                raise
            self.run("install", [str(self.bin / "python"), "-m", "pip", "install", "--quiet", *requirements])

    def run(
        self, name: str, command: Sequence[str], more: Mapping[str, str] | None = None, ok: tuple[int, ...] = (0,)
    ) -> str:
        """
        Run a command with this environment first on the PATH and nothing of ours in its variables.

        :param name: Name of the log.
        :return: What it printed.
        :raises FailedError: It ended with another code than *ok*, or not at all.
        """
        log = self.folder / f"{name}.log"
        with log.open("a") as output:
            output.write(f"$ {' '.join(command)}\n")
        shown = f"{Path(command[0]).name} {' '.join(command[1:4])}"
        try:
            done = subprocess.run(
                list(command),
                cwd=self.folder,
                env=self.variables(more),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"`{shown}` did not end within {LIMIT_SECONDS} seconds.") from error
        with log.open("a") as output:
            output.write(done.stdout)
        if done.returncode not in ok:
            raise FailedError(f"`{shown}` ended with {done.returncode}; log: {log}\n{done.stdout[-1500:]}")
        return done.stdout

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment variables of what runs here."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        return {
            **kept,
            "PATH": f"{self.bin}{os.pathsep}{kept['PATH']}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            "DO_NOT_TRACK": "1",
            "GX_ANALYTICS_ENABLED": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **(more or {}),
        }


def stock(airflow: str) -> tuple[str, ...]:
    """
    What installs the newest patch of a minor version of Airflow.

    With the pins of the day it was released, if they are known here, as its constraint file has them; else with the
    newest of everything.
    """
    minor = int(airflow.split(".")[1])
    wanted = (f"apache-airflow>=3.{minor},<3.{minor + 1}", "apache-airflow-providers-sqlite")
    pins = HERE / f"constraints-{airflow}.txt"
    return ("-c", str(pins), *wanted) if pins.exists() else wanted


def uv() -> str:
    """The uv of this checkout's environment."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"
