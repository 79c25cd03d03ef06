"""Tiny models with random weights, one per architecture, and a tokenizer made on the spot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORDS = (
    "the a cat dog trophy suitcase table was is too large small fits in on because it he she went "
    "home cook eat red blue question answer passage option true false yes no A B C : ? . , _ '"
).split()


COMMON = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
RECURRENT = ("A_log", "dt_bias", "time_decay")
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}


def rows(count: int = 60) -> list[dict[str, Any]]:
    """WinoGrande-shaped rows of unequal length, made here; three of four have options of their own."""
    nouns = ["trophy", "suitcase", "cat", "dog", "table", "box", "house", "key"]
    kinds = ["", "red ", "old blue ", "very small ", "large "]
    things = [f"{kinds[i % 5]}{nouns[(i + i // 40) % 8]}" for i in range(40)]
    made = []
    for i in range(count):
        pair = i - i // 4
        a, b = things[pair % 40], things[(pair + 1 + pair // 40 % 19) % 40]
        lead = "After dinner, " * (i % 4)
        size = "large" if i % 2 else "small"
        sentence = f"{lead}the {a} did not fit the {b} number {i} because the _ was too {size}."
        made.append({"sentence": sentence, "option1": a, "option2": b, "answer": "12"[i % 2]})
    return made


def write_rows(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tokenizer(folder: Path, *, special: bool = True, chat_template: str | None = None) -> Any:
    """A byte-level BPE, left-padding as Gemma's is; without ``special`` it has no start and no end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>", "<bos>"] if special else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([r["sentence"] for r in rows()] + [" ".join(WORDS)], trainer)
    names = {}
    if special:
        raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
        names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    made = PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **names)
    made.chat_template = chat_template
    made.save_pretrained(folder)
    return made


def config(architecture: str) -> Any:
    """A configuration of a few thousand weights; windows shorter than the texts where it has windows."""
    import transformers

    common = dict(COMMON)
    windows = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
    if architecture == "gemma2":
        return transformers.Gemma2Config(
            **common,
            **windows,
            query_pre_attn_scalar=8,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        )
    if architecture == "gemma3":
        return transformers.Gemma3TextConfig(**common, **windows, query_pre_attn_scalar=8)
    if architecture == "gemma3-vision":
        text = {**common, "layer_types": ["sliding_attention"] * 4, "sliding_window": 8}
        return transformers.Gemma3Config(
            text_config={**text, "query_pre_attn_scalar": 8},
            # As deep as the decoder.
            vision_config=VISION,
            mm_tokens_per_image=4,
            boi_token_index=501,
            eoi_token_index=502,
            image_token_index=500,
        )
    if architecture == "llama":
        return transformers.LlamaConfig(**common)
    if architecture == "dynamic":
        rope = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0}
        return transformers.LlamaConfig(**common | {"max_position_embeddings": 64}, rope_parameters=rope)
    if architecture == "longrope":
        rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
        rope |= {"rope_theta": 10000.0, "factor": 8.0}
        common |= {"num_key_value_heads": 4, "original_max_position_embeddings": 64}
        return transformers.Phi3Config(**common, rope_parameters=rope)
    if architecture == "cohere":
        return transformers.CohereConfig(**common, logit_scale=0.0625)
    if architecture == "granite":
        return transformers.GraniteConfig(**common, logits_scaling=8.0)
    if architecture == "qwen2":
        del common["head_dim"]
        return transformers.Qwen2Config(**common)
    return transformers.GPT2Config(
        vocab_size=512, n_embd=32, n_layer=4, n_head=4, n_positions=512, bos_token_id=2, eos_token_id=1
    )


ARCHITECTURES = ("gemma2", "gemma3", "llama", "qwen2", "gpt2")


def save_model(architecture: str, folder: Path, seed: int = 0, **options: Any) -> Path:
    """A model of an architecture with random weights, and its tokenizer, as ``save_pretrained`` writes."""
    return save(config(architecture), folder, seed, **options)


def save(config: Any, folder: Path, seed: int = 0, **options: Any) -> Path:
    """The same of a configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A recurrence with weights at random does not stay finite.
            if not any(part in name for part in RECURRENT):
                # The default scale leaves a tiny model's choices within rounding of each other.
                parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
    model.save_pretrained(folder)
    tokenizer(folder, **options)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Write the weights of a saved model again, changed."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def plain_model(folder: Path, dtype: Any) -> Any:
    """A model as transformers runs it, with attention that knows Gemma 2's soft-capping in every release."""
    from transformers import AutoConfig, AutoModelForCausalLM

    capped = getattr(AutoConfig.from_pretrained(folder), "attn_logit_softcapping", None)
    attention = "eager" if capped else None
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()


def plain_logprob(model: Any, tokenizer: Any, context: str, continuation: str) -> float:
    """Log-likelihood of a continuation by the harness's rule, by one forward pass of the model itself."""
    import torch

    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    ids = tokenizer(stripped + continuation).input_ids
    begin = len(tokenizer(stripped).input_ids)
    with torch.inference_mode():
        # The last token predicts nothing.
        logprobs = model(torch.tensor([ids[:-1]])).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[i - 1, ids[i]]) for i in range(begin, len(ids)))


def hooked_residuals(model: Any, token_ids: Any, layers: Any = None) -> Any:
    """``[layers, length, d_model]``: every decoder layer's output for one unpadded sequence."""
    import torch

    if layers is None:
        layers = model.transformer.h if hasattr(model, "transformer") else model.get_decoder().layers
    seen: list[Any] = []
    handles = [
        layer.register_forward_hook(
            lambda m, i, o: seen.append((o[0] if isinstance(o, tuple) else o).clone())
        )
        for layer in layers
    ]
    with torch.inference_mode():
        model(torch.tensor([[int(token) for token in token_ids]]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.cat(seen).clone()
