"""Score probes, or anyone's predictions, against the success labels of stores.

Probes are fitted on train. ``C`` and the layer are chosen on validation. The test split is measured once.
Comparisons come last and all at once, because Holm's correction needs every p-value of its family.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, cast

import numpy as np

from wif_store.errors import LayersError, ScoreError
from wif_store.format.layers import parse_layers
from wif_store.format.schema import FINAL_TOKEN, SPLITS
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
from wif_store.scorer.sites import at_site
from wif_store.scorer.stats import Floats, Placements, bootstrap, holm, interval, paired_test, placements

Probes = str | Probe | object | Sequence[str | Probe | object]

_UPSIDE_DOWN = "ranks failures above successes; a higher score must mean that success is likelier"


@dataclass(slots=True)
class _Measured:
    """One curve before its comparisons, with the placements and scores of its points."""

    task: int
    curve: Curve
    points: list[Placements]
    scores: list[Floats]


@dataclass(slots=True)
class _Run:
    """Everything measured so far."""

    stores: list[Store]
    confidence: float
    described: list[dict[str, Any]]
    baselines: list[dict[str, tuple[Placements, Mapping[str, Any]]]] = field(default_factory=list)
    curves: list[_Measured] = field(default_factory=list)


def score(
    stores: Store | Sequence[Store],
    probe: Probes | None = "logistic",
    layers: str | int | Iterable[int] | None = None,
    seeds: int = 1,
    confidence: float = 0.999,
    *,
    predictions: Predictions | Sequence[Predictions] = (),
    site: str = FINAL_TOKEN,
    bootstrap_draws: int = 0,
    cross_task: bool = False,
) -> Results:
    """Fit probes to every layer of every store and measure their test AUROC.

    Args:
        stores: one store a task.
        probe: a name of :data:`wif_store.scorer.probes.PROBES`, ``module:factory``, a scikit-learn
            estimator or a factory of one; or several of these; None for none.
        layers: 0-based decoder layers, as numbers or as a text such as ``0,4,9-12``; if not given, all that
            a store holds of what the probe reads.
        seeds: how many times to fit. Each time after the first, train and validation are divided anew by
            groups, and the estimator is seeded anew; the test split stays.
        confidence: of the intervals; ``1 - confidence`` is the level of every verdict.
        predictions: scores that were computed elsewhere, as :func:`evaluate` takes them, to be compared
            with the probes.
        site: where residuals are read: ``final_token``, ``prompt_end`` or a share of the answer, such as
            ``0.5``. Sequences end there too.
        bootstrap_draws: resamples for a bootstrap interval of each chosen point; 0 for none.
        cross_task: also train on each task and test on each other.

    Returns:
        The AUROC of every probe at every layer on the test split, with intervals, baselines and comparisons.

    Raises:
        ScoreError: naming probe, layer and task, if something cannot be scored.
        LayersError: if ``layers`` names no layers, or one that no store has.

    Example::

        results = wif_store.score(wif_store.open_store("winogrande.zarr"), layers="4,9,14")
        results.task("winogrande").curves[0].best.test.value
    """
    run = _start(stores, confidence, bootstrap_draws, seeds)
    run.stores[:] = [at_site(store, site) for store in run.stores]
    probes = [] if probe is None else _find_probes(probe)
    wanted = _layers(layers, run.stores)
    chosen_layers = [[pick_layers(store, one, wanted) for one in probes] for store in run.stores]
    named = _add_predictions(run, predictions, None, [one.name for one in probes])
    if not probes and not named:
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
    settings: dict[str, Any] = {
        "probes": [one.name for one in probes],
        "predictions": named,
        "layers": wanted,
        "site": site,
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
        predictions: a file with the columns ``id`` and ``score`` (.csv, .tsv, .json, .jsonl or .parquet), a
            mapping of example id to score, or a pandas Series whose index is the id; or several of these. A
            higher score must mean that success is likelier. Exactly the test ids of the stores, each once.
        stores: one store a task.
        confidence: of the intervals; ``1 - confidence`` is the level of every verdict.
        name: what to call the method, where there is only one; if not given, the name of the file or Series.
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
    named = _add_predictions(run, predictions, name, [])
    if not named:
        msg = "there are no predictions to evaluate; give a file, or a mapping of example id to score"
        raise ScoreError(msg)
    return _finish(run, {"predictions": named}, bootstrap_draws)


def _layers(layers: str | int | Iterable[int] | None, stores: Sequence[Store]) -> tuple[int, ...] | None:
    """Return the layers asked for; None for all. A text is read against the layers of all the stores."""
    if layers is None:
        return None
    if isinstance(layers, str):
        if layers == "all":
            return None
        held = {layer for store in stores for layer in (*store.layers, *store.sequence_layers)}
        found = parse_layers(layers, sorted(held))
    else:
        given = [layers] if not isinstance(layers, Iterable) else layers
        try:
            found = tuple(map(operator.index, given))
        except TypeError:
            msg = f"layers is {layers!r:.80}; expected 0-based decoder layers, or a text such as 0,4,9-12"
            raise LayersError(msg) from None
    if not found:
        msg = f"layers is {layers!r:.80}, which names none of the layers; expected one at least"
        raise LayersError(msg)
    return found


def _add_predictions(
    run: _Run, predictions: Predictions | Sequence[Predictions], name: str | None, probes: Sequence[str]
) -> list[str]:
    """Measure scores that were computed elsewhere, each as a curve of one point; return their names."""
    several: Sequence[Predictions] = (
        predictions if isinstance(predictions, list | tuple) else [cast("Predictions", predictions)]
    )
    if name is not None and len(several) > 1:
        msg = f"name is {name!r} for {len(several)} predictions; name each by its file, or as a Series"
        raise ScoreError(msg)
    names: list[str] = []
    for number, one in enumerate(several, 1):
        found, scores = read_predictions(one)
        method = name or found or ("predictions" if len(several) == 1 else f"predictions {number}")
        if method in names:
            msg = f"predictions {method!r} are given twice; give each a name of its own"
            raise ScoreError(msg)
        if method in (*probes, *BASELINES, CHANCE):
            msg = f"predictions {method!r} have the name of a probe or baseline; give them another name"
            raise ScoreError(msg)
        names.append(method)
        parts = split_by_store(scores, run.stores, method)
        for number, (store, part) in enumerate(zip(run.stores, parts, strict=True)):
            measured = placements(labels(store, "test"), part.scores)
            test = interval(measured, run.confidence)
            notes = part.notes if test.high >= 0.5 else (*part.notes, _UPSIDE_DOWN)
            curve = Curve(method, None, (Point(None, test, notes=notes),), 0)
            run.curves.append(_Measured(number, curve, [measured], [part.scores]))
    return names


def _start(stores: Store | Sequence[Store], confidence: float, draws: int, seeds: int) -> _Run:
    held: list[Store] = list(stores) if isinstance(stores, Sequence) else [stores]
    if not held:
        msg = "there is no store to score; give at least one"
        raise ScoreError(msg)
    if closed := [store for store in held if not hasattr(store, "read_final_token")]:
        msg = f"stores has {closed[0]!r:.80}; expected what wif_store.open_store gives"
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
    run = _Run(held, confidence, [describe_store(store) for store in held])
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
            described,
            {split: len(labels(store, split)) for split in SPLITS},
            tuple(Baseline(name, interval(p, run.confidence), how) for name, (p, how) in baselines.items()),
            tuple(found),
        )
        for store, described, baselines, found in zip(
            run.stores, run.described, run.baselines, curves, strict=True
        )
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
