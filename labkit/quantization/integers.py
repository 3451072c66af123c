"""Integer grids: evenly spaced values, around zero (absmax) or between the smallest and the largest weight (zero-point)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from labkit.quantization.grids import Blocks, Codes, Grid, Parameters, rounded_to
from labkit.quantization.packing import pack_bits, unpack_bits


@dataclass(frozen=True)
class Absmax(Grid):
    """scale · q with q from −(2^(b−1) − 1) to 2^(b−1) − 1 and scale = max |w| / (2^(b−1) − 1): symmetric, zero is exact.

    A weight moves by half a scale at most; quantizing what was quantized changes nothing. A group of zeros stays zeros.
    The scale is stored in `scale_dtype`; in float16 this holds for scales from 6e-5, below which float16 has fewer bits, and
    a scale below 3e-8 makes its group zero. Equal to `torch.fake_quantize_per_channel_affine` with zero point 0, and to
    torchao's symmetric mapping from −127 to 127. Jacob et al. 2018, without a zero point; LLM.int8 (Dettmers et al. 2022)
    per row.
    """

    bits: int = 8
    scale_dtype: torch.dtype = torch.float32

    @property
    def largest(self) -> int:
        """The largest multiple of the scale, 2^(bits − 1) − 1."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def code_count(self) -> int:
        return 2 * self.largest + 1

    def fit(self, blocks: Blocks) -> Parameters:
        return {"scale": rounded_to(self.scale_dtype, blocks.abs().amax(1, keepdim=True) / self.largest)}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        steps = in_steps(blocks, parameters["scale"]).round().clamp(-self.largest, self.largest)
        return (steps + self.largest).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return (codes.float() - self.largest) * parameters["scale"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        return {"codes": pack_bits(codes, self.bits), "scale": parameters["scale"].to(self.scale_dtype)}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        codes = unpack_bits(stored["codes"], self.bits, groups * size).view(groups, size)
        return codes, {"scale": stored["scale"].float()}


@dataclass(frozen=True)
class ZeroPoint(Grid):
    """scale · (q − zero) with q from 0 to 2^b − 1: from the smallest to the largest weight, asymmetric.

    scale = (max − min) / (2^b − 1), where the range is widened to hold 0; zero = round(−min / scale) is itself a code, so
    that the weight 0 stays exactly 0. A weight moves by half a scale at most. Stored are the scale in `scale_dtype` and the
    zero in b bits. Equal to `torch.fake_quantize_per_channel_affine`. Jacob et al. 2018, section 2.1; GPTQ and AWQ files.
    """

    bits: int = 4
    scale_dtype: torch.dtype = torch.float32

    @property
    def largest(self) -> int:
        """The largest code, 2^bits − 1."""
        return int(2**self.bits) - 1

    def fit(self, blocks: Blocks) -> Parameters:
        low, high = blocks.amin(1, keepdim=True).clamp(max=0), blocks.amax(1, keepdim=True).clamp(min=0)
        scale = rounded_to(self.scale_dtype, high / self.largest - low / self.largest)  # high − low may overflow
        return {"scale": scale, "zero": in_steps(-low, scale).round().clamp(0, self.largest)}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        steps = in_steps(blocks, parameters["scale"]).round() + parameters["zero"]
        return steps.clamp(0, self.largest).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return (codes.float() - parameters["zero"]) * parameters["scale"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        return {
            "codes": pack_bits(codes, self.bits),
            "scale": parameters["scale"].to(self.scale_dtype),
            "zero": pack_bits(parameters["zero"], self.bits),
        }

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        codes = unpack_bits(stored["codes"], self.bits, groups * size).view(groups, size)
        zero = unpack_bits(stored["zero"], self.bits, groups).view(groups, 1)
        return codes, {"scale": stored["scale"].float(), "zero": zero.float()}


@dataclass(frozen=True)
class MinMax(Grid):
    """minimum + scale · q with q from 0 to 2^b − 1: like ZeroPoint, but the grid begins at the smallest weight itself.

    Zero need not be on the grid; in return all 2^b values lie between the smallest and the largest weight. A weight moves
    by half a scale at most, plus what the minimum loses in `scale_dtype`; a constant group is the minimum. The form that
    HQQ (Badri & Shaji 2023) and torch's packed int4 products use, and GGUF's Q4_1.
    """

    bits: int = 4
    scale_dtype: torch.dtype = torch.float32

    @property
    def largest(self) -> int:
        """The largest code, 2^bits − 1."""
        return int(2**self.bits) - 1

    def fit(self, blocks: Blocks) -> Parameters:
        low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
        scale = rounded_to(self.scale_dtype, high / self.largest - low / self.largest)
        return {"scale": scale, "minimum": rounded_to(self.scale_dtype, low)}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        steps = in_steps(blocks - parameters["minimum"], parameters["scale"])
        return steps.round().clamp(0, self.largest).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return codes.float() * parameters["scale"] + parameters["minimum"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        return {"codes": pack_bits(codes, self.bits)} | {n: t.to(self.scale_dtype) for n, t in parameters.items()}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        codes = unpack_bits(stored["codes"], self.bits, groups * size).view(groups, size)
        return codes, {"scale": stored["scale"].float(), "minimum": stored["minimum"].float()}


def in_steps(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """values · (1 / scale), as torch and torchao compute it, and 0 where that is no number."""
    return torch.where(scale.reciprocal().isfinite(), values * scale.reciprocal(), 0)
