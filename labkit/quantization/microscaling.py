"""MXFP4: floating-point numbers of four bits, 32 of which share a scale that is a power of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from labkit.quantization.gguf_blocks import pack_codes, unpack_codes
from labkit.quantization.grids import Blocks, Codes, Grid, Parameters
from labkit.quantization.packing import look_up

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of E2M1: one sign, two exponent bits, one mantissa bit
LARGEST_EXPONENT = 2  # of E2M1: 4.0 and 6.0
BIAS = 127  # of the stored exponent, E8M0


@dataclass(frozen=True)
class MXFP4(Grid):
    """±{0, ½, 1, 1½, 2, 3, 4, 6} · 2^e, where 4 · 2^e is the power of two at or below the largest magnitude of the group.

    Codes 0 to 7 are the magnitudes, 8 to 15 the same with a minus. A weight up to 6 · 2^e moves by half the gap around it at
    most; larger ones, up to 8 · 2^e, are cut to 6 · 2^e and lose a quarter at most. Zero is exact; quantizing what was quantized
    changes nothing. Halves go toward zero. Bytes equal to `gguf.quants.quantize`. OCP Microscaling Formats 1.0 (2023),
    section 6.3.
    """

    bits: int = 4

    def fit(self, blocks: Blocks) -> Parameters:
        largest = blocks.abs().amax(1, keepdim=True)
        exponent = largest.log2().floor() - LARGEST_EXPONENT + BIAS
        return {"exponent": exponent.clamp(0, 254).to(torch.uint8)}  # 0, which the log of 0 becomes, is 2^−127

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        magnitudes = torch.tensor(MAGNITUDES, dtype=torch.float32, device=blocks.device)
        middles = (magnitudes[1:] + magnitudes[:-1]) / 2
        codes = torch.bucketize(blocks.abs() / self._scale(parameters), middles).to(torch.uint8)
        return torch.where((blocks < 0) & (codes > 0), codes + 8, codes)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        magnitudes = torch.tensor(MAGNITUDES, dtype=torch.float32)
        return look_up(torch.cat([magnitudes, -magnitudes]), codes) * self._scale(parameters)

    def _scale(self, parameters: Parameters) -> torch.Tensor:
        return torch.exp2(parameters["exponent"].float() - BIAS)

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        return {"blocks": torch.cat([parameters["exponent"], pack_codes(codes, self.bits)], 1)}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        return unpack_codes(stored["blocks"][:, 1:], self.bits), {"exponent": stored["blocks"][:, :1]}
