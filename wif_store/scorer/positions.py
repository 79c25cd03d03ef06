"""How early can failure be seen? AUROCs against the place in the answer where residuals are read."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from wif_store.errors import printable
from wif_store.format.schema import FINAL_TOKEN, PROMPT_END
from wif_store.scorer.tables import Section

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wif_store.scorer.results import Results

ENDS = {PROMPT_END: 0.0, FINAL_TOKEN: 1.0}


def share_of(site: str) -> float:
    """How much of the answer is written at a site, from 0 to 1."""
    return ENDS[site] if site in ENDS else float(Fraction(site))


def positions(every: Mapping[str, Results]) -> Section:
    """A table of the chosen points, site by site."""
    rows = []
    for site in sorted(every, key=share_of):
        for task in every[site].tasks:
            for curve in task.curves:
                test = curve.best.test
                layer = "" if curve.best.layer is None else str(curve.best.layer)
                interval = f"[{test.low:.3f}, {test.high:.3f}]"
                rows.append([task.task, curve.probe, site, layer, f"{test.value:.3f}", interval])
    header = ["task", "method", "read at", "layer", "AUROC", "interval"]
    return Section("How early can failure be seen?", header, rows)


def draw_positions(every: Mapping[str, Results], path: Path) -> None:
    """Draw the chosen points of every probe against the share of the answer that is written, into a PNG."""
    from matplotlib import rc_context, rcdefaults

    with rc_context():
        rcdefaults()
        _draw(every, path)


def _draw(every: Mapping[str, Results], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sites = sorted(every, key=share_of)
    first = every[sites[0]]
    figure = Figure(figsize=(6.8, 1.0 + 3.6 * len(first.tasks)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(first.tasks), 1, squeeze=False).ravel()
    for number, (panel, task) in enumerate(zip(panels, first.tasks, strict=True)):
        panel.axhline(0.5, color="#000000", linewidth=0.8, label="chance")
        for baseline, dashes in zip(task.baselines, ("-.", ":", "--"), strict=False):
            panel.axhline(baseline.test.value, color="#666666", linestyle=dashes, label=baseline.name)
        for index, curve in enumerate(task.curves):
            points = [every[site].tasks[number].curves[index].best.test for site in sites]
            # A little apart, so that no bar hides another.
            shift = 0.012 * (index - (len(task.curves) - 1) / 2)
            at = [share_of(site) + shift for site in sites]
            low = [point.value - point.low for point in points]
            high = [point.high - point.value for point in points]
            style: dict[str, Any] = {"marker": "osD^vP"[index % 6], "capsize": 3, "linewidth": 1.4}
            panel.errorbar(
                at, [p.value for p in points], yerr=[low, high], label=_shown(curve.probe), **style
            )
        panel.set_title(_shown(task.task), parse_math=False)
        panel.set_ylabel("test AUROC")
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panels[-1].set_xlabel("share of the answer that is written (0: the end of the prompt)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=160)


def _shown(text: str) -> str:
    return " ".join(printable(text).split()).lstrip("_") or "_"
