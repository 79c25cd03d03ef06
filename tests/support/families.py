"""Tiny configurations of many families of decoders, with what is special about each."""

from __future__ import annotations

from typing import Any

from tests.support.tiny import COMMON, VISION

OLD = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
GROUPED = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
STATES = {
    "state_size": 8,
    "num_heads": 8,
    "n_groups": 1,
    "chunk_size": 8,
    "expand": 2,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "mamba_expand": 2,
    "mamba_d_ssm": 64,
    "mamba_d_conv": 4,
}
CAP = {"query_pre_attn_scalar": 8, **WINDOWS}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("an activation with weights, norms of queries and keys", {}),
    "bamba": ("Mamba 2 and attention in turns", {**STATES, "attn_layer_indices": [1, 3]}),
    "bloom": ("positions as a bias of attention", OLD),
    "codegen": ("parallel blocks, rotary in part", {**OLD, "rotary_dim": 4, "n_ctx": 512}),
    "cohere": ("parallel blocks, a factor of the logits", {"logit_scale": 0.0625}),
    "cohere2": ("the same with sliding windows", {"logit_scale": 0.0625, **WINDOWS}),
    "dbrx": (
        "experts, clipped attention",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 4,
            "max_seq_len": 512,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "deepseek_v3": ("latent attention, experts in groups", {**EXPERTS, **GROUPED, **LATENT}),
    "exaone4": ("norms after each part, sliding windows", WINDOWS),
    "falcon": ("parallel blocks, one key for all heads", {"head_dim": None}),
    "falcon_h1": ("attention and Mamba 2 side by side", STATES),
    "gemma": ("embeddings with a factor", {}),
    "gemma2": (
        "soft-capping of attention and logits",
        {**CAP, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3_text": ("two rotary bases, sliding windows", CAP),
    "gemma3": (
        "the decoder of a model that reads pictures",
        {
            "text_config": {**COMMON, **CAP},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "boi_token_index": 501,
            "eoi_token_index": 502,
            "image_token_index": 500,
        },
    ),
    "gemma3n_text": (
        "four residual streams beside one another",
        {**WINDOWS, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 512},
    ),
    "glm4": ("norms before and after each part", {}),
    "gpt2": ("learned positions", OLD),
    "gpt_bigcode": ("learned positions, one key for all heads", OLD),
    "gpt_neo": (
        "local attention without a scale",
        {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 8},
    ),
    "gpt_neox": ("parallel blocks, biases", {}),
    "gpt_oss": ("experts, sinks of attention", {**EXPERTS, **WINDOWS}),
    "gptj": ("parallel blocks, a bias of the head", {**OLD, "rotary_dim": 8}),
    "granite": (
        "factors of embeddings, residuals, attention and logits",
        {
            "logits_scaling": 8.0,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
        },
    ),
    "granitemoehybrid": (
        "Mamba 2, attention and experts",
        {**EXPERTS, **STATES, "layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 64},
    ),
    "jamba": (
        "Mamba, attention and experts",
        {
            **EXPERTS,
            **STATES,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "lfm2": (
        "short convolutions and attention",
        {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8},
    ),
    "llama": ("", {}),
    "llama4_text": (
        "chunked attention, experts",
        {
            **EXPERTS,
            "attention_chunk_size": 8,
            "intermediate_size_mlp": 64,
            "moe_layers": [1, 3],
            "layer_types": ["chunked_attention", "full_attention"] * 2,
        },
    ),
    "mamba": ("a state-space model", STATES),
    "mamba2": ("a state-space model", STATES),
    "minimax": (
        "linear attention and experts",
        {**EXPERTS, "layer_types": ["linear_attention", "full_attention"] * 2, "block_size": 8},
    ),
    "mistral": ("sliding windows in every layer", {"sliding_window": 8}),
    "mixtral": ("experts", EXPERTS),
    "mpt": (
        "positions as a bias of attention",
        {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 512},
    ),
    "nemotron": ("squared activations, norms with an offset", {}),
    "olmo": ("norms without weights", {}),
    "olmo2": ("norms after each part", {}),
    "olmoe": ("experts, norms of queries and keys", EXPERTS),
    "opt": ("learned positions with an offset", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "phi": ("parallel blocks, a bias of the head", {}),
    "phi3": ("weights of queries, keys and values in one", {}),
    "qwen2": ("biases of queries, keys and values", {}),
    "qwen3": ("norms of queries and keys", {}),
    "qwen3_moe": ("experts", EXPERTS),
    "qwen3_next": (
        "gated linear attention and experts",
        {
            **EXPERTS,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "recurrent_gemma": (
        "a recurrence and local attention",
        {"attention_window_size": 8, "lru_width": 32, "block_types": ["recurrent", "attention"]},
    ),
    "rwkv": ("a recurrence", {"attention_hidden_size": 32, "context_length": 512}),
    "smollm3": ("some layers without positions", {}),
    "stablelm": ("rotary in part, biases", {}),
    "starcoder2": ("sliding windows, biases", {"sliding_window": 8}),
    "zamba2": (
        "Mamba 2, and one attention that layers share",
        {
            **STATES,
            "num_mem_blocks": 1,
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "hybrid_layer_ids": [1, 3],
        },
    ),
}
"""What is special about each, and its settings beside the common ones."""


def config(family: str) -> Any:
    """A configuration of some ten thousand weights."""
    from transformers import CONFIG_MAPPING

    settings = {**COMMON, **FAMILIES[family][1]}
    return CONFIG_MAPPING[family](**{name: value for name, value in settings.items() if value is not None})
