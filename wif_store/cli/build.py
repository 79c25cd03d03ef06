"""``wif-store build`` as a person sees it: progress bars, a closing summary, several builds at once."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import contextmanager
from dataclasses import fields
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from wif_store.api import is_built, open_model
from wif_store.builder.pipeline import Progress, build_store
from wif_store.builder.sweep import estimate, table
from wif_store.cli.store import describe_selection
from wif_store.errors import BuildError, ModelError, WifError, printable
from wif_store.progress import bars, error_console, say, working

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from wif_store.api import BuildOptions, Opened
    from wif_store.builder.scan import SplitScan
    from wif_store.builder.sweep import Estimate, Job


def run_builds(options: BuildOptions, *, dry_run: bool) -> list[dict[str, Any]]:
    """Build every task that the options name with every model; a model is loaded once.

    Returns:
        What came of each, or with ``dry_run`` what each would take.

    Raises:
        WifError: What ends the only build there is, or what was wrong with some of several, when the
            others are done. Output that cannot be written ends all of them.
    """
    console = error_console()
    # The sources are quick to refuse; a model is not quick to load.
    with working(console, f"{options.task}: reading the source"):
        jobs = options.jobs()
    if len(jobs) > 1 or dry_run:
        estimates = show_estimates(console, jobs, options)
    if dry_run:
        return [_estimated(one) for one in estimates]
    by_model = [list(group) for _, group in groupby(jobs, lambda j: j.model)]
    done: list[dict[str, Any]] = []
    failed: list[Job] = []
    for group in by_model:
        built, lacking = _build_all(console, group, options, alone=len(jobs) == 1)
        done, failed = done + built, failed + lacking
    if failed:
        msg = (
            f"{len(failed)} of {len(jobs)} builds failed: {', '.join(j.name for j in failed)}; "
            "the same command tries them again"
        )
        raise BuildError(msg)
    return done


def _build_all(
    console: Console, jobs: Sequence[Job], options: BuildOptions, *, alone: bool
) -> tuple[list[dict[str, Any]], list[Job]]:
    """Build the jobs of one model.

    Returns:
        What came of each, and those that could not be built, unless there is but one.
    """
    done: list[dict[str, Any]] = []
    failed: list[Job] = []
    with open_model(jobs, options) as opened:
        for number, job in enumerate(jobs):
            try:
                done.append(run_build(console, job, opened, options))
            except WifError as error:
                if alone or isinstance(error, BuildError):
                    raise
                say(console, f"{job.name} failed: {error}")
                failed.append(job)
                if isinstance(error, ModelError):
                    return done, failed + list(jobs[number + 1 :])
    return done, failed


def run_build(console: Console, job: Job, opened: Opened, options: BuildOptions) -> dict[str, Any]:
    """Build one store and print what came of it."""
    built = {"name": job.name, "model": job.model, "path": job.out, "already_built": True}
    if is_built(job, options):
        say(console, f"{job.out} is already built with these settings")
        return built
    with working(console, f"loading {job.model}"):
        engine, workers = opened(job.settings.protocol)
    with _bars(console, job.name) as progress:
        command = shlex.join(["wif-store", *sys.argv[1:]])
        report = build_store(job.settings, job.source, engine, job.out, progress, workers, command)
    if report.already_built:
        text = f"{job.out} is already built with these settings"
    else:
        text = describe_selection(
            report.selection,
            report.out,
            aligned=_may_be_aligned(job, chat=options.chat_template),
            reasoning=_reasoning(engine.model, job.settings.protocol.outcome),
        )
    say(console, text)
    return built | {"already_built": report.already_built}


def _may_be_aligned(job: Job, *, chat: bool) -> bool:
    """Whether the task could have been asked in its protocol ``aligned``, and was not."""
    used = job.settings.protocol.name
    return used != "aligned" and any(
        p.name == "aligned" and (not chat or p.site == "context") for p in job.settings.task.protocols
    )


def _reasoning(model: Mapping[str, Any], outcome: str) -> str:
    """What becomes of a template's block of reasoning, where answers are scored and not written."""
    template = model.get("chat_template") or {}
    return str(template.get("reasoning", "none")) if outcome == "choice" else "none"


