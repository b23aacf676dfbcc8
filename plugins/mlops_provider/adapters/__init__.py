"""The only doors to the ML libraries, one library per module; steps import them when they run."""

from __future__ import annotations

import os

# Read by the libraries while they are imported. Without a network, Great Expectations' analytics was seen to hang.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
