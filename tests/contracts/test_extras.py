"""A worker without an extra says which one to install, for every operator."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from mlops_provider.core.extras import MODULES, explained_imports, install
from mlops_provider.exceptions import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
RUN_ALL = """
import importlib.util, json, sys

hidden = json.loads(sys.argv[1])

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if any(name == each or name.startswith(each + ".") for each in hidden):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

spec = importlib.util.spec_from_file_location("contracts", sys.argv[2])
contracts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(contracts)
from support.contexts import run
sys.meta_path.insert(0, Refusing())  # not before Airflow has found its providers
print(json.dumps({
    operator.__name__: {"extras": list(getattr(operator, "extras", ())), "error": run(contracts.build(operator)).error}
    for operator in contracts.OPERATORS if not sys.argv[3] or ",".join(getattr(operator, "extras", ())) == sys.argv[3]
}))
"""


def errors(hidden: set[str], tmp_path: Path, extras: str = "") -> dict[str, Any]:
    """Run every operator, or those with these extras, where some modules can't be found."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT / "tests")])}
    contracts = str(ROOT / "tests" / "contracts" / "test_operators.py")
    command = [sys.executable, "-W", "ignore", "-c", RUN_ALL, json.dumps(sorted(hidden)), contracts, extras]
    run = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_every_operator_names_its_extras_where_none_is_installed(tmp_path: Path) -> None:
    hidden = {module for modules in MODULES.values() for module in modules}

    found = errors(hidden, tmp_path)

    assert {"TrainModelOperator", "GatePredictionsOperator"} <= found.keys()
    for first_asks_the_ledger in ("LabelsSensor", "PromoteModelOperator"):  # before they need a library
        del found[first_asks_the_ledger]
    for name, ended in found.items():
        asked = f"Install it on every worker that runs this: {install(ended['extras'])}"
        assert (asked in ended["error"]) is bool(ended["extras"]), (name, ended)


@pytest.mark.parametrize("extras", ["tables,validation", "tables,training", "drift", "validation", "tables"])
def test_the_extras_that_an_operator_names_are_enough_to_import_its_step(extras: str, tmp_path: Path) -> None:
    needed = {module for extra in extras.split(",") for module in MODULES[extra]}
    hidden = {module for modules in MODULES.values() for module in modules} - needed

    found = errors(hidden, tmp_path, extras)

    assert found
    for name, ended in found.items():
        assert "pip install" not in ended["error"], (name, ended)


def test_the_table_of_modules_follows_the_declared_extras() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    provided = packages_distributions()

    assert set(MODULES) == set(declared) - {"all", "example", "dev"}
    for extra, modules in MODULES.items():
        wanted = {canonicalize_name(re.split(r"[\[<>=]", requirement)[0]) for requirement in declared[extra]}
        named = {
            canonicalize_name(owner)
            for module in modules
            for owner in [*provided.get(module.split(".")[0], ()), f"apache-{module.replace('.', '-')}"]
        }
        assert wanted <= named, extra


def test_a_library_that_is_broken_is_not_called_missing() -> None:
    said = r"'evidently\.core' cannot be imported \(needs an older pandas\)"

    with pytest.raises(ConfigurationError, match=said), explained_imports("drift"):
        raise ImportError("needs an older pandas", name="evidently.core")


def test_a_missing_module_of_somebody_else_is_not_explained() -> None:
    with pytest.raises(ModuleNotFoundError, match="xgboost"), explained_imports("tables"):
        raise ModuleNotFoundError("No module named 'xgboost'", name="xgboost")
