"""Other tools, each in a process and an environment of its own (``requirements/peers.txt``).

A peer is a module that can run without wif-store. It gets its job as one line of JSON, loads, and then
runs the job whenever it is sent a line; every answer is a line of JSON with the seconds it took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"


class NotRun(Exception):
    """A peer that could not be run, and why. That says nothing of how fast it is."""


class Peer:
    """A peer that has loaded and is ready to run.

    Raises:
        NotRun: If there is no such environment, or the peer ends with an error in loading or running.
    """

    def __init__(self, python: Path, module: str, job: dict[str, Any]) -> None:
        if not python.exists():
            msg = f"no {python.name} in the peers' environment"
            raise NotRun(msg)
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [python, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            self.loaded = self._ask(json.dumps(job))
        except NotRun:
            self.close()
            raise

    def run(self) -> float:
        """Run the job once: the seconds it took. What the peer found is in ``found``."""
        self.found = self._ask("run")
        return float(self.found["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._said.seek(0)
            lines = self._said.read().strip().splitlines() or ["it ended without a word"]
            raise NotRun(lines[-1][:200])
        found: dict[str, Any] = json.loads(answer)
        return found


def serve(load: Callable[[dict[str, Any]], Callable[[], dict[str, Any]]]) -> None:
    """Be a peer: ``load`` takes the job and returns what runs it."""
    # Whatever a tool prints must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work = load

    def answer(do: Callable[[], Any], name: str) -> Any:
        started = time.perf_counter()
        found = do()
        said = found if isinstance(found, dict) else {}
        print(json.dumps({name: time.perf_counter() - started, **said}), file=answers, flush=True)
        return found

    job = json.loads(sys.stdin.readline())
    run = answer(lambda: work(job), "seconds")
    for _ in sys.stdin:
        answer(run, "seconds")
