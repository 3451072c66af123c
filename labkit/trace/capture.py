"""Taking a Trace: one forward pass with the taps on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from labkit.errors import Unavailable
from labkit.models.tokens import token_strings
from labkit.trace import running
from labkit.trace.anatomy import Anatomy, first_tensor, layer_input
from labkit.trace.interface import Call, tapped
from labkit.trace.record import LayerAttention, Routes, Trace
from labkit.trace.routers import watch

PATTERN_DIMENSIONS = 4  # (batch, heads, T, T)


@dataclass
class Captured:
    """What one forward call left, batch dimension first, as the model had it. Filled by `observing`."""

    attention: dict[int, Call] = field(default_factory=dict)
    patterns: dict[int, torch.Tensor] = field(default_factory=dict)
    layered: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    routes: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=dict)


class _Capture:
    """Listens at the attention interface."""

    def __init__(self, anatomy: Anatomy, keep: Sequence[str], into: Captured) -> None:
        self.owner = {id(layer.attention_module): i for i, layer in enumerate(anatomy.layers)}
        self.keep, self.into = set(keep), into

    def before(self, call: Call) -> None:
        layer = self.owner.get(id(call.module))
        if layer is None:
            return
        if "attention" in self.keep:
            self.into.attention[layer] = Call(
                call.module, own(call.query), own(call.key), call.value.new_empty(0), call.mask, call.options
            )
        if "values" in self.keep:
            self.into.layered.setdefault("values", {})[layer] = own(call.value)

    def after(self, call: Call, output: torch.Tensor) -> torch.Tensor:
        layer = self.owner.get(id(call.module))
        if layer is not None and "head_output" in self.keep:
            self.into.layered.setdefault("head_output", {})[layer] = output.detach().transpose(1, 2).contiguous()
        return output


@contextlib.contextmanager
def observing(model: Any, anatomy: Anatomy, keep: Sequence[str]) -> Iterator[Captured]:
    """While inside, the latest forward pass of the model is in the Captured; the hooks are gone afterwards."""
    captured = Captured()
    handles: list[Any] = []
    wanted = [name for name in keep if anatomy.support.get(name) is None]

    def put(kind: str, index: int, value: torch.Tensor) -> None:
        captured.layered.setdefault(kind, {})[index] = value

    def on_output(kind: str, index: int, factor: float) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            assert tensor is not None
            put(kind, index, tensor.detach().clone() if factor == 1.0 else tensor.detach() * factor)

        return hook

    def on_input(index: int) -> Any:
        def hook(_module: Any, args: Any, keywords: Any) -> None:
            put("residual", index, layer_input(args, keywords).detach().clone())

        return hook

    def on_decision(index: int) -> Any:
        def decide(logits: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor) -> None:
            captured.routes[index] = (logits.detach().clone(), weights.detach().clone(), experts.detach().clone())

        return decide

    def on_eager_attention(index: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            found = [t for t in output if isinstance(t, torch.Tensor) and t.dim() == PATTERN_DIMENSIONS]
            if found:
                captured.patterns[index] = found[-1].detach().clone()

        return hook

    def on_heads(index: int, heads: int) -> Any:
        def hook(_module: Any, args: Any) -> None:
            flat = args[0].detach()
            put("head_output", index, flat.reshape(*flat.shape[:-1], heads, -1).transpose(1, 2).contiguous())

        return hook

    last = len(anatomy.layers) - 1
    heads = int(getattr(model.config.get_text_config(), "num_attention_heads", 0) or 0)
    try:
        for index, layer in enumerate(anatomy.layers):
            if "residual" in wanted:
                handles.append(layer.module.register_forward_pre_hook(on_input(index), with_kwargs=True))
                if index == last:
                    handles.append(layer.module.register_forward_hook(on_output("residual", last + 1, 1.0)))
            for kind, part in (("attention_output", layer.attention), ("mlp_output", layer.mlp)):
                if kind in wanted and part is not None:
                    handles.append(part.register_forward_hook(on_output(kind, index, anatomy.multiplier)))
            if "routes" in wanted and layer.router is not None:
                handles += watch(layer.router, on_decision(index))
            if not anatomy.on_interface and layer.attention_module is not None:
                if "attention" in wanted:
                    handles.append(layer.attention_module.register_forward_hook(on_eager_attention(index)))
                if "head_output" in wanted and layer.output_projection is not None:
                    handles.append(layer.output_projection.register_forward_pre_hook(on_heads(index, heads)))
        with contextlib.ExitStack() as stack:
            if anatomy.on_interface and {"attention", "values", "head_output"} & set(wanted):
                stack.enter_context(tapped(model, _Capture(anatomy, wanted, captured)))
            yield captured
    finally:
        for handle in handles:
            handle.remove()


def take(
    model: Any,
    tokenizer: Any,
    anatomy: Anatomy,
    texts: Sequence[list[int]],
    keep: tuple[str, ...],
    *,
    name: str,
    tokens: int | None = None,
) -> list[Trace]:
    """One forward pass over token ids, padded on the right where lengths differ; a Trace each, without the padding.

    tokens: the most in a pass; long lists take several (`running.groups`).
    """
    reasons = {k: reason for k, reason in anatomy.support.items() if reason is not None}
    for what in keep:
        if what in reasons:
            raise Unavailable(f"{what} can't be had from {name}: {reasons[what]}.")
    found: dict[int, Trace] = {}
    for group in running.groups(model, [len(ids) for ids in texts], tokens=tokens, in_order=True):
        some = [texts[i] for i in group]
        found |= zip(group, _together(model, tokenizer, anatomy, some, keep, reasons, name), strict=True)
    return [found[i] for i in range(len(texts))]


def _together(
    model: Any,
    tokenizer: Any,
    anatomy: Anatomy,
    texts: Sequence[list[int]],
    keep: tuple[str, ...],
    reasons: dict[str, str],
    name: str,
) -> list[Trace]:
    """The Traces of texts that share a pass."""
    with observing(model, anatomy, keep) as captured:
        output = running.forward(
            model,
            texts,
            logits="all" if "logits" in keep else "last",
            attentions="attention" in keep and not anatomy.on_interface,
        )
    if any(call.key.shape[2] != output.ids.shape[1] for call in captured.attention.values()):
        raise Unavailable(
            f"{name} attends to more than the text's own tokens, which patterns over these would leave out; "
            "use keep='logits' or 'residual', or the model without what stands before a text."
        )
    config = model.config.get_text_config()
    special = set(getattr(tokenizer, "all_special_ids", None) or ())
    masks = _Masks()
    traces = []
    for row, ids in enumerate(texts):
        n = len(ids)
        logits = torch.atleast_2d(output.all_logits[row].detach())[:n]  # of the last token alone, or of all
        traces.append(
            Trace(
                tokens=token_strings(tokenizer, ids),
                ids=list(ids),
                model=name,
                family=str(config.model_type),
                layers=len(anatomy.layers),
                heads=_heads(captured, config),
                kv_heads=_kv_heads(captured, config),
                keep=keep,
                reasons=reasons,
                _logits=alone(logits) if "logits" in keep else None,
                _attention=_attention(captured, row, n, masks),
                _layered=_layered(captured, row, n, output.ids.shape),
                _routes=_routes(captured, row, n, output.ids.shape) if "routes" in keep else None,
                notes=_notes(anatomy, config, captured, logits, row, n),
                special=tuple(sorted(special.intersection(ids))),
            )
        )
    return traces


class _Masks:
    """Masks as small as they can be kept, one for all layers that share it."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int, int], torch.Tensor | None] = {}
        self.alive: list[torch.Tensor] = []  # an id is a mask's only while the mask lives

    def of(self, mask: torch.Tensor | None, row: int, n: int) -> torch.Tensor | None:
        if mask is None:
            return None
        key = (id(mask), row, n)
        if key not in self.known:
            self.alive.append(mask)
            whole = mask[row if mask.shape[0] > 1 else 0, :, :n, :n]
            if whole.dtype is not torch.bool:
                allowed = whole > torch.finfo(whole.dtype).min / 2
                # one that differs between heads stays as it is: it is added head by head
                plain = whole.shape[0] == 1 and bool(((whole == 0) | ~allowed).all())
                whole = allowed if plain else whole
            kept = whole[0].clone() if whole.dtype is torch.bool and whole.shape[0] == 1 else whole.clone()
            if kept.dtype is torch.bool and kept.dim() == 2 and bool((kept == torch.ones_like(kept).tril()).all()):
                self.known[key] = None  # plain causal needs no mask at all
            else:
                self.known[key] = kept
        return self.known[key]


