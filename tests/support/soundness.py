"""What must hold after any fault, and what to count to see it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from deltalake import DeltaTable
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus

from mlops_provider.core.names import Kind, Table, Tag
from mlops_provider.core.references import TableRef
from support.tiny import MODEL, Place, origin

KEYS = ["line", "trip"]
ANSWER_KEYS = ["request_id", "row"]
_MAY_REPEAT = (Table.RAW, Table.QUARANTINE)
"""Tables that hold what the source delivered, repeated keys included."""


def assert_nothing_broken(place: Place) -> None:
    """Every version of every table can be read, holds no key twice, and the ledger's chain holds without a gap."""
    stores = place.stores()
    assert stores.ledger.verify() is None
    generations = [traffic.generation for traffic in stores.ledger.traffic_history(MODEL)]
    assert generations == list(range(1, len(generations) + 1))
    for table in Table:
        uri = place.table(table)
        for version in range((stores.tables.version(uri) or -1) + 1):
            frame = stores.tables.read(TableRef(uri, version))
            keys = ANSWER_KEYS if table == Table.PREDICTION_LOG else KEYS
            assert table in _MAY_REPEAT or not frame.duplicated(keys).any(), f"{table} {version} holds a key twice"
        for partition, contents in _replacements(place, uri).items():
            twice = [one for one, following in pairwise(contents) if one == following]
            assert not twice, f"{partition} of {table} was replaced by what it held"


def contents(place: Place) -> dict[tuple[str, str], str]:
    """Hash of what each partition of each table holds."""
    tables = place.stores().tables
    found = {}
    for table in Table:
        uri = place.table(table)
        for partition in tables.partitions(uri):
            found[str(table), partition] = str(tables.content(uri, partition))
    return found


def versions(place: Place) -> dict[str, int]:
    """Newest version of each table there is."""
    tables = place.stores().tables
    found = {str(table): tables.version(place.table(table)) for table in Table}
    return {table: version for table, version in found.items() if version is not None}


def replacements(place: Place, table: Table, partition: str) -> int:
    """How often a partition was replaced."""
    return len(_replacements(place, place.table(table))[partition])


def _replacements(place: Place, uri: str) -> Mapping[str, list[str]]:
    """Contents that each partition had, oldest first."""
    found: dict[str, list[str]] = defaultdict(list)
    options = place.stores().tables.storage_options
    if DeltaTable.is_deltatable(uri, storage_options=options):
        for commit in DeltaTable(uri, storage_options=options).history()[::-1]:
            if "mlops.content" in commit:
                found[commit["mlops.partition"]].append(commit["mlops.content"])
    return found


def records(place: Place, kind: Kind, run: str | None = None) -> list[Mapping[str, Any]]:
    """Payloads of the records of a kind, oldest first; only those of the tasks of a DAG run if it is named."""
    found = place.stores().ledger.history(kind, MODEL)
    return [one.payload for one in found if run is None or f"/{run}/" in (one.key or "")]


def mlflow_runs(place: Place, run: str) -> list[str]:
    """IDs of the MLflow runs that stand for a DAG run; deleted ones do not count."""
    client, task = _mlflow(place), origin("train_model", run)
    wanted = f"tags.`{Tag.ORIGIN}` LIKE '{task.dag_id}/{task.run_id}:%'"
    return [found.info.run_id for found in client.search_runs(_experiments(client), wanted)]


def assert_trained_once(place: Place, run: str) -> str:
    """A DAG run has one finished MLflow run, which names one model, and one training record; give the MLflow run."""
    client = _mlflow(place)
    (run_id,) = mlflow_runs(place, run)
    found = client.get_run(run_id)
    assert found.inputs
    assert found.outputs
    assert found.info.status == "FINISHED"
    model = _model(client, run_id)
    assert [output.model_id for output in found.outputs.model_outputs] == [model.model_id]
    (trained,) = [one for one in records(place, Kind.TRAINING) if one["run_id"] == run_id]
    assert trained["model_uri"] == model.model_uri
    contexts = [tag.value for dataset in found.inputs.dataset_inputs for tag in dataset.tags]
    assert contexts.count("training") == 2
    return run_id


def assert_registered_once(place: Place, run_id: str) -> str:
    """An MLflow run has one version, of the model it names, and one registration; give the version."""
    client = _mlflow(place)
    (version,) = client.search_model_versions(f"run_id = '{run_id}'")
    (registered,) = [one for one in records(place, Kind.REGISTRATION) if one["run_id"] == run_id]
    assert registered["version"] == str(version.version)
    assert version.source == _model(client, run_id).artifact_location
    return str(version.version)


def _mlflow(place: Place) -> MlflowClient:
    address = place.stores().registry.tracking_uri
    return MlflowClient(address, address)


def _experiments(client: MlflowClient) -> list[str]:
    return [experiment.experiment_id for experiment in client.search_experiments()]


def _model(client: MlflowClient, run_id: str) -> LoggedModel:
    """The model of a run: there is one, it is complete, and no half one lies beside it."""
    (model,) = client.search_logged_models(_experiments(client), f"source_run_id = '{run_id}'")
    assert model.status == LoggedModelStatus.READY
    return model
