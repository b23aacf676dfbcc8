"""The files of a new use case, written from a profile of its data."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from mlops_provider import use_case
from mlops_provider.core import partitions
from mlops_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from mlops_provider.adapters.table_profile import Profile

MINIMAL = ("gate", "monitor")
STAGES = ("ingest", "score", "monitor", "train", "deploy", "rollback")
ROW_NUMBER = "row"
DEALT_TO = "dealt_to"
_WIDTH = 120
_TIMES_OF_DAY = 4
"""Different hours from which an hour of the day is worth a feature."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """
    Predictions that a team makes itself.

    :param prediction: Column of the candidate's.
    :param champion: Table of the champion's; empty if there is none, or they stand in the same table.
    :param champion_prediction: Column of the champion's.
    """

    prediction: str
    champion: str = ""
    champion_prediction: str = ""

    def columns(self) -> tuple[str, ...]:
        """Columns of the table that are predictions, hence no features."""
        own = () if self.champion else (self.champion_prediction,)
        return tuple(filter(None, (self.prediction, *own)))


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What is to be written.

    :param project: Folder that gets ``include/<name>/``, ``dags/`` and ``tests/``.
    :param label_lag: Days after a month's end until its outcomes are known; None if nobody said.
    :param predictions: For the profile "minimal": where the predictions are.
    """

    project: Path
    name: str
    owner: str
    description: str
    time_zone: str
    label_lag: int | None
    predictions: Predictions | None = None

    @property
    def folder(self) -> Path:
        """The folder of the use case."""
        return self.project / "include" / self.name


def files(wish: Wish) -> tuple[Path, ...]:
    """Every file that is written, relative to the project."""
    if wish.predictions:
        dags = (Path("dags") / f"{wish.name}_{stage}.py" for stage in MINIMAL)
        return (*dags, Path("tests") / f"test_{wish.name}.py")
    folder = Path("include") / wish.name
    code = ("model.yaml", "data.py", "features.py", "model.py", "expectations.yaml", "README.md")
    return (
        *(folder / file for file in code),
        *(Path("dags") / f"{wish.name}_{stage}.py" for stage in STAGES),
        Path("tests") / f"test_{wish.name}.py",
    )


def refuse_existing(wish: Wish, wanted: tuple[Path, ...]) -> None:
    """
    Make sure that nothing would be overwritten.

    :raises ConfigurationError: Names the files that are there.
    """
    there = [str(file) for file in wanted if (wish.project / file).exists()]
    if there:
        raise ConfigurationError(
            f"Nothing was written: {len(there)} of {len(wanted)} files are there, and none is ever overwritten: "
            f"{', '.join(there)}. Choose another --name, or remove them yourself."
        )


def write(wish: Wish, found: Profile) -> tuple[Path, ...]:
    """
    Write the files, once the code in them has landed a month; what goes wrong before that leaves nothing behind.

    :return: What was written, relative to the project.
    """
    wanted = files(wish)
    refuse_existing(wish, wanted)
    told = _told_minimal(wish, found) if wish.predictions else _told(wish, found)
    templates = "minimal" if wish.predictions else "use_case"
    with tempfile.TemporaryDirectory(prefix="mlops-init-") as aside:
        folder = Path(aside) / "include" / wish.name
        for file in wanted:
            target = Path(aside) / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.name != "expectations.yaml":
                template = _templates.get_template(f"{templates}/{_template(file, wish.name)}")
                target.write_text(template.render(told), encoding="utf-8")
        if not wish.predictions:
            (folder / "expectations.yaml").write_text(_expectations(folder, found, told), encoding="utf-8")
        for file in wanted:
            (wish.project / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(aside) / file, wish.project / file)
    return wanted


def _template(file: Path, name: str) -> str:
    if file.parent.name == "dags":
        return f"dag_{file.stem.removeprefix(f'{name}_')}.py.jinja"
    return "test.py.jinja" if file.parent.name == "tests" else f"{file.name}.jinja"


