"""Where things are in a model: its layers, what each writes into the residual stream, its routers.

Nothing here is a table of architectures. The layers are the stack of equal modules; what a layer adds to the residual
stream is found by trying: a few tokens are passed through, the outputs of the layer's parts are recorded, and the two
(or one) whose sum, times the configuration's multiplier, turns the layer's input into its output are its attention and
its MLP. So an architecture that nobody here has heard of is read as well as a known one, and where the sum does not
come out, that is said instead of guessed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from labkit.errors import Unavailable
from labkit.models.loading import EAGER_ONLY
from labkit.trace import routers, running
from labkit.trace.interface import SEEN, Call, tapped
from labkit.trace.probing import COARSEST, TOLERANCE
from labkit.trace.routers import Router, Sightings

PROBE_TOKENS = 5
OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo", "proj")


@dataclass(frozen=True)
class Layer:
    """One layer. attention and mlp: the modules whose outputs are added to the residual stream; None where none is.

    attention_module: the one that computes attention (told from the writer where a norm comes after it).
    output_projection: from the heads' outputs to the residual stream. router: of the MLP, where it is a mixture of experts.
    """

    module: nn.Module
    attention: nn.Module | None
    mlp: nn.Module | None
    attention_module: nn.Module | None
    output_projection: nn.Module | None
    router: Router | None


@dataclass(frozen=True)
class Anatomy:
    """A model's parts, and for each instrument None or the reason why it can't be had."""

    layers: tuple[Layer, ...]
    final_norm: nn.Module | None
    unembedding: nn.Module | None
    multiplier: float
    on_interface: bool
    sound: bool = True  # False where the model computes NaN, so that its parts can't be told by what they add
    support: dict[str, str | None] = field(default_factory=dict)


def dissect(model: Any) -> Anatomy:
    """Find a model's parts with one small forward pass. Raises Unavailable when not even the layers are found."""
    stack = _layers(model)
    config = model.config.get_text_config()
    multiplier = float(getattr(config, "residual_multiplier", None) or 1.0)
    seen = _probe(model, stack)
    layers = []
    sums_up = True
    sound = not any(bool(output.isnan().any()) for output in seen.outputs.values())
    for index, module in enumerate(stack):
        attention_module = seen.attention.get(index)
        # off the interface, yet with real attention that eager hands back; others (rwkv among them) return something they
        # call attentions that is none, so nothing off the interface is trusted unless it is listed
        if attention_module is None and config.model_type in EAGER_ONLY:
            attention_module = _attention_by_name(module)
        for part in seen.repeated & set(seen.parts[index]):
            del seen.parts[index][part]
        writers = _writers(
            module, seen.inputs[index], seen.outputs[index], seen.parts[index], attention_module, multiplier
        )
        sums_up &= writers is not None
        attention, mlp = writers or (None, None)
        layers.append(
            Layer(
                module=module,
                attention=attention,
                mlp=mlp,
                attention_module=attention_module,
                output_projection=_output_projection(attention_module),
                router=routers.find(index, module, attention_module, seen.routing[index]),
            )
        )
    base = _base(model)
    anatomy = Anatomy(
        layers=tuple(layers),
        final_norm=_final_norm(base, stack),
        unembedding=model.get_output_embeddings(),
        multiplier=multiplier,
        on_interface=bool(seen.attention),
        sound=sound,
    )
    anatomy.support.update(_support(model, anatomy, sums_up, sound=sound))
    return anatomy


# finding --------------------------------------------------------------------------------------------------------------


def _base(model: Any) -> nn.Module:
    base = getattr(model, "base_model", model)
    for name in ("decoder", "language_model"):
        base = getattr(base, name, base)
    return base


def _layers(model: Any) -> list[nn.Module]:
    """The longest list of modules of one kind: a model's layers. Mixed stacks share at least the list."""
    config = model.config.get_text_config()
    wanted = getattr(config, "num_hidden_layers", None)
    exact: list[nn.Module] = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == wanted]
    if not exact:
        raise Unavailable(
            f"labkit finds no stack of {wanted} layers in {type(model).__name__}; a base class of transformers with "
            "`num_hidden_layers` modules in a ModuleList is needed."
        )
    largest: Any = max(exact, key=_size)
    return list(largest)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass
class _Seen:
    inputs: dict[int, torch.Tensor] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    parts: dict[int, dict[nn.Module, torch.Tensor]] = field(default_factory=dict)
    attention: dict[int, nn.Module] = field(default_factory=dict)
    repeated: set[nn.Module] = field(default_factory=set)
    routing: dict[int, Sightings] = field(default_factory=dict)


class _WhoAttends:
    """Notes which module of which layer calls the attention interface."""

    def __init__(self, owner: dict[int, int], seen: _Seen) -> None:
        self.owner, self.seen = owner, seen

    def before(self, call: Call) -> None:
        if (layer := self.owner.get(id(call.module))) is not None:
            self.seen.attention[layer] = call.module

    def after(self, call: Call, output: torch.Tensor) -> torch.Tensor:
        return output


