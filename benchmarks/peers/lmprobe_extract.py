"""``lmprobe.extract`` over the same prompts: residuals at every token of the same layers, to disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def load(job: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Take ``path``, ``dtype``, ``device``, ``layers``, ``batch_size`` and ``prompts``."""
    from lmprobe.extract import extract

    def run(prompts: list[str]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            out = extract(
                job["path"],
                prompts,
                layers=job["layers"],
                output_dir=folder,
                batch_size=job["batch_size"],
                remote=False,
                device=job["device"],
                backend="local",
                dtype=job["dtype"],
            )
            return {"bytes": sum(p.stat().st_size for p in Path(out).rglob("*") if p.is_file())}

    # It loads the model on first use and keeps it: that is not the time to be measured.
    run(job["prompts"][:1])
    return lambda: run(job["prompts"])


if __name__ == "__main__":
    from benchmarks.peers import serve

    serve(load)
