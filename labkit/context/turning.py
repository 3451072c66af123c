"""A layer's rotation, looked at: queries and keys before it and after, turned by hand, and what each frequency does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.context.rotary import Frequencies, Layout, frequencies, rotated
from labkit.context.stretching import handing_on, rotary_modules
from labkit.errors import BadInput, Unavailable
from labkit.results import Result
from labkit.trace import running
from labkit.trace.edits import ModelEdit, patch
from labkit.trace.input import is_many
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import TracingLab
    from labkit.trace.record import Trace

LAYOUTS: tuple[Layout, ...] = ("halves", "neighbours")
AGREE = 1e-4  # of the largest number among queries and keys


@dataclass(frozen=True, eq=False, repr=False)
class Rotation(Result):
    """How one layer turns its queries and keys; `rotation` tells the columns of the table.

    queries_before, queries: (heads, T, channels), before and after.  keys_before, keys: (kv_heads, T, channels).
    frequencies: of the layer.  layout: which channels are a pair.  difference: the largest between the model's own and those
    turned by hand.
    """

    model: str
    layer: int
    queries_before: torch.Tensor
    queries: torch.Tensor
    keys_before: torch.Tensor
    keys: torch.Tensor
    frequencies: Frequencies
    layout: Layout
    difference: float

    def _title(self) -> str:
        return f"The rotation of layer {self.layer} of {self.model}, by frequency"

    def _remarks(self) -> Sequence[str]:
        return (f"turned by hand, queries and keys differ from the model's own by {self.difference:.1g} at most",)


def rotation(lab: TracingLab, text: object, layer: int = 0) -> Rotation:
    """Queries and keys of a layer before their rotation and after, and what each pair of channels is and does.

    text: a text, or token ids.  layer: from 0.
    Before: the layer is run once more on what entered it, with every angle 0. They are then turned by hand (`rotated`), and
    have to be what the model computed. Returns a Rotation with a row for each pair: pair, frequency (radians a token),
    wavelength (tokens for a whole turn), turns (within the trained length), query_size and key_size (mean length of that pair
    in queries and keys, before), weight (its share of the sum of both sizes' products, so of what scores can be made of).
    Raises Unavailable for a model without rotary positions, or whose queries and keys can't be had; BadInput.
    """
    import pandas as pd

    check_lab(lab)
    if is_many(text):
        raise BadInput("rotation takes one text; call it for each.")
    layer = checks.index("layer", layer, len(lab.anatomy.layers), of="this model has")
    found = frequencies(lab, layer=layer)
    rotary_modules(running.language_model(lab.model))
    after = _one(lab.trace(text, keep=("attention", "residual")))
    found = frequencies(lab, layer=layer, tokens=len(after))
    still = ModelEdit(("positions, all 0",), _still)
    with lab.edit(still, patch(f"residual[{layer}]", after.residual(layer))):
        before = _one(lab.trace(list(after.ids), keep="attention"))
    bare = before.queries(layer), before.keys(layer)
    full = after.queries(layer), after.keys(layer)
    place = torch.arange(len(after))
    differences = {
        layout: max(
            float((rotated(one, place, found, layout) - two).abs().max()) for one, two in zip(bare, full, strict=True)
        )
        for layout in LAYOUTS
        if bare[0].shape[-1] == found.channels
    }
    largest = max(float(one.abs().max()) for one in full)
    layout = min(differences, key=lambda each: differences[each], default=None)
    if layout is None or differences[layout] > AGREE * max(largest, 1.0):
        raise Unavailable(
            f"{lab.name} turns its queries and keys otherwise than by pairs of channels of a whole head, so that it can't "
            "be shown by hand; take a model such as lk.load()."
        )
    pairs = len(found.values)

    def sizes(x: torch.Tensor) -> torch.Tensor:
        turn = x[..., : 2 * pairs]
        two = (turn[..., :pairs], turn[..., pairs:]) if layout == "halves" else (turn[..., ::2], turn[..., 1::2])
        return (two[0] ** 2 + two[1] ** 2).sqrt().mean((0, 1))

    query, key = sizes(bare[0]), sizes(bare[1])
    product = query * key
    table = pd.DataFrame(
        {
            "pair": range(pairs),
            "frequency": found.values.tolist(),
            "wavelength": found.wavelengths.tolist(),
            "turns": (found.trained / found.wavelengths).tolist(),
            "query_size": query.tolist(),
            "key_size": key.tolist(),
            "weight": (product / product.sum()).tolist(),
        }
    )
    return Rotation(table, lab.name, layer, bare[0], full[0], bare[1], full[1], found, layout, differences[layout])


def _one(traced: Trace | list[Trace]) -> Trace:
    assert not isinstance(traced, list)
    return traced


@contextlib.contextmanager
def _still(model: PreTrainedModel) -> Iterator[None]:
    """While inside, every rotary module gives angle 0: cosine 1, sine 0."""
    with contextlib.ExitStack() as stack:
        for module in rotary_modules(running.language_model(model)).values():
            stack.enter_context(handing_on(module, _upright(module.forward)))
        yield


def _upright(forward: Callable[..., object]) -> Callable[..., object]:
    def still(*given: object, **named: object) -> object:
        found = forward(*given, **named)
        if not isinstance(found, tuple) or len(found) != 2:
            raise Unavailable("This model's rotary angles don't come as cosine and sine, and can't be taken away.")
        return torch.ones_like(found[0]), torch.zeros_like(found[1])

    return still
