"""The protocols' prompts, string for string, over made and over real examples."""

from __future__ import annotations

import json

import pytest

from wif_store.store.audit import audit_published
from wif_store.tasks import TASKS, get_task
from wif_store.tasks.rows import load_source

# Written out again, by hand, from docs/protocols.md: the templates' own code is not used here.
PAPER = {
    "boolq": lambda r: f"Passage: {r['passage']}\nQuestion: {r['question']}\nAnswer (yes or no): ",
    "piqa": lambda r: f"Goal: {r['goal']}\nOption 1: {r['sol1']}\nOption 2: {r['sol2']}\nAnswer: ",
    "social_i_qa": lambda r: (
        f"Context: {r['context']}\nQuestion: {r['question']}\nAnswer A: {r['answerA']}\n"
        f"Answer B: {r['answerB']}\nAnswer C: {r['answerC']}\nCorrect answer: {r['label']}"
    ),
    "winogrande": lambda r: (
        f"Question: {r['sentence']}\nOption 1: {r['option1']}\nOption 2: {r['option2']}\nAnswer (1 or 2): "
    ),
}


def paper_scored(name, r):
    if name == "boolq":
        text = f"Passage: {r['passage']}\nQuestion: {r['question']}\nAnswer: "
        return [("", text + "No"), ("", text + "Yes")]
    if name == "piqa":
        return [(PAPER["piqa"](r), r["sol1"]), (PAPER["piqa"](r), r["sol2"])]
    if name == "social_i_qa":
        context = (
            "Read the context and question below, then choose the most sensible answer.\n\n"
            f"Context: {r['context']}\nQuestion: {r['question']}\nAnswer: "
        )
        return [(context, r[f"answer{letter}"]) for letter in "ABC"]
    before, after = r["sentence"].split("_")
    return [(before + r["option1"], after), (before + r["option2"], after)]


def aligned(name, r):
    if name == "boolq":
        context = f"{r['passage']}\nQuestion: {r['question']}?\nAnswer:"
        return [(context, " no"), (context, " yes")]
    if name == "piqa":
        context = f"Question: {r['goal']}\nAnswer:"
        return [(context, f" {r['sol1']}"), (context, f" {r['sol2']}")]
    if name == "social_i_qa":
        context = f"Q: {r['context']} {r['question']}\nA:"
        return [(context, f" {r[f'answer{letter}']}") for letter in "ABC"]
    before, after = r["sentence"].split("_")
    return [(before + r[o], " " + after.strip()) for o in ("option1", "option2")]


@pytest.mark.parametrize("name", TASKS)
def test_prompts_of_every_shared_example(name, shared_data):
    task = get_task(name)
    rows = [json.loads(line) for line in (shared_data / f"{name}.jsonl").read_text().splitlines()]
    source = load_source(task, str(shared_data / f"{name}.jsonl"), keep_duplicates=True)
    assert len(source.candidates) == len(rows) == 4000
    for candidate, row in zip(source.candidates, rows, strict=True):
        paper = task.request(candidate, task.protocol("paper"))
        assert paper.prompt == PAPER[name](row)
        assert list(paper.pairs) == paper_scored(name, row)
        request = task.request(candidate, task.protocol("aligned"))
        assert request.prompt is None
        assert list(request.pairs) == aligned(name, row)


def test_mcq_lists_the_options():
    task = get_task("social_i_qa")
    row = {
        "context": "Ann left.",
        "question": "Why?",
        "answerA": "x",
        "answerB": "y",
        "answerC": "z",
        "label": "2",
    }
    request = task.request(task.candidate(row, 0, "row 1"), task.protocol("mcq"))
    assert request.pairs[1] == ("Ann left. Why?\nA. x\nB. y\nC. z\nAnswer:", " B")


def test_braces_in_a_text_are_text():
    task = get_task("piqa")
    row = {"goal": "print {x} and {goal}", "sol1": "{", "sol2": "}}", "label": 1}
    request = task.request(task.candidate(row, 0, "row 1"), task.protocol("aligned"))
    assert request.pairs[0] == ("Question: print {x} and {goal}\nAnswer:", " {")


def test_the_published_piqa_is_found_out(shared_data):
    source = load_source(get_task("piqa"), str(shared_data / "piqa.jsonl"), keep_duplicates=True)
    counts = audit_published(source.candidates)["counts"]
    assert counts["contradictory"] == 220
    assert counts["crossing_splits"] == 142


@pytest.mark.parametrize("name", TASKS)
def test_only_the_papers_social_iqa_shows_the_gold_answer(name):
    task = get_task(name)
    shown = [p.name for p in task.protocols if task.shows_gold(p)]
    assert shown == (["paper"] if name == "social_i_qa" else [])
