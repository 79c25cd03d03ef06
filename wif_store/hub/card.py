"""Manifests -> the dataset card: what the Hub, ``datasets`` and a reader need to know, from one template.

The card says what the manifests say. The registry of tasks is asked only for the licence and the citation of
a source, and only where the manifest names none.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import PublishError, one_line, printable
from wif_store.format.schema import FINAL_TOKEN, PROMPT_END, SEQUENCE, SPLITS, columns
from wif_store.hub.parquet import residual_names
from wif_store.store.audit import FLAWS
from wif_store.tasks import TASKS

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
"""What each site of a protocol reads, to its last token."""
CATEGORIES: Final = {
    "choice": ["multiple-choice", "feature-extraction"],
    "response": ["text-generation", "feature-extraction"],
}
"""The Hub's task categories, by the kind of outcome."""
SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
UNKNOWN: Final = "see the source"


@dataclass(frozen=True, slots=True)
class Published:
    """One task of a dataset, as far as the card is concerned.

    Attributes:
        manifest: Its store's manifest.
        view_bytes: Size of its Parquet files.
    """

    manifest: Manifest
    view_bytes: int

    @property
    def task(self) -> str:
        """The task's name."""
        return self.manifest.task

    @property
    def layers(self) -> tuple[int, ...]:
        """The 0-based decoder layers that have a column of residuals."""
        return tuple(self.manifest.layers[FINAL_TOKEN])

    @property
    def sequence_layers(self) -> tuple[int, ...]:
        """Those that have residuals at every token."""
        return tuple(self.manifest.layers[SEQUENCE])

    @property
    def identity(self) -> dict[str, Any]:
        """What the tasks of one dataset have in common: together they are one table."""
        model, protocol = self.manifest.model, self.manifest.protocol
        return {
            "model": self.manifest.model_name,
            "protocol": f"{protocol['name']} v{protocol['version']}",
            "outcome": self.manifest.outcome,
            "layers": ", ".join(map(str, self.layers)),
            "width": model["d_model"],
        }


