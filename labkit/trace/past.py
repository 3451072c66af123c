"""Keys and values of tokens a model has read, so that another run may begin behind them.

transformers' cache grows by one token a step and belongs to one run. A `Past` is one text's part of it: the keys and
values of its first tokens in each layer, as views into the run's own tensors. Cutting it costs nothing, and a run that
begins with it copies what it takes, so that several may share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from labkit.trace.turns import changes_on, steady

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

Layer = tuple[torch.Tensor, torch.Tensor]  # keys and values, (1, kv_heads, tokens, d_head); widths may differ


@dataclass(frozen=True, eq=False)
class Past:
    """Keys and values of a text's first `tokens` tokens. layers: None for one that keeps nothing of its own."""

    tokens: int
    layers: tuple[Layer | None, ...] = field(repr=False)

    def first(self, tokens: int) -> Past:
        """Those of fewer tokens, sharing memory with these."""
        if tokens >= self.tokens:
            return self
        layers = tuple(None if one is None else (one[0][:, :, :tokens], one[1][:, :, :tokens]) for one in self.layers)
        return Past(max(tokens, 0), layers)

    @property
    def size_bytes(self) -> int:
        """Of these tokens alone; the tensors they are views of may hold more."""
        return sum(tensor.numel() * tensor.element_size() for layer in self.layers for tensor in layer or ())


def in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two texts begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def pasts_of(cache: object, padding: Sequence[int]) -> tuple[list[Past], str]:
    """Each text's part of a run's cache, without the padding before it; or none, and the reason.

    A layer is taken that keeps keys and values of all tokens so far: no window that is full, no state, nothing quantized.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

    if type(cache) is not DynamicCache:
        kind = "nothing" if cache is None else f"a {type(cache).__name__}" if hasattr(cache, "layers") else "a state"
        return [], f"this model keeps {kind}, which can't be cut at a token"
    layers: list[Layer | None] = []
    width = 0
    for layer in cache.layers:
        if type(layer) is DummyLayer or (type(layer) is DynamicLayer and not layer.is_initialized):
            layers.append(None)  # it reads what another layer keeps
            continue
        if not isinstance(layer, DynamicLayer) or type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return [], f"layers of this model keep a {type(layer).__name__}, which can't be cut at a token"
        keys, values = layer.keys, layer.values
        width = width or cache.get_seq_length()
        if keys is None or values is None or keys.shape[-2] != width:
            return [], "layers of this model keep a window of tokens alone, and earlier ones are gone"
        layers.append((keys, values))
    if not width or not any(layers):
        return [], "this model kept nothing of what it read"
    return [
        Past(width - pad, tuple(None if one is None else _row(one, row, pad) for one in layers))
        for row, pad in enumerate(padding)
    ], ""


def _row(layer: Layer, row: int, pad: int) -> Layer:
    keys, values = layer
    return keys[row : row + 1, :, pad:], values[row : row + 1, :, pad:]


class Plan(NamedTuple):
    """How texts that are padded on the left go on from what was kept of them.

    columns: of the padded batch that are not run again.  reused: how many tokens of each text stand there.
    """

    columns: int
    reused: list[int]


def plan(lengths: Sequence[int], pasts: Sequence[Past | None], *, least: int = 1) -> Plan:
    """As many columns as all texts can spare; at least `least` tokens of each are run."""
    width = max(lengths)
    kept = [0 if past is None else past.tokens for past in pasts]
    run = max(max(length - have, least) for length, have in zip(lengths, kept, strict=True))
    columns = max(width - run, 0)
    return Plan(columns, [max(columns - (width - length), 0) for length in lengths])


def cache_of(model: PreTrainedModel, pasts: Sequence[Past | None], plan: Plan) -> Cache | None:
    """The cache that a run over a batch begins with: of each text the planned tokens, behind its padding."""
    from transformers import DynamicCache

    real = [past for past, count in zip(pasts, plan.reused, strict=True) if past is not None and count]
    if not plan.columns or not real:
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    for number in range(len(real[0].layers)):
        some = next((past.layers[number] for past in real if past.layers[number] is not None), None)
        if some is None:
            continue
        parts: list[Layer] = []
        for past, count in zip(pasts, plan.reused, strict=True):
            own = past.layers[number] if past is not None and count else None
            padded = [_behind(one[:, :, :count], plan.columns - count) for one in own] if own else None
            # a text of which nothing is taken over has padding there, which is masked
            parts.append(
                (padded[0], padded[1]) if padded else (_empty(some[0], plan.columns), _empty(some[1], plan.columns))
            )
        keys, values = (torch.cat(each) if len(each) > 1 else each[0] for each in zip(*parts, strict=True))
        cache.update(keys, values, number)
    return cache


def _behind(tensor: torch.Tensor, padding: int) -> torch.Tensor:
    return torch.cat([_empty(tensor, padding), tensor], dim=2) if padding else tensor


def _empty(like: torch.Tensor, columns: int) -> torch.Tensor:
    return like.new_zeros(1, like.shape[1], columns, like.shape[3])


# whose keys and values they are ---------------------------------------------------------------------------------------


class State(NamedTuple):
    """What a model was when something was kept of it. changes: the edits and adapters that were on."""

    changes: tuple[object, ...]
    weights: int

    def holds(self, now: State) -> bool:
        """Whether what was kept is what the model would compute now: the same changes are on, and no weight was written to.

        An edit may hold for the newest token alone, which is another one when tokens are run again. So nothing is shared
        while one is on; an adapter is the same for every token.
        """
        return self.changes == now.changes and steady(self.changes) and self.weights == now.weights


def state_of(model: PreTrainedModel) -> State:
    """Of a model: cheap enough to be asked at each run. What is written through `.data` or done by hooks leaves no mark."""
    marks = [
        (id(tensor), 0 if tensor.is_inference() else tensor._version, tensor.dtype, str(tensor.device))
        for tensor in [*model.parameters(), *model.buffers()]
    ]
    kernels = getattr(model.config, "_attn_implementation", None)
    return State(changes_on(model), hash((tuple(marks), kernels)))
