"""Stores, selections and audits in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wif_store.store.audit import FLAWS
from wif_store.format.schema import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wif_store.store.reader import ActivationStore

LOPSIDED = 0.9
SITES = {
    "context": "the context that all choices share",
    "preferred": "the sequence of the choice the model preferred",
    "prompt": "a prompt of its own",
}


def describe_selection(selection: Mapping[str, Any], out: str) -> str:
    """What a build found and kept, in a few lines; a warning where one answer is given to nearly all."""
    shares = ", ".join(f"{share:.1%}" for share in selection["answer_shares"])
    lines = [
        f"{out}: k = {selection['k']} successes and as many failures",
        f"  scanned {selection['scanned']} of {selection['rows']} rows, {selection['duplicates']} duplicates "
        f"and {len(selection['contradictory'])} contradictory items left out",
        f"  accuracy {selection['accuracy']:.4f} ({selection['successes']} of {selection['scanned']}); "
        f"share of each answer: {shares}",
    ]
    if max(selection["answer_shares"]) > LOPSIDED:
        lines.append(
            f"  warning: one answer is given to {max(selection['answer_shares']):.0%} of the examples, "
            "so success says little about what it knows; try --protocol aligned or a larger model"
        )
    return "\n".join(lines)


def describe_store(store: ActivationStore) -> str:
    """A store's contents and origin, for reading."""
    manifest = store.manifest
    size = sum(entry["size"] for entry in manifest.files.values())
    model, source, protocol = manifest.model, manifest.source, manifest.protocol
    site = SITES.get(protocol["site"], protocol["site"])
    # A local file has no revision; its content does.
    revision = source["revision"] or f"sha256:{source['sha256'][:12]}"
    splits = ", ".join(
        f"{name} {manifest.splits[name]['examples']} ({manifest.splits[name]['successes']} successes)"
        for name in SPLITS
    )
    rows = [
        ("task", store.task),
        ("protocol", f"{protocol['name']} v{protocol['version']}, read: {site}"),
        ("model", f"{model['id']} @ {model['revision']}"),
        ("forward pass", f"{model['dtype']} on {model['device']}, {model['architecture']}"),
        ("source", f"{source['id']} @ {revision}, {source['rows']} rows"),
        ("examples", f"{len(store)}: {splits}"),
        ("final token", f"{len(store.layers)} layers x {len(store)} x {store.d_model}"),
        ("sequences", f"layers {', '.join(map(str, store.sequence_layers)) or 'none'}"),
        ("accuracy", f"{manifest.selection['accuracy']:.4f} over {manifest.selection['scanned']} scanned"),
        ("seed", str(manifest.selection["seed"])),
        ("files", f"{len(manifest.files)}, {size / 1e6:.1f} MB"),
    ]
    return "\n".join(f"{name:<13}{value}" for name, value in rows)


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
        lines.append(f"{audit['counts'][flaw]:>6}  {meaning}{': ' + ', '.join(named[:3]) if named else ''}")
    return lines
