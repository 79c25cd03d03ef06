"""How far work is: bars on a terminal and in a notebook, lines in a log where nobody looks on.

May import errors alone.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from wif_store.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task

EVERY: Final = 30.0
"""Seconds between two lines of a log."""
PATIENCE: Final = 2.0
"""Seconds after which a log says what is being done."""
REDRAW: Final = 0.5
"""Seconds between two drawings of a bar in a notebook."""

Told = Callable[[str, int, int], None]
"""Called with a name, how much of it is done, and how much there is."""
BYTES: Final = "bytes"
"""The unit that is shown in kB, MB or GB."""


_quiet: list[bool] = []


def be_quiet(quiet: bool) -> None:
    """Say from now on whether bars and remarks are shown."""
    _quiet[:] = [quiet]


def error_console() -> Console:
    """Where bars and remarks go: standard error, or nowhere."""
    from rich.console import Console

    return Console(stderr=True, quiet=_quiet == [True])


@contextmanager
def telling(progress: Told | bool | None, first: str, unit: str) -> Iterator[Told]:
    """Gives whom a call from Python tells how far it is.

    Args:
        progress: Who is told; or whether bars are shown. None shows them in a notebook alone.
        first: What is done before anything is counted.
        unit: What is counted.
    """
    if progress is None:
        progress = in_notebook()
    if callable(progress):
        yield progress
    elif progress:
        with bars_by_name(first, unit) as told:
            yield told
    else:
        yield lambda name, done, total: None


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


class Count:
    """Counts what is done of something, and tells; any thread may call it."""

    def __init__(self, told: Told, name: str, total: int) -> None:
        self._told, self._name, self._total = told, name, total
        self._done, self._lock = 0, threading.Lock()
        self.add(0)

    def add(self, count: int = 1) -> None:
        """So much more is done."""
        with self._lock:
            self._done += count
            self._told(self._name, self._done, self._total)


@contextmanager
def bar(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """One bar for work that is counted; told how many of how many are done."""
    with bars_by_name(name, unit) as told:
        yield lambda done, total: told(name, done, total)


@contextmanager
def bars_by_name(first: str, unit: str) -> Iterator[Told]:
    """A bar for each name that is told of, with how many of how many are done.

    Args:
        first: What is done before anything is counted.
        unit: What is counted.
    """
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    counted = (DownloadColumn(),) if unit == BYTES else (MofNCompleteColumn(), TextColumn(unit))
    in_log = {"unit": "MB", "scale": 10**6} if unit == BYTES else {"unit": unit}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *counted,
        TimeRemainingColumn(),
    )
    with bars(error_console(), *columns, transient=True, **in_log) as shown:
        yield by_name(shown, first)


def by_name(shown: Progress, first: str) -> Told:
    """What adds a bar for each name that it is told of; ``first`` is shown until then."""
    lines = {first: shown.add_task(printable(first), total=None)}

    def told(name: str, done: int, total: int) -> None:
        if name not in lines:
            shown.update(lines[first], visible=False)
            lines[name] = shown.add_task(printable(name))
        shown.update(lines[name], completed=done, total=total)

    return told


@contextmanager
def bars(
    console: Console,
    *columns: ProgressColumn,
    unit: str = "",
    scale: int = 1,
    transient: bool = False,
    expand: bool = False,
) -> Iterator[Progress]:
    """Bars on a terminal and in a notebook; elsewhere a line for each every 30 seconds.

    In a notebook they stay when all is done.

    Args:
        console: Where they go.
        *columns: What a bar has.
        unit: What a line counts in; nothing is a count.
        scale: How many of what is counted make one of these.
        transient: Whether bars go away when all is done.
        expand: Whether bars are as wide as the terminal.
    """
    from rich.progress import Progress

    live = console.is_terminal
    shown = Progress(*columns, console=console, transient=transient, expand=expand, disable=not live)
    if live:
        with shown:
            yield shown
    elif console.is_jupyter:
        with _in_cell(shown):
            yield shown
    else:
        with _again(EVERY, lambda: _tell(console, shown, unit, scale)):
            yield shown


@contextmanager
def _in_cell(shown: Progress) -> Iterator[None]:
    """Inside, bars are drawn below the cell that runs. rich's own way there needs ipywidgets."""
    from IPython.display import display

    cell = display(shown, display_id=True)
    try:
        with _again(REDRAW, lambda: cell.update(shown)):
            yield
    finally:
        for task in shown.tasks:
            # What was never counted has no end that could be shown.
            shown.update(task.id, visible=task.visible and task.total is not None)
        cell.update(shown)


def _tell(console: Console, shown: Progress, unit: str, scale: int) -> None:
    """Print a line for each bar that is not at its end."""
    for task in shown.tasks:
        if task.visible and not task.finished:
            say(console, line_of(task, unit, scale))


@contextmanager
def _again(seconds: float, work: Callable[[], None]) -> Iterator[None]:
    """Inside, a thread does the work every so many seconds."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            work()

    thread = threading.Thread(target=loop, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def working(console: Console, what: str) -> Iterator[None]:
    """Say what is being done: beside a spinner on a terminal; in a log on a line, once it takes a while."""
    if console.is_terminal:
        from rich.text import Text

        with console.status(Text(printable(what))):
            yield
    else:
        teller = threading.Timer(PATIENCE, say, (console, what))
        teller.daemon = True
        teller.start()
        try:
            yield
        finally:
            teller.cancel()


def line_of(task: Task, unit: str = "", scale: int = 1) -> str:
    """How far a task is: ``boolq: 192 of 4,000, 261 tokens/s, about 0:12:10 left``."""
    count = f"{task.completed / scale:,.0f}"
    if task.total is not None:
        count += f" of {task.total / scale:,.0f}"
    parts = [f"{count} {unit}".rstrip()]
    if note := task.fields.get("note"):
        parts.append(str(note))
    elapsed = task.elapsed or 0.0
    if task.total is not None and 0 < task.completed < task.total:
        left = elapsed * (task.total - task.completed) / task.completed
        parts.append(f"about {timedelta(seconds=round(left))} left")
    else:
        parts.append(f"for {timedelta(seconds=round(elapsed))}")
    return f"{task.description}: {', '.join(parts)}"


def say(console: Console, text: str) -> None:
    """Print what may hold names from anywhere: nothing in them is markup, or obeyed by the terminal."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
