"""Adapters of PEFT: found, and merged into the model that they were trained on."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import ModelError, first_line, one_line
from wif_store.extract.checkpoint import Located, hash_of_files, names_in, quiet
from wif_store.storage.hub_client import explained

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG: Final = "adapter_config.json"
FILES: Final = re.compile(r"adapter_(config\.json|model[^/]*\.(safetensors|bin))")
UNFILLED: Final = re.compile(r"missing adapter keys", re.IGNORECASE)
"""What PEFT warns of where the file of an adapter lacks weights that its settings call for."""


def locate_adapter(spec: str) -> Located:
    """Find an adapter: a folder, or a Hub id (``ORG/NAME[@REVISION]``).

    Raises:
        ModelError: If there is none, or it is not what PEFT's ``save_pretrained`` wrote.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        names = {name for name in names_in(path) if FILES.fullmatch(name)}
        _check_names(names, spec)
        return Located(path.resolve().name, str(path), f"sha256:{hash_of_files(path, names)}", "local")
    if path.is_absolute() or spec.startswith("."):
        msg = f"no folder {spec}; expected the folder of an adapter or a Hub id"
        raise ModelError(msg)
    return _on_hub(spec)


def _on_hub(spec: str) -> Located:
    from huggingface_hub import snapshot_download

    repo, _, revision = spec.partition("@")
    try:
        # Without a network the client gives what is in its cache.
        folder = Path(snapshot_download(repo, revision=revision or None, allow_patterns=["adapter_*"]))
    except Exception as error:
        # The client's exceptions are many and its messages long; each becomes one line.
        raise ModelError(explained(error, f"adapter {repo}")) from error
    _check_names({name for name in names_in(folder) if FILES.fullmatch(name)}, repo)
    return Located(repo, str(folder), folder.name, "hub")  # a snapshot's folder is named for its commit


def _check_names(names: set[str], what: str) -> None:
    if CONFIG not in names or len(names) < 2:
        lacks = "its weights (adapter_model.safetensors)" if CONFIG in names else CONFIG
        msg = f"adapter {what} lacks {lacks}; expected what `save_pretrained` of PEFT wrote"
        raise ModelError(msg)


def adapter_record(adapter: Located) -> dict[str, str]:
    """What a store records of an adapter."""
    return {"id": adapter.name, "kind": adapter.kind, "revision": adapter.revision}


def merged(causal_lm: Any, base: Located, adapter: Located) -> Any:
    """The model with an adapter's weights added to its own, so that it runs as any model does.

    Args:
        causal_lm: The model, as loaded.
        base: Where it is from.
        adapter: Where the adapter is from.

    Raises:
        ModelError: If the adapter is of another model, or cannot be merged.
    """
    from peft import PeftModel

    _check_base(_settings(adapter), base, adapter)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers
            warnings.filterwarnings("error", message=f".*{UNFILLED.pattern}", category=UserWarning)
            wrapped = PeftModel.from_pretrained(
                causal_lm, adapter.path, torch_device=str(causal_lm.device), autocast_adapter_dtype=False
            )
            _check_taken(wrapped, adapter)
            return wrapped.merge_and_unload(safe_merge=True)
    except ModelError:
        raise
    except Exception as error:
        # PEFT raises many kinds here, by the kind of adapter.
        msg = (
            f"adapter {adapter.name} cannot be merged into model {base.name} ({first_line(error)}); expected "
            "one that was trained on this model"
        )
        raise ModelError(msg) from error


def _check_taken(wrapped: Any, adapter: Located) -> None:
    """See that every weight of the file is in the model: PEFT leaves out what it has no place for."""
    from peft import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    taken = get_peft_model_state_dict(wrapped, save_embedding_layers=True).keys()
    if beyond := sorted(load_peft_weights(adapter.path, device="cpu").keys() - taken):
        msg = (
            f"adapter {adapter.name} holds {beyond[0]}, one of {len(beyond)} weights that the model or "
            f"{CONFIG} has no place for: expected one that was trained on this model"
        )
        raise ModelError(msg)


def _settings(adapter: Located) -> Mapping[str, Any]:
    try:
        found = json.loads(Path(adapter.path, CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{CONFIG} of adapter {adapter.name} cannot be read: {one_line(error)}"
        raise ModelError(msg) from error
    return found if isinstance(found, dict) else {}


def _check_base(settings: Mapping[str, Any], base: Located, adapter: Located) -> None:
    """Compare the names of two repositories; a path says nothing on another machine."""
    named = str(settings.get("base_model_name_or_path") or "")
    known = base.kind == "hub" and re.fullmatch(r"[\w.-]+/[\w.-]+", named) and not Path(named).exists()
    if known and named.casefold() != base.name.casefold():
        msg = f"adapter {adapter.name} was trained on {named}, not on {base.name}: give --model {named}"
        raise ModelError(msg)
