"""
Parse DAG files as a DAG processor would, where no connection exists; run by ``mlops ci`` in a process of its own.

Prints one line of JSON per file: what went wrong, the DAGs it holds, and the ML libraries that parsing it loaded.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HEAVY = frozenset(
    (
        "deltalake",
        "evidently",
        "great_expectations",
        "mlflow",
        "numpy",
        "onnx",
        "onnxruntime",
        "optuna",
        "pandas",
        "pyarrow",
        "sklearn",
        "skops",
    )
)
"""Libraries that a DAG file must not load: it is parsed every half minute."""


class LookedUpError(Exception):
    """A connection or variable was asked for while a file was parsed."""


def parsed(file: Path) -> dict[str, Any]:
    """Execute one file and tell what came of it."""
    from airflow.sdk import DAG

    before = set(sys.modules)
    found: dict[str, Any] = {"file": str(file), "problem": "", "dags": [], "heavy": []}
    entered: list[DAG] = []
    enter = DAG.__enter__

    def note(dag: DAG) -> DAG:
        entered.append(dag)
        return enter(dag)

    DAG.__enter__ = note  # type: ignore[method-assign,assignment]
    try:
        spec = importlib.util.spec_from_file_location(f"mlops_ci_dag_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        dags = {id(dag): dag for dag in (*entered, *(each for each in vars(module).values() if isinstance(each, DAG)))}
        for dag in dags.values():
            dag.topological_sort()
        found["dags"] = sorted(dag.dag_id for dag in dags.values())
    except Exception as error:  # noqa: BLE001 - whatever a file does is what is told
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = own[-1].lineno if own else getattr(error, "lineno", None)
        found["problem"] = f"{file.name}{f':{line}' if line else ''}: {type(error).__name__}: {error}"
    finally:
        DAG.__enter__ = enter  # type: ignore[method-assign]
    found["heavy"] = sorted({name.partition(".")[0] for name in set(sys.modules) - before} & HEAVY)
    return found


def _refuse_lookups() -> None:
    from airflow.sdk import BaseHook, Connection, Variable

    def refuse(*args: Any, **kwargs: Any) -> Any:
        named = next((arg for arg in args if isinstance(arg, str)), "")
        raise LookedUpError(
            f"looks up {named!r} while the file is parsed, which the scheduler does every half minute: look it up in a "
            "task, or use a template"
        )

    BaseHook.get_connection = refuse  # type: ignore[method-assign]
    Connection.get = refuse  # type: ignore[method-assign]
    Variable.get = refuse  # type: ignore[method-assign]


def _lines(files: Sequence[str]) -> Iterator[str]:
    warnings.simplefilter("ignore")
    _refuse_lookups()
    for file in files:
        yield json.dumps(parsed(Path(file).resolve()))


if __name__ == "__main__":
    for line in _lines(sys.argv[1:]):
        print(line, flush=True)
