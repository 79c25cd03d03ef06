"""Manifests of stores that were never built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wif_store.format.schema import FORMAT, FORMAT_VERSION, SPLITS, Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def sections(
    examples: Sequence[int] = (8, 4, 4),
    tokens_each: int = 5,
    *,
    layers: int = 3,
    sequence_layers: int = 2,
    d_model: int = 16,
) -> dict[str, Any]:
    """The sections of a manifest, without files.

    Args:
        examples: Of train, validation and test.
        tokens_each: Tokens of each of them.
        layers: How many layers have final tokens.
        sequence_layers: How many of them have sequences.
        d_model: Width of the residual stream.
    """
    splits = {
        split: {
            "examples": count,
            "tokens": tokens_each * count,
            "groups": count,
            "scanned": count,
            "successes": count // 2,
            "failures": count // 2,
        }
        for split, count in zip(SPLITS, examples, strict=True)
    }
    return {
        "task": "winogrande",
        "outcome": "choice",
        "protocol": {"name": "aligned", "version": 1, "site": "preferred"},
        "model": {
            "id": "made/up",
            "kind": "fake",
            "revision": "0",
            "dtype": "bfloat16",
            "device": "cpu",
            "architecture": "None",
            "n_layers": layers,
            "d_model": d_model,
        },
        "source": {"kind": "local", "id": "rows.jsonl", "rows": 99, "sha256": "0" * 64},
        "selection": {"accuracy": 0.5, "scanned": sum(examples), "seed": 0, "k": sum(examples) // 2},
        "splits": splits,
        "layers": {"final_token": list(range(layers)), "sequence": list(range(sequence_layers))},
        "sites": {"final_token": "the last token of what is read"},
        "audit": {"counts": {}, "named": {}},
        "batching": {},
        "versions": {},
    }


def manifest_of(**shape: Any) -> Manifest:
    """A parsed manifest without files."""
    return Manifest(**sections(**shape), files={})


def with_header(made: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Sections with the names of the format, as they are rendered."""
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "files": {}, **made, **changes}
