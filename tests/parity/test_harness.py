"""Our answers are those of lm-eval, example by example, in float32 under the ``aligned`` protocol.

An answer may differ only where lm-eval's two best choices are within 1e-4 nats of each other, a tie.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wif_store.extract.engine import open_engine
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

EXAMPLES = 100
TIE = 1e-4
NAMES = {"winogrande": "winogrande", "piqa": "piqa", "boolq": "boolq", "social_i_qa": "social_iqa"}


def harness_task(name: str, rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The harness's own task, over our rows: only where the data come from is changed."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    path = TaskManager().task_index[NAMES[name]].yaml_path
    config = dict(load_yaml(path, resolve_func=True, recursive=True))
    data = folder / f"{name}.jsonl"
    # super_glue's BoolQ calls the answer `label`, as a number.
    ours = [{**row, "label": int(row["answer"])} if name == "boolq" else row for row in rows]
    data.write_text("".join(json.dumps(row) + "\n" for row in ours))
    for key in ("dataset_name", "training_split", "test_split", "tag"):
        config.pop(key, None)
    return config | {
        "task": f"wif_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "validation_split": "validation",
    }


def harness_scores(name: str, rows: list[dict[str, Any]], model: Any, folder: Path) -> list[np.ndarray]:
    """Of each row, the log-likelihood that the harness gives each choice."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model.causal_lm, tokenizer=model.tokenizer, batch_size=8)
    result = simple_evaluate(
        lm, tasks=[harness_task(name, rows, folder)], log_samples=True, bootstrap_iters=0
    )
    samples = sorted(result["samples"][f"wif_{name}"], key=lambda sample: sample["doc_id"])
    responses = [[r[0] for r in sample["resps"]] for sample in samples]
    return [
        np.array([float(r[0] if isinstance(r, list | tuple) else r) for r in given]) for given in responses
    ]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_the_harness(
    name: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (requirements/peers.txt)")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = get_task(name)
    protocol = task.protocol("aligned")
    candidates = load_source(task, str(shared_data / f"{name}.jsonl")).candidates[:EXAMPLES]
    engine = open_engine("gemma3-270m", protocol, layers="0", sequence_layers="none", dtype="float32")
    records = engine.extract([task.request(candidate, protocol) for candidate in candidates])
    model = engine.extract.model  # type: ignore[attr-defined]
    theirs = harness_scores(name, [dict(c.row) for c in candidates], model, tmp_path)

    different = []
    for candidate, record, scores in zip(candidates, records, theirs, strict=True):
        assert np.abs(record.logprobs - scores).max() < 1e-2, candidate.id
        second, best = np.sort(scores)[-2:]
        if record.prediction != int(scores.argmax()) and best - second >= TIE:
            different.append(candidate.id)
    assert different == []
