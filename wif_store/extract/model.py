"""A loaded causal language model with the parts that are read: decoder, decoder layers, head, tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from wif_store.errors import ModelError, first_line
from wif_store.extract.adapter import merged
from wif_store.extract.attention import keep_soft_capping
from wif_store.extract.checkpoint import load_tokenizer
from wif_store.extract.device_map import main_device, read_device_map
from wif_store.extract.float32_linear import needs_float32, use_float32
from wif_store.extract.layers import decoder_of, find_layers
from wif_store.extract.lm_head import find_head
from wif_store.extract.memory import memory_errors
from wif_store.extract.norms import shorten
from wif_store.extract.trials import as_decoder
from wif_store.extract.weights import load_weights
from wif_store.processors import processors

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from wif_store.extract.checkpoint import Located
    from wif_store.extract.decoder import Decoder
    from wif_store.extract.lm_head import Head

DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}

UNLIMITED: Final = 2**31
"""The context length of a model that names none, in tokens."""


@dataclass(slots=True)
class Model:
    """A loaded model in evaluation mode, with the parts that extraction needs.

    Attributes:
        causal_lm: The model in transformers' own class.
        decoder: Its decoder, without the head.
        layers: Its decoder layers, whose outputs are the residual stream.
        head: The projection onto the vocabulary.
        tokenizer: Its tokenizer.
        d_model: Width of the residual stream.
        context_length: The most tokens of a sequence.
        vocabulary: The number of token ids that both embedding and head know.
    """

    causal_lm: Any
    decoder: Decoder
    layers: nn.ModuleList
    head: Head
    tokenizer: PreTrainedTokenizerBase
    d_model: int
    context_length: int
    vocabulary: int

    @property
    def device(self) -> torch.device:
        """Where tokens go in and logits are made."""
        return self.head.module.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type that the residual stream is computed in."""
        return self.head.module.weight.dtype  # type: ignore[no-any-return]


def load(
    located: Located,
    *,
    device: str,
    dtype: str,
    trust_remote_code: bool = False,
    adapter: Located | None = None,
    device_map: str | None = None,
) -> Model:
    """Load a located model for reading.

    Args:
        located: What ``locate`` found.
        device: ``auto`` (CUDA, else Apple MPS, else CPU) or a torch device.
        dtype: ``bfloat16``, ``float32`` or ``float16``: the type that the forward pass runs in.
        trust_remote_code: Let the repository's own Python code run.
        adapter: An adapter that is merged into it.
        device_map: ``auto`` or a JSON file that gives a device to every module, for a model that is larger
            than one device; ``device`` is not looked at then.

    Raises:
        ModelError: If there is no tokenizer or it belongs to another model, weights are missing, the model
            does not fit into memory, its decoder layers cannot be found, or its head is not understood.
    """
    if dtype not in DTYPES:
        msg = f"dtype {dtype!r} is not known; expected one of: {', '.join(DTYPES)}"
        raise ModelError(msg)
    tokenizer = load_tokenizer(located, trust_remote_code=trust_remote_code)
    target = resolve_device(device)
    smaller = "use a smaller --dtype, a larger device or a smaller model"
    devices = None
    if device_map is not None:
        devices = read_device_map(device_map, located, trust_remote_code=trust_remote_code)
    with memory_errors(f"model {located.name} on {target}", smaller):
        causal_lm = load_weights(located, DTYPES[dtype], trust_remote_code=trust_remote_code, devices=devices)
        if adapter is not None:
            causal_lm = merged(causal_lm, located, adapter)
        config = causal_lm.config.get_text_config(decoder=True)
        keep_soft_capping(causal_lm, config)
        if devices is None:
            causal_lm = _moved(causal_lm, target)
            shorten(causal_lm)
            use_float32(causal_lm)
        else:
            # accelerate moves weights in and out of the very modules that these would change.
            main_device(causal_lm.eval())
        layers = find_layers(causal_lm, config.num_hidden_layers)
        head = find_head(causal_lm, config)
        named = context_length_of(config)
        decoder = as_decoder(decoder_of(causal_lm), config, layers[-1], named)
    vocabulary = min(head.vocabulary, len(causal_lm.get_input_embeddings().weight))
    _check_tokenizer(located.name, tokenizer, vocabulary)
    return Model(
        causal_lm=causal_lm,
        decoder=decoder,
        layers=layers,
        head=head,
        tokenizer=tokenizer,
        d_model=config.hidden_size,
        context_length=min(named or UNLIMITED, decoder.longest or UNLIMITED),
        vocabulary=vocabulary,
    )


def context_length_of(config: Any) -> int | None:
    """The most tokens that a text model is made for, by its configuration; None where it names none."""
    return getattr(config, "max_position_embeddings", None) or None


def resolve_device(device: str) -> str:
    """``auto`` -> the best device there is; anything else as it is."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe_device(device: torch.device, dtype: torch.dtype, *, mapped: bool = False) -> str:
    """The device as it is recorded: a GPU's name, or how a CPU makes products. Both decide the last bits.

    Args:
        device: Where logits are made.
        dtype: The type of the weights.
        mapped: Whether the model has a device map: its products are then those of transformers.
    """
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu" and needs_float32(dtype) and not mapped:
        return "cpu, products in float32"
    return device.type


def use_threads(threads: int | None) -> None:
    """Have torch use so many threads on the CPU; None for what this process may use.

    torch counts the processors that the process is bound to, and not what a container or a scheduler grants.
    """
    if threads is not None and threads < 1:
        msg = f"the number of threads is {threads}; expected at least 1"
        raise ModelError(msg)
    torch.set_num_threads(threads or min(torch.get_num_threads(), processors()))


def recorded_device(device: str, dtype: str) -> str | None:
    """What a store would say of a device; None where there is no such device or type."""
    try:
        return describe_device(torch.device(device), DTYPES[dtype])
    except (RuntimeError, AssertionError, KeyError):
        return None


def _moved(causal_lm: Any, device: str) -> Any:
    try:
        return causal_lm.to(device).eval()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:
        msg = f"cannot use device {device!r}: {first_line(error)}"
        raise ModelError(msg) from None


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    """Refuse a tokenizer of which ordinary tokens have no embedding.

    Special tokens may lie beyond: Gemma 3's text models have a token for images and no embedding of it. A
    text that holds one is refused when it is encoded.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = sorted(i for i in tokenizer.get_vocab().values() if i >= vocabulary and i not in special)
    if beyond:
        msg = (
            f"the tokenizer of model {name} has {len(beyond)} tokens beyond the {vocabulary} of the "
            f"embedding (the first is {beyond[0]}, {tokenizer.convert_ids_to_tokens(beyond[0])!r}): it "
            "belongs to another model; expected the tokenizer that was saved with these weights"
        )
        raise ModelError(msg)
