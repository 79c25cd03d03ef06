"""The picture: test AUROC against layer, one panel a task, with everything it has to beat."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import printable
from wif_store.scorer.baselines import PROMPT_LENGTH, TFIDF
from wif_store.scorer.results import CONFIDENCE
from wif_store.scorer.steered import MEANS, RANDOM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wif_store.scorer.results import Curve, Results, TaskResult

# Lines differ by dash and marker first and by lightness second, so that grey paper keeps them apart.
_MARKERS: Final = "osD^vP"
_SHADES: Final = ("#08306b", "#d6604d", "#1b7837", "#9970ab", "#8c510a", "#35978f")
_DASHES: Final = ("-", (0, (4, 1.5)), (0, (2, 1)), (0, (6, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
# With more probes than this in a panel only the chosen points keep their bars, and no control is drawn.
_BARS_UP_TO: Final = 3
_BASELINES: Final = {
    CONFIDENCE: ("#000000", (0, (6, 2, 1, 2)), 1.6),
    TFIDF: ("#555555", (0, (5, 3)), 1.3),
    PROMPT_LENGTH: ("#777777", (0, (1, 1.6)), 1.5),
}


def draw(results: Results, path: Path) -> None:
    """Draw the results into a PNG."""
    with _own_settings():
        _draw(results, path)


def draw_steering(results: Results, path: Path) -> None:
    """Draw what moves along directions do to accuracy and to answers into a PNG, one row a task."""
    with _own_settings():
        _draw_steering(results, path)


@contextmanager
def _own_settings() -> Iterator[None]:
    """Inside, matplotlib has its own settings.

    It reads a ``matplotlibrc`` of the working folder, which may name programs to run (LaTeX).
    """
    from matplotlib import rc_context, rcdefaults

    with rc_context():
        rcdefaults()
        yield


def _draw(results: Results, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    across = 1 if len(results.tasks) == 1 else 2
    down = -(-len(results.tasks) // across)
    size = (7.2, 5.2) if across == 1 else (10.2, 1.5 + 2.9 * down)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for panel, task in zip(panels, results.tasks, strict=False):
        _panel(panel, task)
    for panel in panels[len(results.tasks) :]:
        panel.set_visible(False)
    for panel in panels[::across]:
        panel.set_ylabel("test AUROC")
    entries: dict[str, Any] = {}
    for panel in panels[: len(results.tasks)]:
        handles, names = panel.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    legend = figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=3 if across == 1 else 4,
        frameon=False,
        title=_caption(results),
        handlelength=3.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path, dpi=160)


def _name(text: str) -> str:
    """Return a name as matplotlib shows it: on one line, and not left out of legends for a leading ``_``."""
    shown = " ".join(printable(text).split())
    return f" {shown}" if shown.startswith("_") else shown


def _caption(results: Results) -> str:
    crowded = any(len(task.curves) > _BARS_UP_TO for task in results.tasks)
    where = ", at the chosen layers" if crowded else ""
    return f"bars and bands: {100 * results.confidence:.6g}% DeLong intervals over test examples{where}"


def _panel(panel: Any, task: TaskResult) -> None:
    panel.axhline(0.5, color="#000000", linewidth=0.8, label="chance")
    for baseline in task.baselines:
        shade, dashes, width = _BASELINES[baseline.name]
        panel.axhline(
            baseline.test.value, color=shade, linestyle=dashes, linewidth=width, label=baseline.name
        )
    for number, curve in enumerate(task.curves):
        _curve(panel, curve, number, len(task.curves))
    panel.set_title(_name(task.task), parse_math=False)
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    if task.curves and all(curve.best.layer is None for curve in task.curves):
        panel.set_xticks(
            range(len(task.curves)), [_name(curve.probe) for curve in task.curves], parse_math=False
        )
        panel.set_xlim(-0.5, len(task.curves) - 0.5)
        return
    panel.set_xlabel("0-based decoder layer")
    panel.xaxis.get_major_locator().set_params(integer=True)


def _curve(panel: Any, curve: Curve, number: int, of: int) -> None:
    """Draw one probe: a band if it is alone, else bars set a little apart."""
    shade, marker = _SHADES[number % len(_SHADES)], _MARKERS[number % len(_MARKERS)]
    shift = 0.0 if of == 1 else 0.5 * (number / (of - 1) - 0.5)
    at = [number if p.layer is None else p.layer + shift for p in curve.points]
    values = [p.test.value for p in curve.points]
    low, high = [p.test.low for p in curve.points], [p.test.high for p in curve.points]
    line = {"color": shade, "linewidth": 1.4, "linestyle": _DASHES[number % len(_DASHES)]}
    line |= {"marker": marker, "markersize": 4.5, "markerfacecolor": "white" if number % 2 else shade}
    if of == 1 and len(at) > 1:
        panel.fill_between(at, low, high, facecolor=(shade, 0.15), edgecolor=(shade, 0.5), linewidth=0.6)
        panel.plot(at, values, label=_name(curve.probe), **line)
    else:
        barred = range(len(at)) if of <= _BARS_UP_TO else [curve.chosen]
        for i in barred:
            panel.plot([at[i]] * 2, [low[i], high[i]], color=shade, linewidth=0.9, marker="_", markersize=4)
        panel.plot(at, values, label=_name(curve.probe), **line)
    x, best = at[curve.chosen], curve.best.test.value
    if curve.best.layer is not None:
        ring = {"markersize": 11, "fillstyle": "none", "color": "black", "linestyle": "none"}
        panel.plot(x, best, "o", label="layer chosen on validation", **ring)
    if curve.shuffled and of <= _BARS_UP_TO:
        panel.plot(
            [x, x], [curve.shuffled.low, curve.shuffled.high], color="black", linewidth=0.9, linestyle=":"
        )
        cross = {"markersize": 7, "color": "black", "markeredgewidth": 1.6, "linestyle": "none"}
        panel.plot(x, curve.shuffled.value, "x", label="same layer, shuffled labels", **cross)


def _draw_steering(results: Results, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = results.steering
    figure = Figure(figsize=(9.6, 0.9 + 2.9 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), one in zip(panels, rows, strict=True):
        for panel, measure in ((left, "accuracy"), (right, "flips")):
            for number, method in enumerate((RANDOM, MEANS, one.method)):
                x, y, low, high = zip(*one.curve(method, measure), strict=True)
                shade = ("#777777", _SHADES[1], _SHADES[0])[number]
                style = {"color": shade, "linestyle": _DASHES[2 - number], "marker": "xso"[number]}
                name = _name(method) if method in (RANDOM, MEANS) else "the direction"
                panel.plot(x, y, label=name, markersize=4.5, **style)
                if method == RANDOM:
                    panel.fill_between(x, low, high, facecolor=(shade, 0.2), linewidth=0)
                else:
                    bars = [[a - b for a, b in zip(y, low, strict=True)]]
                    bars.append([b - a for a, b in zip(y, high, strict=True)])
                    panel.errorbar(x, y, yerr=bars, fmt="none", ecolor=shade, elinewidth=0.9, capsize=3)
            panel.axvline(one.strength, color="#aaaaaa", linewidth=0.7, linestyle=":")
            panel.axvline(-one.strength, color="#aaaaaa", linewidth=0.7, linestyle=":")
            panel.set_ylabel("accuracy" if measure == "accuracy" else "answers changed")
            panel.set_title(_name(f"{one.task}: {one.method}, layer {one.layer}"), parse_math=False)
            panel.grid(axis="y", color="#dddddd", linewidth=0.6)
            panel.set_axisbelow(True)
    for panel in panels[-1]:
        unit = "share taken out" if rows[-1].ablate else "strength, in SD along the direction"
        panel.set_xlabel(unit)
    handles, names = panels[0][0].get_legend_handles_labels()
    caption = (
        f"band and bars: {100 * results.confidence:.6g}% intervals; dotted: chosen on validation, "
        "where controls have the same KL"
    )
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, title=caption)
    figure.savefig(path, dpi=160)
