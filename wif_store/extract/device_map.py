"""Models that are larger than one device: which device holds which of a model's modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AutoModelForCausalLM

from wif_store.errors import ModelError, one_line
from wif_store.extract.checkpoint import Located, quiet, read_config

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTO: Final = "auto"
"""accelerate fills the GPUs first, then the host's memory, then the disk."""

Devices = str | dict[str, Any]


def read_device_map(given: str, located: Located, *, trust_remote_code: bool) -> Devices:
    """``auto``, or a JSON file that gives a device to every module: ``{"model.layers.0": "cuda:0", ...}``.

    A device is ``cpu``, ``disk``, or a GPU as ``cuda:1`` or its number.

    Raises:
        ModelError: If the file cannot be read, or names a module twice or not at all.
    """
    if given == AUTO:
        return AUTO
    try:
        found = json.loads(Path(given).read_bytes(), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        msg = f"--device-map {given} cannot be read ({one_line(error)}); expected auto or a JSON file"
        raise ModelError(msg) from error
    if not isinstance(found, dict) or not all(isinstance(device, str | int) for device in found.values()):
        msg = f'--device-map {given} is no map; expected such as {{"model.layers.0": "cpu"}}'
        raise ModelError(msg)
    _check(found, given, _empty(located, trust_remote_code=trust_remote_code))
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"it names {twice[0]} twice"
        raise ValueError(msg)
    return dict(pairs)


def _empty(located: Located, *, trust_remote_code: bool) -> Any:
    """The model without the values of its weights."""
    config = read_config(located, trust_remote_code=trust_remote_code)
    with quiet(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _check(devices: Mapping[str, Any], given: str, model: Any) -> None:
    """See that every weight is below one name of the map, and that every name is of a module.

    Raises:
        ModelError: Likewise.
    """
    if unknown := sorted(devices.keys() - {name for name, _ in model.named_modules()}):
        msg = f"--device-map {given} names {unknown[0]}, which is no module of the model"
        raise ModelError(msg)
    for parameter, _ in model.named_parameters():
        above = [name for name in devices if name == "" or parameter.startswith(f"{name}.")]
        if len(above) != 1:
            found = f"twice, as {above[0]} and as {above[1]}" if above else "on no device"
            msg = f"--device-map {given} puts {parameter} {found}; expected each module once"
            raise ModelError(msg)


def smallest_device(causal_lm: Any, main: torch.device) -> torch.device:
    """The GPU with the least memory that holds a part of a model; ``main`` where none does."""
    devices = getattr(causal_lm, "hf_device_map", {}).values()
    gpus = [torch.device(device) for device in devices if device not in ("cpu", "disk")]
    gpus = [gpu for gpu in gpus if gpu.type == "cuda"]
    return min(gpus, key=lambda gpu: torch.cuda.get_device_properties(gpu).total_memory, default=main)


def main_device(causal_lm: Any) -> torch.device:
    """Where a model's tokens go in, and where its logits are made.

    Raises:
        ModelError: If the weights of the head or of the embeddings are not in memory.
    """
    device: torch.device = causal_lm.get_output_embeddings().weight.device
    if "meta" in (device.type, causal_lm.get_input_embeddings().weight.device.type):
        msg = (
            "the device map moves the head of the model in and out of memory, or its embeddings; "
            "expected both where they stay"
        )
        raise ModelError(msg)
    return device
