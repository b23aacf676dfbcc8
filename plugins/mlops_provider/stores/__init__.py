"""Plain clients of the stores, built from an address: tables, registry, ledger, reports, predictions."""

import os

# Read by MLflow at import, hence set before anything here imports it; whoever set them already wins.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# MLflow's own limits (7 retries, each after twice the pause of the last) hide a dead server for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# A bar per file that is fetched has no place in the log of a task or a server.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
