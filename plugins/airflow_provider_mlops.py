"""The name that Airflow 3.3 makes of the distribution's, to look for example DAGs below it."""

from mlops_provider import __path__ as __path__  # noqa: PLC0414 - handed on, not used
