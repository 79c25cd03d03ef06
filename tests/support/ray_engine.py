"""Engines for Ray's workers, which open them in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.fake_engine import fake_engine
from wif_store.errors import ModelError


@dataclass(frozen=True)
class Odd:
    """Opens a made-up engine; does what it was told to with the example that comes first in some block.

    A file in ``folder`` notes each block that is begun, whoever begins it.
    """

    folder: str
    slow: float = 0.0
    first_slow: float = 0.0
    kill_at: tuple[int, ...] = ()
    """Of these blocks, by the order they are begun in, the worker is killed in the middle."""
    always: bool = False

    def __call__(self, protocol):
        engine = fake_engine()

        def extract(requests):
            begun = self._note()
            if begun in self.kill_at or self.always:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.slow + (self.first_slow if begun == 0 else 0))
            return engine.extract(requests)

        return replace(engine, extract=extract)

    def _note(self) -> int:
        for number in range(10**6):
            try:
                (Path(self.folder) / f"{number}.begun").touch(exist_ok=False)
            except FileExistsError:
                continue
            return number
        raise AssertionError

    def begun(self) -> int:
        return len(list(Path(self.folder).glob("*.begun")))


def unlike(protocol):
    """Describes a machine of its own in each process."""
    engine = fake_engine()
    return replace(engine, model={**engine.model, "device": f"machine {os.getpid()}"})


def absent(protocol):
    msg = "model made/up cannot be loaded: it is not there"
    raise ModelError(msg)
