"""Where things are in a model: its layers, what each writes into the residual stream, its routers.

Nothing here is a table of architectures. The layers are the stack of equal modules; what a layer adds to the residual
stream is found by trying: a few tokens are passed through, the outputs of the layer's parts are recorded, and the two
(or one) whose sum, times the configuration's multiplier, turns the layer's input into its output are its attention and
its MLP. So an architecture that nobody here has heard of is read as well as a known one, and where the sum does not
come out, that is said instead of guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from labkit.errors import Unavailable
from labkit.models.config import first_number
from labkit.models.loading import EAGER_ONLY
from labkit.trace import instruments, routers, running
from labkit.trace.interface import Call, tapped
from labkit.trace.patterns import KNOWN, called_with, mixed, visible
from labkit.trace.probing import COARSEST, TOLERANCE, evaluating
from labkit.trace.recurrences import Listener, Recurrence, Steps, compared, listening
from labkit.trace.routers import Router, Sightings
from labkit.trace.taps import Args, Keywords, first_tensor, layer_input

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TOLERANCE", "Anatomy", "Layer", "dissect", "evaluating", "first_tensor", "layer_input"]

PROBE_TOKENS = 5
OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo", "proj")


@dataclass(frozen=True)
class Layer:
    """One layer. attention and mlp: the modules whose outputs are added to the residual stream; None where none is.

    attention_module: the one that computes attention (told from the writer where a norm comes after it).
    output_projection: from the heads' outputs to the residual stream. router: of the MLP, where it is a mixture of experts.
    down_projection: the MLP's last linear map; what it is given are the MLP's neurons. Its width is `neurons`.
    heads, kv_heads, head_size, value_size: of this layer's attention; None where they are not known.
    recurrence: where the layer carries a state from token to token, which labkit sees.
    why: what can't be had from this layer although it has it, each with the reason.
    """

    module: nn.Module
    attention: nn.Module | None
    mlp: nn.Module | None
    attention_module: nn.Module | None
    output_projection: nn.Module | None
    router: Router | None
    down_projection: nn.Module | None = None
    neurons: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    value_size: int | None = None
    recurrence: Recurrence | None = None
    why: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Anatomy:
    """A model's parts, and for each instrument None or the reason why it can't be had.

    layers: in the order they run; a module that is used as several layers stands there several times.
    stack_owner: the module whose forward pass runs the layers.  shares_parts: layers are told apart and share parts.
    causal: no token's attention looks at later ones.  sums_up: each layer adds the outputs of its parts, and no more.
    streams: why what passes between the layers has no row for each token; None where it has.
    virtual: how many trained vectors stand before a text (prompt tuning).
    built: what the model was made of when it was looked at, so that `fits` can tell.
    """

    layers: tuple[Layer, ...]
    final_norm: nn.Module | None
    unembedding: nn.Module | None
    multiplier: float
    on_interface: bool
    sound: bool = True  # False where the model computes NaN, so that its parts can't be told by what they add
    support: dict[str, str | None] = field(default_factory=dict)
    family: str = ""
    implementation: str | None = None
    embedding: nn.Module | None = None
    stack_owner: nn.Module | None = None
    shares_parts: bool = False
    causal: bool = True
    sums_up: bool = True
    streams: str | None = None
    virtual: int = 0
    built: tuple[object, ...] = field(default=(), repr=False, compare=False)

    def fits(self, model: PreTrainedModel) -> bool:
        """Whether it is still that model's: no part was replaced since, and attention is computed as it was."""
        return self.built == _built(model)

    def has(self, layer: int, instrument: str) -> bool:
        """Whether a layer has what an instrument looks at."""
        return instruments.named(instrument).there(self, layer)


def _built(model: PreTrainedModel) -> tuple[object, ...]:
    """A model's modules in their places, and the settings by which other things are there.

    Ids are enough: an anatomy holds the modules it names, so none of theirs is given to another.
    """
    modules = (id(module) for _, module in model.named_modules(remove_duplicate=False))
    implementation = getattr(model.config.get_text_config(), "_attn_implementation", None)
    return (implementation, running.virtual_tokens(model), *modules)


