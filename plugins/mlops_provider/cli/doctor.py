"""``mlops doctor``: a line per check, with what to do where one fails."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from mlops_provider.cli.home import (
    LOOPBACK,
    PORTS,
    SETTINGS_FILE,
    TELEMETRY_OFF,
    Home,
    Stack,
    configured_ports,
    url,
    use_home,
)
from mlops_provider.core.names import Environment
from mlops_provider.exceptions import MLOpsError

DISTRIBUTION = "airflow-provider-mlops"
PYTHONS = ((3, 11), (3, 14))
APPLY = "mlops settings apply"
FREE_BYTES = 2 * 10**9
USER_EXTRAS = ("tables", "validation", "training", "drift", "serving")
"""Extras that the stages need; the others (clouds, clusters, development) are a matter of choice."""
_EVIDENTLY_ON_PANDAS_3 = "Evidently does not import on pandas 3"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    The outcome of one check.

    :param level: ``ok``; ``note`` needs nothing now; ``fail`` makes the command fail.
    :param fix: What to do about it.
    """

    level: Literal["ok", "note", "fail"]
    what: str
    fix: str = ""


def main(arguments: argparse.Namespace) -> int:
    """Run all checks; fail if one does."""
    untouched = dict(os.environ)
    home = use_home()
    failed = 0
    checks = (
        python,
        packages,
        lambda: telemetry(untouched),
        lambda: parts(home),
        addresses,
        stores,
        server,
        disk,
        suites,
        lambda: connections(home),  # last: skops, loaded after Airflow, calls up a thousand warnings
    )
    for check in checks:
        for finding in check():
            failed += finding.level == "fail"
            fix = f"\n      fix: {finding.fix}" if finding.fix else ""
            print(f"{finding.level:<4}  {finding.what}{fix}", flush=True)
    print(f"\n{failed} checks failed." if failed else "\nAll is well.")
    return 1 if failed else 0


def python() -> Iterator[Finding]:
    """The interpreter's version."""
    lowest, beyond = PYTHONS
    shown = f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    if lowest <= sys.version_info[:2] < beyond:
        yield Finding("ok", shown)
    else:
        yield Finding("fail", f"{shown}, needed is 3.11 to 3.13", "make the environment with one of these")


