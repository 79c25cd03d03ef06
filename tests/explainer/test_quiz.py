"""The quiz in a real browser, and the file that it saves."""

from __future__ import annotations

import csv
import json

import pytest

from tests.support.browser import browser, opened
from tests.support.memory_store import memory_store
from wif_store.errors import ScoreError
from wif_store.explainer.quiz import Question, draw_questions, render_quiz
from wif_store.scorer.predictions import read_predictions

ODD_IDS = (
    "plain-1",
    'a "quoted", one',
    " spaces ",
    "two\nlines",
    "</script><img src=x>",
    "=1+1",
    "\u00e4\u05d0",
)
EXPLANATION = """# A rule

It *fails* on `not`, and **always** on <b>tags</b>.

- one
  - deeper
- </script><img src=x onerror="document.title='owned'">

1. first

> quoted

```
if x < 1:
    fail()
```
"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture
def visit(chromium, tmp_path):
    def visit(questions, explanation=EXPLANATION, title="When does it fail?", **settings):
        path = tmp_path / "quiz.html"
        path.write_text(render_quiz(explanation, questions, title=title), encoding="utf-8")
        return opened(chromium, path, **settings)

    return visit


def some(ids=ODD_IDS):
    return [Question(i, f"Prompt {n}", (f"yes {n}", f"no {n}")) for n, i in enumerate(ids)]


def saved(page, folder):
    with page.expect_download() as waiting:
        page.locator("#save").click()
    assert waiting.value.suggested_filename == "quiz.csv"
    path = folder / "quiz.csv"
    waiting.value.save_as(path)
    return path


def number(page):
    return page.locator("#number").inner_text()


def test_answers_by_clicks_and_keys_are_saved(visit, tmp_path):
    with visit(some()) as page:
        assert page.locator("#save").is_disabled() and page.locator("#back").is_disabled()
        assert number(page) == "Question 1 of 7" and page.locator("#prompt").inner_text() == "Prompt 0"
        assert page.locator("#choices li").all_inner_texts() == ["A\nyes 0", "B\nno 0"]
        page.get_by_role("button", name="surely wrong").click()
        for key in "2345":
            page.keyboard.press(key)
        assert number(page) == "Question 6 of 7"
        assert page.locator("#answered").inner_text() == "5 answered"
        for _ in range(5):
            page.locator("#back").click()
        assert number(page) == "Question 1 of 7"
        pressed = page.locator(".scale [aria-pressed=true]")
        assert pressed.inner_text().split() == ["1", "surely", "wrong"]
        page.keyboard.press("3")  # A second thought.
        page.keyboard.press("ArrowLeft")
        assert pressed.inner_text().split() == ["3", "can't", "tell"]
        page.locator("#all button").nth(6).click()
        assert number(page) == "Question 7 of 7" and page.locator("#on").is_disabled()
        page.keyboard.press("1")
        assert "1 question is open" in page.locator("#open").inner_text()
        path = saved(page, tmp_path)
        assert page.locator("#open.loud").is_visible()
    scores = (0.5, 0.25, 0.5, 0.75, 1.0, None, 0.0)
    expected = {i: score for i, score in zip(ODD_IDS, scores, strict=True) if score is not None}
    assert read_predictions(path) == ("quiz", expected)
    raw = path.read_bytes().decode()
    assert raw.startswith("id,score\r\nplain-1,0.5\r\n") and raw.endswith("\u00e4\u05d0,0\r\n")
    with path.open(newline="", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == list(expected)


def test_answers_outlive_the_page(visit):
    with visit(some()) as page:
        page.keyboard.press("1")
        page.keyboard.press("5")
        page.reload()
        assert number(page) == "Question 3 of 7"
        assert page.locator("#all button.done").count() == 2
        keys = page.evaluate("Object.keys(localStorage)")
        assert len(keys) == 1 and keys[0].startswith("wif-store-quiz-")
        page.evaluate("key => localStorage.setItem(key, '[[\"plain-1\", 7], 3]')", keys[0])
        page.reload()
        assert number(page) == "Question 1 of 7"
        assert page.locator("#answered").inner_text() == "0 answered"


def test_a_browser_that_keeps_nothing_is_enough(chromium, tmp_path):
    path = tmp_path / "quiz.html"
    page_text = render_quiz("Short.", some(), title="t")
    refusing = (
        '<script>Object.defineProperty(window, "localStorage", { get() { throw new DOMException("no"); } });'
    )
    path.write_text(page_text.replace("<script>", refusing + "</script><script>", 1), encoding="utf-8")
    with opened(chromium, path) as page:
        for _ in ODD_IDS:
            page.keyboard.press("4")
        assert page.locator("#open").inner_text() == "All questions are answered."
        assert set(read_predictions(saved(page, tmp_path))[1].values()) == {0.75}


def test_hostile_texts_stay_texts(visit):
    evil = "</script><img src=x onerror=\"document.title='owned'\">{{ 7 * 7 }}\x00\u202e"
    with visit([Question(evil, evil, (evil, evil))], evil + EXPLANATION, evil) as page:
        assert page.title().startswith("</script><img src=x")
        assert page.locator("img").count() == 0 and page.locator("script").count() == 2
        assert page.locator("#prompt").inner_text() == evil.replace("\x00\u202e", "\\x00\\u202e")
        assert page.locator("#explanation b").count() == 0
        assert page.locator("#explanation strong").inner_text() == "always"
        assert page.locator("#explanation pre").inner_text() == "if x < 1:\n    fail()\n"
        assert page.locator("#explanation li").count() == 4
        page.keyboard.press("1")
        assert page.locator("img").count() == 0 and page.title() != "owned"


def test_a_phone_shows_it_whole_and_responses_have_no_choices(visit):
    long = Question("a", "word" * 2000)
    phone = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
    with visit([long, *some()], **phone) as page:
        assert page.locator("#choices").is_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name="can't tell").click()
        assert page.locator("#choices").is_visible()


def test_the_page_holds_no_outcome():
    store = memory_store(n=40)
    drawn = draw_questions(store, 8, seed=1)
    page = render_quiz("Short.", drawn, title="t")
    record = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert record["questions"] == [{"id": q.id, "prompt": q.prompt, "choices": ["yes", "no"]} for q in drawn]
    assert set(record) == {"key", "answers", "questions"}


def test_questions_are_drawn_balanced_and_shuffled():
    store = memory_store(n=400)
    success = {example.id: example.success for example in store.examples("test")}
    orders = []
    for seed in range(20):
        drawn = draw_questions(store, 40, seed)
        assert drawn == draw_questions(store, 40, seed)
        orders.append([success[question.id] for question in drawn])
        assert len({question.id for question in drawn}) == 40 and sum(orders[-1]) == 20
    assert len({tuple(order) for order in orders}) == 20
    assert 0 < sum(order[0] for order in orders) < 20
    odd = {sum(success[question.id] for question in draw_questions(store, 7, seed)) for seed in range(20)}
    assert odd == {3, 4}
    assert drawn[0].choices == ("yes", "no")


def test_at_most_all_test_examples_are_drawn():
    store = memory_store(n=80)
    drawn = draw_questions(store, 1000, seed=3)
    assert {question.id for question in drawn} == set(store.column("id", "test"))
    assert len(drawn) == len(store.examples("test"))


def test_the_other_class_fills_up():
    store = memory_store(n=80)
    store.all_examples = [
        e for n, e in enumerate(store.all_examples) if e.split != "test" or e.success or n % 8 == 1
    ]
    success = {e.id: e.success for e in store.examples("test")}
    few = list(success.values()).count(0)
    assert 0 < few < 6
    for seed in range(6):
        found = [success[question.id] for question in draw_questions(store, 12, seed)]
        assert (len(found), found.count(0)) == (12, few)


@pytest.mark.parametrize("count", [0, -1])
def test_no_questions_are_refused(count):
    with pytest.raises(ScoreError, match="expected at least one"):
        draw_questions(memory_store(n=40), count, seed=0)
    with pytest.raises(ScoreError, match="expected at least one"):
        render_quiz("Short.", [], title="t")


def test_an_id_that_is_asked_twice_is_refused():
    with pytest.raises(ScoreError, match="'a' 2 times; expected each id once"):
        render_quiz("Short.", [Question("a", "x"), Question("b", "x"), Question("a", "y")], title="t")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# One\n\n###### six", "<h3>One</h3>\n<h6>six</h6>"),
        ("- a\n  - b", "<li>a\n<ul>\n<li>b</li>"),
        ("**so** `x*y*z`", "<strong>so</strong> <code>x*y*z</code>"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("![a](http://127.0.0.1/a.png)", "![a](http://127.0.0.1/a.png)"),
        ("[a](javascript:alert(1))", "[a](javascript:alert(1))"),
        ("<http://127.0.0.1>", "&lt;http://127.0.0.1&gt;"),
    ],
)
def test_an_explanation_is_shown_as_markdown_without_what_fetches_or_runs(text, shown):
    page = render_quiz(text, [Question("a", "x")], title="t")
    assert shown in page.partition("<summary>Explanation</summary>")[2].partition("</details>")[0]
