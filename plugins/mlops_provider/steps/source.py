"""Call the functions of a use case, and say in our words what went wrong there or in its sources."""

from __future__ import annotations

import gzip
import lzma
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlops_provider.adapters import features as feature_frames
from mlops_provider.exceptions import SourceError, SpecError, TransientError

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.spec import FunctionName, ModelSpec
    from mlops_provider.stores.suite import Stores

_UNREADABLE = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    gzip.BadGzipFile,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What libraries raise for files that are missing, cut short or damaged; their messages hold no rows."""


def read_source(spec: ModelSpec, stores: Stores, function: Literal["land", "outcomes"], partition: str) -> pd.DataFrame:
    """
    Give what the use case's *function* makes of a partition: of what is delivered, if a source is declared for it.

    :raises SourceError: The source is missing, truncated, unreadable, or not what the function expects. Not retried.
    :raises TransientError: It does not answer. Retried.
    """
    name = getattr(spec.functions, function)
    with _explained(spec, name, partition):
        delivered = _delivered(spec, stores, function, partition)
        return feature_frames.frame_of(spec.function(function)(partition, *delivered), name)


def read_landing(
    spec: ModelSpec, stores: Stores, partition: str, part: str | None = None
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """
    Give what ``land`` reads for a partition: a frame, or frames one after the other.

    :param part: One of those that ``parts`` named, if it is declared.
    :raises SourceError: As for :func:`read_source`; also while the frames are gone through.
    :raises TransientError: Likewise.
    """
    name = spec.functions.land
    with _explained(spec, name, partition):
        about = _delivered(spec, stores, "land", partition) if part is None else [part]
        given = spec.function("land")(partition, *about)
    if isinstance(given, Iterator):
        return _frames(spec, given, name, partition)
    return feature_frames.frame_of(given, name)


def parts_of(spec: ModelSpec, partition: str) -> list[str] | None:
    """
    Names of the parts in which the source of a partition comes; None if ``parts`` is not declared.

    :raises SourceError: As for :func:`read_source`; also if there is none. Not retried.
    """
    name = spec.functions.parts
    if name is None:
        return None
    with _explained(spec, name, partition):
        found = list(spec.function("parts")(partition))
    if not found or not all(isinstance(part, str) for part in found):
        raise SourceError(f"{name} gave no names of parts for {spec.name} {partition}: expected texts, at least one.")
    return found


def _frames(spec: ModelSpec, given: Iterator[Any], name: str, partition: str) -> Iterator[pd.DataFrame]:
    with _explained(spec, name, partition):
        for each in given:
            yield feature_frames.frame_of(each, name)


@contextmanager
def _explained(spec: ModelSpec, name: str, partition: str) -> Iterator[None]:
    """Say in our words what goes wrong at a source."""
    what = f"The source of {spec.name} {partition}"
    try:
        yield
    except _UNREADABLE as error:
        raise SourceError(f"{what} cannot be read: {error}. Mend it, then clear this task.") from error
    except OSError as error:
        # Also what HTTP and database clients raise when nobody answers.
        raise TransientError(
            f"{what} does not answer ({type(error).__name__} in {name}). It is tried again."
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        # The message of such an error often quotes the value it choked on.
        raise SourceError(
            f"{what} is not what {name} expects ({type(error).__name__}; the task's log has the place). "
            "Mend the source or the function, then clear this task."
        ) from error


def _delivered(
    spec: ModelSpec, stores: Stores, function: Literal["land", "outcomes"], partition: str
) -> list[pd.DataFrame]:
    """What is delivered for the function, if a source is declared for it."""
    source = spec.source(function)
    if source is None:
        return []
    if source.sql:
        return [stores.sources.query(source.query(partition), source.conn_id)]
    return [stores.sources.file(source.address(partition), source.conn_id)]


@contextmanager
def calling(
    spec: ModelSpec, *functions: FunctionName, about: str = "", then: str = "clear this task"
) -> Iterator[None]:
    """
    Say in our words what goes wrong in functions of the use case, or with what they returned.

    :param about: What they are called for, if that is not plain from the task.
    :param then: What to do once the code is mended.
    :raises SpecError: A mistake in the code, or parameters or data that it can't take. Not retried.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, NameError, ArithmeticError, AssertionError) as error:
        # The message of such an error often quotes the value it choked on.
        named = " and ".join(f"{getattr(spec.functions, function)}" for function in functions)
        raise SpecError(
            f"{spec.path.parent.name}/{named} failed{about and f' for {about}'} with {type(error).__name__}"
            f"{_place(spec, error)}; the task's log says more. Mend it, then {then}."
        ) from error


def _place(spec: ModelSpec, error: Exception) -> str:
    """The last line of the use case that led to an error; the one of a library if all happened there."""
    if own := last_line(spec, error):
        return f" in {Path(own.filename).name}, line {own.lineno}"
    library = traceback.extract_tb(error.__traceback__)[-1]
    return f", in a library it uses ({Path(library.filename).name}, line {library.lineno})"


def last_line(spec: ModelSpec, error: Exception) -> traceback.FrameSummary | None:
    """Give the last line of the use case's code, that of one beside included, which led to an error."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((each for each in frames if _inside(spec, each.filename)), None)


def _inside(spec: ModelSpec, file: str) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in spec.code_folders)
