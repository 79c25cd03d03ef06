"""What a campaign found, as rows of a table."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.tables import head, line


@dataclass
class Row:
    """One kind of fault: how often it was injected, what came of it, and what a user saw."""

    fault: str
    injected: int = 0
    survived: int = 0
    """Found, refused or resumed, as the fault asks for."""
    lost: int = 0
    """Wrong numbers, wrong bytes, half stores taken for whole, or errors that are not ours."""
    notes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    saw: str = ""

    def good(self, saw: str = "") -> None:
        """Count a fault that did no harm."""
        self.injected += 1
        self.survived += 1
        self.saw = self.saw or saw

    def bad(self, what: str) -> None:
        """Count a fault that did."""
        self.injected += 1
        self.lost += 1
        self.failures.append(what)

    def __str__(self) -> str:
        notes = "; ".join(f"{what} {n}" for what, n in sorted(self.notes.items()))
        # Where the campaign's own folder stood is of no use to a reader.
        saw = re.sub(r"(?<![\w.])(/[\w.-]+)+/", "", self.saw).replace("|", "\\|")
        cells = (self.fault, self.injected, self.survived, self.lost, notes, saw)
        return line(map(str, cells))


HEAD = head(("fault", "injected", "found or resumed", "lost", "of which", "what the user saw"))
