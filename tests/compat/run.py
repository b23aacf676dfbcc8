"""
`make compat`: the wheel alone, in clean environments with stock Airflow, one extra at a time.

    make compat                                   every Airflow, Python and extra
    make compat AIRFLOW=3.3 PYTHONS=3.11 EXTRA=drift
    make compat EXTRA=page                        only docs/adopt.md, followed literally

First of all, for each Airflow and Python, that a DAG with nothing of ours runs. Then in each environment: Airflow's
metadata and connection forms, `airflow mlops`, the import of every operator, the example DAG, and a foreign DAG with
every operator: those that work alone do so, over Parquet files, over SQL, and (with `amazon` added) over Parquet on S3;
the others say what they lack.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import adopt_page  # noqa: E402
import material  # noqa: E402
from environments import ROOT, Environment, FailedError, build_wheel, interpreter, stock, uv  # noqa: E402

AIRFLOWS = ("3.3", "3.2")
PYTHONS = ("3.11", "3.12")
EXTRAS = ("none", "tables", "validation", "training", "drift", "serving", "amazon", "cluster")
PAGE, STOCK = "page", "stock"
CHAIN = "chain"
"""All operators that need more than themselves."""
EXAMPLE = "example_mlops_gate"
STATES = "states.json"
"""How Airflow says that each task ended."""
OLDEST_MLFLOW = ("mlflow==2.3.2", "setuptools<70", "sqlalchemy<2.1")  # what it was released with, and does not say

NEEDS = {"gate": "tables", "drift": "drift", "validation": "validation"}
"""Extra with which a check must work; with others it works, or names an extra."""
FILES_AND_SQL = [f"{check}_{source}" for check in NEEDS for source in ("files", "sql")]
ALWAYS = ["ledger", "register_oldest", "promote_oldest", "register_newest", "promote_newest", "start"]
NOT_RECORDED = "Not recorded: there is no connection 'mlops_ledger'. The evidence is this task's return value"
LACKS = ("pip install 'airflow-provider-mlops[", "no-model.yaml", "Airflow has no connection 'mlops_")
"""What an operator of the chain says where there is nothing of the chain: an extra, the declaration, or a store."""


class Table:
    """Prints a line per check as it ends, and remembers what failed and how long each environment took."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.seconds: dict[str, float] = {}

    def row(self, environment: str, check: str, result: str, seconds: float) -> None:
        print(f"{environment:<24} {check:<18} {seconds:>6.1f}  {result}", flush=True)

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

    def summary(self) -> str:
        """A line for each environment."""
        lines = []
        for environment, seconds in sorted(self.seconds.items()):
            failed = [each for each in self.failed if each.startswith(f"{environment} ")]
            lines.append(f"{environment:<24} {seconds:>6.0f} s  {f'{len(failed)} FAILED' if failed else 'passed'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Cell:
    """
    One environment: an Airflow, an interpreter, and the wheel with one extra.

    :param given: What all share: the table, the wheel, the folder, the addresses of the servers.
    """

    airflow: str
    python: str
    extra: str
    given: Given

    @property
    def label(self) -> str:
        return f"{self.airflow} py{self.python} {self.extra if self.extra in (PAGE, STOCK) else f'[{self.extra}]'}"

    @property
    def environment(self) -> Environment:
        return Environment(self.given.folder / f"{self.airflow}-{self.python}-{self.extra}")

    def check(self, name: str, work: Callable[[], str]) -> bool:
        """Run one check of this environment."""
        again = f"make compat AIRFLOW={self.airflow} PYTHONS={self.python} EXTRA={self.extra}"
        return self.given.table.check(self.label, name, work, again.replace(STOCK, "none"))

    def inside(self, *names: str, **more: str) -> dict[str, dict[str, Any]]:
        """What checks found that ran inside."""
        command = [str(self.environment.bin / "python"), str(HERE / "inside.py"), *names]
        found: dict[str, dict[str, Any]] = json.loads(
            self.environment.run(names[0], command, more, ok=(0, 1)).splitlines()[-1]
        )
        return found


@dataclass(frozen=True)
class Given:
    """What the environments share."""

    table: Table
    wheel: Path
    folder: Path
    addresses: dict[str, str]


def main() -> int:
    """Run what was asked for; fail if a check did."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end with us
    wanted, began = arguments(), time.monotonic()
    table, folder = Table(), wanted.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel(folder / "wheel")
    print(f"{wheel.name}, built of this checkout. Environments and logs: {folder}\n")
    material.write(folder / "data")
    pool = ThreadPoolExecutor(wanted.jobs)
    with servers(folder) as addresses:
        given = Given(table, wheel, folder, addresses)
        try:
            pairs = [(airflow, python) for airflow in wanted.airflow for python in wanted.pythons]
            bases = {pair: pool.submit(timed, stock_alone, Cell(*pair, STOCK, given)) for pair in pairs}
            work = [
                pool.submit(timed, on_top, Cell(*pair, extra, given), bases[pair])
                for pair in pairs
                for extra in wanted.extra
            ]
            for each in work:
                each.result()
        finally:
            pool.shutdown(cancel_futures=True)
    print(f"\n{table.summary()}\n")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = (used.ru_utime + used.ru_stime) / 60
    minutes = f"{(time.monotonic() - began) / 60:.1f} minutes ({cores:.1f} of processor time)"
    if table.failed:
        print(f"{len(table.failed)} checks failed in {minutes}: {', '.join(table.failed)}")
    else:
        print(f"All checks passed in {minutes}.")
    return 1 if table.failed else 0


def timed(work: Callable[..., Any], cell: Cell, *more: Any) -> Any:
    """Do what is to be done in an environment, and note how long it took."""
    waited = more[0].result() if more else None
    began = time.monotonic()
    try:
        return work(cell, waited) if more else work(cell)
    finally:
        cell.given.table.seconds[cell.label] = time.monotonic() - began


def arguments() -> argparse.Namespace:
    """What to run: the command line, else the variables that `make` passes on, else everything."""

    def listed(name: str, default: Sequence[str]) -> list[str]:
        return os.environ.get(name, "").replace(",", " ").split() or list(default)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--airflow", nargs="+", choices=AIRFLOWS, default=listed("AIRFLOW", AIRFLOWS))
    parser.add_argument("--pythons", nargs="+", default=listed("PYTHONS", PYTHONS))
    parser.add_argument("--extra", nargs="+", choices=[*EXTRAS, PAGE], default=listed("EXTRA", [PAGE, *EXTRAS]))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "compat")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="environments at a time")
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


def stock_alone(cell: Cell) -> bool:
    """Stock Airflow, and that it runs a task: else what follows would say nothing about the wheel."""
    return cell.check("install", lambda: stock_installed(cell)) and cell.check("a DAG", lambda: runs_a_task(cell))


def stock_installed(cell: Cell) -> str:
    """Airflow, its newest patch, with the database provider that the foreign DAG's owner has, and its database."""
    environment = cell.environment
    environment.create(interpreter(cell.python))
    environment.install(*stock(cell.airflow))
    environment.run("migrate", [str(environment.bin / "airflow"), "db", "migrate"])
    return versions(str(cell.inside("versions")["versions"]["said"]), cell.airflow)


def runs_a_task(cell: Cell) -> str:
    """
    A DAG with nothing of ours succeeds.

    :raises FailedError: It does not.
    """
    dags = cell.environment.home / "dags"
    dags.mkdir(exist_ok=True)
    shutil.copy(HERE / "dags" / "stock.py", dags)
    found = cell.inside("dag_runs", COMPAT_DAGS="stock")["dag_runs"]
    if '"state": "success"' not in found["said"]:
        raise FailedError(
            f"This Airflow runs no task of anybody's; log: {cell.environment.folder}/dag_runs.log. Not our wheel's "
            f"fault: pin what broke it in {HERE.name}/constraints-{cell.airflow}.txt."
        )
    return "runs a task"


def on_top(cell: Cell, there: bool) -> None:
    """The wheel with one extra on top of a stock Airflow, or the page."""
    if not there:
        return
    base = Cell(cell.airflow, cell.python, STOCK, cell.given).environment
    if cell.extra == PAGE:
        adopt_page.follow(cell, base)
    else:
        one(cell, base)
    shutil.rmtree(cell.environment.folder / "venv", ignore_errors=True)


def one(cell: Cell, base: Environment) -> None:
    """All checks of one environment."""
    environment, extra = cell.environment, cell.extra
    if not cell.check("install", lambda: installed(cell, base)):
        return
    cell.check("providers get", lambda: provider(environment))
    cell.check("airflow mlops", lambda: commands(environment))
    found = cell.inside("versions", "forms", "imports", "examples")
    cell.check("versions", lambda: versions(said(found["versions"]), cell.airflow))
    cell.check("forms", lambda: said(found["forms"]))
    cell.check("imports", lambda: said(found["imports"]))
    cell.check("example DAG", lambda: said(found["examples"]))

    def alone(*tasks: str) -> None:
        if cell.check("a foreign DAG", lambda: foreign(cell, tasks)):
            for task in tasks:
                cell.check(task, functools.partial(ended, environment.folder / "out", task, extra))

    alone(*FILES_AND_SQL, *ALWAYS, CHAIN)
    own = [check for check, needed in NEEDS.items() if needed == extra]
    if own and cell.check("+ [amazon]", lambda: added(environment, cell.given.wheel, extra)):
        alone(*(f"{each}_s3" for each in own))


def said(found: dict[str, Any]) -> str:
    """
    What a check inside said.

    :raises AssertionError: It failed.
    """
    assert found["good"], found["said"]
    return f"{found['said']}"


def installed(cell: Cell, base: Environment) -> str:
    """The wheel, beside an Airflow that stays as it is."""
    environment = cell.environment
    environment.begin_as(base)
    environment.install(wanted(cell.given.wheel, cell.extra))
    before, after = (airflow_of(each) for each in (base, environment))
    if before != after:
        raise FailedError(f"The wheel moved Airflow from {before} to {after}: mend the bounds in pyproject.toml.")
    environment.run("pip-check", [uv(), "pip", "check", "--python", str(environment.bin / "python")])
    return f"Airflow {after}"


def airflow_of(environment: Environment) -> str:
    """The version of Airflow that is installed."""
    (there,) = environment.folder.glob("venv/lib/python*/site-packages/apache_airflow_core-*.dist-info")
    return there.name.removeprefix("apache_airflow_core-").removesuffix(".dist-info")


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


def foreign(cell: Cell, tasks: Sequence[str]) -> str:
    """Run a foreign DAG of these tasks; each notes how it ended."""
    environment, addresses, data = cell.environment, cell.given.addresses, cell.given.folder / "data"
    out = environment.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    dags = environment.home / "dags"
    dags.mkdir(exist_ok=True)
    shutil.copy(HERE / "dags" / "alone.py", dags)
    wanted = ["alone"]
    if cell.extra == NEEDS["gate"] and CHAIN in tasks:
        (example,) = environment.folder.glob(f"venv/lib/python*/site-packages/mlops_provider/example_dags/{EXAMPLE}.py")
        shutil.copy(example, dags)
        wanted.append(EXAMPLE)
    found = cell.inside(
        "dag_runs",
        COMPAT_DATA=str(data),
        COMPAT_OUT=str(out),
        COMPAT_TASKS=",".join(tasks),
        COMPAT_DAGS=",".join(wanted),
        COMPAT_SOURCE_OLDEST=addresses["oldest_source"],
        COMPAT_SOURCE_NEWEST=addresses["newest_source"],
        AIRFLOW_CONN_WAREHOUSE=json.dumps({"conn_type": "sqlite", "host": str(data / "warehouse.db")}),
        AIRFLOW_CONN_COMPAT_LEDGER=json.dumps(
            {"conn_type": "mlops_ledger", "host": f"sqlite:///{environment.folder}/ledger.db"}
        ),
        AIRFLOW_CONN_COMPAT_OLDEST=json.dumps({"conn_type": "mlops_registry", "host": addresses["oldest"]}),
        AIRFLOW_CONN_COMPAT_NEWEST=json.dumps({"conn_type": "mlops_registry", "host": addresses["newest"]}),
        AIRFLOW_CONN_COMPAT_AWS=material.aws_connection(addresses["s3"]),
    )["dag_runs"]
    if not found["good"]:
        raise FailedError(f"The DAG did not run: {found['said']}; log: {environment.folder}/dag_runs.log")
    runs = json.loads(found["said"])
    states: dict[str, str] = runs.pop("alone")["tasks"]
    (out / STATES).write_text(json.dumps(states))
    for name, run in runs.items():
        assert run["state"] == "success", f"{name} ended so: {run}"
    return f"{len(states)} tasks{''.join(f', and {name}' for name in runs)}"


def ended(out: Path, task: str, extra: str) -> str:
    """
    How a task ended. With the extra it needs it must have worked; else its error names an extra that is not here.

    :raises AssertionError: Neither is so.
    """
    if task == CHAIN:
        return chain(out)
    note = out / f"{task}.json"
    assert note.exists(), f"The task wrote down nothing; log: {out.parent}/dag_runs.log"
    found, state = json.loads(note.read_text()), json.loads((out / STATES).read_text())[task]
    needed = NEEDS.get(task.split("_", maxsplit=1)[0])
    if state == "success":
        if needed:
            verdict_of(found["result"], task, (out.parent / "dag_runs.log").read_text())
        return "ok"
    assert task not in ALWAYS, found["error"]
    assert needed != extra, f"It must work with [{extra}], and said: {found['error']}"
    asked = f"pip install 'airflow-provider-mlops[{needed}]'"
    assert asked in found["error"], f"The error does not name the extra ({asked}): {found['error']}"
    assert found["kind"] == "AirflowFailException", f"It is retried: {found['kind']}: {found['error']}"
    return f"asks for [{needed}]"


def verdict_of(result: dict[str, Any], task: str, log: str) -> None:
    """
    Whether the evidence is right, and where it is: in the return value and the log, for there is no ledger.

    :raises AssertionError: It is not.
    """
    assert result["record"] is None, result
    assert NOT_RECORDED in log, "The log does not say that nothing was recorded."
    assert result.get("passed", True), result["summary"]
    if task.startswith("drift"):
        assert result["alarm"], result
        assert result["drifted"] == ["distance"], result


def chain(out: Path) -> str:
    """
    Every operator that needs a declared model fails at once, and says what is missing.

    :raises AssertionError: One does not.
    """
    notes = {note.stem: json.loads(note.read_text()) for note in sorted(out.glob(f"{CHAIN}_*.json"))}
    assert len(notes) > 20, f"Only {len(notes)} operators ran: {', '.join(notes)}"
    for name, found in notes.items():
        assert found["kind"] == "AirflowFailException", f"{name} did not fail for good: {found}"
        assert any(each in found["error"] for each in LACKS), f"{name} does not say what it lacks: {found['error']}"
    asking = sum(LACKS[0] in found["error"] for found in notes.values())
    return f"{asking} of {len(notes)} operators ask for an extra, the others for model.yaml or a store"


if __name__ == "__main__":
    sys.exit(main())
