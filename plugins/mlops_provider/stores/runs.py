"""
Runs in MLflow and what they log.

Nothing here touches MLflow's global state, so several registries may live in one process. MLflow cannot refuse a second
run of one task, nor a second model of one run: tries that overlap make both, agree on one, and delete the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException

from mlops_provider.core.names import Tag
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import ConcurrentWriteError
from mlops_provider.stores import mlflow_access

_ATTEMPTS = 20
_PARAMS_PER_CALL = 100
"""MLflow's own limit."""

_RUN_ID = "mlops.run_id"
"""Parameter by which overlapping tries agree on a run: the one thing in MLflow that can be written only once."""


_OWN = "mlops."
"""How names of this package begin."""


@dataclass(frozen=True, slots=True)
class Logged:
    """
    Parameters, metrics and tags of a run.

    :param tags: Those of this package, but the one that makes the run unique.
    """

    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class Runs:
    """
    Runs of one MLflow server. Connects on first use; errors as in :class:`~mlops_provider.stores.registry.Registry`.

    :param tracking_uri: Address of the server, or of the database in its place.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    @cached_property
    def _client(self) -> MlflowClient:
        self.ping()
        return MlflowClient(self.tracking_uri, self.tracking_uri)

    def ping(self) -> None:
        """Return if MLflow gives a sign of life within seconds."""
        mlflow_access.check(self.tracking_uri)

    def ensure_run(self, experiment: str, key: str, *, name: str, tags: Mapping[str, str]) -> str:
        """
        Return the run of *key*, made now if there is none.

        :param experiment: Experiment to look in; made if there is none.
        :param key: What the run is for, the same for every try.
        :param name: Name for people.
        :return: MLflow run ID.
        """
        with self._explained():
            experiment_id = self._experiment(experiment)
            agreed = self._agreed(experiment_id, key)
            if agreed is None:
                made = self._client.create_run(experiment_id, run_name=name, tags={**tags, Tag.ORIGIN: key})
                agreed = self._agreed(experiment_id, key)
                if agreed != made.info.run_id:
                    self._client.delete_run(made.info.run_id)
        if agreed is None:
            raise ConcurrentWriteError(f"The run of {key!r} at {self._shown} was deleted while it was made.")
        return agreed

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """
        Add parameters, metrics and tags to a run. Saying the same twice leaves one of each.

        :raises PermanentError: The run has another value of a parameter. Not retried.
        """
        with self._explained():
            # The run's own start as the time of its metrics: a retry then overwrites instead of adding a point.
            moment = self._client.get_run(run_id).info.start_time
            pairs = [Param(key, str(value)) for key, value in (params or {}).items()]
            for start in range(0, len(pairs), _PARAMS_PER_CALL):
                self._client.log_batch(run_id, params=pairs[start : start + _PARAMS_PER_CALL])
            self._client.log_batch(
                run_id,
                metrics=[Metric(key, float(value), moment, 0) for key, value in (metrics or {}).items()],
                tags=[RunTag(str(key), value) for key, value in (tags or {}).items()],
            )

    def finish(self, run_id: str, failed: bool = False) -> None:
        """End a run."""
        with self._explained():
            self._client.set_terminated(run_id, "FAILED" if failed else "FINISHED")

    def log_dataset(self, run_id: str, ref: TableRef, name: str, context: str) -> None:
        """Say that a run read one version of a table."""
        dataset = Dataset(
            name=name,
            digest=f"v{ref.version}-{ref.partition}" if ref.partition else f"v{ref.version}",
            source_type="delta_table",
            source=json.dumps({"path": ref.table, "delta_table_version": ref.version}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        with self._explained():
            self._client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    def logged(self, run_id: str) -> Logged:
        """What a run logged, without what this package keeps there for itself."""
        with self._explained():
            data = self._client.get_run(run_id).data
        params = {name: value for name, value in data.params.items() if not name.startswith(_OWN)}
        tags = {name: value for name, value in data.tags.items() if name.startswith(_OWN) and name != Tag.ORIGIN}
        return Logged(params, dict(data.metrics), tags)

    def run_url(self, run_id: str, ui_url: str) -> str:
        """Address of a run's page in MLflow's UI."""
        with self._explained():
            experiment_id = self._client.get_run(run_id).info.experiment_id
        return f"{ui_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, artifact_location=self._artifacts(name))
            except MlflowException as error:
                found = self._client.get_experiment_by_name(name)
                if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise
        return str(found.experiment_id)

    def _artifacts(self, experiment: str) -> str | None:
        """Without a server MLflow would put artifacts into the current folder; beside the database is better."""
        if not self.tracking_uri.startswith("sqlite"):
            return None
        return (mlflow_access.sqlite_file(self.tracking_uri).parent / "artifacts" / experiment).as_uri()

    def _runs(self, experiment_id: str, key: str) -> list[Run]:
        """Runs of a key, in an order that all tries see."""
        quote = '"' if "'" in key else "'"
        found = self._client.search_runs([experiment_id], f"tags.`{Tag.ORIGIN}` = {quote}{key}{quote}")
        return sorted(found, key=lambda run: str(run.info.run_id))

    def _agreed(self, experiment_id: str, key: str) -> str | None:
        """
        Let overlapping tries agree on one run: the one whose parameter names itself. None if there is no run.

        A try closes the other undecided runs that it sees, by naming the first of them in each, and then names that
        one in itself. Whoever made a run later sees all earlier ones: so no two runs can come to name themselves.
        """
        for _ in range(_ATTEMPTS):
            runs = self._runs(experiment_id, key)
            for run in runs:
                if run.data.params.get(_RUN_ID) == run.info.run_id:
                    return str(run.info.run_id)
            undecided = [str(run.info.run_id) for run in runs if _RUN_ID not in run.data.params]
            if not undecided:
                return None
            try:
                for run_id in (*undecided[1:], undecided[0]):
                    self._client.log_param(run_id, _RUN_ID, undecided[0])
            except MlflowException:
                continue  # another try decided about one of them meanwhile: look again
        raise ConcurrentWriteError(f"Tries of {key!r} at {self._shown} found no common run in {_ATTEMPTS} rounds.")

    @property
    def _shown(self) -> str:
        return mlflow_access.shown(self.tracking_uri)

    def _explained(self) -> AbstractContextManager[None]:
        return mlflow_access.explained(self.tracking_uri)