def _probe(model: Any, stack: list[nn.Module]) -> _Seen:
    """Pass a few tokens through and keep each layer's input, output and the outputs of all its parts of that shape."""
    seen = _Seen()
    owner = {id(part): index for index, layer in enumerate(stack) for part in layer.modules()}
    handles = []

    def keep_part(index: int, module: nn.Module) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            seen.routing[index].saw(module, args, keywords, output)
            tensor = first_tensor(output)
            if tensor is not None and tensor.shape[-1] == seen.inputs[index].shape[-1]:
                twice = module in seen.parts[index]  # called again: what it writes can't be told from one output
                seen.parts[index][module] = tensor.detach().clone()  # falcon adds into its MLP's output in place
                seen.repeated |= {module} if twice else set()

        return hook

    def keep_input(index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            seen.inputs[index] = layer_input(args, keywords).detach().clone()
            seen.parts[index] = {}
            seen.routing[index] = Sightings(PROBE_TOKENS)

        return hook

    def keep_output(index: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            assert tensor is not None
            seen.outputs[index] = tensor.detach().clone()

        return hook

    rows = running.embedding_rows(model)
    ids = [(7919 * i + 3) % rows for i in range(PROBE_TOKENS)]
    try:
        for index, layer in enumerate(stack):
            handles.append(layer.register_forward_pre_hook(keep_input(index), with_kwargs=True))
            parts = [m for m in layer.modules() if m is not layer]
            handles += [m.register_forward_hook(keep_part(index, m), with_kwargs=True) for m in parts]
            handles.append(layer.register_forward_hook(keep_output(index)))
        with tapped(model, _WhoAttends(owner, seen)):
            running.forward(model, [ids])
    finally:
        for handle in handles:
            handle.remove()
    return seen


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


def _runs_before(added: dict[nn.Module, Any], first: nn.Module, second: nn.Module) -> bool:
    """Whether a part's output came before another's: dictionaries keep the order of the hooks."""
    order = list(added)
    return order.index(first) < order.index(second)


def _depth(layer: nn.Module, part: nn.Module) -> int:
    return next(name.count(".") for name, module in layer.named_modules() if module is part)


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


def layer_input(args: tuple[Any, ...], keywords: dict[str, Any]) -> torch.Tensor:
    return args[0] if args else keywords["hidden_states"]


def first_tensor(output: Any) -> torch.Tensor | None:
    """A module's main output: itself, or the first of a tuple."""
    if isinstance(output, tuple | list):
        output = output[0] if output else None
    return output if isinstance(output, torch.Tensor) else None


# what can be had ------------------------------------------------------------------------------------------------------

RECURRENT = (
    "no layer of {family} calls attention where labkit sees it (recurrent, or code of its own); look at `residual`"
)


def _support(model: Any, anatomy: Anatomy, sums_up: bool, *, sound: bool) -> dict[str, str | None]:
    config = model.config.get_text_config()
    family = config.model_type
    attends = [layer.attention_module is not None for layer in anatomy.layers]
    no_attention = None if any(attends) else RECURRENT.format(family=family)
    off = no_attention
    if off is None and not anatomy.on_interface:
        implementation = getattr(config, "_attn_implementation", None)
        if implementation != "eager":
            off = (
                f"{family} computes attention by itself and gives wrong patterns under {implementation}; load it with "
                "attn_implementation='eager' (lk.load does so by itself)"
            )
    inner = off
    if inner is None and not anatomy.on_interface:
        inner = f"{family} computes attention by itself, so only its patterns can be seen; use trace.attention"
    no_mlp = (
        None if any(layer.mlp is not None for layer in anatomy.layers) else f"a {family} layer has no MLP of its own"
    )
    writes = (
        None
        if sums_up
        else (
            f"the parts of a {family} layer don't add up to what it changes (it normalizes after adding, or mixes "
            "otherwise); look at `residual` instead"
        )
    )
    if not sound:
        writes = "the model computes NaN, so its parts can't be found; look at `residual`, load it in float32 or mend the weights"
    implementation = getattr(config, "_attn_implementation", None)
    if off is None and anatomy.on_interface and implementation not in (*SEEN, None):
        off = inner = f"{implementation} does not say what its mask is; load it with attn_implementation='sdpa'"
    projected = any(layer.output_projection is not None for layer in anatomy.layers)
    heads = off
    if heads is None and not anatomy.on_interface and not projected:
        heads = f"labkit finds no output projection in {family}'s attention; look at `attention_output` instead"
    if off is None and (count := running.virtual_tokens(model)):
        off = inner = (
            f"{count} trained vectors stand before a text (prompt tuning), and patterns over its own tokens would leave them "
            "out; use keep='logits' or 'residual', or the model without them: lk.Lab(model.get_base_model(), tokenizer)"
        )
    return {
        "attention": off,
        "queries": inner,
        "keys": inner,
        "values": inner,
        "head_output": heads,
        "attention_output": no_attention or writes,
        "mlp_output": writes or (f"{no_mlp}; look at `residual` instead" if no_mlp else None),
        "residual": None,
        "logits": None,
        "routes": _no_routes(anatomy, family),
    }


def _no_routes(anatomy: Anatomy, family: str) -> str | None:
    if any(layer.router is not None for layer in anatomy.layers):
        return None
    kinds = {type(part).__name__ for layer in anatomy.layers for part in layer.module.modules()}
    if routers := sorted(kind for kind in kinds if "router" in kind.lower()):
        return f"labkit can't tell what {routers[0]} of {family} chooses for each token; look at `mlp_output` instead"
    return (
        'a dense model has no router, and labkit recognizes none here; load a mixture of experts: lk.load("labkit-moe")'
    )
