"""The ledger on SQLite and on Postgres: one chain whoever writes, first record wins, nothing is changed."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops_provider.core.evidence import GENESIS, following
from mlops_provider.core.names import Kind
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    ConfigurationError,
    EvidenceError,
    StoreUnavailableError,
)
from mlops_provider.stores.ledger import Ledger

FIELDS = ("record_id", "kind", "model", "key", "payload", "actor", "as_of", "recorded_at")
"""What a record says, beside its place in the chain."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres")("ledger"))


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = Ledger(url)
    yield ledger
    ledger.close()


def child(*arguments: object) -> subprocess.Popen[str]:
    """Run one of the programs at the end of this file in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipe, command = subprocess.PIPE, [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def started_together(*programs: tuple[object, ...]) -> list[str]:
    """Run children that wait until all of them are ready; return what each said."""
    processes = [child(*program) for program in programs]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [out.strip() for out, _ in outputs]


def test_records_form_a_chain(ledger: Ledger) -> None:
    assert ledger.head() is None
    first = ledger.append(Kind.DRIFT, "delays", {"alarm": False}, as_of="2013-02-01T00:00:00+00:00")
    second = ledger.append(Kind.DRIFT, "delays", {"alarm": True, "score": 0.25}, actor="ada")

    assert (first.seq, second.seq) == (1, 2)
    assert first.previous == GENESIS
    assert second.previous == first.digest
    assert ledger.head() == second
    assert ledger.get(first.record_id) == first
    assert ledger.latest(Kind.DRIFT, "delays") == second
    assert ledger.latest(Kind.DRIFT, "other") is None
    assert ledger.verify() is None


def test_history_is_oldest_first_and_bounded(ledger: Ledger) -> None:
    for number in range(5):
        ledger.append(Kind.DRIFT, "delays", {"number": number})
        ledger.append(Kind.GATE, "other", {"number": number})

    assert [record.payload["number"] for record in ledger.history(Kind.DRIFT, "delays")] == [0, 1, 2, 3, 4]
    assert [record.payload["number"] for record in ledger.history(Kind.DRIFT, "delays", limit=2)] == [3, 4]
    assert [record.seq for record in ledger.records(limit=3)] == [8, 9, 10]
    assert len(ledger.records("other")) == 5
    assert ledger.models() == ["delays", "other"]


def test_the_first_record_under_a_key_wins(ledger: Ledger) -> None:
    first = ledger.append(Kind.GATE, "delays", {"passed": True}, key="dag/run/gate/-1")
    again = ledger.append(Kind.GATE, "delays", {"passed": False}, key="dag/run/gate/-1")
    other_kind = ledger.append(Kind.DRIFT, "delays", {}, key="dag/run/gate/-1")

    assert again == first
    assert other_kind.seq == 2
    assert ledger.find(Kind.GATE, "dag/run/gate/-1") == first
    assert ledger.find(Kind.GATE, "dag/run/gate/0") is None


def test_a_decision_is_computed_once(ledger: Ledger) -> None:
    first = ledger.decide_once(Kind.GATE, "delays", "key", lambda: {"passed": True})

    again = ledger.decide_once(Kind.GATE, "delays", "key", lambda: pytest.fail("computed again"))

    assert again == first


def test_a_decision_overtaken_while_it_is_computed_yields_to_the_first(ledger: Ledger) -> None:
    def slow() -> dict[str, bool]:
        ledger.append(Kind.GATE, "delays", {"passed": False}, key="key")
        return {"passed": True}

    assert ledger.decide_once(Kind.GATE, "delays", "key", slow).payload == {"passed": False}


def test_a_decision_on_other_inputs_is_made_anew_also_on_those_of_the_first_time(ledger: Ledger) -> None:
    key = "dag/run_1/task/-1"
    ledger.decide_once(Kind.DRIFT, "delays", "dag/runX1/task/-1", lambda: {"of": 0}, inputs={"rows": 3})
    ledger.decide_once(Kind.DRIFT, "delays", "DAG/run_1/task/-1", lambda: {"of": 0}, inputs={"rows": 3})

    found = [
        ledger.decide_once(Kind.DRIFT, "delays", key, lambda number=number: {"of": number}, inputs={"rows": rows})
        for number, rows in enumerate([1, 1, 2, 2, 1, 1])
    ]

    assert [record.payload["of"] for record in found] == [0, 0, 2, 2, 4, 4]
    assert ledger.decided(Kind.DRIFT, key) == found[-1]
    assert ledger.decided(Kind.DRIFT, "dag/run_1") is None
    assert len(ledger.records()) == 5


def test_a_decision_overtaken_by_one_on_the_same_inputs_yields_to_it(ledger: Ledger) -> None:
    def slow() -> dict[str, int]:
        ledger.decide_once(Kind.DRIFT, "delays", "key", lambda: {"of": 2}, inputs={"rows": 1})
        return {"of": 1}

    assert ledger.decide_once(Kind.DRIFT, "delays", "key", slow, inputs={"rows": 1}).payload == {"of": 2}


def test_what_is_no_json_is_refused_before_it_is_written(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.append(Kind.GATE, "delays", {"auc": float("nan")})
    with pytest.raises(TypeError):
        ledger.append(Kind.GATE, "delays", {"auc": object()})

    assert ledger.head() is None


def test_an_unknown_record_is_named(ledger: Ledger) -> None:
    with pytest.raises(EvidenceError, match="no record 'a1b2'") as caught:
        ledger.get("a1b2")
    assert "secret" not in str(caught.value)


def test_a_record_that_is_there_as_its_own_is_not_imported_and_another_one_under_its_id_is_refused(
    ledger: Ledger, tmp_path: Path
) -> None:
    own = ledger.append(Kind.DRIFT, "delays", {"alarm": False})
    other = Ledger(f"sqlite:///{tmp_path}/other.db")
    said = {name: own.as_json()[name] for name in FIELDS}
    other.restore([following(None, **said)])
    forged = following(None, **said | {"actor": "mallory"})

    assert ledger.import_record(own, source="staging") == own
    assert ledger.holds(own)
    with pytest.raises(EvidenceError, match="holds another record"):
        ledger.import_record(forged, source="staging")

    assert ledger.records() == other.records() == [own]
    assert ledger.identity == other.identity
    other.close()


def test_records_cannot_be_changed_or_removed(url: str, ledger: Ledger) -> None:
    ledger.append(Kind.GATE, "delays", {"passed": False}, key="key")
    ledger.append(Kind.GATE, "delays", {"passed": True})
    row = "SELECT seq + 2, record_id, kind, model, key, payload, actor, as_of, recorded_at, previous, digest"
    statements = [
        "UPDATE mlops_records SET payload = '{}'",
        "DELETE FROM mlops_records WHERE seq = 2",
        f"INSERT INTO mlops_records {row} FROM mlops_records",
        "TRUNCATE mlops_records"
        if url.startswith("postgres")
        else f"REPLACE INTO mlops_records {row} FROM mlops_records",
    ]

    engine = sa.create_engine(url)
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()

    assert ledger.verify() is None
    assert len(ledger.records()) == 2


def test_a_change_behind_the_triggers_shows(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    for passed in (False, True, True):
        ledger.append(Kind.GATE, "delays", {"passed": passed})
    assert ledger.verify() is None

    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DROP TRIGGER mlops_records_no_update")
        connection.execute("UPDATE mlops_records SET payload = '{\"passed\":true}' WHERE seq = 1")
    connection.close()
    broken = ledger.verify()
    assert broken is not None
    assert broken[0].seq == 1
    assert "digest" in broken[1]

    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE mlops_records SET payload = 'gone' WHERE seq = 1")
    connection.close()
    broken = ledger.verify()
    assert broken is not None
    assert broken[0].seq == 1
    with pytest.raises(EvidenceError, match="Record 1 of the ledger is unreadable"):
        ledger.history(Kind.GATE, "delays")
    ledger.close()


def test_eight_writers_keep_one_chain_without_gaps(url: str, ledger: Ledger) -> None:
    said = started_together(*[("append", url, number, 25) for number in range(8)])

    records = ledger.records()
    assert [record.seq for record in records] == list(range(1, 8 * 25 + 1))
    assert ledger.verify() is None
    assert {out.split()[0] for out in said} == {"25"}


def test_threads_of_one_process_share_a_ledger(ledger: Ledger) -> None:
    threads = [
        threading.Thread(target=lambda: [ledger.append(Kind.DRIFT, "delays", {}) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [record.seq for record in ledger.records()] == list(range(1, 81))
    assert ledger.verify() is None


def test_of_processes_that_decide_at_once_the_first_record_stands(url: str, ledger: Ledger) -> None:
    said = started_together(*[("decide", url, number) for number in range(4)])

    assert len(set(said)) == 1
    assert len(ledger.records()) == 1


def test_killed_writers_leave_whole_records(url: str, ledger: Ledger) -> None:
    written = 0
    for _ in range(3):
        process = child("append", url, 0, 100_000)
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
        while len(ledger.records()) < written + 5:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        written = len(ledger.records())

    after = ledger.append(Kind.GATE, "delays", {"passed": True})
    assert ledger.verify() is None
    assert after.seq == written + 1


def test_traffic_moves_by_one_generation(ledger: Ledger) -> None:
    assert ledger.traffic("delays") is None

    first = ledger.propose_traffic("delays", {"1": 100}, settled=True, expected_generation=0, reason="first model")
    second = ledger.propose_traffic("delays", {"1": 90, "2": 10}, settled=False, expected_generation=1, actor="ada")

    assert (first.generation, second.generation) == (1, 2)
    assert ledger.traffic("delays") == second
    assert ledger.traffic_history("delays") == [first, second]
    with pytest.raises(ConcurrentWriteError, match="Generation 2 of 'delays' was taken by ada"):
        ledger.propose_traffic("delays", {"3": 100}, settled=True, expected_generation=1)
    with pytest.raises(ValueError, match="no generation 7"):
        ledger.propose_traffic("delays", {"3": 100}, settled=True, expected_generation=7)
    with pytest.raises(ValueError, match="sum to 100"):
        ledger.propose_traffic("delays", {"3": 99}, settled=True, expected_generation=2)


def test_a_retried_proposal_finds_its_own_record(ledger: Ledger) -> None:
    def propose(origin: str) -> int:
        return ledger.propose_traffic(
            "delays", {"1": 100}, settled=True, expected_generation=0, origin=origin
        ).generation

    assert propose("dag/run/deploy/-1") == 1
    assert propose("dag/run/deploy/-1") == 1
    with pytest.raises(ConcurrentWriteError, match="dag/run/deploy/-1"):
        propose("dag/other_run/deploy/-1")
    assert len(ledger.traffic_history("delays")) == 1


def test_of_two_rollouts_at_once_one_wins(url: str, ledger: Ledger) -> None:
    ledger.propose_traffic("delays", {"1": 100}, settled=True, expected_generation=0)

    said = started_together(("propose", url, 2), ("propose", url, 3))

    assert sorted(said) == ["ConcurrentWriteError", "won"]
    traffic = ledger.traffic("delays")
    assert traffic is not None
    assert traffic.generation == 2
    assert traffic.split == {str(said.index("won") + 2): 100}


def test_replicas_are_those_heard_of_lately(ledger: Ledger) -> None:
    ledger.heartbeat("a", "delays", url="http://127.0.0.1:1", generation=1, versions=["1"])
    ledger.heartbeat("a", "delays", url="http://127.0.0.1:1", generation=2, versions=["1", "2"])
    ledger.heartbeat("b", "delays", url="http://127.0.0.1:2", generation=1, versions=["1"], error="cannot load 2")
    ledger.heartbeat("c", "other", url="http://127.0.0.1:3", generation=9, versions=[])

    a, b = ledger.replicas("delays")

    assert (a.replica, a.generation, a.versions, a.error) == ("a", 2, ("1", "2"), "")
    assert (b.replica, b.generation, b.error) == ("b", 1, "cannot load 2")
    assert 0 <= a.seen_seconds_ago < 10
    time.sleep(0.2)
    assert ledger.replicas("delays", alive_within_seconds=0.1) == []
    assert ledger.verify() is None


def test_a_ledger_of_another_schema_version_is_refused(url: str, ledger: Ledger) -> None:
    ledger.append(Kind.GATE, "delays", {})
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO mlops_ledger VALUES (2)")
    engine.dispose()

    with pytest.raises(EvidenceError, match="schema version 2; this package reads 1"):
        Ledger(url).head()


def test_an_unreachable_postgres_fails_soon_and_hides_the_password() -> None:
    address = f"postgresql+psycopg://ledger:secret@127.0.0.1:{free_port()}/ledger"
    began = time.monotonic()

    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:\d+/ledger.*MLOPS_LEDGER_URL") as caught:
        Ledger(address).append(Kind.GATE, "delays", {})

    assert time.monotonic() - began < 10
    assert "secret" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"nowhere does not exist.*MLOPS_LEDGER_URL"):
        Ledger(f"sqlite:///{tmp_path}/nowhere/ledger.db").head()


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, and longer than a header of SQLite. " * 50)

    with pytest.raises(EvidenceError, match="damaged or no database"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db").head()


@pytest.mark.parametrize("address", ["ledger.db", "sqlite://", "mysql://host/db", "nothing://host/db"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="MLOPS_LEDGER_URL"):
        Ledger(address).head()


def test_a_full_disk_fails_in_words_and_keeps_the_chain(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger(url)
    ledger.append(Kind.GATE, "delays", {})

    out, err = child("limited", url).communicate(timeout=60)

    assert "cannot be used" in out, err
    assert "disk has space" in out
    assert ledger.verify() is None
    assert ledger.append(Kind.GATE, "delays", {}).seq == len(ledger.records())
    ledger.close()


# Programs that the tests above run in processes of their own.


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def append_many(url: str, number: str, times: str) -> None:
    say("ready")
    sys.stdin.readline()
    slowest = 0.0
    for count in range(int(times)):
        began = time.monotonic()
        Ledger.append(LEDGERS.setdefault(url, Ledger(url)), Kind.DRIFT, "delays", {"writer": number, "count": count})
        slowest = max(slowest, time.monotonic() - began)
    say(f"{times} {slowest:.3f}")


def decide(url: str, number: str) -> None:
    say("ready")
    sys.stdin.readline()
    say(Ledger(url).decide_once(Kind.GATE, "delays", "key", lambda: {"by": number}).payload["by"])


def propose(url: str, version: str) -> None:
    say("ready")
    sys.stdin.readline()
    try:
        Ledger(url).propose_traffic("delays", {version: 100}, settled=False, expected_generation=1)
        say("won")
    except ConcurrentWriteError as error:
        say(type(error).__name__)


def fill(url: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        for _ in range(1000):
            LEDGERS.setdefault(url, Ledger(url)).append(Kind.GATE, "delays", {"text": "x" * 10_000})
    except StoreUnavailableError as error:
        say(error)


LEDGERS: dict[str, Ledger] = {}


@pytest.fixture
def roles(postgres: Callable[[str], str]) -> tuple[str, str]:
    """The addresses of an empty database for its owner, and for a role that tasks use."""
    address = postgres("roles")
    name = str(sa.make_url(address).database)
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for role in (f"{name}_owner", f"{name}_tasks"):
            connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        connection.exec_driver_sql(f"ALTER DATABASE {name} OWNER TO {name}_owner")
        connection.exec_driver_sql(f"ALTER SCHEMA public OWNER TO {name}_owner")
        connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    engine.dispose()
    server = address.partition("@")[2]
    owner, tasks = (f"postgresql+psycopg://{name}_{role}@{server}" for role in ("owner", "tasks"))
    return owner, tasks


def test_the_role_of_tasks_appends_and_reports_but_can_change_and_drop_nothing(roles: tuple[str, str]) -> None:
    owner, tasks = roles
    owned = Ledger(owner)
    owned.grant(str(sa.make_url(tasks).username))
    owned.grant(str(sa.make_url(tasks).username))

    ledger = Ledger(tasks)
    ledger.decide_once(Kind.GATE, "delays", "key", lambda: {"passed": True})
    ledger.propose_traffic("delays", {"1": 100}, settled=True, expected_generation=0)
    for generation in (0, 1):
        ledger.heartbeat("one", "delays", url="http://one", generation=generation, versions=["1"])
    engine = sa.create_engine(tasks)
    for statement in (
        "UPDATE mlops_records SET payload = '{}'",
        "DELETE FROM mlops_records",
        "TRUNCATE mlops_records",
        "DROP TABLE mlops_records",
        "DROP TRIGGER mlops_records_no_change ON mlops_records",
        "ALTER TABLE mlops_records DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "CREATE OR REPLACE FUNCTION mlops_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN END $$",
        "DELETE FROM mlops_replicas",
        "UPDATE mlops_ledger SET schema_version = 9",
        "CREATE TABLE mine (id integer)",
    ):
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied|must be owner"), engine.begin() as refused:
            refused.exec_driver_sql(statement)
    engine.dispose()

    assert [replica.generation for replica in ledger.replicas("delays")] == [1]
    assert len(owned.records()) == 2
    assert owned.verify() is None
    for each in (ledger, owned):
        each.close()


def test_a_role_that_may_not_make_the_tables_is_told_who_can(roles: tuple[str, str]) -> None:
    owner, tasks = roles
    engine = sa.create_engine(owner, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {engine.url.database} TO {sa.make_url(tasks).username}")
    engine.dispose()

    with pytest.raises(StoreUnavailableError, match="owner of the database run `mlops ledger prepare --role"):
        Ledger(tasks).head()


def test_a_role_nobody_made_is_not_let_in(roles: tuple[str, str], tmp_path: Path) -> None:
    ledger = Ledger(roles[0])

    with pytest.raises(ConfigurationError, match='role "nobody" does not exist'):
        ledger.grant("nobody")
    with pytest.raises(ConfigurationError, match="has no roles"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db").grant("somebody")
    ledger.close()


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    {"append": append_many, "decide": decide, "propose": propose, "limited": fill}[program](*arguments)
