"""``mlops ci``: what a team's CI runs on a pull request, without a running Airflow."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_provider.cli.ci_report import RedError, Report
from mlops_provider.cli.home import QUIET, TELEMETRY_OFF
from mlops_provider.exceptions import ConfigurationError, SpecError
from mlops_provider.spec import load_spec

if TYPE_CHECKING:
    from mlops_provider.spec import ModelSpec

_DAGS = "dags"
_LISTED = 20
"""Findings of ruff that are shown; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Run:
    """
    One run over all stages.

    :param files: The ``model.yaml`` of each use case.
    :param rows: Rows of a month at most.
    :param trials: Parameter sets that the search tries.
    """

    files: tuple[Path, ...]
    rows: int
    trials: int
    report: Report

    def specs(self) -> list[ModelSpec]:
        """Every use case."""
        return [load_spec(file) for file in self.files]


def main(arguments: argparse.Namespace) -> int:
    """Run stage after stage; stop at the first that is red."""
    files = [Path(file) for file in arguments.models] or sorted(Path("include").glob("*/model.yaml"))
    if not files:
        raise ConfigurationError("There is no include/*/model.yaml here: name the model.yaml to check.")
    for name, value in {**TELEMETRY_OFF, **QUIET}.items():
        os.environ.setdefault(name, value)
    run = Run(tuple(files), arguments.rows, arguments.trials, Report())
    try:
        for stage in STAGES.values():
            stage(run)
    except RedError:
        pass
    except Exception as error:  # or the XML, which CI systems show, would not tell
        run.report.skip("mlops ci", "all", "unexpected error", f"{type(error).__name__}: {error}")
        raise
    finally:
        stopped = len(dict.fromkeys(check.stage for check in run.report.checks))
        for name in list(STAGES)[stopped:]:
            run.report.skip(name, "all", name, "A stage before it is red.")
        if arguments.junit:
            run.report.write(Path(arguments.junit))
    red = run.report.red
    print("Red." if red else f"Green: {sum(not check.skipped for check in run.report.checks)} checks.")
    return int(red)


def lint(run: Run) -> None:
    """Declarations, Python files, functions: everything that needs no data."""
    from mlops_provider.adapters.expectations import load_review
    from mlops_provider.adapters.validation import load_expectations
    from mlops_provider.steps.contracts import check_signatures

    for file in run.files:
        subject = file.parent.name
        with run.report.check("lint", subject, file.name):
            spec = load_spec(file)
        with run.report.check("lint", subject, spec.expectations):
            load_expectations(spec.expectations_path)
        if load_review(spec.expectations_path) is False:
            reason = "inferred, and not reviewed: read it, mend it, then sign it under `reviewed`"
            run.report.skip("lint", subject, f"review of {spec.expectations}", reason)
        with run.report.check("lint", subject, "syntax of its Python files"):
            check_syntax(spec.code_folders)
        with run.report.check("lint", subject, "imports and signatures"):
            check_signatures(spec)
        if importlib.util.find_spec("ruff") is None:
            run.report.skip("lint", subject, "ruff", "ruff is not installed: pip install ruff")
            continue
        with run.report.check("lint", subject, "ruff"):
            check_style(spec.code_folders)


def check_syntax(folders: Sequence[Path]) -> None:
    """
    Parse every Python file below folders.

    :raises SpecError: ``file:line: what`` for each that is not valid.
    """
    problems = []
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        try:
            ast.parse(path.read_bytes(), filename=str(path))
        except SyntaxError as error:
            problems.append(f"{path}:{error.lineno}: is not valid Python: {error.msg}.")
    if problems:
        raise SpecError("\n".join(problems))


def check_style(folders: Sequence[Path]) -> None:
    """
    Let ruff look at folders, with the rules of the project they are in.

    :raises SpecError: Its findings.
    """
    words = ("check", "--no-cache", "--quiet", "--output-format=concise")
    command = (sys.executable, "-m", "ruff", *words, *map(str, folders))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout or done.stderr).strip().splitlines()
        more = [f"and {len(lines) - _LISTED} more."] * (len(lines) > _LISTED)
        raise SpecError("\n".join([*lines[:_LISTED], *more]))


def dags(run: Run) -> None:
    """Each DAG file parses where no connection exists, and loads no ML library."""
    files = sorted(path for path in Path(_DAGS).rglob("*.py") if not path.name.startswith(("_", ".")))
    if not files:
        run.report.skip("dags", _DAGS, "DAG files", f"There is no DAG file in {_DAGS}/.")
        return
    found = parsed(files)
    for file in files:
        with run.report.check("dags", _DAGS, file.name):
            judge(found.get(str(file.resolve())), file)


def parsed(files: Sequence[Path]) -> Mapping[str, Mapping[str, object]]:
    """What the process that parsed the files told, by file."""
    command = (sys.executable, "-m", "mlops_provider.cli.dag_files", *map(str, files))
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(_DAGS).resolve())]))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"file"')]
    if done.returncode and len(lines) < len(files):
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        lines.append(json.dumps({"file": str(files[len(lines)].resolve()), "problem": f"ends the process: {said}"}))
    return {each["file"]: each for each in map(json.loads, lines)}


def judge(found: Mapping[str, object] | None, file: Path) -> None:
    """
    Say what is wrong with a file that was parsed.

    :raises SpecError: Something is.
    """
    if found is None:
        raise SpecError(f"{file} was not reached: a file before it ended the process.")
    if found["problem"]:
        raise SpecError(str(found["problem"]))
    if not found["dags"]:
        raise SpecError(f"{file.name} holds no DAG.")
    if heavy := found["heavy"]:
        assert isinstance(heavy, list)
        raise SpecError(
            f"{file.name} loads {', '.join(heavy)} while it is parsed, which happens every half minute: import it "
            "inside a task, or in a function of the use case."
        )


def contracts(run: Run) -> None:
    """What the functions promise, on a sample of the first two months."""
    from mlops_provider.steps.contracts import FeatureContract, check_estimator

    for spec in run.specs():
        features = FeatureContract(spec, run.rows)
        checks: Mapping[str, Callable[[], None]] = {
            "features: declared columns": features.check_declared_columns,
            "features: inputs are left alone": features.check_inputs_are_left_alone,
            "features: deterministic": features.check_deterministic,
            **({"features: history adds up": features.check_history_adds_up} if spec.functions.history else {}),
            "features: no reading ahead": features.check_no_future,
            "estimator and space": lambda spec=spec: check_estimator(spec),  # type: ignore[misc]
        }
        for name, check in checks.items():
            with run.report.check("contracts", spec.name, name):
                check()


def chain(run: Run) -> None:
    """Every step of production once, on a sample, in a temporary home."""
    from mlops_provider.cli.ci_chain import run_chain

    for spec in run.specs():
        run_chain(spec, run.report, rows=run.rows, trials=run.trials)


STAGES: Mapping[str, Callable[[Run], None]] = {"lint": lint, "dags": dags, "contracts": contracts, "chain": chain}
"""In this order; each trusts what those before it have shown."""
