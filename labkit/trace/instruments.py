"""The table of instruments: all that labkit sees and changes in a model, one row each.

A row says what the instrument is, its shape, of which layers it is, when it can't be had, how it is seen, how it is changed
and how it is saved. `keep`, the grammar of places, `support()`, saving and opening, `patching(at=)`, gradients, the lists in
docstrings and docs/instruments.md follow from the rows; to add an instrument, add a row here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.trace.patterns import SEEN, LayerAttention, own

if TYPE_CHECKING:
    from labkit.trace.anatomy import Anatomy
    from labkit.trace.interface import Call
    from labkit.trace.record import Trace
    from labkit.trace.taps import Taps, Visit

PATTERN_DIMENSIONS = 4  # (batch, heads, T, T)

Facts = dict[str, Any]  # as JSON has them
Tensors = dict[str, torch.Tensor]
Fields = dict[str, Any]  # of a Trace


@dataclass
class Captured:
    """What one forward call left, batch dimension first, as the model had it. Filled by `observing`.

    layered: by instrument and layer, (batch, T, d) or (batch, heads, T, d_head).  live: the same tensors within the graph
    of autograd, to be differentiated by.
    """

    attention: dict[int, Call] = field(default_factory=dict)
    patterns: dict[int, torch.Tensor] = field(default_factory=dict)
    layered: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    routes: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    live: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)


# how an instrument is saved -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """What of a Trace an instrument is, on disk. save: (tensors by name, JSON facts).  open: back, as the Trace's fields."""

    save: Callable[[str, Trace], tuple[Tensors, Facts]]
    open: Callable[[str, Tensors, Facts], Fields]


def _save_layered(name: str, trace: Trace) -> tuple[Tensors, Facts]:
    return {f"{name}.{layer}": value for layer, value in trace._layered.get(name, {}).items()}, {}


def _open_layered(name: str, tensors: Tensors, _facts: Facts) -> Fields:
    found = {int(key.partition(".")[2]): value for key, value in tensors.items() if key.partition(".")[0] == name}
    return {"_layered": {name: found}} if found else {}


def _save_logits(name: str, trace: Trace) -> tuple[Tensors, Facts]:
    return ({} if trace._logits is None else {name: trace._logits}), {}


def _open_logits(name: str, tensors: Tensors, _facts: Facts) -> Fields:
    return {"_logits": tensors.get(name)}


def _save_attention(name: str, trace: Trace) -> tuple[Tensors, Facts]:
    tensors: Tensors = {}
    layers: dict[str, dict[str, object]] = {}
    shared: dict[int, str] = {}
    for layer, a in trace._attention.items():
        entry: dict[str, object] = {"scaling": a.scaling, "softcap": a.softcap}
        for part in ("query", "key", "mask", "sink", "pattern"):
            value = getattr(a, part)
            if value is None:
                continue
            stored = shared.get(id(value)) or f"{name}.{layer}.{part}"  # layers of a kind share their mask
            shared[id(value)] = stored
            tensors[stored] = value
            entry[part] = stored
        layers[str(layer)] = entry
    return tensors, {name: layers}


def _parts(entry: Facts, tensors: Tensors) -> Facts:
    """Numbers as they are, and tensors in place of the names they were saved by."""
    return {name: tensors[value] if isinstance(value, str) else value for name, value in entry.items()}


def _open_attention(name: str, tensors: Tensors, facts: Facts) -> Fields:
    layers: dict[str, dict[str, Any]] = facts[name]
    return {"_attention": {int(layer): LayerAttention(**_parts(entry, tensors)) for layer, entry in layers.items()}}


def _save_routes(name: str, trace: Trace) -> tuple[Tensors, Facts]:
    if trace._routes is None:
        return {}, {"routed": None}
    tensors = {f"{name}.{n}": getattr(trace._routes, n) for n in ("experts", "weights", "logits")}
    return tensors, {"routed": trace._routes.layers}


def _open_routes(name: str, tensors: Tensors, facts: Facts) -> Fields:
    from labkit.trace.record import Routes

    routed = facts["routed"]
    if not isinstance(routed, list):
        return {"_routes": None}
    parts = {n: tensors[f"{name}.{n}"] for n in ("experts", "weights", "logits")}
    return {"_routes": Routes(**parts, layers=tuple(routed))}


LAYERED = Storage(_save_layered, _open_layered)


# when it can't be had -------------------------------------------------------------------------------------------------


