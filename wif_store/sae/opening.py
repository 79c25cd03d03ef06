"""Open an SAE of SAELens and hold it against a store: the same site, layer, width and model."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from wif_store.errors import SaeError, one_line
from wif_store.format.schema import Manifest
from wif_store.sae.autoencoder import SparseAutoencoder, library
from wif_store.sae.names import hook, plain_name

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
LABELS: Final = "labels.json"
"""What features are said to mean, beside the two files of SAELens' format: ``{"17": "days of the week"}``."""

NAMELESS: Final = ("local", "gguf")
"""Kinds of models whose name in a store is that of a folder or file, which may be anything."""
ENCODABLE: Final = ("standard", "topk", "jumprelu", "gated", "abstopk", "matching_pursuit")
"""Architectures of SAELens that encode one token by itself and give the same token back."""


class HasManifest(Protocol):
    """A store, as far as an SAE is held against it."""

    @property
    def manifest(self) -> Manifest:
        """What the store says of itself."""
        ...


def open_sae(spec: str, layer: int, store: HasManifest | Manifest) -> SparseAutoencoder:
    """Open an SAE for one layer of a store.

    It must have been trained on the residual stream after this layer (``blocks.{layer}.hook_resid_post``) of
    the store's model. The model of a release is the one that SAELens' registry names, for some loaders give
    several models one name. The model is not checked where an SAE names none, or where the store's model was
    a local folder or a GGUF file, whose name may be anything.

    Args:
        spec: A local folder of SAELens' format (``cfg.json`` and ``sae_weights.safetensors``), or
            ``RELEASE/ID`` of its registry, which SAELens fetches. ``{layer}`` in either stands for the layer.
            A folder may hold ``labels.json``, which says in words what features mean.
        layer: 0-based decoder layer.
        store: The store, or its manifest.

    Raises:
        SaeError: If there is no such SAE, or it cannot be read or used, or it is not one of this layer and
            model; or if SAELens is not installed.
    """
    manifest = store if isinstance(store, Manifest) else store.manifest
    name = spec.replace("{layer}", str(layer))
    folder = Path(name).expanduser()
    if name and folder.exists():
        sae = _load_folder(folder, name)
        model = library().config(sae)["metadata"].get("model_name")
        labels = _read_labels(folder)
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    else:
        release, sae_id, model = _find_release(name)
        _check_model(name, model, manifest)  # before anything is fetched
        sae = _load_release(release, sae_id, name)
        labels, digest = {}, None
    config = library().config(sae)
    _check_architecture(name, config["architecture"])
    _check_site(name, config["metadata"].get("hook_name"), layer, spec)
    _check_model(name, model, manifest)
    _check_weights(name, sae, config, manifest)
    return SparseAutoencoder(name, layer, int(config["d_in"]), int(config["d_sae"]), digest, sae, labels)


def _load_folder(folder: Path, name: str) -> Any:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            msg = f"{name} has no {file}; expected a folder of SAELens' format, with {CONFIG} and {WEIGHTS}"
            raise SaeError(msg)
    config = read_object(folder / CONFIG, name)
    _check_architecture(name, config.get("architecture", "standard"))
    try:
        return library().load_folder(folder)
    except Exception as error:
        # What is damaged makes SAELens, torch and safetensors raise many kinds.
        msg = f"{name} cannot be read as an SAE ({one_line(error)}): save it again, or choose another"
        raise SaeError(msg) from error


def _load_release(release: str, sae_id: str, name: str) -> Any:
    try:
        return library().load_release(release, sae_id)
    except Exception as error:
        # SAELens has a loader for each kind of release, and each raises what its client or format raises.
        msg = f"{name} could not be fetched or read ({one_line(error)}): check the network and your access"
        raise SaeError(msg) from error


