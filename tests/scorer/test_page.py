"""The page of results, in a real browser that must ask for nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from tests.support.browser import browser, opened
from tests.support.memory_store import memory_store
from wif_store.scorer.page import render_page
from wif_store.scorer.results import CONFIDENCE, Shown
from wif_store.scorer.run import evaluate, score
from wif_store.scorer.steered import MEANS, RANDOM, Dose, Effect, Steering, verdict_of

pytestmark = pytest.mark.extras

LINES = "figure[data-chart=layers] svg path.line"
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "\x00\x1b[2J\u202egnp.exe",
    "{{ 7 * 7 }} {% raw %} ]]> <!-- & \" ' \u2028",
)


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def stores():
    return [
        memory_store("boolq", strength=0.5, layers=(3, 4, 9), n=240),
        memory_store("piqa", layers=(3, 4, 9), confidence=4.0, n=240, seed=1),
    ]


@pytest.fixture(scope="module")
def results(stores):
    return score(stores, ["mean-difference", "lda"])


@pytest.fixture
def visit(chromium, tmp_path):
    def visit(found, **settings):
        path = tmp_path / "results.html"
        path.write_text(render_page(found), encoding="utf-8")
        return opened(chromium, path, **settings)

    return visit


def data(page):
    return json.loads(page.locator("#data").text_content())


def first_column(task):
    return task.locator("table.sortable tbody th").all_inner_texts()


def column(task, number):
    return task.locator(f"table.sortable tbody td:nth-child({number})").all_inner_texts()


def shown(task):
    return [
        Shown(task, "lda", wrong, f"{task}-{n}", n % 2, n / 7, f"Prompt {n} of {task}", "yes", "no")
        for n, wrong in enumerate((True, True, True, False, False))
    ]


def steered(task, method="lda"):
    """Made-up effects of moves of three strengths."""
    doses = [
        Dose(m, s, 3.0, 0.5 + s / 20, (0.4, 0.7), abs(s) / 10, (0.0, 0.5), 0.1, 0.1, s * s / 10)
        for m in (method, MEANS, RANDOM)
        for s in (-4.0, -2.0, 2.0, 4.0)
    ]
    effect = Effect(0.4, 0.1, 0.3, 0.1, 0.5, 0.2, 0.21, verdict_of(0.1, 0.5, 200))
    push = (0.1, -0.1, 0.3)
    kept = {"task": task, "method": method, "layer": 4, "at": "all", "ablate": False, "examples": 200}
    found = {"accuracy": 0.5, "differs": 0, "apart": 0, "against_random": effect, "against_means": effect}
    return Steering(
        strength=4.0, spread=2.5, push=push, factors={MEANS: 1.0}, doses=tuple(doses), **kept, **found
    )


@pytest.mark.parametrize("method", ["lda", HOSTILE[1]])
def test_moves_are_drawn_and_can_be_read(method, results, visit):
    with visit(replace(results, steering=(steered("piqa", method),))) as page:
        first, second = page.locator("section.task").all()
        assert first.locator(".steering").count() == 0
        block = second.locator(".steering")
        assert "changes more answers than random directions" in block.inner_text()
        assert [key.strip() for key in block.locator(".key").all_inner_texts()][1:] == [MEANS, RANDOM]
        for chart in ("accuracy", "flips"):
            svg = block.locator(f"figure[data-chart={chart}] svg.chart")
            assert svg.locator("path.line").count() == svg.locator("path.band").count() == 3
            assert "+4" in svg.text_content()
            svg.focus()
            page.keyboard.press("ArrowRight")
            readout = block.locator(f"figure[data-chart={chart}] .readout")
            assert "strength \u22124" in readout.inner_text()
            assert ("0.300" if chart == "accuracy" else "0.400") in readout.inner_text()
        assert page.title() != "owned"


def test_a_page_is_the_same_twice(results, stores):
    assert render_page(results) == render_page(score(stores, ["mean-difference", "lda"]))


def test_every_method_has_a_line_a_row_and_a_verdict(results, visit):
    with visit(results) as page:
        for number, task in enumerate(results.tasks):
            section = page.locator("section.task").nth(number)
            assert section.locator("h2").inner_text() == task.task
            methods = len(task.curves) + len(task.baselines)
            assert section.locator(LINES).count() == methods
            assert section.locator("figure[data-chart=risk] svg path.line").count() == methods
            assert section.locator("figure[data-chart=layers] svg path.band").count() == len(task.curves)
            names = first_column(section)
            assert names[:2] == [curve.probe for curve in task.curves] and len(names) == methods
            assert f"{task.curves[0].best.test.value:.3f}" in section.locator("tbody tr").first.inner_text()
        said = page.locator(".verdict").all_inner_texts()
        assert "beats the model's own confidence." in said[0]
        assert "is worse than the model's own confidence." in said[1]
        page.locator("footer summary").click()
        assert "To repeat this" in page.locator("footer").inner_text()
        assert page.locator("footer").get_by_text("Every layer of piqa").is_visible()


def test_the_values_are_read_by_pointer_and_by_keys(results, visit):
    with visit(results) as page:
        figure = page.locator("figure[data-chart=layers]").first
        chart, readout = figure.locator("svg"), figure.locator(".readout")
        assert readout.is_hidden()
        chart.hover(position={"x": 60, "y": 120})
        assert readout.is_visible() and readout.locator("b").inner_text() == "layer 3"
        page.mouse.move(0, 0)
        assert readout.is_hidden()
        chart.focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        curve = results.tasks[0].curves[0]
        value = curve.points[2].test
        assert readout.locator("b").inner_text() == "layer 9"
        assert f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]" in readout.inner_text()
        page.keyboard.press("Escape")
        assert readout.is_hidden()
        risk = page.locator("figure[data-chart=risk]").first
        risk.locator("svg").focus()
        page.keyboard.press("ArrowRight")
        assert "5% kept" in risk.locator(".readout").inner_text()


def test_methods_are_hidden_and_shown(results, visit):
    with visit(results) as page:
        section = page.locator("section.task").first
        key, line = section.locator(".key").nth(1), section.locator(f"{LINES}[data-method='1']")
        lines = section.locator(LINES).count()
        key.click()
        assert key.get_attribute("aria-pressed") == "false"
        assert line.count() == 0 and section.locator(LINES).count() == lines - 1
        assert page.locator("section.task").nth(1).locator(LINES).count() == lines
        key.press("Enter")
        assert key.get_attribute("aria-pressed") == "true" and line.count() == 1
        for number in range(lines):
            section.locator(".key").nth(number).click()
        assert section.locator(LINES).count() == 0


def test_headers_sort_by_clicks_and_keys(results, visit):
    with visit(results) as page:
        section = page.locator("section.task").first
        head = section.locator("thead th")
        auroc, name, layer = head.nth(3), head.nth(0), head.nth(1)
        auroc.locator("button").click()
        assert auroc.get_attribute("aria-sort") == "descending"
        values = [float(text) for text in column(section, 4)]
        assert values == sorted(values, reverse=True) and len(values) == 5
        auroc.locator("button").press("Enter")
        assert auroc.get_attribute("aria-sort") == "ascending"
        assert [float(text) for text in column(section, 4)] == sorted(values)
        name.locator("button").press(" ")
        assert auroc.get_attribute("aria-sort") is None
        assert first_column(section) == sorted(first_column(section))
        for _ in range(2):
            layer.locator("button").click()
            assert column(section, 2)[2:] == ["", "", ""]  # What has no layer stays below.


def test_examples_are_filtered_and_searched(results, visit):
    found = replace(results, shown=(*shown("boolq"), *shown("piqa")))
    with visit(found) as page:
        block, other = page.locator(".examples").nth(0), page.locator(".examples").nth(1)
        cards = block.locator(".example:visible")
        assert cards.count() == 5 and block.locator(".count").inner_text() == "5 of 5"
        block.get_by_role("button", name="most wrong").click()
        assert cards.count() == 3 and "lda is wrong" in cards.first.inner_text()
        block.get_by_role("button", name="most right").click()
        assert cards.count() == 2
        block.get_by_role("searchbox").fill("prompt 4")
        assert cards.count() == 1 and "Prompt 4 of boolq" in cards.first.inner_text()
        block.get_by_role("searchbox").fill("prompt 0")
        assert cards.count() == 0 and block.locator(".count").inner_text() == "0 of 5"
        block.get_by_role("button", name="all").click()
        assert cards.count() == 1
        assert other.locator(".example:visible").count() == 5


def hostile(task, name):
    curves = (replace(task.curves[0], probe=name), *task.curves[1:])
    store = {**task.store, "model": {"id": name}, "protocol": {"name": name}}
    return replace(task, task=name, curves=curves, store=store, examples={**task.examples, name: 1})


def test_hostile_texts_stay_texts(results, visit):
    tasks = tuple(hostile(results.tasks[0], name) for name in HOSTILE)
    cards = tuple(Shown(n, n, wrong, n, 1, 0.5, n, n, n) for n in HOSTILE for wrong in (True, False))
    versions = dict.fromkeys(HOSTILE, HOSTILE[0])
    with visit(replace(results, tasks=tasks, shown=cards, versions=versions, between=())) as page:
        assert page.locator("img").count() == 0 and page.locator("script").count() == 2
        assert page.locator(LINES).count() == 5 * len(HOSTILE)
        assert page.locator(".example").count() == 2 * len(HOSTILE)
        for number, name in enumerate(HOSTILE):
            section = page.locator("section.task").nth(number)
            assert data(page)[number]["methods"][0]["name"] == first_column(section)[0]
            if name.isprintable():
                assert section.locator("h2").inner_text() == name
                assert section.locator(".example pre").first.inner_text() == name
            section.locator(".key").first.click()
            section.locator("svg.chart").first.focus()
            page.keyboard.press("ArrowRight")
            assert section.locator(".readout").first.is_visible()
        assert not any(control in page.content() for control in "\x00\x1b\u202e")
        assert page.locator("img").count() == 0
        assert page.title() == "Can a probe tell that the model will fail?"


def test_prompts_keep_their_lines(results, visit):
    prompt = "\n  two\r\nlines \u05d0\u200d \x07" + "x" * 5000
    found = replace(results, shown=(Shown("boolq", "lda", True, "a", 0, 1.0, prompt, "yes", "no"),))
    with visit(found, viewport={"width": 390, "height": 800}) as page:
        text = page.locator(".example pre").text_content()
        assert text == "\n  two\nlines \u05d0\u200d \\x07" + "x" * 5000
        assert page.locator(".examples").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_predictions_alone_have_a_page(stores, visit):
    scores = {e.id: e.choice.margin for store in stores for e in store.examples("test")}
    found = replace(evaluate(scores, stores), shown=())
    with visit(found) as page:
        section = page.locator("section.task").first
        assert section.locator(LINES).count() == 4
        assert page.locator(".examples").count() == 0
        page.locator("svg.chart").first.focus()
        page.keyboard.press("ArrowRight")
        assert found.tasks[0].curves[0].probe in page.locator(".readout").first.inner_text()


def test_many_methods_and_numbers_that_are_none(results, visit):
    task = results.tasks[0]
    curve = task.curves[0]
    unknown = replace(curve.best.test, value=math.nan, low=math.nan, high=math.nan)
    many = [replace(curve, probe=f"method {n} with a name that is long", calibration=None) for n in range(26)]
    points = tuple(replace(point, test=unknown) for point in curve.points)
    at_once = tuple(replace(point, layer=None) for point in curve.points[:1])
    many.append(replace(curve, probe="unknown", points=points))
    many.append(replace(curve, probe="at once", points=at_once, chosen=0))
    baselines = tuple(replace(held, calibration=None) for held in task.baselines)
    found = replace(results, tasks=(replace(task, curves=tuple(many), baselines=baselines),))
    with visit(found, viewport={"width": 390, "height": 800}, color_scheme="dark") as page:
        assert page.locator(LINES).count() == 27 + 3  # One has no number at all.
        assert page.locator("tbody").first.locator("tr").count() == 28 + 3
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        every = page.locator(".every")
        every.click()
        assert page.locator(LINES).count() == 0 and every.inner_text() == "show all"
        page.locator(".key").first.click()
        assert page.locator(LINES).count() == 1
        auroc = page.locator("thead").first.locator("th").nth(3)
        for _ in range(2):
            auroc.locator("button").click()
            assert column(page.locator("section.task"), 4)[-1] == ""


def test_without_probes_and_without_confidence_in_front(results, visit):
    task = results.tasks[1]
    found = replace(results, tasks=(replace(task, curves=()),), shown=(), between=())
    with visit(found) as page:
        assert page.locator(".verdict").inner_text() == "Only the baselines were scored."
        assert page.locator(LINES).count() == len(task.baselines)
        assert first_column(page.locator("section.task"))[0].startswith(CONFIDENCE)
