"""Edits: what a model computes, changed at written places for the length of a `with`.

Everything is checked before anything is installed. Queries, keys, values and head outputs are changed at transformers'
attention interface, what routers decide as routers.py does, all else by module hooks. All are put on before a Trace's
own, so that a Trace sees what was changed. Which token of the text lies where in a forward pass is read from what the
model is called with, so that places hold with padding and with a KV cache, when a pass sees the newest token only.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.hooks import RemovableHandle

from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.anatomy import Anatomy, Layer, first_tensor, layer_input
from labkit.trace.interface import Call, tapped
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

PADDED_DIMENSIONS = 2  # of an attention mask that says which tokens are padding: (batch, tokens)


# what a user writes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Edit:
    """A change to the model, for `lab.edit`. where: places, as text. value: what is put there, or a function of it.

    check: called with the lab before anything is changed; raises for a model that the change is not for.
    """

    where: tuple[str, ...]
    value: Any
    check: Callable[[Any], None] | None = None


@dataclass(frozen=True, eq=False)
class RouterEdit(Edit):
    """A change to routers, for `lab.edit`; labkit.moe.edits makes them. where: the routers, as text.

    value: by layer, or None for all layers with a router, what is asked of the choice; or a function of the router that
        gives it other weights, (E, d).
    """

    value: Mapping[int | None, Rerouting | Callable[[Router], torch.Tensor]]


def patch(where: str, value: Any) -> Edit:
    """Put a value at a place of the model, or pass what is there through a function.

    where: such as "residual[5] @ 3", "attention_output[5] @ 2:7", "mlp_output[*]", "head_output[5, 3] @ 1,4,-1",
        "queries[5, 3]", "keys[5, 0]", "values[5, 0]", "logits"; named and shaped as in a Trace. Negative tokens count
        from the end of what the model has been given so far: while generating, -1 is each newest token.
    value: a number, tensor or array that broadcasts to the shape below; or a function that is given the tensor (a copy)
        and returns one of the same shape, called once for each text and layer in a forward pass.
    Shapes, for one text: residual, attention_output, mlp_output (tokens, d_model); logits (tokens, vocabulary); with a
        head (tokens, d_head); queries, head_output without a head (heads, tokens, d_head), keys and values (kv_heads,
        tokens, d_head). A value has all tokens of the place. A function is given those of them that the pass computes:
        with a KV cache first the prompt's, then one by one; keys and values come with all tokens up to now.
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


def ablate_head(layer: int, head: int, *, value: Any = 0.0) -> Edit:
    """Switch one attention head off: its output before the output projection becomes zero.

    value: what it becomes instead, for instance its mean, `trace.head_output(5, 3).mean(0)`.
    """
    return ablate_heads([(layer, head)], value=value)


def ablate_heads(heads: Sequence[tuple[int, int]], *, value: Any = 0.0) -> Edit:
    """Switch several heads off, given as (layer, head)."""
    pairs = [tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in heads]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(i, int) and not isinstance(i, bool) for i in pair):
            raise BadInput(f"A head is given as (layer, head), two whole numbers, and {pair!r} is none.")
    if not pairs:
        raise BadInput("There is no head to ablate; give at least one (layer, head).")
    places = tuple(f"head_output[{layer}, {head}]" for layer, head in pairs)
    return Edit(places, patch(places[0], value).value)


@contextlib.contextmanager
def edited(model: Any, anatomy: Anatomy, edits: Sequence[Edit]) -> Iterator[None]:
    """While inside, the edits hold for every forward pass of the model, in their order; afterwards nothing is left.

    Raises BadInput and Unavailable before anything is installed; the caller sees to it that no run is under way.
    """
    sites = [site for edit in edits for site in _sites(model, anatomy, edit)]
    _check_routers(sites)
    with installed(model, anatomy, sites):
        yield


# what is installed ----------------------------------------------------------------------------------------------------


Change = Callable[[torch.Tensor, "TokenAxis"], torch.Tensor | None]


