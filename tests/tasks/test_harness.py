"""Tasks of the evaluation harness over made-up rows: its requests, and its verdicts on answers."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import tiny
from tests.support.command import run
from tests.support.manifests import manifest_of
from wif_store.errors import SourceError, TaskError
from wif_store.tasks.judges import Answer
from wif_store.tasks.lookup import TaskOptions, find_tasks, task_of
from wif_store.tasks.rows import load_source

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

# The harness and the datasets library warn of their own code.
pytestmark = pytest.mark.filterwarnings("default")

WRONG = {"distractor1": "a plant", "distractor2": "ore", "distractor3": "wood"}
SCIQ = [
    {"question": f"What is {n}?", **WRONG, "correct_answer": f"gas {n}", "support": f" About {n}."}
    for n in range(3)
]
ARC = [
    {
        "id": f"i{n}",
        "question": f"Which is {n}?",
        "choices": {"text": ["salt", "ice", "fog"], "label": ["A", "B", "C"]},
        "answerKey": "ABC"[n],
    }
    for n in range(3)
]
ARC_SPLITS = ("train", "validation", "test")
MMLU = [{"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 1, "subject": "any"}]
NQ = [{"question": f"who is number {n}", "answer": [f"Ann {n}", "The Bo"]} for n in range(3)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The path of the rows of a task; ``whole`` is a folder with the splits of sciq."""
    import datasets

    folder = tmp_path_factory.mktemp("harness")
    datasets.disable_progress_bars()
    for name, made in (("sciq", SCIQ), ("arc", ARC), ("nq_open", NQ), ("mmlu", MMLU)):
        tiny.write_rows(folder / f"{name}.jsonl", made)
    parts = {"train": SCIQ[:2], "test": SCIQ[2:]}
    whole = datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in parts.items()})
    whole.save_to_disk(folder / "whole")
    yield lambda name: str(folder / (name if name == "whole" else f"{name}.jsonl"))
    datasets.enable_progress_bars()


def tasks(name, source, **options):
    return find_tasks(f"lm_eval/{name}", TaskOptions(**options), source)


def loaded(name, source, **options):
    [task] = tasks(name, source, **options)
    return task, task.protocols[0], load_source(task, source)


def refused(*arguments, **options):
    with pytest.raises((TaskError, SourceError)) as error:
        tasks(*arguments, **options)
    assert str(error.value).isprintable()
    return str(error.value)


def test_choices_are_asked_as_the_harness_asks_them(rows):
    task, protocol, source = loaded("sciq", rows("sciq"))
    assert (task.name, protocol.site, protocol.outcome) == ("lm_eval-sciq", "context", "choice")
    assert [(c.gold, c.source_row) for c in source.candidates] == [(3, 0), (3, 1), (3, 2)]
    first = source.candidates[0]
    assert first.choices == (*WRONG.values(), "gas 0")
    request = task.request(first, protocol)
    context = "About 0.\nQuestion: What is 0?\nAnswer:"
    assert request.pairs == tuple((context, f" {choice}") for choice in first.choices)
    assert len({c.id for c in source.candidates} | {c.group for c in source.candidates}) == 6
    assert source.record["id"] == "sciq.jsonl"
    assert source.record["rows"] == 3


def test_the_verdict_on_choices_is_the_harnesss(rows):
    task, protocol, source = loaded("arc_easy", rows("arc"))
    assert [c.gold for c in source.candidates] == [0, 1, 2]
    judge = task.judge(source.candidates[1], protocol)
    assert judge(Answer(1, (-5.0, -1.0, -3.0))).success
    assert not judge(Answer(2, (-5.0, -3.0, -1.0))).success
    assert task.graded_by(protocol) == "lm_eval: acc, filter none"


def test_another_metric_may_give_another_verdict(rows):
    answer = Answer(1, (-9.0, -3.0, -9.0, -4.0))  # per character: ore -1.0, gas 0 -0.8
    found = []
    for metric in ("acc", "acc_norm"):
        task, protocol, source = loaded("sciq", rows("sciq"), metric=metric)
        found.append(task.judge(source.candidates[0], protocol)(answer).success)
        assert task.record(protocol)["verdict"] == metric
    assert found == [False, True]


