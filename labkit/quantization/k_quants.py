"""K-quants of GGUF: 256 weights of a row share a float16 scale, and within them sub-blocks have small integer scales.

So the scales cost little, and each may be searched for: of some twenty candidates the one is kept that leaves the smallest
weighted error. What is stored are the blocks' bytes as they stand in a GGUF file. (llama.cpp, pull request 1684, 2023.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from labkit.quantization.gguf_blocks import HALF, from_half_bytes, half_bytes
from labkit.quantization.grids import Blocks, Codes, Grid, Parameters, rounded_to

SUPER_BLOCK = 256  # weights
TOO_SMALL = 1e-15  # a sub-block whose magnitudes are all below it is zero


class _SuperBlocks(Grid):
    """What K-quants share: a code's meaning depends on the sub-block it is in."""

    @property
    def by_column(self) -> bool:
        return False

    def levels(self, parameters: Parameters, group: int = 0) -> torch.Tensor:
        """(values,) float32, rising: all values of all sub-blocks of this super-block."""
        codes = torch.arange(self.code_count, dtype=torch.uint8)[:, None].expand(-1, SUPER_BLOCK)
        values: torch.Tensor = self.decode(codes, {n: t[[group]].cpu() for n, t in parameters.items()}).unique()
        return values


@dataclass(frozen=True)
class Q6K(_SuperBlocks):
    """Q6_K: scale · sub_scale · (q − 32) with q of 6 bits, in sub-blocks of 16 with a sub_scale of 8 bits: 6.56 bits a weight.

    Zero is exact; weights below about 1e-6 are lost, since the scale is too small for float16. A sub-block's largest weight
    may be cut a little, where the search found that this pays; the rest move by half a step at most. What is decoded equals
    `gguf.quants.dequantize` bit for bit; codes and scales are those of ggml's `quantize_row_q6_K_ref` but for sums taken in
    another order, which decide between candidates equally good.
    """

    bits: int = 6

    def fit(self, blocks: Blocks) -> Parameters:
        wanted = best_scales(blocks.view(-1, 16)).view(-1, 16)
        largest = wanted.gather(1, wanted.abs().argmax(1, keepdim=True))
        sub_scales = torch.where(largest != 0, wanted * (-128 / largest), 0).round().clamp(-128, 127)
        return {"scale": rounded_to(HALF, largest / -128), "sub_scales": sub_scales.to(torch.int8)}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        step = self._steps(parameters)
        codes = torch.where(step != 0, blocks / step, -32).round().clamp(-32, 31) + 32
        return codes.to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return self._steps(parameters) * (codes.float() - 32)

    def _steps(self, parameters: Parameters) -> torch.Tensor:
        """(groups, 256) of each weight."""
        return (parameters["scale"] * parameters["sub_scales"]).repeat_interleave(16, 1)

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        quarters = codes.view(-1, 2, 4, 32)  # of each half of the super-block
        low, high = quarters & 15, quarters >> 4
        parts = [
            torch.cat([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], 2),
            high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6),
            parameters["sub_scales"].view(torch.uint8),
            half_bytes(parameters["scale"]),
        ]
        return {"blocks": torch.cat([part.flatten(1) for part in parts], 1)}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        low, high, sub_scales, scale = stored["blocks"].split([128, 64, 16, 2], 1)
        low, high = low.reshape(-1, 2, 2, 32), high.reshape(-1, 2, 1, 32)
        low = torch.cat([low & 15, low >> 4], 2)
        high = torch.cat([(high >> place) & 3 for place in (0, 2, 4, 6)], 2)
        parameters = {"scale": from_half_bytes(scale), "sub_scales": sub_scales.contiguous().view(torch.int8)}
        return (low | (high << 4)).reshape(groups, size), parameters


