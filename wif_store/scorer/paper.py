"""The published AUROCs of the paper's Figure 1, to be read beside ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.scorer.results import Results
    from wif_store.scorer.stats import Auroc


@dataclass(frozen=True, slots=True)
class Published:
    """One published AUROC with ours at the same decoder layer, where we have it.

    ``paper_layer`` counts from 1, as the paper does; ``layer`` is the 0-based decoder layer
    it is the output of.
    """

    task: str
    paper_layer: int
    layer: int
    paper: float
    probe: str | None
    ours: Auroc | None


def figure1() -> dict[str, Any]:
    """Return the published figures, with their source."""
    text = (files("wif_store.scorer") / "paper_figure1.json").read_text(encoding="utf-8")
    held: dict[str, Any] = json.loads(text)
    return held


def beside(results: Results) -> Iterator[Published]:
    """Yield every published AUROC with ours beside it, one row for each of our probes."""
    ours = {task.task: task.curves for task in results.tasks}
    for task, aurocs in figure1()["test_auroc"].items():
        for curve in ours.get(task, ()) or (None,):
            held = {} if curve is None else {point.layer: point.test for point in curve.points}
            name = None if curve is None else curve.probe
            for number, auroc in aurocs.items():
                layer = int(number) - 1
                yield Published(task, int(number), layer, auroc, name, held.get(layer))
