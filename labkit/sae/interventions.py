"""Edits along features: what the features leave unexplained always stays as it was."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from labkit import checks
from labkit.errors import BadInput
from labkit.sae.dictionary import SAE, Feature, checked_feature, checked_sae
from labkit.trace.along import check_width, unit
from labkit.trace.edits import Edit, patch

__all__ = ["clamp", "splice", "steer"]

AFTER_THE_FIRST = "1:"  # at the first token, where models park attention, features are not defined
_LEAST_OVERLAP = 0.05


def steer(what: Feature | Tensor, strength: float, *, layer: int | None = None, tokens: str = AFTER_THE_FIRST) -> Edit:
    """Add strength times a direction to the residual stream, at every token but the first.

    what: a feature, `sae[1234]`; or a direction (d_model,) of your own, taken at length 1, with the layer it is added
        before.
    strength: in units of the residual stream: a feature's directions have about length 1, and its activation in text is
        of the size `strength` should be compared with; `sae.typical_norm` is a whole token's.
    tokens: which, as places write them; "1:" leaves the first alone.
    Raises BadInput for a strength that is no number, a direction that is none, or a layer missing.
    """
    amount = number(strength, "strength")
    if isinstance(what, Feature):
        direction, at, check = what.direction, what.sae.layer, what.sae.belongs
        if layer is not None and layer != at:
            raise BadInput(
                f"Feature {what.index} lives at layer {at}; leave layer away, or give its direction instead."
            )
    else:
        direction, at, check = _direction(what), _layer(layer), None

    def added(x: Tensor) -> Tensor:
        _fits(x, direction)
        return x + (amount * direction).to(x)

    return replace(patch(f"residual[{at}] @ {tokens}", added), check=check)


def clamp(feature: Feature, value: float, *, tokens: str = AFTER_THE_FIRST) -> Edit:
    """Move the residual stream along a feature's direction, so far that its encoder reads `value` there.

    Only the part along the feature's direction changes: whatever else is in the stream, the unexplained rest included,
    stays; tokens of a norm out of all measure, where features are not defined, are left alone. value: 0 switches the
    feature off where it is active and leaves all other tokens as they are; above 0 it is set at every token but the
    first. An autoencoder that keeps the k largest reports a value too small to be among them as 0.
    Raises BadInput for a value below 0, unless the autoencoder's activations may be, and for a feature whose encoder
    hardly sees its own direction.
    """
    checked_feature(feature)
    wanted = number(value, "value")
    sae = feature.sae
    if wanted < 0 and not sae.signed:
        raise BadInput(f"A feature can't be clamped to {wanted:g}: activations are at least 0; to push it away, steer.")
    if not sae.linear:
        kind = sae.architecture if sae.normalization == "none" else f"{sae.architecture} with {sae.normalization}"
        raise BadInput(f"{sae.name} is of kind {kind}, whose features can't be set one by one; use steer.")
    direction, detector = feature.direction, feature.detector
    seen = direction - direction.mean() if sae.centred else direction  # what the encoder sees of it
    overlap = float(seen @ detector)
    if overlap < _LEAST_OVERLAP * float(direction.norm() * detector.norm()):
        raise BadInput(
            f"Feature {feature.index} hardly reads its own direction, so that no value can be set; use steer."
        )

    def clamped(x: Tensor) -> Tensor:
        _fits(x, direction)
        rows = x.float()
        read = sae.pre_activations(rows.cpu())[..., feature.index].to(rows.device)
        change = (wanted - read) / overlap
        if wanted == 0:
            active = sae.encode(rows.cpu())[..., feature.index].to(rows.device) != 0
            change = torch.where(active, change, torch.zeros_like(change))
        change = torch.where(sae.usual(rows), change, torch.zeros_like(change))
        return (rows + change[..., None] * direction.to(rows)).to(x)

    return replace(patch(f"residual[{sae.layer}] @ {tokens}", clamped), check=sae.belongs)


def splice(sae: SAE, *, error: bool = False, tokens: str = AFTER_THE_FIRST) -> Edit:
    """Let the model go on with what the features say, instead of what it computed; the first token is left alone.

    error: add back what the features leave unexplained, which changes nothing: a check that all is in its place.
    """
    checked_sae(sae)

    def spliced(x: Tensor) -> Tensor:
        rows = x.float().cpu()
        rebuilt = sae.reconstruct(rows)
        new = rebuilt + (rows - rebuilt) if error else rebuilt
        return torch.where(sae.usual(rows)[..., None], new, rows).to(x)

    return replace(patch(f"residual[{sae.layer}] @ {tokens}", spliced), check=sae.belongs)


def _fits(x: Tensor, direction: Tensor) -> None:
    check_width(x, direction, "load the model the autoencoder was trained on")


def number(value: object, what: str) -> float:
    """Raises BadInput for what is no finite number."""
    found = checks.as_number(value)
    if found is None:
        raise BadInput(f"{what} is to be a number, and {checks.shown(value)} is none.")
    return found


def _direction(what: object) -> Tensor:
    return unit(what, "steer takes a feature, such as sae[1234], or a direction (d_model,) as a tensor.")


def _layer(layer: object) -> int:
    found = checks.as_whole(layer)
    if found is None or found < 0:
        raise BadInput("A direction of your own needs the layer it is added before: steer(direction, 5.0, layer=15).")
    return found
