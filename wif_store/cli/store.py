"""``wif-store info``, ``verify`` and ``audit`` as a person sees them: stores and audits in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wif_store.format.schema import PROMPT_END, SPLITS
from wif_store.store.audit import FLAWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wif_store.store.reader import ActivationStore

LOPSIDED: Final = 0.9
"""The share of one answer from which on success says little."""
SMALL_MASS: Final = 0.1
"""The probability mass of the scored answers under which the model would say something else."""
SITES: Final = {
    "context": "the context that all choices share",
    "preferred": "the sequence of the choice the model preferred",
    "prompt": "a prompt of its own",
    "response": "a prompt and the response to it",
}


REASONING: Final = {
    "open": "ends inside an open block of reasoning, where the answers were scored",
    "skipped": "leaves out the block of reasoning that it puts before an answer",
}
"""What a warning says of a prompt, by ``reasoning`` of the chat template."""


def describe_selection(
    selection: Mapping[str, Any], out: str, *, aligned: bool = False, reasoning: str = "none"
) -> str:
    """What a build found and kept, in a few lines, with warnings.

    Args:
        selection: The section of the manifest.
        out: Where the store is.
        aligned: Whether the task has a protocol ``aligned`` that could be used and was not.
        reasoning: What the chat template says of its block of reasoning, if there was one.
    """
    shares = ", ".join(f"{share:.1%}" for share in selection["answer_shares"])
    shares = f"; share of each answer: {shares}" if shares else ""
    lines = [
        f"{out}: k = {selection['k']} successes and as many failures",
        f"  scanned {selection['scanned']} of {selection['rows']} rows, {selection['duplicates']} duplicates "
        f"and {len(selection['contradictory'])} contradictory items left out"
        + (f", {selection['too_long']} too long" if selection["too_long"] else ""),
        f"  accuracy {selection['accuracy']:.4f} ({selection['successes']} of {selection['scanned']})"
        + shares,
    ]
    mass = selection.get("answer_mass")
    if mass is not None:
        lines.append(f"  the scored answers have {mass:.1%} of the probability at their first token")
    most = max(selection["answer_shares"], default=0)
    if most > LOPSIDED:
        other = "--protocol aligned or a larger model" if aligned else "a larger model"
        lines.append(
            f"  warning: one answer is given to {most:.0%} of the examples, so success says little about "
            f"what the model knows; try {other}"
        )
    if mass is not None and mass < SMALL_MASS:
        lines.append(
            "  warning: the model would rather say something else than any of the scored answers; "
            "try another protocol or template"
        )
    if reasoning in REASONING:
        lines.append(
            f"  warning: the chat template's prompt {REASONING[reasoning]}; see whether it takes an argument "
            "that closes it, as in --template enable_thinking=false"
        )
    return "\n".join(lines)


def describe_store(store: ActivationStore) -> str:
    """A store's contents and origin, for reading."""
    manifest = store.manifest
    size = sum(entry["size"] for entry in manifest.files.values())
    model, source, protocol = manifest.model, manifest.source, manifest.protocol
    site = SITES.get(protocol["site"], protocol["site"])
    # A local file has no revision; its content does.
    revision = source.get("revision") or f"sha256:{source['sha256'][:12]}"
    splits = ", ".join(
        f"{name} {manifest.splits[name]['examples']} in {manifest.splits[name]['groups']} groups"
        for name in SPLITS
    )
    rows = [
        ("task", f"{store.task}, outcome: {manifest.outcome}"),
        ("protocol", f"{protocol['name']} v{protocol['version']}, read: {site}"),
        ("model", manifest.model_name),
        ("forward pass", f"{model['dtype']} on {model['device']}, {model['architecture']}"),
        ("source", f"{source['id']} @ {revision}, {source['rows']} rows"),
        ("examples", f"{len(store)}, half of them successes: {splits}"),
        ("final token", f"{len(store.layers)} layers x {len(store)} x {store.d_model}"),
        *([(PROMPT_END.replace("_", " "), "the same layers")] if PROMPT_END in manifest.sites else []),
        ("sequences", f"layers {', '.join(map(str, store.sequence_layers)) or 'none'}"),
        ("accuracy", f"{manifest.selection['accuracy']:.4f} over {manifest.selection['scanned']} scanned"),
        ("seed", str(manifest.selection["seed"])),
        ("files", f"{len(manifest.files)}, {size / 1e6:.1f} MB"),
    ]
    return "\n".join(f"{name:<13}{value}" for name, value in rows)


def summary_of(store: ActivationStore) -> dict[str, Any]:
    """A store's contents and origin, for a program."""
    manifest = store.manifest
    return {
        "path": store.name,
        "task": store.task,
        "outcome": manifest.outcome,
        "model": manifest.model,
        "protocol": manifest.protocol,
        "source": manifest.source,
        "selection": manifest.selection,
        "splits": {name: manifest.splits[name] for name in SPLITS},
        "examples": len(store),
        "d_model": store.d_model,
        "layers": list(store.layers),
        "sequence_layers": list(store.sequence_layers),
        "sites": list(manifest.sites),
        "files": len(manifest.files),
        "bytes": sum(entry["size"] for entry in manifest.files.values()),
        "versions": manifest.versions,
    }


def describe_audit(audit: Mapping[str, Any], published: Mapping[str, Any] | None) -> str:
    """Every flaw the audit looks for, with its count and the first ids."""
    lines = _flaws(audit)
    if published is not None:
        lines += ["by the outcomes and splits published with the source:", *_flaws(published)]
    return "\n".join(lines)


def _flaws(audit: Mapping[str, Any]) -> list[str]:
    lines = []
    for flaw, meaning in FLAWS.items():
        named = audit["named"].get(flaw, [])
        count = audit["counts"].get(flaw, "?")
        lines.append(f"{count:>6}  {meaning}{': ' + ', '.join(named[:3]) if named else ''}")
    return lines
