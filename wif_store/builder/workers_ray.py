"""Workers on Ray: actors hold the model and do the work, on this machine or on many.

What is Ray's is left to Ray: where actors run, that one that died is started again, and that the calls it had
taken are repeated. A repeated job writes the same bytes to the same names, so nothing is lost or doubled.
Residuals go from an actor straight to the storage that all machines share; the driver gets outcomes.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.builder.journal import Journal
from wif_store.builder.shards import write_shard
from wif_store.builder.workers import Outcome
from wif_store.errors import BuildError, ModelError, WifError, one_line
from wif_store.processors import processors
from wif_store.records import Engine, Lengths

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from wif_store.builder.shards import Shard, ShardJob
    from wif_store.builder.workers import BlockJob
    from wif_store.tasks.base import Protocol, Request

Open = Callable[["Protocol"], Engine]
"""Opens the model on first use and gives it under a protocol; it can be pickled."""

RETRIES: Final = 5
"""How often what a worker had in hand when it died is tried again: more is no accident."""
OBJECT_STORE: Final = 256 * 2**20
"""Bytes that a local Ray may hold of jobs and outcomes; residuals never go through it."""


class Worker:
    """What an actor does. Several calls run at once: a block is journalled while the next is extracted."""

    def __init__(self, open_engine: Open) -> None:
        self._open = open_engine
        self._model = threading.Lock()

    def describe(self, protocol: Protocol) -> Engine:
        """The engine without its model."""
        with self._model:
            return replace(self._open(protocol), extract=_elsewhere)

    def scan(self, job: BlockJob, out: str, protocol: Protocol, expected: Engine) -> Outcome:
        """Extract a block and journal it."""
        journal = _shared(out)
        with self._model:
            engine = self._open(protocol)
            # It may have been started again on a machine of another kind.
            check_alike(expected, replace(engine, extract=_elsewhere))
            records = engine.extract(job.requests)
        judged = job.judged(records)
        outcome = Outcome.of(job, records, judged)
        job.journal(records, judged, journal)
        return outcome

    def too_long(self, requests: Sequence[Request], protocol: Protocol) -> list[bool]:
        """For each request, whether it is longer than the model's context."""
        with self._model:
            extract = self._open(protocol).extract
            return extract.too_long(requests) if isinstance(extract, Lengths) else [False] * len(requests)

    def write(self, job: ShardJob, out: str) -> Shard:
        """Write a shard."""
        return write_shard(job, _shared(out))


class RayWorkers:
    """Actors under one protocol: the workers of one build.

    Attributes:
        engine: What the actors say of their model, which is the same for all.
    """

    def __init__(self, actors: Sequence[Any], protocol: Protocol) -> None:
        """Have every actor load its model.

        Raises:
            ModelError: If an actor cannot load it, or two would not compute the same.
        """
        self._actors, self._protocol = actors, protocol
        described = [_result(ref) for ref in [actor.describe.remote(protocol) for actor in actors]]
        self.engine: Engine = described[0]
        for other in described[1:]:
            check_alike(self.engine, other)
        self._next_writer = cycle(actors)
        self._writing: set[Any] = set()

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        # What is not needed any more must not be written into a journal that is gone by then.
        _wait_for(self._writing)

    def scan(self, jobs: Iterator[BlockJob], journal: Journal) -> Generator[Outcome, None, None]:
        """Extract and journal blocks, two to an actor: it journals one while it extracts the other."""
        import ray

        out = _address(journal)
        # An actor gets its second job when every other has its first.
        free = deque([*self._actors] * 2)
        running: dict[Any, Any] = {}
        try:
            while True:
                while free and (job := next(jobs, None)) is not None:
                    actor = free.popleft()
                    running[actor.scan.remote(job, out, self._protocol, self.engine)] = actor
                if not running:
                    return
                (done, *_), _ = ray.wait([*running])
                free.append(running.pop(done))
                yield _result(done)
        except GeneratorExit:
            _wait_for(running)
            raise

    def write(self, job: ShardJob, journal: Journal) -> Future[Shard]:
        """Have one actor after the other write a shard."""
        ref = next(self._next_writer).write.remote(job, _address(journal))
        self._writing.add(ref)
        found: Future[Shard] = Future()

        def settle(done: Future[Any]) -> None:
            self._writing.discard(ref)
            try:
                found.set_result(_result(ref))
            except Exception as error:
                found.set_exception(error)

        ref.future().add_done_callback(settle)
        return found

    def too_long(self, requests: Sequence[Request]) -> list[bool]:
        """For each request, whether it is longer than the model's context."""
        found: list[bool] = _result(self._actors[0].too_long.remote(requests, self._protocol))
        return found