def _no_attention(anatomy: Anatomy) -> str | None:
    if any(layer.attention_module is not None for layer in anatomy.layers):
        return None
    return (
        f"no layer of {anatomy.family} calls attention where labkit sees it (recurrent, or code of its own); look at "
        "`residual`"
    )


def _hidden(anatomy: Anatomy) -> str | None:
    """Why nothing of attention itself is seen."""
    family, implementation = anatomy.family, anatomy.implementation
    if reason := _no_attention(anatomy):
        return reason
    if not anatomy.on_interface and implementation != "eager":
        return (
            f"{family} computes attention by itself and gives wrong patterns under {implementation}; load it with "
            "attn_implementation='eager' (lk.load does so by itself)"
        )
    if anatomy.on_interface and implementation not in (*SEEN, None):
        return f"{implementation} does not say what its mask is; load it with attn_implementation='sdpa'"
    return None


def _before_the_text(anatomy: Anatomy) -> str | None:
    if not anatomy.virtual:
        return None
    return (
        f"{anatomy.virtual} trained vectors stand before a text (prompt tuning), and patterns over its own tokens would leave "
        "them out; use keep='logits' or 'residual', or the model without them: lk.Lab(model.get_base_model(), tokenizer)"
    )


def _no_patterns(anatomy: Anatomy) -> str | None:
    if reason := _hidden(anatomy) or _before_the_text(anatomy):
        return reason
    return _everywhere(anatomy, "attention")


def _everywhere(anatomy: Anatomy, name: str) -> str | None:
    """Why no layer that attends has an instrument; None where one has."""
    reasons = [layer.why.get(name) for layer in anatomy.layers if layer.attention_module is not None]
    return None if None in reasons else reasons[0]


def _no_operands(anatomy: Anatomy) -> str | None:
    if (reason := _hidden(anatomy) or _before_the_text(anatomy)) is None and not anatomy.on_interface:
        return f"{anatomy.family} computes attention by itself, so only its patterns can be seen; use trace.attention"
    return reason


def _no_queries(anatomy: Anatomy) -> str | None:
    return _no_operands(anatomy) or _no_patterns(anatomy)


def _no_values(anatomy: Anatomy) -> str | None:
    return _no_operands(anatomy) or _everywhere(anatomy, "values")


def _no_heads(anatomy: Anatomy) -> str | None:
    if reason := _hidden(anatomy):
        return reason
    if not anatomy.on_interface and not any(layer.output_projection is not None for layer in anatomy.layers):
        return f"labkit finds no output projection in {anatomy.family}'s attention; look at `attention_output` instead"
    return _everywhere(anatomy, "head_output")


def _no_sum(anatomy: Anatomy) -> str | None:
    elsewhere = "`head_output`" if anatomy.streams else "`residual`"
    if not anatomy.sound:
        return "the model computes NaN, so its parts can't be found; look at `residual`, load it in float32 or mend the weights"
    if anatomy.sums_up:
        return None
    return (
        f"the parts of a {anatomy.family} layer don't add up to what it changes (it normalizes after adding, or mixes "
        f"otherwise); look at {elsewhere} instead"
    )


def _no_attention_output(anatomy: Anatomy) -> str | None:
    if reason := _no_attention(anatomy) or _no_sum(anatomy):
        return reason
    if any(layer.attention is not None for layer in anatomy.layers):
        return None
    return (
        f"no attention of {anatomy.family} adds to the residual stream by itself; look at `head_output` or `residual`"
    )


def _no_mlp(anatomy: Anatomy) -> str | None:
    if reason := _no_sum(anatomy):
        return reason
    if any(layer.mlp is not None for layer in anatomy.layers):
        return None
    return f"a {anatomy.family} layer has no MLP of its own; look at `residual` instead"


def _no_neurons(anatomy: Anatomy) -> str | None:
    if reason := _no_mlp(anatomy):
        return reason
    if any(layer.down_projection is not None for layer in anatomy.layers):
        return None
    return next(layer.why["mlp_neurons"] for layer in anatomy.layers if layer.mlp is not None)


def _no_embedding(anatomy: Anatomy) -> str | None:
    if anatomy.embedding is not None:
        return None
    return f"the input embedding of {anatomy.family} is not asked once for each token; look at `residual`"


