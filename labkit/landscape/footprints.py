"""What a run holds in memory, part by part and module by module: weights, cache, working memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from labkit import checks
from labkit.errors import Unavailable
from labkit.landscape.structures import CACHE_BITS, Structure
from labkit.quantization import formats
from labkit.quantization.counting import packed_bytes
from labkit.quantization.grids import Format

PLAIN = {"float32": 4, "bfloat16": 2, "float16": 2}
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
PRECISIONS = (*PLAIN, *formats.NAMES)

__all__ = ["CACHE_BITS", "PRECISIONS", "Footprint", "precision_name"]


def precision_name(name: str, value: object) -> str:
    """One of PRECISIONS; "bf16" and the like are taken too."""
    short = str(value).removeprefix("torch.").lower()
    return checks.one_of(name, _SHORT.get(short, short), PRECISIONS)


@dataclass(frozen=True)
class Footprint:
    """Bytes of one model's inference.

    weights: by parameter.  quantized, unquantized: of those in the format, scales included, and of those that stay.
    cache: by layer, of all sequences; None where it is not known.  working: the most that is there at one time besides.
    """

    weights: Mapping[str, int]
    quantized: int
    unquantized: int
    cache: tuple[int, ...] | None
    working: int

    @property
    def weight_bytes(self) -> int:
        return self.quantized + self.unquantized

    @property
    def cache_bytes(self) -> int:
        return sum(self.cache or ())

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes + self.working


def footprint(
    described: Structure,
    *,
    precision: str,
    cache_precision: str,
    tokens: int,
    batch: int,
    chunk: int | None = None,
    head: str | None = None,
) -> Footprint:
    """See `plan` for the arguments."""
    weights, quantized, unquantized = _weights(described, precision, head)
    cache = None
    if described.cache is not None:
        itemsize = CACHE_BITS[cache_precision] / 8
        cache = tuple(math.ceil(batch * layer.size_bytes(tokens, itemsize)) for layer in described.cache)
    pieces = min(tokens, chunk or tokens)
    return Footprint(weights, quantized, unquantized, cache, working_bytes(described, precision, pieces, batch))


@lru_cache(maxsize=128)
def _weights(described: Structure, precision: str, head: str | None) -> tuple[dict[str, int], int, int]:
    sizes: dict[tuple[tuple[int, ...], str, bool], tuple[int, bool]] = {}
    found, quantized, unquantized = {}, 0, 0
    for weight in described.weights:
        key = (weight.shape, weight.which, weight.kept)
        if key not in sizes:
            sizes[key] = _bytes(weight.shape, "other" if weight.kept else weight.which, precision, head)
        size, is_quantized = sizes[key]
        found[weight.name] = size
        quantized += size * is_quantized
        unquantized += size * (not is_quantized)
    return found, quantized, unquantized


def _bytes(shape: tuple[int, ...], which: str, precision: str, head: str | None) -> tuple[int, bool]:
    """(bytes of a weight, whether it is quantized): as `lk.quantization.sizes` has it."""
    plain = PLAIN.get(precision)
    format: Format | str | None = None
    if which in ("head", "tied", "embedding") and head is not None and head not in PLAIN:
        format = formats.fitted(head, shape)
    elif which in ("layer", "experts") and plain is None:
        format = formats.fitted(precision, shape)
    if isinstance(format, Format):
        return packed_bytes(format, shape), True
    return math.prod(shape) * (plain or 2), False


def itemsize(precision: str) -> int:
    """Bytes of an activation: those of the weights, 2 where they are quantized."""
    return PLAIN.get(precision, 2)


def working_bytes(described: Structure, precision: str, tokens: int, batch: int) -> int:
    """The most bytes of activations alive at one time while a prompt is read, the last position's logits included.

    Within a layer: its input, the normed copy, and the larger of what attention and MLP make on their way (queries, keys and
    values turned and laid out anew, or gate, activation, up and product), as transformers computes it. Attention as in
    FlashAttention or sdpa, without a matrix of scores. Of a mixture's experts a copy for each that was chosen.
    """
    each = _elements_per_token(described)
    logits = batch * described.vocabulary * 4  # float32, as transformers samples from them
    return batch * tokens * each * itemsize(precision) + logits


@lru_cache(maxsize=128)
def _elements_per_token(described: Structure) -> int:
    attention: dict[int, int] = {}
    mlp: dict[int, list[tuple[int, ...]]] = {}
    for weight in described.weights:
        if weight.layer is None or weight.which not in ("layer", "experts") or len(weight.shape) < 2:
            continue
        if weight.part in ("attention", "state space"):
            attention[weight.layer] = attention.get(weight.layer, 0) + weight.shape[-2]
        else:
            mlp.setdefault(weight.layer, []).append(weight.shape)
    widest = 0
    for layer in {*attention, *mlp}:
        widest = max(widest, 2 * attention.get(layer, 0), _of_mlp(mlp.get(layer, []), described.chosen or 1))
    return 2 * described.width + widest


def _of_mlp(shapes: list[tuple[int, ...]], chosen: int) -> int:
    """The most elements an MLP makes of one token: held against runs of models (`tests/landscape`)."""
    outputs = sum(shape[-2] * (chosen if len(shape) == 3 else 1) for shape in shapes)
    if any(len(shape) == 3 for shape in shapes):  # gate and up in one, then their halves and the product
        return 2 * outputs
    if len(shapes) != 2:  # gate, its activation and up, of which the product takes one's place
        return round(1.5 * outputs)
    is_gated = max(shape[-2] for shape in shapes) > max(shape[-1] for shape in shapes)
    return (2 if is_gated else 4) * outputs  # an activation that is written out, as GPT-2's, keeps several


def refuse_unknown_cache(described: Structure, name: str) -> None:
    """Raise Unavailable where a cache would be left out of a plan."""
    if described.cache is None:
        raise Unavailable(
            f"What the cache of {name} takes is not known, so that nothing can be planned: {described.notes[-1]}"
        )
