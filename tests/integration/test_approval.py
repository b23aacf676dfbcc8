"""A person decides about a version: in Airflow's pages or by a command, never about their own work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped, TaskAwaitingInput
from airflow.sdk.execution_time import task_runner

from mlops_provider.cli.main import main
from mlops_provider.core.evidence import Record
from mlops_provider.core.names import Environment, Kind, Tag
from mlops_provider.exceptions import RolloutRefusedError
from mlops_provider.operators.approval import ApproveVersionOperator
from mlops_provider.serving.loader import load
from mlops_provider.stages.deploy import deploy as deploy_stage
from mlops_provider.steps import human_approval, package
from mlops_provider.steps.approval import refuse_unapproved
from mlops_provider.steps.deploy import check_serving, deploy
from mlops_provider.targets import Server
from support.tiny import FEBRUARY, JANUARY, MODEL, Place, ingest_months, origin, register_candidate


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A version that ada trained, declared as one that a person has to approve; copied for each test."""
    folder = tmp_path_factory.mktemp("registered")
    shutil.copy(empty_mlflow, folder)
    place = Place(folder).declared(approval="always", slices=["line"])
    place.source.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_SOURCE", str(place.source))
        ingest_months(place, JANUARY, FEBRUARY)
        assert register_candidate(place, FEBRUARY, "train-1") == "1"
    return folder


