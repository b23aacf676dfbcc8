"""Read ``docker-compose.yaml`` as Compose does, as far as this project's file goes, and the image it builds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mlops_provider.checked_yaml import Loader
from mlops_provider.exceptions import ConfigurationError

Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]

_REFERENCE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>[A-Za-z_]\w*)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}|(?P<stray>.?))"
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """
    How a service is asked whether it works.

    :param test: ``CMD`` and a command line, or ``CMD-SHELL`` and one line for the shell.
    :param timeout: Seconds after which an answer counts as none.
    """

    test: tuple[str, ...]
    timeout: float


@dataclass(frozen=True, slots=True)
class ComposeService:
    """
    A service, with every variable filled in.

    :param image: Name of its image.
    :param built: Whether that image is built from this project's Dockerfile.
    :param command: Program and arguments; empty for the image's own.
    :param environment: What it sets beyond its image.
    :param published: Port of the host by port of the container.
    :param mounts: Volume by path in the container.
    :param files: Content by path in the container.
    :param needs: What must be true of which services before it starts.
    :param replicas: How many of it run.
    """

    name: str
    image: str
    built: bool
    command: tuple[str, ...]
    environment: Mapping[str, str]
    published: Mapping[int, int]
    mounts: Mapping[str, str]
    files: Mapping[str, str]
    needs: Mapping[str, Condition]
    health: HealthCheck | None
    replicas: int


@dataclass(frozen=True, slots=True)
class Image:
    """
    What the last stage of a Dockerfile puts into a container, as far as its user can see it.

    :param environment: Variables it sets; those that use another variable, such as ``PATH``, are left out.
    :param folder: Where a container works.
    :param copied: Source in the project by target, both relative.
    :param run: Shell lines that its user runs while it is built.
    """

    environment: Mapping[str, str]
    folder: str
    copied: Mapping[str, str]
    run: tuple[str, ...]


def read(path: Path, environment: Mapping[str, str]) -> dict[str, ComposeService]:
    """
    Read the services of a Compose file, but for those of profiles that are not asked for.

    :param environment: Where the file's variables are taken from; its ``COMPOSE_PROFILES`` names profiles.
    :raises ConfigurationError: A variable that the file asks for is not set.
    """
    content = _filled(yaml.load(path.read_text(encoding="utf-8"), Loader), environment)  # noqa: S506 - a safe loader
    texts = {name: config["content"] for name, config in content.get("configs", {}).items()}
    asked = set(environment.get("COMPOSE_PROFILES", "").split(","))
    active = {
        name: found
        for name, found in content["services"].items()
        if not found.get("profiles") or asked.intersection(found["profiles"])
    }
    return {name: _service(name, found, active, texts, environment) for name, found in active.items()}


def variables(path: Path) -> dict[str, str]:
    """Read a file of ``NAME=value`` lines, as Compose reads ``.env``; a value may stand in single quotes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (re.fullmatch(r"(\w+)=(?:'(.*)'|(.*))", line) for line in lines)
    return {match[1]: match[2] if match[2] is not None else match[3] for match in found if match}


def image(path: Path) -> Image:
    """Read the last stage of a Dockerfile."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    steps = [step.split(maxsplit=1) for step in "\n".join(lines).replace("\\\n", " ").splitlines() if step.strip()]
    first = max(index for index, (verb, _) in enumerate(steps) if verb == "FROM")
    variables: dict[str, str] = {}
    copied: dict[str, str] = {}
    run: list[str] = []
    folder, as_user = "/", False
    for verb, rest in steps[first + 1 :]:
        if verb == "ENV":
            variables |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif verb == "WORKDIR":
            folder = rest
        elif verb == "USER":
            as_user = True
        elif verb == "COPY" and "--from=" not in rest:
            *sources, target = [word for word in rest.split() if not word.startswith("--")]
            into = Path(target) if target.endswith("/") else None
            copied |= {str(into / source if into else Path(target)): source for source in sources}
        elif verb == "RUN" and as_user:
            run.append(rest)
    return Image({name: value for name, value in variables.items() if "$" not in value}, folder, copied, tuple(run))


def _service(
    name: str,
    found: Mapping[str, Any],
    active: Mapping[str, Any],
    texts: Mapping[str, str],
    environment: Mapping[str, str],
) -> ComposeService:
    variables = {key: environment.get(key) if value is None else str(value) for key, value in
                 (found.get("environment") or {}).items()}  # fmt: skip
    command = found.get("command") or ()
    needs = found.get("depends_on") or {}
    return ComposeService(
        name=name,
        image=found["image"],
        built="build" in found,
        command=tuple(shlex.split(command) if isinstance(command, str) else map(str, command)),
        environment={key: value for key, value in variables.items() if value is not None},
        published=dict(_published(port) for port in found.get("ports", ())),
        mounts=dict(reversed(volume.split(":")[:2]) for volume in found.get("volumes", ())),
        files={config["target"]: texts[config["source"]] for config in found.get("configs", ())},
        needs={key: value["condition"] for key, value in needs.items() if key in active or value.get("required", True)},
        health=_health(found.get("healthcheck")),
        replicas=int(found.get("deploy", {}).get("replicas", 1)),
    )


def _published(port: str) -> tuple[int, int]:
    _host, outside, inside = port.split(":")
    return int(inside), int(outside)


def _health(found: Mapping[str, Any] | None) -> HealthCheck | None:
    if not found:
        return None
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(found.get("timeout", "30s")))
    return HealthCheck(tuple(found["test"]), seconds)


def _filled(value: Any, environment: Mapping[str, str]) -> Any:
    """Give *value* with every reference in it, at any depth, taken from the environment."""
    if isinstance(value, dict):
        return {key: _filled(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, environment) for inner in value]
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: _referred(match, environment), value)
    return value


def _referred(match: re.Match[str], environment: Mapping[str, str]) -> str:
    if match["escaped"]:
        return "$"
    if not match["name"]:
        raise ConfigurationError(f"Expected ${{NAME}}, ${{NAME:-default}} or $$ in the Compose file, got {match[0]!r}.")
    if found := environment.get(match["name"]):
        return found
    if match["kind"] == "?":
        raise ConfigurationError(f"The Compose file needs {match['name']}: {match['rest']}.")
    return match["rest"] or ""
