"""Traffic: prove that the server can answer with a version, move traffic to it, or take it back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_provider.core import names
from mlops_provider.operators.base import ModelStepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class TrafficOperator(ModelStepOperator):
    """
    A step that speaks with the model server.

    :param server_conn_id: Connection of the model server. (templated)
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "server_conn_id")

    def __init__(self, *, server_conn_id: str = names.SERVER_CONN, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server_conn_id = server_conn_id

    @cached_property
    def target(self) -> Any:
        """Where the traffic is moved."""
        from mlops_provider.hooks.server import ServerHook
        from mlops_provider.targets import Server

        hook = ServerHook(self.server_conn_id)
        return Server(hook.address, model=self.spec.name, ledger=self.stores.ledger, token=hook.token)


class CheckServingOperator(TrafficOperator):
    """
    Load a version beside the others on every live replica and compare its answers with the registry's model.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param version: Registered version. (templated)
    :param server_conn_id: Connection of the model server. (templated)
    :return: Ledger ID of the check.
    :raises ServingCheckError: A replica can't load it or answers differently. Not retried.
    """

    template_fields: Sequence[str] = (*TrafficOperator.template_fields, "version")

    def __init__(self, *, version: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import deploy

        return deploy.check_serving(self.spec, self.stores, self.version, target=self.target, origin=origin)


class DeployModelOperator(TrafficOperator):
    """
    Move traffic to a version in the declared steps; settle it, or roll back.

    A retry goes on at the step that the first try reached. Skipped if the version already has the traffic.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param version: Registered version. (templated)
    :param server_conn_id: Connection of the model server. (templated)
    :return: The settled traffic record.
    :raises RolloutRefusedError: The version never passed the gate, or was rolled back before. Not retried.
    :raises ConcurrentWriteError: Another rollout moved the traffic meanwhile. Retried.
    """

    template_fields: Sequence[str] = (*TrafficOperator.template_fields, "version")

    def __init__(self, *, version: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import deploy

        return deploy.deploy(self.spec, self.stores, self.version, target=self.target, origin=origin).as_json()


class RollbackModelOperator(TrafficOperator):
    """
    Give the traffic back to the last settled version.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param reason: Why, for the record. (templated)
    :param server_conn_id: Connection of the model server. (templated)
    :return: The new traffic record.
    :raises RolloutRefusedError: There is no earlier settled version to go back to. Not retried.
    """

    template_fields: Sequence[str] = (*TrafficOperator.template_fields, "reason")

    def __init__(self, *, reason: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reason = reason

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import deploy

        return deploy.rollback(
            self.spec.name, self.stores, reason=self.reason, target=self.target, origin=origin
        ).as_json()