def dissect(model: PreTrainedModel) -> Anatomy:
    """Find a model's parts with one small forward pass. Raises Unavailable when not even the layers are found."""
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise Unavailable(
            f"{type(model).__name__} is an encoder and a decoder, and labkit looks into models of one stack; load a causal "
            "language model."
        )
    owner, stack = _layers(model)
    multiplier = float(getattr(config, "residual_multiplier", None) or 1.0)
    seen = _probe(model, stack, owner)
    layers = []
    sums_up = True
    sound = not any(bool(output.isnan().any()) for output in seen.outputs.values())
    virtual = running.virtual_tokens(model)
    in_cache = seen.inputs[0].shape[1] == PROBE_TOKENS  # prefix tuning: keys and values without a token in any layer
    streams = _streams(str(config.model_type), seen, PROBE_TOKENS + (0 if in_cache else virtual))
    for index, module in enumerate(seen.order):
        attention_module = seen.attention.get(index)
        # off the interface, yet with real attention that eager hands back; others (rwkv among them) return something they
        # call attentions that is none, so nothing off the interface is trusted unless it is listed
        if attention_module is None and config.model_type in EAGER_ONLY:
            attention_module = _attention_by_name(module)
        for part in seen.repeated[index] & set(seen.parts[index]):
            del seen.parts[index][part]
        writers = _writers(
            module, seen.inputs[index], seen.outputs[index], seen.parts[index], attention_module, multiplier
        )
        sums_up &= writers is not None
        attention, mlp = writers or (None, None)
        router = routers.find(index, module, attention_module, seen.routing[index])
        why = {}
        if index in seen.unlike:
            why["attention"] = seen.unlike[index]
        if index in seen.twice:
            why |= dict.fromkeys(("attention", "values", "head_output"), seen.twice[index])
        if (reason := seen.not_followed.get(index)) is not None:
            why["state"] = reason
        down, neurons = None, None
        if mlp is not None and router is not None:
            why["mlp_neurons"] = (
                f"the MLP of layer {index} is a mixture, which computes the neurons of the chosen experts only; look at "
                "`mlp_output`"
            )
        elif mlp is not None:
            down = _down_projection(mlp, seen, index, attention_module)
            neurons = None if down is None else seen.linear[index][down][0].shape[-1]
            if down is None:
                why["mlp_neurons"] = (
                    f"labkit can't tell the last projection of the MLP of layer {index}; look at `mlp_output`"
                )
        layers.append(
            Layer(
                module=module,
                attention=attention,
                mlp=mlp,
                attention_module=attention_module,
                output_projection=_output_projection(attention_module),
                router=router,
                down_projection=down,
                neurons=neurons,
                **_sizes(seen, index, config, attention_module),
                recurrence=None if index in seen.not_followed else seen.recurrences.get(index),
                why=why,
            )
        )
    base = _base(model)
    embedding: nn.Module = model.get_input_embeddings()
    unembedding: nn.Module | None = model.get_output_embeddings()
    anatomy = Anatomy(
        layers=tuple(layers),
        final_norm=_final_norm(base, stack),
        unembedding=unembedding,
        multiplier=multiplier,
        on_interface=bool(seen.attention),
        sound=sound,
        family=str(config.model_type),
        implementation=getattr(config, "_attn_implementation", None),
        embedding=embedding if seen.embedded == 1 else None,
        built=_built(model),
        stack_owner=owner,
        shares_parts=_share_parts(layers),
        causal=seen.causal,
        sums_up=sums_up,
        streams=streams,
        virtual=virtual,
    )
    anatomy.support.update(instruments.support(anatomy))
    return anatomy


# finding --------------------------------------------------------------------------------------------------------------


def _base(model: nn.Module) -> nn.Module:
    base: nn.Module = getattr(model, "base_model", model)
    for name in ("decoder", "language_model"):
        base = getattr(base, name, base)
    return base


def _layers(model: PreTrainedModel) -> tuple[nn.Module | None, list[nn.Module]]:
    """The largest list of as many modules as the model has layers, and the module it is of."""
    wanted = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    exact = [
        (owner, child)
        for owner in model.modules()
        for child in owner.children()
        if isinstance(child, nn.ModuleList) and len(child) == wanted
    ]
    if not exact:
        raise Unavailable(
            f"labkit finds no stack of {wanted} layers in {type(model).__name__}; a base class of transformers with "
            "`num_hidden_layers` modules in a ModuleList is needed."
        )
    owner, largest = max(exact, key=lambda pair: _size(pair[1]))
    return owner, list(largest)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass
class _Seen:
    """What a few tokens left behind. By layer, in the order the layers ran.

    linear: what a linear map was given and gave.  given: what a part of the residual stream's width was given.
    unlike: why a layer's patterns are not what its attention puts out.  twice: why its calls of attention can't be told.
    embedded: how often the embedding was asked.
    recurrences: where a state is carried along.  not_followed: why labkit can't follow it.
    """

    order: list[nn.Module] = field(default_factory=list)
    inputs: dict[int, torch.Tensor] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    parts: dict[int, dict[nn.Module, torch.Tensor]] = field(default_factory=dict)
    given: dict[int, dict[nn.Module, torch.Tensor]] = field(default_factory=dict)
    linear: dict[int, dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)
    attention: dict[int, nn.Module] = field(default_factory=dict)
    sizes: dict[int, dict[str, int]] = field(default_factory=dict)
    unlike: dict[int, str] = field(default_factory=dict)
    twice: dict[int, str] = field(default_factory=dict)
    repeated: dict[int, set[nn.Module]] = field(default_factory=dict)
    routing: dict[int, Sightings] = field(default_factory=dict)
    causal: bool = True
    embedded: int = 0
    recurrences: dict[int, Recurrence] = field(default_factory=dict)
    not_followed: dict[int, str] = field(default_factory=dict)


class _WhoAttends:
    """Notes which module of which layer calls the attention interface, and whether patterns are what it computes."""

    def __init__(self, model: PreTrainedModel, seen: _Seen) -> None:
        self.family, self.seen = str(model.config.get_text_config().model_type), seen
        self.virtual = running.virtual_tokens(model)
        self.call: Call | None = None

    def before(self, call: Call) -> None:
        layer = len(self.seen.order) - 1
        inside = bool(self.seen.order) and any(part is call.module for part in self.seen.order[layer].modules())
        self.call = call if inside else None
        if not inside:
            return
        if layer in self.seen.attention:
            self.seen.twice[layer] = (
                f"layer {layer} of {self.family} calls attention more than once, and labkit can't tell what the calls make "
                "together; look at `attention_output` or `residual`"
            )
        self.seen.attention[layer] = call.module
        self.seen.sizes[layer] = {
            "heads": call.query.shape[1],
            "kv_heads": call.key.shape[1],
            "head_size": call.query.shape[-1],
            "value_size": call.value.shape[-1],
        }

    def after(self, call: Call, output: torch.Tensor) -> torch.Tensor:
        layer = len(self.seen.order) - 1
        if self.call is None or layer in self.seen.unlike or layer in self.seen.twice:
            return output
        mask = visible(call)
        if mask is not None:
            allowed = mask if mask.dtype is torch.bool else mask > torch.finfo(mask.dtype).min / 2
            # prefix tuning puts keys of no token before those of the text, which every token may see
            before = self.virtual if call.key.shape[2] == call.query.shape[2] + self.virtual else 0
            self.seen.causal &= not bool(allowed.triu(1 + before).any())
        if not _agrees(call, mask, output):
            unknown = sorted(name for name, value in call.options.items() if name not in KNOWN and value is not None)
            by = f"from what labkit does not know ({', '.join(unknown)})" if unknown else "otherwise than labkit knows"
            self.seen.unlike[layer] = (
                f"layer {layer} of {self.family} computes attention {by}, so that patterns of its queries and keys would be "
                "wrong; look at `head_output`"
            )
        return output


class _WhoRecurs:
    """Notes which module of which layer carries a state along, and whether labkit's recurrence is what it computes."""

    def __init__(self, model: PreTrainedModel, seen: _Seen) -> None:
        self.family, self.seen = str(model.config.get_text_config().model_type), seen

    def look(self, module: nn.Module, function: str, steps: Steps | None, output: object) -> None:
        layer = len(self.seen.order) - 1
        if layer < 0 or not any(part is module for part in self.seen.order[layer].modules()):
            return
        if layer in self.seen.recurrences:
            self.seen.not_followed[layer] = (
                f"layer {layer} of {self.family} has several recurrences side by side; look at `residual`"
            )
        shape = () if steps is None else tuple(steps.start.shape[1:])
        self.seen.recurrences[layer] = Recurrence(module, function, shape)
        dtype = output[0].dtype if isinstance(output, tuple | list) else getattr(output, "dtype", torch.float32)
        if steps is None or compared(steps, output) > 4 * TOLERANCE.get(dtype, COARSEST):
            self.seen.not_followed[layer] = (
                f"layer {layer} of {self.family} computes its recurrence ({function}) otherwise than labkit knows; look at "
                "`residual`"
            )


def _agrees(call: Call, mask: torch.Tensor | None, output: torch.Tensor) -> bool:
    """Whether the pattern labkit would show, times the values, is what the heads put out.

    An unknown keyword, another mask or another rule would show here, whatever its name.
    """
    n = call.query.shape[2]
    try:
        own = called_with(call, 0, n, None if mask is None else mask[0])
        expected = mixed(own, call.value[0]).transpose(0, 1)
        actual = output[0].float()
        if not all(bool(x.isfinite().all()) for x in (actual, call.query, call.key, call.value)):
            return True  # a broken weight, of which a trace says so itself
        off = (expected - actual).norm() / (actual.norm() + 1e-30)
    except RuntimeError:  # shapes that don't go together
        return False
    # patterns are shown in float32, whatever the model's dtype
    return bool(off <= 2 * max(TOLERANCE.get(output.dtype, COARSEST), TOLERANCE[torch.float32]))


