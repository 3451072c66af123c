"""Swapping two concepts in the space of a lens: an edit, and the same change in random directions beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from labkit import checks
from labkit.circuits.jacobian_lens import plain_name
from labkit.circuits.lens_reading import LensReading
from labkit.errors import BadInput
from labkit.quantization.bases import Base, base_of
from labkit.trace.edits import Edit
from labkit.trace.lens import token_id
from labkit.trace.places import parse

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

PARALLEL = 0.999  # cosine from which on two directions are one


def swap(
    lens: LensReading,
    source: str | int,
    target: str | int,
    *,
    layers: int | Sequence[int] | None = None,
    strength: float = 1.0,
    where: Literal["all", "larger"] | None = None,
    tokens: str = "1:",
    random: int | None = None,
) -> Edit:
    """Exchange two concepts' coordinates in the residual stream, for `lab.edit`: an edit like all others.

    lens: from `lk.lens(lab, trace)`, with any trace of the model.  source, target: single tokens, by text or id; most words
        begin with a space (" Paris").  layers: before which the stream is changed, as `trace.residual` counts; None takes the
        middle third.
    strength: 1 exchanges, 2 goes twice as far.
    where: "all": at every token; "larger": only where the source's coordinate is larger than the target's. An exchange at a
        second layer would undo that at the first, so with several layers None is "larger", and with one it is "all".
    tokens: which, as places write them; "1:" leaves the first alone, where a model parks attention.
    random: a seed; then the stream is moved by as much at every token, in a random plane instead of that of the concepts: what
        any change of this size would do. At several layers it leaves the coordinates as they are and so is made at each, where
        the exchange is made once and kept: there it is the larger change of the two, and a strict comparison.
    With v the two directions in which the state's logits of the tokens grow, J_l^T · gain · W_U, V = [v_source, v_target] and
    c = V⁺ h the coordinates of a state h in their plane, h becomes h + strength · V (c exchanged − c); what is outside of the
    plane stays. Patching in lens coordinates: Gurnee et al. 2026.
    Raises BadInput for tokens that are not single or are the same, whose directions are parallel, and for a layer that the
    lens does not read at.
    """
    if not isinstance(lens, LensReading):
        raise BadInput(f"swap takes a lens from lk.lens(lab, trace), and a {type(lens).__name__} is none.")
    factor = checks.number("strength", strength)
    seed = None if random is None else checks.seed(random, "random")
    size = int(lens.trace.logits.shape[-1])
    lab = lens._lab
    ids = [token_id(lab.tokenizer, size, token) for token in (source, target)]
    if ids[0] == ids[1]:
        raise BadInput("source and target are the same token, and there is nothing to exchange; choose another.")
    chosen = _layers(lens, layers)
    how = checks.one_of("where", where or ("all" if len(chosen) == 1 else "larger"), ("all", "larger"))
    last = lens.trace.residual(lens.trace.layers)[-1]
    heads = torch.stack([lens.ending.direction(last, one) for one in ids])  # (2, d_model), at the last residual
    places: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    for layer in chosen:
        matrix = None if lens.lens is None else lens.lens.jacobian(layer)
        plane = heads if matrix is None else heads @ matrix.double()
        place = f"residual[{layer}] @ {tokens}"
        places[place] = _exchange(plane, layer, factor, how == "larger", seed)
        parse(place, lens.trace.layers)  # which refuses tokens that can't be read
    return Edit(tuple(places), places, check=partial(_check, lens, base_of(lab)))


def _layers(lens: LensReading, layers: int | Sequence[int] | None) -> list[int]:
    """The layers of a swap, each once, in the order they run."""
    count = lens.trace.layers
    if layers is None:
        return [layer for layer in lens.layers if count // 3 <= layer <= 2 * count // 3] or [lens.layers[0]]
    one = checks.as_whole(layers)
    given = [one] if one is not None else checks.series("layers", layers, "a layer, or a list of layers")
    found = sorted({checks.index("layer", layer, count + 1, of="the stream is swapped at") for layer in given})
    if not found:
        raise BadInput(f"layers is empty; choose from {checks.some(lens.layers)}.")
    for layer in found:
        if lens.lens is not None:
            lens.lens.jacobian(layer)
    return found


def _exchange(
    plane: torch.Tensor, layer: int, strength: float, larger: bool, seed: int | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The change of one layer. plane: (2, d_model) float64, the two directions."""
    unit = plane / plane.norm(dim=1, keepdim=True)
    cosine = float(unit[0] @ unit[1])
    if not abs(cosine) < PARALLEL:  # or NaN: a direction of length 0
        raise BadInput(
            f"At layer {layer} the two tokens have one direction (cosine {cosine:.4f}), and there is nothing to exchange; "
            "choose other tokens or another layer."
        )
    read = torch.linalg.pinv(plane.T)  # (2, d_model): V⁺
    into = plane
    if seed is not None:  # V = QR: R keeps the lengths, and a random Q takes them elsewhere
        draw = torch.Generator().manual_seed(seed + layer)
        basis = torch.linalg.qr(torch.randn(plane.shape[1], 2, generator=draw, dtype=plane.dtype)).Q
        into = torch.linalg.qr(plane.T).R.T @ basis.T

    def exchanged(x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != plane.shape[1]:
            raise BadInput(
                f"This swap is of a stream of width {plane.shape[1]}, and the model's has {x.shape[-1]}; make it anew with the "
                "lens of this model."
            )
        rows = x.double() if x.device.type != "mps" else x.float()
        coordinates = rows @ read.T.to(rows)
        change = strength * (coordinates.flip(-1) - coordinates)
        if larger:
            change = change * (coordinates[..., :1] > coordinates[..., 1:])
        moved: torch.Tensor = rows + change @ into.to(rows)
        return moved.to(x)

    return exchanged


def _check(lens: LensReading, base: Base, lab: LabLike) -> None:
    """Raise BadInput for a lab that the swap's lens is not of. base: the fingerprint of the model it was made with."""
    if differs := base_of(lab).differs(base):
        raise BadInput(
            f"This swap was made with {base.name}, and {lab.name} {differs}; make it with a lens of this model."
        )
    if lens.lens is not None:
        lens.lens.belongs(lab)
    elif len(lab.anatomy.layers) != lens.trace.layers or plain_name(lab.name) != plain_name(lens.model):
        raise BadInput(
            f"This swap was made for {lens.model}, and this is {lab.name}; make it with a lens of this model."
        )
