"""A probe that was trained on one task, tested on another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wif_store.errors import ScoreError
from wif_store.scorer.fitting import each, fit_one, read_place, split_scores
from wif_store.scorer.results import CrossTask, CrossTaskCell, Curve
from wif_store.scorer.stats import holm, interval, placements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.scorer.features import Place, Store
    from wif_store.scorer.probes import Probe


def cross_task_table(
    stores: Sequence[Store],
    curves: Sequence[Curve],
    places: Sequence[Place],
    probe: Probe,
    confidence: float,
) -> CrossTask:
    """Train on each task at its best common layer by validation, and test on every task there.

    Args:
        stores: one a task, of one model.
        curves: the probe's curve on each store, in the same order.
        places: where the probe reads each store, at its chosen point.
        probe: the probe the curves are of.
        confidence: of the intervals.

    Raises:
        ScoreError: if the stores share no layer or differ in width.
    """
    common = set.intersection(*({point.layer for point in curve.points} for curve in curves))
    sizes = sorted({store.d_model for store in stores})
    at_once = probe.reads == "layers"
    if not common or len(sizes) > 1 or (at_once and len(set(places)) > 1):
        why = "have no layer in common" if not common else "have other layers"
        why = f"differ in d_model {sizes}" if len(sizes) > 1 else why
        msg = f"probe {probe.name!r} cannot move between tasks: the stores {why}; score stores of one model"
        raise ScoreError(msg)
    cells = []
    for store, curve, chosen in zip(stores, curves, places, strict=True):
        best = max((p for p in curve.points if p.layer in common), key=lambda p: p.validation_auroc or 0.0)
        place = chosen if at_once else best.layer
        [fitted] = each(probe, lambda data: fit_one(probe, data), [read_place(store, probe, place)])
        for other in stores:
            data = read_place(other, probe, place)
            moved = replace(data, where=f"{data.where}, trained on {store.task!r}")
            scores = split_scores(fitted, moved, constant_ok=True)
            measured = interval(placements(data.labels["test"], scores), confidence)
            cells.append(CrossTaskCell(store.task, other.task, best.layer, measured, p_holm=1.0))
    adjusted = holm([cell.test.p_chance for cell in cells])
    cells = [replace(cell, p_holm=p) for cell, p in zip(cells, adjusted, strict=True)]
    return CrossTask(probe.name, tuple(store.task for store in stores), tuple(cells))