@pytest.fixture
def place(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    folder = tmp_path / "place"
    shutil.copytree(registered, folder, ignore=shutil.ignore_patterns("use_case"))
    monkeypatch.setenv("TINY_SOURCE", str(folder / "source"))
    monkeypatch.setenv(Environment.TABLES_URI, str(folder / "tables"))
    monkeypatch.setenv(Environment.REGISTRY_URI, f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv(Environment.LEDGER_URL, f"sqlite:///{folder}/ledger.db")
    return Place(folder)


def declared(place: Place, **changes: Any) -> Place:
    shutil.rmtree(place.folder / "use_case", ignore_errors=True)
    return Place(place.folder).declared(**{"approval": "always", **changes})


@dataclass
class Waiting:
    """A task of the deploy DAG, and the forms that Airflow was told to show."""

    operator: ApproveVersionOperator
    started_by: str | None
    forms: list[Any] = field(default_factory=list)
    left: dict[str, Any] = field(default_factory=dict)

    def send(self, msg: Any) -> None:
        self.forms.append(msg)

    @property
    def context(self) -> Any:
        ti = SimpleNamespace(
            id="0199c0de-0000-7000-8000-000000000000", dag_id="bus_delays_deploy", run_id="run-1", map_index=-1,
            task_id="approve_version", xcom_push=lambda key, value: self.left.update({key: value}),
        )  # fmt: skip
        dag_run = SimpleNamespace(triggering_user_name=self.started_by)
        return {"ti": ti, "task_instance": ti, "dag_run": dag_run, "task": self.operator}

    def ask(self) -> Any:
        with pytest.raises(TaskAwaitingInput) as parked:
            self.operator.execute(self.context)
        assert parked.value.method_name == "execute_complete"
        return self.forms[-1]

    def answer(self, choice: str, user: str | None, reason: str | None = None) -> Any:
        event = {
            "chosen_options": [choice],
            "params_input": {"reason": reason},
            "responded_at": datetime(2026, 11, 23, 12, tzinfo=UTC),
            "responded_by_user": {"id": user, "name": user} if user else None,
            "timedout": user is None,
        }
        return self.operator.execute_complete(self.context, event)


Wait = Callable[..., Waiting]


@pytest.fixture
def wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> Wait:
    def made(started_by: str | None = None, **changes: Any) -> Waiting:
        where = declared(place, **changes)
        with DAG("bus_delays_deploy", schedule=None) as dag:
            deploy_stage(str(where.use_case / "model.yaml"))
        task: Any = dag.get_task("approve_version")
        task.version = "1"
        waiting = Waiting(task, started_by)
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", waiting, raising=False)
        return waiting

    return made


def deployed(place: Place, act: Callable[..., Any] = deploy, by: str = "ada", **changes: Any) -> Any:
    stores = place.stores()
    target = Server("http://127.0.0.1:9", model=MODEL, ledger=stores.ledger)
    return act(
        declared(place, **changes).spec(),
        stores,
        "1",
        target=target,
        origin=replace(origin("deploy_model"), actor=by),
        patience=1,
    )


def records(place: Place, kind: Kind) -> list[Record]:
    return place.stores().ledger.history(kind, MODEL)


def test_the_form_shows_the_evidence_and_its_digest_is_part_of_the_answer(place: Place, wait: Wait) -> None:
    task = wait()

    form = task.ask()
    result = task.answer("Approve", "grace", "looks good")

    assert form.subject == "Give traffic to bus_delays version 1?"
    assert form.defaults == ["Reject"]
    for shown in (
        "### Gate",
        "| **ROC AUC** |",
        "at least 0.7000",
        "### Slices",
        "line = A",
        "Not by ada",
        "/mlops/reports/",
    ):
        assert shown in form.body
    (answer,) = records(place, Kind.APPROVAL)
    assert result == answer.record_id
    assert (answer.actor, answer.payload["by"], answer.payload["reason"]) == ("grace", "grace", "looks good")
    assert answer.payload["seen"] == sha256(form.body.encode()).hexdigest()
    assert answer.payload["champion"] is None
    assert answer.payload["responded_at"].startswith("2026-11-23T12")


def test_without_an_approval_neither_deployment_nor_server_takes_the_version(place: Place, wait: Wait) -> None:
    for act in (check_serving, deploy):
        with pytest.raises(RolloutRefusedError, match="needs a person's approval and has none"):
            deployed(place, act)
    stores = place.stores()
    with pytest.raises(RolloutRefusedError, match="needs a person's approval"):
        load(stores.registry, stores.ledger, MODEL, "1")
    with pytest.raises(RolloutRefusedError, match="needs a person's approval"):
        package.package(stores, MODEL, "1", place.folder / "package", say=lambda _: None)

    task = wait()
    task.ask()
    task.answer("Approve", "grace")

    assert load(stores.registry, stores.ledger, MODEL, "1").version == "1"
    assert stores.ledger.traffic(MODEL) is None


def test_a_policy_that_is_lowered_after_training_opens_no_way_round(place: Place) -> None:
    with pytest.raises(RolloutRefusedError, match="needs a person's approval"):
        deployed(place, approval="never")


def test_a_rejection_ends_the_run_tags_the_version_and_is_final(place: Place, wait: Wait) -> None:
    task = wait()
    task.ask()

    with pytest.raises(DownstreamTasksSkipped) as skipped:
        task.answer("Reject", "grace", "line C is unfair")

    assert set(skipped.value.tasks) == {"check_serving"}
    assert place.stores().registry.version(MODEL, "1").tags[Tag.REJECTED] == "grace: line C is unfair"
    with pytest.raises(RolloutRefusedError, match=r"was rejected by grace on 2026-11-23: line C is unfair\."):
        deployed(place)
    with pytest.raises(DownstreamTasksSkipped):  # asked again, nobody is bothered
        wait().operator.execute(wait().context)


def test_a_question_that_nobody_answers_in_time_is_rejected(place: Place, wait: Wait) -> None:
    task = wait(approval={"policy": "always", "timeout_hours": 0.5})
    task.ask()

    with pytest.raises(DownstreamTasksSkipped):
        task.answer("Reject", None)

    (answer,) = records(place, Kind.APPROVAL)
    assert (answer.payload["by"], answer.payload["reason"]) == ("", "nobody answered within 0.5 hours")
    assert "nobody answered" in place.stores().registry.version(MODEL, "1").tags[Tag.REJECTED]


@pytest.mark.parametrize(("trainer", "started_by"), [("Ada", None), ("Linus", "linus")])
def test_who_trained_or_started_the_deployment_is_asked_again(
    place: Place, wait: Wait, trainer: str, started_by: str | None
) -> None:
    task = wait(started_by)
    task.ask()

    with pytest.raises(TaskAwaitingInput):
        task.answer("Approve", trainer)

    assert records(place, Kind.APPROVAL) == []
    assert len(records(place, Kind.APPROVAL_REQUEST)) == 1
    task.answer("Approve", "grace")
    assert len(records(place, Kind.APPROVAL)) == 1


def test_only_named_approvers_are_asked_and_heard(place: Place, wait: Wait) -> None:
    task = wait(approval={"policy": "always", "approvers": ["grace"]})

    form = task.ask()

    assert [user.name for user in form.assigned_users] == ["grace"]
    with pytest.raises(TaskAwaitingInput):
        task.answer("Approve", "linus")
    assert task.answer("Approve", "grace")


def test_the_approval_of_a_stale_version_is_refused(place: Place, wait: Wait) -> None:
    task = wait()
    task.ask()
    place.stores().ledger.propose_traffic(MODEL, {"7": 100}, settled=True, expected_generation=0)

    with pytest.raises(AirflowFailException, match="asked for when no version served, and version 7 serves now"):
        task.answer("Approve", "grace")

    assert records(place, Kind.APPROVAL) == []


def test_what_was_approved_before_another_version_took_over_gets_no_traffic(place: Place, wait: Wait) -> None:
    task = wait()
    task.ask()
    task.answer("Approve", "grace")
    place.stores().ledger.propose_traffic(MODEL, {"7": 100}, settled=True, expected_generation=0)

    with pytest.raises(RolloutRefusedError, match="what was shown is out of date"):
        deployed(place)


def test_a_retry_finds_the_answer_of_the_first_try(place: Place, wait: Wait) -> None:
    task = wait()
    task.ask()
    first = task.answer("Approve", "grace", "once")

    again = task.answer("Reject", "linus", "twice")
    cleared = wait().operator.execute(task.context)

    assert first == again == cleared
    assert [record.payload["by"] for record in records(place, Kind.APPROVAL)] == ["grace"]


def test_on_warning_asks_for_nobody_when_the_gate_had_none(place: Place) -> None:
    ledger = place.stores().ledger
    (gate,) = ledger.history(Kind.GATE, MODEL)
    declaration = ledger.get(gate.payload["declaration"]).payload
    calm = ledger.append(Kind.DECLARATION, MODEL, {**declaration, "approval": "on_warning"})
    for warnings in ([], ["Few blocks."]):
        verdict = {**gate.payload, "declaration": calm.record_id, "warnings": warnings}
        judged = ledger.append(Kind.GATE, MODEL, verdict)
        (registered, *_) = ledger.history(Kind.REGISTRATION, MODEL)
        ledger.append(Kind.REGISTRATION, MODEL, {**registered.payload, "gate": judged.record_id})

        asked = human_approval.ask(MODEL, place.stores(), "1", policy="on_warning", origin=origin("approve_version"))

        assert (asked.request is not None) is bool(warnings)


def test_a_command_decides_without_airflow_and_the_waiting_task_follows(
    place: Place, wait: Wait, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = wait()
    task.ask()
    monkeypatch.setattr("getpass.getuser", lambda: "ada")

    about = [f"{MODEL}@1", "--model", str(place.folder / "use_case" / "model.yaml")]

    assert main(["approve", *about]) == 0
    assert "### Gate" in capsys.readouterr().out
    assert records(place, Kind.APPROVAL) == []
    assert main(["approve", *about, "--reason", "mine"]) != 0
    assert "nobody approves their own work" in capsys.readouterr().err
    monkeypatch.setattr("getpass.getuser", lambda: "grace")
    assert main(["approve", *about, "--reason", "fine"]) == 0
    assert main(["reject", *about, "--reason", "too late"]) == 1

    (answer,) = records(place, Kind.APPROVAL)
    assert answer.payload["by"] == "grace"
    assert task.answer("Reject", None) == answer.record_id


@pytest.mark.parametrize("waits", [False, True])
def test_a_command_heeds_the_approvers_of_model_yaml(
    waits: bool, place: Place, wait: Wait, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if waits:
        wait().ask()  # before anybody was declared
    where = declared(place, approval={"policy": "always", "approvers": ["grace"]})
    about = [f"{MODEL}@1", "--model", str(where.use_case / "model.yaml"), "--reason", "fine"]

    for user, said in (("linus", "linus is not among the approvers"), ("airflow", "nobody is named")):
        monkeypatch.setattr("getpass.getuser", lambda user=user: user)
        assert main(["approve", *about]) != 0
        assert said in capsys.readouterr().err
    assert records(place, Kind.APPROVAL) == []

    monkeypatch.setattr("getpass.getuser", lambda: "grace")
    assert main(["approve", *about]) == 0
    assert main(["approve", f"{MODEL}@1"]) != 0
    assert "name the model.yaml of 'bus_delays' with --model" in capsys.readouterr().err


def test_a_dry_run_heeds_the_approvers_and_who_would_deploy(
    place: Place, wait: Wait, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dry_run(by: str, **approval: Any) -> tuple[int, str]:
        where = declared(place, approval={"policy": "always", **approval})
        monkeypatch.setattr("getpass.getuser", lambda: by)
        about = ["--model", str(where.use_case / "model.yaml"), "--version", "1", "--dry-run"]
        return main(["run", "deploy", *about]), "".join(capsys.readouterr())

    nobody_did = dry_run("ada")
    task = wait()
    task.ask()
    task.answer("Approve", "grace")

    assert nobody_did[0] == 1
    assert "needs a person's approval and has none" in nobody_did[1]
    for refused in (dry_run("ada", approvers=["linus"]), dry_run("grace")):
        assert refused[0] == 1
        assert "The approval of version 1 of 'bus_delays' does not count" in refused[1]
    code, plan = dry_run("ada", approvers=["grace", "linus"])
    assert (code, records(place, Kind.TRAFFIC)) == (0, [])
    assert "version 1: 100 %" in plan


def test_an_approval_by_who_deploys_or_by_no_approver_does_not_count(place: Place, wait: Wait) -> None:
    task = wait()
    task.ask()
    task.answer("Approve", "grace")

    with pytest.raises(RolloutRefusedError, match=r"Grace started .*Another person has to approve"):
        deployed(place, by="Grace")
    with pytest.raises(RolloutRefusedError, match=r"grace is not among the approvers.*Another person has to approve"):
        deployed(place, approval={"policy": "always", "approvers": ["linus"]})
    ledger = place.stores().ledger
    for nobody in ("", "airflow", "ada"):
        refuse_unapproved(ledger, MODEL, "1", "always", actor=nobody, approvers=("grace", "linus"))

    again = wait("grace")
    again.ask()
    again.answer("Approve", "linus")
    refuse_unapproved(ledger, MODEL, "1", "always", actor="grace")


def test_a_question_left_open_rejects_nothing_that_was_approved_by_another(place: Place, wait: Wait) -> None:
    left_open = wait()
    left_open.ask()
    stores, other = place.stores(), origin("approve_version", "run-2")
    request = human_approval.ask(MODEL, stores, "1", policy="always", origin=other).request
    assert request is not None
    approval = human_approval.answer(
        stores, request, approved=True, reason="fine", by="grace", approvers=(), origin=other
    )

    assert left_open.answer("Reject", None) == approval.record_id

    assert records(place, Kind.APPROVAL) == [approval]
    assert human_approval.unanswered(stores, MODEL, "1") is None
    assert Tag.REJECTED not in stores.registry.version(MODEL, "1").tags
