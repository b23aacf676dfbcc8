from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_provider.checked_yaml import Document
from mlops_provider.core.drift import DriftPolicy
from mlops_provider.core.fairness import FairnessLimit
from mlops_provider.core.gates import GatePolicy, Limit, SliceCeiling, SliceFloor
from mlops_provider.core.guards import (
    AgreementGuard,
    ErrorGuard,
    Guards,
    LatencyGuard,
    PerformanceGuard,
    PredictionGuard,
    Soak,
)
from mlops_provider.core.retrain import Drop, RetrainPolicy
from mlops_provider.core.rollout import RolloutPolicy
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.core.tasks import REGRESSION as REGRESSION_TASK
from mlops_provider.exceptions import SpecError
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.use_case import load_function

DECLARED: dict[str, Any] = {
    "name": "flight_delays",
    "owner": "data-team",
    "functions": {
        "land": "data.py:land",
        "features": "data.py:features",
        "outcomes": "data.py:outcomes",
        "estimator": "model.py:estimator",
        "space": "model.py:space",
    },
    "keys": ["carrier", "flight"],
    "event_time": "scheduled",
    "first_partition": "2013-01",
    "label_lag_days": 3,
    "target": {"name": "late"},
    "expectations": "expectations.yaml",
    "features": {"numeric": ["distance", "temp"], "categorical": ["origin"]},
    "gate": {"primary": "roc_auc"},
}
ROLLOUT: dict[str, Any] = {"guards": {"errors": {"maximum": 0.01}}}
DATA = """
from .weather import hourly

def land(key):
    return f"{key} {hourly()}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "weather.py").write_text("def hourly():\n    return 'rain'\n")
    (tmp_path / "model.py").write_text("LIMIT = 3\n")
    (tmp_path / "expectations.yaml").write_text("[]\n")
    return tmp_path


Declare = Callable[..., Path]


@pytest.fixture
def declare(folder: Path) -> Declare:
    """Write a model.yaml: DECLARED with some parts replaced; ``"gate.mode"`` reaches into a part."""

    def write(changes: dict[str, Any] | None = None) -> Path:
        declared = copy.deepcopy(DECLARED)
        for place, value in (changes or {}).items():
            *parents, last = place.split(".")
            part = declared
            for parent in parents:
                part = part.setdefault(parent, {})
            part[last] = value
        declared.setdefault("rollout", ROLLOUT)
        path = folder / "model.yaml"
        path.write_text(yaml.safe_dump(declared, sort_keys=False))
        return path

    return write


def problems(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return str(caught.value).replace(f"{path}:", "model.yaml:").replace(str(path), "model.yaml")


def test_a_minimal_declaration_is_completed_with_defaults(declare: Declare) -> None:
    spec = load_spec(declare())

    assert spec.time_zone == "UTC"
    assert spec.rollout_policy == RolloutPolicy(
        "canary", (10, 50, 100), Soak(600, 3600, 15, "rollback"), Guards(errors=ErrorGuard(0.01, 100))
    )
    assert spec.feature_columns == ("distance", "temp", "origin")
    assert spec.gate_policy == GatePolicy("roc_auc", (), ("dummy", "linear"), None, 1000)
    assert spec.approval.policy == "never"
    assert spec.resources == {}


def test_every_policy_reaches_core_as_declared(declare: Declare) -> None:
    path = declare(
        {
            "slices": ["origin"],
            "time_zone": "America/New_York",
            "gate.limits": [{"metric": "roc_auc", "minimum": 0.6}, {"metric": "brier", "maximum": 0.25}],
            "gate.baselines": ["linear"],
            "gate.slice_floor": {"metric": "roc_auc", "minimum": 0.55, "minimum_rows": 500},
            "gate.minimum_rows": 2000,
            "gate.mode": "disabled",
            "gate.mode_reason": "first week",
            "monitoring": {"limit": 0.2, "seasonal": ["temp"], "seasonal_limit": 3, "alarm_share": 0.5},
            "retrain": {"windows_needed": 1, "windows_considered": 2, "max_age_days": 90},
            "rollout": {
                "strategy": "blue_green",
                "soak_seconds": 60,
                "guards": {
                    "latency": {"p99_ms": 250, "minimum_requests": 10},
                    "predictions": {"maximum": 0.5},
                    "agreement": {"minimum": 0.9, "within": 0.1},
                    "performance": {"metric": "brier", "drop": "5 %", "limit": 0.3},
                },
                "wait_at_most_seconds": 120,
                "without_data": "hold",
                "look_seconds": 5,
            },
            "serving": {"sticky": ["customer"], "fallback": 0.2, "deadline_seconds": 1, "most_waiting": 64},
            "resources": {"train_model": {"pool": "training", "threads": 2}},
        }
    )

    spec = load_spec(path)

    assert spec.gate_policy == GatePolicy(
        "roc_auc",
        (Limit("roc_auc", minimum=0.6), Limit("brier", maximum=0.25)),
        ("linear",),
        SliceFloor("roc_auc", 0.55, 500),
        2000,
        "disabled",
        "first week",
    )
    assert spec.drift_policy == DriftPolicy(0.2, ("temp",), 3, 0.5, 10_000, 1000)
    assert spec.retrain_policy == RetrainPolicy(1, 2, Drop(0.02), 90, 25)
    assert spec.rollout_policy == RolloutPolicy(
        "blue_green",
        (10, 50, 100),
        Soak(60, 120, 5, "hold"),
        Guards(
            latency=LatencyGuard(250, None, 10),
            predictions=PredictionGuard(0.5, 200),
            agreement=AgreementGuard(0.9, 0.1, 200),
            performance=PerformanceGuard("brier", Drop(0.05, relative=True), 0.3, 200),
        ),
    )
    assert spec.serving.policy() == ServingPolicy(("customer",), 0.2, 1, 60, 64)
    assert spec.time_zone == "America/New_York"
    assert spec.resources["train_model"].pool == "training"  # type: ignore[index]  # a StrEnum is its text


def test_paths_are_relative_to_the_yaml(declare: Declare, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare()
    monkeypatch.chdir(folder)

    spec = load_spec("model.yaml")
    monkeypatch.chdir("/")

    assert spec.path == folder / "model.yaml"
    assert spec.expectations_path == folder / "expectations.yaml"
    assert spec.function("land")("2013-01") == "2013-01 rain"


REGRESSION = {"target.task": "regression", "gate.primary": "mae"}


def test_a_tolerated_drop_is_a_number_in_units_of_the_metric_or_a_percentage(declare: Declare) -> None:
    def drop(**changes: Any) -> Drop:
        return load_spec(declare(changes)).retrain_policy.performance_drop

    assert drop() == Drop(0.02)
    assert drop(**REGRESSION) == Drop(0.1, relative=True)
    assert drop(retrain={"performance_drop": 3}, **REGRESSION) == Drop(3)
    assert (
        drop(retrain={"performance_drop": "2.5 %"}) == drop(retrain={"performance_drop": "2.5%"}) == Drop(0.025, True)
    )
    assert drop(retrain={"performance_drop": 0}) == Drop(0)


def test_a_regression_with_fairness_blocks_and_a_ceiling(declare: Declare) -> None:
    spec = load_spec(
        declare(
            {
                **REGRESSION,
                "protected": ["sex"],
                "slices": ["sex"],
                "bootstrap": {"block": "origin"},
                "gate.slice_ceiling": {"metric": "rmse", "maximum": 12, "minimum_rows": 500},
                "gate.fairness": [{"measure": "mae_difference", "maximum": 2}],
                "monitoring": {"categorical_limit": 0.3},
            }
        )
    )

    assert spec.task is REGRESSION_TASK
    assert spec.gate_policy.slice_bound == SliceCeiling("rmse", 12.0, 500)
    assert spec.gate_policy.fairness == (FairnessLimit("mae_difference", maximum=2.0, minimum_rows=100),)
    assert spec.drift_policy.categorical_limit == 0.3
    assert spec.kept_columns == ("carrier", "flight", "scheduled", "sex", "distance", "temp", "origin")


WRONG = [
    ({"name": "Flight-Delays"}, "1: name: expected small letters, digits and '_', starting with a letter, got 'Flight"),
    ({"name": "x" * 64}, "1: name: expected a shorter text, got 'xxx"),
    ({"owner": ""}, "2: owner: expected a text that is not empty, got ''."),
    ({"owner": 7}, "2: owner: expected a text, got 7."),
    ({"functions.land": "data:land"}, "4: functions.land: expected file and function such as 'data.py:land', got"),
    ({"functions.land": "gone.py:land"}, "4: functions.land: there is no file 'gone.py' beside this one."),
    ({"functions": []}, "3: functions: expected keys and values, got a list."),
    ({"keys": []}, "9: keys: expected at least one entry, got a list."),
    ({"keys": ["a", "a"]}, "9: keys: each may stand here once: a."),
    ({"keys": "carrier"}, "9: keys: expected a list, got 'carrier'."),
    ({"keys": ["carrier", 3]}, "11: keys.1: expected a text, got 3."),
    ({"first_partition": "2013-13"}, "13: first_partition: expected a month such as '2013-01', got '2013-13'."),
    ({"label_lag_days": 2.5}, "14: label_lag_days: expected a whole number, got 2.5."),
    ({"label_lag_days": -1}, "14: label_lag_days: expected greater than or equal to 0, got -1."),
    ({"target.task": "ranking"}, "17: target.task: expected 'binary' or 'regression', got 'ranking'."),
    (
        {"target.task": "regression"},
        "26: gate.primary: expected a metric of a regression target: rmse, mae, median_absolute_error, r2, absolute_bi",
    ),
    ({"target.name": "origin"}, "16: target.name: 'origin' is also a key or a feature: the model would see its answer"),
    ({"expectations": "gone.yaml"}, "17: expectations: there is no file 'gone.yaml' beside this one."),
    ({"features": {}}, "18: features: expected at least one numeric or categorical column."),
    ({"features.categorical": ["temp"]}, "18: features: each may stand here once: temp."),
    ({"gate.primary": "auc"}, "25: gate.primary: expected one of roc_auc, "),
    ({"gate.limits": [{"metric": "brier"}]}, "27: gate.limits.0: expected a minimum, a maximum or both."),
    (
        {"gate.limits": [{"metric": "brier", "minimum": 0.3, "maximum": 0.2}]},
        "27: gate.limits.0: the minimum 0.3 is above the maximum 0.2.",
    ),
    ({"gate.limits": [{"metric": "brier", "minimum": "high"}]}, "28: gate.limits.0.minimum: expected a number, got 'h"),
    (
        {"gate.limits": [{"metric": "brier", "minimum": "1e-3"}]},
        "28: gate.limits.0.minimum: expected a number, got '1e-3'. YAML reads this as text: write it without quotes, ",
    ),
    ({"gate.limits": [{"metric": "brier", "minumum": 1}]}, "28: gate.limits.0.minumum: unknown key; did you mean 'min"),
    (
        {"gate.limits": [{"metric": "brier", "minimum": 0}, {"metric": "brier", "maximum": 1}]},
        "24: gate: each may stand here once: brier.",
    ),
    ({"gate.limits": [None]}, "27: gate.limits.0: expected keys and values, got nothing."),
    ({"gate.baselines": ["linear", "magic"]}, "28: gate.baselines.1: expected 'dummy' or 'linear', got 'magic'."),
    (
        {"gate.slice_floor": {"metric": "brier", "minimum": 0.1, "minimum_rows": 5}},
        "26: gate.slice_floor: a floor needs a metric where more is better; 'brier' is better when less: give a",
    ),
    (
        {"gate.slice_floor": {"metric": "roc_auc", "minimum": 0.1, "minimum_rows": 5}},
        "26: gate.slice_floor: a floor for slices needs columns under 'slices'.",
    ),
    ({"gate.slice_floor.metrik": 1}, "26: gate.slice_floor.metric: required, but missing."),
    ({"gate.mode": "disabled"}, "24: gate: a disabled gate needs a reason: it is recorded with every verdict."),
    ({"gate.mode": True}, "26: gate.mode: expected 'enabled', 'dry_run' or 'disabled', got true."),
    ({"gate.threshold": 1}, "26: gate.threshold: unknown key; known here: primary, limits, "),
    ({"time_zone": "Mars/Base"}, "26: time_zone: expected a time zone such as 'America/New_York', got 'Mars/Base'."),
    ({"slices": ["dest"]}, "27: slices.0: expected a key, a feature or a protected column, got 'dest'."),
    (
        {"protected": ["temp"]},
        "27: protected.0: 'temp' is a number: add a column of its bands, such as '30-39', as text.",
    ),
    (
        {"gate.slice_ceiling": {"metric": "brier", "maximum": 0.1, "minimum_rows": 5}},
        "26: gate.slice_ceiling: a ceiling for slices needs columns under 'slices'.",
    ),
    (
        {"gate.slice_ceiling": {"metric": "roc_auc", "maximum": 0.1, "minimum_rows": 5}},
        "26: gate.slice_ceiling: a ceiling needs a metric where less is better; 'roc_auc' is better when more: give a",
    ),
    (
        {
            "slices": ["origin"],
            "gate.slice_floor": {"metric": "roc_auc", "minimum": 0.5, "minimum_rows": 5},
            "gate.slice_ceiling": {"metric": "brier", "maximum": 0.1, "minimum_rows": 5},
        },
        "24: gate: slices have either a floor or a ceiling: they are scored by one metric.",
    ),
    (
        {"gate.fairness": [{"measure": "equalized_odds_difference", "maximum": 0.1}]},
        "27: gate.fairness.0: a limit between groups needs columns under 'protected'.",
    ),
    (
        {
            "protected": ["sex"],
            "gate.fairness": [{"measure": "equalized_odds_difference", "attribute": "race", "maximum": 0.1}],
        },
        "28: gate.fairness.0.attribute: expected one of sex, got 'race'.",
    ),
    (
        {"protected": ["sex"], "gate.fairness": [{"measure": "mae_difference", "maximum": 0.1}]},
        "27: gate.fairness.0.measure: expected a measure of a binary target: demographic_parity_difference, ",
    ),
    (
        {"gate.fairness": [{"measure": "equal_odds", "maximum": 0.1}]},
        "27: gate.fairness.0: expected one of demographic_parity_difference, ",
    ),
    (
        {"gate.fairness": [{"measure": "demographic_parity_ratio", "maximum": 0.1}]},
        "27: gate.fairness.0: 'demographic_parity_ratio' needs a minimum and nothing else: a ratio is better when more",
    ),
    (
        {"bootstrap": {"block": "fortnight"}},
        "27: bootstrap.block: expected hour, day, week, a key, a feature or a prot",
    ),
    (
        {"monitoring": {"categorical_limit": 0.9}},
        "26: monitoring: the categorical limit must be above 0 and at most 0.",
    ),
    ({"retrain": {"performance_drop": "a lot"}}, "27: retrain.performance_drop: expected a number from 0, or a perce"),
    ({"retrain": {"performance_drop": [1]}}, "27: retrain.performance_drop: expected a number from 0, or a percenta"),
    ({"seed": {"a": 1}}, "26: seed: expected a whole number, got keys and values."),
    ({"bootstrap": {"confidence": 95}}, "27: bootstrap.confidence: expected less than 1, got 95."),
    ({"search": {"trials": True}}, "27: search.trials: expected a whole number, got true."),
    (
        {"rollout": {"steps": [10, 50]}},
        (
            "26: rollout.guards: a rollout without a guard is refused: declare at least one of errors, latency, "
            "predictions, agreement, performance."
        ),
    ),
    (
        {"rollout": {"guards": {"performance": {"metric": "rmse"}}}},
        "29: rollout.guards.performance.metric: expected a metric of a binary target: roc_auc",
    ),
    (
        {"rollout": {**ROLLOUT, "steps": [10, 50]}},
        "26: rollout: the steps must rise from above 0 to 100 percent, got [10, 50].",
    ),
    (
        {"rollout": {"strategy": "all_at_once", "guards": {"performance": {}}}},
        "26: rollout: with all_at_once, none of the declared guards would judge anything (performance): callers never ",
    ),
    (
        {"rollout": {"steps": [100], "guards": {"performance": {"drop": 0.1}}}},
        "26: rollout: with canary, steps [100], none of the declared guards would judge anything (performance): ",
    ),
    (
        {
            "rollout": {
                "strategy": "all_at_once",
                "guards": {"predictions": {"maximum": 0.5}, "latency": {"p99_ratio": 2}},
            }
        },
        "26: rollout: with all_at_once, none of the declared guards would judge anything (latency, predictions): ",
    ),
    (
        {"rollout": {"strategy": "blue_green", "guards": {"latency": {"p99_ratio": 2}}}},
        "26: rollout: with blue_green, none of the declared guards would judge anything (latency): ",
    ),
    ({"rollout": {"guards": {"errors": {"maximum": 1.0}}}}, "29: rollout.guards.errors.maximum: "),
    (
        {"rollout": {"guards": {"agreement": {"minimum": 0.0, "within": 1.0}}}},
        "29: rollout.guards.agreement.minimum: ",
    ),
    (
        {"rollout": {"guards": {"predictions": {"maximum": 0.5, "minimum_rows": 2001}}}},
        "30: rollout.guards.predictions.minimum_rows: expected less than or equal to 2000, got 2001.",
    ),
    (
        {"rollout": {"guards": {"agreement": {"minimum": 0.9, "within": 0.1, "minimum_rows": 2001}}}},
        "31: rollout.guards.agreement.minimum_rows: expected less than or equal to 2000, got 2001.",
    ),
    ({"serving": {"fallback": 1.5}}, "27: serving.fallback: expected a probability, 0-1, got 1.5."),
    ({"serving": {"fallback": float("inf")}}, "27: serving.fallback: expected a finite number, got inf."),
    ({"serving": {"deadline_seconds": 90}}, "26: serving: deadlines must lie above 0, and the default not above the "),
    ({"serving": {"pseudonymise": ["who"]}}, "28: serving.pseudonymise.0: expected a key or a feature, got 'who'."),
    ({"serving": {"most_waiting": 0}}, "27: serving.most_waiting: "),
    ({"monitoring": {"seasonal": ["snow"]}}, "28: monitoring.seasonal.0: expected a feature, got 'snow'."),
    ({"monitoring": {"seasonal_limit": 0.01}}, "26: monitoring: the seasonal limit 0.01 is below the limit 0.1."),
    ({"retrain": {"windows_needed": 9}}, "26: retrain: 9 of 3 windows is not possible: "),
    ({"approval": "sometimes"}, "26: approval.policy: expected 'never', 'on_warning' or 'always', got 'sometimes'."),
    (
        {"approval": {"policy": "always", "timeout_hours": 0}},
        "28: approval.timeout_hours: expected greater than 0, got 0.",
    ),
    ({"resources": {"train_modell": {}}}, "27: resources.train_modell: expected 'wait_for_source', "),
    ({"resources": {"train_model": {"ppool": "x"}}}, "28: resources.train_model.ppool: unknown key; did you mean 'po"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said.split(":")[1].strip() for _, said in WRONG])
def test_a_wrong_value_is_told_with_its_line_and_what_was_expected(
    declare: Declare, changes: dict[str, Any], said: str
) -> None:
    assert problems(declare(changes)).startswith(f"model.yaml:{said}")


def test_the_line_of_what_is_not_there_is_its_parents(declare: Declare) -> None:
    document = Document(declare())

    assert [document.line(place) for place in ((), ("keys", 1), ("keys", 9), ("keys", 1, "x"), ("gone", 1))] == [
        1,
        11,
        9,
        11,
        1,
    ]


def test_a_missing_key_is_told_at_its_parent(declare: Declare, folder: Path) -> None:
    path = declare({"gate": {}})
    text = path.read_text().replace("owner: data-team\n", "")
    path.write_text(text)

    assert problems(path) == (
        "model.yaml:1: owner: required, but missing.\nmodel.yaml:23: gate.primary: required, but missing."
    )


def test_ten_problems_are_listed_and_the_rest_counted(declare: Declare) -> None:
    said = problems(declare({f"wrong_{n:02d}": n for n in range(13)})).splitlines()

    assert said[0].startswith("model.yaml:26: wrong_00: unknown key; known here: name, owner, ")
    assert len(said) == 11
    assert said[-1] == "And 3 more."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "model.yaml:1: expected keys and values, got nothing."),
        ("- a\n", "model.yaml:1: expected keys and values, got a list."),
        ("name: 2013-01-01 text\nowner: a: b\n", "model.yaml:2: is not valid YAML: mapping values are not allowed"),
        ("name: !!python/object:os.system x\n", "model.yaml:1: is not valid YAML: could not determine a constructor"),
        ("name: \x07\n", "model.yaml: is not valid YAML: "),
        (
            "name: a\ngate:\n  primary: x\n  primary: y\n",
            "model.yaml:3: gate.primary: written twice, on lines 3 and 4.",
        ),
        ("a:\n  - b: 1\n    b: 2\n", "model.yaml:2: a.0.b: written twice, on lines 2 and 3."),
    ],
)
def test_what_is_no_yaml_mapping_is_told_with_its_line(folder: Path, text: str, said: str) -> None:
    path = folder / "model.yaml"
    path.write_text(text)

    assert problems(path).startswith(said)


def test_an_anchor_may_be_used_more_than_once(declare: Declare) -> None:
    path = declare()
    path.write_text(path.read_text() + "resources:\n  train_model: &big {pool: big}\n  search_parameters: *big\n")

    assert {task: part.pool for task, part in load_spec(path).resources.items()} == {
        "train_model": "big",
        "search_parameters": "big",
    }


def test_text_in_another_encoding_is_told(folder: Path) -> None:
    path = folder / "model.yaml"
    path.write_bytes(b"name: \xff\n")

    assert problems(path) == "model.yaml: is not UTF-8 text."


def test_a_missing_file_is_told(folder: Path) -> None:
    assert problems(folder / "gone.yaml") == "model.yaml: cannot be read: No such file or directory."
    assert problems(folder) == "model.yaml: cannot be read: Is a directory."


def test_the_file_is_read_again_only_when_it_changed(declare: Declare) -> None:
    path = declare()
    first = load_spec(path)
    again = load_spec(str(path))
    declare({"owner": "someone else"})
    changed = load_spec(path)

    assert again is first
    assert changed.owner == "someone else"


def test_digests_follow_content_not_form(declare: Declare, folder: Path) -> None:
    path = declare()
    spec = load_spec(path)
    digest, code = spec.digest, spec.code_digest

    path.write_text(path.read_text() + "# a comment\n")
    commented = load_spec(path)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "data.py").write_text("ignored")
    (folder / "notes.txt").write_text("ignored")

    assert (commented.digest, commented.code_digest) == (digest, code)
    reseeded = load_spec(declare({"seed": 1}))
    assert not {reseeded.digest, reseeded.code_digest} & {digest, code}
    (folder / "expectations.yaml").write_text("expectations: []\n# a comment\n")
    assert load_spec(declare()).digest == digest
    assert load_spec(declare()).code_digest != code


def test_digests_do_not_tell_how_the_work_is_done(declare: Declare) -> None:
    def digests(**changes: Any) -> tuple[str, str]:
        spec = load_spec(declare({"segments": "origin", **changes}))
        return spec.digest, spec.code_digest

    before = digests()

    assert digests(resources={"train_segment": {"queue": "large", "pool": "training", "threads": 8}}) == before
    assert digests(chunk_rows=8192) == before
    assert digests(segments={"column": "origin", "at_once": 1}) == before
    assert digests(serving={"sagemaker": {"instance_type": "ml.c5.large"}}) == before
    assert digests(segments={"column": "origin", "minimum_rows": 7})[0] != before[0]
    assert digests(look_back_hours=5)[0] != before[0]


def test_a_changed_function_is_loaded_afresh(declare: Declare, folder: Path) -> None:
    spec = load_spec(declare())
    before = spec.function("land")
    (folder / "weather.py").write_text("def hourly():\n    return 'sunshine'\n")

    assert (before("a"), spec.function("land")("a")) == ("a rain", "a sunshine")


def test_an_unchanged_function_is_the_same_object(declare: Declare) -> None:
    spec = load_spec(declare())

    assert spec.function("land") is spec.function("land")


def test_two_use_cases_with_the_same_file_names_do_not_meet(declare: Declare, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("data.py", "model.py", "expectations.yaml"):
        (other / name).write_text((folder / name).read_text())
    (other / "model.yaml").write_text(declare().read_text())
    (other / "weather.py").write_text("def hourly():\n    return 'snow'\n")

    assert load_spec(folder / "model.yaml").function("land")("a") == "a rain"
    assert load_spec(other / "model.yaml").function("land")("a") == "a snow"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import weather\n", "data.py: needs the module 'weather'; it lies beside: write 'from .weather import …'."),
        ("import nowhere_to_be_found\n", "data.py: needs the module 'nowhere_to_be_found'; is it installed?"),
        ("def land(key:\n", "data.py:1: is not valid Python: "),
        ("def other(): ...\n", "data.py: has no function called 'land'."),
        ("land = 3\n", "data.py: has no function called 'land'."),
        (None, "data.py: there is no such file."),
    ],
)
def test_a_function_that_cannot_be_loaded_says_why(
    declare: Declare, folder: Path, content: str | None, said: str
) -> None:
    spec = load_spec(declare())
    data = folder / "data.py"
    data.unlink()
    if content is not None:
        data.write_text(content)

    with pytest.raises(SpecError) as caught:
        spec.function("land")

    assert str(caught.value).startswith(f"{folder}/{said}")


def test_a_reference_must_name_file_and_function(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"expected file and function such as 'data\.py:land', got 'land'"):
        load_function(folder, "land")


def test_a_misspelt_key_inside_an_optional_part_finds_its_neighbours(declare: Declare) -> None:
    said = problems(declare({"gate.slice_floor": {"metrik": "roc_auc", "minimum": 0.5, "minimum_rows": 5}}))

    assert said.splitlines() == [
        "model.yaml:26: gate.slice_floor.metric: required, but missing.",
        "model.yaml:27: gate.slice_floor.metrik: unknown key; did you mean 'metric'?",
    ]


def test_a_function_in_a_folder_below(declare: Declare, folder: Path) -> None:
    (folder / "sources").mkdir()
    (folder / "sources" / "flights.py").write_text("def land(key):\n    return key * 2\n")

    assert load_spec(declare({"functions.land": "sources/flights.py:land"})).function("land")("a") == "aa"


@pytest.mark.parametrize("reference", ["../data.py:land", "/etc/data.py:land", "data.py", "a-b.py:land"])
def test_functions_stay_inside_the_folder(declare: Declare, reference: str) -> None:
    assert "expected file and function such as" in problems(declare({"functions.land": reference}))


def test_a_spec_cannot_be_changed(declare: Declare) -> None:
    spec = load_spec(declare())

    with pytest.raises(ValueError, match="frozen"):
        spec.owner = "other"  # type: ignore[misc]


def test_editors_get_a_schema() -> None:
    schema = ModelSpec.model_json_schema()

    assert {"name", "functions", "gate"} <= set(schema["required"])


def test_reading_a_spec_loads_nothing_heavy(declare: Declare) -> None:
    path = declare()
    heavy = (
        "airflow",
        "pandas",
        "numpy",
        "sklearn",
        "mlflow",
        "evidently",
        "great_expectations",
        "deltalake",
        "sqlalchemy",
    )
    code = (
        "import sys; from mlops_provider.spec import load_spec; load_spec(sys.argv[1]); "
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "[]"


def test_segments_may_be_a_column_alone_or_say_more(declare: Declare) -> None:
    short = load_spec(declare({"segments": "origin"})).segments
    long = load_spec(
        declare({"segments": {"column": "origin", "minimum_rows": 50, "maximum": 9, "at_once": 4}})
    ).segments

    assert short is not None
    assert (short.column, short.minimum_rows, short.maximum, short.at_once) == ("origin", 1000, 100, 2)
    assert long is not None
    assert (long.minimum_rows, long.maximum, long.at_once) == (50, 9, 4)


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ("distance", "segments.column: expected a categorical feature (origin), got 'distance'."),
        ({"column": "carrier"}, "segments.column: expected a categorical feature (origin), got 'carrier'."),
        ({"minimum_rows": 5}, "segments.column: required, but missing."),
        ({"column": "origin", "maximum": 0}, "segments.maximum: "),
        ({"column": "origin", "minimal_rows": 5}, "segments.minimal_rows: unknown key; did you mean 'minimum_rows'?"),
        (["origin"], "segments: expected keys and values, got a list."),
    ],
)
def test_wrong_segments_are_told_with_their_line(declare: Declare, segments: Any, said: str) -> None:
    assert said in problems(declare({"segments": segments}))


@pytest.mark.parametrize(("block", "line"), [("week", 28), ("origin", 28)])
def test_blocks_that_no_segment_can_have_enough_of_are_told(declare: Declare, block: str, line: int) -> None:
    said = problems(declare({"segments": "origin", "bootstrap": {"block": block}}))

    told = "bootstrap.block: expected blocks of which each of 'segments' has 20 in a month"
    assert said.startswith(f"model.yaml:{line}: {told}, got {block!r}: ")
    assert load_spec(declare({"bootstrap": {"block": block}})).bootstrap.block == block
    assert load_spec(declare({"segments": "origin", "bootstrap": {"block": "day"}})).segments


def test_segments_change_the_gates_limits_and_no_digest_of_a_model_without_them(declare: Declare) -> None:
    plain = load_spec(declare())
    before = (plain.digest, plain.gate_policy.digest)
    divided = load_spec(declare({"segments": "origin"}))

    assert divided.gate_policy.not_worse_than == ("parent",)
    assert not {divided.digest, divided.gate_policy.digest} & set(before)
    assert "segments" not in plain.model_dump(exclude_none=True)


def test_functions_of_the_use_case_beside_are_used_as_they_are(declare: Declare, folder: Path) -> None:
    beside = folder.parent / f"{folder.name}_beside"
    beside.mkdir()
    (beside / "data.py").write_text(DATA.replace("{key}", "beside {key}"))
    (beside / "weather.py").write_text("def hourly():\n    return 'sun'\n")
    spec = load_spec(declare({"functions.land": f"../{beside.name}/data.py:land"}))
    digest = spec.code_digest

    assert spec.function("land")("2013-01") == "beside 2013-01 sun"
    (beside / "weather.py").write_text("def hourly():\n    return 'snow'\n")
    assert spec.function("land")("2013-01") == "beside 2013-01 snow"
    assert spec.code_digest != digest


@pytest.mark.parametrize("reference", ["../data.py:land", "../../other/data.py:land", "../a/../b/data.py:land"])
def test_functions_of_any_other_place_are_refused(declare: Declare, reference: str) -> None:
    assert "functions.land: expected file and function" in problems(declare({"functions.land": reference}))


def test_a_function_that_is_not_in_the_use_case_beside_is_told(declare: Declare) -> None:
    said = problems(declare({"functions.land": "../nobody/data.py:land"}))

    assert "functions.land: there is no file '../nobody/data.py' beside this one." in said
