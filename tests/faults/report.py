"""What a row of the campaign found, and its progress while it runs."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

EVERY = 10.0
"""Seconds between two lines of progress."""


@dataclass
class Row:
    """One kind of fault: how often it was injected, what was lost, and what a user saw.

    Attributes:
        fault: What was done.
        wanted: How many trials there are to be.
        lost: Wrong numbers, wrong bytes, half stores taken for finished ones, or errors that are not ours.
    """

    fault: str
    wanted: int = 0
    trials: int = 0
    lost: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    saw: str = ""
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def good(self, saw: str = "") -> None:
        """Count a fault that did no harm."""
        self.trials += 1
        self.saw = self.saw or saw
        self._tell()

    def bad(self, what: str) -> None:
        """Count a fault that did."""
        self.trials += 1
        self.lost += 1
        self.failures.append(what)
        self._tell()

    def joined(self, other: Row) -> Row:
        """Both as one row."""
        row = Row(self.fault.partition(":")[0], self.wanted + other.wanted)
        row.trials, row.lost = self.trials + other.trials, self.lost + other.lost
        row.notes, row.failures = self.notes + other.notes, self.failures + other.failures
        row.saw = self.saw or other.saw
        return row

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self.told < EVERY:
            return
        self.told = now
        left = (now - self.began) / self.trials * max(0, self.wanted - self.trials)
        of = f" of {self.wanted:,}, about {left:.0f} s left" if self.wanted else ""
        print(f"  {self.fault}: {self.trials:,}{of}; {self.lost} lost", file=sys.stderr, flush=True)

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        notes = "; ".join(f"{what} {n:,}" for what, n in sorted(self.notes.items()))
        return (self.fault, f"{self.trials:,}", str(self.lost), notes, self.seen.replace("|", "\\|"))

    @property
    def seen(self) -> str:
        """What a user saw first, without the campaign's own folder, which is of no use to a reader."""
        return re.sub(r"(?<![\w.])(/[\w.-]+)+/", "", self.saw)


COLUMNS = ("fault", "trials", "lost", "of which", "what the user saw")
