"""torch's own products of activations with packed weights on a CPU: 4 bits in groups, 8 bits for each output.

They unpack in registers, so a weight crosses memory in 4 or 8 bits and not in 32. That is where 4 bits are faster: a step of
decoding reads every weight once and is bound by memory. Their activations are bfloat16, whose 8 bits of mantissa cost some
exactness of their own.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

GROUPS = (32, 64, 128, 256)  # that the 4-bit product knows
ROWS = 16  # its outputs come in blocks of so many
COLUMNS = 32  # of the 8-bit product: other lengths of rows are read beyond their end


class PackedProduct(nn.Module):
    """A linear map whose matrix torch has packed. `weight` gives its values, as the product has them.

    packed_type: what is stored, in words.
    """

    packed_type: str
    in_features: int
    out_features: int
    bias: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) bfloat16 -> (..., outputs)."""
        flat = x.reshape(-1, self.in_features).contiguous()
        y = self.product(flat).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, inputs) -> (tokens, outputs), without the bias."""
        raise NotImplementedError

    @property
    def weight(self) -> torch.Tensor:
        """(outputs, inputs) bfloat16: what the unit vectors are mapped to, exactly."""
        return self.product(torch.eye(self.in_features, dtype=torch.bfloat16)).T

    @property
    def packed_tensors(self) -> tuple[torch.Tensor, ...]:
        """All that is stored of the matrix."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.packed_type}"


class Int4Product(PackedProduct):
    """scale · (q − 8) + zero with q from 0 to 15, in groups of a row from their smallest to their largest weight.

    Scale and zero are bfloat16. `torch.ops.aten._weight_int4pack_mm_for_cpu`.
    """

    packed_weight: torch.Tensor
    scales_and_zeros: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, group_size: int) -> None:
        """weight: (outputs, inputs), outputs divisible by 16, inputs by group_size."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.group_size, self.packed_type = group_size, f"torch int4, groups of {group_size}"
        groups = weight.detach().float().reshape(self.out_features, -1, group_size)
        low, high = groups.aminmax(dim=2, keepdim=True)
        scale = ((high - low) / 15).bfloat16().float()
        zero = (low + 8 * scale).bfloat16().float()
        steps = torch.where(scale > 0, (groups - zero) / scale, torch.zeros_like(groups))
        codes = (steps.round() + 8).clamp(0, 15).to(torch.int32).view_as(weight)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        both = torch.cat([scale, zero], 2).bfloat16().transpose(0, 1).contiguous()  # (groups of a row, outputs, 2)
        self.register_buffer("packed_weight", packed)
        self.register_buffer("scales_and_zeros", both)
        self.bias = None if bias is None else nn.Parameter(bias.detach().bfloat16(), requires_grad=False)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self.packed_weight, self.group_size, self.scales_and_zeros
        )
        return y

    @property
    def packed_tensors(self) -> tuple[torch.Tensor, ...]:
        return self.packed_weight, self.scales_and_zeros

    @classmethod
    def why_not(cls, weight: torch.Tensor, group_size: int) -> str | None:
        """Why a matrix can't be packed so."""
        outputs, inputs = weight.shape
        if inputs % group_size:
            return f"rows of {inputs} can't be cut into groups of {group_size}"
        return f"torch's 4-bit product takes outputs in blocks of {ROWS}, not {outputs}" if outputs % ROWS else None


class Int8Product(PackedProduct):
    """scale · q with q from −127 to 127 and a bfloat16 scale for each output. `torch.ops.aten._weight_int8pack_mm`."""

    packed_type = "torch int8, for each output"
    largest: ClassVar[int] = 127
    packed_weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """weight: (outputs, inputs), inputs divisible by 32."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        rows = weight.detach().float()
        scale = (rows.abs().amax(1, keepdim=True) / self.largest).bfloat16()
        steps = torch.where(scale > 0, rows / scale.float(), torch.zeros_like(rows))
        self.register_buffer("packed_weight", steps.round().clamp(-self.largest, self.largest).to(torch.int8))
        self.register_buffer("scale", scale.flatten())
        self.bias = None if bias is None else nn.Parameter(bias.detach().bfloat16(), requires_grad=False)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, self.packed_weight, self.scale)
        return y

    @property
    def packed_tensors(self) -> tuple[torch.Tensor, ...]:
        return self.packed_weight, self.scale

    @classmethod
    def why_not(cls, weight: torch.Tensor) -> str | None:
        """Why a matrix can't be packed so."""
        inputs = weight.shape[1]
        return f"torch's 8-bit product takes rows in blocks of {COLUMNS}, not {inputs}" if inputs % COLUMNS else None
