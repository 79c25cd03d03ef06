"""Opening an engine: a located model, loaded, with everything a store records of it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from wif_store.errors import ModelError
from wif_store.extract.batching import limits_for
from wif_store.extract.extractor import Extractor
from wif_store.extract.model import describe_device, load, locate
from wif_store.records import Engine
from wif_store.format.zstd import zstd_version

if TYPE_CHECKING:
    from wif_store.tasks.base import Protocol

BLOCK = 512
"""Examples scored and journalled together, at most; batches never cross it."""

LEAST_BLOCK = 32
"""Of a small build: fewer would leave most batches unfilled."""

RECORDED = ("transformers", "tokenizers", "numpy", "zarr", "numcodecs")


def block_for(per_class: int | None) -> int:
    """Examples of a block, where so many of either class are wanted (None for all there are).

    A small build ends with its first block if a model answers a quarter to three quarters right.
    """
    return BLOCK if per_class is None else min(BLOCK, max(LEAST_BLOCK, 4 * per_class))


def open_engine(
    model: str,
    protocol: Protocol,
    *,
    layers: str = "all",
    sequence_layers: str = "auto",
    device: str = "auto",
    dtype: str = "bfloat16",
    batch_tokens: int | None = None,
    batch_size: int = BLOCK,
    block: int = BLOCK,
    chat: bool = False,
    trust_remote_code: bool = False,
) -> Engine:
    """Find and load a model, ready to extract under ``protocol``.

    Args:
        model: ``gemma3-270m``, a Hub id (``@revision``), a folder or a GGUF file.
        protocol: What is scored and where residuals are read.
        layers: Blocks read at the final token: ``all``, ``auto`` (every fifth) or 0-based, as in ``5,10``.
        sequence_layers: Blocks read at every token: likewise, or ``none``.
        device: ``auto`` or a torch device.
        dtype: The type of the forward pass.
        batch_tokens: Tokens of one forward pass, padding included; None for what suits the device.
        batch_size: Examples of one forward pass, at most.
        block: Examples scored and journalled together.
        chat: Wrap contexts in the tokenizer's chat template.
        trust_remote_code: Let the repository's own Python code run.

    Raises:
        ModelError: If the model cannot be had or read, or has not these layers.
    """
    located = locate(model)
    loaded = load(located, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    limits = replace(limits_for(loaded.device, batch_tokens), examples=batch_size)
    count = len(loaded.blocks)
    final, sequence = parse_layers(layers, count), parse_layers(sequence_layers, count)
    if not final:
        msg = "no layer is to be read at the final token; expected --layers all or at least one index"
        raise ModelError(msg)
    record = {
        "id": located.name,
        "kind": located.kind,
        "revision": located.revision,
        "architecture": type(loaded.causal_lm).__name__,
        "attention": loaded.causal_lm.config._attn_implementation,
        "dtype": dtype,
        "device": describe_device(loaded.device, loaded.dtype),
        "tokenizer": type(loaded.tokenizer).__name__,
        "tokenizer_revision": located.revision,
        "chat_template": chat,
        "n_layers": count,
        "d_model": loaded.d_model,
    }
    return Engine(
        extract=Extractor(loaded, protocol, final, sequence, limits, chat),
        model=record,
        batching={**asdict(limits), "block": block},
        # torch says of what build it is; its package does not always.
        versions={"torch": str(torch.__version__)}
        | {name: importlib.metadata.version(name) for name in RECORDED}
        | {"zstd": zstd_version},
        layers=final,
        sequence_layers=sequence,
        d_model=loaded.d_model,
    )


class Opener:
    """Opens a model when it is first asked for, and lends it to one protocol after another.

    A copy made by pickling opens the model for itself.
    """

    def __init__(self, model: str, **options: Any) -> None:
        """Take the arguments of ``open_engine``, the protocol apart."""
        self._model, self._options = model, options
        self._engine: Engine | None = None

    def __call__(self, protocol: Protocol) -> Engine:
        """The model, ready to extract under ``protocol``.

        Raises:
            ModelError: As ``open_engine``.
        """
        if self._engine is None:
            self._engine = open_engine(self._model, protocol, **self._options)
        extractor = cast("Extractor", self._engine.extract)
        if extractor.protocol != protocol:
            self._engine = replace(self._engine, extract=replace(extractor, protocol=protocol))
        return self._engine


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """``all``, ``none``, ``auto`` (every fifth block) or ``5,10,..`` -> 0-based block indices.

    Raises:
        ModelError: If an index is not a block of a model of ``count`` blocks.
    """
    named = {"all": range(count), "none": (), "auto": range(4, count, 5)}
    if text in named:
        return tuple(named[text])
    try:
        layers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        msg = f"layers {text!r} are not understood; expected all, none or indices as in 4,9,14"
        raise ModelError(msg) from None
    for layer in layers:
        if not 0 <= layer < count:
            msg = f"layer {layer} is out of range: the model has the blocks 0 to {count - 1}"
            raise ModelError(msg)
    return layers
