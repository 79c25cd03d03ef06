"""Many stores by one command: which, where, and about how much work and space before any of it is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from wif_store.builder.selection import visit_order
from wif_store.errors import TaskError, printable
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wif_store.builder.plan import Settings
    from wif_store.extract.dry_run import Preview
    from wif_store.tasks.base import Task
    from wif_store.tasks.rows import Source

SAMPLE = 256
"""Examples of a task that are tokenised for an estimate: the first that a build visits."""
STORED = 0.67
"""Stored to raw bytes of bfloat16 residuals, as measured in docs/format.md."""


@dataclass(frozen=True, slots=True)
class Job:
    """One store to be built."""

    model: str
    settings: Settings
    source: Source
    out: str

    @property
    def name(self) -> str:
        """Model and task, as a person tells jobs apart."""
        return f"{model_name(self.model)} / {self.settings.task.name}"


@dataclass(frozen=True, slots=True)
class Templates:
    """Where rows are and where stores go: ``{task}`` and ``{model}`` stand for names."""

    source: str | None
    out: str | None

    def check(self, models: Sequence[str], tasks: Sequence[Task]) -> None:
        """Refuse templates that send two jobs to one file or folder.

        Raises:
            TaskError: Saying which option lacks which name.
        """
        many = (("task", "tasks", len(tasks)), ("model", "models", len(models)))
        for option, value, kinds in (("--source", self.source, many[:1]), ("--out", self.out, many)):
            for name, plural, count in kinds:
                if count > 1 and value not in (None, "builtin") and f"{{{name}}}" not in str(value):
                    msg = (
                        f"{option} {value} is the same for {count} {plural}; "
                        f"write {{{name}}} for the name of each"
                    )
                    raise TaskError(msg)

    def source_of(self, task: Task) -> str | None:
        """Where a task's rows are; None for its own dataset."""
        return self.source.replace("{task}", task.name) if self.source else None

    def out_of(self, model: str, settings: Settings) -> str:
        """Where a store goes."""
        out = self.out or f"stores/{{model}}/{settings.protocol.name}/{{task}}.zarr"
        return out.replace("{task}", settings.task.name).replace("{model}", model_name(model))


def model_name(model: str) -> str:
    """The last part of a model's name, without revision and ``.gguf``."""
    return Path(model.partition("@")[0]).name.removesuffix(".gguf")


def plan_jobs(models: Sequence[str], settings: Sequence[Settings], templates: Templates) -> list[Job]:
    """Every model over every task, model by model; each task's rows are read once.

    Raises:
        TaskError: If two jobs would write one store.
        SourceError: If the rows of a task cannot be used.
    """
    templates.check(models, [s.task for s in settings])
    outs = Counter(templates.out_of(model, s) for model in models for s in settings)
    for out, count in outs.items():
        if count > 1:
            msg = (
                f"{count} builds would write {out}; "
                "name each model once, and models that end in the same name in two commands with --out"
            )
            raise TaskError(msg)
    sources = [
        load_source(s.task, templates.source_of(s.task), keep_duplicates=s.protocol.keeps_duplicates)
        for s in settings
    ]
    return [
        Job(model, s, source, templates.out_of(model, s))
        for model in models
        for s, source in zip(settings, sources, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one job will take, before it is begun.

    ``kept`` examples at most; tokens to run at least, where every example that is visited is kept, and
    at most, where all of the source's are visited; ``raw`` bytes of residuals as the model computes
    them, at most.
    """

    job: Job
    candidates: int
    kept: int
    tokens_each: float
    tokens_least: float
    tokens_most: float
    raw: float


def estimate(
    job: Job, preview: Preview, *, dtype: str, chat: bool, template: Mapping[str, Any] | None = None
) -> Estimate:
    """Estimate one job from its first ``SAMPLE`` examples and the model's configuration."""
    settings, candidates = job.settings, job.source.candidates
    sample = visit_order(candidates, settings.seed)[:SAMPLE]
    requests = [settings.task.request(c, settings.protocol) for c in sample]
    run, read = map(
        fmean, zip(*preview.tokens(requests, settings.protocol, chat=chat, template=template), strict=True)
    )
    wanted = len(candidates) if settings.per_class is None else 2 * settings.per_class
    kept = min(wanted, len(candidates))
    # The largest k is known only when every candidate has been visited.
    least = len(candidates) if settings.per_class is None else kept
    width = preview.d_model * (4 if dtype == "float32" else 2)
    raw = (
        kept
        * width
        * (len(settings.protocol.sites) * len(preview.layers) + read * len(preview.sequence_layers))
    )
    return Estimate(job, len(candidates), kept, run, run * least, run * len(candidates), raw)


def table(estimates: Iterable[Estimate], dtype: str) -> Table:
    """Estimates as a table, with their sum."""
    rows = list(estimates)
    made = Table("model", "task", box=None, header_style="bold", pad_edge=False)
    for head in ("examples", "tokens each", "tokens to run", "raw MB", "stored MB, about"):
        made.add_column(head, justify="right")
    ratio = STORED if dtype == "bfloat16" else 1.0

    def line(model: str | Text, task: str, part: list[Estimate], each: str) -> tuple[str | Text, ...]:
        least, most = sum(e.tokens_least for e in part), sum(e.tokens_most for e in part)
        raw = sum(e.raw for e in part) / 1e6
        run = f"{most:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f}"
        return model, task, f"{sum(e.kept for e in part):,}", each, run, f"{raw:,.1f}", f"{ratio * raw:,.1f}"

    for e in rows:
        name = Text(printable(model_name(e.job.model)))
        made.add_row(*line(name, e.job.settings.task.name, [e], f"{e.tokens_each:,.0f}"))
    made.add_section()
    made.add_row(*line(f"{len(rows)} stores", "", rows, ""))
    return made
