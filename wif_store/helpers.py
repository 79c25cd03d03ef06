"""Processes of this machine that write shards, each one at a time.

Where there are many cores Python's threads wait for each other: encoding is made of short calls. A helper is
given jobs through a pipe and ends when nobody holds the other end of it, however that came about.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from wif_store.errors import BuildError
from wif_store.journal import Journal
from wif_store.shards import Shard, write_shards

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from wif_store.shards import ShardJob

THREADS = 2
"""Of a helper, to encode chunks."""


class Helpers:
    """Helpers that are starting, and soon wait for work; ``end`` them."""

    def __init__(self, count: int) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", __name__]
        pipe = subprocess.PIPE
        self._all = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) for _ in range(count)
        ]
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def end(self) -> None:
        """End them: nothing that was given out is under way once ``write`` is closed."""
        for process in self._all:
            process.terminate()
        for process in self._all:
            process.communicate()

    def write(self, out: str, jobs: Iterable[ShardJob]) -> Generator[Shard, None, None]:
        """Write shards of the build at ``out`` as ``write_shards`` does, but several at once.

        Raises:
            BuildError: If a piece is not what was journalled, or a helper died.
        """
        begun: list[Future[Shard]] = []
        with ThreadPoolExecutor(len(self._all), thread_name_prefix="helper") as pool:
            for job in jobs:
                if len(begun) == len(self._all):
                    yield begun.pop(0).result()
                begun.append(pool.submit(self._ask, out, job))
            for written in begun:
                yield written.result()

    def _ask(self, out: str, job: ShardJob) -> Shard:
        process = self._free.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((out, job), process.stdin)
            process.stdin.flush()
            answer: Shard | Exception = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            msg = f"a process that wrote {job.name} ended before its time: run the same command again"
            raise BuildError(msg) from None
        finally:
            self._free.put(process)
        if isinstance(answer, Exception):
            raise answer
        return answer


def main() -> None:
    """Be a helper."""
    # An interrupt means the build: what it gave out is soon done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Whatever a library prints must not stand among the answers.
    with suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):
        while True:
            out, job = pickle.load(jobs)
            answer: Shard | Exception
            try:
                [answer] = write_shards(Journal(out), [job], THREADS)
            except Exception as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    main()
