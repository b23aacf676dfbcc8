"""
`make compat`: the wheel alone, in clean environments with stock Airflow, one extra at a time.

    make compat                                   every Airflow, Python and extra; most of an hour
    make compat AIRFLOW=3.3 PYTHONS=3.11 EXTRA=drift
    make compat EXTRA=page                        only docs/adopt.md, followed literally

In each environment: Airflow's metadata and connection forms, `airflow mlops`, the import of every operator, and each
operator that works alone in a foreign DAG, over Parquet files, over SQL, and (with `amazon` added) over Parquet on S3.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import adopt_page  # noqa: E402
import material  # noqa: E402
from environments import ROOT, Environment, FailedError, build_wheel, interpreter, stock, uv  # noqa: E402

AIRFLOWS = ("3.3", "3.2")
PYTHONS = ("3.11", "3.12")
EXTRAS = ("none", "tables", "validation", "training", "drift", "serving", "amazon", "cluster")
PAGE = "page"
OLDEST_MLFLOW = ("mlflow==2.3.2", "setuptools<70", "sqlalchemy<2.1")  # what it was released with, and does not say

NEEDS = {"gate": "tables", "drift": "drift", "validation": "validation"}
"""Extra with which a check must work; with others it works, or names an extra."""
FILES_AND_SQL = [f"{check}_{source}" for check in NEEDS for source in ("files", "sql")]
ALWAYS = ["ledger", "register_oldest", "promote_oldest", "register_newest", "promote_newest"]


class Table:
    """Prints a line per check as it ends, and remembers what failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def row(self, environment: str, check: str, result: str, seconds: float) -> None:
        print(f"{environment:<28} {check:<18} {seconds:>6.1f}  {result}", flush=True)

    def check(self, environment: str, name: str, work: Callable[[], str], again: str) -> bool:
        """Run one check; say what it found, or what failed and what to do."""
        began = time.monotonic()
        try:
            said = work()
        except (FailedError, AssertionError, RuntimeError) as error:
            self.row(environment, name, "FAILED", time.monotonic() - began)
            print(f"    {str(error).strip().replace(chr(10), chr(10) + '    ')}\n    again: {again}", flush=True)
            self.failed.append(f"{environment} {name}")
            return False
        self.row(environment, name, said, time.monotonic() - began)
        return True