def test_an_answer_is_written_and_judged_as_the_harness_does_it(rows):
    task, protocol, source = loaded("nq_open", rows("nq_open"))
    assert (protocol.outcome, protocol.generation.stop) == ("response", ("\n", ".", ","))
    assert (protocol.generation.temperature, protocol.generation.max_new_tokens) == (0.0, 256)
    first = source.candidates[0]
    context = "Answer these questions:\n\nQ: who is number 0?\nA:"
    assert task.request(first, protocol).pairs == ((context, ""),)
    assert first.targets == ("Ann 0", "The Bo")
    judge = task.judge(first, protocol)
    verdicts = [judge(Answer(0, (-1.0,), text)) for text in (" ann 0", "Bo", "Ann 1", "", "Ann 0 or Bo")]
    assert [verdict.success for verdict in verdicts] == [True, True, False, False, False]
    assert verdicts[0].answer == "ann 0"
    assert task.graded_by(protocol) == "lm_eval: exact_match, filter remove_whitespace"


def test_a_tag_and_a_group_stand_for_their_tasks(rows):
    assert [t.name for t in tasks("ai2_arc", rows("arc"))] == ["lm_eval-arc_challenge", "lm_eval-arc_easy"]


def test_a_group_of_groups_written_in_place_stands_for_their_tasks(rows):
    parts = [f"mmlu_{part}_continuation" for part in ("stem", "other", "social_sciences", "humanities")]
    expected = [task.name for part in parts for task in tasks(part, rows("mmlu"))]
    assert len(expected) == 57
    assert [task.name for task in tasks("mmlu_continuation", rows("mmlu"))] == expected


def test_what_is_no_name_is_answered_with_near_ones(rows):
    found = refused("arc_esy", rows("arc"))
    assert found.startswith("the harness has no task 'arc_esy'; did you mean ")
    assert "arc_easy" in found
    assert "did you mean" not in refused("zqzqzqzq", rows("arc"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "wikitext",
            {},
            "wikitext of the harness is a task of loglikelihood_rolling; expected one of: multi",
        ),
        ("lambada_openai", {}, "lambada_openai of the harness is a task of loglikelihood; expected one of:"),
        ("sciq", {"metric": "f1"}, "sciq of the harness has no metric 'f1'; its metrics are acc, acc_norm: "),
        ("sciq", {"filter": "f"}, "sciq of the harness has no filter 'f'; expected one of: none"),
        ("arc_easy", {}, "arc_easy of the harness cannot be opened over the rows of "),
    ],
)
def test_a_task_that_gives_no_verdict_on_these_rows_is_refused(rows, name, options, message):
    assert refused(name, rows("sciq"), **options).startswith(message)


def test_rows_that_are_not_there_are_said(rows):
    assert refused("sciq", "nosuch.jsonl").startswith("no file or folder of rows nosuch.jsonl; expected what")


def test_examples_before_a_prompt_are_from_the_split_that_the_task_draws_them_from(rows):
    found = refused("sciq", rows("sciq"), fewshot=1)
    assert found.startswith("sciq draws its few-shot examples from the split train, and ")
    assert "has no splits: give a folder that save_to_disk wrote of the whole dataset" in found
    plain = loaded("sciq", rows("sciq"))
    none = loaded("sciq", rows("sciq"), fewshot=0)
    assert none[0].request(none[2].candidates[0], none[1]) == plain[0].request(
        plain[2].candidates[0], plain[1]
    )


def test_examples_stand_before_a_prompt(rows):
    task, protocol, source = loaded("sciq", rows("whole"), fewshot=1)
    [one] = source.candidates
    context = task.request(one, protocol).pairs[0][0]
    assert context.endswith("\n\nAbout 2.\nQuestion: What is 2?\nAnswer:")
    assert context.startswith(
        ("About 0.\nQuestion: What is 0?\nAnswer: gas 0", "About 1.\nQuestion: What is 1?\nAnswer: gas 1")
    )


def test_the_split_that_is_evaluated_is_recorded(rows):
    _, _, source = loaded("sciq", rows("whole"))
    assert [c.row["doc"]["question"] for c in source.candidates] == ["What is 2?"]
    assert source.record["split"] == "test"


