"""Ternary weights: minus, nothing or plus the mean magnitude. A product with them needs no multiplication."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from labkit.quantization.grids import Blocks, Codes, Grid, Parameters
from labkit.quantization.packing import pack_trits, unpack_trits

SMALLEST_SCALE = 1e-5


@dataclass(frozen=True)
class Absmean(Grid):
    """scale · {−1, 0, 1} with scale = mean |w|; weights below half of it become 0.

    Weights up to 1½ scales move by half a scale at most; larger ones are cut, however large. Zero is exact. Quantizing again is
    not idempotent: the zeros make the mean smaller. Five codes take a byte, 1.6 bits each, the scale is float32.
    Equal to transformers' `WeightQuant`. BitNet b1.58 (Ma et al. 2024), equations 1 to 3; without training for it, the format
    ruins a model.
    """

    bits: int = 2

    @property
    def code_count(self) -> int:
        return 3

    def fit(self, blocks: Blocks) -> Parameters:
        return {"scale": blocks.abs().mean(1, keepdim=True).clamp(min=SMALLEST_SCALE)}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        return ((blocks / parameters["scale"]).round().clamp(-1, 1) + 1).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return (codes.float() - 1) * parameters["scale"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        return {"codes": pack_trits(codes), "scale": parameters["scale"]}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        return unpack_trits(stored["codes"], groups * size).view(groups, size), {"scale": stored["scale"]}
