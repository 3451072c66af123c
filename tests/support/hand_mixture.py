"""A mixture of experts written by hand, of which it is known what each expert does.

Five experts, one chosen. In layer 1 each token's successor is written by its token's expert: 0 carries the tokens of
"alpha", 1 and 2 those of "beta", 3 is given the filler and writes nothing, 4 is never chosen. Layer 0 writes nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from families import Tokens
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import labkit as lk

WORDS = 16
FILLER = (10, 11, 12)
CARRIES = {0: (1, 2, 3, 4), 1: (5, 6), 2: (7, 8), 3: FILLER, 4: ()}
NEXT = {1: 2, 2: 3, 3: 4, 4: 1, 5: 6, 6: 7, 7: 8, 8: 5}
CYCLES = {"alpha": (1, 2, 3, 4), "beta": (5, 6, 7, 8)}


def hand_lab() -> lk.Lab:
    config = Qwen3MoeConfig(
        vocab_size=WORDS,
        hidden_size=2 * WORDS,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=5,
        num_experts_per_tok=1,
        moe_intermediate_size=WORDS,
        norm_topk_prob=True,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.cat([torch.eye(WORDS), torch.zeros(WORDS, WORDS)], 1))
        model.lm_head.weight.copy_(
            torch.cat([torch.zeros(WORDS, WORDS), torch.eye(WORDS)], 1) * 0.7
        )  # sure, and not too sure
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.experts.down_proj.zero_()
        mlp = model.model.layers[1].mlp
        mlp.gate.weight.zero_()
        read = torch.cat([torch.eye(WORDS), torch.zeros(WORDS, WORDS)], 1)  # each unit sees one token
        for expert, tokens in CARRIES.items():
            mlp.gate.weight[expert, list(tokens)] = 3.0
            mlp.experts.gate_up_proj[expert].copy_(torch.cat([read, read]))
            for token in tokens:
                if token in NEXT:
                    mlp.experts.down_proj[expert, WORDS + NEXT[token], token] = 1.0
        mlp.gate.weight[4] = -1.0
    return lk.Lab(model, Tokens(), name="by hand")


def documents(kind: str, count: int, seed: int = 0) -> list[list[int]]:
    """Stretches of the kind's cycle, and twice as much filler between them."""
    rng = np.random.default_rng([seed, list(CYCLES).index(kind)])
    found = []
    for _ in range(count):
        ids: list[int] = []
        while len(ids) < 40:
            start = int(rng.integers(4))
            length = int(rng.integers(3, 7))
            ids += [CYCLES[kind][(start + i) % 4] for i in range(length)]
            ids += rng.choice(FILLER, 2 * length).tolist()
        found.append(ids[: int(rng.integers(30, 41))])
    return found


def texts(count: int = 12, seed: int = 0) -> dict[str, list[list[int]]]:
    return {kind: documents(kind, count, seed) for kind in CYCLES}
