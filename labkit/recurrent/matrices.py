"""The hidden attention of a state space: how much each token of its output takes of each token before.

A state space reads its text through a state, yet with all decays multiplied out its output is a matrix over the tokens times its
inputs, as attention's is (Ali, Zimerman and Wolf 2024, arXiv 2403.01590, equations 9 to 13; for one decay a head Dao and Gu 2024,
arXiv 2405.21060). The matrix is exact and depends on the text; its weights have signs and don't sum to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import checks
from labkit.errors import BadInput, NotEnoughMemory, Unavailable
from labkit.models.hardware import free_bytes
from labkit.models.memory import human_bytes
from labkit.trace.lab_like import check_lab
from labkit.trace.record import LayerAttention, Trace
from labkit.trace.recurrences import ChunkScan, Listener, SelectiveScan, Steps, Wkv, is_visited, listening

if TYPE_CHECKING:
    from labkit.trace.lab_like import TracingLab

__all__ = ["HiddenAttention", "HiddenLayer", "hidden_attention"]

SHARE = 0.8  # of free memory that the matrices of a trace may take
AT_ONCE = 2**24  # numbers of a block of matrices under way


@dataclass(frozen=True, repr=False)
class HiddenLayer:
    """One layer's. There are as many matrices as it has decays: one for each channel (Mamba, RWKV), or each head (Mamba-2).

    values: (matrices, T, d), what the matrices are multiplied with: the layer's inputs after its short convolution (d = 1 where
        each channel has a matrix of its own).
    outputs: (matrices, T, d), what the layer's own function put out for the text.
    gate: (matrices, T, 1), by which that function multiplies what the matrices give; None where it does not.
        So outputs = gate · (weights(...) @ values), which tests hold to 1e-5.
    """

    layer: int
    values: Tensor
    outputs: Tensor
    gate: Tensor | None
    _steps: SelectiveScan | ChunkScan | Wkv

    def __repr__(self) -> str:
        return f"HiddenLayer({self.layer}, {self.matrices} matrices of {self.tokens} by {self.tokens} tokens)"

    @property
    def matrices(self) -> int:
        return self.values.shape[0]

    @property
    def tokens(self) -> int:
        return self.values.shape[1]

    def weights(self, which: int | slice | Sequence[int] | None = None) -> Tensor:
        """(matrices, T, T) float32: row t has how much token t takes of each token s; 0 for later ones. For one, (T, T).

        which: the numbers of channels, or of heads; all when None. The direct way past the state (D x) is on the diagonal.
        Raises BadInput for one that is not there.
        """
        if (one := checks.as_whole(which)) is not None:
            return self.weights([checks.index("matrix", one, self.matrices)])[0]
        wanted = slice(None) if which is None else which
        chosen = checks.indices("which", "matrix", wanted, self.matrices)
        if not chosen:
            checks.refuse("which", which, "at least one matrix")
        return _weights(self._steps, torch.tensor(chosen))

    def pattern(self, heads: int) -> Tensor:
        """(heads, T, T), as attention is drawn: magnitudes, each row divided by its sum; neighbouring matrices share a head, in
        which each counts by its own rows."""
        found = torch.zeros(heads, self.tokens, self.tokens)
        for head, group in enumerate(torch.arange(self.matrices).tensor_split(heads)):
            size = max(1, AT_ONCE // (self.tokens**2 * self._numbers))
            for some in group.split(size):
                magnitudes = _weights(self._steps, some).abs()
                rows = magnitudes.sum(-1, keepdim=True)
                found[head] += torch.where(rows > 0, magnitudes / rows.clamp(min=1e-30), 0.0).sum(0)
            found[head] /= len(group)
        return found

    @property
    def _numbers(self) -> int:
        return self._steps.A.shape[-1] if isinstance(self._steps, SelectiveScan) else 1


@dataclass(frozen=True, repr=False)
class HiddenAttention:
    """The hidden attention of a text: `hidden[5]` is layer 5's.

    layers: by number.  trace: magnitudes as patterns, rows summing to 1, for `lk.views.attention` and all that reads a Trace's
    attention; neighbouring channels share a head. Signs and lengths of rows are lost in it; `hidden[5].weights()` has them.
    """

    layers: dict[int, HiddenLayer]
    heads: int
    _seen: Trace

    def __repr__(self) -> str:
        return f"HiddenAttention of {self._seen.model}, layers {', '.join(map(str, self.layers))}, {len(self._seen)} tokens"

    def __getitem__(self, layer: int) -> HiddenLayer:
        if layer not in self.layers:
            there = ", ".join(map(str, self.layers))
            raise BadInput(f"There is no hidden attention of layer {layer}: layers {there} were looked at.")
        return self.layers[layer]

    @property
    def trace(self) -> Trace:
        """A Trace of these patterns, made anew each time."""
        count = self._seen.layers
        heads = [self.heads if layer in self.layers else 0 for layer in range(count)]
        return replace(
            self._seen,
            heads=heads,
            kv_heads=heads,
            keep=("attention", "logits"),
            reasons={what: why for what, why in self._seen.reasons.items() if what != "attention"},
            layer_reasons={},
            _attention={n: LayerAttention(pattern=layer.pattern(self.heads)) for n, layer in self.layers.items()},
            notes=(
                *self._seen.notes,
                "hidden attention of a recurrence: magnitudes of its token-to-token matrices, rows divided by their sums",
            ),
        )


def hidden_attention(
    lab: TracingLab, text: object, layers: int | Sequence[int] | None = None, *, heads: int | None = None
) -> HiddenAttention:
    """The token-to-token matrices of a text in recurrent layers, exactly.

    text: one text, ids, messages or a Generation.  layers: which; all that have such a matrix when None.
    heads: how many the channels are drawn as in `.trace`; by default 8, or a Mamba-2 layer's own.
    For Mamba (also Falcon-Mamba, Jamba), Mamba-2 (also Bamba, Falcon-H1, Granite, Nemotron-H, Zamba2) and RWKV v4, whose matrix
    is a softmax in each channel by itself. The state under way is not needed, so memory grows with T² for what is asked for.
    Raises Unavailable for a model or layer without (a gated delta rule's has no such closed form here), BadInput for several
    texts, NotEnoughMemory for patterns that would not fit.
    """
    check_lab(lab)
    with lab.turn():
        anatomy = lab.anatomy
        if reason := anatomy.support.get("state"):
            raise Unavailable(f"{lab.name} has no hidden attention: {reason}.")
        there = {n: layer.recurrence for n, layer in enumerate(anatomy.layers) if layer.recurrence is not None}
        wanted = list(there) if layers is None else _chosen(layers, len(anatomy.layers))
        if missing := [n for n in wanted if n not in there]:
            known = checks.listed(there)
            raise Unavailable(f"Layer {missing[0]} of {lab.name} has no recurrent state; layers {known} have one.")
        if anatomy.shares_parts or len({id(there[n].module) for n in there}) < len(there):
            raise Unavailable(f"Layers of {lab.name} share their parts, so calls can't be told apart; look at `state`.")
        if edited := [n for n in wanted if is_visited(there[n].module)]:
            raise Unavailable(
                f"The state of layer {edited[0]} is edited, and no matrix of a text's inputs has that in it; leave that edit."
            )
        calls: dict[int, tuple[Steps | None, object]] = {}

        def look(module: nn.Module, _function: str, steps: Steps | None, output: object) -> None:
            calls[id(module)] = (steps, output)

        with listening([there[n].module for n in wanted], Listener(look=look)):
            seen = lab.trace(text, keep="logits")
    if not isinstance(seen, Trace):
        raise BadInput("Hidden attention is of one text; call it for each of a list.")
    found = {n: _layer(n, *calls[id(there[n].module)], lab.name) for n in wanted}
    matrices = {layer.matrices for layer in found.values()}
    own = isinstance(next(iter(found.values()))._steps, ChunkScan) and len(matrices) == 1
    count = (
        (next(iter(matrices)) if own else min(8, *matrices))
        if heads is None
        else checks.whole("heads", heads, 1, min(matrices))
    )
    needed, free = 4 * len(found) * count * len(seen) ** 2, free_bytes("cpu")
    if needed > SHARE * free:
        raise NotEnoughMemory(
            f"Patterns of {len(found)} layers, {count} heads and {len(seen):,} tokens need {human_bytes(needed)}, and "
            f"{human_bytes(free)} are free; name fewer layers or heads, or give a shorter text."
        )
    return HiddenAttention(found, count, seen)


def _chosen(layers: object, count: int) -> list[int]:
    given = [layers] if checks.as_whole(layers) is not None else checks.series("layers", layers, "numbers of layers")
    if not given:
        checks.refuse("layers", layers, "at least one layer")
    return [checks.index("layer", each, count) for each in given]


def _layer(layer: int, steps: Steps | None, output: object, name: str) -> HiddenLayer:
    """What a call of a recurrence says, of its one text."""
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor) or not isinstance(steps, SelectiveScan | ChunkScan | Wkv):
        raise Unavailable(
            f"Layer {layer} of {name} corrects what it has stored (a gated delta rule), which no matrix of its inputs alone is; "
            "look at `state`."
        )
    gate = None
    with torch.no_grad():
        if isinstance(steps, SelectiveScan):
            values, outputs = steps.x[0][..., None], first[0][..., None]
            z = steps.given.get("z")
            gate = F.silu(z)[0][..., None] if isinstance(z, Tensor) else None
        elif isinstance(steps, ChunkScan):
            values, outputs = steps.x[0].transpose(0, 1), first[0].transpose(0, 1)
        else:
            values, outputs = steps.value[0].T[..., None], first[0].T[..., None]
    values, outputs = values.detach().float().cpu(), outputs.detach().float().cpu()
    return HiddenLayer(layer, values, outputs, None if gate is None else gate.float().cpu(), steps)


def _weights(steps: SelectiveScan | ChunkScan | Wkv, which: Tensor) -> Tensor:
    """(which, T, T) of the first text of a call."""
    which = which.to(steps.start.device)
    with torch.no_grad():
        length = steps.tokens
        later = torch.ones(length, length, dtype=torch.bool, device=which.device).triu(1)
        if isinstance(steps, Wkv):
            at = torch.arange(length, device=which.device)
            age = at[:, None] - at - 1
            key, decay = steps.key[0].T[which].float(), steps.decay[which].float()  # the decay is below 0
            logits = key[:, None] + age * decay[:, None, None]
            own = (key + steps.first[which].float()[:, None]).diag_embed()
            logits = torch.where(torch.eye(length, dtype=torch.bool, device=which.device), own, logits)
            return logits.masked_fill(later, -torch.inf).softmax(-1).cpu()
        if isinstance(steps, ChunkScan):
            dt = steps.dt[0].T[which]  # (which, T)
            read, write = (part[0].transpose(0, 1)[which].float() for part in (steps.C, steps.B))
            rate = torch.as_tensor(steps.given["A"])[which].float()[:, None]
            passed = (rate * dt).cumsum(-1)
            found = (read @ write.transpose(1, 2)) * _between(passed, later) * dt[:, None]
        else:
            dt = steps.dt[0][which].float()
            found = torch.zeros(len(which), length, length, device=which.device)
            passed = dt.cumsum(-1)
            for n in range(steps.A.shape[1]):  # one number of the state at a time
                both = steps.C[0, :, n, None].float() * steps.B[0, None, :, n].float()
                found += both * _between(steps.A[which, n, None].float() * passed, later)
            found *= dt[:, None]
        if isinstance(D := steps.given.get("D"), Tensor):
            found += D[which].float()[:, None, None] * torch.eye(length, device=which.device)
        return found.cpu()


def _between(passed: Tensor, later: Tensor) -> Tensor:
    """exp of what has passed from token s to token t. passed: (which, T), its sums so far."""
    return (passed[:, :, None] - passed[:, None, :]).masked_fill(later, -torch.inf).exp()