class Site(NamedTuple):
    """Where a change is made: a place's name and layer; the logits' layer is 0.

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


@contextlib.contextmanager
def installed(model: Any, anatomy: Anatomy, sites: Sequence[Site | RouterSite]) -> Iterator[None]:
    """Make changes at sites for the length of a `with`."""
    if not sites:
        yield
        return
    if count := running.virtual_tokens(model):
        raise Unavailable(
            f"This model can't be edited: {count} trained vectors stand before its texts (prompt tuning), where no place of "
            "a text is; edit the model without them: lk.Lab(model.get_base_model(), tokenizer)."
        )
    now = _Now(model)
    at_interface: list[Site] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(running.uncompiled(model, decoding=True))  # nothing compiled notices hooks put on later
        for entrance in now.entrances:
            stack.callback(entrance.register_forward_pre_hook(now.begin, with_kwargs=True).remove)
        for site in sites:
            if isinstance(site, RouterSite):
                stack.enter_context(site.put_on())
                continue
            site = site._replace(change=_unless_trying(site.change))
            if anatomy.on_interface and site.name in ("queries", "keys", "values", "head_output"):
                at_interface.append(site)
            elif site.name == "logits":
                for handle in _on_logits(site, now):
                    stack.callback(handle.remove)
            else:
                stack.callback(_hook(model, anatomy, site, now).remove)
        for entrance in now.entrances:  # after the logits' own hook
            stack.callback(entrance.register_forward_hook(now.end, always_call=True).remove)
        if at_interface:
            stack.enter_context(tapped(model, _AtInterface(anatomy, at_interface, now)))
        yield


def _unless_trying(change: Change) -> Change:
    """A change that leaves passes alone by which a model is only tried: they are none of the user's texts."""
    return lambda whole, view: None if running.trying() else change(whole, view)


def _hook(model: Any, anatomy: Anatomy, site: Site, now: _Now) -> Any:
    """Register the module hook of a site; returns its handle."""
    if site.name == "residual" and site.layer < len(anatomy.layers):

        def on_input(_module: Any, args: Any, keywords: Any) -> Any:
            new = site.change(now.split(layer_input(args, keywords)), now.view())
            if new is None:
                return None
            return ((new, *args[1:]), keywords) if args else (args, {**keywords, "hidden_states": new})

        return anatomy.layers[site.layer].module.register_forward_pre_hook(on_input, with_kwargs=True)
    if site.name == "residual":
        return anatomy.layers[-1].module.register_forward_hook(
            lambda _m, _a, output: _edited_output(site, output, now, 1.0)
        )
    layer = anatomy.layers[site.layer]
    if site.name == "head_output":
        assert layer.output_projection is not None
        heads = int(model.config.get_text_config().num_attention_heads)

        def on_heads(_module: Any, args: Any) -> Any:
            flat = args[0]
            split = now.split(flat).unflatten(-1, (heads, -1)).transpose(1, 2)
            new = site.change(split, now.view())
            return None if new is None else (new.transpose(1, 2).reshape(flat.shape), *args[1:])

        return layer.output_projection.register_forward_pre_hook(on_heads)
    part = layer.attention if site.name == "attention_output" else layer.mlp
    assert part is not None
    return part.register_forward_hook(lambda _m, _a, output: _edited_output(site, output, now, anatomy.multiplier))


def _on_logits(site: Site, now: _Now) -> list[RemovableHandle]:
    """Hooks where logits come out: of the model, and of the one a wrapper such as peft's has generate by itself."""

    def hook(module: Any, _args: Any, output: Any) -> Any:
        return _edited_logits(site, output, now) if module is now.entered else None

    return [module.register_forward_hook(hook) for module in now.whole_models]


def _edited_output(site: Site, output: Any, now: _Now, factor: float) -> Any:
    """A module's output after a change, or None for none. factor: what the model multiplies it with before adding."""
    tensor = first_tensor(output)
    assert tensor is not None
    whole = now.split(tensor)
    shown = whole if factor == 1.0 else whole * factor
    new = site.change(shown, now.view())
    if new is None:
        return None
    if factor != 1.0:  # what was left alone stays as it was, to the bit
        new = torch.where(new == shown, whole, new / factor)
    return _with_first(output, new.reshape(tensor.shape))


def _edited_logits(site: Site, output: Any, now: _Now) -> Any:
    # the model's own output, after softcaps and scalings, since that is what a Trace calls logits
    logits = output.logits if hasattr(output, "logits") else first_tensor(output)
    assert logits is not None
    new = site.change(logits, now.logits_view(logits.shape[1]))
    if new is None:
        return None
    if not hasattr(output, "logits"):
        return _with_first(output, new)
    output.logits = new
    return output