def _attention(captured: Captured, row: int, n: int, masks: _Masks) -> dict[int, LayerAttention]:
    found = {layer: LayerAttention(pattern=alone(p[row, :, :n, :n])) for layer, p in captured.patterns.items()}
    for layer, call in captured.attention.items():
        sink = call.options.get("s_aux")
        scaling = call.options.get("scaling")
        found[layer] = LayerAttention(
            query=alone(call.query[row, :, :n]),
            key=alone(call.key[row, :, :n]),
            scaling=float(scaling if scaling is not None else call.query.shape[-1] ** -0.5),
            mask=masks.of(call.mask, row, n),
            sink=sink.detach().clone() if sink is not None else None,
            softcap=call.options.get("softcap"),
        )
    return found


def _layered(captured: Captured, row: int, n: int, shape: Sequence[int]) -> dict[str, dict[int, torch.Tensor]]:
    def of_row(kind: str, tensor: torch.Tensor) -> torch.Tensor:
        # the last columns, since virtual tokens stand before a text's own
        if kind in ("values", "head_output"):
            return alone(tensor[row, :, -shape[1] :][:, :n])
        whole = tensor.reshape(shape[0], -1, tensor.shape[-1])  # opt passes its tokens through the MLP as one long list
        return alone(whole[row, -shape[1] :][:n])

    return {kind: {i: of_row(kind, t) for i, t in by_layer.items()} for kind, by_layer in captured.layered.items()}


