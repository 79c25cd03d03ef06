"""Manifests -> the dataset card: what the Hub, ``datasets`` and a reader need to know, from one template."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.store.audit import FLAWS
from wif_store.errors import PublishError, one_line
from wif_store.format.schema import SPLITS, residual_columns
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wif_store.format.schema import Manifest

ALL: Final = "all"
"""The config that ``load_dataset(repo)`` means."""
SITES: Final = {
    "context": "the context",
    "preferred": "the context and the preferred continuation",
    "prompt": "a prompt of its own",
}
COLUMNS: Final = (
    ("id", "string", "stable id, a hash of the fields that form the prompt"),
    ("task", "string", "the task it belongs to"),
    ("prompt", "string", "the exact text whose residuals are stored"),
    ("choices", "list of string", "the answers to choose from"),
    ("gold", "int8", "index of the right choice"),
    ("prediction", "int8", "index of the choice the model prefers"),
    ("success", "int8", "1 where prediction equals gold, else 0: what a probe is to predict"),
    ("choice_logprobs", "list of float64", "log-likelihood of each choice, in nats"),
    ("choice_tokens", "list of int32", "tokens that each log-likelihood runs over"),
    ("final_token_position", "int32", "index of the final token in its sequence"),
    ("source_row", "int64", "0-based row of the source"),
)
SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


@dataclass(frozen=True, slots=True)
class Published:
    """One task of a dataset, as far as the card is concerned.

    Attributes:
        manifest: Its store's manifest.
        layers: Blocks that have a residual column.
        sequence_layers: Blocks that have residuals at every token.
        view_bytes: Size of its Parquet files.
    """

    manifest: Manifest
    layers: tuple[int, ...]
    sequence_layers: tuple[int, ...]
    view_bytes: int

    @property
    def task(self) -> str:
        """The task's name."""
        return self.manifest.task

    @property
    def identity(self) -> dict[str, Any]:
        """What the tasks of one dataset have in common: together they are one table."""
        model, protocol = self.manifest.model, self.manifest.protocol
        return {
            "model": f"{model['id']}@{model['revision']}",
            "protocol": f"{protocol['name']} v{protocol['version']}",
            "layers": ", ".join(map(str, self.layers)),
            "width": model["d_model"],
        }


