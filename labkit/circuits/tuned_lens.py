"""The tuned lens itself: an affine map for each layer, trained to make of its state what the model will predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from labkit.circuits.jacobian_lens import JacobianLens
from labkit.errors import BadInput
from labkit.trace.along import exact

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(JacobianLens):
    """A lens with a matrix and a bias for each layer: softmax(W_U · norm(A_l h + b_l)).

    jacobians: {layer: A_l}, (d_model, d_model): a matrix that carries a state on, as in a `JacobianLens`, and here no
        Jacobian but trained.  biases: {layer: b_l}, (d_model,).  prompts: texts that it was trained on.
    quality: a row for each layer, on texts held out: kl of the tuned lens, nats; logit, of the logit lens; other_layer, of
        this lens with the map of another layer; constant, of the mean prediction on the
        training texts, whatever the state. None from a file.
    Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens (arXiv:2303.08112).
    """

    biases: Mapping[int, torch.Tensor] = field(default_factory=dict)
    quality: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        """Raise BadInput unless there is a square matrix at least, all alike, and a bias beside each."""
        super().__post_init__()
        shapes = {layer: tuple(bias.shape) for layer, bias in self.biases.items()}
        if shapes != dict.fromkeys(self.jacobians, (self.d_model,)):
            raise BadInput(
                f"A tuned lens has a bias ({self.d_model},) beside each of its matrices, and this one has {shapes}."
            )

    def carried(self, states: torch.Tensor, layer: int) -> torch.Tensor:
        """(..., d_model) of a layer, as the last residual that it foretells: A_l h + b_l, in the states' own dtype."""
        matrix = self.jacobian(layer)
        if matrix is None:
            return states
        wide = exact(states)
        bias = self.biases[layer % (self.layers + 1)]
        return (wide @ matrix.to(wide).T + bias.to(wide)).to(states.dtype)

    def __repr__(self) -> str:
        return (
            f"TunedLens({self.model or 'of an unnamed model'}: {len(self.jacobians)} of {self.layers} layers, width "
            f"{self.d_model}, {self.prompts} prompt{'s' * (self.prompts != 1)})"
        )
