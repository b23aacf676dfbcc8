"""``mlops init``: a use case of one's own from a file of examples, with what was inferred and why."""

from __future__ import annotations

import argparse
import getpass
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.cli import scaffold
from mlops_provider.core.tasks import TASKS
from mlops_provider.exceptions import ConfigurationError, MLOpsError
from mlops_provider.spec import load_spec

if TYPE_CHECKING:
    from mlops_provider.adapters.table_profile import Profile

_WIDTHS = (24, 12, 9)
_LINE = 118
_LONGEST_NAME = 50


def main(arguments: argparse.Namespace) -> int:
    """Look at the data, ask what is missing if somebody is there to answer, write the files, say what was inferred."""
    ask = Questions(interactive=sys.stdin.isatty() and sys.stdout.isatty() and not arguments.yes)
    data = Path(ask.required("data", arguments.data, "File with examples, .csv or .parquet"))
    from mlops_provider.adapters import table_profile, table_sample

    sample = table_sample.read_sample(data, names=listed(arguments.columns))
    if arguments.profile == "minimal" and sample.format != "parquet":
        raise ConfigurationError(
            f"The gate and the drift check read Parquet, Delta or SQL, and {data.name} is CSV: write it as Parquet."
        )
    names = [str(column) for column in sample.frame]
    ask.say(f"{sample.rows:,} rows, {len(names)} columns: {', '.join(names)}")
    target = ask.required("target", arguments.target, "Column to predict")
    name = ask.optional("name", arguments.name, "Name of the model", default_name(data), check=checked_name)
    owner = ask.optional("owner", arguments.owner, "Who owns it", getpass.getuser())
    protected = listed(ask.optional("protected", arguments.protected, "Columns about people to compare, a,b", ""))
    predictions, lag = None, None
    if arguments.profile == "minimal":
        prediction = ask.required("prediction", arguments.prediction, "Column with your model's predictions")
        champion = str(Path(arguments.champion).resolve()) if arguments.champion else ""
        predictions = scaffold.Predictions(prediction, champion, arguments.champion_prediction or "")
    else:
        lag = ask.optional("label-lag", arguments.label_lag, "Days after a month until its outcomes are known", None)
    found = table_profile.profile(
        sample,
        table_profile.Choices(
            target=target,
            task=arguments.task or "",
            positive=arguments.positive or "",
            keys=listed(arguments.keys),
            event_time=arguments.event_time or "",
            time_zone=checked_zone(arguments.time_zone),
            protected=protected,
            predictions=() if predictions is None else predictions.columns(),
        ),
    )
    wish = scaffold.Wish(
        project=Path(arguments.folder),
        name=name,
        owner=owner,
        description=arguments.description or f"Predicts {found.target.name} from {data.name}",
        time_zone=arguments.time_zone,
        label_lag=None if lag is None else days(lag),
        predictions=predictions,
    )
    written = scaffold.write(wish, found)
    if not predictions:
        load_spec(wish.folder / "model.yaml")  # what was written is held to what every model.yaml is held to
    for line in report(wish, found, written):
        print(line)
    return 0


class Questions:
    """
    Fill in what the command line leaves out: by asking at a terminal, else by a default or an error.

    :param interactive: Somebody can answer.
    """

    def __init__(self, *, interactive: bool) -> None:
        self.interactive = interactive

    def say(self, line: str) -> None:
        """Help with the questions to come."""
        if self.interactive:
            print("\n".join(textwrap.wrap(line, _LINE)))

    def required(self, option: str, given: str | None, question: str) -> str:
        """
        An answer that there must be.

        :raises ConfigurationError: It was not given, and nobody can be asked.
        """
        answer = given
        while not answer:
            if not self.interactive:
                raise ConfigurationError(f"--{option} is missing: {question[0].lower()}{question[1:]}.")
            answer = _asked(f"{question} (--{option}): ")
        return answer

    def optional(
        self, option: str, given: Any, question: str, default: Any, *, check: Callable[[str], str] = str
    ) -> Any:
        """An answer that has a default."""
        if given is not None:
            return check(given)
        if not self.interactive:
            return default
        shown = f" [{default}]" if default else ""
        while answer := _asked(f"{question} (--{option}){shown}: "):
            try:
                return check(answer)
            except MLOpsError as error:
                print(error)
        return default


