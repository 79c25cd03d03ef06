"""Score probes, or anyone's predictions, against the success labels of stores.

The order of work is the argument of the whole thing: fit on train, choose ``C`` and layer on
validation, measure the test split once, then compare what was measured, all at once, so that every
correction sees its whole family.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, cast

import numpy as np

from wif_store.errors import ScoreError
from wif_store.format.layers import parse_layers
from wif_store.format.schema import SPLITS
from wif_store.scorer.baselines import BASELINES
from wif_store.scorer.cross_task import cross_task_table
from wif_store.scorer.features import Store, labels
from wif_store.scorer.fitting import LayerFit, fit_layers, pick_layers, read_layer, shuffled_control
from wif_store.scorer.predictions import Predictions, read_predictions, split_by_store
from wif_store.scorer.probes import Probe, find_probe
from wif_store.scorer.provenance import describe_store, package_versions
from wif_store.scorer.results import (
    CHANCE,
    Baseline,
    Between,
    Comparison,
    Curve,
    Point,
    Results,
    TaskResult,
)
from wif_store.scorer.stats import Floats, Placements, bootstrap, holm, interval, paired_test, placements

Probes = str | Probe | object | Sequence[str | Probe | object]

_UPSIDE_DOWN = "ranks failures above successes; a higher score must mean that success is likelier"


@dataclass(slots=True)
class _Measured:
    """One curve before its comparisons: the record it will be, and the placements of its points."""

    task: int
    curve: Curve
    points: list[Placements]
    scores: list[Floats]


@dataclass(slots=True)
class _Run:
    """Everything measured so far."""

    stores: list[Store]
    confidence: float
    baselines: list[dict[str, tuple[Placements, Mapping[str, Any]]]] = field(default_factory=list)
    curves: list[_Measured] = field(default_factory=list)


def score(
    stores: Store | Sequence[Store],
    probe: Probes | None = "logistic",
    layers: str | Iterable[int] | None = None,
    seeds: int = 1,
    confidence: float = 0.999,
    *,
    predictions: Predictions | Sequence[Predictions] = (),
    bootstrap_draws: int = 0,
    cross_task: bool = False,
) -> Results:
    """Fit probes to every layer of every store and measure their test AUROC.

    Args:
        stores: one store a task.
        probe: a name of :data:`wif_store.scorer.probes.PROBES`, ``module:factory``, a scikit-learn
            estimator or a factory of one; or several of these; None for none.
        layers: 0-based decoder layers, as numbers or as a text such as ``0,4,9-12``; all that the store
            holds, if not given.
        seeds: how many times to fit; see :class:`wif_store.scorer.results.Point`.
        confidence: of the intervals; ``1 - confidence`` is the level of every verdict.
        predictions: scores that were computed elsewhere, as :func:`evaluate` takes them, to be compared
            with the probes.
        bootstrap_draws: resamples for a bootstrap interval of each chosen point; 0 for none.
        cross_task: also train on each task and test on each other.

    Returns:
        A record of every curve, baseline and comparison.

    Raises:
        ScoreError: naming probe, layer and task, if something cannot be scored.
        LayersError: if ``layers`` names no layers.

    Example::

        results = wif_store.score(wif_store.open_store("winogrande.zarr"), layers="4,9,14")
        results.task("winogrande").curves[0].best.test.value
    """
    run = _start(stores, confidence, bootstrap_draws, seeds)
    probes = [] if probe is None else _find_probes(probe)
    wanted = _layers(layers, run.stores)
    chosen_layers = [[pick_layers(store, one, wanted) for one in probes] for store in run.stores]
    _add_predictions(run, predictions, None)
    if not probes and not run.curves:
        msg = "there is nothing to score; give a probe or predictions"
        raise ScoreError(msg)
    for number, store in enumerate(run.stores):
        for one, asked in zip(probes, chosen_layers[number], strict=True):
            fits = fit_layers(store, one, asked, seeds)
            run.curves.append(_curve(number, store, one, fits, confidence))
    tables = []
    for one in probes if cross_task else ():
        curves = [measured.curve for measured in run.curves if measured.curve.probe == one.name]
        tables.append(cross_task_table(run.stores, curves, one, confidence))
    named = dict.fromkeys(measured.curve.probe for measured in run.curves if measured.curve.reads is None)
    settings: dict[str, Any] = {
        "probes": [one.name for one in probes],
        "predictions": list(named),
        "layers": wanted,
        "seeds": seeds,
    }
    return replace(_finish(run, settings, bootstrap_draws), cross_task=tuple(tables))


def evaluate(
    predictions: Predictions | Sequence[Predictions],
    stores: Store | Sequence[Store],
    confidence: float = 0.999,
    *,
    name: str | None = None,
    bootstrap_draws: int = 0,
) -> Results:
    """Measure someone's scores for the test examples just as a probe's.

    Args:
        predictions: a file, a mapping of example id to score, or a pandas Series by id; or several of these.
            A higher score must mean that success is likelier. Exactly the test ids of the stores, each once.
        stores: one store a task.
        confidence: of the intervals; ``1 - confidence`` is the level of every verdict.
        name: what to call the method, where there is one; the file's name if not given.
        bootstrap_draws: resamples for a bootstrap interval; 0 for none.

    Returns:
        The same record as :func:`score` gives.

    Raises:
        ScoreError: if ids are missing, unknown, of another split or given twice, or scores are not
            finite numbers that rank.

    Example::

        scores = {example.id: example.choice.margin for example in store.examples("test")}
        results = wif_store.evaluate(scores, store)
    """
    run = _start(stores, confidence, bootstrap_draws, 1)
    _add_predictions(run, predictions, name)
    named = dict.fromkeys(measured.curve.probe for measured in run.curves)
    return _finish(run, {"predictions": list(named)}, bootstrap_draws)


def _layers(layers: str | Iterable[int] | None, stores: Sequence[Store]) -> tuple[int, ...] | None:
    if layers is None or not isinstance(layers, str):
        return None if layers is None else tuple(layers)
    held = {layer for store in stores for layer in (*store.layers, *store.sequence_layers)}
    return None if layers == "all" else parse_layers(layers, sorted(held))


def _add_predictions(run: _Run, predictions: Predictions | Sequence[Predictions], name: str | None) -> None:
    """Measure scores that were computed elsewhere; each is a curve of one point."""
    several: Sequence[Predictions] = (
        predictions if isinstance(predictions, list | tuple) else [cast("Predictions", predictions)]
    )
    names: list[str] = []
    for one in several:
        found, scores = read_predictions(one)
        method = name or found
        if method in names:
            msg = f"predictions {method!r} are given twice; give each file a name of its own"
            raise ScoreError(msg)
        names.append(method)
        parts = split_by_store(scores, run.stores, method)
        for number, (store, part) in enumerate(zip(run.stores, parts, strict=True)):
            measured = placements(labels(store, "test"), part.scores)
            test = interval(measured, run.confidence)
            notes = part.notes if test.high >= 0.5 else (*part.notes, _UPSIDE_DOWN)
            curve = Curve(method, None, (Point(None, test, notes=notes),), 0)
            run.curves.append(_Measured(number, curve, [measured], [part.scores]))


def _start(stores: Store | Sequence[Store], confidence: float, draws: int, seeds: int) -> _Run:
    held: list[Store] = list(stores) if isinstance(stores, Sequence) else [stores]
    if not held:
        msg = "there is no store to score; give at least one"
        raise ScoreError(msg)
    if not 0.5 <= confidence < 1.0:
        msg = f"confidence is {confidence:g}; expected a share from 0.5 to below 1, such as 0.999"
        raise ScoreError(msg)
    if 0 < draws < (least := round(10.0 / (1.0 - confidence))) or draws < 0:
        msg = f"{draws} bootstrap draws cannot show a {confidence:.1%} interval; give at least {least}"
        raise ScoreError(msg)
    if seeds < 1:
        msg = f"seeds is {seeds}; expected at least 1"
        raise ScoreError(msg)
    names = [store.task for store in held]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"task {twice[0]!r} is given by more than one store; score one model and protocol at a time"
        raise ScoreError(msg)
    run = _Run(held, confidence)
    for store in held:
        for split in SPLITS:
            labels(store, split)
        truth = labels(store, "test")
        scored = {name: baseline(store) for name, baseline in BASELINES.items()}
        run.baselines.append({name: (placements(truth, s), chosen) for name, (s, chosen) in scored.items()})
    return run


def _find_probes(probe: Probes) -> list[Probe]:
    several = probe if isinstance(probe, Sequence) and not isinstance(probe, str) else [probe]
    found = [find_probe(one) for one in several]
    if len({one.name for one in found}) < len(found):
        msg = f"the same probe is asked for twice: {', '.join(one.name for one in found)}"
        raise ScoreError(msg)
    return found


def _curve(number: int, store: Store, probe: Probe, fits: list[LayerFit], confidence: float) -> _Measured:
    chosen = int(np.argmax([fit.validation_auroc for fit in fits]))
    control = shuffled_control(probe, read_layer(store, probe, fits[chosen].layer))
    points = tuple(
        Point(
            fit.layer,
            interval(fit.test, confidence),
            fit.validation_auroc,
            fit.seed_aurocs,
            fit.settings,
            notes=fit.notes,
        )
        for fit in fits
    )
    curve = Curve(probe.name, probe.reads, points, chosen, shuffled=interval(control, confidence))
    return _Measured(number, curve, [fit.test for fit in fits], [fit.scores for fit in fits])


def _finish(run: _Run, settings: Mapping[str, Any], draws: int) -> Results:
    """Compare everything with everything it is read against, and put the records together."""
    everywhere = iter(_compare(run, [(m.task, p) for m in run.curves for p in m.points]))
    heads = _compare(run, [(m.task, m.points[m.curve.chosen]) for m in run.curves])
    curves: list[list[Curve]] = [[] for _ in run.stores]
    for measured, head in zip(run.curves, heads, strict=True):
        points = tuple(replace(point, comparisons=next(everywhere)) for point in measured.curve.points)
        drawn = None
        if draws:
            truth = labels(run.stores[measured.task], "test")
            drawn = bootstrap(truth, measured.scores[measured.curve.chosen], draws, run.confidence)
        curve = replace(measured.curve, points=points, comparisons=head, bootstrap=drawn)
        curves[measured.task].append(curve)
    tasks = tuple(
        TaskResult(
            store.task,
            describe_store(store),
            {split: len(labels(store, split)) for split in SPLITS},
            tuple(Baseline(name, interval(p, run.confidence), how) for name, (p, how) in baselines.items()),
            tuple(found),
        )
        for store, baselines, found in zip(run.stores, run.baselines, curves, strict=True)
    )
    return Results(run.confidence, {**settings, "bootstrap": draws}, package_versions(), tasks, _between(run))


def _compare(run: _Run, family: list[tuple[int, Placements]]) -> list[tuple[Comparison, ...]]:
    """Compare each of a family of points with chance and the baselines of its task; Holm over the family."""
    columns = []
    for name in (CHANCE, *BASELINES):
        if name == CHANCE:
            tests = [(p.auroc - 0.5, interval(p, run.confidence).p_chance) for _, p in family]
        else:
            tests = [paired_test(p, run.baselines[task][name][0]) for task, p in family]
        adjusted = holm([p for _, p in tests])
        columns.append([Comparison(name, d, p, a) for (d, p), a in zip(tests, adjusted, strict=True)])
    return list(zip(*columns, strict=True))


def _between(run: _Run) -> tuple[Between, ...]:
    """Compare the probes with each other, task by task, each at its chosen layer."""
    pairs = [(a, b) for a, b in combinations(run.curves, 2) if a.task == b.task]
    tests = [paired_test(a.points[a.curve.chosen], b.points[b.curve.chosen]) for a, b in pairs]
    adjusted = holm([p for _, p in tests])
    return tuple(
        Between(run.stores[a.task].task, a.curve.probe, b.curve.probe, difference, p, p_holm)
        for (a, b), (difference, p), p_holm in zip(pairs, tests, adjusted, strict=True)
    )
