"""Model files never run code: real poisoned files at every door, and what a person answers for instead."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import skops.io
from mlflow import MlflowClient
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mlops_provider.adapters import tasks
from mlops_provider.adapters.onnx_graph import INPUT, OUTPUT
from mlops_provider.core.names import Header, Kind, Table
from mlops_provider.exceptions import ConfigurationError, EvidenceError, ServingCheckError
from mlops_provider.serving import loader
from mlops_provider.steps import conversion, models, verification
from mlops_provider.steps.declaration import Declaration
from mlops_provider.steps.deploy import check_serving, deploy
from mlops_provider.stores import model_files
from support.own_types import MARKER, Bomb, Fuse
from support.parcels import FUNCTIONS, Parcels
from support.serving import COLUMNS, MODEL, World, frame, origin

FUSE = "support.own_types.Fuse"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "it-ran"
    monkeypatch.setenv(MARKER, str(file))
    return file


@pytest.fixture
def world(tmp_path: Path, empty_mlflow: Path) -> Iterator[World]:
    """A version with a gate record, and no digest of its files, as 0.1 registered them."""
    made = World(tmp_path, empty_mlflow)
    made.land_features()
    made.register(1)
    yield made
    made.close()


def folder(world: Any, model: str, version: str = "1") -> Path:
    """Where the files of a version lie."""
    location = MlflowClient(world.registry.tracking_uri).get_model_version_download_uri(model, version)
    return Path(location.removeprefix("file://"))


def skops_file(where: Path) -> Path:
    return next(where.glob("*.skops"))


def a_pickle(where: Path) -> None:
    skops_file(where).write_bytes(pickle.dumps(Bomb()))


def named_a_pickle(where: Path) -> None:
    a_pickle(where)
    described(where, "serialization_format: skops", "serialization_format: cloudpickle")


def an_unknown_type(where: Path) -> None:
    rows = frame(20)[["distance", "seats"]]
    fused = make_pipeline(Fuse(), LogisticRegression(max_iter=500)).fit(rows, np.arange(20) % 2)
    skops_file(where).write_bytes(skops.io.dumps(fused))


def an_unknown_type_it_asks_to_trust(where: Path) -> None:
    an_unknown_type(where)
    described(where, "skops_trusted_types: []", f"skops_trusted_types: [{FUSE}]")
    if FUSE not in (where / "MLmodel").read_text():
        described(
            where, "serialization_format: skops", f"serialization_format: skops\n    skops_trusted_types: [{FUSE}]"
        )


def elsewhere(where: Path) -> None:
    outside = where.parent / "outside.skops"
    skops_file(where).rename(outside)
    described(where, "pickled_model: model.skops", "pickled_model: ../outside.skops")


def described(where: Path, what: str, instead: str) -> None:
    file = where / "MLmodel"
    file.write_text(file.read_text().replace(what, instead))


def an_operator_of_its_own(where: Path) -> None:
    graph(where, helper.make_node("Run", [INPUT], [OUTPUT], domain="evil.example"))


def data_outside(where: Path) -> None:
    far = TensorProto(name="weights", data_type=TensorProto.DOUBLE, dims=[3, 1], data_location=TensorProto.EXTERNAL)
    far.external_data.add(key="location", value="../../secret.bin")
    graph(where, helper.make_node("MatMul", [INPUT, "weights"], [OUTPUT]), far)


def no_graph(where: Path) -> None:
    (where / model_files.SCORER).write_bytes(pickle.dumps(Bomb()))


def graph(where: Path, node: onnx.NodeProto, *tensors: TensorProto) -> None:
    shape = helper.make_tensor_value_info
    made = helper.make_graph(
        [node],
        "poisoned",
        [shape(INPUT, TensorProto.DOUBLE, ["rows", 3])],
        [shape(OUTPUT, TensorProto.DOUBLE, ["rows", 1])],
        list(tensors),
    )
    (where / model_files.SCORER).write_bytes(helper.make_model(made).SerializeToString())


Poison = Callable[[Path], None]
IN_SKOPS: dict[Poison, str] = {
    a_pickle: "is no skops file but something else, such as a pickle",
    named_a_pickle: "is stored as cloudpickle",
    an_unknown_type: rf"holds {FUSE}, which nobody reviewed",
    an_unknown_type_it_asks_to_trust: rf"asks to trust {FUSE}",
    elsewhere: "names the file '../outside.skops', outside its folder",
}
IN_ONNX: dict[Poison, str] = {
    an_operator_of_its_own: "not ONNX's own: evil.example::Run",
    data_outside: r"takes 'weights' from '../../secret.bin'",
    no_graph: "damaged",
}


def for_the_server(world: World) -> Any:
    return loader.load(world.registry, world.ledger, MODEL, "1")


def for_batch_scoring(world: World) -> Any:
    return models.scorer(world.registry, world.ledger, MODEL, "1")


def for_a_rollout(world: World) -> Any:
    return verification.sample(world.stores, MODEL, COLUMNS, "1")


def for_evaluation_and_registration(world: World) -> Any:
    trained: Any = SimpleNamespace(payload={"model_uri": f"models:/{MODEL}/1"})
    return models.candidate(world.registry, trained)


DOORS = (for_the_server, for_batch_scoring, for_a_rollout, for_evaluation_and_registration)


@pytest.mark.parametrize("poison", IN_SKOPS, ids=lambda each: each.__name__)
def test_a_poisoned_estimator_is_refused_at_every_door(world: World, poison: Poison, marker: Path) -> None:
    for door in DOORS:
        door(world)
    poison(folder(world, MODEL))

    for door in DOORS:
        with pytest.raises(ServingCheckError, match=IN_SKOPS[poison]):
            door(world)
    assert not marker.exists()


def test_a_rollout_of_a_poisoned_version_moves_no_traffic_and_is_an_incident(world: World, marker: Path) -> None:
    server, spec, target = world.serve(), world.spec(), world.target()
    deploy(spec, world.stores, "1", target=target, origin=origin(run="first"))
    for version in ("2", "3"):
        world.register(int(version), recorded=False)
        world.record(version, champion="1")
        a_pickle(folder(world, MODEL, version))
    before = world.ledger.traffic_history(MODEL)

    for version, step in (("2", check_serving), ("3", deploy)):
        with pytest.raises(ServingCheckError, match=f"such as a pickle.* Version {version} got no traffic"):
            step(spec, world.stores, version, target=target, origin=origin(run=version))

    assert world.ledger.traffic_history(MODEL) == before
    found = [record.payload for record in world.ledger.history(Kind.INCIDENT, MODEL)]
    assert [(each["version"], each["champion"], each["split"], each["most"]) for each in found] == [
        ("2", "1", {"1": 100}, 0),
        ("3", "1", {"1": 100}, 0),
    ]
    assert server.score().headers[Header.VERSION] == "1"
    assert not marker.exists()


@pytest.mark.parametrize("poison", IN_ONNX, ids=lambda each: each.__name__)
def test_a_poisoned_graph_is_refused_where_graphs_are_used(world: World, poison: Poison, marker: Path) -> None:
    poison(folder(world, MODEL))

    for door in (for_the_server, for_batch_scoring):
        with pytest.raises(ServingCheckError, match=IN_ONNX[poison]):
            door(world)
    assert not marker.exists()


def test_a_graph_that_the_runtime_here_cannot_run_leaves_the_work_to_the_estimator(world: World) -> None:
    before = models.scorer(world.registry, world.ledger, MODEL, "1")
    rows = {column.name: frame(20)[column.name].to_numpy() for column in before.columns}
    graph(folder(world, MODEL), helper.make_node("Identity", [INPUT], [OUTPUT]))
    file = folder(world, MODEL) / model_files.SCORER
    of_tomorrow = onnx.ModelProto.FromString(file.read_bytes())
    of_tomorrow.opset_import[0].version = 9_999
    file.write_bytes(of_tomorrow.SerializeToString())

    now = models.scorer(world.registry, world.ledger, MODEL, "1")

    assert type(now).__name__ == "EstimatorScorer"
    np.testing.assert_array_equal(now.predict(rows), before.predict(rows))
    assert for_the_server(world).version == "1"


def test_the_poison_is_real(world: World, marker: Path) -> None:
    where = folder(world, MODEL)
    a_pickle(where)
    pickle.loads(skops_file(where).read_bytes())
    assert marker.exists()
    marker.unlink()

    an_unknown_type(where)
    skops.io.load(skops_file(where), trusted=[FUSE])

    assert marker.exists()


def test_a_registered_version_is_scored_by_its_graph(trained_parcels: Parcels, tmp_path: Path) -> None:
    parcels = trained_parcels.copied(tmp_path / "copy")
    stores = parcels.stores

    (registration,) = stores.ledger.history(Kind.REGISTRATION, "parcels")

    said = registration.payload["scorer"]
    assert (said["form"], said["rows"], said["tolerance"]) == ("onnx", 800, 1e-9)
    assert said["largest_difference"] < 1e-13
    assert registration.payload["files"] == stores.registry.model_digest("models:/parcels/1")
    assert (folder(stores, "parcels") / model_files.SCORER).exists()
    scorer = models.scorer(stores.registry, stores.ledger, "parcels", "1")
    assert type(scorer).__name__ == "OnnxScorer"
    parcels.serve("1")
    parcels.score("2013-03")
    predicted = stores.tables.read(stores.tables.uri("parcels", Table.PREDICTIONS), partitions=["2013-03"])
    rows = stores.tables.read(stores.tables.uri("parcels", Table.FEATURES), partitions=["2013-03"])
    estimator = models.estimator(stores.registry, stores.ledger, "parcels", "1")
    alone = tasks.of_model(estimator).predict(estimator, rows[["weight", "distance", "depot"]])
    served = loader.load(stores.registry, stores.ledger, "parcels", "1").predict(rows[["weight", "distance", "depot"]])
    np.testing.assert_allclose(predicted["prediction"], alone, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(predicted["prediction"], served)


def test_files_that_changed_since_the_registration_are_not_opened(
    trained_parcels: Parcels, tmp_path: Path, marker: Path
) -> None:
    parcels = trained_parcels.copied(tmp_path / "copy")
    parcels.serve("1")
    where = folder(parcels.stores, "parcels")
    whole = skops_file(where).read_bytes()
    a_pickle(where)
    try:
        with pytest.raises(EvidenceError, match="were changed in the artifact store. None was opened"):
            parcels.score("2013-03")
        with pytest.raises(EvidenceError, match="were changed in the artifact store"):
            loader.load(parcels.stores.registry, parcels.stores.ledger, "parcels", "1")
    finally:
        skops_file(where).write_bytes(whole)  # copies share what MLflow stored
    assert not marker.exists()


OWN = FUNCTIONS.replace(
    "from sklearn.preprocessing", "from support.own_types import Doubled\nfrom sklearn.preprocessing"
).replace('["depot"])]', '["depot"]), ("own", Doubled(), ["weight"])]')


@pytest.fixture
def foreign(trained_parcels: Parcels, tmp_path: Path) -> Parcels:
    """The same use case, whose next model holds a type of its own."""
    parcels = trained_parcels.copied(tmp_path / "copy")
    (parcels.folder / "parcels.py").write_text(OWN)
    return parcels


def test_a_foreign_type_is_not_stored_unless_somebody_answers_for_it(foreign: Parcels) -> None:
    with pytest.raises(ConfigurationError, match=r"support\.own_types\.Doubled"):
        foreign.train("2013-03")


def test_who_answers_for_a_foreign_type_is_recorded_and_it_is_scored_as_it_is(foreign: Parcels) -> None:
    foreign.declare(trust={"reason": "our own scaling, reviewed on 3 May", "owner": "ada"})

    version = foreign.train("2013-03")

    assert version == "2"
    stores = foreign.stores
    registration = stores.ledger.history(Kind.REGISTRATION, "parcels")[-1].payload
    own = {"reason": "our own scaling, reviewed on 3 May", "owner": "ada", "types": ["support.own_types.Doubled"]}
    assert registration["trust"] == own
    assert registration["scorer"] == {
        "form": "estimator",
        "reason": "not converted: there is no exact counterpart for support.own_types.Doubled.",
    }
    rows = stores.tables.read(stores.tables.uri("parcels", Table.FEATURES), partitions=["2013-03"])
    served = loader.load(stores.registry, stores.ledger, "parcels", version)
    assert np.isfinite(served.predict(rows[[column.name for column in served.columns]])).all()
    # The files alone persuade nobody.
    with pytest.raises(ServingCheckError, match=r"asks to trust support\.own_types\.Doubled"):
        stores.registry.load_model(f"models:/parcels/{version}")


@pytest.mark.parametrize("surprise", ["lacks a part", "holds another thing"])
def test_an_estimator_with_other_insides_is_registered_as_it_is(
    trained_parcels: Parcels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surprise: str
) -> None:
    parcels = trained_parcels.copied(tmp_path / "copy")
    (trained,) = parcels.stores.ledger.history(Kind.TRAINING, "parcels")
    (declared,) = parcels.stores.ledger.history(Kind.DECLARATION, "parcels")
    model = models.candidate(parcels.stores.registry, trained)
    trees = model.named_steps["trees"]
    if surprise == "lacks a part":  # as if another version of scikit-learn had renamed it
        del trees._baseline_prediction
    else:
        trees._predictors = [[SimpleNamespace(nodes={})]]
    monkeypatch.setattr(models, "candidate", lambda *_: model)

    said = conversion.convert(parcels.spec, parcels.stores, trained, Declaration.from_json(declared.payload))

    ended = {"lacks a part": "AttributeError", "holds another thing": "KeyError"}[surprise]
    assert said == {"form": "estimator", "reason": f"not converted: trying it ended in {ended}."}