def render_card(
    repo: str, tasks: Sequence[Published], results: Mapping[str, Any] | None = None, *, figure: bool = False
) -> str:
    """The card of a dataset.

    Args:
        repo: ``OWNER/NAME``.
        tasks: Its tasks, at least one; their ``identity`` is the same.
        results: The content of a ``results.json`` measured on these very stores, if there is one.
        figure: Whether ``results/figure.png`` stands beside it.
    """
    import yaml
    from jinja2 import Environment, StrictUndefined

    tasks = sorted(tasks, key=lambda task: task.task)
    first = tasks[0]
    model = dict(first.manifest.model)
    columns = residual_columns(first.layers, model["n_layers"])
    middle = len(first.layers) // 2
    sequence_layers = sorted({layer for task in tasks for layer in task.sequence_layers})
    values = {
        "metadata": yaml.safe_dump(_metadata(repo, tasks), sort_keys=False, allow_unicode=True, width=100),
        "repo": repo,
        "name": repo.split("/")[1],
        "key": re.sub(r"\W+", "_", repo),
        "model": {**model, "short": model["id"].split("/")[-1]},
        "gemma": "gemma" in model["id"].lower(),
        "protocol": first.manifest.protocol,
        "every_layer": len(first.layers) == model["n_layers"],
        "example": {
            "task": first.task,
            "column": columns[middle],
            "sequence_layer": first.sequence_layers[len(first.sequence_layers) // 2]
            if first.sequence_layers
            else None,
        },
        "sequences": ", ".join(map(str, sequence_layers)),
        "columns": [
            *({"name": name, "type": kind, "meaning": meaning} for name, kind, meaning in COLUMNS),
            {
                "name": f"{columns[0]}` ... `{columns[-1]}",
                "type": f"{model['d_model']} x float32",
                "meaning": "residual stream at the final token, after that (0-based) block",
            },
        ],
        "tasks": [_describe(task) for task in tasks],
        "audit": [
            (meaning, [task.manifest.audit["counts"][flaw] for task in tasks])
            for flaw, meaning in FLAWS.items()
        ],
        "notes": list(_notes(tasks)),
        "results": {**_results(results), "figure": figure} if results else None,
        "same_context": bool(sequence_layers),
        "versions": ", ".join(sorted({task.manifest.versions["wif-store"] for task in tasks})),
    }
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(_template()).render(values)


def check_card(card: str, files: Iterable[str]) -> None:
    """Refuse a card with which ``load_dataset`` would not find the data, or would find other files.

    Without ``configs`` the client guesses, and loads the JSON metadata of the Zarr groups as rows.

    Raises:
        PublishError: If a config is missing, or names files that are not among ``files``.
    """
    import yaml

    head = re.match(r"---\n(.*?\n)---\n", card, re.DOTALL)
    try:
        metadata = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError as error:
        msg = f"the card's YAML cannot be read ({one_line(error)})"
        raise PublishError(msg) from None
    configs = metadata.get("configs") if isinstance(metadata, dict) else None
    if not configs:
        msg = "the card has no `configs`: without them load_dataset would read the wrong files as rows"
        raise PublishError(msg)
    if sum(bool(config.get("default")) for config in configs) != 1:
        msg = "the card needs exactly one config with `default: true`, for load_dataset without a config"
        raise PublishError(msg)
    files = list(files)
    for config in configs:
        for entry in config["data_files"]:
            if not fnmatch.filter(files, entry["path"]):
                name = config["config_name"]
                msg = f"config {name} of the card names {entry['path']}: no such file is published"
                raise PublishError(msg)


def matching_results(results: Mapping[str, Any], tasks: Iterable[Published]) -> bool:
    """Whether results were measured on these very stores, and not on others of the same name."""
    manifests = {task.task: task.manifest for task in tasks}
    parts = ("model", "protocol", "source", "selection")
    return all(
        entry["task"] in manifests
        and all(entry["store"].get(part) == getattr(manifests[entry["task"]], part) for part in parts)
        for entry in results["tasks"]
    )


def _template() -> str:
    """The template: inside an installed package, or in ``cards/`` of a checkout."""
    name = Path("cards", "dataset_card.md.jinja")
    here = Path(__file__).parents[1]
    path = here / name if (here / name).is_file() else here.parent / name
    return path.read_text(encoding="utf-8")


def _metadata(repo: str, tasks: Sequence[Published]) -> dict[str, Any]:
    examples = sum(_examples(task) for task in tasks)
    configs = [_config(ALL, "*") | {"default": True}, *(_config(task.task, task.task) for task in tasks)]
    infos = [_info(ALL, tasks), *(_info(task.task, [task]) for task in tasks)]
    return {
        "pretty_name": repo.split("/")[1],
        "license": "other",
        "license_name": "sources-and-model-terms",
        "license_link": f"https://huggingface.co/datasets/{repo}#licences",
        "language": ["en"],
        "task_categories": ["multiple-choice", "feature-extraction"],
        "size_categories": [next((name for most, name in SIZES if examples < most), "n>1M")],
        "source_datasets": sorted(
            {t.manifest.source["id"] for t in tasks if t.manifest.source["kind"] == "hub"}
        ),
        "tags": [
            "interpretability",
            "probing",
            "activations",
            "residual-stream",
            "failure-prediction",
            "wif-store",
        ],
        "configs": configs,
        "dataset_info": infos,
    }


def _config(name: str, folder: str) -> dict[str, Any]:
    files = [{"split": split, "path": f"data/{folder}/{split}-*.parquet"} for split in SPLITS]
    return {"config_name": name, "data_files": files}


def _info(name: str, tasks: Sequence[Published]) -> dict[str, Any]:
    model = tasks[0].manifest.model
    kinds = {
        "list of string": {"list": "string"},
        "list of float64": {"list": "float64"},
        "list of int32": {"list": "int32"},
    }
    features = [{"name": column, **kinds.get(kind, {"dtype": kind})} for column, kind, _ in COLUMNS]
    for column in residual_columns(tasks[0].layers, model["n_layers"]):
        features.append({"name": column, "list": "float32", "length": model["d_model"]})
    row = 4 * model["d_model"] * len(tasks[0].layers)
    splits = []
    for split in SPLITS:
        count = sum(task.manifest.splits[split]["examples"] for task in tasks)
        splits.append({"name": split, "num_bytes": count * row, "num_examples": count})
    return {
        "config_name": name,
        "features": features,
        "splits": splits,
        "download_size": sum(task.view_bytes for task in tasks),
        "dataset_size": sum(split["num_bytes"] for split in splits),
    }


def _examples(task: Published) -> int:
    return sum(split["examples"] for split in task.manifest.splits.values())


def _describe(task: Published) -> dict[str, Any]:
    manifest, definition = task.manifest, get_task(task.task)
    source, selection, protocol = manifest.source, manifest.selection, manifest.protocol
    link = (
        f"[{source['id']}](https://huggingface.co/datasets/{source['id']})"
        if source["kind"] == "hub"
        else source["id"]
    )
    part = ", ".join(str(source[name]) for name in ("config", "split") if source.get(name))
    return {
        "name": task.task,
        "examples": f"{_examples(task):,}",
        "splits": " / ".join(f"{manifest.splits[split]['examples']:,}" for split in SPLITS),
        "accuracy": f"{selection['accuracy']:.3f}",
        "scanned": f"{selection['scanned']:,}",
        "rows": f"{selection['rows']:,}",
        "duplicates": selection["duplicates"],
        "contradictory": len(selection["contradictory"]),
        "k": selection["k"],
        "seed": selection["seed"],
        "published_splits": selection["splits"] == "published",
        "protocol": {
            **{name: repr(protocol[name])[1:-1].replace("|", "\\|") for name in ("context", "continuation")},
            "site": SITES[protocol["site"]] + (f" (`{protocol['prompt']!r}`)" if protocol["prompt"] else ""),
        },
        "source": f"{link} ({part})" if part else link,
        "revision": source["revision"] or "local",
        "licence": definition.source.licence,
        "citation": definition.source.citation,
        "view_size": _size(task.view_bytes),
        "store_size": _size(sum(entry["size"] for entry in manifest.files.values())),
        "sequence_layers": ", ".join(map(str, task.sequence_layers)) or "none",
    }


def _notes(tasks: Sequence[Published]) -> Iterable[str]:
    """What this very dataset falls short in."""
    for task in tasks:
        shares, counts = task.manifest.selection["answer_shares"], task.manifest.audit["counts"]
        if max(shares) > 0.9:
            yield f"{task.task}: {max(shares):.0%} of the answers are the same one, so success says little."
        if counts["gold_in_prompt"]:
            yield f"{task.task}: the probed prompt holds the right answer's label; a probe can read it off."
        if counts["crossing_splits"]:
            n = counts["crossing_splits"]
            yield f"{task.task}: {n} items stand in two splits with opposite outcomes."
    model = tasks[0].manifest.model
    if model["kind"] == "embedded":
        yield "The weights came from a 4-bit file: labels and residuals differ from the original model's."


def _results(results: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for task in results["tasks"]:
        for curve in task["curves"]:
            best = curve["points"][curve["chosen"]]
            layer = "" if best["layer"] is None else best["layer"]
            rows.append(
                {"task": task["task"], "method": curve["probe"], "layer": layer, **_auroc(best["test"])}
            )
        for held in task["baselines"]:
            rows.append({"task": task["task"], "method": held["name"], "layer": "", **_auroc(held["test"])})
    return {"level": f"{100 * results['confidence']:.6g}%", "rows": rows}


def _auroc(measured: Mapping[str, Any]) -> dict[str, str]:
    return {
        "auroc": f"{measured['value']:.3f}",
        "interval": f"[{measured['low']:.3f}, {measured['high']:.3f}]",
    }


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
