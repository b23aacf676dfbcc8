"""What every operator, sensor, trigger and entry point of the provider promises."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import BaseHook, BaseOperator, BaseOperatorLink
from airflow.triggers.base import BaseTrigger

import mlops_provider
from mlops_provider.get_provider_info import get_provider_info

INFO = get_provider_info()
HEAVY = {"mlflow", "sklearn", "evidently", "great_expectations", "pandas", "numpy", "deltalake", "optuna", "pyarrow"}
ABSTRACT = {
    "IncidentOperator",
    "MLOpsOperator",
    "ModelStepOperator",
    "PartitionStepOperator",
    "RecordingOperator",
    "ReleaseOperator",
    "RegistryOperator",
    "ReportingOperator",
    "StepOperator",
    "TableOperator",
    "TrafficOperator",
}


def classes_of(section: str, base: type) -> list[type]:
    modules = [name for entry in INFO[section] for name in entry["python-modules"]]
    found = [
        member
        for name in modules
        for _, member in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if issubclass(member, base) and member.__module__ == name and member.__name__ not in ABSTRACT
    ]
    assert found, f"{section} names no class"
    return found


OPERATORS = classes_of("operators", BaseOperator) + classes_of("sensors", BaseOperator)
TRIGGERS = classes_of("triggers", BaseTrigger)
HOOKS = classes_of("hooks", BaseHook)


def own_parameters(operator: type) -> dict[str, inspect.Parameter]:
    """Parameters that the operator and its bases in this package declare."""
    return {
        name: parameter
        for base in operator.__mro__
        if base.__module__.startswith("mlops_provider") and "__init__" in vars(base)
        for name, parameter in inspect.signature(base.__init__).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def sample(parameter: inspect.Parameter) -> Any:
    return f"the {parameter.name}" if parameter.default is inspect.Parameter.empty else parameter.default


def build(operator: type) -> BaseOperator:
    arguments = {name: sample(parameter) for name, parameter in own_parameters(operator).items()}
    return operator(task_id="a_task", **arguments)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
class TestEveryOperator:
    def test_takes_keywords_only_and_keeps_each_under_its_own_name(self, operator: type) -> None:
        for name, parameter in own_parameters(operator).items():
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, name
            assert getattr(build(operator), name) == sample(parameter)

    def test_has_an_attribute_for_every_template_field(self, operator: type) -> None:
        built = build(operator)

        for field in built.template_fields:
            assert hasattr(built, field), field

    def test_documents_every_argument(self, operator: type) -> None:
        text = "\n".join(inspect.getdoc(base) or "" for base in operator.__mro__ if base is not BaseOperator)

        for name in own_parameters(operator):
            assert f":param {name}:" in text, f"{operator.__name__} does not document {name}"

    def test_marks_templated_arguments_in_its_documentation(self, operator: type) -> None:
        text = "\n".join(inspect.getdoc(base) or "" for base in operator.__mro__ if base is not BaseOperator)

        for field in build(operator).template_fields:
            entry = re.search(rf":param {field}:(.*?)(?=\n:|\Z)", text, re.DOTALL)
            assert entry, f"{operator.__name__}.{field}"
            assert "(templated)" in entry.group(1), f"{operator.__name__}.{field}"

    def test_survives_a_copy(self, operator: type) -> None:
        built = build(operator)

        assert copy.deepcopy(built).template_fields == built.template_fields

    def test_looks_up_nothing_when_it_is_made(self, operator: type, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("a constructor looked up a connection")

        monkeypatch.setattr(BaseHook, "get_connection", refuse)

        build(operator)


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger.__name__)
def test_every_trigger_survives_serialisation(trigger: type) -> None:
    arguments = {
        name: sample(parameter)
        for name, parameter in inspect.signature(trigger.__init__).parameters.items()
        if name != "self"
    }

    path, kwargs = trigger(**arguments).serialize()

    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, arguments)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_every_hook_is_a_declared_connection_type(hook: Any) -> None:
    declared = {entry["connection-type"]: entry for entry in INFO["connection-types"]}

    entry = declared[hook.conn_type]

    assert entry["hook-class-name"] == f"{hook.__module__}.{hook.__qualname__}"
    assert entry["hook-name"] == hook.hook_name
    assert hook.default_conn_name == hook.conn_type


def test_every_dotted_path_of_the_provider_info_resolves() -> None:
    paths = [*INFO["extra-links"], *INFO["cli"], *(entry["hook-class-name"] for entry in INFO["connection-types"])]

    for path in paths:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    for path in INFO["extra-links"]:
        module, _, name = path.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), name), BaseOperatorLink)


def test_every_operator_module_is_declared() -> None:
    declared = {name for entry in INFO["operators"] for name in entry["python-modules"]}
    package = importlib.import_module("mlops_provider.operators")

    present = {f"mlops_provider.operators.{module.name}" for module in pkgutil.iter_modules(package.__path__)}

    assert present - declared == {"mlops_provider.operators.base"}


def test_every_entry_point_resolves() -> None:
    points = distribution("airflow-provider-mlops").entry_points

    assert {point.group for point in points} == {"console_scripts", "apache_airflow_provider", "airflow.plugins"}
    for point in points:
        assert point.load() is not None


def test_the_name_that_airflow_makes_of_the_distributions_leads_to_the_example_dags() -> None:
    name = str(INFO["package-name"]).replace("-", "_")

    (found,) = importlib.import_module(name).__path__

    assert [path.stem for path in Path(found, "example_dags").glob("example_*.py")] == ["example_mlops_gate"]


def test_no_module_is_named_like_a_dependency() -> None:
    required = {
        re.split(r"[^A-Za-z0-9._-]", name)[0].lower() for name in distribution("airflow-provider-mlops").requires or ()
    }
    importable = {
        module for module, owners in packages_distributions().items() if required & {owner.lower() for owner in owners}
    }

    stems = {
        module.name.rpartition(".")[2] for module in pkgutil.walk_packages(mlops_provider.__path__, "mlops_provider.")
    }

    assert {"mlflow", "evidently", "pandas", "airflow"} <= importable
    assert not stems & importable


def in_a_fresh_process(code: str) -> Any:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.strip().splitlines()[-1])


def test_importing_all_operators_and_stages_is_light() -> None:
    code = f"""
import sys, json, importlib, pkgutil
import airflow.sdk
before = set(sys.modules)
for package in ("operators", "sensors", "stages"):
    module = importlib.import_module("mlops_provider." + package)
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(module.__name__ + "." + found.name)
added = set(sys.modules) - before
print(json.dumps([len(added), sorted({HEAVY!r} & {{name.split(".")[0] for name in sys.modules}})]))
"""

    added, heavy = in_a_fresh_process(code)

    assert heavy == []
    assert added < 60
