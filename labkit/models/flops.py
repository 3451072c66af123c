"""Floating-point operations of a forward pass, from the shapes of a model's modules and of what its attention is given.

What counts, as torch.utils.flop_counter counts it: a multiplication and an addition for each weight of a matrix product or
convolution, and for each pair of a query and a key it may see, for the scores and for the values. Norms, activations,
softmax and rotary embedding are left out: they are a small share, and what they take is memory traffic.

The architecture is built on torch's meta device (shapes without storage) and two tokens are passed through it. So heads
are counted as each layer really has them, and of routed experts only those chosen.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from labkit import checks
from labkit.errors import Unavailable
from labkit.models.config import CHOSEN, EXPERTS, QUERY_HEADS, by_layer, first_number
from labkit.models.memory import (
    ConfigKey,
    Countable,
    LayerCache,
    fingerprint,
    measure_cache,
    named_config,
    part,
    quiet,
    skeleton,
    text_config,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["Flops", "Pairs", "flops", "forward_flops"]

_one_at_a_time = threading.Lock()
_SHAPES = "labkit-shapes"  # an attention implementation that computes nothing and tells what it was given
_STATE = 5  # operations a token and element of a state: decay, the outer product put in (2), the product read out (2)
_DELTA = 7  # where what the state already has for a key is read first and taken off (2 more)


@dataclass(frozen=True)
class Pairs:
    """The attention of one layer.

    each: operations for one query and one key it sees, over all heads: 2 * heads * (d_head + d_value).
    window: the number of keys a query sees at most, its own among them; None for all before it.
    """

    each: int
    window: int | None = None

    def seen(self, tokens: int, past: int = 0) -> int:
        """Pairs of queries and keys in a pass over tokens that come after past others."""

        def upto(length: int) -> int:  # of the first length tokens
            if self.window is None or length <= self.window:
                return length * (length + 1) // 2
            return self.window * (self.window + 1) // 2 + (length - self.window) * self.window

        return upto(past + tokens) - upto(past)


@dataclass(frozen=True)
class Flops:
    """Operations of a model's forward pass, in the parts of which any length is made.

    weights: of one token's products with weights, without the unembedding; of routed experts the chosen ones.
    unembedding: of one position's logits.
    attention: of each layer that has attention.
    state: of one token, in all layers with a recurrent state that is a matrix (state space, linear attention): the token
        put in and read out, 5 operations an element, 7 with the delta rule. A state that is a vector is left out.
    notes: what a reader should know of these numbers.
    """

    name: str
    weights: int
    unembedding: int
    attention: tuple[Pairs, ...]
    state: int
    notes: tuple[str, ...] = ()

    def at(self, position: int) -> int:
        """Of the token at this position (from 0), all before it in the cache."""
        return self.forward(1, past=position)

    def forward(self, tokens: int, *, past: int = 0, logits: int | None = None) -> int:
        """Of a pass over tokens that follow past others; logits: the positions unembedded, None for all of tokens.

        A pass over n tokens takes what n passes over one token each take together.
        """
        tokens, past = checks.whole("tokens", tokens, 0), checks.whole("past", past, 0)
        unembedded = tokens if logits is None else checks.whole("logits", logits, 0, tokens)
        pairs = sum(layer.each * layer.seen(tokens, past) for layer in self.attention)
        return tokens * (self.weights + self.state) + unembedded * self.unembedding + pairs


def forward_flops(name_or_config: Countable, *, tokens: int, past: int = 0) -> int:
    """Floating-point operations of a forward pass of one sequence over tokens that follow past others in the cache.

    name_or_config: as of `memory`: a published name or hub id, a configuration or its fields, a folder, or a model.
    tokens=n is the prefill of n; tokens=1, past=t the step at position t. All tokens' logits are counted;
    flops(name).forward(n, logits=1) counts those of the last alone, as generating needs.
    The attention of a causal model is counted without the pairs it may not see (half of a prefill), and latents
    are made into keys and values once. What software does beyond that is not counted.
    Raises ModelNotFound, BadInput as `memory`; Unavailable where a layer's attention can't be told.
    """
    return flops(name_or_config).forward(tokens, past=past)


def flops(name_or_config: Countable) -> Flops:
    """The parts of a model's operations. Nothing is downloaded and no weight is allocated; arguments as `forward_flops`."""
    name, config = named_config(name_or_config)
    counted = _counted(ConfigKey(fingerprint(config), config))
    return Flops(name, counted.weights, counted.unembedding, counted.attention, counted.state, counted.notes)