def _estimated(one: Estimate) -> dict[str, Any]:
    """What a job will take, for a program."""
    found = {field.name: getattr(one, field.name) for field in fields(one) if field.name != "job"}
    return {"name": one.job.name, "model": one.job.model, "path": one.job.out, **found}


def show_estimates(console: Console, jobs: Iterable[Job], options: BuildOptions) -> list[Estimate]:
    """Print what the jobs will take; no weights are fetched or loaded for it."""
    from wif_store.extract.dry_run import preview

    estimates = []
    with working(console, "estimating tokens and bytes"):
        for model, group in groupby(jobs, lambda j: j.model):
            found = preview(
                model,
                layers=options.layers,
                sequence_layers=options.sequence_layers,
                trust_remote_code=options.trust_remote_code,
            )
            estimates += [
                estimate(
                    job, found, dtype=options.dtype, chat=options.chat_template, template=options.template
                )
                for job in group
            ]
    console.print(table(estimates, options.dtype))
    return estimates


def parse_template(arguments: Sequence[str]) -> dict[str, Any]:
    """``name=value`` texts as arguments of a chat template; values are JSON where they can be read as such.

    Raises:
        ModelError: If a text has no name.

    Example:
        >>> parse_template(["enable_thinking=false", "date_string=1 May 2026"])
        {'enable_thinking': False, 'date_string': '1 May 2026'}
    """
    parsed: dict[str, Any] = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            msg = f"--template is {text!r}; expected NAME=VALUE, as in enable_thinking=false"
            raise ModelError(msg)
        try:
            found = json.loads(value, parse_constant=_refused)
        except ValueError:
            found = value
        # A list or an object is a text: templates take plain values.
        parsed[name.strip()] = value if isinstance(found, list | dict) else found
    return parsed


def _refused(constant: str) -> None:
    raise ValueError(constant)  # NaN and infinity are no JSON


@contextmanager
def _bars(console: Console, name: str) -> Iterator[Progress]:
    one_line = Column(no_wrap=True, overflow="ignore")
    columns = (
        TextColumn("{task.description}", markup=False, table_column=one_line),
        # The bar takes what room the numbers leave.
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(table_column=one_line),
        TextColumn("{task.fields[note]}", table_column=one_line),
        TimeRemainingColumn(table_column=one_line),
    )
    with bars(console, *columns, unit="examples", expand=True) as shown:
        yield _Bars(console, shown, printable(name))


class _Bars(Progress):
    """Draws a build's progress as two bars: examples scored, megabytes written."""

    def __init__(self, console: Console, bars: Bars, name: str) -> None:
        self._console, self._bars = console, bars
        self._scan = bars.add_task(name, total=None, note="")
        self._write: int | None = None

    def scanned(self, parts: Mapping[str, SplitScan], tokens: int) -> None:
        """Show examples, tokens a second and pairs."""
        elapsed = self._bars.tasks[0].elapsed or 0
        rate = f"{tokens / elapsed:,.0f} tokens/s, " if tokens and elapsed else ""
        tallies = [part.tally for part in parts.values()]
        wanted = [tally.wanted for tally in tallies]
        pairs = f"{sum(tally.pairs for tally in tallies):,}"
        if None not in wanted:
            pairs += f" of {sum(n or 0 for n in wanted):,}"
        done = sum(tally.seen for tally in tallies)
        total = sum(part.most for part in parts.values())
        self._bars.update(self._scan, completed=done, total=total, note=f"{rate}{pairs} pairs")

    def writing(self, done: int, total: int) -> None:
        """Show megabytes of residuals written."""
        if self._write is None:
            self._write = self._bars.add_task("writing MB", total=total // 10**6, note="")
        self._bars.update(self._write, completed=done // 10**6)  # type: ignore[arg-type]

    def phase(self, name: str) -> None:
        """Show what is done now."""
        if self._bars.disable:
            say(self._console, name)
        if self._write is not None:
            self._bars.update(self._write, note=name)  # type: ignore[arg-type]
