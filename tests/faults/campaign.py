"""What every row is given: a folder of its own, random numbers, and how much of it is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from pathlib import Path


@dataclass(frozen=True)
class Campaign:
    """How the rows are run.

    Attributes:
        folder: Where they may write.
        rng: Random numbers of a seed.
        short: Whether a little of each is enough.
    """

    folder: Path
    rng: random.Random
    short: bool

    def at(self, name: str) -> Path:
        """A folder of one row."""
        path = self.folder / name
        path.mkdir()
        return path

    def count(self, short: int, full: int) -> int:
        """How many trials there are to be."""
        return short if self.short else full
