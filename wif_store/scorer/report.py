"""Results as tables: what a terminal shows, and what is left to ``results.md``."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Final

from wif_store.scorer.paper import beside, figure1
from wif_store.scorer.results import CONFIDENCE, Baseline, Comparison, Curve, Results, TaskResult
from wif_store.scorer.steering_report import doses, effects
from wif_store.scorer.tables import Section, as_p, as_percent, as_range, folded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.scorer.stats import Auroc


FEW: Final = 50
"""Test examples under which an AUROC shows nothing."""


def sections(results: Results, *, paper: bool = False) -> list[Section]:
    """Lay the results out, the headline first."""
    found = [_headline(results), *_layers(results)]
    if results.steering:
        found += [effects(results), doses(results)]
    if results.between:
        found.append(_between(results))
    found += [_worth(results), *_cross_task(results), _measures(results)]
    if paper:
        found.append(_paper(results))
    found += [*(_detail(results, task) for task in results.tasks), _repeat(results)]
    return [folded(part) for part in found]


def verdict(results: Results, task: TaskResult, curve: Curve) -> str:
    """Say in one sentence whether a probe beats the model's own confidence."""
    test = curve.against(CONFIDENCE)
    baseline = task.baseline(CONFIDENCE).test.value
    at = "" if curve.best.layer is None else f" at layer {curve.best.layer}"
    return (
        f"{task.task}: {curve.probe}{at} {test.verdict(results.confidence)} the model's own confidence "
        f"({curve.best.test.value:.3f} against {baseline:.3f}, {_difference(test)}, p {as_p(test.p_holm)})."
    )


def _headline(results: Results) -> Section:
    header = ["task", "method", "layer", "validation", "test AUROC", f"{as_percent(results)} interval"]
    header += ["seeds, mean ± SD", "vs chance, p", "vs confidence", "p"]
    if drawn := any(curve.bootstrap for task in results.tasks for curve in task.curves):
        header.append("bootstrap")
    rows, remarks = [], []
    for task in results.tasks:
        for curve in task.curves:
            best, chance, margin = curve.best, curve.against("chance"), curve.against(CONFIDENCE)
            layer = "" if best.layer is None else str(best.layer)
            validation = "" if best.validation_auroc is None else f"{best.validation_auroc:.3f}"
            row = [task.task, curve.probe, layer, validation, *_auroc(best.test), _seeds(best.seed_aurocs)]
            row += [as_p(chance.p_holm), f"{margin.difference:+.3f}", as_p(margin.p_holm)]
            rows.append(row + ([as_range(*curve.bootstrap)] if curve.bootstrap else []))
            if curve.shuffled:
                rows.append(
                    [task.task, f"{curve.probe}, shuffled labels", layer, "", *_auroc(curve.shuffled)]
                )
            remarks.append(verdict(results, task, curve))
            remarks += _reconstruction(task, curve)
        rows += [
            [task.task, held.title, "", *_validation(held), *_auroc(held.test)] for held in task.baselines
        ]
    rows = [row + [""] * (len(header) - len(row)) for row in rows]
    remarks += [
        "Layer and C are chosen on validation; intervals: DeLong's over test examples, on the logit scale.",
        f"p: DeLong's paired test, Holm-corrected over these rows; verdicts at {1 - results.confidence:.3g}.",
        *_few(results),
        *_notes(results),
    ]
    if any(curve.reads is None for task in results.tasks for curve in task.curves):
        remarks.append("Predictions: a higher score is read as: success is likelier.")
    if drawn:
        remarks.append("The bootstrap resamples each class of the test split.")
    return Section("Test AUROC at the layer chosen on validation", header, rows, remarks)


def _reconstruction(task: TaskResult, curve: Curve) -> Iterator[str]:
    """Say how well the autoencoder of a probe gives back the residuals, if it has one."""
    settings = curve.best.settings or {}
    if "variance_explained" in settings:
        yield (
            f"{task.task}: the SAE of {curve.probe} at layer {curve.best.layer} has {settings['features']} "
            f"features and gives back {settings['variance_explained']:.3f} of the variance of train."
        )


