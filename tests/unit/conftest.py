"""Property tests have no deadline: two busy cores are slow without anything being wrong."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
