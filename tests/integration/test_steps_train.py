"""From features to a registered version on real stores: what is fixed when, who may register, what a retry finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlops_provider.core.evaluation import Evaluation
from mlops_provider.core.names import Alias, Kind, Table, Tag
from mlops_provider.exceptions import DataRejectedError, EvidenceError, NotApprovedError, SourceError, SpecError
from mlops_provider.steps import gate, train
from mlops_provider.steps.outcomes import record_outcomes
from support.parcels import DECLARED, Parcels, origin


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Parcels:
    """January to March with a version of February that serves; not to be changed."""
    made = Parcels(tmp_path_factory.mktemp("trained"))
    made.build("2013-01", "2013-02", "2013-03")
    version = made.train("2013-02", "first")
    assert version == "1"
    made.serve(version)
    return made


@pytest.fixture
def parcels(trained: Parcels, tmp_path: Path) -> Parcels:
    """A copy of it to change."""
    return trained.copied(tmp_path / "copy")


def declared(parcels: Parcels, through: str = "2013-03", run: str = "run") -> str:
    return train.declare_gate(parcels.spec, parcels.stores, through, origin=origin("declare_gate", run))


def fitted(parcels: Parcels, declaration: str, through: str = "2013-03", run: str = "run") -> str:
    return train.train_model(
        parcels.spec, parcels.stores, through, parameters={}, declaration=declaration, origin=origin("train_model", run)
    )


def evaluated(parcels: Parcels, declaration: str, run_id: str, through: str = "2013-03", run: str = "run") -> str:
    return train.evaluate_model(
        parcels.spec,
        parcels.stores,
        through,
        run_id=run_id,
        declaration=declaration,
        origin=origin("evaluate_model", run),
    )


def judged(parcels: Parcels, declaration: str, evaluation: str, run: str = "run", digest: str | None = None):
    return gate.decide_gate(
        parcels.stores,
        evaluation=evaluation,
        declaration=declaration,
        limits_digest=digest,
        origin=origin("decide_gate", run),
    )


def test_a_first_version_is_registered_as_challenger_with_its_evidence(trained: Parcels) -> None:
    ledger, registry = trained.stores.ledger, trained.stores.registry

    (registration,) = ledger.history(Kind.REGISTRATION, "parcels")
    (version,) = registry.versions("parcels")
    assert version.run_id == registration.payload["run_id"]
    assert version.tags[Tag.GATE_RECORD] == registration.payload["gate"]
    assert version.tags[Tag.LEDGER_HEAD] == registration.digest
    assert version.tags[Tag.TRAINED_THROUGH] == "2013-01"
    assert registration.as_of == "2013-03-06T00:00:00+00:00"
    assert ledger.verify() is None


def test_the_first_candidate_meets_no_champion_but_the_baselines(trained: Parcels) -> None:
    (record,) = trained.stores.ledger.history(Kind.EVALUATION, "parcels")
    found = Evaluation.from_json(record.payload)

    assert [each.name for each in found.contenders] == ["candidate", "dummy"]
    assert found.champion_version is None
    assert found.rows == 760
    assert {each.value for each in found.slices} == {"north", "south"}
    page = trained.stores.reports.read(record.payload["report"]).decode()
    assert "parcels: candidate judged on 2013-02" in page
    assert "logistic regression" not in page


def test_the_run_says_what_the_model_was_made_of(trained: Parcels) -> None:
    (training,) = trained.stores.ledger.history(Kind.TRAINING, "parcels")
    run = MlflowClient(trained.stores.registry.tracking_uri).get_run(training.payload["run_id"])

    assert run.info.status == "FINISHED"
    assert run.data.tags[Tag.ORIGIN].startswith("parcels/first:")
    assert run.data.tags[Tag.SEED] == "7"
    assert run.data.tags[Tag.CODE_DIGEST] == trained.spec.code_digest
    assert run.data.metrics["training_rows"] == 760
    assert run.data.metrics["roc_auc"] > 0.6
    contexts = {(each.dataset.name, each.tags[0].value) for each in run.inputs.dataset_inputs}
    assert contexts == {
        ("parcels/features", "training"),
        ("parcels/outcomes", "training"),
        ("parcels/features", "evaluation"),
    }
    assert "scikit-learn" in " ".join(training.payload["requirements"])


def test_every_step_gives_a_retry_what_its_first_try_did(parcels: Parcels) -> None:
    def life() -> tuple[str, ...]:
        declaration = declared(parcels)
        parameters = train.search_parameters(
            parcels.spec, parcels.stores, "2013-03", declaration=declaration, origin=origin("search_parameters")
        )
        run_id = train.train_model(
            parcels.spec,
            parcels.stores,
            "2013-03",
            parameters=parameters,
            declaration=declaration,
            origin=origin("train_model"),
        )
        evaluation = evaluated(parcels, declaration, run_id)
        return declaration, str(parameters), run_id, evaluation, judged(parcels, declaration, evaluation)[0]

    first, second = life(), life()

    assert first == second
    for kind in (Kind.DECLARATION, Kind.TRAINING, Kind.EVALUATION, Kind.GATE):
        assert len(parcels.stores.ledger.history(kind, "parcels")) == 2  # that of the fixture, and this one


def test_a_cleared_run_over_a_month_that_was_landed_again_trains_and_judges_anew(parcels: Parcels) -> None:
    def life() -> tuple[str, str, str, str]:
        declaration = declared(parcels)
        run_id = fitted(parcels, declaration)
        evaluation = evaluated(parcels, declaration, run_id)
        return declaration, run_id, evaluation, judged(parcels, declaration, evaluation)[0]

    first = life()
    parcels.build("2013-04")
    untouched = life()
    parcels.bend(m2013_01={"rows": 500})
    parcels.build("2013-01")
    record_outcomes(parcels.spec, parcels.stores, "2013-01", origin=origin("record_outcomes"))
    mended, again = life(), life()

    assert first == untouched
    assert mended == again
    assert not set(first) & set(mended)
    ledger = parcels.stores.ledger
    assert [ledger.find(Kind.TRAINING, one[1]).payload["rows"] for one in (first, mended)] == [1520, 1235]
    assert ledger.get(mended[3]).payload["evaluation"] == mended[2]


def test_a_cleared_search_over_other_trials_searches_anew_and_its_training_follows(parcels: Parcels) -> None:
    declaration = declared(parcels)

    def searched(trials: int) -> dict[str, object]:
        return train.search_parameters(
            parcels.spec,
            parcels.stores,
            "2013-03",
            declaration=declaration,
            trials=trials,
            origin=origin("search_parameters"),
        )

    found = [searched(trials) for trials in (1, 1, 3)]

    assert [record.payload["trials"] for record in parcels.stores.ledger.history(Kind.SEARCH, "parcels")] == [1, 3]
    assert found[0] == found[1]
    runs = [
        train.train_model(
            parcels.spec,
            parcels.stores,
            "2013-03",
            parameters=parameters,
            declaration=declaration,
            origin=origin("train_model"),
        )
        for parameters in ({"max_leaf_nodes": 4}, {"max_leaf_nodes": 4}, {"max_leaf_nodes": 5})
    ]
    assert runs[0] == runs[1] != runs[2]


WRONG = {
    "a name that is not there": ("return missing", "NameError"),
    "a parameter of another type": (
        "return Pipeline([('trees', HistGradientBoostingClassifier(max_iter='9'))])",
        "Error, in a library",
    ),
    "no estimator": ("return None", "AttributeError, in a library it uses"),
    "a line that fails": ("return {}['a value']", "KeyError in parcels.py, line "),
}


@pytest.mark.parametrize(("line", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_estimator_is_named_and_not_tried_again(parcels: Parcels, line: str, said: str) -> None:
    code = parcels.folder / "parcels.py"
    code.write_text(code.read_text().replace("def estimator(params):", f"def estimator(params):\n    {line}"))
    declaration = declared(parcels)

    with pytest.raises(SpecError, match=rf"parcels/parcels.py:estimator failed with .*{said}") as fitting:
        fitted(parcels, declaration)
    with pytest.raises(SpecError, match=r"parcels.py:estimator and parcels.py:space failed with"):
        train.search_parameters(
            parcels.spec, parcels.stores, "2013-03", declaration=declaration, origin=origin("search_parameters")
        )

    assert "a value" not in str(fitting.value)
    assert parcels.stores.ledger.history(Kind.SEARCH, "parcels") == []


def test_registering_twice_gives_one_version_and_one_record(parcels: Parcels) -> None:
    parcels.declare(gate={**DECLARED["gate"], "mode": "dry_run"})
    declaration = declared(parcels)
    run_id = fitted(parcels, declaration)
    verdict, _ = judged(parcels, declaration, evaluated(parcels, declaration, run_id))

    versions = {
        train.register_model(
            parcels.spec, parcels.stores, run_id=run_id, verdict=verdict, origin=origin("register_model", run)
        )
        for run in ("run", "run", "another run")
    }

    assert versions == {"2"}
    assert [each.version for each in parcels.stores.registry.versions("parcels")] == ["1", "2"]
    assert len(parcels.stores.ledger.history(Kind.REGISTRATION, "parcels")) == 2


def test_the_challenger_alias_names_the_newest_version(trained: Parcels) -> None:
    address = trained.stores.registry.tracking_uri
    client = MlflowClient(address, address)

    assert str(client.get_model_version_by_alias("parcels", Alias.CHALLENGER).version) == "1"


def test_a_later_candidate_meets_the_champion_on_the_same_rows(parcels: Parcels) -> None:
    declaration = declared(parcels)
    found = Evaluation.from_json(parcels.payload(evaluated(parcels, declaration, fitted(parcels, declaration))))

    champion = found.of("champion")
    assert champion is not None
    assert champion.version == found.champion_version == "1"
    assert found.against("champion", "roc_auc") is not None


def test_a_candidate_that_learned_the_opposite_is_rejected_in_words_and_cannot_register(parcels: Parcels) -> None:
    parcels.bend(m2013_03={"reversed": True})
    declaration = declared(parcels)
    run_id = fitted(parcels, declaration)
    verdict_id, verdict = judged(parcels, declaration, evaluated(parcels, declaration, run_id))

    assert not verdict.passed
    assert "below the minimum 0.6" in verdict.summary
    with pytest.raises(NotApprovedError, match=r"not registered\. Rejected"):
        train.register_model(
            parcels.spec, parcels.stores, run_id=run_id, verdict=verdict_id, origin=origin("register_model")
        )
    assert [each.version for each in parcels.stores.registry.versions("parcels")] == ["1"]


def test_a_candidate_whose_groups_lie_too_far_apart_is_rejected_with_their_names_sizes_and_numbers(
    parcels: Parcels,
) -> None:
    limit = {"measure": "demographic_parity_ratio", "attribute": "depot", "minimum": 0.8}
    parcels.declare(protected=["depot"], gate={**DECLARED["gate"], "mode": "dry_run", "fairness": [limit]})
    declaration = declared(parcels)
    evaluation = evaluated(parcels, declaration, fitted(parcels, declaration))

    _, verdict = judged(parcels, declaration, evaluation)

    groups = {
        each["group"]: each["metrics"]["selection_rate"]["value"]
        for each in parcels.payload(evaluation)["fairness"]["groups"]
    }
    assert groups["south"] > groups["north"]
    (refusal,) = (one for one in verdict.warnings if "Fairness" in one)
    assert refusal.startswith("Would have been rejected: Fairness by depot: demographic_parity_ratio ")
    assert f"selection rate {groups['north']:.4f} of north (" in refusal
    assert f"against {groups['south']:.4f} of south (" in refusal
    assert "Proxy: depot is itself a feature: the model sees it." in verdict.warnings


def test_a_protected_column_that_the_features_do_not_have_yet_is_named(parcels: Parcels) -> None:
    parcels.declare(protected=["sex"])
    declaration = declared(parcels)

    with pytest.raises(DataRejectedError, match=r"the features of 2013-03 lack sex, which model.yaml names"):
        evaluated(parcels, declaration, fitted(parcels, declaration))


def test_the_verdict_on_one_run_registers_no_other(parcels: Parcels) -> None:
    (passed,) = parcels.stores.ledger.history(Kind.GATE, "parcels")
    run_id = fitted(parcels, declared(parcels))

    with pytest.raises(NotApprovedError, match="is no verdict on run"):
        train.register_model(
            parcels.spec, parcels.stores, run_id=run_id, verdict=passed.record_id, origin=origin("register_model")
        )


def test_limits_that_changed_after_the_declaration_reject(parcels: Parcels) -> None:
    declaration = declared(parcels)
    evaluation = evaluated(parcels, declaration, fitted(parcels, declaration))
    parcels.declare(gate={**DECLARED["gate"], "limits": []})

    _, verdict = judged(parcels, declaration, evaluation, digest=parcels.spec.gate_policy.digest)

    assert not verdict.passed
    assert "thresholds changed" in verdict.reasons[0]


def test_the_champion_to_beat_is_the_declared_one_whoever_serves_meanwhile(parcels: Parcels) -> None:
    declaration = declared(parcels)
    parcels.declare(gate={**DECLARED["gate"], "mode": "dry_run"})
    second = parcels.train("2013-03", "meanwhile")
    assert second == "2"
    parcels.serve(second)

    evaluation = evaluated(parcels, declaration, fitted(parcels, declaration))

    assert parcels.payload(evaluation)["champion_version"] == "1"
    _, verdict = judged(parcels, declaration, evaluation)
    assert "champion, version 1" in verdict.summary


def test_what_arrives_after_the_declaration_is_not_read(parcels: Parcels) -> None:
    declaration = declared(parcels)
    before = parcels.payload(declaration)["features"]["version"]
    parcels.bend(m2013_01={"rows": 300, "reversed": True})
    parcels.build("2013-01")

    training = parcels.stores.ledger.find(Kind.TRAINING, fitted(parcels, declaration))

    assert training is not None
    assert training.payload["features"]["version"] == before
    assert training.payload["rows"] == 1520


def test_a_search_that_time_cut_short_says_so(parcels: Parcels, caplog: pytest.LogCaptureFixture) -> None:
    declaration = train.declare_gate(parcels.spec, parcels.stores, "2013-03", origin=origin("declare_gate"))
    parcels.declare(search={"trials": 100_000, "timeout_seconds": 1, "sample_rows": 200})

    train.search_parameters(
        parcels.spec, parcels.stores, "2013-03", declaration=declaration, origin=origin("search_parameters")
    )

    found = parcels.stores.ledger.latest(Kind.SEARCH, "parcels")
    assert found is not None
    assert (found.payload["asked"], found.payload["cut"]) == (100_000, True)
    said = f"The search was cut: {found.payload['trials']} of 100000 trials began within 1 s"
    assert found.payload["warnings"][-1].startswith(said)
    assert said in caplog.text


def test_a_search_validates_on_the_last_training_month_and_never_sees_the_gates(parcels: Parcels) -> None:
    declaration = declared(parcels)

    train.search_parameters(
        parcels.spec, parcels.stores, "2013-03", trials=1, declaration=declaration, origin=origin("search_parameters")
    )

    found = parcels.stores.ledger.latest(Kind.SEARCH, "parcels")
    assert found is not None
    assert (found.payload["rows"], found.payload["validation_rows"]) == (500, 500)  # search.sample_rows of each
    assert found.payload["trials"] == 1


def test_a_declaration_for_another_month_is_refused(parcels: Parcels) -> None:
    with pytest.raises(EvidenceError, match="is no declaration of a gate of 'parcels' on 2013-02"):
        fitted(parcels, declared(parcels), through="2013-02")


def test_only_what_was_trained_under_a_declaration_is_evaluated_under_it(parcels: Parcels) -> None:
    run_id = fitted(parcels, declared(parcels))
    another = declared(parcels, run="another")

    with pytest.raises(NotApprovedError, match="was not trained under the declaration"):
        evaluated(parcels, another, run_id, run="another")


def test_an_evaluation_is_judged_under_its_own_declaration_only(parcels: Parcels) -> None:
    declaration = declared(parcels)
    evaluation = evaluated(parcels, declaration, fitted(parcels, declaration))

    with pytest.raises(EvidenceError, match="is no evaluation under the declaration"):
        judged(parcels, declared(parcels, run="another"), evaluation)


@pytest.mark.parametrize("through", ["2013-01", "2013-07"], ids=["nothing before it", "not built"])
def test_a_gate_without_data_is_refused_with_what_there_is(parcels: Parcels, through: str) -> None:
    with pytest.raises(DataRejectedError, match=r"2013-01, 2013-02, 2013-03\. Run the ingest DAG first"):
        declared(parcels, through)


def test_a_champion_with_other_features_can_still_be_compared(parcels: Parcels) -> None:
    features = DECLARED["features"]
    parcels.declare(features={**features, "numeric": ["distance"]}, monitoring={"limit": 0.5})
    declaration = declared(parcels)

    found = Evaluation.from_json(parcels.payload(evaluated(parcels, declaration, fitted(parcels, declaration))))

    assert found.of("champion") is not None


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"outcomes": "none"}, DataRejectedError, "No outcome of 2013-03 is known yet"),
        ({"outcomes": "doubled"}, DataRejectedError, "3 keys have more than one"),
        ({"outcomes": "strange"}, DataRejectedError, "neither 0 nor 1 in 'late'"),
        ({"source": "missing"}, SourceError, "The source of parcels 2013-03 cannot be read: parcels.csv is missing"),
    ],
)
def test_bad_outcomes_are_refused_and_nothing_is_written(
    parcels: Parcels, how: dict[str, str], error: type[Exception], words: str
) -> None:
    parcels.bend(m2013_03=how)

    with pytest.raises(error, match=words):
        record_outcomes(parcels.spec, parcels.stores, "2013-03", origin=origin("record_outcomes"))

    uri = parcels.stores.tables.uri("parcels", Table.OUTCOMES)
    assert parcels.stores.tables.partitions(uri) == ["2013-01", "2013-02"]


def test_outcomes_of_one_class_give_no_evaluation(parcels: Parcels) -> None:
    parcels.bend(m2013_03={"outcomes": "one class"})
    declaration = declared(parcels)
    run_id = fitted(parcels, declaration)

    with pytest.raises(DataRejectedError, match="both 0 and 1 are needed"):
        evaluated(parcels, declaration, run_id)


def test_recording_the_same_outcomes_again_changes_nothing(parcels: Parcels) -> None:
    first, again = (
        record_outcomes(parcels.spec, parcels.stores, "2013-03", origin=origin("record_outcomes")) for _ in range(2)
    )

    assert first == again
