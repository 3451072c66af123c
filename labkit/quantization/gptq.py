"""GPTQ: codes chosen one column after the other, each column's error made up for by the columns still to come.

The output error of a matrix on calibration text is quadratic in the change of each row, (ŵ − w) H (ŵ − w)ᵀ with H = XᵀX of
what enters it. Once a column is rounded, the best change of the columns after it follows from the inverse of H: it is a row
of that inverse's upper Cholesky factor. Frantar et al. 2022, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labkit.quantization.calibration import Activations
from labkit.quantization.grids import Codes, Format, Packed, Parameters

DAMPING = 0.01  # added to the diagonal of H, as a share of its mean
BATCH = 128  # about how many columns' errors are carried on to the rest together
ENOUGH_TOKENS = 64  # with fewer, what entered an expert says too little of what else will


def gptq(
    weight: torch.Tensor,
    inputs: Sequence[Activations],
    format: Format,
    *,
    act_order: bool = True,
    damping: float = DAMPING,
) -> Packed:
    """A matrix (outputs, inputs), or those of several experts, with codes chosen for the output on calibration text.

    inputs: what enters it, for each expert.  format: with a grid whose codes can be chosen column by column.
    act_order: columns with the largest inputs come first, on grids fitted before; otherwise columns come as they stand, and
        each group's grid is fitted when it is reached, to what the weights have become.
    Rows whose output error would be above that of rounding to nearest are rounded to nearest, as are experts that fewer
    than 64 tokens reached.
    """
    blocks = format.blocks(weight)
    parameters = format.grid.fit(blocks)
    experts = weight.detach().float().reshape(len(inputs), -1, weight.shape[-1])
    nearest = format.grid.encode(blocks, parameters).view(experts.shape)
    codes, fitted = [], []
    for number, (matrix, seen) in enumerate(zip(experts, inputs, strict=True)):
        own = parameters if format.group_size == "tensor" else _part(parameters, number, len(inputs))
        if seen.tokens < ENOUGH_TOKENS:
            codes.append(nearest[number])
            fitted.append(own)
            continue
        chosen, grids = choose(matrix, seen, format, own, act_order=act_order, damping=damping)
        better = _errors(matrix, seen, format, chosen, grids) < _errors(matrix, seen, format, nearest[number], own)
        codes.append(torch.where(better[:, None], chosen, nearest[number]))
        fitted.append(own if grids is own else _mixed(better, grids, own))
    together = {name: torch.cat([each[name] for each in fitted]) for name in parameters}
    whole = parameters if format.group_size == "tensor" else together
    return format.packed(torch.cat(codes).view(blocks.shape), whole, weight.shape)


def choose(
    weight: torch.Tensor,
    inputs: Activations,
    format: Format,
    parameters: Parameters,
    *,
    act_order: bool = True,
    damping: float = DAMPING,
) -> tuple[Codes, Parameters]:
    """Codes (outputs, inputs) of one matrix, and its groups' parameters: those given, where they can't be fitted on the way.

    parameters: as fitted to the weights as they are. They are kept with act_order, where one group is a whole row or more,
    and where a group's depend on the others'.
    """
    rows, columns = weight.shape
    size = min(format.size(columns, rows), columns)
    per_row = columns // size
    fixed = act_order or per_row == 1 or not format.grid.independent
    diagonal = inputs.gram.diagonal()
    order = diagonal.argsort(descending=True, stable=True) if act_order else torch.arange(columns, device=weight.device)
    left = weight.detach().float()[:, order]  # what the columns still to come have become
    factor = _factor(inputs.gram[order][:, order], damping)
    codes = torch.zeros(rows, columns, dtype=torch.uint8, device=weight.device)
    of_groups = {name: value.view(-1, per_row, *value.shape[1:]) for name, value in parameters.items()}
    fitted: list[Parameters] = []
    step = max(size, BATCH // size * size) if not fixed else BATCH  # no group is cut by the end of a batch
    for start in range(0, columns, step):
        stop = min(start + step, columns)
        errors = torch.zeros(rows, stop - start, dtype=torch.float32, device=weight.device)
        for column in range(start, stop):
            if not fixed and column % size == 0:
                fitted.append(format.grid.fit(left[:, column : column + size]))
            place = int(order[column])
            grid = {n: v[:, place // size] for n, v in of_groups.items()} if fixed else fitted[-1]
            code = format.grid.encode(left[:, column : column + 1], grid)
            codes[:, place] = code[:, 0]
            error = (left[:, column] - format.grid.decode(code, grid)[:, 0]) / factor[column, column]
            left[:, column + 1 : stop] -= error[:, None] * factor[column, column + 1 : stop]
            errors[:, column - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    if fixed:
        return codes, parameters
    return codes, {name: torch.stack([each[name] for each in fitted], 1).flatten(0, 1) for name in parameters}


def _factor(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """(inputs, inputs) float32: the upper Cholesky factor of the inverse of H, damped until it has one."""
    exact = gram.double()
    mean = float(exact.diagonal().mean())
    share = damping
    while True:
        damped = exact + torch.eye(len(exact), dtype=exact.dtype, device=exact.device) * (share * mean or 1.0)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper: torch.Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
            return upper.float()
        share = max(share * 10, DAMPING)


def _errors(
    weight: torch.Tensor, inputs: Activations, format: Format, codes: Codes, parameters: Parameters
) -> torch.Tensor:
    """(outputs,): each output's mean squared error."""
    groups = codes.reshape(-1, min(format.size(codes.shape[1], len(codes)), codes.numel()))
    return inputs.error(format.grid.decode(groups, parameters).view(codes.shape) - weight)


def _part(parameters: Parameters, number: int, count: int) -> Parameters:
    """The groups' parameters of one of several equal matrices."""
    return {name: value.chunk(count)[number] for name, value in parameters.items()}


def _mixed(rows: torch.Tensor, one: Parameters, other: Parameters) -> Parameters:
    """The parameters of one fit in these rows, and of another elsewhere."""
    found = {}
    for name, value in other.items():
        take = rows.repeat_interleave(len(value) // len(rows)).view(-1, *[1] * (value.dim() - 1))
        found[name] = torch.where(take, one[name], value)
    return found
