"""What each column of a file holds: its name from here on, its kind, and how its values become that kind."""

from __future__ import annotations

import itertools
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from mlops_provider.adapters.table_sample import TableSample

Kind = Literal["number", "whole", "flag", "text", "time"]
Role = Literal["key", "event time", "target", "prediction", "protected", "feature", "left out"]
MISSING_WORDS = ("?", "-", "--", ".", "unknown")
"""What files write for "no value", beside what pandas knows."""
_ODD_WORDS = 3
HAPPENED = re.compile(r"date|time|created|_at$|^at_|day|timestamp|when|datum")
_FLAGS = {"true": True, "false": False, "yes": True, "no": False, "y": True, "n": False, "t": True, "f": False}
_FORMATS = ("ISO8601", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m/%d/%y", "%d-%b-%Y", "%Y%m%d")
_WITH_TIME = ("", " %H:%M", " %H:%M:%S")
_RESERVED = ("partition", "reasons", "prediction", "version", "scored_by", "request_id", "dealt_to")


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column of the file.

    :param source: Its name in the file.
    :param name: Its name from here on: small letters, digits and underscores.
    :param missing: Share of the rows without a value, 0-1.
    :param distinct: Different values in the rows looked at.
    :param why: Why it has this role.
    :param format: How pandas reads a time that is text; empty if it is a time already.
    :param zoned: A time tells its time zone.
    :param bands: Where a protected number is cut into bands.
    """

    source: str
    name: str
    kind: Kind
    missing: float
    distinct: int
    role: Role
    why: str
    format: str = ""
    zoned: bool = False
    bands: tuple[float, ...] = ()


def share(part: float) -> str:
    """A share, 0-1, in percent."""
    return "less than 0.1%" if 0 < part < 0.0005 else f"{part:.1%}"


def snake_case(text: str) -> str:
    """Small letters, digits and underscores, beginning with a letter."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(text).strip())
    plain = re.sub(r"\W+", "_", apart.encode("ascii", "ignore").decode()).strip("_").lower()
    plain = re.sub(r"_+", "_", plain)
    return plain if plain and not plain[0].isdigit() else f"column_{plain}".rstrip("_")


def our_names(sources: Sequence[Any]) -> dict[str, str]:
    """Our name of every column, all different."""
    names: dict[str, str] = {}
    for source in sources:
        name = snake_case(source)
        if name in _RESERVED or keyword.iskeyword(name):
            name = f"{name}_value"
        while name in names.values():
            stem, _, number = name.rpartition("_")
            name = f"{stem}_{int(number) + 1}" if stem and number.isdigit() else f"{name}_2"
        names[source] = name
    return names


def missing_words(sample: TableSample) -> tuple[str, ...]:
    """Words that stand for "no value" somewhere in the file."""
    found: set[str] = set()
    for column in sample.frame.select_dtypes("object"):
        texts = sample.frame[column].dropna()
        texts = texts[texts.map(lambda value: isinstance(value, str))]
        present = set(texts.unique()[:10_000])
        found |= present & {word for word in MISSING_WORDS if word != "unknown"}
        odd = texts[pd.to_numeric(texts, errors="coerce").isna()]
        if 0 < len(odd) <= 0.05 * len(texts) and odd.nunique() <= _ODD_WORDS:
            found |= set(odd.unique())
    return tuple(sorted(found))


def column_of(frame: pd.DataFrame, source: str, name: str) -> Column:
    values = frame[name].dropna()
    kind, format_, zoned = _kind(values, name)
    try:
        distinct = values.nunique()
    except TypeError:  # lists, mappings
        distinct = len(values)
    missing = 1 - len(values) / len(frame)
    return Column(source, name, kind, missing, distinct, "left out", "", format_, zoned)


def _kind(values: pd.Series[Any], name: str) -> tuple[Kind, str, bool]:  # noqa: PLR0911 - a kind a line
    if pd.api.types.is_bool_dtype(values):
        return "flag", "", False
    if pd.api.types.is_numeric_dtype(values):
        return "number", "", False
    if isinstance(values.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(values):
        return "time", "", isinstance(values.dtype, pd.DatetimeTZDtype)
    if len(values) and not isinstance(values.iloc[0], str) and pd.api.types.infer_dtype(values) in ("date", "decimal"):
        return ("time", "", False) if pd.api.types.infer_dtype(values) == "date" else ("number", "", False)
    texts = values.astype(str)
    if len(texts) and set(texts.str.lower().unique()[:10]) <= set(_FLAGS) and texts.nunique() <= 2:
        return "flag", "", False
    if len(texts) and pd.to_numeric(texts, errors="coerce").notna().all():
        if texts.str.fullmatch(r"(19|20)\d\d[01]\d[0-3]\d").all() and HAPPENED.search(name):
            return "time", "%Y%m%d", False
        # A code such as 007 would lose its zeros.
        return ("text", "", False) if texts.str.fullmatch(r"0\d+").any() else ("number", "", False)
    if format_ := _time_format(texts):
        return "time", format_, bool(texts.str.contains(r"(?:Z|[+-]\d\d:?\d\d)$", regex=True).all())
    return "text", "", False


def _time_format(texts: pd.Series[Any]) -> str:
    """How these texts are read as times; empty if they are none."""
    few = texts.head(200)
    if not len(few) or not few.str.contains(r"\d", regex=True).all():
        return ""
    for date, time in itertools.product(_FORMATS, _WITH_TIME):
        if date == "ISO8601" and (time or not few.str.match(r"\d{4}-\d\d-\d\d").all()):
            continue
        if pd.to_datetime(few, format=date + time, errors="coerce", utc=True).notna().all():
            whole = pd.to_datetime(texts, format=date + time, errors="coerce", utc=True)
            if whole.notna().mean() > 0.99:
                return date + time
    return ""


def converted(values: pd.Series[Any], column: Column) -> pd.Series[Any]:
    """A column in the type of its kind."""
    if column.kind == "number":
        return pd.to_numeric(values, errors="coerce").astype("float64")
    if column.kind == "flag":
        return values.map(lambda value: _FLAGS.get(str(value).lower()), na_action="ignore").astype("object")
    if column.kind == "time":
        found = pd.to_datetime(values, format=column.format or None, errors="coerce", utc=True)
        return found.astype("datetime64[us, UTC]")
    return values.map(str, na_action="ignore").astype("object")


def is_whole(values: pd.Series[Any]) -> bool:
    known = values.dropna()
    return bool(len(known)) and bool((known == known.round()).all()) and bool((known.abs() < 2**53).all())


def band_limits(values: pd.Series[Any]) -> tuple[float, ...]:
    """Limits between four groups of about the same size, round where the numbers are whole."""
    known = values.dropna()
    cuts = np.unique(known.quantile([0.25, 0.5, 0.75]).to_numpy())
    if is_whole(known) and known.max() - known.min() >= 40:
        cuts = np.unique(np.round(cuts / 10) * 10)
    return tuple(float(cut) for cut in cuts if known.min() < cut < known.max())


def shown_value(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | int | np.number):
        return f"{float(value):g}"
    return str(value)


def listed(values: Any) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
