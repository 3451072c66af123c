"""FP8: floating-point numbers of eight bits, close together near zero and far apart at the ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from labkit.quantization.grids import Blocks, Codes, Grid, Parameters
from labkit.quantization.integers import in_steps
from labkit.quantization.packing import look_up


@dataclass(frozen=True)
class FP8(Grid):
    """scale · a float of one sign bit, some exponent bits and the rest mantissa; scale = max |w| / the largest float.

    A weight moves by half the gap between its neighbours on the grid: at most 2^−(mantissa bits + 1) of itself, and near
    zero half the smallest float. Zero is exact; quantizing what was quantized changes nothing. A code is the float's own
    byte: for a scale of 1, within the range, that of torch's cast to float8_e4m3fn or float8_e5m2. Scales are float32.
    Micikevicius et al. 2022, "FP8 formats for deep learning".
    """

    exponent_bits: int = 4
    mantissa_bits: int = 3
    largest: float = (
        448.0  # E4M3 keeps one code for NaN; E5M2 all those with the highest exponent, for infinity and NaN
    )
    bits: int = 8

    @property
    def lowest_exponent(self) -> int:
        """Of normal floats; the gap between the floats below is what it is there."""
        return 2 - int(2 ** (self.exponent_bits - 1))

    def fit(self, blocks: Blocks) -> Parameters:
        return {"scale": blocks.abs().amax(1, keepdim=True) / self.largest}

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        value = in_steps(blocks, parameters["scale"]).clamp(-self.largest, self.largest)
        exponent = value.abs().clamp(min=2.0**self.lowest_exponent).frexp().exponent - 1
        steps = torch.ldexp(value.abs(), self.mantissa_bits - exponent).round()  # 2^m to 2^(m+1); below that near zero
        code: torch.Tensor = (
            exponent - self.lowest_exponent
        ) * 2**self.mantissa_bits + steps  # a carry lands in the exponent
        return (code + 128 * value.signbit()).to(torch.uint8)

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return look_up(floats(self), codes) * parameters["scale"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        return {"codes": codes.reshape(-1), "scale": parameters["scale"]}

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        return stored["codes"].view(groups, size), {"scale": stored["scale"]}

    def levels(self, parameters: Parameters, group: int = 0) -> torch.Tensor:
        values = super().levels({"scale": torch.ones(1, 1, dtype=torch.float32)})
        finite = values[values.abs() <= self.largest]  # the codes above stand for infinity and NaN
        scaled: torch.Tensor = (finite * parameters["scale"][group].cpu()).unique()
        return scaled


@cache
def floats(grid: FP8) -> torch.Tensor:
    """(256,) the value of each byte; those that stand for infinity and NaN go on where the finite ones end."""
    byte = torch.arange(256)
    exponent, mantissa = (byte & 127) >> grid.mantissa_bits, byte & (2**grid.mantissa_bits - 1)
    steps = torch.where(exponent > 0, mantissa + 2**grid.mantissa_bits, mantissa)
    power = exponent.clamp(min=1) - 1 + grid.lowest_exponent - grid.mantissa_bits
    value = torch.ldexp(steps.float(), power)
    return torch.where(byte > 127, -value, value)


E4M3 = FP8()
E5M2 = FP8(exponent_bits=5, mantissa_bits=2, largest=57344.0)
