"""Edits: what a model computes, changed at written places for the length of a `with`.

Everything is checked before anything is installed. What can be changed, and how, the rows of instruments.py say; what
routers decide is changed as routers.py does. All are put on before a Trace's own, so that a Trace sees what was changed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.instruments import BY_NAME, Instrument, filled
from labkit.trace.passes import Found, Pass, TokenAxis
from labkit.trace.places import Place, parse
from labkit.trace.routers import (
    CheckedRerouting,
    Rerouting,
    Router,
    asked_of,
    check_choice,
    checked_rerouting,
    rerouting,
    weighing,
)
from labkit.trace.taps import Taps, Visit, tapping

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.anatomy import Anatomy
    from labkit.trace.lab_like import LabLike

# what a user writes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Edit:
    """A change to the model, for `lab.edit`. where: places, as text. value: what is put there, or a function of it.

    A mapping of the places gives each a value of its own.
    check: called with the lab before anything is changed; raises for a model that the change is not for.
    """

    where: tuple[str, ...]
    value: object
    check: Callable[[LabLike], None] | None = None


@dataclass(frozen=True, eq=False)
class RouterEdit(Edit):
    """A change to routers, for `lab.edit`; labkit.moe.edits makes them. where: the routers, as text.

    value: by layer, or None for all layers with a router, what is asked of the choice; or a function of the router that
        gives it other weights, (E, d).
    """

    value: Mapping[int | None, Rerouting | Callable[[Router], torch.Tensor]]


@dataclass(frozen=True, eq=False)
class ModelEdit(Edit):
    """A change of the model as a whole, for `lab.edit`; labkit.context makes them. where: what is changed, in words.

    value: makes the change of a model for the length of a `with`, and undoes it whatever happens inside.
    """

    value: Callable[[PreTrainedModel], contextlib.AbstractContextManager[None]]


def patch(where: str, value: object) -> Edit:
    """Put a value at a place of the model, or pass what is there through a function.

    where: such as "residual[5] @ 3", "attention_output[5] @ 2:7", "mlp_output[*]", "head_output[5, 3] @ 1,4,-1",
        "queries[5, 3]", "keys[5, 0]", "values[5, 0]", "logits"; named and shaped as in a Trace. Negative tokens count
        from the end of what the model has been given so far: while generating, -1 is each newest token.
    value: a number, tensor or array that broadcasts to the shape below; or a function that is given the tensor (a copy)
        and returns one of the same shape, called once for each text and layer in a forward pass.
    Shapes, for one text of T tokens: {places}; with a head, without the first of its axes. A value has all tokens of the
        place. A function is given those of them that the pass computes: with a KV cache first the prompt's, then one by
        one; keys and values come with all tokens up to now.
    Raises BadInput when the value can't be used. `lab.edit` raises BadInput for a place that is not there and
    Unavailable where this model can't be edited; an exception in the function passes through.
    """
    if not isinstance(where, str):
        raise BadInput(f"patch takes a place as text, such as 'residual[5] @ 3', and {where!r} is none.")
    if not callable(value):
        value = _as_tensor(value, where, "The value")
        if bool(value.isnan().any()):
            raise BadInput(f"The value for {where} has NaN in it; give numbers.")
    return Edit((where,), value)


patch.__doc__ = filled(patch.__doc__)


def ablate_head(layer: int, head: int, *, value: object = 0.0) -> Edit:
    """Switch one attention head off: its output before the output projection becomes zero.

    value: what it becomes instead, for instance its mean, `trace.head_output(5, 3).mean(0)`.
    """
    return ablate_heads([(layer, head)], value=value)


def ablate_heads(heads: Sequence[tuple[int, int]], *, value: object = 0.0) -> Edit:
    """Switch several heads off, given as (layer, head)."""
    pairs = [checks.pair("head", pair) for pair in checks.series("heads", heads, "a list of (layer, head)")]
    if not pairs:
        raise BadInput("There is no head to ablate; give at least one (layer, head).")
    places = tuple(f"head_output[{layer}, {head}]" for layer, head in pairs)
    return Edit(places, patch(places[0], value).value)


@contextlib.contextmanager
def edited(model: PreTrainedModel, anatomy: Anatomy, edits: Sequence[Edit]) -> Iterator[None]:
    """While inside, the edits hold for every forward pass of the model, in their order; afterwards nothing is left.

    Raises BadInput and Unavailable before anything is installed; the caller sees to it that no run is under way.
    """
    sites = [site for edit in edits for site in _sites(anatomy, edit)]
    _check_routers(sites)
    with installed(model, anatomy, sites):
        yield


# what is installed ----------------------------------------------------------------------------------------------------


Value = torch.Tensor | Callable[[torch.Tensor], object]
Change = Callable[[torch.Tensor, TokenAxis], "torch.Tensor | None"]


class Site(NamedTuple):
    """Where a change is made: an instrument and a layer, 0 for what there is once in a pass.

    change: is given the whole tensor, (batch, tokens, d) or (batch, heads, tokens, d_head), and where the texts' tokens
    are in it; returns a new tensor, or None to leave it as it is. It never writes into what it is given.
    """

    name: str
    layer: int
    change: Change


class RouterSite(NamedTuple):
    """A router that is changed. change: what is asked of its choice, or other weights for it, (E, d)."""

    router: Router
    change: CheckedRerouting | torch.Tensor

    def put_on(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self.change, CheckedRerouting):
            return rerouting(self.router, self.change)
        return weighing(self.router, self.change)


class ModelSite(NamedTuple):
    """The model as a whole, changed while inside."""

    change: Callable[[PreTrainedModel], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def installed(
    model: PreTrainedModel, anatomy: Anatomy, sites: Sequence[Site | RouterSite | ModelSite]
) -> Iterator[None]:
    """Make changes at sites for the length of a `with`."""
    if not sites:
        yield
        return
    if count := running.virtual_tokens(model):
        raise Unavailable(
            f"This model can't be edited: {count} trained vectors stand before its texts (prompt tuning), where no place of "
            "a text is; edit the model without them: lk.Lab(model.get_base_model(), tokenizer)."
        )

    def put_on(taps: Taps) -> None:
        for site in sites:
            if isinstance(site, RouterSite):
                stack.enter_context(site.put_on())
            elif isinstance(site, ModelSite):
                stack.enter_context(site.change(model))
            else:
                row = BY_NAME[site.name]
                assert row.put is not None
                row.put(taps, site.layer, _visit(row, site.change, taps.now))

    with contextlib.ExitStack() as stack:
        stack.enter_context(running.uncompiled(model, decoding=True))  # nothing compiled notices hooks put on later
        stack.enter_context(tapping(model, anatomy, put_on))
        inner = running.language_model(model)
        _EDITED[inner] = _EDITED.get(inner, 0) + 1
        try:
            yield
        finally:
            _EDITED[inner] -= 1


_EDITED: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # how many blocks of edits are on


def is_edited(model: PreTrainedModel) -> bool:
    """Whether edits of a model are on, in whatever thread."""
    return _EDITED.get(running.language_model(model), 0) > 0


def _visit(row: Instrument, change: Change, now: Pass) -> Visit:
    """A change as a visit: told where the tokens are."""

    def visit(whole: torch.Tensor) -> torch.Tensor | None:
        if row.tokens == "cached":
            return change(whole, now.cached_axis(whole.shape[-2]))
        if row.tokens == "each":
            return change(whole, now.token_axis())
        return change(whole, now.logits_axis(whole.shape[1]) if row.tokens == "logits" else now.axis())

    return visit


# from edits to changes ------------------------------------------------------------------------------------------------


def _sites(anatomy: Anatomy, edit: Edit) -> list[Site | RouterSite | ModelSite]:
    """The sites of one edit, checked."""
    if isinstance(edit, ModelEdit):
        return [ModelSite(edit.value)]
    if isinstance(edit, RouterEdit):
        return [*_router_sites(anatomy, edit)]
    if not isinstance(edit, Edit):
        raise BadInput(f"lab.edit takes edits such as lk.ablate_head(5, 3) or lk.patch(...), and {edit!r} is none.")
    sites: list[Site | RouterSite | ModelSite] = []
    for text in edit.where:
        place = parse(
            text,
            len(anatomy.layers),
            [layer.heads for layer in anatomy.layers],
            [layer.kv_heads for layer in anatomy.layers],
        )
        given = edit.value[text] if isinstance(edit.value, Mapping) else edit.value
        value = given if callable(given) else _as_tensor(given, text, "The value")
        row = BY_NAME[place.name]
        sites += [
            Site(place.name, layer, _change(place, value, row.shape_of(anatomy, layer)))
            for layer in _layers(anatomy, place)
        ]
    return sites


def _router_sites(anatomy: Anatomy, edit: RouterEdit) -> list[Site | RouterSite]:
    """The sites of an edit of routers, each checked by itself."""
    if reason := anatomy.support.get("routes"):
        raise Unavailable(f"{', '.join(edit.where)} can't be edited: {reason}.")
    routers = {i: layer.router for i, layer in enumerate(anatomy.layers) if layer.router is not None}
    sites: list[Site | RouterSite] = []
    for at, change in edit.value.items():
        for layer in routers if at is None else [_routed_layer(at, anatomy, list(routers))]:
            router = routers[layer]
            others = [i for i, other in routers.items() if i != layer and other.module is router.module]
            if others:
                raise Unavailable(
                    f"Layers {layer} and {others[0]} share a router, and a change of it would reach both; patch mlp_output of "
                    "the one layer instead."
                )
            sites.append(
                RouterSite(
                    router, checked_rerouting(router, change) if isinstance(change, Rerouting) else change(router)
                )
            )
    return sites


def _check_routers(sites: Sequence[Site | RouterSite | ModelSite]) -> None:
    """Check that what is asked of each router, with what is asked of it already, leaves it a choice."""
    asked: dict[Router, Rerouting] = {}
    for site in sites:
        if isinstance(site, RouterSite) and isinstance(site.change, CheckedRerouting):
            asked[site.router] = asked.get(site.router, asked_of(site.router)) + site.change.asked
    for router, whole in asked.items():
        check_choice(router, whole)


def _routed_layer(layer: int, anatomy: Anatomy, routed: list[int]) -> int:
    family, count = anatomy.family, len(anatomy.layers)
    if not -count <= layer < count:
        raise BadInput(f"There is no layer {layer}: this {family} has layers 0 to {count - 1}.")
    if layer % count not in routed:
        run = routed == list(range(routed[0], routed[-1] + 1))
        there = f"{routed[0]} to {routed[-1]}" if run and len(routed) > 1 else ", ".join(map(str, routed))
        raise BadInput(
            f"Layer {layer % count} of this {family} has no router; "
            f"{f'layers {there} have' if len(routed) > 1 else f'layer {there} has'} one."
        )
    return layer % count


def _layers(anatomy: Anatomy, place: Place) -> list[int]:
    """The layers a place is on. Raises Unavailable where the model does not have it."""
    row = BY_NAME[place.name]
    if reason := anatomy.support.get(place.name):
        raise Unavailable(f"{place} can't be edited: {reason}.")
    there = row.layers(anatomy)
    if row.per == "pass" or (place.layer is None and there):
        return there
    if place.layer is None or place.layer not in there:
        if place.layer is not None and (reason := anatomy.layers[place.layer].why.get(row.keep)):
            raise Unavailable(f"{place} can't be edited: {reason}.")
        known = f"these layers have it: {there}" if there else "no layer has it; edit residual instead"
        raise Unavailable(
            f"{place} can't be edited: layer {place.layer} of this {anatomy.family} has no {place.name}; {known}."
        )
    return [place.layer]


def _change(place: Place, value: Value, shape: tuple[int, ...] | None) -> Change:
    """What an edit does to the whole tensor of its place. shape: of what each token has, where that is no row of numbers."""
    if shape is not None:
        value = _flat(place, value, shape)

    def change(whole: torch.Tensor, axis: TokenAxis) -> torch.Tensor | None:
        if place.head is not None and place.head >= whole.shape[1]:
            raise BadInput(
                f"{place}: there is no head {place.head} in this layer; heads are 0 to {whole.shape[1] - 1}."
            )
        rows = _found(place, value, whole, axis)
        if not any(indices for _, _, indices in rows):
            return None
        # never in place: a module's output may be needed elsewhere, and falcon adds into its MLP's output
        new = whole.clone(memory_format=torch.contiguous_format)
        for row, (count, which, indices) in enumerate(rows):
            if not indices:
                continue
            target = new[row] if place.head is None else new[row, place.head]
            at = torch.tensor(indices, device=new.device)
            given = target.index_select(-2, at)
            result = _called(place, value, given) if callable(value) else _filled(place, value, given, count, which)
            target.index_copy_(-2, at, result)
        return new

    return change


def _flat(place: Place, value: Value, shape: tuple[int, ...]) -> Value:
    """A value for what is (tokens, *shape) as one for (tokens, d)."""
    if callable(value):
        function = value

        def flat(given: torch.Tensor) -> torch.Tensor:
            return _called(place, function, given.unflatten(-1, shape)).flatten(1)

        return flat
    if value.dim() <= len(shape):
        try:
            return value.expand(shape).flatten()
        except RuntimeError as error:
            raise BadInput(
                f"{place}: a value of shape {tuple(value.shape)} does not fit a state of shape {shape}; give one that "
                "broadcasts to it."
            ) from error
    try:
        return value.expand(-1, *shape).flatten(1)
    except RuntimeError as error:
        raise BadInput(
            f"{place}: a value of shape {tuple(value.shape)} does not fit (tokens, *state) = (tokens, "
            f"{', '.join(map(str, shape))}); give one that broadcasts to it."
        ) from error


def _found(place: Place, value: Value, whole: torch.Tensor, axis: TokenAxis) -> list[Found]:
    """For each text of the batch: tokens of the place, which of them are here, their indices."""
    batch, size = whole.shape[0], whole.shape[-2]
    if axis.rows is None:
        one_for_all = not callable(value) and (value.dim() <= 1 or value.shape[-2] == 1)
        if place.tokens is not None or not (one_for_all or (batch == 1 and callable(value))):
            raise Unavailable(
                f"{place} can't be edited here, since {axis.why}; edit all tokens with one value, or one text at a time "
                "without speed='fast'."
            )
        return [Found(size, list(range(size)), list(range(size)))] * batch
    if axis.whole:
        for part in place.tokens or ():
            if isinstance(part, int) and not any(-length <= part < length for _, length in axis.rows):
                longest = max(length for _, length in axis.rows)
                raise BadInput(
                    f"{place}: there is no token {part} in a text of {longest} tokens; they are 0 to {longest - 1}."
                )
    return [axis.find(place, row) for row in range(batch)]


def _filled(place: Place, value: torch.Tensor, given: torch.Tensor, count: int, which: list[int]) -> torch.Tensor:
    """The part of a value that belongs to these tokens. count: of the place's tokens; which: of them are here."""
    shape = (*given.shape[:-2], count, given.shape[-1])
    try:
        whole = value.to(given.device, given.dtype).expand(shape)
    except RuntimeError as error:
        names = "heads, tokens, width" if len(shape) == 3 else "tokens, width"
        raise BadInput(
            f"{place}: a value of shape {tuple(value.shape)} does not fit ({names}) = {shape}; give one that broadcasts to "
            "it, or name the tokens that it is for, as in '@ 0:5'."
        ) from error
    return whole.index_select(-2, torch.tensor(which, device=given.device))


def _called(place: Place, function: Callable[[torch.Tensor], object], given: torch.Tensor) -> torch.Tensor:
    before = given.isnan()  # a model's own NaN is not the function's doing
    shape = given.shape
    result = _as_tensor(function(given), str(place), "The function's result")
    if result.shape != shape:
        raise BadInput(
            f"{place}: the function was given the shape {tuple(shape)} and returned {tuple(result.shape)}; return the same shape."
        )
    result = result.to(given.device, given.dtype)
    if bool((result.isnan() & ~before).any()):
        raise BadInput(f"{place}: the function returned NaN; check it for a division by zero or a logarithm of one.")
    return result


def _as_tensor(value: object, where: str, what: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    try:
        return torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{what} for {where} is a {type(value).__name__} and no tensor, array or number.") from error
