"""``wif-store build`` as a person sees it: options to settings, progress bars, a closing summary."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from wif_store.builder.pipeline import Progress, Report, Settings, build
from wif_store.errors import BuildError, ModelError, SelectionError, WifError
from wif_store.cli.describe import describe_selection
from wif_store.builder.sweep import Templates, estimate, plan_jobs, table
from wif_store.tasks import TASKS, get_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wif_store.builder.workers import Workers
    from wif_store.records import Engine
    from wif_store.builder.selection import Tally
    from wif_store.builder.sweep import Job
    from wif_store.tasks.base import Protocol


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options of ``wif-store build``, as given."""

    task: str
    models: tuple[str, ...]
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
    dry_run: bool
    engine: str
    ray_address: str | None
    workers: int | None
    gpus_per_worker: float | None


def run_builds(options: BuildOptions) -> None:
    """Build every task that the options name with every model; a model is loaded once.

    Raises:
        WifError: What ends the only build there is, or what was wrong with some of several, when the
            others are done. Output that cannot be written ends all of them.
    """
    check_engine(options)
    console = Console(stderr=True)
    tasks = list(TASKS.values()) if options.task == "all" else [get_task(options.task)]
    settings = [
        Settings(
            task=task,
            protocol=task.protocol(options.protocol),
            per_class=parse_per_class(options.per_class),
            seed=options.seed,
            splits=parse_splits(options.splits),
        )
        for task in tasks
    ]
    # The sources are quick to refuse; a model is not quick to load.
    with console.status(f"{', '.join(task.name for task in tasks)}: reading the source"):
        jobs = plan_jobs(options.models, settings, Templates(options.source, options.out))
    if len(jobs) > 1 or options.dry_run:
        show_estimates(console, jobs, options)
    if options.dry_run:
        return
    by_model = [list(group) for _, group in groupby(jobs, lambda j: j.model)]
    failed = [job for group in by_model for job in _build_all(console, group, options, alone=len(jobs) == 1)]
    if failed:
        msg = (
            f"{len(failed)} of {len(jobs)} builds failed: {', '.join(j.name for j in failed)}; "
            "the same command tries them again"
        )
        raise BuildError(msg)


def _build_all(console: Console, jobs: Sequence[Job], options: BuildOptions, *, alone: bool) -> list[Job]:
    """Build the jobs of one model; returns those that could not be built, unless there is but one."""
    failed: list[Job] = []
    with _hands(jobs[0], options) as hands:
        for number, job in enumerate(jobs):
            try:
                run_build(console, job, hands)
            except WifError as error:
                if alone or isinstance(error, BuildError):
                    raise
                console.print(f"{job.name} failed: {error}", soft_wrap=True, highlight=False, markup=False)
                failed.append(job)
                if isinstance(error, ModelError):
                    return failed + list(jobs[number + 1 :])
    return failed


Hands = Callable[["Protocol"], "tuple[Engine, Workers | None]"]
"""Gives a model under a protocol, and who does the work with it; None is this process."""


@contextmanager
def _hands(job: Job, options: BuildOptions) -> Iterator[Hands]:
    from wif_store.extract.engine import Opener, block_for

    opener = Opener(
        job.model,
        layers=options.layers,
        sequence_layers=options.sequence_layers,
        device=options.device,
        dtype=options.dtype,
        batch_tokens=options.batch_tokens,
        batch_size=options.batch_size,
        block=block_for(job.settings.per_class),
        chat=options.chat,
        trust_remote_code=options.trust_remote_code,
    )
    if options.engine == "local":
        yield lambda protocol: (opener(protocol), None)
        return
    from wif_store.builder.workers_ray import RayWorkers, ray_workers

    gpus = 0 if options.device == "cpu" and options.gpus_per_worker is None else options.gpus_per_worker
    with ray_workers(opener, address=options.ray_address, workers=options.workers, gpus=gpus) as workers:
        yield lambda protocol: ((crew := RayWorkers(workers, protocol)).engine, crew)


def run_build(console: Console, job: Job, hands: Hands) -> Report:
    """Build one store and print what came of it."""
    with console.status(f"loading {job.model}"):
        engine, crew = hands(job.settings.protocol)
    with _bars(console, job.name) as progress:
        report = build(job.settings, job.source, engine, job.out, progress, crew)
    if report.already_built:
        console.print(f"{job.out} is already built with these settings")
    else:
        console.print(describe_selection(report.selection, report.out), soft_wrap=True, highlight=False)
    return report


def show_estimates(console: Console, jobs: Iterable[Job], options: BuildOptions) -> None:
    """Print what the jobs will take; no weights are fetched or loaded for it."""
    from wif_store.extract.outline import outline

    estimates = []
    with console.status("estimating tokens and bytes"):
        for model, group in groupby(jobs, lambda j: j.model):
            found = outline(
                model,
                layers=options.layers,
                sequence_layers=options.sequence_layers,
                trust_remote_code=options.trust_remote_code,
            )
            estimates += [estimate(job, found, dtype=options.dtype, chat=options.chat) for job in group]
    console.print(table(estimates, options.dtype))


def check_engine(options: BuildOptions) -> None:
    """Refuse an engine that there is not, and options of the other one."""
    if options.engine not in ("local", "ray"):
        msg = f"--engine is {options.engine!r}; expected local or ray"
        raise BuildError(msg)
    given = (options.ray_address, options.workers, options.gpus_per_worker)
    if options.engine == "local" and given != (None, None, None):
        msg = "--ray-address, --workers and --gpus-per-worker are for --engine ray: add it, or leave them out"
        raise BuildError(msg)


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
