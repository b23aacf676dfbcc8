"""Which extra of the wheel brings a library, for the message of a task whose worker lacks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from mlops_provider.exceptions import ConfigurationError

DISTRIBUTION = "airflow-provider-mlops"

MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tables": ("deltalake", "pandas", "pyarrow", "numpy"),
        "validation": ("great_expectations", "numpy", "pandas", "pyarrow"),
        "training": (
            "mlflow",
            "numpy",
            "onnx",
            "onnxruntime",
            "optuna",
            "pandas",
            "pyarrow",
            "sklearn",
            "skops",
            "threadpoolctl",
        ),
        "drift": ("evidently", "numpy", "pandas", "pyarrow", "sklearn", "threadpoolctl"),
        "serving": (
            "httptools",
            "mlflow",
            "msgspec",
            "numpy",
            "onnx",
            "onnxruntime",
            "pandas",
            "prometheus_client",
            "pyarrow",
            "sklearn",
            "skops",
            "threadpoolctl",
            "uvicorn",
            "uvloop",
        ),
        "amazon": ("aiobotocore", "airflow.providers.amazon", "boto3", "botocore"),
        "kubernetes": ("airflow.providers.cncf.kubernetes", "kubernetes"),
        "cluster": ("airflow.providers.celery", "airflow.providers.postgres", "celery", "psycopg2", "redis"),
    }
)
"""Modules that come with each extra, as they are imported."""


@contextmanager
def explained_imports(*needed: str) -> Iterator[None]:
    """
    Say which extra to install where an import fails for want of one.

    :param needed: Extras that the code inside is made of; all are named, so that one installation is enough.
    :raises ConfigurationError: A library of an extra is missing, or does not import. Not retried.
    """
    try:
        yield
    except ImportError as error:
        module = error.name or ""
        bringing = [extra for extra, modules in MODULES.items() if any(_within(module, each) for each in modules)]
        if not bringing:
            raise
        extras = list(needed) if set(bringing) & set(needed) else [*needed, bringing[0]]
        missing = isinstance(error, ModuleNotFoundError)
        trouble = "is not installed" if missing else f"cannot be imported ({error})"
        raise ConfigurationError(
            f"The Python module {module!r} {trouble} on this machine. Install it on every worker that runs this: "
            f"{install(extras)}"
        ) from error


def install(extras: Sequence[str]) -> str:
    """The command that brings *extras*."""
    return f"pip install '{DISTRIBUTION}[{','.join(extras)}]'"


def _within(module: str, parent: str) -> bool:
    return module == parent or module.startswith(f"{parent}.")
