"""Every name that two modules must agree on."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Strategy = Literal["canary", "blue_green", "shadow", "all_at_once"]
"""How traffic moves to a new version."""

WithoutData = Literal["rollback", "hold", "proceed"]
"""What becomes of a step of a rollout whose guards lack their minimum samples."""


class Kind(StrEnum):
    """Kinds of ledger records, in the order of a model's life."""

    LANDING = "landing"
    VALIDATION = "validation"
    FEATURES = "features"
    PREDICTIONS = "predictions"
    DELIVERY = "delivery"
    OUTCOMES = "outcomes"
    PERFORMANCE = "performance"
    DRIFT = "drift"
    RETRAIN = "retrain"
    DECLARATION = "declaration"
    SEARCH = "search"
    TRAINING = "training"
    SEGMENTS = "segments"
    SEGMENT = "segment"
    EVALUATION = "evaluation"
    GATE = "gate"
    REGISTRATION = "registration"
    PACKAGE = "package"
    APPROVAL_REQUEST = "approval_request"
    APPROVAL = "approval"
    SERVING_CHECK = "serving_check"
    TRAFFIC = "traffic"
    PROMOTION = "promotion"
    ROLLBACK = "rollback"
    INCIDENT = "incident"
    TOLD = "told"
    OVERRIDE = "override"
    ABORT = "abort"
    DRILL = "drill"
    IMPORT = "import"
    COPY = "copy"
    # Of the operators that work alone, on tables of somebody else; none of them moves traffic.
    PREDICTIONS_GATE = "predictions_gate"
    TABLE_DRIFT = "table_drift"
    TABLE_VALIDATION = "table_validation"
    DECISION = "decision"


ALONE = (Kind.PREDICTIONS_GATE, Kind.TABLE_DRIFT, Kind.TABLE_VALIDATION, Kind.DECISION)
"""Kinds of the operators that work alone: what they are about need not be a model of this suite."""


class Table(StrEnum):
    """Tables of a model, below ``<root>/<model>/``."""

    RAW = "raw"
    QUARANTINE = "quarantine"
    CLEAN = "clean"
    FEATURES = "features"
    PREDICTIONS = "predictions"
    PREDICTION_LOG = "prediction_log"
    OUTCOME_LOG = "outcome_log"
    OUTCOMES = "outcomes"
    REFERENCE = "reference"


PARTITION = "partition"
"""The column that every table but the logs is partitioned by."""

REPORTS_FOLDER = "_reports"
"""Folder of the reports below the root of the tables, if no other place is set."""

REPORT = "report.html"
"""Name of the report that a task writes; where it lies follows from the task's identity."""


class Task(StrEnum):
    """IDs of the tasks that the stages make."""

    WAIT_FOR_SOURCE = "wait_for_source"
    LAND_DATA = "land_data"
    VALIDATE_DATA = "validate_data"
    BUILD_FEATURES = "build_features"
    SCORE_BATCH = "score_batch"
    WAIT_FOR_LABELS = "wait_for_labels"
    DELIVER_PREDICTIONS = "deliver_predictions"
    RECORD_OUTCOMES = "record_outcomes"
    MEASURE_PERFORMANCE = "measure_performance"
    DETECT_DRIFT = "detect_drift"
    DECIDE_RETRAIN = "decide_retrain"
    START_TRAINING = "start_training"
    DECLARE_GATE = "declare_gate"
    SEARCH_PARAMETERS = "search_parameters"
    TRAIN_MODEL = "train_model"
    PLAN_SEGMENTS = "plan_segments"
    TRAIN_SEGMENT = "train_segment"
    ASSEMBLE_MODEL = "assemble_model"
    EVALUATE_MODEL = "evaluate_model"
    DECIDE_GATE = "decide_gate"
    REGISTER_MODEL = "register_model"
    START_DEPLOYMENT = "start_deployment"
    APPROVE_VERSION = "approve_version"
    CHECK_SERVING = "check_serving"
    DEPLOY_MODEL = "deploy_model"
    END_ROLLOUT = "end_rollout"
    ROLLBACK_MODEL = "rollback_model"
    DRILL_ROLLBACK = "drill_rollback"


