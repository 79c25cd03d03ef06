"""The cards that stand in ``cards/``, of manifests made up here; run as a module to rewrite them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wif_store.format.schema import Manifest
from wif_store.hub.card import Published, render_card
from wif_store.hub.push_plan import BESIDE
from wif_store.store.audit import FLAWS
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
    read = definition.protocol(protocol)
    counts = dict.fromkeys(FLAWS, 0)
    manifest = Manifest(
        task=task,
        outcome="choice",
        protocol={**read.record(), "shows_gold": definition.shows_gold(read)},
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
            "rows": ROWS[task],
            "sha256": "0" * 64,
        },
        selection={
            "seed": 0,
            "per_class": 2000,
            "splits": "seeded",
            "k": 2000,
            "rows": ROWS[task],
            "scanned": 6400,
            "successes": 4400,
            "failures": 2000,
            "duplicates": 3,
            "contradictory": [],
            "accuracy": 0.6875,
            "answer_shares": [0.5, 0.5],
        },
        splits={
            split: {
                "examples": n,
                "tokens": 30 * n,
                "groups": n - 12,
                "scanned": 0,
                "successes": 0,
                "failures": 0,
            }
            for split, n in (("train", 2000), ("validation", 1000), ("test", 1000))
        },
        layers={"final_token": list(range(26)), "sequence": [4, 9, 14, 19, 24]},
        sites={"final_token": "the last token of what is read"},
        audit={
            "counts": {
                **counts,
                "near_duplicates_across_splits": 7,
                "gold_in_prompt": 4000 if definition.shows_gold(read) else 0,
            },
            "named": {},
            "published_source": None,
        },
        batching={},
        versions={"wif-store": "0.1.0"},
        files={
            "train/final_token/c/0/0/0": {"size": 320_000_000},
            "train/sequence/c/0/0/0": {"size": 4_600_000_000},
        },
    )
    return Published(manifest, 332_000_000)


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
        "steering": [
            {
                "task": task,
                "method": "logistic",
                "layer": 9,
                "against_random": {
                    "flips": 0.31,
                    "control": 0.12,
                    "difference": 0.19,
                    "low": 0.08,
                    "high": 0.3,
                    "verdict": "changes more answers than",
                },
            }
        ],
    }


CARDS: dict[str, Callable[[], str]] = {
    "one_task.md": lambda: render_card(REPO, [published("winogrande")], results("winogrande"), beside=BESIDE),
    "four_tasks.md": lambda: render_card(REPO, [published(task) for task in TASKS]),
}

if __name__ == "__main__":
    for name, render in CARDS.items():
        (FOLDER / name).write_text(render(), encoding="utf-8")
