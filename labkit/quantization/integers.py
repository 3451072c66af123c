"""Integer grids: evenly spaced values, around zero (absmax) or between the smallest and the largest weight (zero-point)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from labkit.quantization.grids import Blocks, Codes, Grid, Parameters
from labkit.quantization.packing import pack_bits, unpack_bits


@dataclass(frozen=True)
class Absmax(Grid):
    """scale · q with q from −(2^(b−1) − 1) to 2^(b−1) − 1 and scale = max |w| / (2^(b−1) − 1): symmetric, zero is exact.

    A weight moves by half a scale at most; quantizing what was quantized changes nothing. A group of zeros stays zeros.
    The scale is stored in `scale_dtype`. Jacob et al. 2018, without a zero point; LLM.int8 (Dettmers et al. 2022) per row.
    """

    bits: int = 8
    scale_dtype: torch.dtype = torch.float32

    @property
    def largest(self) -> int:
        return int(2 ** (self.bits - 1)) - 1

    def fit(self, blocks: Blocks) -> Parameters:
        scale = blocks.abs().amax(1, keepdim=True) / self.largest
        return {"scale": scale.to(self.scale_dtype).float()}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        scale = parameters["scale"]
        steps = (
            torch.where(scale > 0, blocks / scale, torch.zeros_like(blocks)).round().clamp(-self.largest, self.largest)
        )
        return (steps + self.largest).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return (codes.float() - self.largest) * parameters["scale"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        return {"codes": pack_bits(codes, self.bits), "scale": parameters["scale"].to(self.scale_dtype)}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        codes = unpack_bits(stored["codes"], self.bits, groups * size).view(groups, size)
        return codes, {"scale": stored["scale"].float()}