def plan_task(step: Task) -> str:
    """ID of the task that cuts a partition into chunks."""
    return f"{step}_plan"


def chunk_task(step: Task) -> str:
    """ID of the mapped task that works on one chunk."""
    return f"{step}_chunk"


class Tag(StrEnum):
    """Tags on MLflow runs and model versions."""

    ORIGIN = "mlops.origin"
    MODEL = "mlops.model"
    PARTITION = "mlops.partition"
    TRAINED_THROUGH = "mlops.trained_through"
    CAUSE = "mlops.cause"
    SEED = "mlops.seed"
    CODE_DIGEST = "mlops.code_digest"
    SPEC_DIGEST = "mlops.spec_digest"
    GATE_DIGEST = "mlops.gate_digest"
    GATE_RECORD = "mlops.gate_record"
    LEDGER_HEAD = "mlops.ledger_head"
    REJECTED = "mlops.rejected"
    ROLLED_BACK = "mlops.rolled_back"
    PROMOTED_FROM = "mlops.promoted_from"


class Alias(StrEnum):
    """Aliases of model versions in the registry: a projection of the ledger, never its source."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    PREVIOUS = "previous"


class Environment(StrEnum):
    """Environment variables that settings are read from."""

    TABLES_URI = "MLOPS_TABLES_URI"
    LEDGER_URL = "MLOPS_LEDGER_URL"
    REGISTRY_URI = "MLOPS_REGISTRY_URI"
    REPORTS_URI = "MLOPS_REPORTS_URI"
    SERVER_URL = "MLOPS_SERVER_URL"
    SERVER_TOKEN = "MLOPS_SERVER_TOKEN"  # noqa: S105 - its name, not its value
    SERVER_TOKENS = "MLOPS_SERVER_TOKENS"
    SERVER_TOKENS_FILE = "MLOPS_SERVER_TOKENS_FILE"
    PSEUDONYM_KEYS = "MLOPS_PSEUDONYM_KEYS"
    SPOOL_DIR = "MLOPS_SPOOL_DIR"
    SPOOL_URI = "MLOPS_SPOOL_URI"
    PACKAGE = "MLOPS_PACKAGE"
    PACKAGE_DIGEST = "MLOPS_PACKAGE_DIGEST"
    AWS_CONN_ID = "MLOPS_AWS_CONN_ID"
    LANDING_URI = "MLOPS_LANDING_URI"
    SNS_TOPIC = "MLOPS_SNS_TOPIC"
    EVIDENTLY_WORKSPACE = "MLOPS_EVIDENTLY_WORKSPACE"
    NAME = "MLOPS_ENVIRONMENT"


# Connection IDs; each is also the name of its connection type.
TABLES_CONN = "mlops_tables"
REGISTRY_CONN = "mlops_registry"
LEDGER_CONN = "mlops_ledger"
SERVER_CONN = "mlops_server"


SAGEMAKER_SETTINGS = ("aws_conn_id", "role_arn", "image", "archives")
"""What a connection to SageMaker holds beside its address."""


class Header(StrEnum):
    """HTTP headers of the model server."""

    VERSION = "X-MLOps-Version"
    GENERATION = "X-MLOps-Generation"
    REQUEST_ID = "X-MLOps-Request-Id"
    ENTITY = "X-MLOps-Entity"
    DEADLINE = "X-MLOps-Deadline-Ms"
    ARM = "X-MLOps-Arm"


CHECK_REQUEST = "check-"
"""How the IDs of requests begin that a rollout sends itself; they are logged, but no guard counts them."""
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
"""The one header of a request or an answer that SageMaker hands on; ours travel in it as ``name=value``."""


class Arm(StrEnum):
    """Why a row of the prediction log was scored by its version."""

    SPLIT = "split"
    PINNED = "pinned"
    FALLBACK = "fallback"
    SHADOW = "shadow"


def features_asset(model: str) -> str:
    """Name of the asset that says: the features of a month are ready."""
    return f"{model}/features"


def version_asset(model: str) -> str:
    """Name of the asset that says: a version was registered."""
    return f"{model}/version"
