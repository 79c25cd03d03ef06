"""A build from Python. This is where a model meets a build: no room below may know both."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wif_store.builder.journal import Journal
from wif_store.builder.pipeline import Progress, build_store
from wif_store.builder.plan import Settings, is_finished
from wif_store.builder.sweep import Job, Templates, plan_jobs
from wif_store.errors import BuildError, SelectionError
from wif_store.format.schema import MANIFEST
from wif_store.progress import telling
from wif_store.storage import storage_of
from wif_store.store.reader import open_store
from wif_store.tasks.lookup import TaskOptions, find_tasks
from wif_store.tasks.own_rows import OwnRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.builder.scan import SplitScan
    from wif_store.builder.workers import Workers
    from wif_store.progress import Told
    from wif_store.records import Engine
    from wif_store.store.reader import ActivationStore
    from wif_store.tasks.base import Protocol

DEFAULT_MODEL = "google/gemma-2-2b"


@dataclass(frozen=True, slots=True)
class BuildOptions(TaskOptions):
    """The options of a build, as ``wif-store build`` takes them; see :func:`build` and ``TaskOptions``.

    Attributes:
        task: A task, ``all``, a task of the harness as ``lm_eval/NAME``, or a source of your own rows.
        models: At least one.
    """

    task: str
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    source: str | None = None
    layers: str = "all"
    sequence_layers: str = "auto"
    per_class: int | str = 2000
    splits: str = "seeded"
    seed: int = 0
    skip_too_long: bool = False
    device: str = "auto"
    dtype: str = "bfloat16"
    device_map: str | None = None
    adapter: str | None = None
    batch_tokens: int | None = None
    batch_size: int = 512
    chat_template: bool = False
    template: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    trust_remote_code: bool = False
    out: str | None = None
    engine: str = "local"
    ray_address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None

    def jobs(self) -> list[Job]:
        """Every model over every task, with the rows of each task; a bad option is refused here.

        Raises:
            WifError: Saying which option is wrong, and what is expected.
        """
        self._check_engine()
        tasks = find_tasks(self.task, self, self.source)
        settings = [
            Settings(
                task=task,
                protocol=self.protocol_of(task, self.seed),
                per_class=parse_per_class(self.per_class),
                seed=self.seed,
                splits=parse_splits(self.splits),
                skip_too_long=self.skip_too_long,
            )
            for task in tasks
        ]
        own = isinstance(tasks[0], OwnRows)
        return plan_jobs(self.models, settings, Templates(self.task if own else self.source, self.out))

    def _check_engine(self) -> None:
        if self.engine not in ("local", "ray"):
            msg = f"--engine is {self.engine!r}; expected local or ray"
            raise BuildError(msg)
        given = (self.ray_address, self.workers, self.gpus_per_worker)
        if self.engine == "local" and given != (None, None, None):
            msg = (
                "--ray-address, --workers and --gpus-per-worker are for --engine ray: add it, or leave "
                "them out"
            )
            raise BuildError(msg)


def is_built(job: Job, options: BuildOptions) -> bool:
    """Whether a job's store is finished, by what can be known without loading the model.

    Raises:
        ModelError: If there is no such model, or what runs it is not installed.
    """
    out = storage_of(job.out)
    if not out.exists(MANIFEST):
        return False
    from wif_store.extract.adapter import adapter_record, locate_adapter
    from wif_store.extract.chat_template import ChatTemplate
    from wif_store.extract.checkpoint import load_tokenizer, locate
    from wif_store.extract.model import recorded_device

    # Of a model on the Hub the commit is enough; that of local files is a hash over their bytes.
    located = locate(job.model, weights=False)
    if not located.revision:
        located = locate(job.model)
    template = None
    if options.chat_template:
        tokenizer = load_tokenizer(located, trust_remote_code=options.trust_remote_code)
        template = ChatTemplate(tokenizer, options.template).record()
    model = {
        "id": located.name,
        "kind": located.kind,
        "revision": located.revision,
        "dtype": options.dtype,
        "chat_template": template,
        "adapter": None if options.adapter is None else adapter_record(locate_adapter(options.adapter)),
    }
    if options.device != "auto":
        model["device"] = recorded_device(options.device, options.dtype)
    batching = {"examples": options.batch_size}
    if options.batch_tokens is not None:
        batching["tokens"] = options.batch_tokens
    return is_finished(
        out,
        job.settings,
        job.source,
        model=model,
        batching=batching,
        layers=options.layers,
        sequence_layers=options.sequence_layers,
    )


Opened = Callable[["Protocol"], "tuple[Engine, Workers | None]"]
"""Gives a model under a protocol, and the workers that have it; None is this process."""


@contextmanager
def open_model(jobs: Sequence[Job], options: BuildOptions) -> Iterator[Opened]:
    """The model of some jobs: it is loaded when a build inside first asks for it, and once.

    A build that goes on runs the model with as many threads as it began with, for they decide the last bits.

    Raises:
        ModelError: If it cannot be had, or what runs it is not installed.
    """
    from wif_store.extract.engine import Opener

    recorded = (Journal(job.out).recorded_threads() for job in jobs)
    opener = Opener(
        jobs[0].model,
        threads=options.threads or next((threads for threads in recorded if threads), None),
        layers=options.layers,
        sequence_layers=options.sequence_layers,
        device=options.device,
        dtype=options.dtype,
        batch_tokens=options.batch_tokens,
        batch_size=options.batch_size,
        chat=options.chat_template,
        template=options.template,
        trust_remote_code=options.trust_remote_code,
        adapter=options.adapter,
        device_map=options.device_map,
    )
    if options.engine == "local":
        yield lambda protocol: (opener(protocol), None)
        return
    from wif_store.builder.workers_ray import RayWorkers, ray_workers

    gpus = 0 if options.device == "cpu" and options.gpus_per_worker is None else options.gpus_per_worker
    with ray_workers(opener, address=options.ray_address, workers=options.workers, gpus=gpus) as actors:
        yield lambda protocol: ((workers := RayWorkers(actors, protocol)).engine, workers)


def build(
    task: str | os.PathLike[str],
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    source: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> ActivationStore:
    """Run a model over a task, write its store, and open it.

    The same call goes on where a stopped one left off, and returns at once where the store is finished.

    Args:
        task: A task's name, or a file of own rows.
        model: ``gemma3-270m`` (embedded), a Hub id (``id@revision``), a folder or a GGUF file.
        source: Where the rows are, as for ``--source``; None for the task's own dataset.
        out: Where the store goes, a folder or a URL; ``stores/{model}/{protocol}/{task}.zarr`` if not given.
        progress: Whether a bar is shown, or who is told how it goes. None shows a bar in a notebook alone.
        **options: The fields of :class:`BuildOptions`, which are the options of ``wif-store build``:
            ``protocol``, ``layers``, ``sequence_layers``, ``per_class``, ``splits``, ``seed``,
            ``device``, ``dtype``, ...

    Returns:
        The opened store.

    Raises:
        WifError: The same errors that the command prints as one line.
        TypeError: If there is no such option.

    Example::

        store = wif_store.build("winogrande", "gemma3-270m", source="builtin", per_class="max")
        X, success = store.read_final_token(layer=9, split="train")
    """
    given = BuildOptions(
        os.fspath(task), (os.fspath(model),), source=_text(source), out=_text(out), **options
    )
    jobs = given.jobs()
    if len(jobs) > 1:
        msg = f"build() returns one store: name one task, or run `wif-store build --task {task}`"
        raise BuildError(msg)
    [job] = jobs
    if not is_built(job, given):
        with open_model([job], given) as opened, _progress(progress, job) as told:
            engine, workers = opened(job.settings.protocol)
            build_store(job.settings, job.source, engine, job.out, told, workers)
    return open_store(job.out)


def _text(place: str | os.PathLike[str] | None) -> str | None:
    return None if place is None else os.fspath(place)


@contextmanager
def _progress(progress: Progress | bool | None, job: Job) -> Iterator[Progress]:
    if isinstance(progress, Progress):
        yield progress
        return
    with telling(progress, f"loading {job.model}", "examples") as told:
        yield _Examples(told, job.settings.task.name)


@dataclass(frozen=True, slots=True)
class _Examples(Progress):
    """Tells how many examples of a task were scored."""

    told: Told
    task: str

    def scanned(self, parts: Mapping[str, SplitScan], tokens: int) -> None:
        done = sum(part.tally.seen for part in parts.values())
        self.told(self.task, done, sum(part.most for part in parts.values()))


def parse_per_class(value: int | str) -> int | None:
    """A positive number, or None for ``max``.

    Raises:
        SelectionError: If it is neither.
    """
    text = str(value)
    if text == "max":
        return None
    if not text.isdecimal() or int(text) == 0:
        msg = f"--per-class is {text!r}; expected a positive number or max"
        raise SelectionError(msg)
    return int(text)


def parse_splits(text: str) -> str:
    """``seeded`` or ``published``.

    Raises:
        SelectionError: If it is neither.
    """
    if text not in ("seeded", "published"):
        msg = f"--splits is {text!r}; expected seeded or published"
        raise SelectionError(msg)
    return text
