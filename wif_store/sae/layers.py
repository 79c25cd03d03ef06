"""Which layers of a store there is an SAE for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from wif_store.errors import SaeError
from wif_store.sae.autoencoder import library
from wif_store.sae.opening import CONFIG, HasManifest, open_sae, read_object

if TYPE_CHECKING:
    from collections.abc import Sequence


def layers_of(spec: str, layers: Sequence[int], store: HasManifest) -> tuple[int, ...]:
    """The layers among some for which a spec names an SAE.

    Args:
        spec: As :func:`open_sae` takes it. With ``{layer}`` in it, these are the layers whose folder or id is
            there; without, the one layer that its SAE was trained on.
        layers: 0-based decoder layers of the store.
        store: The store.

    Raises:
        SaeError: If there is none, saying why of the first layer.
    """
    if "{layer}" in spec:
        found = tuple(layer for layer in layers if _exists(spec.replace("{layer}", str(layer))))
    else:
        found = tuple(layer for layer in layers if layer == _trained_on(spec))
    if found:
        return found
    if "{layer}" in spec:
        msg = (
            f"--sae {spec}: there is no SAE for any of the layers {', '.join(map(str, layers))}; expected a "
            "folder or an id of SAELens' registry for one of them at least"
        )
        raise SaeError(msg)
    open_sae(spec, layers[0], store)
    return found


def _exists(name: str) -> bool:
    if Path(name).expanduser().is_dir():
        return True
    release, _, sae_id = name.partition("/")
    return sae_id in library().releases().get(release, ("", ()))[1]


def _trained_on(name: str) -> int | None:
    """The layer that an SAE is of: by its configuration, or by its id, so that nothing is fetched."""
    folder = Path(name).expanduser()
    if (folder / CONFIG).is_file():
        metadata = read_object(folder / CONFIG, name).get("metadata")
        hook = str(metadata.get("hook_name")) if isinstance(metadata, dict) else ""
        match = re.fullmatch(r"blocks\.(\d+)\..*", hook)
    else:
        match = re.search(r"(?:layer_|blocks\.)(\d+)", name)
    return int(match[1]) if match else None