def _few(results: Results) -> list[str]:
    """Say of tasks with few test examples that they show nothing."""
    few = [f"{t.task} has {t.examples['test']}" for t in results.tasks if t.examples["test"] < FEW]
    return [f"Under {FEW} test examples an AUROC shows nothing: {', '.join(few)}."] if few else []


def _layers(results: Results) -> Iterator[Section]:
    """Lay out every layer, a table for each probe and a column for each task."""
    base = max(_layer_base(task) for task in results.tasks)
    for probe in dict.fromkeys(curve.probe for task in results.tasks for curve in task.curves):
        curves = [curve for task in results.tasks for curve in task.curves if curve.probe == probe]
        rows = []
        for layer in sorted({p.layer for curve in curves for p in curve.points if p.layer is not None}):
            cells = [next((p for p in curve.points if p.layer == layer), None) for curve in curves]
            marks = ["*" if cell is curve.best else "" for cell, curve in zip(cells, curves, strict=True)]
            shown = [f"{c.test.value:.3f}{m}" if c else "" for c, m in zip(cells, marks, strict=True)]
            rows.append([str(layer + base), *shown])
        if rows:
            header = ["layer", *(task.task for task in results.tasks)]
            remarks = ["* chosen on validation"]
            if base:
                remarks.append(
                    f"This protocol counts layers from {base}: its layer L is layer L-{base} of the store."
                )
            yield Section(f"Test AUROC of {probe} by layer", header, rows, remarks)


def _between(results: Results) -> Section:
    rows = [
        [b.task, b.first, b.second, f"{b.difference:+.3f}", as_range(b.low, b.high, "+"), as_p(b.p_holm)]
        for b in results.between
    ]
    header = ["task", "method", "against", "difference", f"{as_percent(results)} interval", "p"]
    remarks = ["Difference of test AUROCs, interval and p: DeLong's, paired. p: Holm-corrected."]
    return Section("Method against method, each at its chosen layer", header, rows, remarks)


def _worth(results: Results) -> Section:
    """Lay out what the scores are worth beyond their ranking."""
    rows = []
    for task in results.tasks:
        held = [(curve.probe, curve.calibration) for curve in task.curves]
        held += [(one.title, one.calibration) for one in task.baselines]
        for name, worth in held:
            if worth is None:
                continue
            most_trusted = next(risk for coverage, risk in worth.risk_coverage if coverage >= 0.2)
            numbers = ["" if n is None else f"{n:.3f}" for n in (worth.brier, worth.ece)]
            rows.append([task.task, name, *numbers, f"{worth.aurc:.3f}", f"{most_trusted:.3f}"])
    header = ["task", "method", "Brier", "ECE", "AURC", "failures in the most trusted fifth"]
    remarks = [
        "Scores become probabilities by a logistic curve on validation; predictions are taken as they are.",
        "Without knowledge: Brier 0.250, AURC 0.500, and half of every part are failures.",
    ]
    return Section("Calibration, and what abstaining gains", header, rows, remarks)


def _measures(results: Results) -> Section:
    """Lay out every measure of the model's confidence."""
    rows = [
        [task.task, held.name, *_validation(held), *_auroc(held.test)]
        for task in results.tasks
        for held in task.measures
    ]
    header = ["task", "measure", "validation", "test AUROC", f"{as_percent(results)} interval"]
    remarks = ["Confidence, as the other tables have it, is the measure that is best on validation."]
    return Section("What the model says of itself", header, rows, remarks, detail=True)


def _cross_task(results: Results) -> Iterator[Section]:
    for table in results.cross_task:
        rows = []
        for trained in table.tasks:
            cells = [table.cell(trained, tested) for tested in table.tasks]
            shown = [" ".join(_auroc(cell.test)) for cell in cells]
            rows.append([trained, str(cells[0].layer), *shown])
        header = ["trained on", "layer", *(f"on {task}" for task in table.tasks)]
        beaten = [c for c in table.cells if c.train_task != c.test_task and c.p_holm < 1 - results.confidence]
        named = ", ".join(f"{c.train_task} to {c.test_task} ({c.test.value:.3f})" for c in beaten) or "none"
        remark = f"Away from the diagonal, different from 0.5 after Holm's correction: {named}."
        yield Section(
            f"{table.probe} trained on one task and tested on another, test AUROC", header, rows, [remark]
        )