@lru_cache(maxsize=256)
def _counted(key: ConfigKey) -> Flops:
    model = skeleton(key.config)
    text = text_config(key.config)
    calls, layers = _attention_calls(model, text)
    notes: tuple[str, ...] = ()
    attention = _pairs(text, calls, layers)
    state = sum(layer.state for layer in layers or ())
    delta = any("delta" in type(module).__name__.lower() for module in model.modules())
    if getattr(text, "kv_lora_rank", None):
        notes += ("Latents are counted as expanded once; transformers expands all of them again at each step.",)
    if state:
        notes += (
            f"A recurrent state of {state:,} elements: {_DELTA if delta else _STATE} operations each for a token.",
        )
    if getattr(text, "attention_chunk_size", None):
        notes += ("Attention within chunks is counted as a window of that size, the most that it takes.",)
    weights, unembedding = _products(model, text)
    return Flops("", weights, unembedding, attention, state * (_DELTA if delta else _STATE), notes)


# ----------------------------------------------------------------------------------------------------- with weights


def _products(model: PreTrainedModel, config: PreTrainedConfig) -> tuple[int, int]:
    """Operations of one token with all weights but the unembedding's, and with those."""
    import torch

    experts, chosen = first_number(config, *EXPERTS), first_number(config, *CHOSEN)
    unembedding = model.get_output_embeddings()
    elements = 0
    for path, module in model.named_modules():
        if module is unembedding or isinstance(module, torch.nn.Embedding):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if "bias" in name or "norm" in name:
                continue
            if part(path, type(module).__name__) == "experts" and not isinstance(module, torch.nn.Linear):
                if weight.dim() < 2:
                    continue
                elements += weight.numel() * chosen // experts if experts and chosen else weight.numel()
            elif isinstance(module, torch.nn.Linear | torch.nn.Conv1d) or _is_product(name, weight):
                elements += weight.numel()
    last = unembedding.weight.numel() if unembedding is not None else 0
    return 2 * elements, 2 * last


def _is_product(name: str, weight: torch.Tensor) -> bool:
    """A raw parameter that is multiplied as a matrix: a router's weight, GPT-2's Conv1D, block-diagonal gates."""
    return name.endswith("weight") and weight.dim() >= 2


# ---------------------------------------------------------------------------------------------------- between tokens


@dataclass(frozen=True)
class _Call:
    layer: int
    heads: int
    d_head: int
    d_value: int
    window: int | None


def _attention_calls(
    model: PreTrainedModel, config: PreTrainedConfig
) -> tuple[list[_Call], tuple[LayerCache, ...] | None]:
    """What each layer's attention is given in a pass over two tokens, and what its cache holds thereafter."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    calls: list[_Call] = []

    def told(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *_: object,
        **options: object,
    ) -> tuple[torch.Tensor, None]:
        window = options.get("sliding_window")
        calls.append(
            _Call(
                int(getattr(module, "layer_idx", len(calls)) or 0),
                query.shape[1],
                query.shape[-1],
                value.shape[-1],
                window if isinstance(window, int) and not isinstance(window, bool) else None,
            )
        )
        return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None

    if not model._can_set_attn_implementation():
        return calls, measure_cache(model, config)[0]
    with _one_at_a_time:  # the registry is one for all threads
        ALL_ATTENTION_FUNCTIONS[_SHAPES] = told
        # some caches take a second pass to measure, which is told of anew
        again = model.register_forward_pre_hook(lambda *_: calls.clear())
        try:
            for module in model.modules():
                own = getattr(module, "config", None)
                if own is not None and hasattr(own, "_attn_implementation_internal"):
                    own._attn_implementation_internal = _SHAPES
            with quiet():
                layers, _ = measure_cache(model, config)
        finally:
            again.remove()
            ALL_ATTENTION_FUNCTIONS.pop(_SHAPES, None)
    return calls, layers


def _pairs(config: PreTrainedConfig, calls: list[_Call], layers: tuple[LayerCache, ...] | None) -> tuple[Pairs, ...]:
    """Each layer's attention, from what it was given; of families off the interface, from heads and cache."""
    if calls and (layers is not None or len(calls) >= config.num_hidden_layers):
        return tuple(Pairs(2 * call.heads * (call.d_head + call.d_value), _window(call, layers)) for call in calls)
    if calls or layers is None:
        raise Unavailable(
            f"What the attention of {config.model_type!r} computes can't be told, since its layers can't be run without "
            "numbers; count a model of another family, or use torch.utils.flop_counter on a small one."
        )
    heads = by_layer(config, *QUERY_HEADS)
    size = first_number(config, "head_dim") or first_number(config, "hidden_size", "d_model", "n_embd") or 0
    found = []
    for index, layer in enumerate(layers):
        if not layer.growing and not layer.growing_bytes:
            continue
        count = heads[index] if index < len(heads) else None
        if not count or not size:
            raise Unavailable(
                f"The number of heads of {config.model_type!r} is not in its configuration; give one that says."
            )
        d_head = size if first_number(config, "head_dim") else size // count
        found.append(Pairs(4 * count * d_head, layer.limit + 1 if layer.limit else None))
    return tuple(found)


def _window(call: _Call, layers: tuple[LayerCache, ...] | None) -> int | None:
    if call.window is not None or layers is None or call.layer >= len(layers):
        return call.window
    limit = layers[call.layer].limit
    return None if limit is None else limit + 1
