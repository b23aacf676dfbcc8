"""Call the functions of a use case that read its sources, and say in our words what went wrong there."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from typing import TYPE_CHECKING, Literal

from mlops_provider.adapters import features as feature_frames
from mlops_provider.exceptions import SourceError, TransientError

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.spec import ModelSpec
    from mlops_provider.spec_parts import Source
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
    name, source = getattr(spec.functions, function), spec.source(function)
    what = f"The source of {spec.name} {partition}"
    try:
        delivered = [] if source is None else [_delivered(stores, source, partition)]
        return feature_frames.frame_of(spec.function(function)(partition, *delivered), name)
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


def _delivered(stores: Stores, source: Source, partition: str) -> pd.DataFrame:
    if source.sql:
        return stores.sources.query(source.query(partition), source.conn_id)
    return stores.sources.file(source.address(partition), source.conn_id)
