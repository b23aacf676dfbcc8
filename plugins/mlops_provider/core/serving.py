"""How a model answers: whom it sticks to, how long callers wait, and what they get when it can't."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServingPolicy:
    """
    What ``serving`` of model.yaml declares.

    :param sticky: Columns whose values in a request's first row decide which version of a split answers it; without
        them, and where a request has none of them, its ID does.
    :param fallback: Number that is answered for each row, and marked as such, when the model can't answer in time; None
        to refuse instead.
    :param deadline_seconds: Longest wait of a request that names none, in seconds.
    :param longest_deadline_seconds: Longest wait that a request may name, in seconds.
    :param most_waiting: Requests that may wait for the model; further ones are sent away.
    :param pseudonymise: Columns that the prediction log holds as a keyed hash only.
    :param keys: Columns that identify a row, for outcomes and for the log; those of model.yaml.
    :param binary: Whether an outcome is 0 or 1, and not any number.
    """

    sticky: tuple[str, ...] = ()
    fallback: float | None = None
    deadline_seconds: float = 10.0
    longest_deadline_seconds: float = 60.0
    most_waiting: int = 512
    pseudonymise: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    binary: bool = False

    def __post_init__(self) -> None:
        if self.fallback is not None and not math.isfinite(self.fallback):
            raise ValueError(f"the fallback must be a finite number, got {self.fallback}.")
        if not 0 < self.deadline_seconds <= self.longest_deadline_seconds:
            raise ValueError(
                "deadlines must lie above 0, and the default not above the longest, got "
                f"{self.deadline_seconds} and {self.longest_deadline_seconds} seconds."
            )
        if self.most_waiting < 1:
            raise ValueError(f"at least one request must be able to wait, got {self.most_waiting}.")
