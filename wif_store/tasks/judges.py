"""Judges: what says whether an answer of the model is right. Small and picklable, for workers ask them."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wif_store.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered.

    Attributes:
        prediction: The index of the likeliest choice; 0 where it wrote a response.
        logprobs: The summed log-likelihood of each choice, or of the response, in nats.
        response: What it wrote; None where it preferred a choice.
    """

    prediction: int
    logprobs: tuple[float, ...]
    response: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is right, and what of the response was taken for the answer."""

    success: bool
    answer: str = ""


Judge = Callable[[Answer], Verdict]


@dataclass(frozen=True, slots=True)
class GoldIs:
    """Right is the choice of this index."""

    gold: int

    def __call__(self, answer: Answer) -> Verdict:
        """Compare the likeliest choice."""
        return Verdict(answer.prediction == self.gold)


LETTER: Final = re.compile(
    r"""
    \b(?i:answer)\b [\s*]* (?: (?i:is)\b [\s*]* :? | : ) [\s*]*
    (?: \(([A-Za-z])\)             # (b)
      | ([A-Z])\b (?!['\u2019])     # B, but not I've
      | ([a-z]) (?= [).] | \s*$ )   # b) and b., or b at the end of the line; no word such as a
    )
    """,
    re.MULTILINE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class LetterIs:
    """Right is a response whose last ``answer: B``, or ``the answer is (B)``, names this letter."""

    letter: str

    def __call__(self, answer: Answer) -> Verdict:
        """Take the letter out of the response; a response without one is wrong."""
        found = LETTER.findall(answer.response or "")
        letter = "".join(found[-1]).upper() if found else ""
        return Verdict(letter == self.letter, letter)


@dataclass(frozen=True, slots=True)
class Was:
    """The verdict that a row carries: the answer was judged where it was written."""

    success: bool
    answer: str = ""

    def __call__(self, answer: Answer) -> Verdict:
        """Return that verdict."""
        return Verdict(self.success, self.answer)


GRADES: Final = ("exact", "contains", "number", "regex:PATTERN")
NUMBER: Final = re.compile(r"(?:(?<!\d)-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
AFTER_ANSWER: Final = re.compile(r"\banswer\b[ \t*]*(?:is\b[ \t*]*:?|:)[\s*]*", re.IGNORECASE)
ARTICLES: Final = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Matches:
    """Right is a response that matches one of these targets.

    Attributes:
        targets: The answers that count as right.
        grade: ``exact``: the response equals a target, both normalised. ``contains``: a target stands in the
            response as words, both normalised. ``number``: the last number in it is a target. ``regex:P``:
            what the last match of P gives, its first group if it has one, equals a target, both normalised.
        reasoned: Whether the response reasons first: what is graded is what follows its last ``answer:``.

    Example:
        >>> Matches(("The Eiffel Tower",), "exact")(Answer(0, (), "eiffel tower.")).success
        True
        >>> Matches(("1200",), "number")(Answer(0, (), "3 x 400 = 1,200")).answer
        '1,200'
    """

    targets: tuple[str, ...]
    grade: str = "exact"
    reasoned: bool = False

    def __call__(self, answer: Answer) -> Verdict:
        """Take the answer out of the response and compare it."""
        text = answer.response or ""
        if self.reasoned:
            after = AFTER_ANSWER.split(text)[1:]
            text = after[-1].partition("\n")[0].strip() if after else ""
        if self.grade == "contains":
            words = f" {normalised(text)} "
            return Verdict(any(f" {normalised(t)} " in words for t in self.targets if normalised(t)), text)
        if self.grade == "number":
            numbers = NUMBER.findall(text)
            text = numbers[-1] if numbers else ""
            right = {_as_number(target) for target in self.targets} - {None}
            return Verdict(_as_number(text) in right, text)
        if self.grade.startswith("regex:"):
            matches = list(re.finditer(self.grade.removeprefix("regex:"), text))
            text = (matches[-1][1 if matches[-1].re.groups else 0] or "") if matches else ""
        wanted = {normalised(target) for target in self.targets}
        return Verdict(bool(normalised(text)) and normalised(text) in wanted, text.strip())


def check_grade(grade: str) -> None:
    """Refuse what is not a way to grade.

    Raises:
        TaskError: If it is none of ``GRADES``, or its pattern is no regular expression.
    """
    if grade.startswith("regex:"):
        try:
            re.compile(grade.removeprefix("regex:"))
        except re.error as error:
            msg = f"--grade {grade}: the pattern is no regular expression ({error}); expected Python's syntax"
            raise TaskError(msg) from None
        if grade == "regex:":
            msg = "--grade regex: has no pattern; expected one after the colon"
            raise TaskError(msg)
    elif grade not in GRADES:
        msg = f"--grade is {grade!r}; expected one of: {', '.join(GRADES)}"
        raise TaskError(msg)


def check_targets(targets: Sequence[str], grade: str) -> None:
    """Refuse targets that no answer could match.

    Raises:
        ValueError: If there is none.
    """
    usable = [t for t in targets if (_as_number(t) is not None if grade == "number" else normalised(t))]
    if not usable:
        kind = "a number" if grade == "number" else "a text with a letter or a digit"
        msg = f"the targets are {list(targets)!r:.80}; expected at least one that is {kind}"
        raise ValueError(msg)


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and surplus space, as SQuAD's evaluation compares answers.

    Example:
        >>> normalised("  The  Answer, then: 42. ")
        'answer then 42'
    """
    lowered = text.casefold().translate(str.maketrans("", "", string.punctuation))
    return " ".join(ARTICLES.sub(" ", lowered).split()) or " ".join(lowered.split())


def _as_number(text: str) -> float | None:
    try:
        number = float(text.replace(",", "").strip().lstrip("$").rstrip("%."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
