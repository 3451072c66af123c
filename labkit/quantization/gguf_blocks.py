"""GGUF's plain formats: blocks of 32 weights of a row, each with a float16 scale before its codes.

A format's digit is its bits; "_0" says a weight is scale · code (a "type-0" quantization in llama.cpp's words), "_1" that it
is minimum + scale · code ("type-1"). What `store` keeps is the blocks' bytes exactly as they stand in a GGUF file.

ggml rounds the weights with the scale it computed, and then rounds the scale to float16. So `fit` returns two things: the
float16 "scale", which `decode` reads, and the "inverse" of the exact one, which `encode` reads. After `restore` the inverse is
that of the float16 scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from labkit.quantization.grids import Blocks, Codes, Grid, Packed, Parameters, rounded_to
from labkit.quantization.packing import pack_bits, unpack_bits

BLOCK = 32  # weights
HALF = torch.float16


@dataclass(frozen=True)
class TypeZero(Grid):
    """Q4_0 and Q5_0: scale · (q − 2^(b−1)), where the weight of largest magnitude, with its sign, becomes q = 0.

    The range is lopsided: −8 to 7 steps of 4 bits. A weight moves by half a step at most, and one with the sign opposite to the
    largest by a whole step, since +8 steps is cut to +7. Zero is exact; quantizing what was quantized changes nothing.
    Bytes equal to `gguf.quants.quantize`. ggml, `quantize_row_q4_0_ref`.
    """

    bits: int = 4

    @property
    def middle(self) -> int:
        """The code of zero, 2^(bits − 1)."""
        return int(2 ** (self.bits - 1))

    def fit(self, blocks: Blocks) -> Parameters:
        largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
        scale = largest / -self.middle
        return {"scale": rounded_to(HALF, scale), "inverse": inverse(scale)}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        steps = blocks * parameters["inverse"] + (self.middle + 0.5)
        return steps.trunc().clamp(0, 2**self.bits - 1).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return parameters["scale"] * (codes.float() - self.middle)

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        return {"blocks": torch.cat([half_bytes(parameters["scale"]), pack_codes(codes, self.bits)], 1)}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        scale = from_half_bytes(stored["blocks"][:, :2])
        return unpack_codes(stored["blocks"][:, 2:], self.bits), {"scale": scale, "inverse": inverse(scale)}


@dataclass(frozen=True)
class TypeOne(Grid):
    """Q4_1 and Q5_1: minimum + scale · q, from the smallest to the largest weight of the block.

    A weight moves by half a step at most, plus what scale and minimum lose in float16. Zero need not be on the grid; a constant
    block is its minimum. Bytes equal to `gguf.quants.quantize`. ggml, `quantize_row_q4_1_ref`.
    """

    bits: int = 4

    @property
    def largest(self) -> int:
        """The largest code, 2^bits − 1."""
        return int(2**self.bits) - 1

    def fit(self, blocks: Blocks) -> Parameters:
        low = blocks.amin(1, keepdim=True)
        scale = (blocks.amax(1, keepdim=True) - low) / self.largest
        return {
            "scale": rounded_to(HALF, scale),
            "minimum": rounded_to(HALF, low),
            "inverse": inverse(scale),
            "exact_minimum": low,
        }

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        steps = (blocks - parameters["exact_minimum"]) * parameters["inverse"] + 0.5
        return steps.trunc().clamp(0, self.largest).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return parameters["scale"] * codes.float() + parameters["minimum"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        head = [half_bytes(parameters["scale"]), half_bytes(parameters["minimum"])]
        return {"blocks": torch.cat([*head, pack_codes(codes, self.bits)], 1)}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        scale, low = from_half_bytes(stored["blocks"][:, :2]), from_half_bytes(stored["blocks"][:, 2:4])
        parameters = {"scale": scale, "minimum": low, "inverse": inverse(scale), "exact_minimum": low}
        return unpack_codes(stored["blocks"][:, 4:], self.bits), parameters


@dataclass(frozen=True)
class Q8Zero(Grid):
    """Q8_0: scale · q with q from −127 to 127 and scale = max |w| / 127: absmax in blocks of 32.

    A weight moves by half a step at most, plus 127 times what the scale loses in float16. Zero is exact; quantizing what was
    quantized changes nothing. Halves are rounded away from zero. Bytes equal to `gguf.quants.quantize`. ggml,
    `quantize_row_q8_0_ref`.
    """

    bits: int = 8

    @property
    def code_count(self) -> int:
        return 255

    def fit(self, blocks: Blocks) -> Parameters:
        scale = blocks.abs().amax(1, keepdim=True) / 127
        return {"scale": rounded_to(HALF, scale), "inverse": inverse(scale)}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        steps = blocks * parameters["inverse"]
        away = steps.sign() * (steps.abs() + 0.5).floor()
        return (away.clamp(-127, 127) + 127).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return (codes.float() - 127) * parameters["scale"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        signed = (codes.short() - 127).to(torch.int8)
        return {"blocks": torch.cat([half_bytes(parameters["scale"]), signed.view(torch.uint8)], 1)}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        scale = from_half_bytes(stored["blocks"][:, :2])
        signed = stored["blocks"][:, 2:].contiguous().view(torch.int8)
        return (signed.short() + 127).to(torch.uint8), {"scale": scale, "inverse": inverse(scale)}


def gguf_bytes(packed: Packed) -> torch.Tensor:
    """(..., bytes of a row) uint8: the tensor's data as it stands in a GGUF file. Of formats that store GGUF blocks."""
    return packed.stored["blocks"].reshape(*packed.shape[:-1], -1)


def inverse(scale: torch.Tensor) -> torch.Tensor:
    """1 / scale, and 0 where that is no number."""
    return torch.where(scale.reciprocal().isfinite(), scale.reciprocal(), 0)


def half_bytes(values: torch.Tensor) -> torch.Tensor:
    """(groups, 2) uint8 of (groups, 1) float: as float16, low byte first."""
    return values.to(HALF).view(torch.uint8)


def from_half_bytes(stored: torch.Tensor) -> torch.Tensor:
    return stored.contiguous().view(HALF).float()


def pack_codes(codes: Codes, bits: int) -> torch.Tensor:
    """(groups, 32) codes of 4 or 5 bits as bytes: byte i holds the lower 4 bits of codes i and i + 16, after all fifth bits."""
    low = codes & 15
    nibbles = low[:, : BLOCK // 2] | (low[:, BLOCK // 2 :] << 4)
    return nibbles if bits == 4 else torch.cat([pack_bits(codes >> 4, 1).view(-1, BLOCK // 8), nibbles], 1)


def unpack_codes(stored: torch.Tensor, bits: int) -> Codes:
    """The codes of `pack_codes`."""
    nibbles = stored[:, -BLOCK // 2 :]
    low = torch.cat([nibbles & 15, nibbles >> 4], 1)
    if bits == 4:
        return low
    return low | (unpack_bits(stored[:, : BLOCK // 8].reshape(-1), 1, low.numel()).view_as(low) << 4)
