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
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from wif_store.errors import BuildError
from wif_store.journal import Journal
from wif_store.shards import Shard, write_shards

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from concurrent.futures import Future

    from wif_store.shards import ShardJob

THREADS: Final = 2
"""Of a helper, to encode chunks."""
READY: Final = b"ready"
"""What a helper says once it has imported everything."""


class Helpers:
    """Helpers, of which one after the other starts and then waits for work; ``end`` them.

    Not all at once: what they import would keep every core from whoever is about to launch a GPU's work.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._all: list[subprocess.Popen[bytes]] = []
        self._free: SimpleQueue[subprocess.Popen[bytes] | OSError] = SimpleQueue()
        self._ending = Event()
        self._starting = Thread(target=self._start, name="helpers", daemon=True)
        self._starting.start()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", __name__]
        pipe = subprocess.PIPE
        while len(self._all) < self._count and not self._ending.is_set():
            try:
                process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
            except OSError as error:
                self._free.put(error)
                return
            self._all.append(process)
            assert process.stdout is not None
            process.stdout.read(len(READY))
            # One that died instead is found out by whoever asks it first.
            self._free.put(process)

    def end(self) -> None:
        """End them: nothing that was given out is under way once ``write`` is closed."""
        self._ending.set()
        self._starting.join()
        for process in self._all:
            process.terminate()
        for process in self._all:
            process.communicate()

    def write(self, out: str, jobs: Iterable[ShardJob]) -> Generator[Shard, None, None]:
        """Write shards of the build at ``out`` as ``write_shards`` does, but several at once.

        Raises:
            BuildError: If a piece is not what was journalled, or a helper died.
        """
        begun: set[Future[Shard]] = set()
        with ThreadPoolExecutor(self._count, thread_name_prefix="helper") as pool:
            for job in jobs:
                if len(begun) == self._count:
                    written, begun = wait(begun, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in written)
                begun.add(pool.submit(self._ask, out, job))
            yield from (future.result() for future in as_completed(begun))

    def _ask(self, out: str, job: ShardJob) -> Shard:
        process = self._free.get()
        if isinstance(process, OSError):
            self._free.put(process)
            msg = f"cannot start a process that writes shards: {process.strerror}; run the same command again"
            raise BuildError(msg)
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
    answers.write(READY)
    answers.flush()
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
