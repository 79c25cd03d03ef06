"""``wif-store build`` as a person sees it: options to settings, progress bars, a closing summary."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from wif_store.build import Progress, Report, Settings, build
from wif_store.errors import SelectionError, TaskError
from wif_store.info import describe_selection
from wif_store.sources import load_source
from wif_store.tasks import TASKS, get_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.records import Engine
    from wif_store.selection import Tally
    from wif_store.tasks.base import MultipleChoiceTask


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options of ``wif-store build``, as given."""

    task: str
    model: str
    source: str | None
    protocol: str
    layers: str
    sequence_layers: str
    per_class: str
    splits: str
    seed: int
    device: str
    dtype: str
    batch_tokens: int | None
    batch_size: int
    chat: bool
    trust_remote_code: bool
    out: str | None


def run_builds(options: BuildOptions) -> None:
    """Build one task, or every task in turn."""
    tasks = list(TASKS.values()) if options.task == "all" else [get_task(options.task)]
    if len(tasks) > 1:
        for name, value in (("--source", options.source), ("--out", options.out)):
            if value is not None and str(value) != "builtin" and "{task}" not in str(value):
                msg = (
                    f"{name} {value} is one place for {len(tasks)} tasks; write {{task}} for the name of each"
                )
                raise TaskError(msg)
    for task in tasks:
        run_build(task, options)


def run_build(task: MultipleChoiceTask, options: BuildOptions) -> Report:
    """Build one task and print what came of it."""
    console = Console(stderr=True)
    settings = Settings(
        task=task,
        protocol=task.protocol(options.protocol),
        per_class=parse_per_class(options.per_class),
        seed=options.seed,
        splits=parse_splits(options.splits),
    )
    out = options.out.replace("{task}", task.name) if options.out else str(default_out(task, options))
    # The source is quick to refuse; the model is not quick to load.
    with console.status(f"{task.name}: reading the source"):
        spec = options.source.replace("{task}", task.name) if options.source else None
        source = load_source(task, spec, keep_duplicates=settings.protocol.keeps_duplicates)
    with console.status(f"{task.name}: loading {options.model}"):
        engine = open_engine(settings, options)
    with _bars(console, task.name) as progress:
        report = build(settings, source, engine, out, progress)
    if report.already_built:
        console.print(f"{out} is already built with these settings")
    else:
        console.print(describe_selection(report.selection, report.out), soft_wrap=True, highlight=False)
    return report


def open_engine(settings: Settings, options: BuildOptions) -> Engine:
    """Load the model that the options name."""
    from wif_store.extract.engine import open_engine

    return open_engine(
        options.model,
        settings.protocol,
        layers=options.layers,
        sequence_layers=options.sequence_layers,
        device=options.device,
        dtype=options.dtype,
        batch_tokens=options.batch_tokens,
        batch_size=options.batch_size,
        chat=options.chat,
        trust_remote_code=options.trust_remote_code,
    )


def default_out(task: MultipleChoiceTask, options: BuildOptions) -> Path:
    """``stores/{model}/{protocol}/{task}.zarr``, with the last part of the model's name."""
    name = Path(options.model.partition("@")[0]).name.removesuffix(".gguf")
    return Path("stores", name, options.protocol, f"{task.name}.zarr")


def parse_per_class(text: str) -> int | None:
    """A positive number, or None for ``max``."""
    if text == "max":
        return None
    if not text.isdecimal() or int(text) == 0:
        msg = f"--per-class is {text!r}; expected a positive number or max"
        raise SelectionError(msg)
    return int(text)


def parse_splits(text: str) -> str:
    """``seeded`` or ``published``."""
    if text not in ("seeded", "published"):
        msg = f"--splits is {text!r}; expected seeded or published"
        raise SelectionError(msg)
    return text


@contextmanager
def _bars(console: Console, task: str) -> Iterator[Progress]:
    whole = Column(no_wrap=True, overflow="ignore")
    columns = (
        TextColumn("{task.description}", table_column=whole),
        # The bar takes what room the numbers leave.
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(table_column=whole),
        TextColumn("{task.fields[note]}", table_column=whole),
        TimeRemainingColumn(table_column=whole),
    )
    with Bars(*columns, console=console, expand=True) as bars:
        yield _Bars(bars, task)


class _Bars(Progress):
    """Draws a build's progress as two bars: examples scored, megabytes written."""

    def __init__(self, bars: Bars, task: str) -> None:
        self._bars = bars
        self._scan = bars.add_task(task, total=None, note="")
        self._write: int | None = None

    def scanned(self, done: int, total: int, tokens: int, tally: Tally) -> None:
        """Show examples, tokens/s, successes and failures."""
        elapsed = self._bars.tasks[0].elapsed or 0
        rate = f"{tokens / elapsed:,.0f} tokens/s, " if tokens and elapsed else ""
        note = f"{rate}{tally.successes} successes, {tally.failures} failures"
        # Both classes may be full long before the source ends: then the rest is not needed.
        self._bars.update(self._scan, completed=done, total=done if tally.full else total, note=note)

    def writing(self, done: int, total: int) -> None:
        """Show megabytes of residuals written."""
        if self._write is None:
            self._write = self._bars.add_task("writing MB", total=total // 10**6, note="")
        self._bars.update(self._write, completed=done // 10**6)  # type: ignore[arg-type]
