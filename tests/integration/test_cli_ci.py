"""``mlops ci``: green on a sound use case; each kind of breakage is red at its own stage, in words."""

from __future__ import annotations

import re
import shutil
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from mlops_provider.cli.ci_chain import sample_of
from mlops_provider.cli.main import main
from mlops_provider.core.names import Environment
from mlops_provider.exceptions import BrokenContractError
from mlops_provider.spec import load_spec
from mlops_provider.steps import ingest
from mlops_provider.steps.contracts import FeatureContract, check_signatures
from mlops_provider.stores.suite import Stores
from support.tiny import FEBRUARY, JANUARY, MARCH, USE_CASE, Place, origin, trips, write_month

FEATURES = '''
"""Features."""

import pandas as pd


def features(frame, history, as_of):
    """Return the features."""
    known = frame[["trip", "started", "line", "distance", "rain"]].assign(rain_before=-1.0)
    {body}
    return known
'''
DAG_FILE = '''
"""A DAG."""

{imports}
from airflow.sdk import DAG

with DAG("a_dag", schedule=None):
    {body}
'''


@pytest.fixture
def project(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A team's checkout with one use case, in the current folder."""
    for variable in (*Environment, "MLOPS_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for month in (JANUARY, FEBRUARY, MARCH):
        write_month(place.source, month)
    folder = place.folder / "include" / "tiny"
    shutil.copytree(USE_CASE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(place.folder)
    return folder


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


def divide(project: Path, place: Place) -> None:
    """Declare segments, and deliver months in which each has enough rows to be judged."""
    edit(project / "model.yaml", "slices: [line]", "slices: [line]\nsegments: line")
    for month in (JANUARY, FEBRUARY, MARCH):
        write_month(place.source, month, trips(month, rows=1200))


def red(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Run it; give the lines that say what is red, and the stages that were reached."""
    assert main(("ci", "--rows", "200", *words)) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "Red."
    assert sum("RED" in line for line in said) == 1
    return [line for line in said if line.split(":")[0] in ("lint", "dags", "contracts", "chain")]


@pytest.mark.slow
def test_a_sound_use_case_is_green_from_lint_to_drift(
    project: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    divide(project, place)
    before = sorted(path.name for path in Path.cwd().iterdir())

    assert main(("ci", "--rows", "1200", "--junit", "out/ci.xml")) == 0

    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("Green: ")
    suites = {suite.get("name"): suite for suite in ET.parse("out/ci.xml").getroot()}
    assert list(suites) == ["lint", "dags", "contracts", "chain"]
    assert {suite.get("failures") for suite in suites.values()} == {"0"}
    steps = [case.get("name") for case in suites["chain"]]
    assert steps[:3] == ["2013-01 land_data", "2013-01 validate_data", "2013-01 build_features"]
    assert re.search("    A: .*roc_auc differs by", said)
    for step in ("train_segment", "assemble_model", "register_model", "check_serving", "deploy_model"):
        assert f"2013-02 {step}" in steps
    for step in ("score_batch", "record_outcomes", "measure_performance", "detect_drift", "decide_retrain"):
        assert f"2013-03 {step}" in steps
    # Nothing but the report is left behind, in the checkout or in the environment.
    assert sorted({path.name for path in Path.cwd().iterdir()} - {"out", ".ruff_cache"}) == before


LINT = {
    "syntax": ("features.py", "return known.assign", "return known.assign((", r"features\.py:.* is not valid Python"),
    "missing module": ("data.py", "import pandas as pd", "import pandos as pd", "needs the module 'pandos'"),
    "import that fails": (
        "model.py",
        "def estimator",
        "1 / 0\n\n\ndef estimator",
        r"ZeroDivisionError at model\.py:\d+",
    ),
    "signature": (
        "features.py",
        "(frame: pd.DataFrame, history: pd.DataFrame, as_of: datetime)",
        "(frame: pd.DataFrame, as_of: datetime)",
        r"is called as features\(frame, history, as_of\)",
    ),
    "declaration": ("model.yaml", "label_lag_days: 2", "label_lag_days: two", r"model\.yaml:\d+: .*label_lag_days"),
    "expectation": (
        "expectations.yaml",
        "expect_table_row_count_to_be_between",
        "expect_rows",
        r"expectations\.yaml:\d+",
    ),
    "style": ("data.py", "import os\n", "import os\nimport sys\n", r"data\.py:\d+:\d+: F401"),
}


@pytest.mark.parametrize("kind", LINT)
def test_what_needs_no_data_is_red_at_lint(kind: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, before, after, expected = LINT[kind]
    edit(project / file, before, after)

    said = "\n".join(red(capsys))

    assert said.startswith("lint: ")
    assert re.search(expected, said), said


DAGS = {
    "a connection": (
        "from airflow.sdk import BaseHook",
        'BaseHook.get_connection("warehouse")',
        "looks up 'warehouse' while the file is parsed",
    ),
    "a variable": ("from airflow.sdk import Variable", 'Variable.get("limit")', "looks up 'limit' while"),
    "an ML library": ("import pandas", "pandas.DataFrame()", "loads numpy, pandas"),
    "an error": ("", "unknown_name()", "a_dag.py:8: NameError: name 'unknown_name' is not defined"),
}


@pytest.mark.parametrize("kind", DAGS)
def test_a_dag_file_that_would_not_parse_in_production_is_red(
    kind: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imports, body, expected = DAGS[kind]
    Path("dags").mkdir()
    Path("dags/a_dag.py").write_text(DAG_FILE.format(imports=imports, body=body), encoding="utf-8")

    [said] = red(capsys)

    assert said.startswith("dags: ")
    assert expected in said


CONTRACTS = {
    "a mean over the month": (
        'known["rain"] -= frame["rain"].mean()',
        r"features\.py:features changes row \d+ of \d+.* \(column 'rain'\) when later rows are removed\. It reads",
    ),
    "the next row": (
        'known["distance"] = frame["distance"].shift(-1)',
        r"changes row \d+ of \d+.* \(column 'distance'\) when later rows are \w+\. It reads the future",
    ),
    "a rank among all rows": (
        'known["distance"] = frame["distance"].rank()',
        r"column 'distance'\) when later rows are removed",
    ),
    "a later row's value, with a fallback": (
        'known["rain"] = frame["rain"].where(frame.index < len(frame) - 1, 0.0) + frame["distance"].iloc[-1]',
        r"column 'rain'\) when later rows are removed",
    ),
    "chance": (
        'import numpy; known["rain"] = numpy.random.random(len(known))',
        r"changes row 1 of \d+ and [\d,]+ more \(column 'rain'\) when it is called again with the same rows",
    ),
    "a column that is missing": ('known = known.drop(columns="rain")', "column 'rain' is missing"),
    "a column of another type": ('known["rain"] = known["rain"].astype(str)', "'rain' is .*, declared as numeric"),
    "rows that are lost": ("known = known.head(10)", r"10 rows for \d+ clean ones"),
    "a changed argument": ('frame["rain"] = 0.0', r"changes its argument 'frame' \(rain\): work on a copy"),
    "a changed history": ('history.drop(columns="rain", inplace=True)', r"changes its argument 'history' \(rain\)"),
    "an error": ('known["snow"].mean()', r"features\.py:features fails: KeyError at features\.py:\d+: 'snow'"),
    "nothing in a column": ('known["rain"] = float("nan")', "gives no value at all in 'rain'"),
}


@pytest.mark.parametrize("kind", CONTRACTS)
def test_a_broken_feature_function_is_red_at_contracts(
    kind: str, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body, expected = CONTRACTS[kind]
    (project / "features.py").write_text(FEATURES.format(body=body), encoding="utf-8")
    Path("ruff.toml").write_text('[lint]\nselect = ["E9"]\n', encoding="utf-8")

    [said] = red(capsys)

    assert said.startswith("contracts: ")
    assert re.search(expected, said), said


def test_functions_of_the_use_case_beside_are_checked_with_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = project.parent / "beside" / "features.py"
    beside.parent.mkdir()
    edit(project / "model.yaml", "features: features.py:features", "features: ../beside/features.py:features")

    beside.write_text(FEATURES.format(body="return (known"), encoding="utf-8")
    [said] = red(capsys)
    assert re.search(r"lint: .*beside/features\.py:\d+: is not valid Python", said), said

    beside.write_text(FEATURES.format(body="known['snow'].mean()"), encoding="utf-8")
    Path("ruff.toml").write_text('[lint]\nselect = ["E9"]\n', encoding="utf-8")
    [said] = red(capsys)
    where = "../beside/features.py"
    assert re.search(rf"contracts: {where}:features fails: KeyError at {where}:\d+: 'snow'", said), said


HISTORY = """

def rain_of(history):
    return (history["rain"] / history["trips"]) if len(history) else pd.Series(dtype="float64")


def kept(rows, kept=None):
    rain = rows.assign(trips=1.0).groupby("line")[["rain", "trips"]].sum()
    {body}
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return rain if kept is None else rain.add(kept, fill_value=0.0)", None),
        (
            "return rain",
            r"\(column 'rain_before'\) when the rows before them come in other parts\. features\.py:kept has",
        ),
        ("return rain.snow", r"features\.py:kept fails: AttributeError at features\.py:\d+"),
    ],
)
def test_what_is_kept_of_a_history_has_to_add_up(body: str, expected: str | None, project: Path) -> None:
    edit(
        project / "features.py",
        'history.groupby("line")["rain"].mean() if len(history)',
        "rain_of(history) if len(history)",
    )
    with (project / "features.py").open("a") as file:
        file.write(HISTORY.format(body=body))
    edit(
        project / "model.yaml",
        "  features: features.py:features",
        "  features: features.py:features\n  history: features.py:kept",
    )
    spec = load_spec(project / "model.yaml")

    check_signatures(spec)
    check = FeatureContract(spec, 200).check_history_adds_up

    if expected is None:
        check()
        return
    with pytest.raises(BrokenContractError, match=expected):
        check()


ESTIMATORS = {
    "no estimator": ("return {}", "model.py:estimator gives a dict, expected a scikit-learn estimator"),
    "no probabilities": (
        "from sklearn.linear_model import Ridge; return Ridge()",
        "gives a Ridge without predict_proba, which a binary target needs",
    ),
    "one for all": ("return SHARED", "gives the same object twice"),
    "fitted": ("return type(SHARED)(strategy='prior').fit([[0], [1]], [0, 1])", "is fitted already"),
    "an error": ("raise LookupError('no such thing')", "model.py:estimator or model.py:space fails: LookupError"),
}


READINGS = {
    "a stream": (
        "(key: str)",
        "(key: str)",
        {},
        """
    whole = read(key)
    for first in range(0, len(whole), 250):
        yield whole.iloc[first : first + 250]
""",
    ),
    "parts": (
        "(key: str)",
        "(key: str, part: str)",
        {"parts": "data.py:parts"},
        """
    whole = read(key)
    return whole[whole["line"] == part]


def parts(key: str) -> list[str]:
    return ["A", "B", "C"]
""",
    ),
    "a delivered file": (
        "(key: str)",
        "(key: str, frame: pd.DataFrame)",
        {},
        """
    return frame.assign(started=pd.to_datetime(frame["started"], utc=True))
""",
    ),
}


@pytest.mark.parametrize("kind", READINGS)
def test_the_contracts_are_tried_on_rows_as_ingest_reads_them(kind: str, project: Path, place: Place) -> None:
    before, after, functions, body = READINGS[kind]
    edit(project / "data.py", "def outcomes", f"def land{after}:{body}\n\ndef outcomes")
    edit(project / "data.py", f"def land{before} -> pd.DataFrame", "def read(key: str) -> pd.DataFrame")
    edit(project / "data.py", "trips = land(key).drop", "trips = read(key).drop")
    declared = yaml.safe_load((project / "model.yaml").read_text())
    declared["functions"] |= functions
    if kind == "a delivered file":
        declared["sources"] = {"land": {"uri": f"{place.source}/{{partition}}.csv.gz"}}
    (project / "model.yaml").write_text(yaml.safe_dump(declared))
    spec = load_spec(project / "model.yaml")

    check_signatures(spec)
    contract = FeatureContract(spec, 200)
    contract.check_declared_columns()
    contract.check_no_future()

    assert 150 < len(contract.frame) <= 300
    small = sample_of(spec, rows=100, trials=1)
    stores = Stores(tables_uri=str(place.folder / "tables"), ledger_url=f"sqlite:///{place.folder}/ledger.db")
    landed = ingest.land(small, stores, JANUARY, origin=origin("land_data"))
    assert 90 <= len(stores.tables.read(landed)) <= 400
    stores.ledger.close()


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_broken_estimator_is_red_at_contracts(kind: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, expected = ESTIMATORS[kind]
    code = f'''
    """An estimator."""

    from sklearn.dummy import DummyClassifier

    SHARED = DummyClassifier()


    def estimator(params):
        """Return it."""
        {body}


    def space(trial):
        """Return parameters."""
        return {{}}
    '''
    (project / "model.py").write_text(textwrap.dedent(code), encoding="utf-8")
    Path("ruff.toml").write_text('[lint]\nselect = ["E9"]\n', encoding="utf-8")

    [said] = red(capsys)

    assert said.startswith("contracts: ")
    assert expected in said


@pytest.mark.slow
def test_what_only_the_chain_shows_is_red_there_and_told_to_the_ci_system(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project / "data.py", 'astype("int64")', 'astype("int64") + 1')

    [said] = red(capsys, "--junit", "ci.xml")

    assert said.startswith("chain: declare_gate: ")
    [failure] = ET.parse("ci.xml").getroot().iter("failure")
    assert said == f"chain: {failure.text}"


@pytest.mark.slow
def test_an_estimator_that_can_t_be_fitted_on_a_segment_is_red_with_its_name(
    project: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    divide(project, place)
    file = project / "model.py"
    edit(file, "import Pipeline", "import Pipeline, make_pipeline")
    edit(
        file, "from sklearn.pipeline", "from sklearn.feature_selection import VarianceThreshold\nfrom sklearn.pipeline"
    )
    edit(file, '("words", words, ["line"])', '("words", make_pipeline(words, VarianceThreshold()), ["line"])')

    [said] = red(capsys, "--rows", "1200")

    assert said.startswith(
        "chain: train_segment: tiny/model.py:estimator failed for the segment 'A' with ValueError, in a library it "
        "uses (_variance_threshold.py, line "
    )
    assert said.endswith("Mend it, then start another training run.")


def test_stages_after_a_red_one_are_not_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(project / "model.yaml", "owner: tests", "owners: tests")

    red(capsys, "--junit", "ci.xml")

    suites = {suite.get("name"): suite for suite in ET.parse("ci.xml").getroot()}
    assert list(suites) == ["lint", "dags", "contracts", "chain"]
    assert [suites[name].get("skipped") for name in ("dags", "contracts", "chain")] == ["1", "1", "1"]


def test_without_a_use_case_it_says_what_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(("ci",)) == 1
