"""A GPT-2 of two layers that adds two numbers, its weights written by hand: two heads fetch them, one neuron knows their sum.

A text is a, b, "=": three tokens, of which a and b are the numbers 0 to 3; after "=" the model says their sum. As in
induction_model.py everything in the residual stream is held twice, the second time negated, so that a LayerNorm only rescales.

FIRST, in layer 0: "=" looks at a and writes which it is; SECOND does so for b. DECOY copies a as well, to where nobody reads.
The MLP of layer 1 has a neuron for each pair of numbers, at a · 4 + b, which is 1 for its own pair, and 0 for all others; it
writes the pair's sum. All else is zero.
"""

from __future__ import annotations

import torch
from characters import Characters
from transformers import GPT2Config, GPT2LMHeadModel

import labkit as lk

NUMBERS, TOKENS, POSITIONS, HEADS = 4, 12, 16, 4
EQUALS, SUMS = 4, 5  # tokens: "=", and the first of the sums 0 to 6
WIDTH = 104  # twice 52; 26 for a head
FIRST, SECOND, DECOY = (0, 0), (0, 2), (0, 3)
ADDING = 1  # the layer whose MLP adds
SHARPNESS, CERTAINTY = 30.0, 20.0


FIGURES = "0123=ABCDEFG"  # numbers, "=", and sums as letters from "A", which is 0


def adding_lab() -> lk.Lab:
    return lk.Lab(adding_model(), Characters(FIGURES), name="adder")


def neuron(a: int, b: int) -> int:
    return a * NUMBERS + b


@torch.no_grad()
def adding_model() -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=TOKENS,
            n_positions=POSITIONS,
            n_embd=WIDTH,
            n_layer=2,
            n_head=HEADS,
            n_inner=NUMBERS**2,
            activation_function="relu",
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
    sizes = {
        "token": TOKENS,
        "position": POSITIONS,
        "first": NUMBERS,
        "second": NUMBERS,
        "decoy": NUMBERS,
        "out": TOKENS,
    }
    start = dict(zip(sizes, torch.tensor([0, *sizes.values()]).cumsum(0).tolist(), strict=False))
    body, wide = model.transformer, WIDTH // HEADS

    def write(matrix: torch.Tensor, part: str) -> None:
        """matrix (n, WIDTH): entry i of n is written to the i-th place of a part, and negated to its double."""
        n = range(len(matrix))
        matrix[n, range(start[part], start[part] + len(matrix))] = 1.0
        matrix[n, range(WIDTH // 2 + start[part], WIDTH // 2 + start[part] + len(matrix))] = -1.0

    def scale(parts: int) -> float:
        """What a LayerNorm makes of a 1 where so many parts hold one each."""
        return (WIDTH / (2 * parts)) ** 0.5

    write(body.wte.weight, "token")
    write(body.wpe.weight, "position")
    attention = body.h[0].attn
    query, key, value = (attention.c_attn.weight[:, i * WIDTH : (i + 1) * WIDTH] for i in range(3))
    strength = (SHARPNESS * wide**0.5) ** 0.5 / scale(2)
    for (_, head), at, part in ((FIRST, 0, "first"), (SECOND, 1, "second"), (DECOY, 0, "decoy")):
        first = head * wide
        query[start["position"] + 2, first] = strength  # "=" asks for what stands at `at`
        key[start["position"] + at, first] = strength
        numbers = range(NUMBERS)
        value[[start["token"] + i for i in numbers], range(first, first + NUMBERS)] = 1 / scale(2)
        write(attention.c_proj.weight[first : first + NUMBERS], part)
    mlp = body.h[ADDING].mlp
    for a in range(NUMBERS):
        for b in range(NUMBERS):
            mlp.c_fc.weight[[start["first"] + a, start["second"] + b], neuron(a, b)] = 2 / scale(5)
            out = start["out"] + SUMS + a + b
            mlp.c_proj.weight[neuron(a, b), [out, WIDTH // 2 + out]] = torch.tensor([1.0, -1.0])
    mlp.c_fc.bias.fill_(-3.0)  # both of its numbers: 4 - 3; one of them: 2 - 3, which a relu makes 0
    model.lm_head.weight[range(TOKENS), range(start["out"], start["out"] + TOKENS)] = CERTAINTY / scale(6)
    return model
