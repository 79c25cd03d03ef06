"""Judges: what of a response is taken for the answer, and when it is right."""

from __future__ import annotations

import doctest
import pickle

import pytest

import wif_store.tasks.judges
from wif_store.errors import TaskError
from wif_store.tasks.judges import (
    Answer,
    GoldIs,
    LetterIs,
    Matches,
    Was,
    check_grade,
    check_targets,
    normalised,
)


def judged(judge, response):
    verdict = judge(Answer(0, (-1.0,), response))
    return verdict.success, verdict.answer


def test_the_examples_of_the_docstrings_run():
    found = doctest.testmod(wif_store.tasks.judges)
    assert found.attempted
    assert not found.failed


def test_the_likeliest_choice_is_right_or_not():
    assert GoldIs(1)(Answer(1, (-2.0, -1.0))).success
    assert not GoldIs(1)(Answer(0, (-1.0, -2.0))).success
    assert GoldIs(1)(Answer(1, (-2.0, -1.0))).answer == ""


def test_a_verdict_of_a_row_is_kept_whatever_the_model_prefers():
    assert judged(Was(True, "what it said"), "else") == (True, "what it said")
    assert judged(Was(False, "what it said"), "what it said") == (False, "what it said")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Answer: B", "B"),
        ("the answer is (c)", "C"),
        ("The correct answer is: B.", "B"),
        ("**Answer:** B", "B"),
        ("**Answer**: B", "B"),
        ("The answer is **(B)**", "B"),
        ("Answer:\nB", "B"),
        ("ANSWER: b) because", "B"),
        ("Answer: A, or rather\nAnswer: D", "D"),
        ("Steps.\n\nAnswer: C\n\nThat is all.", "C"),
        ("It is B.", ""),
        ("Answer: Bob", ""),
        ("Answer:", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_letter_that_a_response_ends_with(response, letter):
    for wanted in "ABCD":
        assert judged(LetterIs(wanted), response) == (letter == wanted, letter)


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("I cannot answer a question like this.", ""),
        ("The answer is a mystery to me.", ""),
        ("Answer: B\nI hope to have answered a lot; this answer I trust.", "B"),
    ],
)
def test_a_word_of_one_letter_is_not_the_letter_of_an_option(response, letter):
    assert judged(LetterIs("A"), response) == (False, letter)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel\tTower.", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("theatre, another, Anna", "theatre another anna"),
        ("it's 3.5%", "its 35"),
        ("STRASSE Straße", "strasse strasse"),
        ("東京", "東京"),
        (" ... ", ""),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_squad_does_it(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("grade", "targets", "response", "success", "answer"),
    [
        ("exact", ("Paris",), " the Paris!\n", True, "the Paris!"),
        ("exact", ("Rome", "Paris"), "paris", True, "paris"),
        ("exact", ("Paris",), "It is Paris", False, "It is Paris"),
        ("exact", ("Paris", "..."), "", False, ""),
        ("exact", ("Paris", "..."), "!", False, "!"),
        ("contains", ("Paris",), "It is Paris, of course", True, "It is Paris, of course"),
        ("contains", ("New York",), "in new-york or New, York?", True, "in new-york or New, York?"),
        ("contains", ("art",), "a party of parts", False, "a party of parts"),
        ("contains", ("...", "Rome"), "Paris", False, "Paris"),
        ("number", ("1200",), "3 x 400 = 1,200", True, "1,200"),
        ("number", ("$1,200.00",), "1200", True, "1200"),
        ("number", ("50%",), "that is 50 %", True, "50"),
        ("number", ("-3",), "x = -3.", True, "-3"),
        ("number", ("3",), "x = -3", False, "-3"),
        ("number", ("0.5",), "about .5", True, ".5"),
        ("number", ("4",), "4, no, 5", False, "5"),
        ("number", ("five", "5"), "5", True, "5"),
        ("number", ("five", "5"), "five", False, ""),
        ("regex:[A-Z]+-\\d", ("AB-1",), "AB-2 then AB-1", True, "AB-1"),
        ("regex:[A-Z]+-\\d", ("AB-2",), "AB-2 then AB-1", False, "AB-1"),
        ("regex:#+ (.+)", ("7 cats",), "so\n#### 7 cats", True, "7 cats"),
        ("regex:#+ (.+)", ("7 cats",), "7 cats", False, ""),
        ("regex:yes|(no)", ("no",), "yes, no", True, "no"),
        ("regex:yes|(no)", ("yes",), "no, yes", False, ""),
    ],
)
def test_every_way_to_grade_a_response(grade, targets, response, success, answer):
    check_grade(grade)
    check_targets(targets, grade)
    assert judged(Matches(targets, grade), response) == (success, answer)


