"""Everything that a run measured, put together: comparisons, calibration, scores, examples to read.

Comparisons come last and all at once, because Holm's correction needs every p-value of its family.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.format.schema import SPLITS
from wif_store.scorer.baselines import BASELINES, Scored
from wif_store.scorer.calibration import Calibration, as_probabilities, calibration, probabilities_by
from wif_store.scorer.features import Place, Store, labels
from wif_store.scorer.provenance import package_versions
from wif_store.scorer.results import (
    CHANCE,
    Baseline,
    Between,
    Comparison,
    Curve,
    Results,
    TaskResult,
    TaskScores,
    Weights,
)
from wif_store.scorer.shown import shown
from wif_store.scorer.stats import (
    Auroc,
    Difference,
    Floats,
    Placements,
    bootstrap,
    holm,
    interval,
    paired_test,
    placements,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Measured:
    """One curve before its comparisons, with the placements of its points and the scores of each by split."""

    task: int
    curve: Curve
    points: list[Placements]
    scores: list[Mapping[str, Floats]]
    place: Place = None
    weights: list[Weights] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    """Everything measured so far."""

    stores: list[Store]
    confidence: float
    described: list[dict[str, Any]]
    baselines: list[dict[str, tuple[Placements, Scored]]] = field(default_factory=list)
    measures: list[dict[str, Scored]] = field(default_factory=list)
    curves: list[Measured] = field(default_factory=list)


def summarise(run: Run, settings: Mapping[str, Any], draws: int) -> Results:
    """Compare everything with everything it is read against, and put the records together."""
    everywhere = iter(_compare(run, [(m.task, p) for m in run.curves for p in m.points]))
    heads = _compare(run, [(m.task, m.points[m.curve.chosen]) for m in run.curves])
    curves: list[list[Curve]] = [[] for _ in run.stores]
    for measured, head in zip(run.curves, heads, strict=True):
        points = tuple(replace(point, comparisons=next(everywhere)) for point in measured.curve.points)
        store, scores = run.stores[measured.task], measured.scores[measured.curve.chosen]
        drawn = None
        if draws:
            drawn = bootstrap(labels(store, "test"), scores["test"], draws, run.confidence)
        curve = replace(measured.curve, points=points, comparisons=head, bootstrap=drawn)
        curves[measured.task].append(replace(curve, calibration=_worth(store, scores)))
    tasks = tuple(
        TaskResult(
            store.task,
            described,
            {split: len(labels(store, split)) for split in SPLITS},
            tuple(_baseline(run, store, name, one) for name, (_, one) in baselines.items()),
            tuple(found),
            tuple(_baseline(run, store, name, one) for name, one in measures.items()),
        )
        for store, described, baselines, measures, found in zip(
            run.stores, run.described, run.baselines, run.measures, curves, strict=True
        )
    )
    said = tuple(_scores(run, number) for number in range(len(run.stores)))
    return Results(
        run.confidence,
        {**settings, "bootstrap": draws},
        package_versions(),
        tasks,
        _between(run),
        scores=said,
        weights=tuple(one for measured in run.curves for one in measured.weights),
        shown=tuple(
            one
            for store, task, held in zip(run.stores, tasks, said, strict=True)
            for one in shown(store, task, held)
        ),
    )


def _baseline(run: Run, store: Store, name: str, scored: Scored) -> Baseline:
    measured = placements(labels(store, "test"), scored.test)
    by_split = {"validation": scored.validation, "test": scored.test}
    return Baseline(name, interval(measured, run.confidence), scored.settings, _worth(store, by_split))


def _worth(store: Store, scores: Mapping[str, Floats]) -> Calibration:
    """What scores are worth beyond their ranking; probabilities are made on validation, if they are there."""
    chances: Floats | None
    if "validation" in scores:
        chances = probabilities_by((labels(store, "validation"), scores["validation"]), scores["test"])
    else:
        chances = as_probabilities(scores["test"])
    return calibration(labels(store, "test"), scores["test"], chances)


def _scores(run: Run, number: int) -> TaskScores:
    """What every method says of every example of validation and test."""
    store, splits = run.stores[number], ("validation", "test")
    count = {split: len(labels(store, split)) for split in splits}
    found: dict[str, Floats] = {}
    for measured in run.curves:
        if measured.task == number:
            by_split = measured.scores[measured.curve.chosen]
            parts = [by_split.get(split, np.full(count[split], np.nan)) for split in splits]
            found[measured.curve.probe] = np.concatenate(parts)
    for name, (_, scored) in run.baselines[number].items():
        found[name] = np.concatenate([scored.validation, scored.test])
    return TaskScores(
        store.task,
        tuple(id for split in splits for id in store.column("id", split).tolist()),
        tuple(split for split in splits for _ in range(count[split])),
        tuple(int(one) for split in splits for one in labels(store, split)),
        found,
    )


def _compare(run: Run, family: list[tuple[int, Placements]]) -> list[tuple[Comparison, ...]]:
    """Compare each of a family of points with chance and the baselines of its task; Holm over the family."""
    columns = []
    for name in (CHANCE, *BASELINES):
        if name == CHANCE:
            tests = [_from_chance(interval(p, run.confidence)) for _, p in family]
        else:
            tests = [paired_test(p, run.baselines[task][name][0], run.confidence) for task, p in family]
        adjusted = holm([test.p for test in tests])
        columns.append(
            [Comparison(name, t.value, t.low, t.high, t.p, a) for t, a in zip(tests, adjusted, strict=True)]
        )
    return list(zip(*columns, strict=True))


def _from_chance(test: Auroc) -> Difference:
    return Difference(test.value - 0.5, test.low - 0.5, test.high - 0.5, test.p_chance)


def _between(run: Run) -> tuple[Between, ...]:
    """Compare the probes with each other, task by task, each at its chosen layer."""
    pairs = [(a, b) for a, b in combinations(run.curves, 2) if a.task == b.task]
    tests = [
        paired_test(a.points[a.curve.chosen], b.points[b.curve.chosen], run.confidence) for a, b in pairs
    ]
    adjusted = holm([test.p for test in tests])
    return tuple(
        Between(run.stores[a.task].task, a.curve.probe, b.curve.probe, t.value, t.low, t.high, t.p, p_holm)
        for (a, b), t, p_holm in zip(pairs, tests, adjusted, strict=True)
    )
