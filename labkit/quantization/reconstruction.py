"""One matrix in a format, without making a model: what it becomes and how far off that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.quantization import formats
from labkit.quantization.calibration import Activations, activations
from labkit.quantization.grids import Format, GroupSize, Packed, refuse_damaged
from labkit.quantization.layers import effective
from labkit.quantization.methods import METHODS, check_goes_with
from labkit.quantization.weights import matrices, weight_error

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A matrix and what a format makes of it.

    name: of the matrix.  format: with the group size that was used.  method: by which the codes were chosen.
    weight, unpacked: (..., outputs, inputs) float32, the original and the quantized values.  packed: what is stored.
    scale: what the unpacked columns are multiplied by (AWQ), (inputs,) or (experts, 1, inputs); None for nothing.
    weight_error: ‖ŵ − w‖ / ‖w‖ over the whole matrix (Frobenius).
    output_error: the root mean square of the change of its outputs on calibration text, as a share of the outputs' own;
        None where no text was given.
    """

    name: str
    format: Format
    method: str
    weight_error: float
    output_error: float | None
    weight: torch.Tensor = field(repr=False)
    unpacked: torch.Tensor = field(repr=False)
    packed: Packed = field(repr=False)
    scale: torch.Tensor | None = field(repr=False, default=None)

    @property
    def error(self) -> torch.Tensor:
        """Of each weight: quantized − original."""
        return self.unpacked - self.weight

    @property
    def codes(self) -> torch.Tensor:
        """(..., outputs, inputs) uint8."""
        return self.packed.codes()[0].reshape(self.packed.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of all that is stored, factors of the columns included."""
        return self.packed.size_bytes + (0 if self.scale is None else self.scale.numel() * self.scale.element_size())

    @property
    def bits_per_weight(self) -> float:
        """Bits of all that is stored, over the number of weights."""
        return 8 * self.size_bytes / self.weight.numel()

    def levels(self, group: int = 0) -> torch.Tensor:
        """(values,) float32, rising: all values that weights of this group may take, in the scale of the weights.

        A single weight has no more of them than the format has codes; where sub-blocks (K-quants) or columns (AWQ) of the group
        have grids of their own, these are the values of all of them.
        """
        grid = self.packed.format.grid
        codes, parameters = self.packed.codes()
        if self.scale is None:
            return grid.levels(parameters, group)
        groups, size = codes.shape
        factors = self.scale.float().expand(self.weight.shape).reshape(groups, size)[[group]].cpu()
        every = torch.arange(grid.code_count, dtype=torch.uint8)[:, None].expand(-1, size)
        values: torch.Tensor = (
            grid.decode(every, {n: t[[group]].cpu() for n, t in parameters.items()}) * factors
        ).unique()
        return values


def matrix(
    lab: LabLike,
    name: str,
    format: str | Format = "int4",
    *,
    method: str = "rtn",
    group_size: GroupSize | None = None,
    symmetric: bool | None = None,
    calibration: object = None,
    seed: int = 0,
) -> Reconstruction:
    """One matrix of a lab in a format: fast enough for a view that changes with its controls.

    name: as `matrices(lab)` has it.  format, method, group_size, symmetric: as of `quantize`; here a group size that does not
        divide the rows is refused.
    calibration: texts, which run the model as far as the matrix's layer, or the Activations that `activations(lab, name,
        texts)` gave, so that they run it once. With it the output error is told, whatever the method; what enters the matrix
        is what the unquantized layers make of the text.
    Raises BadInput for a matrix that is not there and settings that don't go together.
    """
    how = METHODS[checks.one_of("method", method, METHODS)]
    there = matrices(lab)
    if name not in there:
        raise BadInput(
            f"There is no matrix {checks.shown(name)} in {lab.name}{checks.near(name, there)}; lk.quantization.matrices(lab) "
            "lists them."
        )
    if how.calibrated and calibration is None:
        raise BadInput(
            f"method={method!r} needs text to go by; give calibration=lk.quantization.texts(10, skip=30), or your own."
        )
    symmetric = False if symmetric is None and how.asymmetric else symmetric
    found = formats.fitted(format, there[name].shape, group_size, symmetric)
    if isinstance(found, str):
        raise BadInput(f"{name} can't be quantized so, since {found}; give a group_size that divides the rows.")
    check_goes_with(method, found)
    weight = there[name].weight.float()
    refuse_damaged(weight, name)
    seen: Activations | None = None
    if calibration is not None:
        seen = calibration if isinstance(calibration, Activations) else activations(lab, name, calibration, seed=seed)
        if seen.gram.shape[0] != weight.shape[-1]:
            raise BadInput(
                f"These activations have {seen.gram.shape[0]} inputs and {name} has {weight.shape[-1]}; give those of this "
                "matrix."
            )
    experts = weight.shape[0] if weight.dim() == 3 else 1
    with torch.no_grad():
        chosen = how.choose(weight, found, [seen] * experts if seen is not None else [])
        unpacked = effective(chosen.packed, chosen.scale)
        change = unpacked - weight
        output = None
        if seen is not None:
            columns = weight.shape[-1]
            whole = seen.error(weight.reshape(-1, columns)).sum()
            output = float((seen.error(change.reshape(-1, columns)).sum() / whole.clamp(min=1e-300)).sqrt())
        relative = weight_error(weight, unpacked)
    return Reconstruction(name, found, method, relative, output, weight, unpacked, chosen.packed, chosen.scale)
