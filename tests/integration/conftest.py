"""A place of its own for each test: a source, a use case and stores, all in one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import postgres as postgres_server
from support.aws import Aws, moto
from support.parcels import Parcels
from support.served import served
from support.serving import World
from support.tiny import MODEL, Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The tiny use case with an empty source and empty stores."""
    found = Place(tmp_path)
    monkeypatch.setenv("TINY_SOURCE", str(found.source))
    found.source.mkdir()
    return found


@pytest.fixture
def undisturbed(place: Place) -> Place:
    """Another place, where nothing happens to what is done in the first."""
    found = Place(place.folder / "undisturbed")
    found.source.mkdir(parents=True)
    return found


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a run; its tables take seconds to make, hence once."""
    folder = tmp_path_factory.mktemp("mlflow")
    assert Place(folder).stores().registry.versions(MODEL) == []
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[str], str]]:
    """Makes an empty database on a Postgres server and gives its address."""
    with postgres_server.server() as made:
        yield made


@pytest.fixture
def with_mlflow(place: Place, empty_mlflow: Path) -> None:
    """Spare the place the seconds that MLflow takes to make its tables."""
    shutil.copy(empty_mlflow, place.folder)


@pytest.fixture
def server(place: Place, with_mlflow: None) -> Iterator[str]:
    """Address of a model server that follows the place's ledger."""
    with served(place) as address:
        yield address


@pytest.fixture(scope="session")
def trained_parcels(tmp_path_factory: pytest.TempPathFactory) -> Parcels:
    """A version of the parcels' model that passed the gate and predicted nothing yet; to be copied, not changed."""
    made = Parcels(tmp_path_factory.mktemp("parcels"))
    made.build("2013-01", "2013-02", "2013-03")
    assert made.train("2013-02", "first") == "1"
    return made


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """Amazon's services, by moto on the loopback interface."""
    with moto(tmp_path_factory.mktemp("moto")) as found:
        yield found


@pytest.fixture(scope="session")
def four_versions(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> World:
    """Four versions in the registry and rows in the tables; each test gets its own ledger."""
    made = World(tmp_path_factory.mktemp("rollouts"), empty_mlflow)
    made.land_features()
    for seed in range(1, 5):
        made.register(seed, recorded=False)
    return made
