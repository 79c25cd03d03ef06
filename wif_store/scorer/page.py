"""Results as one HTML page: it needs no network, no server and no file beside it.

The tables and the examples are HTML. A script in the page draws the charts, sorts and filters. Every text
that comes from a store or from a caller is escaped by the template.
"""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import printable
from wif_store.scorer.report import FEW, sections, verdict
from wif_store.scorer.results import CONFIDENCE
from wif_store.scorer.steered import MEANS, RANDOM
from wif_store.scorer.steering_report import steering_verdict
from wif_store.scorer.tables import as_p, as_percent, as_range

if TYPE_CHECKING:
    from wif_store.scorer.calibration import Calibration
    from wif_store.scorer.results import Baseline, Curve, Point, Results, Shown, TaskResult
    from wif_store.scorer.stats import Auroc
    from wif_store.scorer.steered import Steering

PAGES: Final = Path(__file__).with_name("pages")
COLOURS: Final = 8
"""Colours of the style sheet, ``--m0`` to ``--m7``; further methods differ by their dashes."""
DASHES: Final = ("", "7 3", "2 3", "9 3 2 3")
BASELINE_DASHES: Final = ("8 3 2 3", "6 4", "1.5 3", "3 3")
UNIT: Final = "strength, in standard deviations along the direction"
# They change the order in which the text around them is shown.
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def render_page(results: Results) -> str:
    """Return the content of ``report.html``: the same text for the same results.

    Example::

        Path("report.html").write_text(render_page(results), encoding="utf-8")
    """
    tasks = [_task(results, task) for task in results.tasks]
    models = list(dict.fromkeys(task.model for task in results.tasks))
    return render(
        PAGES,
        "report.html.jinja",
        percent=as_percent(results),
        models=[as_name(model) for model in models],
        tasks=tasks,
        charts=[{name: task[name] for name in ("name", "methods", "steered", "unit")} for task in tasks],
        sections=[_section(part) for part in sections(results)],
    )


