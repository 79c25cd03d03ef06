"""Loading a model's weights, and refusing weights that are not all of the model's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, GgufConfig

from wif_store.errors import ModelError, first_line
from wif_store.extract.checkpoint import Located, quiet, read_config
from wif_store.extract.layers import decoder_of, layers_within

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from wif_store.extract.device_map import Devices


def load_weights(
    located: Located, dtype: torch.dtype, *, trust_remote_code: bool, devices: Devices | None = None
) -> Any:
    """The model in transformers' own class, with every weight that its decoder and its head need.

    Args:
        located: Where it is.
        dtype: The type of its weights.
        trust_remote_code: Let the repository's own Python code run.
        devices: Which device holds which module; None for the CPU.

    Raises:
        ModelError: If the files cannot be loaded, or lack weights of the decoder or the head, or hold weights
            of decoder layers that the model does not have.
    """
    extra: dict[str, Any] = located.file_options
    if devices is not None:
        extra = {**extra, "device_map": devices}
    if located.gguf_file:
        # Otherwise the weights stay packed, and every forward pass unpacks them again.
        extra = {**extra, "quantization_config": GgufConfig(dequantize=True)}
    else:
        read_config(located, trust_remote_code=trust_remote_code)
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                located.path,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **extra,
            )
    except Exception as error:
        # transformers raises many kinds here, by architecture and file format.
        hint = "; pass --trust-remote-code to run its own code" if "trust_remote_code" in str(error) else ""
        msg = f"model {located.name} cannot be loaded: {first_line(error)}{hint}"
        raise ModelError(msg) from error
    causal_lm, found = loaded
    _check_loaded(located.name, causal_lm, found)
    return causal_lm


def _check_loaded(name: str, causal_lm: Any, found: Mapping[str, Iterable[Any]]) -> None:
    """Compare what the files hold with what the decoder and the head need.

    transformers gives random values to what is missing, and says so in a log that nobody reads. Tied weights
    are not among the missing.

    Raises:
        ModelError: Likewise.
    """
    decoder, head = decoder_of(causal_lm), causal_lm.get_output_embeddings()
    paths = {path for path, module in causal_lm.named_modules() if module is decoder or module is head}
    needed = tuple(f"{path}." if path else "" for path in paths)
    missing = sorted(key for key in found["missing_keys"] if key.startswith(needed))
    unexpected = sorted(found["unexpected_keys"])
    mismatched = sorted(str(entry[0]) for entry in found.get("mismatched_keys", ()))
    if missing:
        beside = f" and holds others, such as {unexpected[0]}" if unexpected else ""
        msg = (
            f"model {name}: the checkpoint lacks {_listed(missing)} of {type(causal_lm).__name__}{beside}: "
            "they would be random; expected what `save_pretrained` wrote of this model"
        )
        raise ModelError(msg)
    # A tower of another kind may be left out of a text model; a layer of the decoder may not.
    layers = _path_of_layers(causal_lm, decoder)
    if extra := [key for key in unexpected if layers and key.startswith(layers)]:
        msg = (
            f"model {name}: the checkpoint holds {_listed(extra)}, which {type(causal_lm).__name__} of this "
            "config.json does not have: the configuration belongs to another model"
        )
        raise ModelError(msg)
    if mismatched or (errors := list(found.get("error_msgs", ()))):
        what = f"other shapes of {_listed(mismatched)}" if mismatched else first_line(ValueError(errors[0]))
        msg = f"model {name}: the checkpoint does not fit its config.json: {what}"
        raise ModelError(msg)


def _path_of_layers(causal_lm: Any, decoder: Any) -> str:
    """What the names of the decoder layers' weights begin with: ``model.layers.``; empty where not known."""
    count = getattr(causal_lm.config.get_text_config(decoder=True), "num_hidden_layers", 0)
    found = list(layers_within(decoder, count).values())
    paths = [path for path, module in causal_lm.named_modules() if found and module is found[0]]
    return f"{paths[0]}." if paths else ""


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return f"{', '.join(keys[:2])[:200]}{more}"
