"""Tiny random models of every family under the contract: a row each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from scaled import scaled

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
LATENT = SMALL | {  # DeepSeek's attention and mixture; layer 0 is dense
    **{"num_key_value_heads": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1},
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    "first_k_dense_replace": 1,
}
OLD = ENDS | {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "vocab_size": 100}


@dataclass(frozen=True)
class Family:
    """model_type and the fields of its configuration. eager: it computes attention in code of its own.

    uses: for each layer, the one whose module it is; None where each has its own.
    """

    model_type: str
    fields: dict[str, Any]
    eager: bool = False
    uses: tuple[int, ...] | None = None


FAMILIES = {
    "llama2": Family("llama", SMALL),
    "llama3": Family("llama", GROUPED | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "mistral": Family("mistral", GROUPED | {"sliding_window": 8}),
    "mixtral": Family("mixtral", GROUPED | EXPERTS),
    "phimoe": Family("phimoe", GROUPED | EXPERTS),
    "jetmoe": Family(
        "jetmoe",
        OLD
        | {"num_key_value_heads": 2, "num_attention_heads": 4, "kv_channels": 8, "intermediate_size": 24}
        | EXPERTS
        | {"max_position_embeddings": 128},
    ),
    "dbrx": Family(
        "dbrx",
        ENDS
        | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128, "vocab_size": 100}
        | {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}}
        | {"ffn_config": {"hidden_size": 32, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2}},
    ),
    "qwen2": Family("qwen2", GROUPED),
    "qwen2_moe": Family(
        "qwen2_moe",
        GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "qwen3": Family("qwen3", GROUPED | {"head_dim": 8}),
    "qwen3_moe": Family(
        "qwen3_moe", GROUPED | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    ),
    "qwen3_moe_sparse_step": Family(  # layers 0 and 2 are dense
        "qwen3_moe",
        GROUPED
        | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"num_hidden_layers": 4, "decoder_sparse_step": 2, "norm_topk_prob": True},
    ),
    "phi3": Family("phi3", GROUPED),
    "gemma2": Family(
        "gemma2",
        GROUPED
        | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
        | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": Family("gemma3_text", GROUPED | {"head_dim": 8, "sliding_window": 8}),
    "gpt2": Family("gpt2", ENDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 128}),
    "gpt_neox": Family("gpt_neox", SMALL),
    "opt": Family("opt", OLD | {"ffn_dim": 48, "max_position_embeddings": 128, "word_embed_proj_dim": 32}),
    "bloom": Family("bloom", ENDS | {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}, eager=True),
    "mpt": Family(
        "mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 100, "max_seq_len": 128}, eager=True
    ),
    "falcon_multi_query": Family("falcon", OLD | {"multi_query": True, "parallel_attn": True}, eager=True),
    "falcon_grouped": Family("falcon", OLD | {"new_decoder_architecture": True, "num_kv_heads": 2}, eager=True),
    "olmo2": Family("olmo2", GROUPED),
    "olmoe": Family("olmoe", SMALL | {"num_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v2": Family("deepseek_v2", LATENT | {"n_routed_experts": 4, "topk_method": "greedy", "n_group": None}),
    "deepseek_v2_groups": Family(
        "deepseek_v2",
        LATENT
        | {"n_routed_experts": 8, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
        | {"num_experts_per_tok": 3, "routed_scaling_factor": 2.5},
    ),
    "deepseek_v3": Family(
        "deepseek_v3",
        LATENT
        | {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "norm_topk_prob": True},
    ),
    "gpt_oss": Family("gpt_oss", GROUPED | EXPERTS | {"head_dim": 8, "sliding_window": 8}),
    "bitnet": Family("bitnet", GROUPED),
    "granitemoe": Family(
        "granitemoe",
        GROUPED
        | EXPERTS
        | {"residual_multiplier": 0.5, "attention_multiplier": 0.3, "embedding_multiplier": 2.0, "logits_scaling": 3.0},
    ),
    "mamba": Family("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100, "state_size": 4}),
    "rwkv": Family("rwkv", ENDS | {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100, "context_length": 64}),
}

UNUSUAL = {  # under the contract of the trace alone: what is built otherwise than other families
    "gemma3n": Family(  # two residual streams; the last two layers take keys and values from those before
        "gemma3n_text",
        GROUPED
        | {"num_hidden_layers": 4, "head_dim": 8, "sliding_window": 8, "intermediate_size": [48] * 4}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
        | {"vocab_size_per_layer_input": 100, "hidden_size_per_layer_input": 8, "altup_num_inputs": 2}
        | {"laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4},
    ),
    "gemma4": Family(  # layers differ in their key-value heads and in the size of heads
        "gemma4_text",
        GROUPED
        | {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
        | {"global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
        | {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    ),
    "llama_both_ways": Family("llama", GROUPED | {"is_causal": False}),
    "bert": Family("bert", SMALL),
    "llama_used_twice": Family("llama", GROUPED | {"num_hidden_layers": 4}, uses=(0, 0, 2, 2)),
    "gpt2_in_turns": Family(
        "gpt2",
        ENDS | {"n_embd": 32, "n_layer": 5, "n_head": 4, "vocab_size": 100, "n_positions": 128},
        uses=(0, 1, 0, 1, 0),
    ),
}


def _published(*names: str) -> dict[str, Family]:
    """The published configurations of these names, scaled down."""
    fields = {name: scaled(name) for name in names}
    return {name: Family(of.pop("model_type"), of) for name, of in fields.items()}


PUBLISHED = _published(  # under the contract of the trace, of sizes and of generation
    *("gemma-2b", "gemma-4-e2b", "olmo-7b", "olmo-3-7b", "starcoder2-3b", "smollm3-3b", "phi-4-mini", "qwen-7b"),
    *("glm-4-9b", "glm-4-9b-0414", "glm-4.5", "granite-3.1-2b", "llama-4-scout", "minimax-m2", "kimi-k2"),
    *("codestral-mamba-7b", "falcon-mamba-7b"),
)
MIXED = _published(  # layers differ in what they have: tests/trace/test_mixed_layers.py
    *("gemma-4-26b-a4b", "granite-4.0-h-small", "kimi-linear-48b-a3b", "qwen3-next-80b-a3b", "qwen3.5-27b"),
    *("qwen3.5-35b-a3b", "xlstm-7b", "recurrentgemma-2b", "jamba-v0.1", "falcon-h1-0.5b", "nemotron-3-nano-30b-a3b"),
    "lfm2-1.2b",
)

READING = SMALL | {"is_decoder": True}
ENCODERS = {  # families of encoders, built as decoders
    "roberta": Family("roberta", READING | {"bos_token_id": 0, "pad_token_id": 1}),
    "data2vec": Family("data2vec-text", READING | {"bos_token_id": 0, "pad_token_id": 1}),
    "electra": Family("electra", READING),
    "xlnet": Family("xlnet", {"vocab_size": 100, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
}


def build(family: Family, *, implementation: str | None = None) -> Any:
    """A tiny model with weights large enough that its attention is far from even. The same each time."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    logging.getLogger("transformers").setLevel(logging.ERROR)  # of kernels that are missing and token ids out of range
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.model_type, **family.fields)
    chosen = implementation or ("eager" if family.eager else None)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=chosen).eval()
    if family.uses is not None:
        stack = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == len(family.uses))
        for layer, use in enumerate(family.uses):
            stack[layer] = stack[use]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            if name.endswith(("e_score_correction_bias", "router.bias")):  # as they come they are zero
                tensor.normal_(0, 0.3)
    return model


class Tokens:
    """A tokenizer of nothing but numbers: token 7 is written "t7 "."""

    pad_token_id = 0
    eos_token_id = None
    chat_template = None

    def __len__(self) -> int:
        return 100

    def __call__(self, text: str, **_: Any) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(input_ids=[int(word[1:]) for word in text.split()])

    def convert_ids_to_tokens(self, id_: int) -> str:
        return f"t{id_} "

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(f"t{i} " for i in ids)
