"""What holds for every task: those of the registry, and the one that docs/adding_a_task.md writes."""

from __future__ import annotations

import doctest
import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import tiny
from wif_store.errors import SourceError, TaskError
from wif_store.tasks import TASKS, get_task, names
from wif_store.tasks.multiple_choice import MultipleChoiceTask, columns, position_in
from wif_store.tasks.rows import load_source


def worked_example() -> MultipleChoiceTask:
    """The task of docs/adding_a_task.md."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "adding_a_task.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict = {}
    exec(code.group(1), scope)
    return scope["TASK"]


EVERY = [*TASKS.values(), worked_example()]


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)
def test_every_task_is_complete(task):
    assert re.fullmatch(r"\w+", task.name)
    protocols = [p.name for p in task.protocols]
    assert protocols[:2] == ["aligned", "mcq"]
    assert set(protocols[2:]) <= {"cot", "paper"}
    assert set(task.key) < set(task.fields)
    assert set(task.group) <= set(task.fields)
    assert task.source.repo.count("/") == 1
    assert task.source.licence
    assert task.source.citation


@pytest.mark.parametrize("task", [t for t in EVERY if t.builtin], ids=lambda task: task.name)
def test_every_task_asks_what_its_rows_say(task):
    source = load_source(task, "builtin")
    assert all(re.fullmatch("[0-9a-f]{16}", c.group) for c in source.candidates)
    assert len({c.group for c in source.candidates}) > len(source.candidates) / 3
    for protocol in task.protocols:
        for candidate in source.candidates[:20]:
            request = task.request(candidate, protocol)
            assert len({*request.pairs}) == len(request.pairs)
            if protocol.outcome == "response":
                assert request.pairs[0][1] == ""
                assert all(choice in request.pairs[0][0] for choice in candidate.choices)
                continue
            assert len(request.pairs) == len(candidate.choices) > 1
            assert all(continuation.strip() for _, continuation in request.pairs)
            assert (request.prompt is not None) == (protocol.site == "prompt")
            assert protocol.site != "context" or len({context for context, _ in request.pairs}) == 1


def test_the_registry_names_its_tasks():
    assert names() == ["boolq", "piqa", "social_i_qa", "winogrande"]
    with pytest.raises(TaskError, match="no task 'arc'; expected one of: boolq, piqa, social_i_qa, winogra"):
        get_task("arc")
    with pytest.raises(TaskError, match="task piqa has no protocol 'x'; expected one of: aligned, mcq, co"):
        get_task("piqa").protocol("x")


WINOGRANDE = {"sentence": "The cup fits the bag as the _ is small.", "option1": "The cup", "option2": "bag"}


@pytest.mark.parametrize(
    ("name", "row", "sibling", "stranger"),
    [
        (
            "winogrande",
            {**WINOGRANDE, "answer": "1"},
            {"sentence": "Big is the _ .", "option1": "Bag", "option2": "the  cup", "answer": "2"},
            {**WINOGRANDE, "option2": "box", "answer": "1"},
        ),
        (
            "boolq",
            {"passage": "P one.", "question": "a", "answer": True},
            {"passage": "p one. ", "question": "b", "answer": False},
            {"passage": "P two.", "question": "a", "answer": True},
        ),
        (
            "piqa",
            {"goal": "g", "sol1": "a", "sol2": "b", "label": 0},
            {"goal": "G", "sol1": "c", "sol2": "d", "label": 1},
            {"goal": "h", "sol1": "a", "sol2": "b", "label": 0},
        ),
        (
            "social_i_qa",
            {"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "1"},
            {"context": "C", "question": "r", "answerA": "1", "answerB": "2", "answerC": "3", "label": "2"},
            {"context": "d", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "1"},
        ),
    ],
)
def test_siblings_share_a_group(name, row, sibling, stranger):
    groups = [get_task(name).candidate(r, 0, "row 1").group for r in (row, sibling, stranger)]
    assert groups[0] == groups[1] != groups[2]


def test_a_group_is_the_same_in_every_release():
    """A split follows from the group: another digest would move examples between splits."""
    found = get_task("winogrande").candidate({**WINOGRANDE, "answer": "1"}, 0, "")
    # printf '["bag","the cup"]' | sha256sum
    assert found.group == "46d2eaf2fa6acd10"


def test_without_fields_of_its_own_a_group_is_the_prompt_without_its_choices():
    task = worked_example()
    assert task.group == ()
    row = {"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}
    other = {**row, "choices": {"text": ["c", "d"], "label": ["A", "B"]}}
    groups = [task.candidate(r, 0, "").group for r in (row, other, {**row, "question": "How?"})]
    assert groups[0] == groups[1] != groups[2]


def test_a_source_without_the_fields_of_the_group_is_refused(tmp_path):
    task = replace(get_task("winogrande"), group=("story",))
    with pytest.raises(SourceError, match=r"rows\.jsonl, line 1: field 'story' is missing; found answer, op"):
        load_source(task, str(tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(3))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": columns("option1")}, r"found the choices \('trophy',\); expected two texts or more"),
        ({"choices": lambda row: ()}, r"found the choices \(\); expected two texts or more"),
        ({"choices": lambda row: ("a", None)}, r"found the choices .*; expected two texts or more"),
        ({"gold": lambda row: 2}, "the right choice is number 2 from 0; expected one of 2"),
        ({"choices": lambda row: row["options"]}, "cannot find its choices and answer in the row .KeyError"),
        ({"gold": position_in("nosuch", 1, 2)}, "cannot find its choices and answer in the row .KeyError"),
    ],
)
def test_a_row_that_offers_no_choice_is_refused_before_a_model_runs(tmp_path, change, message):
    path = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(3))
    with pytest.raises(SourceError, match=rf"rows\.jsonl, line 1: .*{message}") as error:
        load_source(replace(get_task("winogrande"), **change), str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["tasks", "tasks.base", "tasks.files", "tasks.rows", "storage.hub_client"])
def test_the_examples_of_the_docstrings_run(module):
    found = doctest.testmod(importlib.import_module(f"wif_store.{module}"))
    assert found.attempted
    assert not found.failed