def _no_routes(anatomy: Anatomy) -> str | None:
    if any(layer.router is not None for layer in anatomy.layers):
        return None
    kinds = {type(part).__name__ for layer in anatomy.layers for part in layer.module.modules()}
    if routers := sorted(kind for kind in kinds if "router" in kind.lower()):
        return f"labkit can't tell what {routers[0]} of {anatomy.family} chooses for each token; look at `mlp_output` instead"
    return (
        'a dense model has no router, and labkit recognizes none here; load a mixture of experts: lk.load("labkit-moe")'
    )


def _no_state(anatomy: Anatomy) -> str | None:
    if anatomy.virtual:
        return (
            "trained vectors stand before a text (prompt tuning), which states of its own tokens leave out; use the model "
            "without them"
        )
    if any(layer.recurrence is not None for layer in anatomy.layers):
        return None
    if reasons := [layer.why["state"] for layer in anatomy.layers if "state" in layer.why]:
        return reasons[0]
    if all(layer.attention_module is not None for layer in anatomy.layers):
        return f"every layer of {anatomy.family} is attention, which keeps keys and values and no state; look at `keys`"
    return (
        f"no layer of {anatomy.family} calls a recurrence that labkit knows (it has none, or computes it by code of its own); "
        "look at `residual`"
    )


# how it is seen and changed -------------------------------------------------------------------------------------------


def _put_residual(taps: Taps, layer: int, visit: Visit) -> None:
    taps.entering(layer, visit)


def _put_attention_output(taps: Taps, layer: int, visit: Visit) -> None:
    if (part := taps.anatomy.layers[layer].attention) is not None:
        taps.leaving(layer, part, visit, taps.anatomy.multiplier)


def _put_mlp_output(taps: Taps, layer: int, visit: Visit) -> None:
    if (part := taps.anatomy.layers[layer].mlp) is not None:
        taps.leaving(layer, part, visit, taps.anatomy.multiplier)


def _put_neurons(taps: Taps, layer: int, visit: Visit) -> None:
    if (part := taps.anatomy.layers[layer].down_projection) is not None:
        taps.given(layer, part, visit)


def _put_heads(taps: Taps, layer: int, visit: Visit) -> None:
    if taps.anatomy.on_interface:
        taps.at_attention(layer, "output", visit)
        return
    here = taps.anatomy.layers[layer]
    assert here.output_projection is not None
    assert here.heads is not None
    taps.given(layer, here.output_projection, visit, here.heads)


def _put_queries(taps: Taps, layer: int, visit: Visit) -> None:
    taps.at_attention(layer, "query", visit)


def _put_keys(taps: Taps, layer: int, visit: Visit) -> None:
    taps.at_attention(layer, "key", visit)


def _put_values(taps: Taps, layer: int, visit: Visit) -> None:
    taps.at_attention(layer, "value", visit)


def _put_states(taps: Taps, layer: int, visit: Visit) -> None:
    taps.states(layer, visit)


def _see_states(taps: Taps, layer: int, into: Captured) -> None:
    whole: list[torch.Tensor] = []  # (batch, T, d) of the pass under way

    def visit(state: torch.Tensor) -> None:
        token, tokens = taps.now.token
        if token == 0:
            whole[:] = [state.new_empty(len(state), tokens, state.shape[-1])]
            into.layered.setdefault("state", {})[layer] = whole[0]
        whole[0][:, token] = state.detach()[:, 0]

    taps.states(layer, visit)


def _state_shape(anatomy: Anatomy, layer: int) -> tuple[int, ...] | None:
    recurrence = anatomy.layers[layer].recurrence
    return None if recurrence is None else recurrence.shape


def _put_embedding(taps: Taps, _layer: int, visit: Visit) -> None:
    assert taps.anatomy.embedding is not None
    taps.leaving(None, taps.anatomy.embedding, visit)


def _put_logits(taps: Taps, _layer: int, visit: Visit) -> None:
    taps.logits(visit)


def _see_attention(taps: Taps, layer: int, into: Captured) -> None:
    def operands(call: Call) -> None:
        into.attention[layer] = replace(call, query=own(call.query), key=own(call.key), value=call.value.new_empty(0))

    def patterns(output: object) -> None:
        items = output if isinstance(output, tuple | list) else ()
        found = [t for t in items if isinstance(t, torch.Tensor) and t.dim() == PATTERN_DIMENSIONS]
        if found:
            into.patterns[layer] = found[-1].detach().clone()

    if taps.anatomy.on_interface:
        taps.calls(layer, operands)
    elif (module := taps.anatomy.layers[layer].attention_module) is not None:
        taps.outputs(layer, module, patterns)


