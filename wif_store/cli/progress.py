"""How far work is: bars where somebody looks on, lines in a log where nobody does."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from wif_store.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task

EVERY: Final = 30.0
"""Seconds between two lines of a log."""
PATIENCE: Final = 2.0
"""Seconds after which a log says what is being done."""


_quiet: list[bool] = []


def be_quiet(quiet: bool) -> None:
    """Say from now on whether bars and remarks are shown."""
    _quiet[:] = [quiet]


def error_console() -> Console:
    """Where bars and remarks go: standard error, or nowhere."""
    from rich.console import Console

    return Console(stderr=True, quiet=_quiet == [True])


@contextmanager
def bar(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """One bar on standard error for work that is counted; told how many of how many are done."""
    with bars_by_name(name, unit) as told:
        yield lambda done, total: told(name, done, total)


@contextmanager
def bars_by_name(first: str, unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error for each name that is told of, with how many of how many are done.

    Args:
        first: What is done before anything is counted.
        unit: What is counted.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with bars(error_console(), *columns, unit=unit, transient=True) as shown:
        yield by_name(shown, first)


def by_name(shown: Progress, first: str) -> Callable[[str, int, int], None]:
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

    Args:
        console: Where they go.
        *columns: What a bar has.
        unit: What a line counts in; nothing is a count.
        scale: How many of what is counted make one of these.
        transient: Whether bars go away when all is done.
        expand: Whether bars are as wide as the terminal.
    """
    from rich.progress import Progress

    live = console.is_terminal or console.is_jupyter
    shown = Progress(*columns, console=console, transient=transient, expand=expand, disable=not live)
    with shown, nullcontext() if live else _telling(console, shown, unit, scale):
        yield shown


@contextmanager
def _telling(console: Console, shown: Progress, unit: str, scale: int) -> Iterator[None]:
    """Inside, a line is printed every 30 seconds for each bar that is not at its end."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(EVERY):
            for task in shown.tasks:
                if task.visible and not task.finished:
                    say(console, line_of(task, unit, scale))

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


@contextmanager
def working(console: Console, what: str) -> Iterator[None]:
    """Say what is being done: beside a spinner on a terminal; in a log on a line, once it takes a while."""
    if console.is_terminal or console.is_jupyter:
        with console.status(printable(what)):
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
