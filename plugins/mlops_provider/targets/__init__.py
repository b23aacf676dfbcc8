"""Where a model is deployed to: one file per kind of target, all with the interface of :class:`Target`."""

from __future__ import annotations

from mlops_provider.targets.base import Answer, Packed, Target
from mlops_provider.targets.server import Server

__all__ = ["Answer", "Packed", "Server", "Target"]
