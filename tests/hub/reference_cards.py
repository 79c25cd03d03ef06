"""The cards that stand in ``cards/``, of manifests made up here; run as a module to rewrite them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wif_store.hub.card import Published, render_card
from wif_store.format.schema import Manifest
from wif_store.tasks import TASKS, get_task

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parents[2] / "cards"
REPO = "whyitfailed/gemma2-acts"
REVISION = "c5ebcd40d208330abc697524c919956e692655cf"
ROWS = {"boolq": 9427, "piqa": 16113, "social_i_qa": 33410, "winogrande": 40398}


def published(task: str, protocol: str = "aligned") -> Published:
    """A task as a push of Gemma-2 2B would describe it; the numbers are examples."""
    definition = get_task(task)
    leaks = task == "social_i_qa" and protocol == "paper"
    counts = dict.fromkeys(
        ("repeated", "contradictory", "crossing_splits", "repeated_across_splits", "prompts_cut"), 0
    )
    manifest = Manifest(
        task=task,
        protocol=definition.protocol(protocol).record(),
        model={
            "kind": "hub",
            "id": "google/gemma-2-2b",
            "revision": REVISION,
            "architecture": "Gemma2ForCausalLM",
            "dtype": "bfloat16",
            "device": "cuda",
            "n_layers": 26,
            "d_model": 2304,
        },
        source={
            "kind": "hub",
            "id": definition.source.repo,
            "config": definition.source.config,
            "split": definition.source.split,
            "revision": "0123456789abcdef0123456789abcdef01234567",
        },
        selection={
            "seed": 0,
            "k": 2000,
            "splits": "seeded",
            "scanned": 6400,
            "rows": ROWS[task],
            "duplicates": 3,
            "contradictory": [],
            "accuracy": 0.6875,
            "answer_shares": [0.5, 0.5],
        },
        splits={
            "train": {"start": 0, "examples": 2000, "successes": 1000},
            "validation": {"start": 2000, "examples": 1000, "successes": 500},
            "test": {"start": 3000, "examples": 1000, "successes": 500},
        },
        audit={"counts": {**counts, "gold_in_prompt": 4000 if leaks else 0}},
        batching={},
        versions={"wif-store": "0.1.0"},
        files={"final_token/c/0/0/0": {"size": 320_000_000}, "sequence/c/0/0/0": {"size": 4_600_000_000}},
    )
    return Published(manifest, tuple(range(26)), (4, 9, 14, 19, 24), 332_000_000)


def results(task: str, manifest: Manifest | None = None) -> dict[str, Any]:
    """A ``results.json`` of one task, cut to what a card shows; the numbers are examples."""
    manifest = manifest or published(task).manifest
    test = {"value": 0.64, "low": 0.57, "high": 0.7}
    return {
        "confidence": 0.999,
        "tasks": [
            {
                "task": task,
                "store": {n: getattr(manifest, n) for n in ("model", "protocol", "source", "selection")},
                "curves": [
                    {
                        "probe": "logistic",
                        "chosen": 1,
                        "points": [{"layer": 4, "test": test | {"value": 0.6}}, {"layer": 9, "test": test}],
                    }
                ],
                "baselines": [{"name": "confidence", "test": {"value": 0.66, "low": 0.59, "high": 0.72}}],
            }
        ],
    }


CARDS: dict[str, Callable[[], str]] = {
    "one_task.md": lambda: render_card(REPO, [published("winogrande")], results("winogrande"), figure=True),
    "four_tasks.md": lambda: render_card(REPO, [published(task) for task in TASKS]),
}

if __name__ == "__main__":
    for name, render in CARDS.items():
        (FOLDER / name).write_text(render(), encoding="utf-8")
