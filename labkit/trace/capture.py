"""Taking a Trace: one forward pass with the taps on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from labkit.errors import BadInput, NotEnoughMemory, Unavailable
from labkit.models.hardware import free_bytes
from labkit.models.memory import human_bytes
from labkit.models.tokens import token_strings
from labkit.trace import running
from labkit.trace.instruments import BY_NAME, INSTRUMENTS, Captured, differentiable, state_bytes
from labkit.trace.patterns import LayerAttention, alone, called_with, visible
from labkit.trace.record import Routes, Trace
from labkit.trace.taps import Taps, tapping

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from labkit.trace.anatomy import Anatomy

__all__ = ["Captured", "Scalar", "observing", "of_pass", "take"]

STATES_SHARE = 0.8  # of free memory that recurrent states may take
Scalar = Callable[[torch.Tensor], torch.Tensor]  # of the logits of one text, (T, vocabulary)


@contextlib.contextmanager
def observing(
    model: PreTrainedModel, anatomy: Anatomy, keep: Sequence[str], *, gradients: bool = False
) -> Iterator[Captured]:
    """While inside, the latest forward pass of the model is in the Captured; the hooks are gone afterwards.

    keep: instruments; those that the model does not have are left out.  gradients: whether derivatives will be taken by them.
    """
    captured = Captured()
    rows = [row for row in INSTRUMENTS if row.name in keep and anatomy.support.get(row.name) is None]
    by = [row for row in differentiable(keep) if anatomy.support.get(row.name) is None] if gradients else []

    def put_on(taps: Taps) -> None:
        for row in rows:
            row.capture(taps, captured)
        for row in by:
            row.differentiate(taps, captured)

    with tapping(model, anatomy, put_on):
        yield captured


def take(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    anatomy: Anatomy,
    texts: Sequence[list[int]],
    keep: tuple[str, ...],
    *,
    name: str,
    tokens: int | None = None,
    gradients: Scalar | None = None,
) -> list[Trace]:
    """One forward pass over token ids, padded on the right where lengths differ; a Trace each, without the padding.

    tokens: the most in a pass; long lists take several (`running.groups`).
    gradients: gives a scalar of one text's logits; its derivatives are taken by what is kept.
    """
    reasons = {k: reason for k, reason in anatomy.support.items() if reason is not None}
    for what in keep:
        if what in reasons:
            raise Unavailable(f"{what} can't be had from {name}: {reasons[what]}.")
    if gradients is not None:
        _check_gradients(model, keep, gradients)
    check_states(anatomy, keep, sum(map(len, texts)) * (1 if gradients is None else 3), str(model.device), name)
    found: dict[int, Trace] = {}
    for group in running.groups(model, [len(ids) for ids in texts], tokens=tokens, in_order=True):
        some = [texts[i] for i in group]
        found |= zip(group, _together(model, tokenizer, anatomy, some, keep, reasons, name, gradients), strict=True)
    return [found[i] for i in range(len(texts))]


def _together(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    anatomy: Anatomy,
    texts: Sequence[list[int]],
    keep: tuple[str, ...],
    reasons: dict[str, str],
    name: str,
    gradients: Scalar | None,
) -> list[Trace]:
    """The Traces of texts that share a pass."""
    with observing(model, anatomy, keep, gradients=gradients is not None) as captured:
        output = running.forward(
            model,
            texts,
            logits="all" if "logits" in keep or gradients is not None else "last",
            attentions="attention" in keep and not anatomy.on_interface,
            grad=gradients is not None,
        )
    width = output.ids.shape[1]
    if any(call.key.shape[2] != width for call in captured.attention.values()):
        raise Unavailable(
            f"{name} attends to more than the text's own tokens, which patterns over these would leave out; "
            "use keep='logits' or 'residual', or the model without what stands before a text."
        )
    scalars: list[float | None] = [None] * len(texts)
    derivatives: dict[str, dict[int, torch.Tensor]] = {}
    if gradients is not None:
        scalars, derivatives = _derivatives(gradients, output.all_logits, output.lengths, captured)
    special = set(getattr(tokenizer, "all_special_ids", None) or ())
    masks = _Masks()
    layer_reasons: dict[str, dict[int, str]] = {}
    for index, layer in enumerate(anatomy.layers):
        for what, reason in layer.why.items():
            layer_reasons.setdefault(what, {})[index] = reason
    traces = []
    for row, ids in enumerate(texts):
        n = len(ids)
        logits = output.all_logits[row].detach()
        logits = logits[None] if logits.dim() == 1 else logits[:n]  # of the last token alone, or of all
        traces.append(
            Trace(
                tokens=token_strings(tokenizer, ids),
                ids=list(ids),
                model=name,
                family=anatomy.family,
                layers=len(anatomy.layers),
                heads=[layer.heads or 0 for layer in anatomy.layers],
                kv_heads=[layer.kv_heads or 0 for layer in anatomy.layers],
                keep=keep,
                reasons=reasons,
                layer_reasons=layer_reasons,
                causal=anatomy.causal,
                scalar=scalars[row],
                _logits=alone(logits) if "logits" in keep else None,
                _attention=_attention(captured, row, n, masks),
                _layered=_shaped(anatomy, _layered(captured.layered, row, n, width)),
                _routes=_routes(captured, row, n, output.ids.shape) if "routes" in keep else None,
                _gradients=_shaped(anatomy, _layered(derivatives, row, n, width)),
                notes=_notes(anatomy, captured, logits, row, n),
                special=tuple(sorted(special.intersection(ids))),
            )
        )
    return traces


def check_states(anatomy: Anatomy, keep: Sequence[str], tokens: int, device: str, name: str) -> None:
    """Raise NotEnoughMemory, before anything runs, where recurrent states of so many tokens would not fit.

    A layer has a state for each token, which is as large as all it keeps of a text: there is no small form of it.
    """
    if "state" not in keep:
        return
    needed, free = (
        2 * state_bytes(anatomy, tokens),
        free_bytes(device),
    )  # as the pass leaves them, and as a Trace has them
    if needed > free * STATES_SHARE:
        one = state_bytes(anatomy, 1)
        most = int(free * STATES_SHARE) // (2 * one)
        raise NotEnoughMemory(
            f"The states of {name} take {human_bytes(one)} a token, and for {tokens:,} tokens {human_bytes(needed)} would be "
            f"needed, of which {human_bytes(free)} are free on {device}; give up to {most:,} tokens, or change states by "
            "lab.edit, which keeps none."
        )


def of_pass(
    tokenizer: PreTrainedTokenizerBase, anatomy: Anatomy, ids: Sequence[int], captured: Captured, name: str
) -> Trace:
    """The Trace of one text from a pass that was made for something else, such as the first of generating; its logits are not
    in it. captured: what `observing` has of that pass, alone in its batch."""
    return Trace(
        tokens=token_strings(tokenizer, list(ids)),
        ids=list(ids),
        model=name,
        family=anatomy.family,
        layers=len(anatomy.layers),
        heads=[layer.heads or 0 for layer in anatomy.layers],
        kv_heads=[layer.kv_heads or 0 for layer in anatomy.layers],
        keep=tuple(captured.layered),
        reasons={what: reason for what, reason in anatomy.support.items() if reason is not None},
        causal=anatomy.causal,
        _layered=_layered(captured.layered, 0, len(ids), len(ids)),
    )


# derivatives ----------------------------------------------------------------------------------------------------------


def _check_gradients(model: PreTrainedModel, keep: Sequence[str], gradients: Scalar) -> None:
    if not callable(gradients):
        raise BadInput(
            "gradients is to be a function of the logits (T, vocabulary) that gives a scalar, such as "
            "lambda logits: logits[-1, 42]."
        )
    if not differentiable(keep):
        names = ", ".join(dict.fromkeys(row.keep for row in INSTRUMENTS if row.put is not None))
        raise BadInput(f"keep={tuple(keep)!r} holds nothing a derivative can be taken by; keep one of {names}.")
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise Unavailable(
            "This model was loaded under torch.inference_mode, and autograd can't go through its weights; load it outside."
        )


def _derivatives(
    gradients: Scalar, logits: torch.Tensor, lengths: Sequence[int], captured: Captured
) -> tuple[list[float | None], dict[str, dict[int, torch.Tensor]]]:
    """Each text's scalar, and the derivatives by all that was tracked: as the tracked, batch first.

    The texts of a list do not depend on each other, so the derivative of the sum has each text's own in its row.
    """
    with torch.inference_mode(False), torch.enable_grad():
        scalars = [_scalar(gradients, logits[row, :n].float()) for row, n in enumerate(lengths)]
        tracked = [(name, layer, x) for name, by_layer in captured.live.items() for layer, x in by_layer.items()]
        found = torch.autograd.grad(torch.stack(scalars).sum(), [x for *_, x in tracked], allow_unused=True)
    derivatives: dict[str, dict[int, torch.Tensor]] = {}
    for (name, layer, x), value in zip(tracked, found, strict=True):
        derivatives.setdefault(name, {})[layer] = torch.zeros_like(x) if value is None else value.detach()
    captured.live.clear()  # and the graph with it
    return [float(scalar.detach()) for scalar in scalars], derivatives


def _scalar(gradients: Scalar, logits: torch.Tensor) -> torch.Tensor:
    given = gradients(logits)
    if not isinstance(given, torch.Tensor) or given.numel() != 1:
        shape = f" of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else ""
        raise BadInput(f"gradients returned a {type(given).__name__}{shape}; return a tensor with one number.")
    if not given.requires_grad:
        raise BadInput(
            "What gradients returned does not depend on the logits it was given; compute it from them with torch."
        )
    if not math.isfinite(float(given.detach())):
        raise BadInput(f"gradients returned {float(given.detach())}; choose a scalar that is a finite number.")
    return given.reshape(()).double()


# parts of a Trace -----------------------------------------------------------------------------------------------------


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
                same = (
                    m for m in self.known.values() if m is not None and m.shape == kept.shape and torch.equal(m, kept)
                )
                self.known[key] = next(same, kept)
        return self.known[key]


def _attention(captured: Captured, row: int, n: int, masks: _Masks) -> dict[int, LayerAttention]:
    found = {layer: LayerAttention(pattern=alone(p[row, :, :n, :n])) for layer, p in captured.patterns.items()}
    for layer, call in captured.attention.items():
        found[layer] = called_with(call, row, n, masks.of(visible(call), row, n))
    return found


def _layered(
    kept: dict[str, dict[int, torch.Tensor]], row: int, n: int, width: int
) -> dict[str, dict[int, torch.Tensor]]:
    """One text's part of what was kept: (..., T, d). The last columns, since virtual tokens stand before a text's own."""
    return {
        kind: {i: alone(t[row, ..., -width:, :][..., :n, :]) for i, t in by_layer.items()}
        for kind, by_layer in kept.items()
    }


def _shaped(anatomy: Anatomy, kept: dict[str, dict[int, torch.Tensor]]) -> dict[str, dict[int, torch.Tensor]]:
    """What each token has in its own shape, where it passed as a row of numbers."""
    for kind, by_layer in kept.items():
        for layer, tensor in by_layer.items():
            if (shape := BY_NAME[kind].shape_of(anatomy, layer)) is not None:
                by_layer[layer] = tensor.unflatten(-1, shape)
    return kept


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


def _notes(anatomy: Anatomy, captured: Captured, logits: torch.Tensor, row: int, n: int) -> tuple[str, ...]:
    """What a reader of the trace should know. logits: of the last tokens, or of all."""
    notes = []
    if not anatomy.on_interface and anatomy.support["attention"] is None:
        family = anatomy.family
        notes.append(f"{family} is off the shared attention interface: its patterns were computed eagerly in this pass")
    if not anatomy.causal:
        notes.append(
            f"this {anatomy.family} looks at later tokens too; its logits are no predictions of the next token"
        )
    for layer, call in sorted(captured.attention.items()):
        # a maximum is NaN when anything in it is, and needs no copy as large as the tensor
        if any(bool(x[row, :, :n].amax().isnan()) for x in (call.query, call.key)):
            notes.append(f"queries or keys hold NaN from layer {layer} on: a weight is NaN, or the dtype too narrow")
            break
    if captured.routes and any(layer.router is not None and layer.router.in_attention for layer in anatomy.layers):
        notes.append(f"attention in {anatomy.family} is a mixture of experts too; the routes are those of the MLPs")
    if (broken := logits.amax(-1).isnan()).any():
        first = n - len(logits) + int(broken.nonzero()[0])
        notes.append(f"the logits hold NaN from token {first} on: a weight is NaN, or the dtype too narrow")
    return tuple(notes)