def _with_first(output: Any, new: torch.Tensor) -> Any:
    if isinstance(output, torch.Tensor):
        return new
    return [new, *output[1:]] if isinstance(output, list) else (new, *output[1:])


class _AtInterface:
    """Makes changes at the attention interface."""

    def __init__(self, anatomy: Anatomy, sites: Sequence[Site], now: _Now) -> None:
        self.now = now
        self.by_module: dict[int, list[Site]] = {}
        for site in sites:
            self.by_module.setdefault(id(anatomy.layers[site.layer].attention_module), []).append(site)

    def before(self, call: Call) -> None:
        for site in self.by_module.get(id(call.module), ()):
            if site.name == "queries":
                new = site.change(call.query, self.now.view())
                call.query = call.query if new is None else new
            elif site.name == "keys":
                new = site.change(call.key, self.now.cached_view(call.key.shape[2]))
                call.key = call.key if new is None else new
            elif site.name == "values":
                new = site.change(call.value, self.now.cached_view(call.value.shape[2]))
                call.value = call.value if new is None else new

    def after(self, call: Call, output: torch.Tensor) -> torch.Tensor:
        for site in self.by_module.get(id(call.module), ()):
            if site.name == "head_output":
                new = site.change(output.transpose(1, 2), self.now.view())
                output = output if new is None else new.transpose(1, 2).contiguous()
        return output


# where the tokens are -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenAxis:
    """Where the texts' tokens are along the token axis of a tensor.

    columns: the column of the padded batch, counted from the beginning of the cache, that each entry of the axis holds.
    rows: (column of the first token, tokens so far) of each text; None where it can't be known, and `why` says why.
    whole: this pass is all there will be of the texts, so a token beyond them does not exist.
    """

    columns: Sequence[int]
    rows: Sequence[tuple[int, int]] | None
    why: str = ""
    whole: bool = False

    def find(self, place: Place, row: int) -> tuple[int, list[int], list[int]]:
        """(tokens the place has, which of them are here, their indices on the axis) in one text."""
        assert self.rows is not None
        start, length = self.rows[row]
        wanted = place.positions(length)
        if place.tokens is None and isinstance(self.columns, range):  # the usual case, without a search
            first = max(start, self.columns.start)
            here = range(first, max(first, min(start + length, self.columns.stop)))
            return length, [c - start for c in here], [c - self.columns.start for c in here]
        found = [
            (k, self.columns.index(start + p)) for k, p in enumerate(wanted) if start + p in self.columns and p < length
        ]
        return len(wanted), [k for k, _ in found], [index for _, index in found]