def _routes(captured: Captured, row: int, n: int, shape: Sequence[int]) -> Routes:
    layers = tuple(sorted(captured.routes))

    def stacked(part: int, missing: int) -> torch.Tensor:
        # routers see the batch as one long list of tokens
        every = [t.reshape(shape[0], -1, t.shape[-1]) for t in (captured.routes[i][part] for i in layers)]
        rows = [t[row, -shape[1] :][:n] for t in every]
        widest = max(t.shape[-1] for t in rows)  # an edit may have layers choose different numbers
        return torch.stack([torch.nn.functional.pad(t, (0, widest - t.shape[-1]), value=missing) for t in rows], 1)

    return Routes(
        experts=stacked(2, -1).long(), weights=stacked(1, 0).float(), logits=stacked(0, 0).float(), layers=layers
    )


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, holding no more memory than its own: a view of a larger one is copied."""
    tensor = tensor.detach()
    fits = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if fits else tensor.clone(memory_format=torch.contiguous_format)


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """One text's part of a batch, without the batch; the whole of a batch of one is not copied."""
    return own(tensor).contiguous()


def _heads(captured: Captured, config: Any) -> int:
    for call in captured.attention.values():
        return call.query.shape[1]
    for found in captured.patterns.values():
        return found.shape[1]
    return int(getattr(config, "num_attention_heads", 0) or 0)


def _kv_heads(captured: Captured, config: Any) -> int:
    for call in captured.attention.values():
        return call.key.shape[1]
    return int(getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 0) or 0)


def _notes(
    anatomy: Anatomy, config: Any, captured: Captured, logits: torch.Tensor, row: int, n: int
) -> tuple[str, ...]:
    notes = []
    if not anatomy.on_interface and anatomy.support["attention"] is None:
        family = config.model_type
        notes.append(f"{family} is off the shared attention interface: its patterns were computed eagerly in this pass")
    for layer, call in sorted(captured.attention.items()):
        # a maximum is NaN when anything in it is, and needs no copy as large as the tensor
        if any(bool(x[row, :, :n].amax().isnan()) for x in (call.query, call.key)):
            notes.append(f"queries or keys hold NaN from layer {layer} on: a weight is NaN, or the dtype too narrow")
            break
    if captured.routes and any(layer.router is not None and layer.router.in_attention for layer in anatomy.layers):
        notes.append(f"attention in {config.model_type} is a mixture of experts too; the routes are those of the MLPs")
    if (broken := logits.amax(-1).isnan()).any():
        first = n - len(logits) + int(broken.nonzero()[0])
        notes.append(f"the logits hold NaN from token {first} on: a weight is NaN, or the dtype too narrow")
    return tuple(notes)