def test_a_store_says_which_task_it_was(rows):
    task, protocol, source = loaded("nq_open", rows("nq_open"))
    record = {**protocol.record(), **task.record(protocol)}
    manifest = replace(manifest_of(), task=task.name, protocol=json.loads(json.dumps(record)))
    again = task_of(manifest, rows("nq_open"))
    assert again.name == task.name
    assert again.record(protocol) == task.record(protocol)
    assert load_source(again, None).candidates == source.candidates


FRESH = """
import pickle, sys
judge, answers = pickle.load(sys.stdin.buffer)
print([(verdict.success, verdict.answer) for verdict in map(judge, answers)])
"""


@pytest.mark.slow
def test_a_worker_gives_the_same_verdicts(rows):
    """A worker of Ray gets judges alone: it has no task and no rows."""
    task, protocol, source = loaded("nq_open", rows("nq_open"))
    judge = task.judge(source.candidates[1], protocol)
    answers = [Answer(0, (-1.0,), text) for text in (" ann 1 ", "the bo", "Ann 0", "")]
    here = [(verdict.success, verdict.answer) for verdict in map(judge, answers)]
    assert [success for success, _ in here] == [True, True, False, False]
    sent = pickle.dumps((judge, answers))
    done = subprocess.run([sys.executable, "-c", FRESH], input=sent, capture_output=True)
    assert done.stdout.decode() == f"{here}\n", done.stderr.decode()


def test_tasks_are_listed():
    assert "lm_eval/sciq\n" in run("tasks", "sciq").stdout
    assert "piqa: aligned, mcq" in run("tasks", "piqa").stdout
    whole = run("tasks")
    assert whole.returncode == 0
    lines = whole.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:4]] == ["boolq", "piqa", "social_i_qa", "winogrande"]
    assert lines[4].endswith("of the harness; name a word to list them")
    assert len(lines) == 5


WITHOUT = """
import sys
sys.modules["lm_eval"] = None
from wif_store.cli.app import main
sys.argv = ["wif-store", "tasks", "piqa"]
main()
"""


def test_without_the_harness_our_tasks_are_listed():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    ours, harness = done.stdout.splitlines()
    assert ours.startswith("piqa: aligned, mcq")
    assert harness.startswith("lm_eval/...: tasks of the harness need lm-eval (lm_eval")
    assert harness.endswith("is missing): pip install 'wif-store[harness]'")


FROM_THE_HUB = """
import json, sys
from wif_store.errors import WifError
from wif_store.tasks.lookup import TaskOptions, find_tasks
from wif_store.tasks.rows import load_source
for name in sys.argv[1:]:
    try:
        [task] = find_tasks(f"lm_eval/{name}", TaskOptions(), None)
        print(json.dumps(load_source(task, None).record))
    except WifError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.hub
def test_a_dataset_of_the_hub_is_recorded_with_its_commit(hub, tmp_path):
    pq.write_table(pa.Table.from_pylist(ARC), tmp_path / "rows.parquet")
    files = {f"ARC-Easy/{split}-00000-of-00001.parquet": tmp_path / "rows.parquet" for split in ARC_SPLITS}
    config = {
        "config_name": "ARC-Easy",
        "data_files": [{"split": split, "path": f"ARC-Easy/{split}-*"} for split in ARC_SPLITS],
    }
    card = f"---\n{json.dumps({'configs': [config]})}\n---\n"
    commit = hub.seed("allenai/ai2_arc", "dataset", {"README.md": card.encode(), **files})

    def call(**env):
        command = [sys.executable, "-c", FROM_THE_HUB, "arc_easy", "sciq"]
        done = subprocess.run(command, env=hub.environ(**env), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        arc, sciq = done.stdout.splitlines()
        assert sciq.startswith("sciq of the harness cannot be opened over its dataset (")
        return json.loads(arc)

    record = call()
    assert (record["kind"], record["id"], record["rows"]) == ("harness", "allenai/ai2_arc", 3)
    assert record["revision"] == commit.sha
    assert call(HF_HUB_OFFLINE="1") == record