def _paper(results: Results) -> Section:
    held = figure1()
    rows = []
    for one in beside(results):
        absent = "not scored" if one.probe is None else "no such layer"
        ours = absent if one.ours is None else " ".join(_auroc(one.ours))
        rows.append(
            [one.task, str(one.paper_layer), str(one.layer), f"{one.paper:.3f}", one.probe or "", ours]
        )
    models = ", ".join(dict.fromkeys(task.model for task in results.tasks))
    remarks = [
        f"Paper: {held['source']}. Model: {held['model']}, {held['test_examples']} test examples.",
        f"Ours: {models}. Of another model a layer of the same number is not the same depth.",
    ]
    header = ["task", "paper's layer", "layer", "paper", "our probe", "ours"]
    return Section("Beside the paper's Figure 1", header, rows, remarks)


def _detail(results: Results, task: TaskResult) -> Section:
    header = ["probe", "layer", "validation", "test AUROC", f"{as_percent(results)} interval"]
    header += ["seeds, mean ± SD", "chosen", "vs chance, p", "vs confidence", "p"]
    rows = []
    for curve in task.curves:
        for point in curve.points:
            chance, margin = point.comparisons[0], point.comparisons[1]
            chosen = ", ".join(f"{key}={value}" for key, value in (point.settings or {}).items())
            layer = "" if point.layer is None else str(point.layer)
            validation = "" if point.validation_auroc is None else f"{point.validation_auroc:.3f}"
            row = [curve.probe, layer, validation, *_auroc(point.test), _seeds(point.seed_aurocs), chosen]
            rows.append([*row, as_p(chance.p_holm), f"{margin.difference:+.3f}", as_p(margin.p_holm)])
    sizes = ", ".join(f"{count} {split}" for split, count in task.examples.items())
    remarks = [f"{sizes} examples", "p are Holm-corrected over all layers and tasks."]
    return Section(f"Every layer of {task.task}", header, rows, remarks, detail=True)


def _repeat(results: Results) -> Section:
    rows = [
        [t.task, t.model, str(t.store["protocol"].get("name", "")), t.store["manifest_sha256"]]
        for t in results.tasks
    ]
    remarks = [f"{name} {number}" for name, number in results.versions.items()]
    remarks.append(f"settings: {json.dumps(dict(results.settings))}")
    header = ["task", "model", "protocol", "manifest, SHA-256 of its canonical JSON"]
    return Section("To repeat this", header, rows, remarks, detail=True)


def _notes(results: Results) -> list[str]:
    """Gather what the fits had to say, each thing once, with the tasks and at how many layers."""
    said: dict[str, Counter[str]] = {}
    for task in results.tasks:
        for curve in task.curves:
            for point in curve.points:
                for note in point.notes:
                    said.setdefault(f"{curve.probe}: {note}", Counter())[task.task] += 1
    return [f"{note} ({_counted(tasks)})" for note, tasks in said.items()]


def _counted(tasks: Counter[str]) -> str:
    return ", ".join(task if count == 1 else f"{task} at {count} layers" for task, count in tasks.items())


def _layer_base(task: TaskResult) -> int:
    """Return the number by which the task's protocol calls the first decoder layer."""
    base = task.store["protocol"].get("layer_base", 0)
    return base if type(base) is int and base >= 0 else 0


def _auroc(measured: Auroc) -> tuple[str, str]:
    return f"{measured.value:.3f}", as_range(measured.low, measured.high)


def _difference(test: Comparison) -> str:
    return f"{test.difference:+.3f} {as_range(test.low, test.high, '+')}"


def _validation(baseline: Baseline) -> list[str]:
    found = (baseline.settings or {}).get("validation_auroc")
    return ["" if found is None else f"{found:.3f}"]


def _seeds(aurocs: Sequence[float]) -> str:
    if len(aurocs) < 2:
        return ""
    return f"{statistics.fmean(aurocs):.3f} ± {statistics.stdev(aurocs):.3f} ({len(aurocs)})"