def _wait_for(refs: Collection[Any]) -> None:
    import ray

    if refs:
        ray.wait([*refs], num_returns=len(refs))


@contextmanager
def ray_workers(
    open_engine: Open, *, address: str | None = None, workers: int | None = None, gpus: float | None = None
) -> Iterator[list[Any]]:
    """Start actors, which load a model when ``RayWorkers`` is made of them; stop them at the end.

    Args:
        open_engine: Gives the model.
        address: A running cluster, ``auto`` or ``HOST:PORT``; None starts Ray on this machine, for itself.
        workers: How many; None for one on each GPU, or one where there is none.
        gpus: GPUs of each; None for one where the cluster has any. A worker without has one CPU core.

    Raises:
        BuildError: If Ray is not installed, does not answer, or has no room for the workers.
    """
    try:
        # Both are read when Ray is imported. A Ray of our own serves this machine and reports to nobody.
        if address is None:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError:
        msg = "Ray is not installed; run: pip install 'wif-store[ray]'"
        raise BuildError(msg) from None
    ours = not ray.is_initialized()
    if ours:
        _connect(address, workers or 1)
    actors: list[Any] = []
    try:
        nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
        if gpus is None:
            gpus = float(any(n.get("GPU") for n in nodes))
        room = sum(int(n.get("GPU", 0) // gpus) if gpus else int(n.get("CPU", 0)) for n in nodes)
        count = workers or (room if gpus else 1)
        if count > room or not room:
            kind = f"with {gpus:g} GPUs each" if gpus else "with a CPU core each"
            msg = (
                f"found room for {room} workers {kind}; expected {max(count, 1)}: "
                "lower --workers or --gpus-per-worker, or add machines"
            )
            raise BuildError(msg)
        actor = ray.remote(Worker).options(
            num_cpus=_cores(nodes, gpus),
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=RETRIES,
            # One call extracts, one journals, one writes a shard.
            max_concurrency=3,
        )
        actors += [actor.remote(open_engine) for _ in range(count)]
        yield actors
    finally:
        for a in actors:
            ray.kill(a)
        if ours:
            ray.shutdown()


def _connect(address: str | None, workers: int) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        ray.init(
            num_cpus=max(workers, processors()),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            **quiet,
        )
        return
    try:
        if address != "auto":
            # Ray itself tries for more than ten minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        msg = (
            f"no Ray cluster can be used at {address} ({one_line(error)}): give the HOST:PORT of one that "
            "this machine belongs to, or leave --ray-address out"
        )
        raise BuildError(msg) from None


def _cores(nodes: Sequence[dict[str, float]], gpus: float) -> int:
    """CPU cores of a worker: what goes with its GPUs on the machine that has fewest for each."""
    shares = [n.get("CPU", 0) * gpus / n["GPU"] for n in nodes if gpus and n.get("GPU", 0) >= gpus]
    return max(1, int(min(shares, default=1)))


def check_alike(expected: Engine, found: Engine) -> None:
    """Refuse workers whose residuals would differ.

    Raises:
        ModelError: Saying in what they differ.
    """
    one, other = ({**e.model, **e.batching, **e.versions} for e in (expected, found))
    differing = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    if differing:
        name = min(differing)
        msg = (
            f"two workers would not compute the same: {name} is {one.get(name)!r} for one and "
            f"{other.get(name)!r} for another; use machines of one kind"
        )
        raise ModelError(msg)


def _result(ref: Any) -> Any:
    """What came of a call; an error of ours as it was raised."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, WifError | OSError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        msg = (
            f"a worker died {RETRIES + 1} times over the same work ({one_line(error)}): give it more memory, "
            "or have fewer workers on a machine, and run the same command"
        )
        raise BuildError(msg) from None


def _address(journal: Journal) -> str:
    """Where the store will stand, as it is called from any folder of any machine."""
    out = str(journal.out)
    return out if "://" in out else str(Path(out).absolute())


def _shared(out: str) -> Journal:
    """The journal, if this machine sees what the others do.

    Raises:
        BuildError: If it does not.
    """
    journal = Journal(out)
    if not journal.begun():
        msg = (
            f"a worker on {socket.gethostname()} finds no build in {journal.folder}: "
            "--out must be a folder or URL that all machines share"
        )
        raise BuildError(msg)
    return journal


def _elsewhere(requests: Sequence[Any]) -> Any:
    """Stands where a worker has a model."""
    msg = "the model is with the workers"
    raise RuntimeError(msg)
