"""Types of somebody's own, as models of other people hold them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sklearn.preprocessing import FunctionTransformer, StandardScaler

MARKER = "MLOPS_TEST_MARKER"
"""Environment variable that names the file which a loaded poison makes."""


class Doubled(StandardScaler):
    """Harmless, but nobody here has reviewed it."""


class Fuse(FunctionTransformer):
    """Leaves a mark as soon as it is loaded."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(os.environ[MARKER]).touch()
        self.__dict__.update(state)


class Bomb:
    """Leaves a mark as soon as a pickle of it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(os.environ[MARKER]),)
