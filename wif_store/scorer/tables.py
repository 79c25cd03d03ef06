"""Tables of results: aligned text for a terminal, Markdown for a file, and how numbers stand in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wif_store.scorer.results import Results


@dataclass(frozen=True, slots=True)
class Section:
    """A titled table with remarks under it; ``detail`` is left to the file."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    remarks: Sequence[str] = ()
    detail: bool = False


def folded(part: Section) -> Section:
    """Fold every text to one line: a name with a line break would look like a line of the report."""

    def fold(texts: Sequence[str]) -> list[str]:
        return [" ".join(text.split()) for text in texts]

    [title] = fold([part.title])
    return Section(title, fold(part.header), list(map(fold, part.rows)), fold(part.remarks), part.detail)


def to_text(parts: Iterable[Section]) -> str:
    """Return what a terminal shows."""
    parts_shown = []
    for part in parts:
        if not part.detail:
            parts_shown.append("\n".join([part.title, *_aligned(part), *part.remarks]))
    return "\n\n".join(parts_shown)


def to_markdown(parts: Iterable[Section], command: str | None = None) -> str:
    """Return the content of ``results.md``."""
    lines = ["# Can a probe tell that the model will fail?", ""]
    if command:
        lines += ["```console", f"$ {command}", "```", ""]
    for part in parts:
        lines += [f"## {part.title}", ""]
        if part.rows:
            lines += [_row(part.header), _row(["---"] * len(part.header)), *map(_row, part.rows), ""]
        for remark in part.remarks:
            lines += [f"- {remark}"]
        lines += [""] if part.remarks else []
    return "\n".join(lines)


def as_percent(results: Results) -> str:
    """The confidence of the intervals, as in ``99.9%``."""
    return f"{100 * results.confidence:.6g}%"


def as_range(low: float, high: float, sign: str = "") -> str:
    """An interval, as in ``[0.512, 0.634]``; with a sign of ``+`` each end has one."""
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def as_p(value: float) -> str:
    """A p-value with four digits, or as less than the least of these."""
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _aligned(part: Section) -> list[str]:
    if not part.rows:
        return []
    widths = [max(map(len, column)) for column in zip(part.header, *part.rows, strict=True)]
    lines = [part.header, ["-" * width for width in widths], *part.rows]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
