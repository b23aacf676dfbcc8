"""The only doors to the ML libraries, one library per module; steps import them when they run."""

from __future__ import annotations

import os

# Read by the libraries while they are imported. Without a network, Great Expectations' analytics was seen to hang.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# OpenMP's threads else spin while they wait for each other: on two cores that others used, too, a fit with two threads
# took 29 s, and so 1.5 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
