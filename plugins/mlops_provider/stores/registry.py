"""MLflow's registry half: versions of a model, their tags and aliases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import entities
from mlflow.exceptions import MlflowException

from mlops_provider.core.names import Tag
from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import PermanentError
from mlops_provider.stores.stored_models import StoredModels


@dataclass(frozen=True, slots=True)
class ModelVersion(Payload):
    """One registered version: the run that made it, and the address of its files."""

    model: str
    version: str
    run_id: str
    source: str
    tags: Mapping[str, str]


class Registry(StoredModels):
    """
    One MLflow server, or a database in its place. Connects on first use.

    :param tracking_uri: ``http(s)://host:port``, ``sqlite:////folder/file.db`` or ``postgresql://...``. User and
        password for HTTP come from ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``.

    Every method raises ``StoreUnavailableError`` (retried) if MLflow is away, ``ConfigurationError`` (not retried) if
    it refuses the credentials, and ``PermanentError`` (not retried) if it refuses the request.
    """

    def ensure_version(self, model: str, run_id: str, *, tags: Mapping[str, str]) -> str:
        """
        Return the version that holds the model of a run, registered now if there is none.

        :param model: Name of the registered model; made if there is none.
        :param tags: Tags of a new version.
        :return: The version number.
        :raises PermanentError: The run stored no model. Not retried.
        """
        with self._explained():
            if found := self._versions(model, run_id):
                return found[0].version
            stored = self._stored(run_id)
            self._ensure_model(model)
            # Not its models:/ address: without a server, MLflow would look that up in the global tracking URI.
            made = self._client.create_model_version(
                model,
                stored.artifact_location,
                run_id,
                tags={str(key): value for key, value in tags.items()},
                model_id=stored.model_id,
            )
            first = self._versions(model, run_id)[0]
            if first.version != str(made.version):
                self._client.delete_model_version(model, str(made.version))
            return first.version

    def models(self) -> list[str]:
        """Names of all models that have a version which was registered by this package, by its tag."""
        with self._explained():
            return sorted({version.model for version in self._search(f"tags.`{Tag.MODEL}` LIKE '%'")})

    def version(self, model: str, version: str) -> ModelVersion:
        """
        One version.

        :raises PermanentError: There is no such version. Not retried.
        """
        with self._explained():
            try:
                return _version(self._client.get_model_version(model, version))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        raise PermanentError(f"MLflow at {self._shown} has no version {version} of {model!r}.")

    def versions(self, model: str) -> list[ModelVersion]:
        """All versions of a model, oldest first."""
        with self._explained():
            return self._versions(model)

    def aliases(self, model: str) -> dict[str, str]:
        """Version of each alias of a model; empty if there is no such model."""
        with self._explained():
            try:
                return {str(k): str(v) for k, v in self._client.get_registered_model(model).aliases.items()}
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        return {}

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        with self._explained():
            self._client.set_registered_model_alias(model, str(alias), version)

    def remove_alias(self, model: str, alias: str, version: str) -> None:
        """Take an alias away from a version; nothing happens if it points elsewhere."""
        with self._explained():
            aliases = self._client.get_registered_model(model).aliases
            if str(aliases.get(str(alias))) == version:
                self._client.delete_registered_model_alias(model, str(alias))

    def describe(self, model: str, *, about: str, version: str, text: str) -> None:
        """Say in words what a model is for, and what one of its versions is; shown on MLflow's pages."""
        with self._explained():
            self._client.update_registered_model(model, about)
            self._client.update_model_version(model, version, text)

    def tag_version(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        with self._explained():
            for key, value in tags.items():
                self._client.set_model_version_tag(model, version, str(key), value)

    def _ensure_model(self, model: str) -> None:
        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _versions(self, model: str, run_id: str | None = None) -> list[ModelVersion]:
        """Versions of a model, or only those of a run, oldest first."""
        wanted = f"name = '{model}'" + (f" AND run_id = '{run_id}'" if run_id else "")
        return sorted(self._search(wanted), key=lambda version: int(version.version))

    def _search(self, wanted: str) -> list[ModelVersion]:
        """Versions that a filter of MLflow finds."""
        found: list[entities.model_registry.ModelVersion] = []
        token: str | None = ""
        while token is not None:
            page = self._client.search_model_versions(wanted, page_token=token or None)
            found.extend(page)
            token = page.token or None
        return list(map(_version, found))


def _version(found: entities.model_registry.ModelVersion) -> ModelVersion:
    return ModelVersion(found.name, str(found.version), found.run_id or "", found.source or "", dict(found.tags))