@dataclass(frozen=True)
class Q4K(_SuperBlocks):
    """Q4_K: scale · sub_scale · q − minimum · sub_minimum with q of 4 bits, in sub-blocks of 32: 4.5 bits a weight.

    sub_scale and sub_minimum have 6 bits each. Zero is in the range of each sub-block but need not be on its grid. Weights
    between the smallest and largest value of their sub-block move by half a step at most. What is decoded equals
    `gguf.quants.dequantize` bit for bit; codes and scales are those of ggml's `quantize_row_q4_K_ref` but for sums taken in
    another order, which decide between candidates equally good.
    """

    bits: int = 4

    def fit(self, blocks: Blocks) -> Parameters:
        scales, minima = (each.view(-1, 8) for each in best_ranges(blocks.view(-1, 32)))
        parameters: Parameters = {}
        for name, wanted in (("scale", scales), ("minimum", minima)):
            largest = wanted.amax(1, keepdim=True)
            sixths = torch.where(largest > 0, wanted * (63 / largest), 0).round().clamp(0, 63)
            parameters |= {name: rounded_to(HALF, largest / 63), f"sub_{name}": sixths.to(torch.uint8)}
        return parameters

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        step, minimum = self._expanded(parameters)
        codes = torch.where(step > 0, (blocks + minimum) / step, 0).round().clamp(0, 15)
        return codes.to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        step, minimum = self._expanded(parameters)
        return step * codes.float() - minimum

    def _expanded(self, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Step and minimum (groups, 256) of each weight."""
        step = parameters["scale"] * parameters["sub_scale"]
        minimum = parameters["minimum"] * parameters["sub_minimum"]
        return step.repeat_interleave(32, 1), minimum.repeat_interleave(32, 1)

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        scale, minimum = parameters["sub_scale"], parameters["sub_minimum"]
        pairs = codes.view(-1, 4, 2, 32)
        parts = [
            half_bytes(parameters["scale"]),
            half_bytes(parameters["minimum"]),
            scale[:, :4] | (scale[:, 4:] >> 4 << 6),  # the upper two bits of the last four stand above the first four
            minimum[:, :4] | (minimum[:, 4:] >> 4 << 6),
            (scale[:, 4:] & 15) | (minimum[:, 4:] << 4),
            pairs[:, :, 0] | (pairs[:, :, 1] << 4),
        ]
        return {"blocks": torch.cat([part.flatten(1) for part in parts], 1)}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        scale, minimum, scales, minima, rest, pairs = stored["blocks"].split([2, 2, 4, 4, 4, 128], 1)
        pairs = pairs.reshape(-1, 4, 1, 32)
        parameters = {
            "scale": from_half_bytes(scale),
            "minimum": from_half_bytes(minimum),
            "sub_scale": torch.cat([scales & 63, (rest & 15) | (scales >> 6 << 4)], 1),
            "sub_minimum": torch.cat([minima & 63, (rest >> 4) | (minima >> 6 << 4)], 1),
        }
        return torch.cat([pairs & 15, pairs >> 4], 2).reshape(groups, size), parameters


def best_scales(blocks: Blocks) -> torch.Tensor:
    """(groups,) scales for codes −32 to 31, the best of 19 by squared error, where a weight's error counts by its square.

    For given codes q the best scale is Σ w·x·q / Σ w·q² (least squares), and (Σ w·x·q)² / Σ w·q² is what it explains.
    """
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    weight = blocks.square()
    scales, explained = blocks.new_zeros(2, len(blocks))
    for nudge in (0, *range(-9, 0), *range(1, 10)):
        codes = (blocks * (-(32 + 0.1 * nudge) / extreme)).round().clamp(-32, 31)
        product, square = (weight * blocks * codes).sum(1), (weight * codes * codes).sum(1)
        better = product.square() > explained * square
        scales = torch.where(better, product / square, scales)
        explained = torch.where(better, product.square() / square, explained)
    return torch.where(extreme[:, 0].abs() < TOO_SMALL, 0, scales)


def best_ranges(blocks: Blocks) -> tuple[torch.Tensor, torch.Tensor]:
    """(groups,) scales and minima for scale · q − minimum with q from 0 to 15, the best of 22 by weighted squared error.

    Weights count by their magnitude plus the root of the group's mean square. Minima are from 0, so that zero is in range.
    For given codes q, scale and minimum are the line of weighted least squares through (q, x). Each candidate begins at the
    best minimum so far.
    """
    weight = blocks.square().mean(1, keepdim=True).sqrt() + blocks.abs()
    total, total_x = weight.sum(1), (weight * blocks).sum(1)
    low, high = blocks.amin(1).clamp(max=0), blocks.amax(1)
    scale = (high - low) / 15
    constant = high <= low

    def rounded(steps: float) -> Codes:
        return (steps / (high - low)[:, None] * (blocks - low[:, None])).round().clamp(0, 15)

    def error(codes: Codes, scale: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return (weight * (scale[:, None] * codes + low[:, None] - blocks).square()).sum(1)

    least = error(rounded(15), scale, low)
    for nudge in range(-10, 11):
        codes = rounded(15 + 0.1 * nudge)
        q, qq, qx = (weight * codes).sum(1), (weight * codes * codes).sum(1), (weight * codes * blocks).sum(1)
        spread = total * qq - q * q
        slope, intercept = (total * qx - total_x * q) / spread, (qq * total_x - q * qx) / spread
        slope, intercept = torch.where(intercept > 0, qx / qq, slope), intercept.clamp(max=0)
        found = error(codes, slope, intercept)
        better = (spread > 0) & (found < least)
        scale, low = torch.where(better, slope, scale), torch.where(better, intercept, low)
        least = torch.where(better, found, least)
    return torch.where(constant, 0, scale), -low