def _asked(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        raise KeyboardInterrupt from None


def listed(text: str | None) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def default_name(data: Path) -> str:
    """A model's name from a file's."""
    from mlops_provider.adapters.table_columns import snake_case

    return snake_case(data.name.split(".")[0])[:_LONGEST_NAME]


def checked_name(name: str) -> str:
    """
    A name that model, folder and DAGs can have.

    :raises ConfigurationError: It is none; says which would be.
    """
    from mlops_provider.adapters.table_columns import snake_case

    if name != snake_case(name) or len(name) > _LONGEST_NAME:
        fitting = snake_case(name)[:_LONGEST_NAME]
        raise ConfigurationError(f"--name {name!r}: small letters, digits and '_', such as {fitting!r}.")
    return name


def checked_zone(zone: str) -> str:
    """
    A time zone that there is.

    :raises ConfigurationError: There is none of this name.
    """
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(f"--time-zone: there is no {zone!r}; one is called America/New_York.") from None
    return zone


def days(text: str) -> int:
    """
    A number of days.

    :raises ConfigurationError: It is none.
    """
    if not text.isdecimal():
        raise ConfigurationError(f"--label-lag: a whole number of days, not {text!r}.")
    return int(text)


def report(wish: scaffold.Wish, found: Profile, written: Iterable[Path]) -> Iterable[str]:
    """Say what was inferred, what to look at first, what was written, and how to go on."""
    from mlops_provider.adapters.table_columns import share

    sample = found.sample
    looked = "" if sample.whole else f" (looked at {len(sample.frame):,} of them, from beginning to end)"
    yield f"{sample.path.name}: {sample.rows:,} rows{looked}, {len(sample.frame.columns)} columns"
    yield f"Task: {TASKS[found.task].name}: {found.target.why}"
    if wish.predictions is None:
        yield from _about_rows(wish, found)
    yield ""
    yield _row("column", "becomes", "missing", "why")
    yield "-" * _LINE
    for column in sorted(found.columns, key=lambda each: _ORDER.index(each.role)):
        called = column.source if column.source == column.name else f"{column.source} ({column.name})"
        missing = share(column.missing).replace("less than", "<") if column.missing else ""
        yield _row(called, column.role, missing, column.why)
    if doubts := [*found.warnings, *_about_files(wish, sample.path)]:
        yield ""
        yield "Look at this first:"
        for doubt in doubts:
            yield textwrap.fill(doubt, _LINE, initial_indent="  - ", subsequent_indent="    ")
    yield ""
    yield "Written:"
    yield from (f"  {(wish.project / file).as_posix()}" for file in written)
    yield ""
    yield f"Next: python -m pytest {(wish.project / 'tests' / f'test_{wish.name}.py').as_posix()}"
    if wish.predictions:
        yield f"Then: airflow dags test {wish.name}_gate, and airflow dags test {wish.name}_monitor"
    else:
        yield f"The commands after that stand in {(wish.folder / 'README.md').as_posix()}"


def _about_files(wish: scaffold.Wish, data: Path) -> Iterable[str]:
    """What a person should do about the files."""
    if not data.resolve().is_relative_to(wish.project.resolve()):
        yield f"{data} lies outside the project and is named by its whole path: copy it in before others use this."
    if not wish.predictions:
        suite = (wish.folder / "expectations.yaml").as_posix()
        yield f"{suite} was inferred and nobody has read it: mend it, then sign it there."


def _about_rows(wish: scaffold.Wish, found: Profile) -> Iterable[str]:
    """Say what identifies a row, and which month it belongs to."""
    months = list(found.months.index)
    yield f"Key:  {', '.join(found.keys) or f'none found: the number of the row, as {scaffold.ROW_NUMBER!r}'}"
    span = f"{months[0]} to {months[-1]}, about {found.months.median():,.0f} rows each"
    if found.event_time is None:
        yield f"Time: none: rows are dealt to {span}"
    else:
        yield f"Time: {found.event_time.source}, months of {wish.time_zone}: {span}"


_ORDER = ("target", "prediction", "event time", "key", "protected", "feature", "left out")


def _row(*cells: str) -> str:
    *first, last = cells
    left = "  ".join(
        f"{cell if len(cell) <= width else cell[: width - 1] + '…':<{width}}"
        for cell, width in zip(first, _WIDTHS, strict=True)
    )
    indent = " " * (len(left) + 2)
    return textwrap.fill(last, _LINE, initial_indent=f"{left}  ", subsequent_indent=indent) if last else left.rstrip()
