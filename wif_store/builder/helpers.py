"""Processes of this machine that write shards, each one at a time.

Where there are many cores Python's threads wait for each other: encoding is made of short calls. One process
imports what is needed and forks a helper for each of several pipes: were each to import for itself, that
would keep the cores from whoever is about to launch a GPU's work. A helper is given jobs through its pipe and
ends when nobody holds the other end of it, however that came about.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import BuildError
from wif_store.builder.journal import Journal
from wif_store.builder.shards import Shard, write_shards

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from concurrent.futures import Future

    from wif_store.builder.shards import ShardJob

THREADS: Final = 2
"""Of a helper, to encode chunks."""


class Helpers:
    """Helpers that are starting, and soon wait for work; ``end`` them."""

    def __init__(self, count: int) -> None:
        pipes = [Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        self._free: SimpleQueue[Connection[Any, Any]] = SimpleQueue()
        for pipe in self._pipes:
            self._free.put(pipe)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OPENBLAS_NUM_THREADS": "1",  # numpy's: a process with threads is not one to fork.
        }
        theirs = [end.fileno() for _, end in pipes]
        self._parent = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, theirs)],
            pass_fds=theirs,
            env=environment,
            process_group=0,  # An interrupt at the terminal means the build: what it gave out is soon done.
        )
        for _, end in pipes:
            end.close()

    def end(self) -> None:
        """End them. What was given out is done by then: ``write`` ends no sooner."""
        for pipe in self._pipes:
            pipe.close()
        self._parent.wait()

    def write(self, out: str, jobs: Iterable[ShardJob]) -> Generator[Shard, None, None]:
        """Write shards of the build at ``out`` as ``write_shards`` does, but several at once.

        Raises:
            BuildError: If a piece is not what was journalled, or a helper died.
        """
        begun: set[Future[Shard]] = set()
        with ThreadPoolExecutor(len(self._pipes), thread_name_prefix="helper") as pool:
            for job in jobs:
                if len(begun) == len(self._pipes):
                    written, begun = wait(begun, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in written)
                begun.add(pool.submit(self._ask, out, job))
            yield from (future.result() for future in as_completed(begun))

    def _ask(self, out: str, job: ShardJob) -> Shard:
        pipe = self._free.get()
        try:
            # As ``send`` does, which where it fails leaves a buffer that Python 3.13 cannot free quietly.
            pipe.send_bytes(pickle.dumps((out, job)))
            answer: Shard | Exception = pipe.recv()
        except (EOFError, OSError):
            msg = f"a process that wrote {job.name} ended before its time: run the same command again"
            raise BuildError(msg) from None
        finally:
            self._free.put(pipe)
        if isinstance(answer, Exception):
            raise answer
        return answer


def main(pipes: Sequence[int]) -> None:
    """Be the parent of a helper for each of these pipes."""
    os.dup2(2, 1)  # Whatever a library prints must not stand in the build's output.
    for own in pipes:
        if os.fork() == 0:
            for other in pipes:
                if other != own:
                    os.close(other)
            _help(Connection(own))
            os._exit(0)
    for pipe in pipes:
        os.close(pipe)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _help(pipe: Connection[Any, Any]) -> None:
    with suppress(EOFError, OSError):
        while True:
            out, job = pipe.recv()
            answer: Shard | Exception
            try:
                [answer] = write_shards(Journal(out), [job], THREADS)
            except Exception as error:
                answer = error
            pipe.send(answer)


if __name__ == "__main__":
    main(list(map(int, sys.argv[1:])))
