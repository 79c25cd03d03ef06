"""Opening an engine: a located model, loaded, with everything that a store records of it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from wif_store.errors import ModelError
from wif_store.extract.adapter import adapter_record, locate_adapter
from wif_store.extract.attention import attention_of
from wif_store.extract.batching import limits_for
from wif_store.extract.checkpoint import locate
from wif_store.extract.device_map import smallest_device
from wif_store.extract.extractor import Extractor
from wif_store.extract.model import describe_device, load, use_threads
from wif_store.format.layers import parse_layers
from wif_store.records import Engine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wif_store.tasks.base import Protocol

RECORDED: Final = ("transformers", "tokenizers", "numpy", "zarr", "numcodecs")
"""Packages that decide bytes of a store, beside torch."""


def open_engine(
    model: str,
    protocol: Protocol,
    *,
    layers: str = "all",
    sequence_layers: str = "auto",
    device: str = "auto",
    dtype: str = "bfloat16",
    batch_tokens: int | None = None,
    batch_size: int = 512,
    threads: int | None = None,
    chat: bool = False,
    template: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    adapter: str | None = None,
    device_map: str | None = None,
) -> Engine:
    """Find and load a model, ready to extract under ``protocol``.

    Args:
        model: ``gemma3-270m``, a Hub id (``@revision``), a folder or a GGUF file.
        protocol: What is scored and where residuals are read.
        layers: Decoder layers read at the final token: ``all``, ``auto`` (every fifth) or 0-based, as in
            ``0,4,9-12``.
        sequence_layers: Decoder layers read at every token: likewise, or ``none``.
        device: ``auto`` or a torch device.
        dtype: The type of the forward pass.
        batch_tokens: Tokens of one forward pass, padding included; None for what suits the device.
        batch_size: Examples of one forward pass, at most.
        threads: Threads of a forward pass on the CPU; None for what this process may use.
        chat: Wrap contexts in the tokenizer's chat template.
        template: Arguments of the chat template, such as ``{"enable_thinking": False}``.
        trust_remote_code: Let the repository's own Python code run.
        adapter: A PEFT adapter, a folder or a Hub id (``@revision``), that is merged into the model.
        device_map: ``auto`` or a JSON file, for a model that is larger than one device.

    Raises:
        ModelError: If the model cannot be had or read, or its chat template cannot be used.
        LayersError: If the model has not these layers.
    """
    if template and not chat:
        msg = "--template is for --chat-template: pass both, or leave it out"
        raise ModelError(msg)
    located = locate(model)
    use_threads(threads)
    added = None if adapter is None else locate_adapter(adapter)
    loaded = load(
        located,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        adapter=added,
        device_map=device_map,
    )
    smallest = smallest_device(loaded.causal_lm, loaded.device)
    limits = replace(limits_for(smallest, batch_tokens), examples=batch_size)
    count = len(loaded.layers)
    final = parse_layers(layers, range(count))
    sequence = parse_layers(sequence_layers, range(count), option="--sequence-layers")
    if not final:
        msg = "no layer is to be read at the final token; expected --layers all or at least one index"
        raise ModelError(msg)
    extractor = Extractor(loaded, protocol, final, sequence, limits, dict(template or {}) if chat else None)
    prepared = extractor.chat_template
    record = {
        "id": located.name,
        "kind": located.kind,
        "revision": located.revision,
        "adapter": None if added is None else adapter_record(added),
        "architecture": type(loaded.causal_lm).__name__,
        "attention": attention_of(loaded.causal_lm.config),
        "dtype": dtype,
        "device": describe_device(loaded.device, loaded.dtype, mapped=device_map is not None),
        # On a GPU, the number of threads of its host changes nothing.
        "threads": torch.get_num_threads() if loaded.device.type == "cpu" else None,
        "tokenizer": type(loaded.tokenizer).__name__,
        "tokenizer_revision": located.revision,
        "chat_template": None if prepared is None else prepared.record(),
        "n_layers": count,
        "d_model": loaded.d_model,
    }
    return Engine(
        extract=extractor,
        model=record,
        batching=asdict(limits),
        # torch says of what build it is; its package does not always.
        versions={"torch": str(torch.__version__)}
        | {name: importlib.metadata.version(name) for name in RECORDED},
        layers=final,
        sequence_layers=sequence,
        d_model=loaded.d_model,
        sites=protocol.sites,
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
            LayersError: Likewise.
            TaskError: If the tokenizer, or the chat template, does not suit the protocol.
        """
        if self._engine is None:
            self._engine = open_engine(self._model, protocol, **self._options)
        extractor = cast("Extractor", self._engine.extract)
        if extractor.protocol != protocol:
            extractor = replace(extractor, protocol=protocol)
            self._engine = replace(self._engine, extract=extractor, sites=protocol.sites)
        extractor.check()
        return self._engine
