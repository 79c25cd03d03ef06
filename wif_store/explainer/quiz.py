"""A quiz for a person: who has read an explanation says of questions whether the model answers them right.

What the person says is saved as a file of predictions, which the scorer reads.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.errors import ScoreError
from wif_store.scorer.page import as_name, legible, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.scorer.features import Store

PAGES: Final = Path(__file__).with_name("pages")
ANSWERS: Final = (
    (0.0, "surely wrong"),
    (0.25, "rather wrong"),
    (0.5, "can't tell"),
    (0.75, "rather right"),
    (1.0, "surely right"),
)
"""The scores that a person can give, and what the page calls them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A test example without what tells whether the model is right.

    ``choices`` are empty where the model answers in its own words.
    """

    id: str
    prompt: str
    choices: tuple[str, ...] = ()


def render_quiz(explanation: str, questions: Sequence[Question], *, title: str) -> str:
    """Return a page on which a person reads an explanation, and says how likely each answer is to be right.

    The page needs no network and no file beside it. It saves ``quiz.csv`` with the columns ``id`` and
    ``score``: 0 where the model is surely wrong, 1 where it is surely right. Questions that are open are not
    in the file.

    Args:
        explanation: Markdown; headings, lists, paragraphs and code are shown as such, all else as text.
        questions: In the order they are asked.
        title: The heading of the page.

    Raises:
        ScoreError: If there are no questions, or two with one id.

    Example:
        >>> page = render_quiz("It *fails* on long prompts.", [Question("q-1", "2 + 2 =")], title="Sums")
        >>> "It <em>fails</em> on long prompts." in page
        True
    """
    ids = Counter(question.id for question in questions)
    if not ids:
        msg = "a quiz has no questions; expected at least one"
        raise ScoreError(msg)
    [(most, count)] = ids.most_common(1)
    if count > 1:
        msg = f"a quiz holds {most!r} {count} times; expected each id once"
        raise ScoreError(msg)
    record = json.dumps([title, explanation, [asdict(question) for question in questions]])
    return render(
        PAGES,
        "quiz.html.jinja",
        title=as_name(title),
        explanation=_html(legible(explanation)),
        answers=ANSWERS,
        quiz={
            "key": f"wif-store-quiz-{hashlib.sha256(record.encode()).hexdigest()[:16]}",
            "answers": ANSWERS,
            "questions": [
                {"id": q.id, "prompt": legible(q.prompt), "choices": [legible(text) for text in q.choices]}
                for q in questions
            ],
        },
    )


def _html(text: str) -> Any:
    """Markdown as HTML. What could fetch or run anything is no Markdown here: it stays the text it is."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    markdown = MarkdownIt("commonmark", {"html": False})
    markdown.disable(["image", "link", "autolink", "reference", "html_inline", "html_block"])
    tokens = markdown.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            # The page has headings of two levels of its own.
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def draw_questions(store: Store, count: int, seed: int) -> list[Question]:
    """Draw test examples, as many successes as failures, in an order that says nothing of them.

    Where one class has too few, the other fills the places. An odd place falls to a class by chance.

    Args:
        store: The store whose test split is drawn from.
        count: How many; at most all test examples are drawn.
        seed: The same seed draws the same questions in the same order.

    Raises:
        ScoreError: If ``count`` is below 1, or there are no test examples.

    Example::

        page = render_quiz(text, draw_questions(store, 40, seed=0), title="When does it fail?")
    """
    examples = store.examples("test")
    if count < 1 or not examples:
        msg = f"a quiz of {count} questions from {len(examples)} test examples; expected at least one of each"
        raise ScoreError(msg)
    rng = np.random.default_rng(seed)
    success = np.array([example.success for example in examples])
    kinds = [rng.permutation(np.flatnonzero(success == kind)) for kind in rng.permutation(2)]
    count = min(count, len(examples))
    first = min(max(-(-count // 2), count - len(kinds[1])), len(kinds[0]))
    rows = rng.permutation(np.concatenate([kinds[0][:first], kinds[1][: count - first]]))
    drawn = [examples[row] for row in rows.tolist()]
    return [Question(one.id, one.prompt, one.choice.choices if one.choice else ()) for one in drawn]