def main() -> int:
    """Run what was asked for; fail if a check did."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end with us
    wanted = arguments()
    table, folder = Table(), wanted.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel(folder / "wheel")
    print(f"{wheel.name}, built of this checkout. Environments and logs: {folder}\n")
    material.write(folder / "data")
    with servers(folder) as addresses:
        for airflow in wanted.airflow:
            for python in wanted.pythons:
                for extra in wanted.extra:
                    again = f"make compat AIRFLOW={airflow} PYTHONS={python} EXTRA={extra}"
                    if extra == PAGE:
                        label = f"{airflow} py{python} docs/adopt.md"
                        adopt_page.follow(label, airflow, interpreter(python), wheel, folder, addresses, table, again)
                    else:
                        one(airflow, python, extra, wheel, folder, addresses, table, again)
    print(f"\n{len(table.failed)} checks failed: {', '.join(table.failed)}" if table.failed else "\nAll checks passed.")
    return 1 if table.failed else 0


def arguments() -> argparse.Namespace:
    """What to run: the command line, else the variables that `make` passes on, else everything."""

    def listed(name: str, default: Sequence[str]) -> list[str]:
        return os.environ.get(name, "").replace(",", " ").split() or list(default)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--airflow", nargs="+", choices=AIRFLOWS, default=listed("AIRFLOW", AIRFLOWS))
    parser.add_argument("--pythons", nargs="+", default=listed("PYTHONS", PYTHONS))
    parser.add_argument("--extra", nargs="+", choices=[*EXTRAS, PAGE], default=listed("EXTRA", [PAGE, *EXTRAS]))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "compat")
    return parser.parse_args()


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 server with the tables in a bucket, and two MLflow servers: the oldest we know, and our own."""
    with ExitStack() as stack:
        old = Environment(folder / "mlflow-oldest")
        if not (old.folder / "complete").exists():
            old.create(sys.executable)
            old.install(*OLDEST_MLFLOW)
            (old.folder / "complete").touch()
        found = {"s3": stack.enter_context(material.s3(folder, "compat", "my-bucket"))}
        own = Path(sys.executable).with_name("mlflow")
        for name, mlflow in (("oldest", old.bin / "mlflow"), ("newest", own)):
            port = material.free_port()
            home = folder / f"mlflow-{name}-data"
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            store = [
                "--backend-store-uri",
                f"sqlite:///{home}/mlflow.db",
                "--default-artifact-root",
                str(home / "files"),
            ]
            command = [str(mlflow), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
            variables = old.variables({"PATH": f"{mlflow.parent}{os.pathsep}{os.environ['PATH']}"})
            found[name] = stack.enter_context(material.server(command, port, "/health", home / "server.log", variables))
            found[f"{name}_source"] = material.mlflow_run(found[name])
        yield found


def one(
    airflow: str,
    python: str,
    extra: str,
    wheel: Path,
    folder: Path,
    addresses: dict[str, str],
    table: Table,
    again: str,
) -> None:
    """All checks of one environment."""
    environment, label = Environment(folder / f"{airflow}-{python}-{extra}"), f"{airflow} py{python} [{extra}]"

    def check(name: str, work: Callable[[], str]) -> bool:
        return table.check(label, name, work, again)

    def inside(name: str, **more: str) -> str:
        command = [str(environment.bin / "python"), str(HERE / "inside.py"), name]
        said = json.loads(environment.run(name, command, more).splitlines()[-1])
        return str(said["said"])

    if not check("install", lambda: installed(environment, airflow, python, extra, wheel, folder)):
        return
    check("versions", lambda: versions(inside("versions"), airflow))
    check("providers get", lambda: provider(environment))
    check("forms", lambda: inside("forms"))
    check("airflow mlops", lambda: commands(environment))
    check("imports", lambda: inside("imports"))
    if not check("Airflow itself", lambda: runs_a_task(environment)):
        return

    def alone(*tasks: str) -> None:
        if check("a foreign DAG", lambda: foreign(environment, folder, addresses, tasks)):
            for task in tasks:
                check(task, functools.partial(ended, environment.folder / "out" / f"{task}.json", task, extra))

    alone(*FILES_AND_SQL, *ALWAYS, "suite")
    own = [check for check, needed in NEEDS.items() if needed == extra]
    if own and check("+ [amazon]", lambda: added(environment, wheel, extra)):
        alone(*(f"{each}_s3" for each in own))
    shutil.rmtree(environment.folder / "venv", ignore_errors=True)


def installed(environment: Environment, airflow: str, python: str, extra: str, wheel: Path, folder: Path) -> str:
    """Airflow first, its newest patch, with the database provider that the DAG's owner has; then the wheel."""
    environment.create(interpreter(python))
    environment.install(*stock(airflow), "apache-airflow-providers-sqlite")
    before = environment.run("version", [str(environment.bin / "airflow"), "version"]).split()[-1]
    environment.install(wanted(wheel, extra))
    after = environment.run("version", [str(environment.bin / "airflow"), "version"]).split()[-1]
    if before != after:
        raise FailedError(f"The wheel moved Airflow from {before} to {after}: mend the bounds in pyproject.toml.")
    environment.run("pip-check", [uv(), "pip", "check", "--python", str(environment.bin / "python")])
    migrated = folder / f"airflow-{after}.db"
    if not migrated.exists():
        environment.run("migrate", [str(environment.bin / "airflow"), "db", "migrate"])
        shutil.copy(environment.home / "airflow.db", migrated)
    shutil.copy(migrated, environment.home / "airflow.db")
    return f"Airflow {after}"


def wanted(wheel: Path, *extras: str) -> str:
    """The wheel with extras, as a requirement."""
    named = ",".join(extra for extra in extras if extra != "none")
    return f"airflow-provider-mlops{f'[{named}]' if named else ''} @ {wheel.as_uri()}"


def added(environment: Environment, wheel: Path, extra: str) -> str:
    """Add the extra for S3."""
    environment.install(wanted(wheel, extra, "amazon"))
    return "installed"


def versions(found: str, airflow: str) -> str:
    """What was resolved; it must be the Airflow that was asked for."""
    resolved = json.loads(found)
    assert resolved["apache-airflow"].startswith(f"{airflow}."), resolved
    return ", ".join(f"{name} {version}" for name, version in resolved.items())


def provider(environment: Environment) -> str:
    """Airflow lists the distribution and its version."""
    said = environment.run(
        "providers", [str(environment.bin / "airflow"), "providers", "get", "airflow-provider-mlops", "-o", "json"]
    )
    found = json.loads(said[said.index("[") :])[0]
    assert found["Provider"] == "airflow-provider-mlops", found
    return str(found["Version"])


def commands(environment: Environment) -> str:
    """`airflow mlops` lists its commands, and doctor says in words what this place has and lacks."""
    airflow = str(environment.bin / "airflow")
    helped = environment.run("mlops", [airflow, "mlops", "--help"])
    assert "doctor" in helped, f"`airflow mlops --help` lists no doctor:\n{helped[-1500:]}"
    ports = {f"MLOPS_{name}_PORT": str(material.free_port()) for name in ("AIRFLOW", "MLFLOW", "SERVER", "EVIDENTLY")}
    said = environment.run("doctor", [airflow, "mlops", "doctor"], ports)
    assert "Traceback" not in said, said[-1500:]
    assert "All is well." in said, said[-1500:]
    return f"doctor: {said.count(chr(10) + 'ok')} ok, {said.count(chr(10) + 'note')} notes"


def runs_a_task(environment: Environment) -> str:
    """
    A DAG with nothing of ours succeeds; else what follows would say nothing about the wheel.

    :raises FailedError: It does not.
    """
    dags = environment.home / "dags"
    dags.mkdir(exist_ok=True)
    shutil.copy(HERE / "dags" / "stock.py", dags)
    command = [str(environment.bin / "python"), str(HERE / "inside.py"), "dag_runs"]
    said = json.loads(environment.run("stock", command, {"COMPAT_DAGS": "stock"}, ok=(0, 1)).splitlines()[-1])["said"]
    (dags / "stock.py").unlink()
    if "success" not in said:
        raise FailedError(
            f"This Airflow, resolved without its constraint file, runs no task of anybody's; log: {environment.folder}"
            "/stock.log. Not our wheel's fault: pin what broke it in environments.stock."
        )
    return "runs a task"


def foreign(environment: Environment, folder: Path, addresses: dict[str, str], tasks: Sequence[str]) -> str:
    """Run a foreign DAG of these tasks; each notes how it ended."""
    out = environment.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    dags = environment.home / "dags"
    dags.mkdir(exist_ok=True)
    shutil.copy(HERE / "dags" / "alone.py", dags)
    more = {
        "COMPAT_DATA": str(folder / "data"),
        "COMPAT_OUT": str(out),
        "COMPAT_TASKS": ",".join(tasks),
        "COMPAT_DAGS": "alone",
        "COMPAT_SOURCE_OLDEST": addresses["oldest_source"],
        "COMPAT_SOURCE_NEWEST": addresses["newest_source"],
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": str(folder / "data" / "warehouse.db")}),
        "AIRFLOW_CONN_COMPAT_LEDGER": json.dumps(
            {"conn_type": "mlops_ledger", "host": f"sqlite:///{environment.folder}/ledger.db"}
        ),
        "AIRFLOW_CONN_COMPAT_OLDEST": json.dumps({"conn_type": "mlops_registry", "host": addresses["oldest"]}),
        "AIRFLOW_CONN_COMPAT_NEWEST": json.dumps({"conn_type": "mlops_registry", "host": addresses["newest"]}),
        "AIRFLOW_CONN_COMPAT_AWS": material.aws_connection(addresses["s3"]),
    }
    command = [str(environment.bin / "python"), str(HERE / "inside.py"), "dag_runs"]
    said = json.loads(environment.run("foreign", command, more, ok=(0, 1)).splitlines()[-1])
    if not said["good"]:
        raise FailedError(f"The DAG did not run: {said['said']}; log: {environment.folder}/foreign.log")
    return f"{len(tasks)} tasks"


def ended(note: Path, task: str, extra: str) -> str:
    """
    How a task ended. With the extra it needs it must have worked; else its error names an extra that is not here.

    :raises AssertionError: Neither is so.
    """
    assert note.exists(), f"The task wrote down nothing; log: {note.parents[1]}/foreign.log"
    found = json.loads(note.read_text())
    if found["state"] == "success":
        result = found["result"]
        if task.split("_", maxsplit=1)[0] in NEEDS:
            assert result["record"] is None, result
            assert result.get("passed", True), result["summary"]
            if task.startswith("drift"):
                assert result["alarm"], result
                assert result["drifted"] == ["distance"], result
        assert task != "suite", "A use case without model.yaml and libraries cannot have landed data."
        return "ok"
    needed = NEEDS.get(task.split("_", maxsplit=1)[0])
    must = task in ALWAYS or needed == extra
    asked = f"pip install 'airflow-provider-mlops[{needed or 'tables,validation'}]'"
    assert not must, f"It must work with [{extra}], and said: {found['error']}"
    if task == "suite" and "model.yaml" in found["error"]:
        return "finds its libraries"
    assert asked in found["error"], f"The error does not name the extra ({asked}): {found['error']}"
    return f"asks for [{needed or 'tables,validation'}]"


if __name__ == "__main__":
    sys.exit(main())