def render_card(
    repo: str,
    tasks: Sequence[Published],
    results: Mapping[str, Any] | None = None,
    *,
    beside: Sequence[str] = (),
) -> str:
    """The card of a dataset.

    Args:
        repo: ``OWNER/NAME``.
        tasks: Its tasks, at least one; their ``identity`` is the same.
        results: The content of a ``results.json`` measured on these very stores, if there is one.
        beside: Paths in the dataset of what stands beside it: ``results/figure.png`` and others.
    """
    import yaml
    from jinja2 import Environment, StrictUndefined

    tasks = sorted(tasks, key=lambda task: task.task)
    first = tasks[0]
    model = dict(first.manifest.model)
    names = residual_names(first.manifest)
    sequence_layers = sorted({layer for task in tasks for layer in task.sequence_layers})
    values = {
        "metadata": yaml.safe_dump(_metadata(repo, tasks), sort_keys=False, allow_unicode=True, width=100),
        "repo": repo,
        "name": repo.split("/")[1],
        "key": re.sub(r"\W+", "_", repo),
        "model": {**model, "short": model["id"].split("/")[-1]},
        "gemma": "gemma" in model["id"].lower(),
        "outcome": first.manifest.outcome,
        "protocol": {"scale_by_length": False, **first.manifest.protocol},
        "every_layer": len(first.layers) == model["n_layers"],
        "example": {
            "task": first.task,
            "column": names[len(names) // 2],
            "rows": min(100, first.manifest.splits["test"]["examples"]),
            "sequence_layer": first.sequence_layers[len(first.sequence_layers) // 2]
            if first.sequence_layers
            else None,
        },
        "sequences": ", ".join(map(str, sequence_layers)),
        "columns": [
            *(
                {"name": column.name, "type": column.type, "meaning": column.description}
                for column in columns(first.manifest.outcome)
            ),
            {
                "name": "`, `".join(names) if len(names) < 3 else f"{names[0]}` ... `{names[-1]}",
                "type": f"{model['d_model']} x float32",
                "meaning": "residual stream at the final token, after that (0-based) decoder layer",
            },
        ],
        "tasks": [_describe(task) for task in tasks],
        "audit": [(meaning, [_count(task, flaw) for task in tasks]) for flaw, meaning in FLAWS.items()],
        "notes": list(_notes(tasks)),
        "results": {**_results(results), "beside": list(beside)} if results else None,
        "versions": ", ".join(sorted({str(task.manifest.versions.get("wif-store", "")) for task in tasks})),
    }
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["cell"] = _cell
    # A manifest may come from anybody, and a card is shown in terminals too.
    return printable(environment.from_string(_template()).render(values))


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
    examples = sum(task.manifest.examples for task in tasks)
    configs = [_config(ALL, "*") | {"default": True}, *(_config(task.task, task.task) for task in tasks)]
    infos = [_info(ALL, tasks), *(_info(task.task, [task]) for task in tasks)]
    return {
        "pretty_name": repo.split("/")[1],
        "license": "other",
        "license_name": "sources-and-model-terms",
        "license_link": f"https://huggingface.co/datasets/{repo}#licences",
        "language": ["en"],
        "task_categories": CATEGORIES[tasks[0].manifest.outcome],
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
    manifest = tasks[0].manifest
    features: list[dict[str, Any]] = [
        {"name": column.name, "list": column.type[5:-1]}
        if column.type.startswith("list<")
        else {"name": column.name, "dtype": column.type}
        for column in columns(manifest.outcome)
    ]
    for column in residual_names(manifest):
        features.append({"name": column, "list": "float32", "length": manifest.model["d_model"]})
    row = 4 * manifest.model["d_model"] * len(tasks[0].layers)
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


def _describe(task: Published) -> dict[str, Any]:
    manifest, known = task.manifest, TASKS.get(task.task)
    dataset = known.source if known else None
    source, selection, protocol = manifest.source, manifest.selection, manifest.protocol
    link = (
        f"[{source['id']}](https://huggingface.co/datasets/{source['id']})"
        if source["kind"] == "hub"
        else source["id"]
    )
    part = ", ".join(str(source[name]) for name in ("config", "split") if source.get(name))
    site = SITES.get(protocol["site"], protocol["site"])
    return {
        "name": task.task,
        "examples": f"{manifest.examples:,}",
        "splits": " / ".join(f"{manifest.splits[split]['examples']:,}" for split in SPLITS),
        "groups": " / ".join(f"{manifest.splits[split]['groups']:,}" for split in SPLITS),
        "accuracy": f"{selection['accuracy']:.3f}",
        "scanned": f"{selection['scanned']:,}",
        "rows": f"{source['rows']:,}",
        "duplicates": selection.get("duplicates", ""),
        "contradictory": len(selection.get("contradictory", ())),
        "k": selection["k"],
        "seed": selection["seed"],
        "published_splits": selection.get("splits") == "published",
        "protocol": {
            **{name: repr(str(protocol.get(name, "")))[1:-1] for name in ("context", "continuation")},
            "site": site + (f" (`{protocol['prompt']!r}`)" if protocol.get("prompt") else ""),
        },
        "source": f"{link} ({part})" if part else link,
        "revision": source.get("revision") or "local",
        "licence": source.get("licence") or (dataset.licence if dataset else UNKNOWN),
        "citation": source.get("citation") or (dataset.citation if dataset else UNKNOWN),
        "view_size": _size(task.view_bytes),
        "store_size": _size(sum(entry["size"] for entry in manifest.files.values())),
        "sequence_layers": ", ".join(map(str, task.sequence_layers)) or "none",
    }


def _count(task: Published, flaw: str) -> Any:
    return task.manifest.audit["counts"].get(flaw, "not counted")


def _notes(tasks: Sequence[Published]) -> Iterable[str]:
    """What this very dataset falls short in."""
    for task in tasks:
        selection, counts = task.manifest.selection, task.manifest.audit["counts"]
        share = max(selection.get("answer_shares") or [0.0])
        if share > 0.9:
            yield f"{task.task}: {share:.0%} of the answers are the same one, so success says little."
        if PROMPT_END in task.manifest.sites:
            yield (
                f"{task.task}: the columns of residuals are those of the answer's last token; those of the "
                f"prompt's end are in the Zarr store alone, as `{PROMPT_END}`."
            )
        if counts.get("gold_in_prompt"):
            yield f"{task.task}: the probed prompt holds the right answer's label; a probe can read it off."
        if n := counts.get("groups_across_splits"):
            yield f"{task.task}: {n} groups of siblings cross the splits, so test scores are too good."
        if n := counts.get("crossing_splits"):
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
    steering = [_steering(one) for one in results.get("steering", ())]
    return {"level": f"{100 * results['confidence']:.6g}%", "rows": rows, "steering": steering}


def _steering(one: Mapping[str, Any]) -> dict[str, Any]:
    effect = one["against_random"]
    return {
        "task": one["task"],
        "method": one["method"],
        "layer": one["layer"],
        "flips": f"{effect['flips']:.3f}",
        "control": f"{effect['control']:.3f}",
        "difference": f"{effect['difference']:+.3f}",
        "interval": f"[{effect['low']:+.3f}, {effect['high']:+.3f}]",
        "verdict": effect["verdict"],
    }


def _auroc(measured: Mapping[str, Any]) -> dict[str, str]:
    return {
        "auroc": f"{measured['value']:.3f}",
        "interval": f"[{measured['low']:.3f}, {measured['high']:.3f}]",
    }


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"


def _cell(value: object) -> str:
    """A text as a cell of a table in Markdown."""
    return " ".join(str(value).split()).replace("|", "\\|")
