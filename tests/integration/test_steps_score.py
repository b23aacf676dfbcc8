"""Score a month: with the version in service, from a real registry, ledger and table store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from mlops_provider.adapters import scoring
from mlops_provider.adapters.training import TRUSTED_TYPES
from mlops_provider.core.names import Kind, Table
from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import MissingPartitionError, NothingToDo, SourceError
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.steps import ingest
from mlops_provider.steps.score import score
from mlops_provider.steps.traffic import champion
from mlops_provider.stores.suite import Stores
from support import flights
from support.flights import FEBRUARY, JANUARY


def origin(task: str, run: str = "first") -> Origin:
    return Origin("flight_delays_score", run, task)


@dataclass
class World:
    """Features of January, and two registered versions that differ."""

    spec: ModelSpec
    stores: Stores
    features: TableRef
    models: dict[str, Pipeline]

    def score(self, month: str = JANUARY, run: str = "first", features: TableRef | None = None) -> TableRef:
        return score(self.spec, self.stores, month, features, origin=origin("score_batch", run))

    def move_traffic(self, split: dict[str, int], *, settled: bool = True) -> None:
        before = self.stores.ledger.traffic(self.spec.name)
        self.stores.ledger.propose_traffic(
            self.spec.name, split, settled=settled, expected_generation=before.generation if before else 0
        )

    def rows(self) -> pd.DataFrame:
        return self.stores.tables.read(self.features)

    def expected(self, version: str) -> np.ndarray:
        return self.models[version].predict_proba(self.rows()[list(self.spec.feature_columns)])[:, 1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("score")
    stores = Stores(
        tables_uri=str(folder / "tables"),
        registry_uri=f"sqlite:///{folder}/mlflow.db",
        ledger_url=f"sqlite:///{folder}/ledger.db",
    )
    flights.write_source(folder / "source", flights.two_days())
    spec = load_spec(flights.MODEL_YAML)
    with pytest.MonkeyPatch.context() as environment, closing(stores.ledger):
        environment.setenv("FLIGHT_DELAYS_SOURCE", str(folder / "source"))
        landed = ingest.land(spec, stores, JANUARY, origin=origin("land_data"))
        clean = ingest.validate(spec, stores, JANUARY, landed, origin=origin("validate_data"))
        features = ingest.build_features(spec, stores, JANUARY, clean, origin=origin("build_features"))
        yield World(spec, stores, features, _registered(spec, stores, features))


def _registered(spec: ModelSpec, stores: Stores, features: TableRef) -> dict[str, Pipeline]:
    rows = stores.tables.read(features).merge(spec.function("outcomes")(JANUARY), on=list(spec.keys))
    columns = list(spec.feature_columns)
    models = {}
    for trees in (3, 6):
        model = spec.function("estimator")({"max_iter": trees, "min_samples_leaf": 20}).fit(rows[columns], rows["late"])
        run_id = stores.registry.ensure_run(spec.name, f"train/{trees}", name=f"{trees} trees", tags={})
        stores.registry.log_model(
            run_id, model, example=rows[columns].head(5), pip_requirements=["scikit-learn"], trusted_types=TRUSTED_TYPES
        )
        models[stores.registry.ensure_version(spec.name, run_id, tags={})] = model
    return models


@pytest.fixture
def world(shared: World, tmp_path: Path) -> Iterator[World]:
    """The shared features and versions, with a ledger and tables of predictions of its own."""
    stores = Stores(
        tables_uri=str(tmp_path / "tables"),
        registry_uri=shared.stores.registry.tracking_uri,
        ledger_url=f"sqlite:///{tmp_path}/ledger.db",
    )
    tables = stores.tables
    uri = tables.uri(shared.spec.name, Table.FEATURES)
    written = tables.replace_partition(uri, JANUARY).write(shared.rows(), origin_key="copy")
    with closing(stores.ledger):
        yield World(shared.spec, stores, written.ref, shared.models)


def test_without_a_version_in_service_there_is_nothing_to_do(world: World) -> None:
    with pytest.raises(NothingToDo, match="no version in service yet"):
        world.score()
    assert not world.stores.tables.exists(world.stores.tables.uri(world.spec.name, Table.PREDICTIONS))


def test_every_row_is_predicted_as_the_model_itself_does(world: World) -> None:
    world.move_traffic({"1": 100})

    predicted = world.stores.tables.read(world.score())

    assert list(predicted.columns) == [*world.spec.keys, world.spec.event_time, "prediction", "version", "scored_by"]
    assert predicted["prediction"].to_numpy() == pytest.approx(world.expected("1"))
    assert set(predicted["version"]) == {"1"}
    assert set(predicted["scored_by"]) == {"flight_delays_score/first/score_batch/-1"}
    assert predicted[list(world.spec.keys)].equals(world.rows()[list(world.spec.keys)])


def test_the_event_time_may_be_part_of_the_key(world: World) -> None:
    world.move_traffic({"1": 100})
    keys = (*world.spec.keys, world.spec.event_time)
    spec = world.spec.model_copy(update={"keys": keys})

    written = score(spec, world.stores, JANUARY, origin=origin("score_batch"))

    assert list(world.stores.tables.read(written).columns) == [*keys, "prediction", "version", "scored_by"]


def test_flights_that_will_never_have_a_label_are_predicted_too(world: World) -> None:
    world.move_traffic({"1": 100})

    predicted = world.stores.tables.read(world.score())

    assert len(predicted) == len(world.rows()) > len(flights.two_days().query("month == 1")["arr_delay"].dropna())


def test_the_version_with_most_traffic_of_what_settled_last_predicts(world: World) -> None:
    world.move_traffic({"1": 90, "2": 10})
    assert champion(world.stores.ledger, world.spec.name) == "1"

    world.move_traffic({"1": 40, "2": 60}, settled=False)
    under_way = world.stores.tables.read(world.score())
    world.move_traffic({"1": 40, "2": 60})
    settled = world.stores.tables.read(world.score(run="second"))

    assert set(under_way["version"]) == {"1"}
    assert set(settled["version"]) == {"2"}
    assert settled["prediction"].to_numpy() == pytest.approx(world.expected("2"))


def test_a_rollout_that_never_settled_has_no_champion(world: World) -> None:
    world.move_traffic({"1": 100}, settled=False)

    with pytest.raises(NothingToDo):
        world.score()


def test_a_retry_changes_nothing(world: World) -> None:
    world.move_traffic({"1": 100})

    first, again = world.score(), world.score()

    assert first == again
    (record,) = world.stores.ledger.history(Kind.PREDICTIONS, world.spec.name)
    assert record.payload["rows"] == len(world.rows())
    assert record.payload["model_version"] == "1"
    assert record.payload["from"] == [world.features.as_json()]


def test_scoring_again_replaces_the_month(world: World) -> None:
    world.move_traffic({"1": 100})
    world.score()
    world.move_traffic({"2": 100})

    world.score(run="second")

    predictions = world.stores.tables.read(world.stores.tables.uri(world.spec.name, Table.PREDICTIONS))
    assert len(predictions) == len(world.rows())
    assert set(predictions["version"]) == {"2"}


def test_the_features_named_are_those_used(world: World) -> None:
    world.move_traffic({"1": 100})
    uri = world.stores.tables.uri(world.spec.name, Table.FEATURES)
    world.stores.tables.replace_partition(uri, JANUARY).write(world.rows().head(7), origin_key="later")

    newest, named = world.score(), world.score(run="second", features=world.features)

    assert len(world.stores.tables.read(newest)) == 7
    assert len(world.stores.tables.read(named)) == len(world.rows())


def test_a_month_without_features_says_what_to_run(world: World) -> None:
    world.move_traffic({"1": 100})

    with pytest.raises(SourceError, match="no features of 2013-02: run its ingest"):
        world.score(FEBRUARY)
    with pytest.raises(MissingPartitionError):
        world.score("")


def test_predicting_in_batches_changes_no_prediction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.move_traffic({"1": 100})
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", 50)

    predicted = world.stores.tables.read(world.score())

    assert predicted["prediction"].to_numpy() == pytest.approx(world.expected("1"))