class _Now:
    """The forward pass under way: its shape, and where its tokens are in their texts."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.family = str(model.config.get_text_config().model_type)
        # a pass begins at the model itself, at the one below a wrapper, or at a part of it that a user calls directly
        inner: Any = running.language_model(model)
        base = getattr(inner, "base_model", inner)
        decoders = [part for name, part in base.named_children() if name == "decoder"]
        self.whole_models = list(dict.fromkeys([model, inner]))
        self.entrances = list(dict.fromkeys([model, inner, base, *decoders]))
        self.names = {module: inspect.signature(module.forward) for module in self.entrances}
        self.entered: Any = None
        self.batch = self.tokens = 0
        self.past: int | None = 0
        self.rows: list[tuple[int, int]] | None = None
        self.why = ""
        self.whole = False
        self.kept: Any = 0

    def begin(self, module: Any, args: Any, keywords: Any) -> None:
        """Before a pass: read where its tokens are."""
        if self.entered is not None and module is not self.model:
            return
        self.entered = None  # until all is read
        given = self.names[module].bind_partial(*args).arguments | keywords
        inputs = given.get("inputs_embeds") if given.get("input_ids") is None else given["input_ids"]
        self.batch, self.tokens = inputs.shape[:2]
        mask = given.get("attention_mask")
        self.past = _past(given, mask, self.tokens)
        self.whole = given.get("use_cache") is False and self.past == 0
        self.kept = given.get("logits_to_keep", 0)
        self.rows, self.why = self._rows(mask, given.get("position_ids"))
        self.entered = module

    def end(self, module: Any, _args: Any, _output: Any) -> None:
        if module is self.entered:
            self.entered = None

    def split(self, tensor: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, d), also of a module that sees its tokens as one long list, as opt's MLP does."""
        if self.entered is None:
            raise Unavailable("Edits hold for passes through the model; call lab.model(...) and not a layer of it.")
        return tensor.reshape(self.batch, self.tokens, -1)

    def _rows(self, mask: Any, positions: Any) -> tuple[list[tuple[int, int]] | None, str]:
        if self.past is None:
            return None, f"{self.family} does not say how many tokens it has read before"
        width = self.past + self.tokens
        if mask is None:
            return [(0, width)] * self.batch, ""
        if isinstance(mask, torch.Tensor) and mask.dim() == PADDED_DIMENSIONS and mask.shape[1] >= width:
            real = mask[:, :width] != 0
            lengths = real.sum(1)
            first = real.int().argmax(1)
            last = width - 1 - real.flip(1).int().argmax(1)
            if bool(((last - first + 1 != lengths) & (lengths > 0)).any()):
                return None, "the attention mask leaves out tokens within a text"
            return list(zip(first.tolist(), lengths.tolist(), strict=True)), ""
        ready_made = not isinstance(mask, torch.Tensor) or mask.dim() > PADDED_DIMENSIONS
        if ready_made and positions is not None and positions.dim() == PADDED_DIMENSIONS:
            # generate hands a static cache a mask ready for use; its positions tell the padding, which is on the left
            counts = (positions[:, -1] + 1).tolist()
            counts = counts * self.batch if len(counts) == 1 else counts
            return [(width - n, n) for n in counts], ""
        return None, "the attention mask does not tell which tokens are padding"

    def view(self) -> TokenAxis:
        """Of a tensor with the tokens of this pass."""
        past = self.past or 0
        return TokenAxis(range(past, past + self.tokens), self.rows, self.why, self.whole)

    def cached_view(self, count: int) -> TokenAxis:
        """Of keys or values: all tokens up to now, then room of a static cache; or the latest, in a window."""
        width = (self.past or 0) + self.tokens
        first = 0 if count >= width else width - count
        return TokenAxis(range(first, first + count), self.rows, self.why, self.whole)

    def logits_view(self, count: int) -> TokenAxis:
        """Of logits, which may be computed for some tokens only."""
        past = self.past or 0
        if isinstance(self.kept, torch.Tensor):
            return TokenAxis([past + int(i) % self.tokens for i in self.kept], self.rows, self.why, self.whole)
        width = past + self.tokens
        return TokenAxis(range(width - count, width), self.rows, self.why, self.whole)


def _past(given: dict[str, Any], mask: Any, tokens: int) -> int | None:
    """How many tokens the model has read before this pass; None where that can't be known."""
    cache = given.get("past_key_values")
    if cache is not None and hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    if isinstance(mask, torch.Tensor) and mask.dim() == PADDED_DIMENSIONS and mask.shape[1] >= tokens:
        return mask.shape[1] - tokens
    states = [given[name] for name in ("cache_params", "state") if given.get(name) is not None]
    if any(not hasattr(state, "has_previous_state") or state.has_previous_state() for state in states):
        return None  # a recurrent state keeps no count
    return 0


# from edits to changes ------------------------------------------------------------------------------------------------


def _sites(model: Any, anatomy: Anatomy, edit: Edit) -> list[Site | RouterSite]:
    """The sites of one edit, checked."""
    if isinstance(edit, RouterEdit):
        return _router_sites(model, anatomy, edit)
    if not isinstance(edit, Edit):
        raise BadInput(f"lab.edit takes edits such as lk.ablate_head(5, 3) or lk.patch(...), and {edit!r} is none.")
    config = model.config.get_text_config()
    heads = _whole_number(config, "num_attention_heads")
    kv_heads = _whole_number(config, "num_key_value_heads") or heads
    sites: list[Site | RouterSite] = []
    for text in edit.where:
        place = parse(text, len(anatomy.layers), heads, kv_heads)
        change = _change(place, edit.value)
        sites += [Site(place.name, layer, change) for layer in _layers(anatomy, place, str(config.model_type))]
    return sites


