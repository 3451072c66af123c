"""By which rule the codes of a matrix are chosen: a row each. What a method needs, what it goes with, and what it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.quantization.calibration import Activations
from labkit.quantization.gptq import ENOUGH_TOKENS, gptq
from labkit.quantization.grids import Format, Packed
from labkit.quantization.half_quadratic import half_quadratic
from labkit.quantization.integers import MinMax, ZeroPoint
from labkit.quantization.scaling import scaled

TINY = 1e-3  # largest weight of a group below which it is looked whether it became 0


@dataclass(frozen=True)
class Chosen:
    """A matrix in its format.

    scale: what the unpacked columns are multiplied by; None for nothing.
    remark: where the method could not do what it does, and what was done instead.
    """

    packed: Packed
    scale: torch.Tensor | None = None
    remark: str = ""


Choose = Callable[[torch.Tensor, Format, Sequence[Activations]], Chosen]


@dataclass(frozen=True)
class Method:
    """title: as it stands after "by".  calibrated: it goes by what enters the matrices on calibration text.

    asymmetric: integers are taken from the smallest to the largest weight unless told otherwise.
    refuses: the end of a sentence that says why a format can't be had by it, or None.  choose: (weight, format, what enters
    the matrix, for each expert; empty where the method is not calibrated).
    """

    title: str
    calibrated: bool
    choose: Choose
    refuses: Callable[[Format], str | None] = lambda _: None
    asymmetric: bool = False


def round_to_nearest(weight: torch.Tensor, format: Format, _inputs: Sequence[Activations] = ()) -> Chosen:
    """Each weight as the nearest value of its grid."""
    return Chosen(format.pack(weight))


def _by_gptq(weight: torch.Tensor, format: Format, inputs: Sequence[Activations]) -> Chosen:
    """In the order of the inputs' size, which does better than the order in which the columns stand."""
    return Chosen(gptq(weight, inputs, format), remark=_few(inputs))


def _by_scaling(weight: torch.Tensor, format: Format, inputs: Sequence[Activations]) -> Chosen:
    packed, scale = scaled(weight, inputs, format)
    return Chosen(packed, scale, _few(inputs))


def _by_hqq(weight: torch.Tensor, format: Format, _inputs: Sequence[Activations]) -> Chosen:
    return Chosen(half_quadratic(weight, format))


def _few(inputs: Sequence[Activations]) -> str:
    """Which experts too few tokens reached."""
    few = [number for number, seen in enumerate(inputs) if seen.tokens < ENOUGH_TOKENS]
    if not few:
        return ""
    who = f"experts {checks.listed(few)} were" if len(few) > 1 else f"expert {few[0]} was"
    return (
        f"{who if len(inputs) > 1 else 'it was'} rounded to nearest, since fewer than {ENOUGH_TOKENS} tokens of the "
        "calibration text came there"
    )


def _not_by_column(format: Format) -> str | None:
    if format.grid.by_column:
        return None
    return f"it chooses codes column by column, and a code of {format.name} has no meaning by itself; use method='rtn'"


def _not_scaled(format: Format) -> str | None:
    if format.group_size == "tensor":
        return (
            "with one grid for the whole matrix, scaled columns would coarsen all others; give groups or channels, or use "
            "method='rtn'"
        )
    return None


def _no_offsets(format: Format) -> str | None:
    if not isinstance(format.grid, ZeroPoint | MinMax):
        return (
            "it moves a grid's offset, which symmetric and other grids don't have; give int8 to int2 with symmetric=False, or "
            "use method='rtn'"
        )
    return None


METHODS = {
    "rtn": Method("rounding to nearest", False, round_to_nearest),
    "gptq": Method("GPTQ", True, _by_gptq, _not_by_column),
    "awq": Method("activation-aware scaling (AWQ)", True, _by_scaling, _not_scaled),
    "hqq": Method("half-quadratic quantization (HQQ)", False, _by_hqq, _no_offsets, asymmetric=True),
}


def lost(weight: torch.Tensor, packed: Packed) -> str:
    """How many groups became 0, where their weights are too small for the scale's precision; "" for none."""
    blocks = packed.format.blocks(weight)
    small = blocks.abs().amax(1)
    some = (small > 0) & (small < TINY)
    if not bool(some.any()):
        return ""
    gone = int((some & (packed.format.blocks(packed.unpack()).abs().amax(1) == 0)).sum())
    if not gone:
        return ""
    return (
        f"{gone:,} of {len(blocks):,} groups became 0, since their weights are too small for the precision of their scales; "
        'formats.of("int4", scale_dtype=torch.float32) and the like keep them'
    )


def check_goes_with(method: str, format: Format) -> None:
    """Raise BadInput where codes of a format can't be chosen by a method."""
    if reason := METHODS[method].refuses(format):
        raise BadInput(f"method={method!r} can't be used with {format.name}, since {reason}.")
