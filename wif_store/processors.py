"""How many processors this process may use. May import nothing of ours."""

from __future__ import annotations

import os

import joblib


def processors() -> int:
    """What the process is bound to, at most what its container may use, at most what SLURM grants a task."""
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    bound = int(joblib.cpu_count())
    return max(1, min(bound, int(granted))) if granted.isdecimal() else bound
