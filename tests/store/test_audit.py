"""The audit counts and names the flaws of a benchmark that an AUROC would not show."""

from __future__ import annotations

import pytest

from tests.support.rewrite import change_table
from wif_store.store.audit import (
    FLAWS,
    NAMED,
    Audited,
    audit_examples,
    audit_published,
    audit_store,
    item_id,
)
from wif_store.store.reader import open_store
from wif_store.tasks import TASKS
from wif_store.tasks.base import Candidate

WORDS = "the lamp on a table did not fit because every box there was too small for it".split()


def example(number, split="train", *, success=True, group=None, prompt=None, cut=0, id=None):
    text = " ".join(f"{word}{number}" for word in WORDS) if prompt is None else prompt
    name = f"winogrande-{number:016x}" if id is None else id
    return Audited(name, split, success, group or f"group {number}", text, cut)


def flaws(examples, **given):
    found = audit_examples(examples, gold_in_prompt=given.get("gold_in_prompt", False))
    assert found["counts"].keys() == FLAWS.keys()
    assert found["named"].keys() == {flaw for flaw, count in found["counts"].items() if count}
    return {flaw: count for flaw, count in found["counts"].items() if count}, found["named"]


CLEAN = [example(i, ("train", "train", "validation", "test")[i % 4], success=i % 3 == 0) for i in range(40)]


def test_a_clean_benchmark_has_no_flaw():
    assert flaws(CLEAN) == ({}, {})


def test_a_benchmark_of_nothing_has_no_flaw():
    assert flaws([]) == ({}, {})


def test_a_group_that_crosses_is_counted_once():
    siblings = [
        example(50, "train", group="g"),
        example(51, "test", group="g"),
        example(52, "test", group="g"),
    ]
    assert flaws([*CLEAN, *siblings]) == ({"groups_across_splits": 1}, {"groups_across_splits": ["g"]})
    in_one = [example(50, "test", group="g"), example(51, "test", group="g")]
    assert flaws([*CLEAN, *in_one]) == ({}, {})


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("validation", "test"), ("test", "train")])
def test_a_near_duplicate_that_crosses_is_named(first, second):
    """By its words, whatever its group: it is the one of the later split that leaks."""
    prompt = " ".join(f"{word}x" for word in WORDS * 3)
    near = prompt + " indeed"
    twins = [example(60, first, prompt=prompt), example(61, second, prompt=near)]
    later = twins[1] if second != "train" else twins[0]
    counts, named = flaws([*CLEAN, *twins])
    assert counts == {"near_duplicates_across_splits": 1}
    assert named["near_duplicates_across_splits"] == [later.id]


def test_near_duplicates_of_one_split_are_no_leak():
    prompt = " ".join(f"{word}x" for word in WORDS)
    assert flaws([*CLEAN, example(60, "test", prompt=prompt), example(61, "test", prompt=prompt)]) == ({}, {})


def test_prompts_of_signs_alone_have_words_too():
    signs = [example(i, "train", prompt="? ! ...") for i in range(2)]
    assert flaws([*signs, example(7, "test", prompt="? ! ...")])[0] == {"near_duplicates_across_splits": 1}


def test_items_that_stand_more_than_once():
    """The paper's files have them: a number is added to the id of each repeat."""
    item = "piqa-0123456789abcdef"
    assert item_id(f"{item}-2") == item_id(item) == item
    assert item_id("social_i_qa-00000000000000ab") == "social_i_qa-00000000000000ab"
    assert item_id("my-task-0123456789abcdef") == "my-task-0123456789abcdef"
    once = example(70, "train", id=item)
    same = [once, example(71, "train", id=f"{item}-1")]
    assert flaws([*CLEAN, *same])[0] == {"repeated": 1}
    crossing = [once, example(71, "test", id=f"{item}-1")]
    assert flaws([*CLEAN, *crossing])[0] == {"repeated": 1, "repeated_across_splits": 1}
    contradictory = [once, example(71, "train", id=f"{item}-1", success=False)]
    assert flaws([*CLEAN, *contradictory])[0] == {"repeated": 1, "contradictory": 1}
    all_of_it = [once, example(71, "test", id=f"{item}-1", success=False)]
    counts, named = flaws([*CLEAN, *all_of_it])
    assert counts == dict.fromkeys(
        ("repeated", "repeated_across_splits", "contradictory", "crossing_splits"), 1
    )
    assert set(map(tuple, named.values())) == {(item,)}


def test_prompts_that_were_cut_and_prompts_that_show_the_answer():
    assert flaws([*CLEAN, example(80, cut=3)])[0] == {"prompts_cut": 1}
    counts, named = flaws(CLEAN, gold_in_prompt=True)
    assert counts == {"gold_in_prompt": len(CLEAN)}
    assert len(named["gold_in_prompt"]) == NAMED


def candidate(number, split, success):
    return Candidate(f"piqa-{number:016x}", number, f"g{number // 2}", {}, ("a", "b"), 0, split, success)


def test_a_published_source_is_audited_where_it_says_splits_and_outcomes():
    rows = [candidate(0, "train", True), candidate(1, "test", False), candidate(2, "test", True)]
    found = audit_published(rows)
    assert {flaw: n for flaw, n in found["counts"].items() if n} == {"groups_across_splits": 1}
    assert audit_published([*rows, candidate(3, None, True)]) is None
    assert audit_published([*rows, candidate(3, "test", None)]) is None


def test_a_store_is_audited_by_what_it_holds(finished_store, store_copy):
    assert set(audit_store(open_store(finished_store))["counts"].values()) == {0}
    theirs = open_store(store_copy).table("train").to_pylist()[0]
    copied = {name: theirs[name] for name in ("group", "prompt")}
    change_table(store_copy, "test", lambda rows: [{**rows[0], **copied, "cut_tokens": 2}, *rows[1:]])
    store = open_store(store_copy)
    found = audit_store(store)
    assert found["named"] == {
        "groups_across_splits": [copied["group"]],
        "near_duplicates_across_splits": [store.column("id", "test")[0]],
        "prompts_cut": [store.column("id", "test")[0]],
    }


def test_the_manifest_has_the_audit_of_the_store(finished_store):
    store = open_store(finished_store)
    found = audit_store(store)
    assert {name: store.manifest.audit[name] for name in found} == found
    assert store.manifest.audit["published_source"] is None


def test_which_protocols_show_the_answer():
    showing = {
        (task.name, protocol.name)
        for task in TASKS.values()
        for protocol in task.protocols
        if task.shows_gold(protocol)
    }
    assert showing == {("social_i_qa", "paper")}
