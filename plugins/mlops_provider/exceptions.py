"""
What can go wrong, sorted by what the scheduler should do about it.

::

    MLOpsError
     ├─ PermanentError         a retry cannot help: the task fails at once
     │   ├─ SpecError
     │   ├─ MissingPartitionError
     │   ├─ DataRejectedError
     │   ├─ SourceError
     │   │   └─ StagedFilesGoneError
     │   ├─ BrokenContractError
     │   ├─ GateRejectedError
     │   ├─ NotApprovedError
     │   ├─ ServingCheckError
     │   │   ├─ NotLoadedError
     │   │   └─ GuardBreachedError
     │   ├─ InconclusiveRolloutError
     │   ├─ RolloutRefusedError
     │   ├─ EvidenceError
     │   └─ ConfigurationError
     ├─ TransientError         a retry may help: the task fails and is retried
     │   ├─ StoreUnavailableError
     │   │   └─ FileGoneError
     │   ├─ ConcurrentWriteError
     │   └─ EarlierPartitionMissingError
     └─ NothingToDo            not a failure: the task is skipped, the message is the reason

A message says what, which one, the numbers, and what to do next. It never holds a value from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class MLOpsError(Exception):
    """Anything this package raises on purpose."""


class PermanentError(MLOpsError):
    """A retry cannot help: a person has to change something."""


class SpecError(PermanentError):
    """``model.yaml``, or a function it names, is wrong; a line about the yaml is ``file:line: what, expected what``."""


class MissingPartitionError(PermanentError):
    """The run has no usable partition key."""


class DataRejectedError(PermanentError):
    """The data breaks a blocking expectation, has another schema, or has no rows."""


class SourceError(PermanentError):
    """The source is missing, truncated or unreadable."""


class StagedFilesGoneError(SourceError):
    """What the chunks of a run wrote was committed or cleared away since."""


class BrokenContractError(PermanentError):
    """A function of a use case does not keep what it promises."""


class GateRejectedError(PermanentError):
    """The gate said no, and the caller asked for that to be a failure."""


class NotApprovedError(PermanentError):
    """There is no passing verdict for this very run."""


class ServingCheckError(PermanentError):
    """The candidate cannot be loaded in the server, or predicts differently there."""


class NotLoadedError(ServingCheckError):
    """A version cannot be brought into memory here and now, which says nothing about what it predicts."""


class GuardBreachedError(ServingCheckError):
    """
    Callers met worse with the candidate than a guard allows.

    :param readings: What each guard measured.
    """

    def __init__(self, message: str, readings: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.readings = readings


class InconclusiveRolloutError(PermanentError):
    """The guards of a rollout did not get their minimum samples in time, and model.yaml says to go back then."""


class RolloutRefusedError(PermanentError):
    """Traffic may not move: the version never passed the gate, or there is nothing to roll back to."""


class EvidenceError(PermanentError):
    """Stored evidence is broken or was written by another schema version."""


class ConfigurationError(PermanentError):
    """A setting, connection or optional package is missing; the message says what to set."""


class TransientError(MLOpsError):
    """A retry may help: something outside is away or busy."""


class StoreUnavailableError(TransientError):
    """A store or the model server cannot be reached, or a disk is full."""


class FileGoneError(StoreUnavailableError):
    """A file that was there a moment ago is not there now."""


class ConcurrentWriteError(TransientError):
    """Somebody else wrote the same partition or generation meanwhile."""


class EarlierPartitionMissingError(TransientError):
    """A month needs the history of the one before, which is not there yet; in a backfill it may be on its way."""


class NothingToDo(MLOpsError):  # noqa: N818 - not an error: it ends a task as skipped
    """There is nothing to do, and that is fine: unchanged input, or no champion yet."""
