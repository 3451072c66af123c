"""Tiny configurations made from the published ones: every field that fixes the architecture stays, only its size shrinks."""

from __future__ import annotations

import copy
from typing import Any

from labkit.models import published

TINY = {  # the size a field gets where the published configuration has it; what is no size is kept
    **{"vocab_size": 100, "vocab_size_per_layer_input": 100, "max_position_embeddings": 128, "n_positions": 128},
    **{"max_seq_len": 128, "context_length": 128, "hidden_size": 32, "d_model": 32, "n_embd": 32, "lru_width": 32},
    **{"attention_hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "intermediate_size_mlp": 48},
    **{
        "shared_expert_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
        "shared_intermediate_size": 16,
    },
    **{
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 8,
        "attention_window_size": 8,
        "attention_chunk_size": 8,
    },
    **{"kv_lora_rank": 16, "q_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6},
    **{"query_pre_attn_scalar": 8, "hidden_size_per_layer_input": 8, "state_size": 4, "time_step_rank": 3},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_head_dim": 8, "linear_num_heads": 4, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 8},
    **{"mamba_d_state": 4, "mamba_dt_rank": 3, "mamba_d_head": 8, "mamba_n_heads": 8, "mamba_d_ssm": 64},
    **{"ssm_state_size": 4, "mamba_num_heads": 8, "mamba_head_dim": 8, "chunk_size": 4, "mamba_chunk_size": 4},
    **{"num_global_key_value_heads": 1, "original_max_position_embeddings": 16, "block_multiple_of": 8},
}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
CHOSEN = ("num_experts_per_tok", "top_k_experts")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
SPECIAL: dict[str, dict[str, Any]] = {  # what has to fit together otherwise
    "xlstm": {"hidden_size": 128, "num_heads": 2, "num_hidden_layers": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "rwkv": {"intermediate_size": 64},
    "recurrent_gemma": {"intermediate_size": 96, "num_hidden_layers": 3},
    "nemotron_h": {"num_hidden_layers": 4, "hybrid_override_pattern": "ME*E", "n_groups": 2},
    "qwen3_next": {"num_hidden_layers": 4},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "minimax_m2": {"head_dim": 8},
}


def scaled(name: str) -> dict[str, Any]:
    """The published model's configuration at toy size, model_type among its fields."""
    entry = published.get(name)
    assert entry is not None, name
    return shrink(entry.config)


def shrink(config: dict[str, Any]) -> dict[str, Any]:
    fields = copy.deepcopy(config)
    heads = next((fields[key] for key in ("num_attention_heads", "n_head", "n_heads") if key in fields), None)
    for key in [*fields]:
        value = fields[key]
        if isinstance(value, int) and not isinstance(value, bool) and value > 0 and key in TINY:
            fields[key] = TINY[key]
    for key in ("num_attention_heads", "n_head", "n_heads"):
        if key in fields:
            fields[key] = 4
    for key in ("num_key_value_heads", "num_kv_heads"):  # one, as many as queries have, or between
        if fields.get(key):
            fields[key] = 1 if fields[key] == 1 else 4 if fields[key] == heads else 2
    groups = (fields.get("n_group") or 1) > 1
    for key in EXPERTS:
        if fields.get(key):
            fields[key] = 8 if groups else 4
    for key in CHOSEN:
        if fields.get(key):
            fields[key] = min(fields[key], 3 if groups else 2)
    if groups:
        fields |= {"n_group": 4, "topk_group": 2}
    if "layer_types" in fields:
        kinds = list(dict.fromkeys(fields["layer_types"]))
        fields["layer_types"] = kinds * 2
    for key in LAYERS:
        if key in fields:
            fields[key] = len(fields["layer_types"]) if "layer_types" in fields else 2
    if fields.get("num_kv_shared_layers"):
        fields["num_kv_shared_layers"] = 2
    if fields.get("first_k_dense_replace"):
        fields["first_k_dense_replace"] = 1
    rope = fields.get("rope_parameters")
    for part in [rope, *(rope or {}).values()] if isinstance(rope, dict) else []:
        if isinstance(part, dict):
            if "original_max_position_embeddings" in part:
                part["original_max_position_embeddings"] = 16
            if "mrope_section" in part:
                part["mrope_section"] = [1, 0, 0]
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return fields | SPECIAL.get(fields["model_type"], {}) | ends
