"""A version gets the traffic, or loses it."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param

from mlops_provider.core.names import Task
from mlops_provider.operators.approval import ApproveVersionOperator
from mlops_provider.operators.base import Callbacks
from mlops_provider.operators.deploy import (
    CheckServingOperator,
    DeployModelOperator,
    DrillRollbackOperator,
    EndRolloutOperator,
    RollbackModelOperator,
)
from mlops_provider.spec import load_spec
from mlops_provider.stages.resources import resources

VERSION = "{{ params.version }}"
PATIENT = {"retries": 10, "retry_delay": timedelta(seconds=30)}
"""Between two tries of what moves traffic nobody watches: a store that is away for minutes must not end it."""


def deploy_params() -> dict[str, Param]:
    """The form of a deployment."""
    return {
        "version": Param(
            type="string",
            pattern=r"^[1-9]\d*$",
            title="Version",
            description="Registered version that passed the gate, such as 3.",
        )
    }


def deploy(model_yaml: str, *, on_incident_callback: Callbacks = None) -> None:
    """
    Ask a person if model.yaml wants that, check that the server can answer, then move traffic as declared.

    A teardown takes back what was interrupted: it also runs if somebody marks tasks or the run as failed.

    :param model_yaml: Path of the use case's ``model.yaml``.
    :param on_incident_callback: Notifiers to call when the version was taken back.
    """
    told = {"version": VERSION, "on_incident_callback": on_incident_callback}
    check = CheckServingOperator(**resources(model_yaml, Task.CHECK_SERVING), **told, **PATIENT)
    rollout = DeployModelOperator(**resources(model_yaml, Task.DEPLOY_MODEL), **told, **PATIENT)
    if load_spec(model_yaml).approval.policy != "never":
        ApproveVersionOperator(**resources(model_yaml, Task.APPROVE_VERSION), version=VERSION) >> check
    check >> rollout >> EndRolloutOperator(**resources(model_yaml, Task.END_ROLLOUT), **told, **PATIENT).as_teardown()


def rollback_params() -> dict[str, Param]:
    """The form of a rollback."""
    return {
        "reason": Param(
            type="string",
            minLength=3,
            title="Reason",
            description="Why the serving version has to go; it is recorded in the ledger.",
        ),
        "version": Param(
            None,
            type=["null", "string"],
            pattern=r"^[1-9]\d*$",
            title="Version",
            description="Version that has to go, such as 3; nothing happens if it has gone already. Empty: the newest.",
        ),
    }


def rollback(model_yaml: str) -> None:
    """Give the traffic back to the last settled version."""
    RollbackModelOperator(
        **resources(model_yaml, Task.ROLLBACK_MODEL),
        reason="{{ params.reason }}",
        version="{{ params.get('version') or '' }}",
    )


def drill(model_yaml: str) -> None:
    """
    Let the version before answer for a moment: is a rollback possible, and how fast?

    A teardown ends what was interrupted.
    """
    drilled = DrillRollbackOperator(**resources(model_yaml, Task.DRILL_ROLLBACK), **PATIENT)
    drilled >> EndRolloutOperator(**resources(model_yaml, Task.END_ROLLOUT), **PATIENT).as_teardown()