def _see_routes(taps: Taps, layer: int, into: Captured) -> None:
    def decide(logits: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor) -> None:
        into.routes[layer] = (logits.detach().clone(), weights.detach().clone(), experts.detach().clone())

    if (router := taps.anatomy.layers[layer].router) is not None:
        taps.decisions(router, layer, decide)


def _see_nothing(_taps: Taps, _layer: int, _into: Captured) -> None:
    """The logits are what the pass itself returns."""


# the table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instrument:
    """One row.

    name: as in `keep`, in places and on the Trace.  shape: for one text.  what: in a sentence's end.
    per: "layer"; "boundary", which are one more, what leaves the last layer included; "pass": once.
    why_not: the reason why a model does not have it, or None.  layers: whether a layer has it.
    put: puts a visit on it, by which it is seen and changed; None where it can only be seen, and `no_edit` says why.
    see: how it is captured, where that is otherwise than by a visit.
    heads: what its heads are called, None where it has none.  kept_by: the name in `keep` that brings it, where another.
    tokens: which tokens its token axis holds: those of the pass, all up to now, those whose logits are asked for, or one after
        the other, since each follows from the one before.
    token_shape: of what each token has, by layer, where that is no row of numbers; it passes as one all the same.
    patched_as: its name in lk.patching(at=).  storage: how it is saved; None where it is saved with another.
    shared: whether the tensor may be written to or needed elsewhere, so that what is seen must be a copy.
    """

    name: str
    shape: str
    what: str
    why_not: Callable[[Anatomy], str | None]
    there: Callable[[Anatomy, int], bool]
    per: Literal["layer", "boundary", "pass"] = "layer"
    put: Callable[[Taps, int, Visit], None] | None = None
    no_edit: str = ""
    see: Callable[[Taps, int, Captured], None] | None = None
    heads: Literal["head", "key-value head"] | None = None
    kept_by: str | None = None
    tokens: Literal["pass", "cached", "logits", "each"] = "pass"
    patched_as: str | None = None
    storage: Storage | None = LAYERED
    shared: bool = True
    token_shape: Callable[[Anatomy, int], tuple[int, ...] | None] | None = None

    def shape_of(self, anatomy: Anatomy, layer: int) -> tuple[int, ...] | None:
        """What each token has in a layer, where that is no row of numbers."""
        return None if self.token_shape is None else self.token_shape(anatomy, layer)

    def layers(self, anatomy: Anatomy) -> list[int]:
        """The layers that have it; 0 for what there is once in a pass."""
        count = 1 if self.per == "pass" else len(anatomy.layers) + (self.per == "boundary")
        return [layer for layer in range(count) if self.there(anatomy, layer)]

    def capture(self, taps: Taps, into: Captured) -> None:
        """Put on what is needed to see it in each layer."""
        for layer in self.layers(taps.anatomy):
            if self.see is not None:
                self.see(taps, layer, into)
            elif self.put is not None:
                self.put(taps, layer, self._keeping(layer, into))

    def differentiate(self, taps: Taps, into: Captured) -> None:
        """Put on what is needed to take derivatives by it in each layer."""
        for layer in self.layers(taps.anatomy):
            assert self.put is not None
            self.put(
                taps, layer, self._adding(taps, layer, into) if self.tokens == "each" else self._tracking(layer, into)
            )

    def _keeping(self, layer: int, into: Captured) -> Visit:
        def visit(tensor: torch.Tensor) -> None:
            kept = tensor.detach().clone(memory_format=torch.contiguous_format) if self.shared else own(tensor)
            into.layered.setdefault(self.name, {})[layer] = kept

        return visit

    def _tracking(self, layer: int, into: Captured) -> Visit:
        def visit(tensor: torch.Tensor) -> torch.Tensor:
            # a copy, so that it stands for what goes on from here and nothing else; frozen weights make no graph, and then
            # it begins here
            live = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
            into.live.setdefault(self.name, {})[layer] = live
            return live.clone()  # the model may write into what it is given

        return visit

    def _adding(self, taps: Taps, layer: int, into: Captured) -> Visit:
        """Of what comes token by token: the derivative by what is added to it, which is nothing."""

        def visit(tensor: torch.Tensor) -> torch.Tensor:
            token, tokens = taps.now.token
            live = into.live.setdefault(self.name, {})
            if token == 0:
                live[layer] = torch.zeros(len(tensor), tokens, tensor.shape[-1]).to(tensor).requires_grad_()
            return tensor + live[layer][:, token : token + 1]

        return visit

    @property
    def keep(self) -> str:
        """The name in `keep` that brings it."""
        return self.kept_by or self.name