def _expectations(folder: Path, found: Profile, told: Mapping[str, Any]) -> str:
    """Infer a suite from the first, the middle and the last month, landed by the code that was just written."""
    import pandas as pd

    from mlops_provider.adapters import inferred_expectations

    months = list(found.months.index)
    looked_at = sorted({months[0], months[len(months) // 2], months[-1]})
    variable = told["variable"]
    before = os.environ.get(variable)
    os.environ[variable] = str(found.sample.path.resolve())  # the folder is not yet where its path to the file begins
    try:
        land = use_case.load_function(folder, "data.py:land")
        landed = pd.concat([land(month) for month in looked_at], ignore_index=True)
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
    suite = inferred_expectations.infer(landed, keys=told["keys"], event_time=told["event_time"])
    about = f"{', '.join(looked_at)} of {found.sample.path.name}, {len(landed):,} rows"
    return inferred_expectations.as_yaml(suite, about=about)


def _told(wish: Wish, found: Profile) -> dict[str, Any]:
    """Everything that the templates name."""
    return {**_about_data(wish, found), **_about_features(found), **_about_model(wish, found)}


def _told_minimal(wish: Wish, found: Profile) -> dict[str, Any]:
    """Everything that the templates of the minimal profile name."""
    from mlops_provider.adapters.table_profile import agreement

    assert wish.predictions is not None
    predicted, features = wish.predictions, found.of("feature")
    table = _named(found.sample.path, wish.project)
    champion = _named(Path(predicted.champion), wish.project) if predicted.champion else ""
    metric, value = agreement(found, predicted.prediction)
    better_if_more = metric == "roc_auc"
    spare = 0.5 + (value - 0.5) * 0.9 if better_if_more else value * 1.1
    return {
        "name": wish.name,
        "owner": wish.owner,
        "file_name": found.sample.path.name,
        "table": table,
        "inside": "PROJECT" in table + champion,
        "prediction": predicted.prediction,
        "champion": bool(predicted.champion or predicted.champion_prediction),
        "champion_table": champion,
        "champion_prediction": predicted.champion_prediction,
        "target": found.target.source,
        "keys": [each.source for each in found.columns if each.name in found.keys],
        "primary": metric,
        "measured": f"{metric} {value:.4g}",
        "limit": {"metric": metric, "minimum" if better_if_more else "maximum": float(f"{spare:.3g}")},
        "minimum_rows": max(20, min(1000, found.sample.rows // 4)),
        "numeric": [each.source for each in features if each.kind in ("number", "whole")],
        "categorical": [each.source for each in features if each.kind in ("text", "flag")],
    }


def _named(table: Path, project: Path) -> str:
    """Python for the address of a table: from the project if it lies there."""
    whole = table.resolve()
    if not whole.is_relative_to(project.resolve()):
        return code(str(whole))
    return f"str(PROJECT / {code(whole.relative_to(project.resolve()).as_posix())})"


def _about_data(wish: Wish, found: Profile) -> dict[str, Any]:
    sample, time = found.sample, found.event_time
    parquet = sample.format == "parquet"
    by_kind: dict[str, list[str]] = {"whole": [], "number": [], "text": [], "flag": [], "time": []}
    for column in found.columns:
        by_kind[column.kind].append(column.name)
    words = [name for kind, name in (("text", "TEXTS"), ("flag", "FLAGS"), ("time", "TIMES")) if by_kind[kind]]
    renamed = {each.source: each.name for each in found.columns if each.source != each.name} if sample.header else {}
    data = sample.path.resolve()
    inside = data.is_relative_to(wish.project.resolve())
    keys = list(found.keys) or [ROW_NUMBER]
    dealt = found.dealt
    return {
        "profile": found,
        "name": wish.name,
        "owner": wish.owner,
        "description": wish.description.rstrip("."),
        "file_name": sample.path.name,
        "variable": f"{wish.name.upper()}_SOURCE",
        "source": Path(os.path.relpath(data, wish.folder.resolve())).as_posix() if inside else str(data),
        "parquet": parquet,
        "separator": sample.separator,
        "encoding": sample.encoding,
        "padded": sample.padded,
        "columns": None if sample.header or parquet else [str(column) for column in sample.frame],
        "renamed": renamed,
        "wholes": by_kind["whole"],
        "numbers": by_kind["number"],
        "texts": by_kind["text"],
        "flags": by_kind["flag"],
        "times": {each.name: each.format or None for each in found.columns if each.kind == "time"},
        "words": f"[{', '.join(f'*{name}' for name in words)}]" if words else "",
        "missing": list(found.missing_words),
        "keys": keys,
        "row_number": not found.keys,
        "event_time": DEALT_TO if time is None else time.name,
        "time_zone": "UTC" if dealt else wish.time_zone,
        "local": any(each.kind == "time" and not each.zoned for each in found.columns) and wish.time_zone != "UTC",
        "target": found.target.name,
        "binary": found.classes is not None,
        "classes": _classes(found),
        "positive": None if found.classes is None else _as_read(found, found.classes[1]),
        "months": list(found.months.index),
        "first": found.months.index[0],
        "second": found.months.index[min(1, len(found.months) - 1)],
        "last": found.months.index[-1],
        "landed": len(found.columns) - 1 + (not found.keys) + dealt,
        "warnings": found.warnings,
    }


def _classes(found: Profile) -> dict[Any, int]:
    """What each value of a target with two of them becomes."""
    if found.classes is None or found.classes[0] is None:
        return {}
    zero, one = found.classes
    return {_as_read(found, zero): 0, _as_read(found, one): 1}


def _as_read(found: Profile, value: Any) -> Any:
    """A value of the target in the type that data.py gives its column."""
    return str(value) if found.target.kind == "text" else float(value)


def _about_features(found: Profile) -> dict[str, Any]:
    time = found.event_time
    features, protected = found.of("feature"), found.of("protected")
    hours = weekdays = 0
    if time is not None:
        known = found.sample.frame[time.source].dropna()
        import pandas as pd

        moments = pd.to_datetime(known, format=time.format or None, errors="coerce", utc=True)
        hours, weekdays = moments.dt.hour.nunique(), moments.dt.dayofweek.nunique()
    taken = {column.name for column in found.columns}
    hour = hours >= _TIMES_OF_DAY and "hour" not in taken
    weekday = weekdays > 1 and "weekday" not in taken
    banded = [
        {
            "name": each.name,
            "band": f"{each.name}_band",
            "labels": _labels(each.bands),
            "edges": f'[float("-inf"), {", ".join(f"{limit:g}" for limit in each.bands)}, float("inf")]',
        }
        for each in protected
        if each.bands or each.kind == "number"
    ]
    words = [each.name for each in protected if each.kind == "text"]
    flags = [each.name for each in protected if each.kind == "flag"]
    times = [{"name": each.name, "feature": f"days_since_{each.name}"} for each in features if each.kind == "time"]
    numeric = [(each.name, "") for each in features if each.kind in ("number", "whole", "flag")]
    numeric += [("hour", "of the event time, 0-24")] * hour + [("weekday", "of the event time, 0 = Monday")] * weekday
    numeric += [(each["feature"], "days from it to the event time") for each in times]
    categorical = [(each.name, "") for each in features if each.kind == "text"]
    names = [name for name, _ in (*numeric, *categorical)]
    as_they_are = [*words, *(each.name for each in features if each.kind != "time")]
    own_time = time is None or time.name not in found.keys
    return {
        "numeric": numeric,
        "categorical": [name for name, _ in categorical],
        "as_they_are": as_they_are,
        "described": "[*KEYS, EVENT_TIME, *AS_THEY_ARE]" if own_time else "[*KEYS, *AS_THEY_ARE]",
        "imported": ["EVENT_TIME"] * (own_time or hour or weekday or bool(times))
        + ["KEYS"]
        + ["TIME_ZONE"] * (hour or weekday),
        "hour": hour,
        "weekday": weekday,
        "elapsed": times,
        "banded": banded,
        "flag_words": flags,
        "protected": [*words, *flags, *(each["band"] for each in banded)],
        "has_protected": bool(protected),
        "left_out": found.of("left out"),
        "width": len(found.keys or (ROW_NUMBER,)) + own_time + len(names) + len(protected),
    }


def _labels(limits: tuple[float, ...]) -> list[str]:
    """Names of the bands between limits."""
    if not limits:
        return ["any"]
    shown = [f"{limit:g}" for limit in limits]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(shown)]
    return [f"below {shown[0]}", *between, f"from {shown[-1]}"]


def _about_model(wish: Wish, found: Profile) -> dict[str, Any]:
    binary = found.classes is not None
    whole = found.sample.rows / len(found.sample.frame)
    usual = float(found.months.median()) * (1 if found.dealt else whole)
    months = list(found.months.index)
    year, month = partitions.following(months[-1], 2).split("-")
    first_year, first_month = months[0].split("-")
    return {
        "trees": "HistGradientBoostingClassifier" if binary else "HistGradientBoostingRegressor",
        "primary": "roc_auc" if binary else "rmse",
        "leaf": 100 if usual >= 5000 else 20,
        "minimum_rows": max(20, min(1000, int(usual / 3 // 10 * 10))),
        "label_lag": wish.label_lag or 0,
        "guessed_lag": wish.label_lag is None,
        "start": f"{int(first_year)}, {int(first_month)}, 1",
        "end": f"{int(year)}, {int(month)}, 1",
        "replayed": min(len(months), 4),
    }


def code(value: Any, at: int = 0, indent: int = 0) -> str:
    """
    Write a value as Python would be formatted: on one line if it fits, else one entry a line.

    :param at: Characters before it on its line.
    """
    line = _one_line(value)
    if at + len(line) <= _WIDTH or not isinstance(value, list | dict):
        return line
    inner = " " * (indent + 4)
    entries = (
        (f"{_one_line(key)}: {_one_line(each)}" for key, each in value.items())
        if isinstance(value, dict)
        else map(_one_line, value)
    )
    opened, closed = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([opened, *(f"{inner}{entry}," for entry in entries), " " * indent + closed])


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_one_line(key)}: {_one_line(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_one_line, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def in_yaml(value: Any) -> str:
    """Write a value on one line of YAML."""
    written: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...").strip()


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # noqa: S701 - what it writes is Python and YAML for the person who asked, no HTML
)
_templates.filters |= {"code": code, "yaml": in_yaml}
