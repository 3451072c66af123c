"""Multiplications that ternary weights leave, in a transformer's block and in one without products of activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit import checks
from labkit.errors import BadInput
from labkit.models.config import first_number
from labkit.models.memory import named_config
from labkit.results import Result

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from labkit.models.memory import Countable

KNOWN = ("llama", "mistral", "qwen2", "qwen3")
NORMED_HEADS = ("qwen3",)


@dataclass(frozen=True)
class Shape:
    """Of one block. window: keys that a token sees at most; None for all before it. normed_heads: queries and keys are."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    normed_heads: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Multiplications(Result):
    """Multiplications of one token in one block, on average over a text, in full precision and with ternary matrices.

    table: for each block and length: `tokens`, of the text; `matrices`, products with the weights of linear layers, each of
        which becomes an addition, a subtraction or, where the weight is 0, nothing; `attention`, products of queries with
        keys and of weights with values, their scaling and the normalization of the softmax; `norms`; `gates`, products of
        activations in SiLU, gated units and the recurrence; `positions`, of rotary embeddings; `full_precision`, the sum of
        these; `scales`, one for each output of a ternary matrix, which are new; `ternary`, the sum without the matrices
        and with the scales; `become_additions`, matrices / full_precision; `left`, ternary / full_precision.
    name: of the model.  shape: of its block, and of the other, which has the same width.
    unembedding: multiplications of one token by the output head, which stands behind all blocks and stays as it is.
    """

    name: str
    shape: Shape
    unembedding: int

    def _title(self) -> str:
        return f"multiplications of a token in a block as wide as those of {self.name}"

    def _remarks(self) -> Sequence[str]:
        return (
            f"The output head multiplies {self.unembedding:,} times for a token, besides; it usually stays as it is.",
            "Roots, exponentials and divisions are not counted. Rounding activations to 8 bits, as BitNet does, would add a "
            "multiplication for each input of a matrix.",
        )


def multiplications(what: Countable, *, tokens: int | Iterable[int] = (128, 1_024, 8_192, 65_536)) -> Multiplications:
    """How many multiplications become additions where the matrices are ternary, and how many stay.

    what: a Lab, a published name (labkit.models.published.names()), a folder or a configuration, as lk.memory takes them,
        of LLaMA's kind: RMSNorm, rotary positions, softmax attention, a gated feed-forward part.
    tokens: lengths of text; a token attends to itself and all before it, so attention grows with them.
    Two blocks are counted. "transformer" is the model's own, with ternary linear layers (BitNet b1.58, Ma et al. 2024).
    "matmul-free" is that of Zhu et al. 2024 (2406.02528) at the same widths: a gated recurrent unit (MLGRU: four square
    matrices; f, c and g of the same input, state f·h + (1 − f)·SiLU(c), output W(g·state)) and a gated linear unit of three,
    with a norm before each matrix, once where several read the same input.
    An RMSNorm of n numbers takes 3n + 1 multiplications: squares, the mean, the factor, the weight. SiLU takes one.
    Raises BadInput for a model of another kind, and for lengths below 1; ModelNotFound for an unknown name.
    """
    given = [tokens] if checks.as_whole(tokens) is not None else checks.series("tokens", tokens, "whole numbers from 1")
    lengths = [checks.whole("tokens", length, 1) for length in given]
    if not lengths:
        checks.refuse("tokens", tokens, "at least one length")
    model: Countable = getattr(what, "model", what) if hasattr(what, "tokenizer") else what
    name, config = named_config(model)
    shape = shape_of(name, config)
    import pandas as pd

    rows = []
    for block, counts in (("transformer", _transformer), ("matmul-free", _without_products)):
        for length in lengths:
            parts = counts(shape, length)
            scales = parts.pop("scales")
            full = sum(parts.values())
            left = full - parts["matrices"] + scales
            more = {"full_precision": full, "scales": scales, "ternary": left}
            shares = {"become_additions": parts["matrices"] / full, "left": left / full}
            rows.append({"block": block, "tokens": length, **parts, **more, **shares})
    return Multiplications(
        pd.DataFrame(rows),
        name=str(getattr(what, "name", name)) if hasattr(what, "tokenizer") else name,
        shape=shape,
        unembedding=shape.hidden * int(config.vocab_size),
    )


def shape_of(name: str, config: PreTrainedConfig) -> Shape:
    """The shape of a model's block. Raises BadInput where it is none of LLaMA's kind, or where blocks differ."""
    hidden, intermediate = first_number(config, "hidden_size"), first_number(config, "intermediate_size")
    heads = first_number(config, "num_attention_heads")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.model_type not in KNOWN or not hidden or not intermediate or not heads or len(kinds) > 1:
        raise BadInput(
            f"The multiplications of {name} can't be counted: its blocks are not all of LLaMA's kind; take a model of "
            f"{checks.listed(KNOWN, 'or')}."
        )
    slides = config.model_type == "mistral" or "sliding_attention" in kinds
    return Shape(
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=first_number(config, "num_key_value_heads") or heads,
        head_dim=first_number(config, "head_dim") or hidden // heads,
        window=first_number(config, "sliding_window") if slides else None,
        normed_heads=config.model_type in NORMED_HEADS,
    )


def _norm(size: int) -> int:
    return 3 * size + 1


def _transformer(shape: Shape, tokens: int) -> dict[str, float]:
    """Of one token, by part, on average over a text."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    seen = min(tokens, shape.window or tokens)  # the last token's; those before it see fewer
    mean_seen = (seen * (seen + 1) / 2 + (tokens - seen) * seen) / tokens
    norms = 2 * _norm(shape.hidden)
    if shape.normed_heads:
        norms += (shape.heads + shape.kv_heads) * _norm(shape.head_dim)
    return {
        "matrices": shape.hidden * (2 * queries + 2 * keys + 3 * shape.intermediate),
        "attention": mean_seen * (2 * queries + 2 * shape.heads),  # scores, values; scaling, normalization
        "norms": norms,
        "gates": 2 * shape.intermediate,
        "positions": 2 * (queries + keys),  # by cosine and by sine
        "scales": queries + 2 * keys + shape.hidden + 2 * shape.intermediate + shape.hidden,
    }


def _without_products(shape: Shape, _tokens: int) -> dict[str, float]:
    """Of one token, by part, in the block without products of activations; the length of the text changes nothing."""
    hidden, intermediate = shape.hidden, shape.intermediate
    return {
        "matrices": 4 * hidden * hidden + 3 * hidden * intermediate,
        "attention": 0,
        "norms": 3 * _norm(hidden) + _norm(intermediate),
        "gates": 4 * hidden + 2 * intermediate,  # SiLU(c), f·h, (1 − f)·c, g·h; SiLU, gate·up
        "positions": 0,
        "scales": 4 * hidden + 2 * intermediate + hidden,
    }