def render(folder: Path, name: str, **values: Any) -> str:
    """Fill a template of ``folder``, which may include the style sheet of this room."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, PAGES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(values)


def as_name(text: str) -> str:
    r"""A name as a page shows it: on one line, its controls and invisible marks spelled out.

    Example:
        >>> as_name("a\nb\u202e")
        'a b\\u202e'
    """
    return printable(" ".join(text.split()))


def legible(text: str) -> str:
    r"""A long text as a page shows it: lines are kept, and what no reader sees is spelled out.

    Those are control characters, halves of a surrogate pair, and marks that change the direction of text.

    Example:
        >>> legible("one\r\ntwo\x00")
        'one\ntwo\\x00'
    """
    return "".join(ascii(c)[1:-1] if _unseen(c) else c for c in text.replace("\r\n", "\n"))


def _unseen(c: str) -> bool:
    return c in _BIDI or (c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs"))


def _task(results: Results, task: TaskResult) -> dict[str, Any]:
    lead = _lead(task)
    methods = [_curve(curve, number) for number, curve in enumerate(task.curves)]
    methods += [_baseline(held, number) for number, held in enumerate(task.baselines)]
    rows = [_curve_row(results, curve) for curve in task.curves]
    rows += [_baseline_row(held) for held in task.baselines]
    test = task.examples.get("test", 0)
    steering = [one for one in results.steering if one.task == task.task]
    return {
        "name": as_name(task.task),
        "facts": [
            as_name(task.model),
            *(f"{count:,} {as_name(split)}" for split, count in task.examples.items()),
        ],
        "few": f"Under {FEW} test examples an AUROC shows nothing; this task has {test}."
        if test < FEW
        else "",
        "verdict": _verdict(results, task, lead) if lead else None,
        "others": [_verdict(results, task, curve) for curve in task.curves if curve is not lead],
        "methods": methods,
        "rows": rows,
        "layered": any(curve.best.layer is not None for curve in task.curves),
        "calibrated": any(method["risk"] for method in methods),
        "steering": [as_name(steering_verdict(results, one)) for one in steering],
        "steered": [line for one in steering for line in _steered(one)],
        "unit": "share taken out" if any(one.ablate for one in steering) else UNIT,
        "shown": [_shown(one) for one in results.shown if one.task == task.task],
    }


def _steered(one: Steering) -> list[dict[str, Any]]:
    """The lines of a chart of moves: the direction, the difference of means, random directions."""
    lines = []
    for number, method in enumerate((one.method, MEANS, RANDOM)):
        both = zip(one.curve(method, "accuracy"), one.curve(method, "flips"), strict=True)
        points = [
            {"strength": strength, "accuracy": accuracy, "flips": flips}
            for (strength, *accuracy), (_, *flips) in both
        ]
        colour = ("var(--m0)", "var(--m1)", "var(--muted)")[number]
        lines.append({"name": as_name(method), "colour": colour, "dash": DASHES[number], "points": points})
    return lines


def _lead(task: TaskResult) -> Curve | None:
    """The curve that is best on validation; the first where nothing was fitted."""
    return max(task.curves, key=lambda curve: curve.best.validation_auroc or 0.0, default=None)


def _verdict(results: Results, task: TaskResult, curve: Curve) -> dict[str, str]:
    """The verdict in two parts: the claim, and the numbers behind it."""
    said = verdict(results, task, curve).removeprefix(f"{task.task}: ")
    claim, _, numbers = said.rpartition(" (")
    return {
        "claim": as_name(claim) + ".",
        "numbers": as_name(numbers.removesuffix(").")),
        "kind": {"beats": "better", "is worse than": "worse"}.get(
            curve.against(CONFIDENCE).verdict(results.confidence), "level"
        ),
    }


def _curve(curve: Curve, number: int) -> dict[str, Any]:
    return {
        "name": as_name(curve.probe),
        "kind": "method",
        "colour": f"var(--m{number % COLOURS})",
        "dash": DASHES[number // COLOURS % len(DASHES)],
        "points": [_point(point) for point in curve.points],
        "chosen": curve.chosen,
        "risk": _risk(curve.calibration),
    }


def _baseline(held: Baseline, number: int) -> dict[str, Any]:
    return {
        "name": as_name(held.title),
        "kind": "baseline",
        "colour": "var(--ink)" if held.name == CONFIDENCE else "var(--muted)",
        "dash": BASELINE_DASHES[number % len(BASELINE_DASHES)],
        "points": [{"layer": None, **_interval(held.test)}],
        "chosen": 0,
        "risk": _risk(held.calibration),
    }


def _point(point: Point) -> dict[str, Any]:
    return {"layer": point.layer, **_interval(point.test)}


def _interval(test: Auroc) -> dict[str, float | None]:
    return {"value": _number(test.value), "low": _number(test.low), "high": _number(test.high)}


def _risk(worth: Calibration | None) -> list[list[float | None]]:
    pairs = worth.risk_coverage if worth else ()
    return [[_number(coverage), _number(risk)] for coverage, risk in pairs]


def _number(value: float) -> float | None:
    """A number as JSON can hold it."""
    return round(float(value), 6) if math.isfinite(value) else None


def _curve_row(results: Results, curve: Curve) -> list[dict[str, Any]]:
    best, margin = curve.best, curve.against(CONFIDENCE)
    mark = {"beats": "better", "is worse than": "worse"}.get(margin.verdict(results.confidence), "")
    return [
        {"text": as_name(curve.probe), "sort": as_name(curve.probe).casefold()},
        _cell(best.layer, "d"),
        _cell(best.validation_auroc),
        _cell(best.test.value),
        _range(best.test.low, best.test.high),
        {**_cell(margin.difference, "+.3f"), "mark": mark},
        _range(margin.low, margin.high, "+"),
        {**_cell(margin.p_holm), "text": as_p(margin.p_holm)},
        *_worth(curve.calibration),
    ]


def _baseline_row(held: Baseline) -> list[dict[str, Any]]:
    found = (held.settings or {}).get("validation_auroc")
    empty = _cell(None)
    return [
        {"text": as_name(held.title), "sort": as_name(held.title).casefold(), "baseline": True},
        empty,
        _cell(found),
        _cell(held.test.value),
        _range(held.test.low, held.test.high),
        *[empty] * 3,
        *_worth(held.calibration),
    ]


def _worth(worth: Calibration | None) -> list[dict[str, Any]]:
    return [_cell(getattr(worth, name, None)) for name in ("brier", "ece", "aurc")]


def _cell(value: float | None, form: str = ".3f") -> dict[str, Any]:
    if value is None or not math.isfinite(value):
        return {"text": "", "sort": ""}
    return {"text": format(value, form), "sort": repr(value)}


def _range(low: float, high: float, sign: str = "") -> dict[str, Any]:
    """An interval, sorted by its lower end."""
    return {"text": as_range(low, high, sign), "sort": repr(low) if math.isfinite(low) else ""}


def _shown(one: Shown) -> dict[str, Any]:
    return {
        "wrong": one.wrong,
        "method": as_name(one.method),
        "id": as_name(one.id),
        "success": one.success,
        "score": f"{one.score:.4g}",
        "prompt": legible(one.prompt),
        "answer": legible(one.answer),
        "expected": legible(one.expected),
    }


def _section(part: Any) -> dict[str, Any]:
    """A table of ``results.md``."""
    return {
        "title": as_name(part.title),
        "header": [as_name(text) for text in part.header],
        "rows": [[as_name(text) for text in row] for row in part.rows],
        "remarks": [as_name(text) for text in part.remarks],
    }
