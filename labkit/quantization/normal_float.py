"""NF4: sixteen values set so that weights from a normal distribution use each about equally often (QLoRA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from labkit.quantization.grids import Blocks, Codes, Grid, Parameters
from labkit.quantization.packing import look_up

OUTERMOST = 0.9677083  # the share of a normal distribution below the largest value
NESTED = 256  # scales that share a scale of their own
SMALLEST = 1e-38  # a largest magnitude below it counts as this


@dataclass(frozen=True)
class NF4(Grid):
    """absmax · one of 16 quantiles of the normal distribution, scaled to −1 … 1; absmax = max |w| of the group.

    A weight moves by half the gap around it at most: 0.152 · absmax at the lower end, where the values are furthest apart.
    Zero and the largest magnitude are exact, and so quantizing what was quantized changes nothing; but with `double` absmax
    is itself rounded, the largest weight with it, and the second time differs.

    double: absmax, a float32 for each group, is stored in 8 bits: less its mean over the matrix, on the dynamic grid, with
    one float32 scale for every 256 groups. From 4.5 to 4.13 bits a weight in groups of 64. All groups of a matrix must be
    fitted together. Codes, bytes and scales equal to `bitsandbytes.functional.quantize_4bit`, except that its CPU kernel
    rounds a scale to 16 bits before looking up the 8, and so misses the nearest value for one scale in some hundreds.
    QLoRA (Dettmers et al. 2023), sections 2 and 3.
    """

    double: bool = True
    bits: int = 4

    @property
    def independent(self) -> bool:
        """Not with double quantization, where 256 groups share the scale of their scales."""
        return not self.double

    def fit(self, blocks: Blocks) -> Parameters:
        absmax = blocks.abs().amax(1, keepdim=True)
        parameters = {"absmax": absmax}
        if self.double:
            parameters = quantize_scales(absmax)
        return parameters | {"inverse": absmax.clamp(min=SMALLEST).reciprocal()}  # rounding goes by the exact absmax

    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        return nearest((blocks * parameters["inverse"]).clamp(-1, 1), normal_levels())

    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        return look_up(normal_levels(), codes) * parameters["absmax"]

    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        flat = torch.nn.functional.pad(codes.reshape(-1), (0, codes.numel() % 2))
        packed = {"codes": (flat[::2] << 4) | flat[1::2]}  # the first code in the upper half of the byte
        if not self.double:
            return packed | {"absmax": parameters["absmax"]}
        return packed | {
            "absmax": parameters["absmax_code"],
            "nested_absmax": parameters["nested_absmax"][::NESTED].clone(),
            "offset": parameters["offset"][:1].clone(),
        }

    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        codes = (
            torch.stack([stored["codes"] >> 4, stored["codes"] & 15], 1).view(-1)[: groups * size].view(groups, size)
        )
        parameters = {"absmax": stored["absmax"]}
        if self.double:
            nested = stored["nested_absmax"].repeat_interleave(NESTED, 0)[:groups]
            parameters = restored_scales(stored["absmax"], nested, stored["offset"].expand(groups, 1))
        return codes, parameters | {"inverse": parameters["absmax"].clamp(min=SMALLEST).reciprocal()}


def quantize_scales(absmax: torch.Tensor) -> Parameters:
    """absmax (groups, 1) rounded to 8 bits, and what it is stored as: each (groups, 1)."""
    offset = absmax.mean()
    centred = absmax - offset
    rows = torch.nn.functional.pad(centred.view(-1), (0, -len(centred) % NESTED)).view(-1, NESTED)
    nested = rows.abs().amax(1).repeat_interleave(NESTED)[: len(centred), None]
    code = nearest(torch.where(nested > 0, centred / nested, -1), dynamic_levels())  # where 0, any code is the offset
    return restored_scales(code, nested, offset.expand_as(centred))


def restored_scales(code: Codes, nested: torch.Tensor, offset: torch.Tensor) -> Parameters:
    """The scales that stored ones stand for, beside what is stored."""
    absmax = look_up(dynamic_levels(), code) * nested + offset
    return {"absmax": absmax, "absmax_code": code, "nested_absmax": nested, "offset": offset}


def nearest(values: torch.Tensor, levels: torch.Tensor) -> Codes:
    """The index of the nearest of rising levels; a value in the middle goes to the lower."""
    levels = levels.to(values.device)
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


@cache
def normal_levels() -> torch.Tensor:
    """(16,) from −1 to 1: evenly spaced quantiles of the normal distribution, 8 below zero, 7 above, and zero itself."""
    from scipy.special import ndtri  # torch's own differs in the last bit

    def quantiles(count: int) -> list[float]:
        shares = torch.linspace(OUTERMOST, 0.5, count + 1, dtype=torch.float32)[:-1]
        found: list[float] = ndtri(shares.double().numpy()).tolist()
        return found

    above, below = quantiles(8), [-each for each in quantiles(7)]
    levels = torch.tensor(sorted([*above, 0.0, *below]), dtype=torch.float32)
    return levels / levels.max()


@cache
def dynamic_levels() -> torch.Tensor:
    """(256,) from −0.99 to 1: seven decades, the upper the finer, with 2^i values each on either side; 0 and 1.

    The dynamic data type of Dettmers 2015, "8-bit approximations for parallelism in deep learning", section 3.
    """
    decades = []
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        decades.append(10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2)
    positive = torch.cat(decades)
    return torch.cat([-positive, torch.tensor([0.0, 1.0], dtype=torch.float32), positive]).sort().values