Hook = Callable[..., None]


def _probe(model: PreTrainedModel, stack: list[nn.Module], owner: nn.Module | None) -> _Seen:
    """Pass a few tokens through and keep each layer's input, output and the outputs of all its parts of that shape."""
    seen = _Seen()
    handles = []
    embedding = model.get_input_embeddings()
    count = running.embedding_rows(model)
    ids = [(7919 * i + 3) % count for i in range(PROBE_TOKENS)]

    def keep_part(module: nn.Module, args: Args, keywords: Keywords, output: object) -> None:
        index = len(seen.order) - 1
        if index in seen.outputs or index < 0:
            return  # outside a layer
        seen.routing[index].saw(module, args, keywords, output)
        tensor = first_tensor(output)
        if tensor is None or tensor.shape[-1:] != seen.inputs[index].shape[-1:]:
            return
        seen.repeated[index] |= {module} if module in seen.parts[index] else set()
        seen.parts[index][module] = tensor.detach().clone()  # falcon adds into its MLP's output in place
        given = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if given is None:
            return
        if given.shape[-1] == tensor.shape[-1]:
            seen.given[index][module] = given.detach().clone()
        if _is_linear(module):
            seen.linear[index][module] = (given.detach().clone(), seen.parts[index][module])

    def keep_input(module: nn.Module, args: Args, keywords: Keywords) -> None:
        index = len(seen.order)
        seen.order.append(module)
        seen.inputs[index] = layer_input(args, keywords).detach().clone()
        seen.parts[index], seen.given[index], seen.linear[index] = {}, {}, {}
        seen.repeated[index] = set()
        seen.routing[index] = Sightings(PROBE_TOKENS)

    def keep_output(_module: nn.Module, _args: Args, output: object) -> None:
        tensor = first_tensor(output)
        assert tensor is not None
        seen.outputs[len(seen.order) - 1] = tensor.detach().clone()

    def embedded(_module: nn.Module, _args: Args, output: object) -> None:
        whole = isinstance(output, torch.Tensor) and output.shape[:-1].numel() == PROBE_TOKENS
        seen.embedded += 1 if whole else 2

    layers = list(dict.fromkeys(stack))
    try:
        handles.append(embedding.register_forward_hook(embedded))
        for layer in layers:
            handles.append(layer.register_forward_pre_hook(keep_input, with_kwargs=True))
        for part in dict.fromkeys(m for layer in layers for m in layer.modules() if m not in layers):
            handles.append(part.register_forward_hook(keep_part, with_kwargs=True))
        for layer in layers:
            handles.append(layer.register_forward_hook(keep_output))
        parts = [part for layer in layers for part in layer.modules()]
        recurs = Listener(look=_WhoRecurs(model, seen).look)
        with tapped(model, _WhoAttends(model, seen)), listening(parts, recurs):
            running.forward(model, [ids])
    finally:
        for handle in handles:
            handle.remove()
    if missed := [i for i, layer in enumerate(stack) if layer not in seen.order]:
        raise Unavailable(
            f"Layer {missed[0]} of {type(model).__name__} takes no part in a forward pass, so its layers can't be told "
            "apart; use lab.generate and lab.model alone."
        )
    return seen


def _is_linear(module: nn.Module) -> bool:
    """A linear map, of whatever library: torch's, transformers' Conv1D, a quantized one."""
    kinds = [kind.__name__ for kind in type(module).__mro__]
    named = any("Linear" in kind for kind in kinds) and hasattr(module, "in_features")
    return isinstance(module, nn.Linear) or "Conv1D" in kinds or named


def _streams(family: str, seen: _Seen, tokens: int) -> str | None:
    """Why what passes between the layers has no row for each token; None where it has."""
    for tensor in (*seen.inputs.values(), *seen.outputs.values()):
        if tensor.dim() > 3 or tensor.numel() != tokens * tensor.shape[-1]:
            return (
                f"{family} passes {tuple(tensor.shape)} numbers from layer to layer for {tokens} tokens: several residual "
                "streams, of which none is what a layer reads; look at `attention` or `head_output`"
            )
    return None


