"""What this package tells Airflow about itself."""

from __future__ import annotations

from typing import Any

MODULES = "mlops_provider"
STEPS = (
    "ingest",
    "score",
    "monitor",
    "chunks",
    "train",
    "segments",
    "approval",
    "deploy",
    "start",
    "promote",
    "tables",
    "ledger",
    "registry",
)


def get_provider_info() -> dict[str, Any]:
    """Describe hooks, connection types, operators, sensors, triggers, links and commands."""
    integration = "MLOps"
    return {
        "package-name": "airflow-provider-mlops",
        "name": "MLOps",
        "description": "From raw data to a monitored model that retrains itself.",
        "operators": [
            {"integration-name": integration, "python-modules": [f"{MODULES}.operators.{step}" for step in STEPS]}
        ],
        "sensors": [
            {
                "integration-name": integration,
                "python-modules": [f"{MODULES}.sensors.partition", f"{MODULES}.sensors.source"],
            }
        ],
        "hooks": [
            {
                "integration-name": integration,
                "python-modules": [f"{MODULES}.hooks.{name}" for name in ("tables", "registry", "ledger", "server")],
            }
        ],
        "triggers": [{"integration-name": integration, "python-modules": [f"{MODULES}.triggers.partition"]}],
        "extra-links": [f"{MODULES}.links.ReportLink", f"{MODULES}.links.RunLink"],
        "connection-types": [_tables(), _registry(), _ledger(), _server()],
        "cli": [f"{MODULES}.cli.airflow_commands.get_commands"],
    }


def _tables() -> dict[str, Any]:
    return {
        "connection-type": "mlops_tables",
        "hook-class-name": f"{MODULES}.hooks.tables.TablesHook",
        "hook-name": "MLOps tables",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "login", "password", "port", "extra"],
            "relabeling": {"host": "Root"},
            "placeholders": {"host": "/data/mlops or s3://bucket/prefix"},
        },
        "conn-fields": {
            "aws_conn_id": {
                "label": "AWS connection",
                "description": (
                    "For a root on S3: the connection of type aws that holds its credentials, region and endpoint. "
                    "Empty: those of the worker itself."
                ),
                "schema": {"type": ["string", "null"]},
            }
        },
    }


def _registry() -> dict[str, Any]:
    return {
        "connection-type": "mlops_registry",
        "hook-class-name": f"{MODULES}.hooks.registry.RegistryHook",
        "hook-name": "MLOps model registry (MLflow)",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "port", "extra"],
            "relabeling": {"host": "Tracking URI", "password": "Password, or access token"},
            "placeholders": {"host": "http://mlflow.example.com:5000", "login": "only if MLflow asks for one"},
        },
    }


def _ledger() -> dict[str, Any]:
    return {
        "connection-type": "mlops_ledger",
        "hook-class-name": f"{MODULES}.hooks.ledger.LedgerHook",
        "hook-name": "MLOps ledger",
        "ui-field-behaviour": {
            "hidden-fields": ["extra"],
            "relabeling": {"host": "Host or database URL", "schema": "Database"},
            "placeholders": {"host": "postgres.example.com or sqlite:////data/ledger.db", "port": "5432"},
        },
    }


def _server() -> dict[str, Any]:
    return {
        "connection-type": "mlops_server",
        "hook-class-name": f"{MODULES}.hooks.server.ServerHook",
        "hook-name": "MLOps model server",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "login", "port", "extra"],
            "relabeling": {"host": "URL", "password": "Token"},
            "placeholders": {"host": "http://models.example.com:8090, or sagemaker://prod"},
        },
        "conn-fields": {
            name: {
                "label": label,
                "description": f"For sagemaker:// only: {what}",
                "schema": {"type": ["string", "null"]},
            }
            for name, label, what in (
                ("aws_conn_id", "AWS connection", "the connection of type aws. Empty: the worker's own credentials."),
                ("role_arn", "Role", "ARN of the role that containers run under."),
                ("image", "Image", "this package's image, in Amazon's registry."),
                ("archives", "Archives", "s3://bucket/prefix, below which packed versions are put."),
            )
        },
    }
