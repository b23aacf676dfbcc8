"""The registry alone: put a version into MLflow, or an alias on it, by REST; no MLflow is needed on the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_provider.core import names
from mlops_provider.hooks.registry import RegistryHook
from mlops_provider.operators.base import MLOpsOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class RegistryOperator(MLOpsOperator):
    """
    A step that speaks with MLflow's model registry by REST.

    :param model: Name of the registered model. (templated)
    :param registry_conn_id: Connection of the MLflow server. (templated)
    """

    template_fields: Sequence[str] = ("model", "registry_conn_id")

    def __init__(self, *, model: str, registry_conn_id: str = names.REGISTRY_CONN, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.registry_conn_id = registry_conn_id

    @cached_property
    def hook(self) -> RegistryHook:
        """The registry behind the connection."""
        return RegistryHook(self.registry_conn_id)


class RegisterVersionOperator(RegistryOperator):
    """
    Register a model's files as a version, unless a version holds them already.

    The event of each asset in ``outlets`` carries the model's name and version.

    :param model: Name of the registered model; made if there is none. (templated)
    :param source: ``runs:/<run>/<path>``, ``models:/m-<id>``, or the address of the model's files. (templated)
    :param tags: Tags of a new version. (templated)
    :return: The version number, as a string.
    :raises ConfigurationError: The connection is missing, or the credentials are refused. Not retried.
    :raises PermanentError: There is no such run or model. Not retried.
    :raises StoreUnavailableError: MLflow doesn't answer. Retried.
    """

    template_fields: Sequence[str] = (*RegistryOperator.template_fields, "source", "tags")

    def __init__(self, *, source: str, tags: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.tags = tags

    def step(self, context: Context, origin: Origin) -> str:
        version, new = self.hook.api.ensure_version(self.model, self.source, tags=self.tags)
        self.announce(context, model=self.model, version=version)
        self.log.info("%s %s version %s", "Registered as" if new else "Is registered as", self.model, version)
        return version


class PromoteVersionOperator(RegistryOperator):
    """
    Point an alias at a version, unless it points there already.

    :param model: Name of the registered model. (templated)
    :param version: Version number. (templated)
    :param alias: Alias to move. (templated)
    :return: ``model``, ``version``, ``alias``, and ``previous``, the version it pointed at before or None.
    :raises ConfigurationError: The connection is missing, or the credentials are refused. Not retried.
    :raises PermanentError: There is no such version. Not retried.
    :raises StoreUnavailableError: MLflow doesn't answer. Retried.
    """

    template_fields: Sequence[str] = (*RegistryOperator.template_fields, "version", "alias")

    def __init__(self, *, version: str, alias: str = names.Alias.CHAMPION.value, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.alias = alias

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        moved = self.hook.api.promote(self.model, str(self.version), self.alias)
        self.log.info(
            "%s %s is version %s; it was %s.", self.model, moved.alias, moved.version, moved.previous or "nothing"
        )
        return moved.as_json()
