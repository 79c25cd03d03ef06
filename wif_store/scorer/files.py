"""The files that a run writes: results.json, results.md, figures, report.html, scores.parquet, probes/."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from wif_store.errors import ScoreError
from wif_store.scorer.report import sections
from wif_store.scorer.tables import to_markdown

if TYPE_CHECKING:
    from pathlib import Path

    from wif_store.scorer.results import Results

FILES: Final = ("results.json", "results.md", "figure.png", "report.html", "scores.parquet")
STEERING: Final = "steering.png"
"""The figure of a run that steered."""
PROBES: Final = "probes"
"""The folder of the weights of linear probes."""


def write(results: Results, folder: Path, *, command: str | None = None, paper: bool = False) -> list[str]:
    """Write :data:`FILES` into a folder, made if need be, and :data:`STEERING` if something was steered.

    Args:
        results: What a run found.
        folder: Where they go.
        command: What to show as the command that gave them.
        paper: Whether the paper's Figure 1 stands beside them.

    Returns:
        The names of the files.

    Raises:
        OSError: If a file cannot be written.
    """
    import pyarrow.parquet as pq

    from wif_store.scorer.figure import draw, draw_steering
    from wif_store.scorer.page import render_page

    folder.mkdir(parents=True, exist_ok=True)
    record = json.dumps(results.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
    (folder / "results.json").write_text(record + "\n", encoding="utf-8")
    draw(results, folder / "figure.png")
    text = to_markdown(sections(results, paper=paper), command)
    picture = "![Test AUROC by layer](figure.png)\n\n"
    if results.steering:
        draw_steering(results, folder / STEERING)
        picture += f"![Answers under steering]({STEERING})\n\n"
    else:
        (folder / STEERING).unlink(missing_ok=True)  # of an earlier run
    (folder / "results.md").write_text(text.replace("## ", f"{picture}## ", 1), encoding="utf-8")
    (folder / "report.html").write_text(render_page(results), encoding="utf-8")
    pq.write_table(results.scores_table(), folder / "scores.parquet")
    return [*FILES, *([STEERING] if results.steering else [])]


def save_probes(results: Results, folder: Path) -> list[str]:
    """Write the weights of every linear probe into a folder, made if need be.

    A file ``{task}.{probe}.layer{layer}.safetensors`` holds float64 ``mean`` ``[d]``, ``scale`` ``[d]``,
    ``coef`` ``[d]`` and ``intercept`` ``[1]``. What the probe gives to residuals ``x`` ``[n, d]`` is
    ``((x - mean) / scale) @ coef + intercept``. The metadata of the file says task, probe, layer, what the
    probe reads, site, model and the SHA-256 of the store's manifest.

    Returns:
        The names of the files.

    Raises:
        ScoreError: If no probe is linear.
        OSError: If a file cannot be written.

    Example::

        from safetensors.numpy import load_file
        held = load_file("out/probes/winogrande.logistic.layer09.safetensors")
        scores = ((X - held["mean"]) / held["scale"]) @ held["coef"] + held["intercept"]
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if not results.weights:
        names = ", ".join(dict.fromkeys(curve.probe for task in results.tasks for curve in task.curves))
        msg = f"--save-probes: no weights to save in {names}; a linear probe of residuals has: logistic"
        raise ScoreError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for one in results.weights:
        store = results.task(one.task).store
        metadata = {
            "task": one.task,
            "probe": one.probe,
            "layer": str(one.layer),
            "reads": one.reads,
            "site": str(results.settings.get("site", "")),
            "model": str(store["model"].get("id", "")),
            "manifest_sha256": str(store["manifest_sha256"]),
        }
        name = f"{_plain(one.task)}.{_plain(one.probe)}.layer{one.layer:02d}.safetensors"
        if name in written:
            msg = f"--save-probes: two probes would be saved as {name}; give them other names"
            raise ScoreError(msg)
        try:
            save_file(dict(one.arrays), folder / name, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        written.append(name)
    return written


def _plain(name: str) -> str:
    """A probe's name as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
