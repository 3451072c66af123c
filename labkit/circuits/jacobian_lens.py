"""The Jacobian lens itself: a matrix for each layer, of which model they are, and whether they fit a lab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.quantization.bases import Base, base_of
from labkit.trace.along import exact

if TYPE_CHECKING:
    from pathlib import Path

    from labkit.trace.lab_like import LabLike


@dataclass(frozen=True, eq=False)
class JacobianLens:
    """What a state at each layer adds, on average, to the last residual stream from its position on.

    jacobians: {layer: (d_model, d_model) float32 on the CPU, float64 of such a model}, by the layer that the state enters,
        as `trace.residual` counts; a published lens calls the same state the output of the layer before. They map a state
        at that layer into the last residual stream, from which the model reads its answer. The last residual itself needs
        none.
    prompts: how many texts they are averaged over.  model: its name; None where a file does not say.  layers: it has.
    agreement: {layer: correlation of the entries off the diagonal of two lenses, each fitted on half of the texts}; empty
        where not known.
    notes: what is to be known of how it was made.
    base: the fingerprint of the model's weights; None where a file does not have one, as published lenses.
    Gurnee et al. 2026, Verbalizable Representations Form a Global Workspace in Language Models.
    """

    jacobians: Mapping[int, torch.Tensor]
    prompts: int
    model: str | None
    layers: int
    agreement: Mapping[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    base: Base | None = None

    def __post_init__(self) -> None:
        """Raise BadInput unless there is a matrix at least, all are square and alike, and each is of a layer that there is."""
        shapes = sorted({tuple(matrix.shape) for matrix in self.jacobians.values()})
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != shapes[0][1]:
            held = f"matrices of the shapes {checks.listed(map(str, shapes))}" if shapes else "no matrix"
            raise BadInput(
                f"A Jacobian lens has a matrix (d_model, d_model) for each layer, all alike, and this one has {held}."
            )
        for layer in self.jacobians:
            if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < self.layers:
                raise BadInput(
                    f"A lens of a model with {checks.shown(self.layers)} layers has matrices for what enters a layer, and this "
                    f"one has one for layer {checks.shown(layer)}; layers count from 0, and the last residual needs none."
                )

    @property
    def d_model(self) -> int:
        return int(next(iter(self.jacobians.values())).shape[0])

    @property
    def readable(self) -> tuple[int, ...]:
        """The layers it can be read at: those it has a matrix for, and the last, which needs none."""
        return (*sorted(self.jacobians), self.layers)

    def jacobian(self, layer: int) -> torch.Tensor | None:
        """(d_model, d_model) of a layer; None for the last residual. Raises BadInput for a layer it has none for."""
        found = checks.as_whole(layer)
        there = None if found is None else found + self.layers + 1 if found < 0 else found
        if there not in self.readable:
            raise BadInput(
                f"This lens has no matrix for layer {checks.shown(layer)}: it reads at {_spans(self.readable)}, counted as "
                "trace.residual is; the logit lens, kind='logit', reads at every layer."
            )
        return self.jacobians.get(there)

    def carried(self, states: torch.Tensor, layer: int) -> torch.Tensor:
        """(..., d_model) of a layer, carried on to where the last residual would be: J_l h, in the states' own dtype."""
        matrix = self.jacobian(layer)
        if matrix is None:
            return states
        wide = exact(states)
        return (wide @ matrix.to(wide).T).to(states.dtype)

    def belongs(self, lab: LabLike) -> None:
        """Raise BadInput unless this lens was fitted on the lab's model, by its weights, or by its name where it has no
        fingerprint of them.
        """
        width, layers = int(lab.config.hidden_size), len(lab.anatomy.layers)
        remedy = "fit one for this model: lk.circuits.fit_lens(lab, texts)"
        if (width, layers) != (self.d_model, self.layers):
            raise BadInput(
                f"This lens is of {self.model or 'a model'} with {self.layers} layers of width {self.d_model}, and {lab.name} "
                f"has {layers} of {width}; {remedy}."
            )
        if self.base is not None:
            if differs := base_of(lab).differs(self.base):
                raise BadInput(
                    f"This lens was fitted on {self.base.name}, and {lab.name} {differs}; {remedy}, or, to read it with this one "
                    "all the same: dataclasses.replace(lens, base=None, model=None)."
                )
            return
        if self.model is not None and plain_name(self.model) != plain_name(lab.name):
            raise BadInput(
                f"This lens was fitted on {self.model}, and this is {lab.name}; {remedy}, or, if it is the same model under "
                f"another name, say so: dataclasses.replace(lens, model={lab.name!r})."
            )

    def save(self, path: str | Path) -> Path:
        """Write it to a file: NAME.safetensors, or NAME.pt as published lenses are, in half precision. See `load_lens`."""
        from labkit.circuits.lens_files import write

        return write(self, path)

    def __repr__(self) -> str:
        return (
            f"JacobianLens({self.model or 'of an unnamed model'}: {_spans(sorted(self.jacobians))}, width {self.d_model}, "
            f"{self.prompts} prompt{'s' * (self.prompts != 1)})"
        )


def plain_name(name: str) -> str:
    """A model's name without owner, case and what only says how it was stored."""
    last = name.rstrip("/").rpartition("/")[2].lower().removesuffix(".gguf")
    return {"gpt2-small": "gpt2"}.get(last, last)


def _spans(layers: object) -> str:
    """ "layers 1 to 5 and 9"."""
    found: list[list[int]] = []
    for layer in checks.series("layers", layers, "a list of layers"):
        assert isinstance(layer, int)
        if found and layer == found[-1][-1] + 1:
            found[-1].append(layer)
        else:
            found.append([layer])
    spans = [f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in found]
    return f"layer{'s' * (sum(map(len, found)) > 1)} {checks.listed(spans)}"