def _always(_anatomy: Anatomy, _layer: int) -> bool:
    return True


def _attends(anatomy: Anatomy, layer: int) -> bool:
    return anatomy.layers[layer].attention_module is not None


def _attends_plainly(anatomy: Anatomy, layer: int) -> bool:
    return _attends(anatomy, layer) and "attention" not in anatomy.layers[layer].why


def _has_heads(anatomy: Anatomy, layer: int) -> bool:
    here = anatomy.layers[layer]
    if "head_output" in here.why:
        return False
    return (here.attention_module if anatomy.on_interface else here.output_projection) is not None


def _no_streams(anatomy: Anatomy) -> str | None:
    return anatomy.streams


INSTRUMENTS = (
    Instrument(
        name="attention",
        shape="(heads, T, T)",
        what="attention probabilities, row = query, column = key; kept as queries and keys and computed when asked for",
        why_not=_no_patterns,
        there=_attends_plainly,
        no_edit=(
            "Attention patterns never exist as a whole in a fast implementation, so they can be seen and not set; patch "
            "head_output, or queries and keys."
        ),
        see=_see_attention,
        storage=Storage(_save_attention, _open_attention),
    ),
    Instrument(
        name="logits",
        shape="(T, vocabulary)",
        what="the scores for the token after each position, after softcaps and scalings",
        why_not=lambda anatomy: None,
        there=_always,
        per="pass",
        put=_put_logits,
        see=_see_nothing,
        tokens="logits",
        storage=Storage(_save_logits, _open_logits),
    ),
    Instrument(
        name="queries",
        shape="(heads, T, d_head)",
        what="queries after rotary embedding, before scaling",
        why_not=_no_queries,
        there=_attends_plainly,
        put=_put_queries,
        heads="head",
        kept_by="attention",
        storage=None,
    ),
    Instrument(
        name="keys",
        shape="(kv_heads, T, d_head)",
        what="keys after rotary embedding",
        why_not=_no_queries,
        there=_attends_plainly,
        put=_put_keys,
        heads="key-value head",
        kept_by="attention",
        tokens="cached",
        storage=None,
    ),
    Instrument(
        name="values",
        shape="(kv_heads, T, d_value)",
        what="values",
        why_not=_no_values,
        there=lambda anatomy, layer: _attends(anatomy, layer) and "values" not in anatomy.layers[layer].why,
        put=_put_values,
        heads="key-value head",
        tokens="cached",
        shared=False,
    ),
    Instrument(
        name="head_output",
        shape="(heads, T, d_value)",
        what="attention-weighted values, before the output projection",
        why_not=_no_heads,
        there=_has_heads,
        put=_put_heads,
        heads="head",
        patched_as="head",
    ),
    Instrument(
        name="attention_output",
        shape="(T, d_model)",
        what="what the attention of a layer adds to the residual stream",
        why_not=_no_attention_output,
        there=lambda anatomy, layer: anatomy.layers[layer].attention is not None,
        put=_put_attention_output,
        patched_as="attention",
    ),
    Instrument(
        name="mlp_output",
        shape="(T, d_model)",
        what="what the MLP, or mixture of experts, of a layer adds to the residual stream",
        why_not=_no_mlp,
        there=lambda anatomy, layer: anatomy.layers[layer].mlp is not None,
        put=_put_mlp_output,
        patched_as="mlp",
    ),
    Instrument(
        name="mlp_neurons",
        shape="(T, d_mlp)",
        what="the MLP's neurons after the activation, gates multiplied in: what its last projection is given",
        why_not=_no_neurons,
        there=lambda anatomy, layer: anatomy.layers[layer].down_projection is not None,
        put=_put_neurons,
        patched_as="mlp_neurons",
    ),
    Instrument(
        name="residual",
        shape="(T, d_model)",
        what="the residual stream entering a layer; of number `layers`: leaving the last, before the final norm",
        why_not=_no_streams,
        there=_always,
        per="boundary",
        put=_put_residual,
        patched_as="residual",
    ),
    Instrument(
        name="embedding",
        shape="(T, d_embedding)",
        what=(
            "the rows of the input embedding, as its module puts them out: before positions, factors, norms and projections "
            "that come before layer 0 (what enters that is residual 0)"
        ),
        why_not=_no_embedding,
        there=_always,
        per="pass",
        put=_put_embedding,
        patched_as="embedding",
    ),
    Instrument(
        name="state",
        shape="(T, *state)",
        what=(
            "the recurrent state of a layer after each token: (d_inner, d_state) of Mamba, (heads, d_head, d_state) of Mamba-2, "
            "(heads, d_key, d_value) of a gated delta rule, (d, 3) of RWKV v4 (sum of values, sum of weights, their exponent)"
        ),
        why_not=_no_state,
        there=lambda anatomy, layer: anatomy.layers[layer].recurrence is not None,
        put=_put_states,
        see=_see_states,
        tokens="each",
        token_shape=_state_shape,
        patched_as="state",
    ),
    Instrument(
        name="routes",
        shape="(T, routed layers, k)",
        what="the experts a mixture's routers choose, their weights, and the router logits (T, routed layers, experts)",
        why_not=_no_routes,
        there=lambda anatomy, layer: anatomy.layers[layer].router is not None,
        no_edit=(
            "Routes can't be patched as tensors; use lk.moe.forbid, force, drop or choose, or patch mlp_output, which is what "
            "the experts add."
        ),
        see=_see_routes,
        storage=Storage(_save_routes, _open_routes),
    ),
)  # fmt: skip

