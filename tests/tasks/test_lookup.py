"""What ``--task`` names, which options suit it, and the task that a store records."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace

import pytest

import wif_store.tasks.lookup
from tests.support import tiny
from tests.support.manifests import manifest_of
from wif_store.errors import SourceError, StoreError, TaskError
from wif_store.tasks import TASKS, get_task, names
from wif_store.tasks.lookup import TaskOptions, find_tasks, parse_columns, task_of
from wif_store.tasks.own_rows import OwnRows, own_rows

ROWS = [{"question": f"Who is {n}?", "targets": [f"Ann {n}"]} for n in range(3)]
NAMED = {"prompt": "question"}


@pytest.fixture
def rows(tmp_path):
    return str(tiny.write_rows(tmp_path / "mine.jsonl", ROWS))


def refused(call, *arguments, **options):
    with pytest.raises((TaskError, SourceError)) as error:
        call(*arguments, **options)
    assert str(error.value).isprintable()
    return str(error.value)


def test_the_examples_of_the_docstrings_run():
    found = doctest.testmod(wif_store.tasks.lookup)
    assert found.attempted
    assert not found.failed


def test_names_of_the_registry_are_found():
    assert find_tasks("piqa", TaskOptions(), None) == [get_task("piqa")]
    assert find_tasks("piqa", TaskOptions(), "rows.jsonl") == [get_task("piqa")]
    assert find_tasks("all", TaskOptions(), None) == list(TASKS.values())


def test_a_file_or_a_folder_is_a_task_of_own_rows(tmp_path, rows):
    options = TaskOptions(grade="contains", columns=NAMED)
    [task] = find_tasks(rows, options, None)
    assert task == OwnRows("mine", "targets", "contains", (("prompt", "question"),))
    [task] = find_tasks(str(tmp_path / "*.jsonl"), options, None)
    assert (task.form, task.name) == ("targets", "rows")


def test_a_file_without_a_suffix_that_is_known_is_said(tmp_path):
    (tmp_path / "notes").write_text("")
    assert "is not a source; expected .jsonl" in refused(
        find_tasks, str(tmp_path / "notes"), TaskOptions(), None
    )
    assert "no file or folder nosuch.csv" in refused(find_tasks, "nosuch.csv", TaskOptions(), None)


def test_a_name_that_is_none_is_answered_with_near_ones():
    near = refused(find_tasks, "winogrand", TaskOptions(), None)
    assert near.startswith("no task 'winogrand'; did you mean winogrande? expected one of: boolq, piqa, ")
    far = refused(find_tasks, "zzz", TaskOptions(), None)
    assert far.startswith("no task 'zzz'; expected one of: boolq, piqa, ")
    assert "lm_eval/NAME (`wif-store tasks` lists them), or a file of your own rows" in far


@pytest.mark.parametrize(
    ("spec", "option", "message"),
    [
        ("piqa", {"grade": "exact"}, "--grade is for your own rows, and --task is piqa: leave it out"),
        ("all", {"columns": NAMED}, "--columns is for your own rows, and --task is all: leave it out"),
        ("lm_eval/sciq", {"grade": "exact"}, "--grade is for your own rows, and --task is lm_eval/sciq: "),
        ("piqa", {"fewshot": 0}, "--fewshot is for tasks of the harness, and --task is piqa: leave it out"),
        ("piqa", {"metric": "acc"}, "--metric is for tasks of the harness, and --task is piqa: leave it out"),
        ("x.jsonl", {"filter": "f"}, "--filter is for tasks of the harness, and --task is x.jsonl: leave it"),
        ("x.jsonl", {"fewshot": 2}, "--fewshot is for tasks of the harness, and --task is x.jsonl: leave it"),
    ],
)
def test_an_option_of_another_kind_of_task_is_refused(spec, option, message):
    assert refused(find_tasks, spec, TaskOptions(**option), None).startswith(message)


def test_own_rows_take_no_other_source(rows):
    found = refused(find_tasks, rows, TaskOptions(columns=NAMED), "other.jsonl")
    assert found == f"--task {rows} names the rows, and --source other.jsonl too: leave --source out"


def test_a_caller_decides_how_an_answer_is_written(rows):
    task = own_rows(rows, columns=NAMED)
    plain = TaskOptions().protocol_of(task, 5)
    assert plain == task.protocols[0]
    options = TaskOptions(cot=True, stop=("END",), max_new_tokens=9, temperature=0.5, samples=3)
    made = options.protocol_of(task, 5)
    expected = replace(
        task.protocol("cot").generation, stop=("END",), max_new_tokens=9, temperature=0.5, samples=3, seed=5
    )
    assert made == replace(task.protocol("cot"), generation=expected)
    assert made == replace(options, protocol="cot").protocol_of(task, 5)
    # Nothing is drawn at temperature 0: the seed says nothing, and stores of other seeds are the same.
    assert TaskOptions(temperature=0.0).protocol_of(task, 5) == TaskOptions().protocol_of(task, 6)
    aligned = get_task("piqa").protocol("aligned")
    assert TaskOptions().protocol_of(get_task("piqa"), 5) == aligned


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("piqa", {"max_new_tokens": 9}, "--max-new-tokens is for answers that the model writes, and it wri"),
        ("piqa", {"protocol": "mcq", "stop": ("x",)}, "--stop is for answers that the model writes, and it"),
        ("piqa", {"cot": True, "protocol": "mcq"}, "--cot is the protocol cot, and --protocol is mcq: leave"),
        ("piqa", {"protocol": "x"}, "task piqa has no protocol 'x'; expected one of: aligned, mcq, "),
        ("mine", {"samples": 2}, "--samples 2 would be the same answer each time: pass --temperature, as"),
        ("mine", {"samples": 0, "temperature": 1.0}, "--max-new-tokens 64, --samples 0, --temperature 1: "),
        ("mine", {"max_new_tokens": 0}, "--max-new-tokens 0, --samples 1, --temperature 0: expected at"),
        ("mine", {"temperature": -1.0}, "--max-new-tokens 64, --samples 1, --temperature -1: expected"),
        ("mine", {"temperature": float("nan")}, "--max-new-tokens 64, --samples 1, --temperature nan: exp"),
    ],
)
def test_what_a_protocol_cannot_do_is_refused(rows, name, options, message):
    task = get_task("piqa") if name == "piqa" else own_rows(rows, columns=NAMED)
    assert refused(TaskOptions(**options).protocol_of, task, 0).startswith(message)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("prompt=question,gold=label", {"prompt": "question", "gold": "label"}),
        (" prompt = the question , ", {"prompt": "the question"}),
        ("prompt=a=b", {"prompt": "a=b"}),
        ("", {}),
    ],
)
def test_columns_are_parsed(text, columns):
    assert parse_columns(text) == columns


@pytest.mark.parametrize("text", ["prompt", "prompt=", "=question", "prompt=a,prompt=b"])
def test_what_names_no_columns_is_refused(text):
    assert refused(parse_columns, text).startswith(f"--columns is {text!r}; expected NAME=COLUMN,..., as in")


def recorded(name, protocol):
    # A manifest is JSON.
    return replace(manifest_of(), task=name, protocol=json.loads(json.dumps(protocol)))


def test_the_task_of_a_store_is_opened_again(rows):
    assert task_of(recorded("piqa", {"name": "mcq"}), None) == get_task("piqa")
    assert task_of(recorded("nosuch", {"name": "mcq"}), None) is None
    for task in (own_rows(rows, columns=NAMED, grade="regex:(.)"), OwnRows("mine", "choices")):
        protocol = task.protocols[0]
        again = task_of(recorded("mine", {**protocol.record(), **task.record(protocol)}), None)
        assert again == task
        assert again.protocol(protocol.name) == protocol


def test_own_rows_that_are_called_like_a_task_of_the_registry_are_own_rows():
    task = OwnRows("piqa", "targets")
    assert task_of(recorded("piqa", task.record(task.protocols[0])), None) == task


@pytest.mark.parametrize(
    "protocol",
    [
        {"rows": None},
        {"rows": {}},
        {"rows": {"form": "targets", "grade": "exact", "columns": 3}},
        {"rows": {"form": "nosuch", "grade": "exact", "columns": {}}},
        {"harness": {"name": "sciq"}},
    ],
)
def test_a_record_that_cannot_be_used_is_said(protocol):
    with pytest.raises(StoreError, match="what the store says of its task cannot be used") as error:
        task_of(recorded("mine", protocol), None)
    assert str(error.value).isprintable()


def test_a_task_of_another_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    """As an installed package has it: a module, and the metadata that name it."""
    names_of = {"harbour": "harbour", "wrong_name": "harbour", "broken": "absent"}
    (tmp_path / "port.py").write_text(
        "from dataclasses import replace\nfrom wif_store.tasks.piqa import TASK\n"
        "harbour = replace(TASK, name='harbour')\n"
    )
    info = tmp_path / "port-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: port\nVersion: 1.0\n")
    lines = "".join(f"{name} = port:{attribute}\n" for name, attribute in names_of.items())
    (info / "entry_points.txt").write_text(f"[wif_store.tasks]\n{lines}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert names()[-3:] == ["broken", "harbour", "wrong_name"]
    [task] = find_tasks("harbour", TaskOptions(), None)
    assert task.name == "harbour"
    with pytest.raises(TaskError, match="task broken of port:absent cannot be loaded"):
        find_tasks("broken", TaskOptions(), None)
    with pytest.raises(TaskError, match="is registered as task wrong_name, and its name is 'harbour'"):
        find_tasks("wrong_name", TaskOptions(), None)
