"""Which versions a replica holds, by a real ledger and models made here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mlops_provider.core.names import Kind
from mlops_provider.exceptions import EvidenceError, StoreUnavailableError
from mlops_provider.serving.follower import Follower
from mlops_provider.serving.snapshot import LoadedVersion
from mlops_provider.stores.ledger import Ledger

MODEL = "flights"


class Replica(Follower):
    """A follower that looks when it is told to, before a registry that may be away."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(MODEL, replica="server-1", url="http://127.0.0.1:9", ledger=ledger, load=self.loaded)
        self.retry_seconds = 0.0
        self.away = False

    def loaded(self, _: str, version: str) -> LoadedVersion:
        if self.away:
            raise StoreUnavailableError("The registry is away.")
        return LoadedVersion(version, lambda columns: columns["distance"], ())

    def move(self, split: Mapping[str, int], *, settled: bool = True) -> tuple[Mapping[str, int], list[str]]:
        """What is served after a move, and which versions could be."""
        now = self.ledger.traffic(MODEL)
        self.ledger.propose_traffic(MODEL, split, settled=settled, expected_generation=now.generation if now else 0)
        self.poll()
        assert self.snapshot is not None
        return self.snapshot.split, sorted(self._loaded)

    def refuse(self, version: str) -> None:
        self.ledger.append(Kind.ROLLBACK, MODEL, {"refused": [version]})


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield Replica(ledger)
    ledger.close()


def test_what_is_recorded_while_a_version_loads_drops_none_that_comes_next(replica: Replica) -> None:
    for version in ("1", "2"):
        replica.move({version: 100})
    load = replica.load

    def load_slowly(model: str, version: str) -> LoadedVersion:
        replica.load = load
        replica.refuse("3")
        replica.ledger.propose_traffic(MODEL, {"2": 100}, settled=True, expected_generation=3)
        return load(model, version)

    replica.load = load_slowly
    replica.move({"3": 100})
    replica.away = True
    replica.poll()

    assert replica.snapshot is not None
    assert replica.snapshot.split == {"2": 100}


def test_after_a_failed_candidate_a_rollback_still_needs_no_registry(replica: Replica) -> None:
    for version in ("1", "2"):
        replica.move({version: 100})
    assert replica.move({"2": 90, "3": 10}, settled=False) == ({"2": 90, "3": 10}, ["1", "2", "3"])
    assert replica.move({"3": 100}, settled=False) == ({"3": 100}, ["1", "2", "3"])
    replica.refuse("3")
    replica.move({"2": 100})
    replica.away = True

    replica.refuse("2")

    assert replica.move({"1": 100}) == ({"1": 100}, ["1"])
    assert replica.trouble == ""


def test_a_version_that_no_rollback_brings_back_leaves_the_memory(replica: Replica) -> None:
    for version in ("1", "2", "3"):
        found = replica.move({version: 100})

    assert found == ({"3": 100}, ["2", "3"])
    replica.refuse("2")
    assert replica.move({"3": 90, "4": 10}, settled=False)[1] == ["3", "4"]


def test_what_a_rollout_leaves_is_known_to_who_judges_it_and_nobody_may_ask_for_it(replica: Replica) -> None:
    replica.move({"1": 100})
    replica.move({"2": 100}, settled=False)

    assert replica.snapshot is not None
    assert list(replica.snapshot.versions) == ["2"]
    assert list(replica.snapshot.before) == ["1"]


def test_a_replica_that_starts_again_has_what_a_rollback_brings_back_once_it_serves(replica: Replica) -> None:
    for version in ("1", "2"):
        replica.move({version: 100})
    replica.move({"3": 100}, settled=False)
    again = Replica(replica.ledger)

    again.poll()
    assert again.snapshot is not None
    assert (list(again.snapshot.versions), list(again.snapshot.before)) == (["3"], [])
    again.away = True
    again.poll()
    assert again.trouble == ""
    again.away = False
    for _ in range(3):
        again.poll()

    assert list(again.snapshot.before) == ["2"]
    again.away = True
    again.refuse("3")
    assert again.move({"2": 100})[0] == {"2": 100}
    again.refuse("2")
    assert again.move({"1": 100}) == ({"1": 100}, ["1"])


def test_a_version_before_that_is_refused_is_no_trouble_and_not_tried_again(replica: Replica) -> None:
    for version in ("1", "2"):
        replica.move({version: 100})
    again, tried = Replica(replica.ledger), []

    def load(model: str, version: str) -> LoadedVersion:
        tried.append(version)
        if version == "1":
            raise EvidenceError("The files of version 1 are not those that were registered.")
        return replica.loaded(model, version)

    again.load = load
    for _ in range(4):
        again.poll()

    assert tried == ["2", "1"]
    assert again.trouble == ""
    assert again.snapshot is not None
    assert not again.snapshot.before