BY_NAME = {row.name: row for row in INSTRUMENTS}
KEEP = tuple(dict.fromkeys(row.keep for row in INSTRUMENTS))
PLACES = tuple(row.name for row in INSTRUMENTS if row.put is not None)
HEADED = tuple(row.name for row in INSTRUMENTS if row.heads is not None)
PATCHED = {row.patched_as: row.name for row in INSTRUMENTS if row.patched_as is not None}


def named(name: str) -> Instrument:
    """The row of an instrument. Raises BadInput with a near match."""
    if (row := BY_NAME.get(name)) is not None:
        return row
    raise BadInput(f"There is no instrument {name!r}{checks.near(name, BY_NAME)}; there are {', '.join(BY_NAME)}.")


def support(anatomy: Anatomy) -> dict[str, str | None]:
    """Each instrument with None, or the reason why this model does not have it and the remedy."""
    return {row.name: row.why_not(anatomy) for row in INSTRUMENTS}


def state_bytes(anatomy: Anatomy, tokens: int) -> int:
    """What the states of so many tokens take in float32, of all layers that have one."""
    return 4 * tokens * sum(layer.recurrence.size for layer in anatomy.layers if layer.recurrence is not None)


def differentiable(keep: Sequence[str]) -> list[Instrument]:
    """The instruments that `keep` brings and a derivative can be taken by."""
    return [row for row in INSTRUMENTS if row.keep in keep and row.put is not None]


# what is said of it ---------------------------------------------------------------------------------------------------


def described(names: Sequence[str]) -> str:
    """Instruments and their shapes, as a docstring lists them."""
    return ", ".join(f"{name} {BY_NAME[name].shape}" for name in names)


def filled(text: str | None) -> str | None:
    """A docstring with its lists of instruments: {keep}, {places} and {patched} stand for them."""
    if text is None:
        return None
    lists = {
        "{keep}": ", ".join(json.dumps(name) for name in KEEP),
        "{places}": described(PLACES),
        "{patched}": ", ".join(f'"{short}"' for short in PATCHED),
    }
    for mark, value in lists.items():
        text = text.replace(mark, value)
    return text


def as_markdown() -> str:
    """The table as docs/instruments.md has it."""
    lines = [
        "| name | shape | what it is | `keep` | a place | `patching(at=)` | gradient |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in INSTRUMENTS:
        place = "" if row.put is None else f"`{row.name}{_example(row)}`"
        at = f'`"{row.patched_as}"`' if row.patched_as else ""
        gradient = "yes" if row.put is not None else ""
        lines.append(f'| `{row.name}` | `{row.shape}` | {row.what} | `"{row.keep}"` | {place} | {at} | {gradient} |')
    return "\n".join(lines) + "\n"


def _example(row: Instrument) -> str:
    return "" if row.per == "pass" else "[5, 3]" if row.heads else "[5]"
