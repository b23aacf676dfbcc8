"""What this package adds to Airflow's web server: the reports, behind Airflow's own login."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin


class MLOpsPlugin(AirflowPlugin):
    """Loaded by every Airflow process, so it builds nothing until the web server asks for its apps."""

    name = "mlops"

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The web application under ``/mlops``."""
        from mlops_provider.ui.app import app

        return [{"app": app, "url_prefix": "/mlops", "name": "MLOps"}]
