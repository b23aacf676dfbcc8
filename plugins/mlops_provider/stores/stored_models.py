"""Models that runs stored in MLflow: one per run, in a form that loads no code of its own."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow.artifacts
import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mlops_provider.core.columns import Column
from mlops_provider.exceptions import EvidenceError, PermanentError
from mlops_provider.stores import model_files
from mlops_provider.stores.runs import Runs

_MODEL_NAME = "model"
_MODEL_ID = "mlops.model_id"
"""Parameter of a run that names its model; like all parameters it can be written only once."""

_OVERTAKEN = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""What MLflow says to a try whose parameter is taken, or whose model another one deleted."""


class StoredModels(Runs):
    """The models of one MLflow server's runs; errors as in :class:`~mlops_provider.stores.registry.Registry`."""

    def log_model(
        self,
        run_id: str,
        model: Any,
        *,
        example: pd.DataFrame,
        pip_requirements: Sequence[str],
        trusted_types: Sequence[str],
        predict: str = "predict_proba",
    ) -> str:
        """
        Store the model of a run: with signature, input example and pinned requirements, in skops form.

        A run has one model: if it has one already, that one is returned.

        :param model: A fitted scikit-learn estimator.
        :param example: A few feature rows (n_rows, n_features).
        :param trusted_types: Types beyond skops' own list that the model may hold.
        :param predict: Method of the model that MLflow's ``predict`` calls.
        :return: Address of the model, ``models:/m-...``.
        :raises ConfigurationError: The model holds a type that is not trusted. Not retried.
        """

        def save(folder: Path, model_id: str) -> None:
            about = Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
            model_files.save(
                model,
                folder,
                about,
                example=example,
                pip_requirements=pip_requirements,
                trusted_types=trusted_types,
                predict=predict,
            )

        return self._log_once(run_id, save)

    def copy_model(self, run_id: str, files: Path) -> str:
        """
        Store the files of a model of another registry, byte by byte, as the model of a run.

        A run has one model: if it has one already, that one is returned.

        :param files: Folder that :meth:`download_model` filled.
        :return: Address of the model, ``models:/m-...``.
        """
        return self._log_once(run_id, lambda folder, _: shutil.copytree(files, folder))

    def download_model(self, model_uri: str, folder: Path) -> Path:
        """Fetch all files of a model into *folder*, which is made; give the folder they are in."""
        folder.mkdir(parents=True, exist_ok=True)
        return self._download(model_uri, str(folder))

    def model_digest(self, model_uri: str) -> str:
        """SHA-256, in hex, over the names and bytes of all files of a model."""
        with tempfile.TemporaryDirectory() as folder:
            return model_files.content_digest(self._download(model_uri, folder))

    def keep_estimator(self, run_id: str, model: Any, *, folder: str, trusted_types: Sequence[str]) -> dict[str, str]:
        """
        Keep a fitted estimator among the artifacts of a run, for a later task of it. It is no model of the run.

        Its name is made of its content, so that a try that was thought dead overwrites nobody's.

        :param folder: Folder of the run's artifacts.
        :param trusted_types: Types beyond skops' own list that it may hold.
        :return: ``path`` and ``sha256``, for :meth:`kept_estimator`.
        :raises ConfigurationError: It holds a type that is not trusted. Not retried.
        """
        content = model_files.packed(model, trusted_types=trusted_types)
        digest = hashlib.sha256(content).hexdigest()
        with self._explained(), tempfile.TemporaryDirectory() as local:
            file = Path(local, f"{digest[:16]}.skops")
            file.write_bytes(content)
            self._client.log_artifact(run_id, str(file), folder)
        return {"path": f"{folder}/{file.name}", "sha256": digest}

    def kept_estimator(self, run_id: str, kept: Mapping[str, str], *, trusted_types: Sequence[str]) -> Any:
        """
        Load what :meth:`keep_estimator` kept.

        :raises PermanentError: It is not there any more. Not retried.
        :raises EvidenceError: It is not what was kept. Not retried.
        :raises ServingCheckError: It cannot be loaded here. Not retried.
        """
        self.ping()
        lost = "A fitted estimator that this training needs is lost, and its record stays: start another training run."
        with self._explained(), tempfile.TemporaryDirectory() as local:
            # Asked first: what a download of nothing raises depends on where MLflow keeps its artifacts.
            there = self._client.list_artifacts(run_id, str(PurePosixPath(kept["path"]).parent))
            if kept["path"] not in [each.path for each in there]:
                raise PermanentError(f"{kept['path']} of run {run_id!r} at {self._shown} is not there any more. {lost}")
            content = Path(self._client.download_artifacts(run_id, kept["path"], local)).read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != kept["sha256"]:
            raise EvidenceError(
                f"{kept['path']} of run {run_id!r} at {self._shown} was changed: SHA-256 {found}, and {kept['sha256']} "
                f"was recorded. {lost}"
            )
        return model_files.unpacked(content, trusted_types=trusted_types)

    def _log_once(self, run_id: str, save: Callable[[Path, str], object]) -> str:
        """
        Let *save* fill a folder and store it as the run's model, unless the run has one.

        :param save: Gets the folder, which it makes, and the ID of the model.
        """
        with self._explained():
            run = self._client.get_run(run_id)
            if _MODEL_ID not in run.data.params:
                try:
                    self._store(run, save)
                except MlflowException as error:  # unless another try was faster
                    if error.error_code not in _OVERTAKEN or _MODEL_ID not in self._params(run_id):
                        raise
            model_id = self._params(run_id)[_MODEL_ID]
            self._settle_model(run, model_id)
            return f"models:/{model_id}"

    def add_file(self, run_id: str, name: str, content: bytes) -> None:
        """
        Put a file beside those of a run's model, in place of one of that name.

        :raises PermanentError: The run stored no model. Not retried.
        """
        with self._explained(), tempfile.TemporaryDirectory() as folder:
            Path(folder, name).write_bytes(content)
            self._client.log_model_artifacts(self._stored(run_id).model_id, folder)

    def load_model(self, model_uri: str, *, trusted: Sequence[str] = ()) -> Any:
        """
        Load a model.

        :param model_uri: ``models:/m-...`` or ``models:/name/version``.
        :param trusted: Types that it may hold beyond those that every model may.
        :return: The fitted scikit-learn estimator.
        :raises ServingCheckError: It is no skops model, or could run foreign code when loaded. Not retried.
        """
        with tempfile.TemporaryDirectory() as folder:
            return model_files.load(self._download(model_uri, folder), trusted=trusted)

    def columns(self, model_uri: str) -> tuple[Column, ...]:
        """
        Name what a model takes, in order; loads no model.

        :raises ServingCheckError: It has no signature, or columns that are not plain. Not retried.
        """
        with tempfile.TemporaryDirectory() as folder:
            return model_files.columns(self._download(model_uri, folder))

    def _store(self, run: Run, save: Callable[[Path, str], object]) -> None:
        """Upload a model, complete, and only then say that it is the run's."""
        run_id = run.info.run_id
        made = self._client.create_logged_model(run.info.experiment_id, _MODEL_NAME, source_run_id=run_id)
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent, _MODEL_NAME)
            save(folder, made.model_id)
            self._client.log_model_artifacts(made.model_id, str(folder))
        self._client.log_param(run_id, _MODEL_ID, made.model_id)

    def _download(self, model_uri: str, folder: str) -> Path:
        """Fetch all files of a model."""
        self.ping()
        with self._explained():
            return Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=self._location(model_uri),
                    dst_path=folder,
                    tracking_uri=self.tracking_uri,
                    registry_uri=self.tracking_uri,
                )
            )

    def _location(self, model_uri: str) -> str:
        """Where a model's files are. MLflow itself would look ``models:/m-...`` up in the global tracking URI."""
        name, _, version = model_uri.removeprefix("models:/").partition("/")
        if version:
            return str(self._client.get_model_version_download_uri(name, version))
        return str(self._client.get_logged_model(name).artifact_location)

    def _params(self, run_id: str) -> dict[str, str]:
        return dict(self._client.get_run(run_id).data.params)

    def _stored(self, run_id: str) -> LoggedModel:
        """The one model of a run."""
        if model_id := self._params(run_id).get(_MODEL_ID):
            return self._client.get_logged_model(model_id)
        raise PermanentError(f"Run {run_id!r} at {self._shown} has stored no model: train it first.")

    def _logged(self, run_id: str) -> list[LoggedModel]:
        """Every model that tries have stored for a run, complete or not; one, once a try has ended."""
        experiment_id = self._client.get_run(run_id).info.experiment_id
        return list(self._client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"))

    def _settle_model(self, run: Run, model_id: str) -> None:
        """Finish what a try may have been killed before: mark the run's model, delete what other tries stored."""
        run_id = run.info.run_id
        self._client.finalize_logged_model(model_id, LoggedModelStatus.READY)
        for found in self._logged(run_id):
            if found.model_id != model_id:
                with suppress(MlflowException):  # its own try was faster
                    self._client.delete_logged_model(found.model_id)
        if not (run.outputs and run.outputs.model_outputs):
            with suppress(MlflowException):  # MLflow refuses to say it twice
                self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
