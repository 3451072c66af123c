"""What a format is: the values that a group of weights may take, and what is stored of them.

A matrix is cut along its rows into groups of weights that share a grid. A `Grid` says what the values are: `fit` finds
what a group's grid needs (its scale, and what else there is), `encode` takes each weight to its code, `decode` back to a
value. `store` and `restore` are the bytes that stand in memory. A `Format` is a grid and the size of its groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from labkit.errors import BadInput

Blocks = torch.Tensor  # (groups, weights of a group) float32
Codes = torch.Tensor  # (groups, weights of a group) uint8
Parameters = dict[str, torch.Tensor]  # by name, each (groups, ...): scale, zero, ...
GroupSize = int | Literal["channel", "tensor"]  # so many weights of a row; a whole row (one output); the whole matrix


class Grid(ABC):
    """The values that the weights of a group may take. Each kind is a frozen dataclass: its fields are its settings.

    bits: of a code.  by_column: a code means the same at every place of its group, so that `encode` and `decode` take a
    single column, (groups, 1), with the groups' parameters; methods that choose one column after the other need it.
    independent: a group's parameters don't depend on the other groups.

    What `decode` reads of the parameters is exact as stored: `fit` has rounded it to the precision in which it is kept,
    so that what was stored and read back decodes to the same values, bit for bit.
    """

    bits: int

    @property
    def by_column(self) -> bool:
        """Whether a code means the same at every place of its group."""
        return True

    @property
    def independent(self) -> bool:
        """Whether a group's parameters depend on no other group."""
        return True

    @property
    def code_count(self) -> int:
        """How many codes there are, from 0."""
        return int(2**self.bits)

    @abstractmethod
    def fit(self, blocks: Blocks) -> Parameters:
        """What the grid of each group needs. blocks: (groups, size) float32, finite."""

    @abstractmethod
    def encode(self, blocks: Blocks, parameters: Parameters) -> Codes:
        """The code of the nearest value of the grid, for each weight; blocks may have any number of columns."""

    @abstractmethod
    def decode(self, codes: Codes, parameters: Parameters) -> Blocks:
        """The values the codes stand for, float32."""

    @abstractmethod
    def store(self, codes: Codes, parameters: Parameters) -> Parameters:
        """What stands in memory: packed codes, scales, ...; the sum of their bytes is what the matrix takes."""

    @abstractmethod
    def restore(self, stored: Mapping[str, torch.Tensor], groups: int, size: int) -> tuple[Codes, Parameters]:
        """Codes (groups, size) and parameters again."""

    def levels(self, parameters: Parameters, group: int = 0) -> torch.Tensor:
        """(values,) float32, rising: all values that a weight of this group may take."""
        codes = torch.arange(self.code_count, dtype=torch.uint8)[None]
        values: torch.Tensor = self.decode(codes, {n: t[[group]].cpu() for n, t in parameters.items()}).unique()
        return values


@dataclass(frozen=True)
class Format:
    """A grid, and how many weights share one. name: as a user writes it, such as "int4"."""

    name: str
    grid: Grid
    group_size: GroupSize

    def size(self, columns: int, rows: int) -> int:
        """How many weights of a (rows, columns) matrix share a grid."""
        return {"channel": columns, "tensor": rows * columns}.get(str(self.group_size)) or int(self.group_size)

    def described(self) -> str:
        """Its name with the groups: "int4, groups of 64", "int8, by channel"."""
        groups = {"channel": "by channel", "tensor": "one grid for the matrix"}
        return f"{self.name}, {groups.get(str(self.group_size), f'groups of {self.group_size}')}"

    def fits(self, shape: torch.Size | tuple[int, ...]) -> bool:
        """Whether rows of this length can be cut into groups."""
        whole = self.group_size in ("channel", "tensor")
        return len(shape) > 0 and 0 not in shape and (whole or shape[-1] % int(self.group_size) == 0)

    def blocks(self, weight: torch.Tensor) -> Blocks:
        """(groups, size) float32 of a (..., columns) tensor, rows in order, each row's groups in order."""
        columns = weight.shape[-1]
        return weight.detach().float().reshape(-1, self.size(columns, weight.numel() // columns))

    def pack(self, weight: torch.Tensor, name: str = "The weight") -> Packed:
        """A matrix, or several of one shape, rounded to the nearest values of the grid. name: for the error.

        Raises BadInput where rows can't be cut into groups, a weight is NaN or infinite, or a scale can't be stored.
        """
        if not self.fits(weight.shape):
            raise BadInput(
                f"{name} has the shape {tuple(weight.shape)}, whose rows can't be cut into {self.name}'s groups of "
                f"{self.group_size}; give a group_size that divides the row or leave this matrix as it is."
            )
        refuse_damaged(weight, name)
        blocks = self.blocks(weight)
        parameters = self.grid.fit(blocks)
        return self.packed(self.grid.encode(blocks, parameters), parameters, weight.shape)

    def packed(self, codes: Codes, parameters: Parameters, shape: torch.Size | tuple[int, ...]) -> Packed:
        """From codes that were chosen otherwise than by rounding."""
        return Packed(self, torch.Size(shape), self.grid.store(codes, parameters))


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight as it is stored. shape: of the weight.  stored: tensors by name, as the grid's `store` made them."""

    format: Format
    shape: torch.Size
    stored: Parameters = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of all that is stored: codes, scales, and what else the grid needs."""
        return sum(t.numel() * t.element_size() for t in self.stored.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits of all that is stored, over the number of weights."""
        return 8 * self.size_bytes / self.shape.numel()

    def codes(self) -> tuple[Codes, Parameters]:
        """Codes (groups, size) and parameters."""
        columns = self.shape[-1]
        size = self.format.size(columns, self.shape.numel() // columns)
        return self.format.grid.restore(self.stored, self.shape.numel() // size, size)

    def unpack(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight again, of the shape it had."""
        codes, parameters = self.codes()
        return self.format.grid.decode(codes, parameters).reshape(self.shape).to(dtype)


def refuse_damaged(weight: torch.Tensor, name: str) -> None:
    """Raise BadInput for a weight that is not all numbers."""
    if not weight.isfinite().all():
        raise BadInput(f"{name} holds NaN or infinite weights, which no grid has; quantize an undamaged model.")


def rounded_to(dtype: torch.dtype, scale: torch.Tensor) -> torch.Tensor:
    """A scale, float32, with the precision in which it is stored; refused where it would become infinite there."""
    rounded = scale.to(dtype).float()
    if not rounded.isfinite().all():
        raise BadInput(
            f"A group needs a scale of {scale.abs().max():.3g}, which {str(dtype).removeprefix('torch.')} can't hold; "
            'use a format that stores float32 scales, such as formats.of("int8", scale_dtype=torch.float32).'
        )
    return rounded
