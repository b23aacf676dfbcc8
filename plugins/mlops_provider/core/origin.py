"""Who does something: the task instance, and the person behind it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from mlops_provider.core.payload import Payload

_LONGEST = 200
"""Characters kept of a path part; file systems take 255 bytes."""


BY_HAND = "cli_"
"""What the ``dag_id`` of a command begins with; the rest is its stage."""


@dataclass(frozen=True, slots=True)
class Origin(Payload):
    """
    The task instance that acts. A retry has the same origin, hence finds what the first try recorded.

    :param dag_id: The DAG, or a command: see :data:`BY_HAND`.
    :param map_index: Index of a mapped task; -1 if it is not mapped.
    :param actor: Person who started the run, if one did.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    actor: str = ""

    @property
    def key(self) -> str:
        """``dag/run/task/map``, the same for every try."""
        return "/".join(
            part.replace("%", "%25").replace("/", "%2F")
            for part in (self.dag_id, self.run_id, self.task_id, str(self.map_index))
        )

    @property
    def run_key(self) -> str:
        """``dag/run``, the same for every task of the run."""
        return "/".join(self.key.split("/")[:2])

    def same_run(self, key: str) -> bool:
        """Whether the *key* of another origin names a task of this one's run."""
        return key.split("/")[:2] == self.run_key.split("/")

    @property
    def path(self) -> str:
        """``dag/run/task[/map]`` in characters that need no quoting in a file name or an address."""
        parts = [self.dag_id, self.run_id, self.task_id]
        if self.map_index >= 0:
            parts.append(str(self.map_index))
        return "/".join(map(_path_part, parts))


def _path_part(text: str) -> str:
    """*text* itself where it is safe, else a readable part of it and a short hash to keep it distinct."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[:_LONGEST]
    if safe == text and safe:
        return safe
    return f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