def _find_release(name: str) -> tuple[str, str, str]:
    """The release, the id and the model of a spec."""
    release, slash, sae_id = name.partition("/")
    if not slash or not release.strip(".~"):
        msg = (
            f"there is no folder {name}; expected a folder of SAELens' format, or RELEASE/ID of its registry"
        )
        raise SaeError(msg)
    releases = library().releases()
    if release not in releases:
        msg = (
            f"there is no folder {name}, and SAELens knows no release {release!r}{_close(release, releases)}"
        )
        raise SaeError(msg)
    model, ids = releases[release]
    if sae_id not in ids:
        msg = f"the release {release} has no SAE {sae_id!r}{_close(sae_id, ids)}"
        raise SaeError(msg)
    return release, sae_id, model


def _close(name: str, known: Iterable[str]) -> str:
    names = list(known)
    found = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
    return f"; close to it: {', '.join(found)}"


def _check_architecture(name: str, architecture: object) -> None:
    if architecture in ENCODABLE:
        return
    if "transcoder" in str(architecture) or "crosscoder" in str(architecture):
        msg = f"{name} is a {architecture:.40}, which reads one site and writes another; expected an SAE"
        raise SaeError(msg)
    msg = (
        f"{name} has the architecture {architecture!r:.40}; expected one that encodes a token by itself: "
        f"{', '.join(ENCODABLE)}"
    )
    raise SaeError(msg)


def _check_site(name: str, found: object, layer: int, spec: str) -> None:
    if found == hook(layer):
        return
    if isinstance(found, str) and found.endswith(".hook_resid_post"):
        advice = "choose the SAE of this layer"
        if "{layer}" not in spec:
            advice += ", or write {layer} where its name has the number"
    else:
        advice = "choose an SAE of the residual stream after a layer"
    msg = f"{name} reads {found!r:.60}; the residuals are of {hook(layer)!r}: {advice}"
    raise SaeError(msg)


def _check_model(name: str, found: object, manifest: Manifest) -> None:
    expected = str(manifest.model["id"])
    if not found or manifest.model.get("kind") in NAMELESS or plain_name(str(found)) == plain_name(expected):
        return
    msg = (
        f"{name} is of the model {str(found)!r:.80}; the store is of {expected!r:.80}: choose an SAE of that"
    )
    raise SaeError(msg)


def _check_weights(name: str, sae: Any, config: dict[str, Any], manifest: Manifest) -> None:
    d_model = int(manifest.model["d_model"])
    if config["d_in"] != d_model:
        msg = (
            f"{name} takes {config['d_in']} numbers; the store has d_model {d_model}: choose an SAE of its "
            f"model, {manifest.model['id']!r:.80}"
        )
        raise SaeError(msg)
    if config["normalize_activations"] in library().UNFOLDED:
        msg = (
            f"{name} scales its input ({config['normalize_activations']}) by numbers that are not in its "
            "weights: save it when they are folded in, as SAELens' save_inference_model does after training"
        )
        raise SaeError(msg)
    if damaged := library().damaged_weights(sae):
        msg = f"{name} has weights that are NaN or infinite ({', '.join(damaged)}): fetch or train it again"
        raise SaeError(msg)


def _read_labels(folder: Path) -> dict[int, str]:
    """Labels by feature, of a file that may be missing."""
    path = folder / LABELS
    if not path.exists():
        return {}
    found = read_object(path, str(folder))
    if not all(feature.isdecimal() and isinstance(label, str) for feature, label in found.items()):
        msg = f'{path} is no table of labels; expected texts by feature, as in {{"17": "days of the week"}}'
        raise SaeError(msg)
    return {int(feature): label for feature, label in found.items()}


def read_object(path: Path, name: str) -> dict[str, Any]:
    """The JSON object of a file of an SAE.

    Raises:
        SaeError: If it holds none.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{name}: {path.name} cannot be read as JSON ({one_line(error)}): save it again"
        raise SaeError(msg) from error
    if not isinstance(found, dict):
        msg = f"{name}: {path.name} holds a {type(found).__name__}; expected an object"
        raise SaeError(msg)
    return found
