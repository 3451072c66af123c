"""Activations of many texts at one place each, gathered in one pass over them: what probes and directions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.along import exact
from labkit.trace.capture import observing
from labkit.trace.input import as_ids, as_texts, encode
from labkit.trace.instruments import BY_NAME, INSTRUMENTS
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

PLACES = tuple(row.name for row in INSTRUMENTS if row.put is not None and row.per != "pass")
POSITIONS = ("last", "mean")

Position = str | int


class Activations(NamedTuple):
    """layers: of the model.  values: (layers, texts, d) float32, or float64 of such a model."""

    layers: list[int]
    values: np.ndarray


def rows_of(lab: LabLike, texts: object, name: str, *, chat: bool | None) -> list[list[int]]:
    """The token ids of several texts. chat: True or None for prompts to be answered, as `lab.generate` has them.

    Raises BadInput for a single text, and for one that can't be used, which it names.
    """
    check_lab(lab)
    rows = []
    for number, text in enumerate(as_texts(texts, name)):
        try:
            if chat is False:
                rows.append(as_ids(lab.tokenizer, text, chat=False, context=lab.context))
            else:
                rows.append(running.checked_ids(lab.model, encode(lab.tokenizer, text, chat=chat).ids))
        except BadInput as error:
            raise BadInput(f"Text {number} of {name} can't be used: {error}") from error
    return rows


def checked_place(lab: LabLike, at: object) -> str:
    """The name of an instrument that each layer has. Raises BadInput, and Unavailable where the model does not have it."""
    check_lab(lab)
    at = checks.one_of("at", at, PLACES, problem="is nothing that can be read at each layer")
    if reason := lab.support().get(at):
        raise Unavailable(f"{at} can't be had from {lab.name}: {reason}.")
    return at


def checked_layers(lab: LabLike, at: str, layer: object) -> list[int]:
    """The layers asked for: one, several, or with None all that have the instrument. Raises BadInput."""
    row = BY_NAME[at]
    there = row.layers(lab.anatomy)
    if layer is None:
        return there
    count = len(lab.anatomy.layers) + (row.per == "boundary")
    of = f"{lab.name} has"
    given = layer if checks.as_whole(layer) is None else [layer]
    found = list(dict.fromkeys(checks.indices("layer", "layer", given, count, of=of)))
    if not found:
        raise BadInput("There is no layer to read: give one, several, or None for all.")
    if missing := [each for each in found if each not in there]:
        raise Unavailable(f"Layer {missing[0]} of {lab.name} has no {at}; these have it: {there}.")
    return found


def checked_position(position: object, rows: Sequence[Sequence[int]]) -> Position:
    """ "last", "mean", or the number of a token that all texts have. Raises BadInput."""
    at = checks.as_whole(position)
    if at is None:
        wanted = '"last", "mean", or the number of a token'
        return checks.one_of("position", position, POSITIONS, wanted=wanted)
    for number, row in enumerate(rows):
        if not -len(row) <= at < len(row):
            raise BadInput(
                f"Text {number} has {len(row)} tokens and none at position {at}; give one that all have, such as -1, the last."
            )
    return at


def gathered(
    lab: LabLike, rows: Sequence[Sequence[int]], at: str, layers: Sequence[int], position: Position
) -> Activations:
    """What stands at a position of each text, in each of the layers, from one pass over the texts; edits in force hold.

    position: "last" token; the "mean" of all but the first, at which models park attention (of it, where there is no other);
    or a token's number. An instrument of heads is read as its heads side by side.
    Raises Unavailable where an activation is NaN or infinite.
    """
    found: list[list[torch.Tensor]] = [[torch.empty(0)] * len(rows) for _ in layers]
    with lab.turn():
        groups = running.groups(lab.model, [len(row) for row in rows])
    for group in groups:
        with lab.turn(), observing(lab.model, lab.anatomy, (at,)) as captured:
            output = running.forward(lab.model, [rows[i] for i in group], logits="none")
        width = output.ids.shape[1]
        for of_layer, layer in zip(found, layers, strict=True):
            whole = captured.layered[at][layer]
            for place, i in enumerate(group):
                x = whole[place, ..., -width:, :][..., : len(rows[i]), :]
                x = exact(x)
                x = x if x.dim() == 2 else x.transpose(0, 1).flatten(1)
                of_layer[i] = _read(x, position).cpu()
    values = np.stack([torch.stack(of_layer).numpy() for of_layer in found])
    if not (good := np.isfinite(values).all(-1)).all():
        place, text = (int(each) for each in np.argwhere(~good)[0])
        raise Unavailable(
            f"The {at} of layer {layers[place]} holds NaN or infinity on text {text}, so nothing can be learnt from it: a "
            "weight is NaN, or the dtype too narrow; load the model in float32."
        )
    return Activations(list(layers), values)


def _read(x: torch.Tensor, position: Position) -> torch.Tensor:
    """(d,) out of (T, d)."""
    if position == "mean":
        return x[1:].mean(0) if len(x) > 1 else x[0]
    return x[-1 if position == "last" else int(position)]


def groups_of(rows: Sequence[Sequence[int]], given: object = None) -> np.ndarray:
    """(texts,) int64: which texts belong together, those with the same ids and those that the caller says do.

    given: a name for each text, such as its document or the template it was made from; None for none. Texts that are the
    same join the groups they stand in, so that none is ever on both sides of a split. Raises BadInput for another number of
    names.
    """
    names = [None] * len(rows) if given is None else checks.series("groups", given, "a list with a name for each text")
    if len(names) != len(rows):
        raise BadInput(f"There are {len(rows)} texts and {len(names)} groups; give one for each text.")
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    first: dict[object, int] = {}
    for i, row in enumerate(rows):
        keys: list[object] = [("ids", tuple(row))]
        if given is not None:
            keys.append(("name", repr(checks.plain(names[i]))))  # whole: long names may begin alike
        for key in keys:
            parent[root(i)] = root(first.setdefault(key, i))
    return np.unique([root(i) for i in range(len(rows))], return_inverse=True)[1].astype(np.int64)