def packages() -> Iterator[Finding]:
    """Every package that the installed distribution declares: there, and in the range it was tried with."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        yield Finding("fail", f"{DISTRIBUTION} is not installed, so Airflow can't see it", "pip install -e '.[all]'")
        return
    core = [requirement for requirement in declared if requirement.marker is None]
    yield from _ranges(core, f"pip install '{DISTRIBUTION}'")
    yield from _airflow_with_fastapi()
    for extra in USER_EXTRAS:
        of_extra = [
            each
            for each in declared
            if each.name != DISTRIBUTION and each.marker and each.marker.evaluate({"extra": extra})
        ]
        yield from _ranges(
            [each for each in of_extra if each not in core], f"pip install '{DISTRIBUTION}[{extra}]'", extra
        )


def _airflow_with_fastapi() -> Iterator[Finding]:
    """Airflow 3.2 takes any newer FastAPI, and then its execution API does not start; 3.3 has the bound itself."""
    from packaging.version import Version

    airflow, fastapi = (Version(version(name)) for name in ("apache-airflow-core", "fastapi"))
    if airflow < Version("3.3") and fastapi >= Version("0.137"):
        yield Finding(
            "fail",
            f"Airflow {airflow} runs no task with FastAPI {fastapi}",
            "install Airflow with its constraint file, or Airflow 3.3",
        )


def _ranges(declared: list, install: str, extra: str = "") -> Iterator[Finding]:  # type: ignore[type-arg]
    of = f" (extra {extra})" if extra else ""
    good = []
    for requirement in declared:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            level: Literal["note", "fail"] = "note" if extra else "fail"
            yield Finding(level, f"{requirement.name} is not installed{of}", install)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            good.append(f"{requirement.name} {found}")
            continue
        why = f": {_EVIDENTLY_ON_PANDAS_3}" if requirement.name == "pandas" else ""
        wanted = f"{requirement.name}{requirement.specifier}"
        yield Finding("fail", f"{requirement.name} {found}{of}, needed is {wanted}{why}", f"pip install '{wanted}'")
    if good:
        yield Finding("ok", f"{', '.join(good)}{of}")


def telemetry(environment: dict[str, str]) -> Iterator[Finding]:
    """Whether the libraries were told not to call home; without a network, some wait long for it."""
    missing = {name: value for name, value in TELEMETRY_OFF.items() if environment.get(name) != value}
    if not missing:
        yield Finding("ok", "telemetry of the libraries is off")
        return
    exports = " ".join(f"{name}={value}" for name, value in missing.items())
    yield Finding("note", "telemetry is off in what `mlops` starts, but not in this shell", f"export {exports}")


def parts(home: Home) -> Iterator[Finding]:
    """The stack of this project: all of it alive, or its ports free."""
    from mlops_provider.cli.processes import recorded

    stack = Stack.read(home)
    if stack is None:
        yield from _free_ports()
        return
    for running in recorded(home.run):
        if running.alive():
            yield Finding("ok", f"{running.name} runs (process {running.pid})")
        else:
            log = home.logs / f"{running.name}.log"
            yield Finding("fail", f"{running.name} has died; its log: {log}", "mlops down, then mlops up")
    yield from _answers("Airflow", url(stack.ports["airflow"]), "/api/v2/monitor/health")
    yield from _answers("Evidently UI", url(stack.ports["evidently"]), "/api/version")


def _free_ports() -> Iterator[Finding]:
    try:
        ports = configured_ports()
    except MLOpsError as error:
        yield Finding("fail", str(error))
        return
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((LOOPBACK, port)):
                yield Finding("ok", f"port {port} is free for {name}")
            else:
                yield Finding(
                    "fail", f"port {port}, meant for {name}, is taken", f"set {PORTS[name][0]} to another one"
                )


def addresses() -> Iterator[Finding]:
    """Which addresses are set in the environment; in tasks, Airflow connections do the same."""
    optional = {
        Environment.REPORTS_URI,
        Environment.NAME,
        Environment.SPOOL_URI,
        Environment.AWS_CONN_ID,
        Environment.LANDING_URI,
        Environment.SNS_TOPIC,
    }
    if os.environ.get(Environment.SPOOL_URI):
        optional.add(Environment.SPOOL_DIR)  # on the servers' machines; from S3 they are delivered
    missing = [variable for variable in Environment if not os.environ.get(variable) and variable not in optional]
    if missing:
        fix = "set them, declare Airflow connections, or run `mlops up`"
        yield Finding("note", f"not set: {', '.join(missing)}", fix)
    else:
        yield Finding("ok", "every MLOPS_* address is set")


def connections(home: Home) -> Iterator[Finding]:
    """Whether Airflow, if there is one, has what ``airflow_settings.yaml`` declares."""
    file = home.project / SETTINGS_FILE
    if not file.exists() or (Stack.read(home) is None and "AIRFLOW_HOME" not in os.environ):
        return
    from mlops_provider.cli.settings import apply, use_stack_airflow

    use_stack_airflow()
    try:
        changes = apply(file, dry_run=True)
    except MLOpsError as error:
        yield Finding("fail", f"Airflow's connections: {error}")
        return
    differing = [f"{change.kind} {change.name}" for change in changes if change.action != "unchanged"]
    if differing:
        yield Finding("fail", f"Airflow has not what {SETTINGS_FILE} declares: {', '.join(differing)}", APPLY)
    else:
        yield Finding("ok", f"Airflow has the connections and pools of {SETTINGS_FILE}")


def stores() -> Iterator[Finding]:
    """Whether each store can be reached, and written to."""
    checks: tuple[tuple[Environment, str, Callable[[str], None]], ...] = (
        (Environment.TABLES_URI, "tables", _write_tables),
        (Environment.TABLES_URI, "conditional writes of the tables", _race_for_tables),
        (Environment.LEDGER_URL, "ledger", _use_ledger),
        (Environment.REGISTRY_URI, "registry", _ping_registry),
        (Environment.SPOOL_DIR, "prediction spool", _write_folder),
        (Environment.EVIDENTLY_WORKSPACE, "Evidently workspace", _write_folder),
    )
    unusable: set[Environment] = set()
    for variable, name, check in checks:
        address = os.environ.get(variable)
        if not address or variable in unusable:
            continue
        try:
            check(address)
        except ImportError as error:
            yield Finding("note", f"{name}: not checked, {error}", f"pip install '{DISTRIBUTION}[all]'")
        except MLOpsError as error:
            unusable.add(variable)
            yield Finding("fail", f"{name}: {error}")
        except OSError as error:
            unusable.add(variable)
            yield Finding(
                "fail", f"{name}: {address} can't be written ({error.strerror})", f"free it, or set {variable}"
            )
        else:
            yield Finding("ok", _RACED if check is _race_for_tables else f"{name} can be used")


def server() -> Iterator[Finding]:
    """Whether the model server answers."""
    address = os.environ.get(Environment.SERVER_URL)
    if address and not address.startswith("sagemaker:"):
        yield from _answers("model server", address, "/health", fix="mlops up, or mlops serve")


def disk() -> Iterator[Finding]:
    """Room on the disk of this folder."""
    free = shutil.disk_usage(Path.cwd()).free
    shown = f"{free / 10**9:.1f} GB free on this disk"
    yield Finding("ok", shown) if free > FREE_BYTES else Finding("fail", shown, "free at least 2 GB")


def suites() -> Iterator[Finding]:
    """Whether somebody has read the expectations of each use case here."""
    from mlops_provider.checked_yaml import Document
    from mlops_provider.spec import load_spec

    for model in sorted(Path("include").glob("*/model.yaml")):
        try:
            path = load_spec(model).expectations_path
            reviewed = (Document(path).data or {}).get("reviewed")
        except MLOpsError as error:
            yield Finding("fail", str(error))
            continue
        if reviewed is False:
            shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            fix = "read it, mend it, then write `reviewed: {by: your name, at: 2026-01-31}`"
            yield Finding("note", f"{shown} was inferred and is not reviewed", fix)


def _answers(name: str, address: str, path: str, fix: str = "mlops down, then mlops up") -> Iterator[Finding]:
    import httpx

    try:
        response = httpx.get(address + path, timeout=10, trust_env=False)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        yield Finding("fail", f"{name} does not answer at {address} ({type(error).__name__})", fix)
        return
    if response.is_success:
        yield Finding("ok", f"{name} answers at {address}")
    else:
        yield Finding("fail", f"{name} answers {response.status_code} at {address}{path}", fix)


def _write_tables(address: str) -> None:
    if "://" not in address or address.startswith("file://"):
        _write_folder(address.removeprefix("file://"))
        return
    from mlops_provider.stores.tables import Tables

    tables = Tables(address)
    tables.exists(tables.uri("doctor", "probe"))


def _race_for_tables(address: str) -> None:
    from mlops_provider.stores import conditional

    conditional.check(address)


_RACED = "conditional writes hold: of 8 writers at once one came first, 5 times"


def _write_folder(address: str) -> None:
    """Write and remove a file; in a folder that is still to be made, look at its nearest parent."""
    folder = Path(address).absolute()
    while not folder.exists():
        folder = folder.parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".mlops-doctor-"):
        pass


def _use_ledger(address: str) -> None:
    from sqlalchemy import make_url

    from mlops_provider.stores.ledger import Ledger

    ledger = Ledger(address)
    file = make_url(address).database if address.startswith("sqlite") else None
    if file:
        _write_folder(str(Path(file).parent))
    if file is None or Path(file).exists():
        try:
            ledger.head()
        finally:
            ledger.close()


def _ping_registry(address: str) -> None:
    from mlops_provider.stores.registry import Registry

    Registry(address).ping()
