"""Anyone's rows: how each kind is read, what is asked of it, and how a bad row is named."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import tiny
from wif_store.errors import SourceError, TaskError
from wif_store.tasks.judges import Answer
from wif_store.tasks.own_rows import name_of, own_rows
from wif_store.tasks.rows import load_source

CHOICES = [
    {"prompt": f"Which is {n}?", "choices": ["none", f"{{{n}}}", "all"], "gold": n % 3, "group": f"g{n // 2}"}
    for n in range(4)
]
TARGETS = [{"prompt": f"Who is {n}?", "targets": [f"Ann {n}", "Bo"], "id": f"t-{n}"} for n in range(4)]
RESPONSE = [
    {"prompt": f"Say {n}!", "response": f" It is {n}.", "success": n % 2 == 0, "split": "test"}
    for n in range(4)
]
CHOICE, TARGET, GIVEN = CHOICES[0], TARGETS[0], RESPONSE[0]


@pytest.fixture(autouse=True)
def no_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def read(path, **options):
    task = own_rows(str(path), **options)
    return task, load_source(task, str(path))


def of(tmp_path, *rows, **options):
    return read(tiny.write_rows(tmp_path / "mine.jsonl", list(rows)), **options)


def refused(tmp_path, *rows, **options):
    with pytest.raises((SourceError, TaskError)) as error:
        of(tmp_path, *rows, **options)
    assert str(error.value).isprintable()
    return str(error.value)


def verdict(task, candidate, *, protocol=0, prediction=0, response=None):
    judge = task.judge(candidate, task.protocols[protocol])
    return judge(Answer(prediction, (-1.0,), response)).success


@pytest.mark.parametrize("rows", [CHOICES, TARGETS, RESPONSE], ids=["choices", "targets", "response"])
def test_every_kind_of_source_reads_the_same(tmp_path, rows):
    tiny.write_rows(tmp_path / "mine.jsonl", rows)
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "mine")
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "splits" / "mine")
    names = ("mine.jsonl", "mine.json", "mine.csv", "mine.parquet", "mine", "splits/mine:dev")
    found = {name: read(tmp_path / name) for name in names}
    assert {task.name for task, _ in found.values()} == {"mine"}
    assert len({task.form for task, _ in found.values()}) == 1

    def seen(candidate):
        return candidate.id, candidate.group, candidate.gold, candidate.choices, candidate.targets

    first = [seen(c) for c in found["mine.jsonl"][1].candidates]
    assert len(first) == 4
    for task, source in found.values():
        assert [seen(c) for c in source.candidates] == first
        assert [c.source_row for c in source.candidates] == [0, 1, 2, 3]
        assert task.request(source.candidates[0], task.protocols[0]).pairs[0][0] == rows[0]["prompt"]


def test_choices_are_scored_lettered_or_reasoned_about(tmp_path):
    task, source = of(tmp_path, *CHOICES)
    aligned, mcq, cot = (task.request(source.candidates[1], protocol) for protocol in task.protocols)
    assert aligned.pairs == (("Which is 1?", " none"), ("Which is 1?", " {1}"), ("Which is 1?", " all"))
    asked = "Which is 1?\nA. none\nB. {1}\nC. all\n"
    assert mcq.pairs == tuple((asked + "Answer:", f" {letter}") for letter in "ABC")
    [(context, written)] = cot.pairs
    assert (context.startswith(asked + "Think step by step."), written) == (True, "")
    one = source.candidates[1]
    assert verdict(task, one, prediction=1)
    assert not verdict(task, one, prediction=0)
    assert verdict(task, one, protocol=2, response="so\nAnswer: B")
    assert not verdict(task, one, protocol=2, response="so\nAnswer: A")


@pytest.mark.parametrize(("gold", "index"), [(1, 1), (1.0, 1), ("1", 1), (" 1 ", 1), ("all", 2), (0, 0)])
def test_gold_is_a_number_from_0_or_the_choice_itself(tmp_path, gold, index):
    assert of(tmp_path, {**CHOICE, "gold": gold})[1].candidates[0].gold == index


def test_a_gold_that_could_be_a_number_or_a_choice_is_refused(tmp_path):
    """A table has texts alone: "1" of it may be the second choice, or the one that reads 1."""
    assert "gold is '1'" in refused(tmp_path, {"prompt": "1 x 1?", "choices": ["1", "2"], "gold": "1"})


def test_responses_are_graded_as_told(tmp_path):
    task, source = of(tmp_path, {"prompt": "{2} + 2?", "targets": ["4"]}, grade="number")
    [one] = source.candidates
    assert task.request(one, task.protocol("response")).pairs == (("{2} + 2?", ""),)
    assert verdict(task, one, response="It is 4")
    assert not verdict(task, one, response="It is 5")
    assert verdict(task, one, protocol=1, response="2 and 2\nAnswer: 4\nin 2 steps")
    assert task.graded_by(task.protocols[0]) == "number"
    exact, source = of(tmp_path, {"prompt": "2 + 2?", "targets": "4"})
    assert not verdict(exact, source.candidates[0], response="It is 4")


@pytest.mark.parametrize("success", [True, 1, "true", "yes", "1", False, 0, "False", "no"])
def test_a_response_that_was_judged_is_read_with_its_verdict(tmp_path, success):
    task, source = of(tmp_path, {**GIVEN, "success": success})
    [one] = source.candidates
    assert task.request(one, task.protocols[0]).pairs == (("Say 0!", " It is 0."),)
    assert task.protocols[0].generation is None
    right = success in (True, 1, "true", "yes", "1")
    assert (verdict(task, one), one.gold) == (right, int(right))


def test_ids_groups_and_splits_are_those_of_the_rows(tmp_path):
    rows = [{**CHOICE, "id": 7, "split": "dev"}, {**CHOICES[1], "id": "b"}, CHOICES[2]]
    first, second, third = of(tmp_path, *rows)[1].candidates
    assert (first.id, first.published_split, second.id, second.published_split) == ("7", "dev", "b", None)
    assert third.id.startswith("mine-")
    assert first.group == second.group != third.group


def test_without_a_group_siblings_have_the_same_prompt(tmp_path):
    rows = [{"prompt": p, "targets": [t]} for p, t in (("Who?", "x"), (" who? ", "y"), ("Where?", "x"))]
    groups = [c.group for c in of(tmp_path, *rows)[1].candidates]
    assert groups[0] == groups[1] != groups[2]


def test_a_chat_is_asked_with_its_turns(tmp_path):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Who?"},
    ]
    for messages in (turns, json.dumps(turns)):
        task, source = of(tmp_path, {"messages": messages, "system": "Be short.", "targets": ["Ann"]})
        request = task.request(source.candidates[0], task.protocols[0])
        assert request.before == (("system", "Be short."), ("user", "Hi"), ("assistant", "Yes?"))
        assert request.pairs == (("Who?", ""),)
    task, source = of(tmp_path, {"prompt": "Who?", "system": "Be short.", "targets": ["Ann"]})
    assert task.request(source.candidates[0], task.protocols[0]).before == (("system", "Be short."),)


def test_columns_of_other_names_are_told(tmp_path):
    row = {"q": "Who?", "options": ["Ann", "Bo"], "label": 1, "prompt": "not this"}
    named = {"prompt": "q", "choices": "options", "gold": "label"}
    task, source = of(tmp_path, row, columns=named)
    assert task.request(source.candidates[0], task.protocols[0]).pairs[1] == ("Who?", " Bo")
    assert source.candidates[0].gold == 1
    assert task.record(task.protocols[0])["rows"] == {"form": "choices", "grade": "exact", "columns": named}
    assert refused(tmp_path, row, columns={"prompt": "nosuch"}) == (
        "mine.jsonl, line 1: column 'nosuch' is missing; found label, options, prompt, q: see --columns"
    )
    assert refused(tmp_path, row, columns={"x": "q"}).startswith(
        "--columns names 'x'; expected some of: prom"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Who?"}, "found no verdict; expected one of: choices and gold, or targets, or response"),
        ({**CHOICE, "targets": ["x"]}, "found choices and targets; expected one of: "),
        ({**TARGET, "success": True}, "found targets and response; expected one of: "),
        ({**TARGET, "messages": [{"role": "user", "content": "x"}]}, "found both prompt and messages"),
        ({**TARGET, "prompt": None}, "neither prompt nor messages; found id, targets: see --columns"),
        ({"a": 1}, "neither prompt nor messages; found none of the columns"),
        ({**TARGET, "prompt": " "}, "prompt is ' '; expected a text"),
        ({**TARGET, "prompt": 3}, "prompt is 3; expected a text"),
        ({**TARGET, "prompt": "\ud800"}, r"prompt is '\ud800'; expected a text"),
        ({**TARGET, "id": "\ud800"}, r"id is '\ud800'; expected a text"),
        ({**TARGET, "id": "a\nb"}, r"id is 'a\nb'; expected a printable text"),
        ({**TARGET, "id": True}, "id is True; expected a text"),
        ({**TARGET, "split": 3}, "split is 3; expected a text"),
        ({**TARGET, "targets": []}, "targets is []; expected a list of texts"),
        ({**TARGET, "targets": 5}, "targets is 5; expected a list of texts"),
        ({**TARGET, "targets": [None]}, "an entry of targets is None; expected a text"),
        ({**TARGET, "targets": ["..."]}, "expected at least one that is a text"),
        ({**TARGET, "targets": None}, "found no verdict"),
        ({**CHOICE, "gold": 3}, "gold is 3; expected the number of a choice from 0, or its text"),
        ({**CHOICE, "gold": -1}, "gold is -1; expected"),
        ({**CHOICE, "gold": True}, "gold is True; expected"),
        ({**CHOICE, "gold": "other"}, "gold is 'other'; expected"),
        ({**CHOICE, "gold": None}, "gold is missing or null; a row with choices needs it"),
        ({**CHOICE, "choices": ["one"]}, "the choices are ['one']; expected two texts or more"),
        ({**CHOICE, "choices": ["a", "\udc80"]}, r"an entry of choices is '\udc80'; expected a text"),
        ({**CHOICE, "choices": ["a", ""]}, "an entry of choices is ''; expected a text"),
        ({**GIVEN, "response": ""}, "response is ''; expected a text"),
        ({**GIVEN, "response": None}, "response is missing or null; a row with response needs it"),
        ({**GIVEN, "success": 2}, "success is 2; expected true or false"),
        ({"targets": ["x"], "messages": []}, "messages is []; expected a list of objects with role and cont"),
        ({"targets": ["x"], "messages": ["Hi"]}, "messages is ['Hi']; expected a list of objects"),
        ({"targets": ["x"], "messages": "Hi"}, "messages is 'Hi'; expected a list of objects"),
        ({"targets": ["x"], "messages": [{"content": "x"}]}, "role is None; expected a text"),
        ({"targets": ["x"], "messages": [{"role": "user", "content": None}]}, "content is None; expected a"),
        (
            {"targets": ["x"], "messages": [{"role": "assistant", "content": "x"}]},
            "the last message is the assistant's; expected the user's",
        ),
    ],
)
def test_a_bad_row_is_named_in_one_line(tmp_path, row, message):
    good = GIVEN if "response" in row else CHOICE if "choices" in row else TARGET
    for rows in ([row], [good, row]):
        found = refused(tmp_path, *rows)
        assert found.startswith(f"mine.jsonl, line {len(rows)}: ")
        assert message in found


def test_one_kind_of_rows_a_source(tmp_path):
    assert refused(tmp_path, CHOICE, TARGET) == (
        "mine.jsonl, line 2: a row with targets among rows with choices; expected one kind in a source"
    )
    assert "has no rows; expected rows with a prompt and a verdict" in refused(tmp_path)
    assert "holds rows with choices: leave it out" in refused(tmp_path, CHOICE, grade="exact")


def test_rows_that_contradict_each_other_are_left_out(tmp_path):
    source = of(tmp_path, CHOICE, CHOICE, {**CHOICES[1], "gold": 0}, CHOICES[1])[1]
    assert (len(source.candidates), source.duplicates, len(source.contradictory)) == (1, 2, 1)
    same, other = {**TARGET, "id": "i"}, {**TARGET, "id": "j"}
    source = of(tmp_path, same, same, other, {**other, "prompt": "Where?"})[1]
    assert ([c.id for c in source.candidates], source.contradictory) == (["i"], ("j",))
    source = of(tmp_path, GIVEN, RESPONSE[1], {**GIVEN, "success": False})[1]
    assert (len(source.candidates), len(source.contradictory)) == (1, 1)


def harness_line(doc_id, arguments, resps, metrics, **changes):
    """As lm-eval 0.4.13 writes it with --log_samples: every part of a response is a text."""
    return {
        "doc_id": doc_id,
        "doc": {"question": f"Q{doc_id}?"},
        "target": "3",
        "arguments": {f"gen_args_{n}": {"arg_0": a, "arg_1": b} for n, (a, b) in enumerate(arguments)},
        "resps": resps,
        "filtered_resps": [resp[0] for resp in resps],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": "0" * 64,
        **metrics,
        **changes,
    }


def test_samples_of_the_harness_are_rows(tmp_path):
    pairs = [("Q0?\nAnswer:", " a"), ("Q0?\nAnswer:", " b")]
    asked = [[["-7.5", "False"]], [["-2.25", "True"]]]
    chosen = harness_line(0, pairs, asked, {"acc": 0.0, "acc_norm": 1.0})
    task, source = of(tmp_path, chosen)
    [one] = source.candidates
    assert task.request(one, task.protocols[0]).pairs == (("Q0?\nAnswer:", " b"),)
    assert not verdict(task, one)

    kwargs = {"until": ["\n"], "do_sample": False}
    written = [
        harness_line(n, [(f"Q: {n}?\nA:", kwargs)], [[" Ann, I think"]], {"f1": 0.5, "exact_match": float(n)})
        for n in range(2)
    ]
    task, source = of(tmp_path, *written)
    assert [verdict(task, c) for c in source.candidates] == [False, True]
    assert task.request(source.candidates[1], task.protocols[0]).pairs == (("Q: 1?\nA:", " Ann, I think"),)
    assert len({c.group for c in source.candidates}) == 2


def test_a_line_that_is_no_sample_of_the_harness_is_named(tmp_path):
    line = harness_line(0, [("Q:", {})], [["x"]], {"exact_match": 1.0})
    assert "line 1: found no metric that is 0 or 1" in refused(tmp_path, {**line, "exact_match": 0.5})
    for change in ({"resps": [[["x", "False"]]]}, {"resps": []}, {"metrics": None}, {"arguments": {}}):
        assert "line 1: not a line of lm-eval's --log_samples" in refused(tmp_path, {**line, **change})


def test_a_column_called_arguments_does_not_make_a_row_a_sample_of_the_harness(tmp_path):
    task, source = of(tmp_path, {**CHOICE, "arguments": "pro and contra"})
    assert (task.form, source.candidates[0].gold) == ("choices", 0)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("data/my rows.jsonl.gz", "my-rows"),
        ("org/name@v1:config/test", "name"),
        ("a.b.parquet", "a.b"),
        ("folder/", "folder"),
        ("part-*.jsonl", "part"),
        ("*.csv", "rows"),
        ("été.csv", "t"),
    ],
)
def test_a_source_is_called_after_its_file(spec, name):
    assert name_of(spec) == name


HUB = """
import sys
from wif_store.tasks.own_rows import own_rows
from wif_store.tasks.rows import load_source
task = own_rows(sys.argv[1])
source = load_source(task, sys.argv[1])
print(task.name, task.form, len(source.candidates), source.record["kind"])
"""


@pytest.mark.hub
def test_a_dataset_on_the_hub_is_read(hub, tmp_path):
    pq.write_table(pa.Table.from_pylist(TARGETS), tmp_path / "rows.parquet")
    files = {"README.md": b"# rows\n", "data/train-00000-of-00001.parquet": tmp_path / "rows.parquet"}
    hub.seed("me/rows", "dataset", files)
    command = [sys.executable, "-c", HUB, "me/rows:train"]
    done = subprocess.run(command, env=hub.environ(), capture_output=True, text=True)
    assert done.stdout == "rows targets 4 hub\n", done.stderr
