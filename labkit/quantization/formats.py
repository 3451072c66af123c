"""The formats by name: which grid, and how many weights share one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.quantization.floats import E4M3, E5M2
from labkit.quantization.gguf_blocks import BLOCK, Q8Zero, TypeOne, TypeZero
from labkit.quantization.grids import Format, Grid, GroupSize
from labkit.quantization.integers import Absmax, ZeroPoint
from labkit.quantization.k_quants import Q4K, Q6K, SUPER_BLOCK
from labkit.quantization.microscaling import MXFP4
from labkit.quantization.normal_float import NF4
from labkit.quantization.ternary import Absmean

DEFAULT_GROUP = 64
SMALLEST_GROUP = 2
LEAST_GROUP = 16  # that is taken unasked: with smaller ones the scales weigh as much as the codes


@dataclass(frozen=True)
class _Kind:
    """A row of the table. bits: of an integer format.  fixed: its groups have this size and no other."""

    grid: Callable[[], Grid]
    group_size: GroupSize = DEFAULT_GROUP
    bits: int | None = None
    fixed: bool = False


def _integers(bits: int, group_size: GroupSize) -> _Kind:
    return _Kind(lambda: Absmax(bits), group_size, bits=bits)


_KINDS = {
    "int8": _integers(8, "channel"),
    **{f"int{bits}": _integers(bits, DEFAULT_GROUP) for bits in (6, 5, 4, 3, 2)},
    "nf4": _Kind(NF4),
    "nf4_single": _Kind(lambda: NF4(double=False)),
    "fp8_e4m3": _Kind(lambda: E4M3, "channel"),
    "fp8_e5m2": _Kind(lambda: E5M2, "channel"),
    "mxfp4": _Kind(MXFP4, BLOCK, fixed=True),
    "ternary": _Kind(Absmean, "tensor"),
    "q4_0": _Kind(lambda: TypeZero(4), BLOCK, fixed=True),
    "q4_1": _Kind(lambda: TypeOne(4), BLOCK, fixed=True),
    "q5_0": _Kind(lambda: TypeZero(5), BLOCK, fixed=True),
    "q5_1": _Kind(lambda: TypeOne(5), BLOCK, fixed=True),
    "q8_0": _Kind(Q8Zero, BLOCK, fixed=True),
    "q4_k": _Kind(Q4K, SUPER_BLOCK, fixed=True),
    "q6_k": _Kind(Q6K, SUPER_BLOCK, fixed=True),
}
NAMES = tuple(_KINDS)


def of(
    name: str | Format,
    *,
    group_size: GroupSize | None = None,
    symmetric: bool | None = None,
    scale_dtype: torch.dtype | None = None,
    argument: str = "format",
) -> Format:
    """A format by its name, one of `NAMES`; a Format is returned as it is.

    group_size: how many weights of a row share a grid, "channel" (a row) or "tensor"; without it what the format usually has.
    symmetric: of integers: around zero (True, and without it) or from the smallest to the largest weight (False).
    scale_dtype: of integers: in which precision scales are stored; without it float16, float32 for whole rows and matrices.
    argument: what the format was given as, for the error.
    Raises BadInput for an unknown name, and for a setting that the format doesn't have.
    """
    settings = {"group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    if isinstance(name, Format):
        for setting, value in settings.items():
            if value is not None:
                checks.refuse(setting, value, f"it where the format is made, since {name.name} is a finished Format")
        return name
    kind = _KINDS[checks.one_of(argument, name, NAMES)]
    for setting in ("symmetric", "scale_dtype") if kind.bits is None else ():
        if settings[setting] is not None:
            checks.refuse(setting, settings[setting], f"it with int8 to int2 alone, since {name} has its own rule")
    if symmetric is not None:
        checks.flag("symmetric", symmetric)
    if scale_dtype is not None and not (isinstance(scale_dtype, torch.dtype) and scale_dtype.is_floating_point):
        checks.refuse("scale_dtype", scale_dtype, "a floating-point dtype such as torch.float16")
    if kind.fixed and group_size not in (None, kind.group_size):
        checks.refuse("group_size", group_size, f"none, since {name} always has groups of {kind.group_size}")
    size = kind.group_size if group_size is None else _group_size(group_size)
    if kind.bits is None:
        return Format(name, kind.grid(), size)
    dtype = scale_dtype or (torch.float32 if isinstance(size, str) else torch.float16)
    return Format(name, (ZeroPoint if symmetric is False else Absmax)(kind.bits, dtype), size)


def as_given(format: Format) -> str | Format:
    """A format by its name where that says it all, so that quantizing may fit the groups to the rows."""
    return format.name if format.name in NAMES and of(format.name) == format else format


def label(format: Format) -> str:
    """What tells a format from others: its name where that says it all, else its groups, symmetry and scales as well."""
    if isinstance(as_given(format), str):
        return format.name
    parts = [format.described()]
    if isinstance(format.grid, ZeroPoint):
        parts.append("asymmetric")
    usual = torch.float32 if isinstance(format.group_size, str) else torch.float16
    if isinstance(format.grid, Absmax | ZeroPoint) and format.grid.scale_dtype != usual:
        parts.append(f"scales in {str(format.grid.scale_dtype).removeprefix('torch.')}")
    return ", ".join(parts)


def fitted(
    wanted: str | Format, shape: tuple[int, ...], group_size: GroupSize | None = None, symmetric: bool | None = None
) -> Format | str:
    """The format for a matrix of this shape (..., outputs, inputs), or why it can't have it.

    Without a group size that was asked for, groups that don't divide the rows give way to the largest that do.
    """
    found = of(wanted, group_size=group_size, symmetric=symmetric)
    if found.fits(shape):
        return found
    columns = shape[-1]
    reason = f"rows of {columns} can't be cut into {found.name}'s groups of {found.group_size}"
    if group_size is not None or isinstance(wanted, Format):
        return reason
    most = int(found.group_size)
    divisor = next((size for size in range(most - 1, LEAST_GROUP - 1, -1) if columns % size == 0), None)
    if divisor is None:
        return reason
    try:
        return of(wanted, group_size=divisor, symmetric=symmetric)
    except BadInput:  # a format whose groups have one size
        return reason


def _group_size(value: object) -> GroupSize:
    if value == "channel":
        return "channel"
    if value == "tensor":
        return "tensor"
    wanted = f'a whole number from {SMALLEST_GROUP}, "channel" or "tensor"'
    return checks.whole("group_size", value, SMALLEST_GROUP, wanted=wanted)
