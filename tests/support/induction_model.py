"""A GPT-2 of two layers without MLPs that copies, its weights written by hand: one head of each layer does the work.

The residual stream has four parts: which token stands here, at which position, which token stands before it, and what is
to come out. Everything is held twice, the second time negated, so that a LayerNorm subtracts nothing and only rescales.

PREVIOUS, in layer 0: position p asks for position p - 1, and what is found there becomes "the token before".
INDUCTION, in layer 1: a token asks for places whose "token before" is itself; the token there is what is to come out.
All other heads have weights of zero and so look evenly at what they may see.
"""

from __future__ import annotations

import torch
from characters import Characters
from transformers import GPT2Config, GPT2LMHeadModel

import labkit as lk

VOCABULARY, POSITIONS, HEADS = 40, 64, 4
WIDTH = 2 * (3 * VOCABULARY + POSITIONS)  # 368, and 92 for a head
PREVIOUS, INDUCTION = (0, 1), (1, 2)
SHARPNESS = 30.0  # a matching score; all others are 0
CERTAINTY = 20.0  # the logit of a token copied


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"


def induction_lab() -> lk.Lab:
    return lk.Lab(induction_model(), Characters(LETTERS), name="copier")


@torch.no_grad()
def induction_model() -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=POSITIONS,
            n_embd=WIDTH,
            n_layer=2,
            n_head=HEADS,
            n_inner=1,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
    token, position, before, out = (
        slice(0, VOCABULARY),
        slice(VOCABULARY, VOCABULARY + POSITIONS),
        slice(VOCABULARY + POSITIONS, 2 * VOCABULARY + POSITIONS),
        slice(2 * VOCABULARY + POSITIONS, 3 * VOCABULARY + POSITIONS),
    )
    negated = WIDTH // 2
    body = model.transformer

    def write(matrix: torch.Tensor, where: slice) -> None:
        """matrix (n, WIDTH): entry i of n is written to the i-th place of a part, and negated to its double."""
        n = len(matrix)
        matrix[range(n), range(where.start, where.stop)] = 1.0
        matrix[range(n), range(negated + where.start, negated + where.stop)] = -1.0

    write(body.wte.weight, token)
    write(body.wpe.weight, position)

    wide = WIDTH // HEADS
    scale = [(WIDTH / 4) ** 0.5, (WIDTH / 6) ** 0.5, (WIDTH / 8) ** 0.5]  # what a LayerNorm makes of a 1: 2, 3, 4 parts
    strength = [(SHARPNESS * wide**0.5) ** 0.5 / s for s in scale]

    # layer 0: query of p at p - 1, key of p at p
    _, head = PREVIOUS
    attention, first = body.h[0].attn, head * wide
    query = attention.c_attn.weight[:, :WIDTH]
    key = attention.c_attn.weight[:, WIDTH : 2 * WIDTH]
    value = attention.c_attn.weight[:, 2 * WIDTH :]
    for p in range(POSITIONS):
        if p > 0:
            query[position.start + p, first + p - 1] = strength[0]
        key[position.start + p, first + p] = strength[0]
    value[range(VOCABULARY), range(first, first + VOCABULARY)] = 1 / scale[0]
    write(attention.c_proj.weight[first : first + VOCABULARY], before)

    # layer 1: query by token, key by the token before; position 0 has none before it and is kept out by one more place
    _, head = INDUCTION
    attention, first = body.h[1].attn, head * wide
    query = attention.c_attn.weight[:, :WIDTH]
    key = attention.c_attn.weight[:, WIDTH : 2 * WIDTH]
    value = attention.c_attn.weight[:, 2 * WIDTH :]
    places = range(first, first + VOCABULARY)
    query[range(VOCABULARY), places] = strength[1]
    query[range(VOCABULARY), first + VOCABULARY] = strength[1]
    key[range(before.start, before.stop), places] = strength[1]
    key[position.start, first + VOCABULARY] = -strength[1]
    value[range(VOCABULARY), places] = 1 / scale[1]
    write(attention.c_proj.weight[first : first + VOCABULARY], out)

    model.lm_head.weight[range(VOCABULARY), range(out.start, out.stop)] = CERTAINTY / scale[2]
    return model
