"""Tiny models with random weights, one per architecture, and a tokenizer made on the spot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

WORDS = (
    "the a cat dog trophy suitcase table was is too large small fits in on because it he she went "
    "home cook eat red blue question answer passage option true false yes no A B C : ? . , _ '"
).split()


def rows(count: int = 40) -> list[dict[str, Any]]:
    """WinoGrande-shaped rows of unequal length, made here."""
    nouns = ["trophy", "suitcase", "cat", "dog", "table", "red box", "old blue house", "very small key"]
    made = []
    for i in range(count):
        a, b = nouns[i % 8], nouns[(i * 3 + 1 + i // 8) % 8]
        b = b if b != a else "lamp"
        lead = "After dinner, " * (i % 4)
        size = "large" if i % 2 else "small"
        sentence = f"{lead}the {a} did not fit the {b} number {i} because the _ was too {size}."
        made.append({"sentence": sentence, "option1": a, "option2": b, "answer": "12"[i % 2]})
    return made


def write_rows(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tokenizer(folder: Path) -> Any:
    """A byte-level BPE with a start token, left-padding as Gemma's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([r["sentence"] for r in rows()] + [" ".join(WORDS)], trainer)
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", padding_side="left"
    )
    made.save_pretrained(folder)
    return made


def config(architecture: str) -> Any:
    """A configuration of a few thousand weights; windows shorter than the texts where it has windows."""
    import transformers

    common = dict(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
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
    if architecture == "llama":
        return transformers.LlamaConfig(**common)
    if architecture == "qwen2":
        del common["head_dim"]
        return transformers.Qwen2Config(**common)
    return transformers.GPT2Config(
        vocab_size=512, n_embd=32, n_layer=4, n_head=4, n_positions=512, bos_token_id=2, eos_token_id=1
    )


ARCHITECTURES = ("gemma2", "gemma3", "llama", "qwen2", "gpt2")


def save_model(architecture: str, folder: Path, seed: int = 0) -> Path:
    """A model with random weights and its tokenizer, as ``save_pretrained`` writes them."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(architecture), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # The default scale leaves a tiny model's choices within rounding of each other.
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


def plain_model(folder: Path, dtype: Any) -> Any:
    """A model as transformers runs it, with attention that knows Gemma 2's soft-capping in every release."""
    from transformers import AutoConfig, AutoModelForCausalLM

    capped = getattr(AutoConfig.from_pretrained(folder), "attn_logit_softcapping", None)
    attention = "eager" if capped else None
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
