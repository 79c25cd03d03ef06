"""Measuring on a machine that others use too: works take turns, and ratios are taken within a turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.tables import Working, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Linux counts the memory of whoever started a command as the command's own: so a small process starts it.
LAUNCHER = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
TASKS = Path("/proc/self/task")
Seconds = dict[str, list[float]]
"""Of each work: its seconds, turn by turn."""


def interleave(
    works: Mapping[str, Callable[[], object]], turns: int, what: str = ""
) -> tuple[Seconds, Seconds]:
    """Run every work once a turn, each turn beginning with another one.

    Args:
        works: What is run, by name. A work that takes its own time returns it as a float.
        turns: How often.
        what: What to call it all while it runs; nothing is said where it is empty.

    Returns:
        Seconds by the clock and seconds of this process's CPU time, which leave out who else was running.
    """
    names = list(works)
    clock: Seconds = {name: [] for name in names}
    cpu: Seconds = {name: [] for name in names}
    for turn in range(turns):
        if what:
            took = sum(map(sum, clock.values()))
            left = f", about {took / turn * (turns - turn):.0f} s left" if turn else ""
            say(f"  {what}: turn {turn + 1} of {turns}{left}")
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            with Working(f"{what}, {name}" if what else name):
                started, started_cpu = time.perf_counter(), time.process_time()
                own = works[name]()
                cpu[name].append(time.process_time() - started_cpu)
                clock[name].append(own if isinstance(own, float) else time.perf_counter() - started)
    return clock, cpu


def median(seconds: Seconds, name: str) -> float:
    """The middle of a work's turns."""
    return statistics.median(seconds[name])


def ratio(seconds: Seconds, name: str, to: str) -> float:
    """The middle of the turns' ratios of one work's seconds to another's."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[to], strict=True))


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, with every thread it has, to one core; where the system cannot, it says so."""
    if not TASKS.is_dir():
        say("this system keeps no process to one core: the figures are of all of them")
        yield
        return
    cores = os.sched_getaffinity(0)
    _keep_to({min(cores)})
    try:
        yield
    finally:
        _keep_to(cores)


def _keep_to(cores: set[int]) -> None:
    # A pool's threads are there already, and each has an affinity of its own.
    for task in TASKS.iterdir():
        os.sched_setaffinity(int(task.name), cores)


def child(command: Sequence[str | os.PathLike[str]]) -> tuple[float, int]:
    """Run a command; its seconds and its peak resident bytes.

    Raises:
        RuntimeError: If it fails; says the end of what it wrote.
    """
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        msg = f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-500:]}"
        raise RuntimeError(msg)
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak) * (1 if sys.platform == "darwin" else 1024)