def _share_parts(layers: list[Layer]) -> bool:
    """Whether layers that are modules of their own hold parts in common."""
    seen: dict[int, nn.Module] = {}
    for layer in dict.fromkeys(each.module for each in layers):
        for part in layer.modules():
            if seen.setdefault(id(part), layer) is not layer and any(True for _ in part.parameters()):
                return True
    return False


def _down_projection(mlp: nn.Module, seen: _Seen, index: int, attention: nn.Module | None) -> nn.Module | None:
    """The linear map whose output is what the MLP puts out, or what the norm after it is given; None if it can't be told."""
    inside = set(attention.modules()) if attention is not None else set()
    linear = {m: out for m, (_, out) in seen.linear[index].items() if m not in inside and m not in seen.repeated[index]}
    targets = [seen.parts[index].get(mlp), seen.given[index].get(mlp)]
    for target in targets if "norm" in type(mlp).__name__.lower() else targets[:1]:
        found = [m for m, out in linear.items() if target is not None and torch.equal(out.flatten(), target.flatten())]
        if len(found) == 1:
            return found[0]
    return None


def _sizes(seen: _Seen, index: int, config: object, attention: nn.Module | None) -> dict[str, int | None]:
    """A layer's numbers of heads and their sizes: as its call had them; off the interface, as the configuration says."""
    if index in seen.sizes:
        return dict(seen.sizes[index])
    if attention is None:
        return {}
    heads = first_number(config, "num_attention_heads", "n_heads", "n_head")
    hidden = first_number(config, "hidden_size", "d_model", "n_embd")
    size = hidden // heads if heads and hidden else None
    grouped = first_number(config, "num_kv_heads", "num_key_value_heads")
    return {"heads": heads, "kv_heads": grouped or heads, "head_size": size, "value_size": size}


def _writers(
    layer: nn.Module,
    before: torch.Tensor,
    after: torch.Tensor,
    parts: dict[nn.Module, torch.Tensor],
    attention_module: nn.Module | None,
    multiplier: float,
) -> tuple[nn.Module | None, nn.Module | None] | None:
    """(attention, mlp): the parts whose outputs, times the multiplier, are what the layer added; None if none are.

    Outermost parts are tried first, so that a module is preferred to its own last projection.
    """
    after = after.to(before.device)  # a layer may end on another device than it began
    change = (after - before).double()
    scale = change.norm() + 1e-30
    tolerance = TOLERANCE.get(before.dtype, COARSEST)
    added = {
        m: multiplier * t.to(before.device).reshape(change.shape).double()
        for m, t in parts.items()
        if t.numel() == change.numel()
    }

    def fits(*chosen: nn.Module) -> bool:
        return bool((change - sum(added[m] for m in chosen)).norm() / scale < tolerance)

    inside = set(attention_module.modules()) if attention_module is not None else set()
    order = list(added)
    order.sort(key=lambda m: _depth(layer, m))
    pairs = [p for p in itertools.combinations(order, 2) if not (p[0] in p[1].modules() or p[1] in p[0].modules())]
    for one, two in pairs:
        if fits(one, two):
            if two in inside or (one not in inside and _runs_before(added, two, one)):
                one, two = two, one
            return one, two
    if any(fits(one) for one in order):
        return None, None  # a single mixer, as in state-space models: neither attention nor MLP
    return None


def _runs_before(added: dict[nn.Module, torch.Tensor], first: nn.Module, second: nn.Module) -> bool:
    """Whether a part's output came before another's: dictionaries keep the order of the hooks."""
    order = list(added)
    return order.index(first) < order.index(second)


def _depth(layer: nn.Module, part: nn.Module) -> int:
    names: list[str] = [name for name, module in layer.named_modules() if module is part]
    return names[0].count(".")


def _attention_by_name(layer: nn.Module) -> nn.Module | None:
    """The attention module of an architecture off the interface."""
    return next(
        (m for n, m in layer.named_children() if "attention" in type(m).__name__.lower() and "norm" not in n), None
    )


def _output_projection(attention_module: nn.Module | None) -> nn.Module | None:
    if attention_module is None:
        return None
    # some have it a level down: attn.attention.out_proj
    children = {name.rpartition(".")[2]: part for name, part in attention_module.named_modules()}
    return next((children[name] for name in OUTPUT_PROJECTIONS if name in children), None)


def _final_norm(base: nn.Module, stack: list[nn.Module]) -> nn.Module | None:
    """The norm between the last layer and the unembedding: the last norm among the base model's own parts."""
    inside = {part for layer in stack for part in layer.modules()}
    norms = [m for m in base.modules() if "norm" in type(m).__name__.lower() and m not in inside]
    return norms[-1] if norms else None