def test_a_range_ends_in_a_positive_number():
    assert judged(Matches(("10",), "number"), "between 5-10") == (True, "10")


@pytest.mark.parametrize(
    ("grade", "response", "success"),
    [
        ("exact", "2 and 2\nAnswer: 4", True),
        ("exact", "The answer is 4.", True),
        ("exact", "**Answer:** 4", True),
        ("exact", "4", False),
        ("exact", "Answer: 4\nAnswer: 5", False),
        ("number", "There are 9.\nAnswer: 4 of them", True),
        ("number", "4", False),
        ("contains", "4 it is.\nAnswer: none", False),
        ("regex:\\((\\d)\\)", "(5)\nAnswer: (4)", True),
    ],
)
def test_a_response_that_reasons_is_graded_by_what_follows_its_last_answer(grade, response, success):
    assert judged(Matches(("4",), grade, reasoned=True), response)[0] is success


@pytest.mark.parametrize(
    "response", ["The answer is 3. No, answer: 4", "Answer: 4\n\nI hope that this answer helps."]
)
def test_the_last_answer_is_found_in_prose_too(response):
    assert judged(Matches(("4",), reasoned=True), response) == (True, "4")


@pytest.mark.parametrize("grade", ["exact", "contains", "number", "regex:x", "regex:(a|b)"])
def test_every_grade_is_known(grade):
    check_grade(grade)


@pytest.mark.parametrize("grade", ["", "EXACT", "exact ", "regex", "f1"])
def test_what_is_no_grade_is_refused(grade):
    with pytest.raises(TaskError, match=r"^--grade is '.*'; expected one of: exact, contains, number, regex"):
        check_grade(grade)


def test_a_pattern_that_is_none_is_refused_in_one_line():
    with pytest.raises(
        TaskError, match=r"^--grade regex:\(: the pattern is no regular expression \(.*Python"
    ):
        check_grade("regex:(")


@pytest.mark.parametrize(
    ("targets", "grade", "message"),
    [
        ([], "exact", "at least one that is a text"),
        (["..."], "contains", "at least one that is a text with a letter or a digit"),
        (["five", "3/4"], "number", "at least one that is a number"),
        (["nan"], "number", "at least one that is a number"),
    ],
)
def test_targets_that_no_answer_matches_are_refused(targets, grade, message):
    with pytest.raises(ValueError, match=message):
        check_targets(targets, grade)


@pytest.mark.parametrize("grade", ["exact", "contains", "regex:\\(([A-D])\\)"])
def test_the_letter_a_is_an_answer_like_the_letter_b(grade):
    for letter in "BA":
        check_targets([letter], grade)
        assert judged(Matches((letter,), grade), f"({letter})")[0]


def test_all_judges_pickle():
    for judge in (GoldIs(1), LetterIs("B"), Was(True, "x"), Matches(("x",), "regex:(.)", reasoned=True)):
        assert pickle.loads(pickle.dumps(judge)) == judge
    answer = Answer(0, (-1.0,), "Answer: B")
    assert pickle.loads(pickle.dumps(LetterIs("B")))(answer) == LetterIs("B")(answer)
