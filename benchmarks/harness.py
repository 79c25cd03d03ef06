"""Compare our answers with those of lm-eval, example by example, on the same model and rows.

    pip install lm-eval            # beside wif-store[build]
    python benchmarks/harness.py --data FOLDER_OF_JSONL --limit 300

The rows are ``{task}.jsonl`` in the Hub's own field names. Both run in float32 under the ``aligned``
protocol; an answer may differ only where lm-eval's two best choices are within 1e-4 nats, a tie.
Prints a table and, with ``--json``, writes it; the exit status is 1 if an answer differs without a tie.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from wif_store.extract.engine import open_engine
from wif_store.tasks.rows import load_source
from wif_store.tasks import TASKS

TIE = 1e-4
HARNESS = {"winogrande": "winogrande", "piqa": "piqa", "boolq": "boolq", "social_i_qa": "social_iqa"}


def harness_task(name: str, rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The harness's own task, over our rows: only where the data come from is changed."""
    path = TaskManager().task_index[HARNESS[name]].yaml_path
    config = dict(load_yaml(path, resolve_func=True, recursive=True))
    data = folder / f"{name}.jsonl"
    with data.open("w") as file:
        for row in rows:
            # super_glue's BoolQ calls the answer `label`, as a number.
            file.write(json.dumps({**row, "label": int(row["answer"])} if name == "boolq" else row) + "\n")
    for key in ("dataset_name", "training_split", "test_split", "tag"):
        config.pop(key, None)
    return config | {
        "task": f"wif_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "validation_split": "validation",
    }


def compare(name: str, data: Path, limit: int, model: str, batch: int) -> dict[str, Any]:
    """Run both over the first ``limit`` distinct rows of a task."""
    task = TASKS[name]
    candidates = load_source(task, str(data / f"{name}.jsonl")).candidates[:limit]
    engine = open_engine(model, task.protocol("aligned"), layers="0", sequence_layers="none", dtype="float32")
    started = time.monotonic()
    records = engine.extract([task.request(c, task.protocol("aligned")) for c in candidates])
    ours_seconds = time.monotonic() - started
    loaded = engine.extract.model  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        config = harness_task(name, [dict(c.row) for c in candidates], Path(folder))
        lm = HFLM(pretrained=loaded.causal_lm, tokenizer=loaded.tokenizer, batch_size=batch)
        started = time.monotonic()
        result = simple_evaluate(lm, tasks=[config], log_samples=True, bootstrap_iters=0)
        theirs_seconds = time.monotonic() - started
    samples = sorted(result["samples"][f"wif_{name}"], key=lambda s: s["doc_id"])
    theirs = [
        np.array([float(r[0][0] if isinstance(r[0], list | tuple) else r[0]) for r in s["resps"]])
        for s in samples
    ]
    same = ties = 0
    worst = 0.0
    different = []
    for candidate, record, scores in zip(candidates, records, theirs, strict=True):
        worst = max(worst, float(np.abs(record.logprobs - scores).max()))
        best, second = np.sort(scores)[::-1][:2]
        if record.prediction == int(scores.argmax()):
            same += 1
        elif best - second < TIE:
            ties += 1
        else:
            different.append(candidate.id)
    return {
        "task": name,
        "examples": len(records),
        "same": same,
        "ties": ties,
        "different": different,
        "largest_difference_nats": worst,
        "accuracy": float(
            np.mean([r.prediction == c.gold for r, c in zip(records, candidates, strict=True)])
        ),
        "harness_accuracy": float(result["results"][f"wif_{name}"]["acc,none"]),
        "seconds": ours_seconds,
        "harness_seconds": theirs_seconds,
    }


def main() -> None:
    """Compare every task and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--tasks", default=",".join(HARNESS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    print("| task | examples | same answer | ties | different | largest gap (nats) | accuracy | lm-eval |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.tasks.split(","):
        r = compare(name, args.data, args.limit, args.model, args.batch)
        results.append(r)
        print(
            f"| {name} | {r['examples']} | {r['same']} | {r['ties']} | {len(r['different'])} "
            f"| {r['largest_difference_nats']:.1e} | {r['accuracy']:.4f} | {r['harness_accuracy']:.4f} |",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(any(r["different"] for r in results))


if __name__ == "__main__":
    main()
