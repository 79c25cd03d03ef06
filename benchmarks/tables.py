"""What a benchmark prints and keeps: what it is doing, Markdown tables, and the same figures as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSIONS = ("wif-store", "torch", "transformers", "numpy", "zarr", "numcodecs")
EVERY = 15.0
"""Seconds between two lines of progress."""


def say(text: str) -> None:
    """Tell whoever waits what is going on."""
    print(text, file=sys.stderr, flush=True)


class Working:
    """Says every 15 seconds what is being done, for as long as its ``with`` block lasts.

    Attributes:
        note: What there is to say beside that.
    """

    def __init__(self, what: str, note: str = "") -> None:
        self.what, self.note = what, note
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Working:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _tell(self) -> None:
        while not self._done.wait(EVERY):
            note = f"; {self.note}" if self.note else ""
            say(f"  {self.what}: {time.monotonic() - self._started:.0f} s{note}")


def line(cells: Iterable[object]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(map(show, cells)) + " |"


def head(columns: Iterable[object]) -> str:
    """The row of names and the rule below it."""
    names = list(columns)
    return line(names) + "\n" + "|---" * len(names) + "|"


def show(value: object) -> str:
    """A cell as it is printed: three figures of a number; a figure that was not taken is said to be so."""
    if value is None:
        return "not run"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Table:
    """A table that is printed row by row, as the figures come."""

    def __init__(self, title: str, *columns: str) -> None:
        self.title, self.columns = title, columns
        self.rows: list[dict[str, Any]] = []
        print(f"\n**{title}**\n\n{head(columns)}", flush=True)

    def add(self, *values: Any) -> None:
        """Print a row and keep it; None is a figure that was not taken."""
        self.rows.append(dict(zip(self.columns, values, strict=True)))
        print(line(values), flush=True)


def machine() -> dict[str, Any]:
    """What the figures were taken on, and how busy it was."""
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((n.partition(":")[2].strip() for n in names if n.startswith("model name")), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def write_json(path: Path | None, tables: Iterable[Table], **settings: Any) -> None:
    """Write what was printed, if anyone wants it."""
    if path is not None:
        figures = {table.title: table.rows for table in tables}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **settings, "tables": figures}, indent=1) + "\n")
