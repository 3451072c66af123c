"""What an adapter changes at one module: ΔW = scaling · B A, or DoRA's rescaled columns, as a matrix and as a term.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; rsLoRA (Kalajdzievski 2023) differs in the scaling
alone; Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from labkit.quantization.unpacking import linear_weight
from labkit.quantization.weights import is_conv1d
from labkit.trace.adding import Term, own_parameter

__all__ = ["LowRank", "dense_weight", "own_dense_weight", "sizes"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update of one matrix.

    a: (rank, inputs); b: (outputs, rank); of an embedding, inputs is the number of its tokens.
    scaling: alpha / rank, or alpha / √rank (rsLoRA).  bias: (outputs,), of b's product, or None.
    magnitude: (outputs,), the length of each row of the tuned matrix (DoRA), or None.  embedding: a lookup, not a product.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    bias: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def delta(self, weight: torch.Tensor | None = None, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """ΔW, (outputs, inputs). weight: (outputs, inputs), the base's own, which DoRA's depends on."""
        product = self.scaling * (self.b.to(dtype) @ self.a.to(dtype))
        if self.magnitude is None:
            return product
        assert weight is not None
        own = weight.to(product.device, dtype)
        return self._gain(own + product)[:, None] * (own + product) - own

    def _gain(self, tuned: torch.Tensor) -> torch.Tensor:
        """(outputs,), by what each row is multiplied. tuned: W + scaling · B A."""
        assert self.magnitude is not None
        gain: torch.Tensor = self.magnitude.to(tuned) / torch.linalg.vector_norm(tuned, dim=1)
        return gain

    def times(self, factor: float) -> LowRank:
        """With `factor` · ΔW. Not of DoRA, whose update is no product of small matrices."""
        assert self.magnitude is None
        return replace(self, scaling=self.scaling * factor)

    def term(self, module: nn.Module, scale: float) -> Term:
        """scale · ΔW x (and bias), in the order of peft's own operations, so that scale 1 gives its numbers."""
        gain = None if self.magnitude is None else self._gain_at(module)
        return _Term(self, module, scale, gain)

    def _gain_at(self, module: nn.Module) -> torch.Tensor:
        """Computed each time: a weight can change without any mark (`.data`, packed again), and the norms cost little."""
        weight = dense_weight(module)
        product = (self.b.to(weight.device) @ self.a.to(weight.device)).to(weight.dtype)
        return self._gain(weight + self.scaling * product)


class _Term:
    """A LowRank where it is used: its tensors are moved to a device when they are first needed there."""

    def __init__(self, low_rank: LowRank, module: nn.Module, scale: float, gain: torch.Tensor | None) -> None:
        self.low_rank, self.scale, self.gain = low_rank, scale, gain
        self.own_bias = getattr(module, "bias", None)
        self.width_scale: torch.Tensor | None = getattr(module, "embed_scale", None)  # Gemma's embedding
        self.there: dict[torch.device, tuple[torch.Tensor, ...]] = {}

    def __call__(self, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        it = self.low_rank
        a, b, bias = self._on(output.device)
        if it.embedding:
            change = (functional.embedding(given.to(output.device), a.T) @ b.T) * it.scaling
            if self.width_scale is not None:
                change = change * self.width_scale.to(change)
        else:
            change = functional.linear(functional.linear(given.to(output.device, a.dtype), a), b, bias) * it.scaling
        if self.gain is not None:
            gain = self.gain.to(output.device, change.dtype)
            own = output if self.own_bias is None else output - self.own_bias.to(output.device)
            change = (gain - 1) * own + gain * change
        return change if self.scale == 1 else self.scale * change

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if device not in self.there:
            it = self.low_rank
            bias = () if it.bias is None else (it.bias.to(device),)
            self.there[device] = (it.a.to(device), it.b.to(device), *bias)
        a, b, *rest = self.there[device]
        return a, b, rest[0] if rest else None


def sizes(module: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear map, packed or not, or of an embedding (tokens, width); None of anything else."""
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if is_conv1d(module):
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else None


def dense_weight(module: nn.Module) -> torch.Tensor:
    """(outputs, inputs), the values of a module's matrix, unpacked where it is packed; of an embedding (width, tokens)."""
    weight = linear_weight(module)
    return weight.T if isinstance(module, nn.Embedding) else weight


def own_dense_weight(module: nn.Module) -> torch.Tensor:
    """As `dense_weight`, of the module's own weight, also while an adapter gives it another."""
    own = own_parameter(module, "weight")
    if own is None or own is module._parameters.get("weight"):
        return dense_weight(module)
    weight = own.detach()  # what has another value for a while is a plain tensor of floating-point numbers
    return weight.T if is_conv1d(module) or isinstance(module, nn.Embedding) else weight