def _router_sites(model: Any, anatomy: Anatomy, edit: RouterEdit) -> list[Site | RouterSite]:
    """The sites of an edit of routers, each checked by itself."""
    if reason := anatomy.support.get("routes"):
        raise Unavailable(f"{', '.join(edit.where)} can't be edited: {reason}.")
    routers = {i: layer.router for i, layer in enumerate(anatomy.layers) if layer.router is not None}
    sites: list[Site | RouterSite] = []
    for at, change in edit.value.items():
        for layer in routers if at is None else [_routed_layer(at, model, anatomy, list(routers))]:
            router = routers[layer]
            sites.append(
                RouterSite(
                    router, checked_rerouting(router, change) if isinstance(change, Rerouting) else change(router)
                )
            )
    return sites


def _check_routers(sites: Sequence[Site | RouterSite]) -> None:
    """Check that what is asked of each router, with what is asked of it already, leaves it a choice."""
    asked: dict[Router, Rerouting] = {}
    for site in sites:
        if isinstance(site, RouterSite) and isinstance(site.change, CheckedRerouting):
            asked[site.router] = asked.get(site.router, asked_of(site.router)) + site.change.asked
    for router, whole in asked.items():
        check_choice(router, whole)


def _routed_layer(layer: int, model: Any, anatomy: Anatomy, routed: list[int]) -> int:
    family, count = model.config.get_text_config().model_type, len(anatomy.layers)
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


def _layers(anatomy: Anatomy, place: Place, family: str) -> list[int]:
    """The layers a place is on. Raises Unavailable where the model does not have it."""
    if reason := anatomy.support.get(place.name):
        raise Unavailable(f"{place} can't be edited: {reason}.")
    if place.name == "logits":
        return [0]
    if place.name == "residual":
        return list(range(len(anatomy.layers) + 1)) if place.layer is None else [place.layer]
    there = [i for i, layer in enumerate(anatomy.layers) if _has(anatomy, layer, place.name)]
    if place.layer is None and there:
        return there
    if place.layer not in there:
        known = f"these layers have it: {there}" if there else "no layer has it; edit residual instead"
        raise Unavailable(
            f"{place} can't be edited: layer {place.layer} of this {family} has no {place.name}; {known}."
        )
    return [place.layer]


def _has(anatomy: Anatomy, layer: Layer, name: str) -> bool:
    if name == "attention_output":
        return layer.attention is not None
    if name == "mlp_output":
        return layer.mlp is not None
    return (layer.attention_module if anatomy.on_interface else layer.output_projection) is not None


def _whole_number(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _change(place: Place, value: Any) -> Change:
    """What an edit does to the whole tensor of its place."""

    def change(whole: torch.Tensor, view: TokenAxis) -> torch.Tensor | None:
        if place.head is not None and place.head >= whole.shape[1]:
            raise BadInput(
                f"{place}: there is no head {place.head} in this layer; heads are 0 to {whole.shape[1] - 1}."
            )
        rows = _found(place, value, whole, view)
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


def _found(place: Place, value: Any, whole: torch.Tensor, view: TokenAxis) -> list[tuple[int, list[int], list[int]]]:
    """For each text of the batch: tokens of the place, which of them are here, their indices."""
    batch, size = whole.shape[0], whole.shape[-2]
    if view.rows is None:
        one_for_all = not callable(value) and (value.dim() <= 1 or value.shape[-2] == 1)
        if place.tokens is not None or not (one_for_all or (batch == 1 and callable(value))):
            raise Unavailable(
                f"{place} can't be edited here, since {view.why}; edit all tokens with one value, or one text at a time "
                "without speed='fast'."
            )
        return [(size, list(range(size)), list(range(size)))] * batch
    if view.whole:
        for part in place.tokens or ():
            if isinstance(part, int) and not any(-length <= part < length for _, length in view.rows):
                longest = max(length for _, length in view.rows)
                raise BadInput(
                    f"{place}: there is no token {part} in a text of {longest} tokens; they are 0 to {longest - 1}."
                )
    return [view.find(place, row) for row in range(batch)]


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


def _called(place: Place, function: Callable[[torch.Tensor], Any], given: torch.Tensor) -> torch.Tensor:
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


def _as_tensor(value: Any, where: str, what: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    try:
        return torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{what} for {where} is a {type(value).__name__} and no tensor, array or number.") from error
