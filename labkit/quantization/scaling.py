"""Activation-aware scaling: columns that large inputs meet are scaled up before rounding, so that they lose less.

A column times s and its input divided by s give the same output, while the step of the grid, set by the group's largest
weight, stays about the same: the column's error falls by s. How strongly to scale, s = mean |x| ^ α, is searched for by the
output error on calibration text (AWQ, Lin et al. 2023, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labkit.quantization.calibration import Activations
from labkit.quantization.grids import Format, Packed

STEPS = 20  # of α from 0 to 1, as in the paper
WIDEST = 1e4  # between the largest scale and the smallest
ENOUGH_TOKENS = 64


def scaled(weight: torch.Tensor, inputs: Sequence[Activations], format: Format) -> tuple[Packed, torch.Tensor | None]:
    """A matrix (outputs, inputs), or those of several experts, rounded after its columns were scaled.

    inputs: what enters it, for each expert.  Returns what is stored, and the factor of each column, (inputs,) or
    (experts, 1, inputs) float16, that the unpacked values are to be multiplied by; None where no scaling has a smaller
    output error than none. Kept beside the codes here; AWQ's files fold it into the layer before, where it costs nothing.
    """
    columns = weight.shape[-1]
    experts = weight.detach().float().reshape(len(inputs), -1, columns)
    best = torch.ones(len(inputs), columns, dtype=torch.float32, device=weight.device)
    plain = format.pack(weight).unpack().view(experts.shape)
    least = [float(seen.error(plain[i] - experts[i]).sum()) for i, seen in enumerate(inputs)]
    for step in range(1, STEPS + 1):
        factors = torch.stack([_factors(seen, step / STEPS) for seen in inputs])
        rounded = format.pack((experts / factors[:, None]).view(weight.shape)).unpack().view(experts.shape)
        for i, seen in enumerate(inputs):
            error = float(seen.error(rounded[i] * factors[i] - experts[i]).sum())
            if error < least[i] and seen.tokens >= ENOUGH_TOKENS:
                least[i], best[i] = error, factors[i]
    if bool((best == 1).all()):
        return format.pack(weight), None
    packed = format.pack((experts / best[:, None]).view(weight.shape))
    return packed, (best[0] if weight.dim() == 2 else best[:, None]).half()


def _factors(seen: Activations, power: float) -> torch.Tensor:
    """(inputs,): what unpacked columns are multiplied by, 1 / s, exact in float16; their geometric mean is about 1."""
    size = seen.mean_abs.clamp(min=1e-8)
    scale = (size / size.max()).clamp(min=1 / WIDEST) ** power
    scale = scale / (scale.max() * scale.min()).sqrt()
    return (1 / scale).half().float()
