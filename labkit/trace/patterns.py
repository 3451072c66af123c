"""Attention probabilities, computed when asked for from what a layer's attention was called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from labkit.trace.interface import Call

SEEN = ("sdpa", "eager")  # the implementations whose masks say all there is to say

# keywords of an attention call that are read here, or that change no score without a cache, dropout or packing
KNOWN = {
    *("scaling", "dropout", "is_causal", "position_bias", "softcap", "s_aux", "sliding_window", "output_attentions"),
    *("use_cache", "cache_position", "position_ids", "deterministic", "output_hidden_states", "return_dict"),
    *("output_router_logits", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "cache"),
}


@dataclass(frozen=True)
class LayerAttention:
    """What one layer's attention was computed from. Either query and key, or the pattern itself.

    query: (heads, T, d_head), after rotary embedding.  key: (kv_heads, T, d_head); each serves heads // kv_heads heads.
    mask: None for plain causal; (T, T) bool, True where a query (row) may see a key; or (1 | heads, T, T), added to the
        scores.  sink: (heads,) scores of a place outside the text that takes part of the attention.
    softcap: scores are softcap · tanh(scores / softcap).  pattern: (heads, T, T), for architectures off the interface.
    """

    query: torch.Tensor | None = None
    key: torch.Tensor | None = None
    scaling: float = 1.0
    mask: torch.Tensor | None = None
    sink: torch.Tensor | None = None
    softcap: float | None = None
    pattern: torch.Tensor | None = None

    @property
    def heads(self) -> int:
        source = self.query if self.pattern is None else self.pattern
        assert source is not None
        return source.shape[0]

    @property
    def kv_heads(self) -> int | None:
        """None where only the pattern is known."""
        return None if self.key is None else self.key.shape[0]


def window(mask: torch.Tensor) -> int | None:
    """The width of a sliding window: each query sees itself and the width − 1 tokens before it. None for other masks.

    mask: (T, T) bool, True where a query may see a key; or (..., T, T), added to the scores.
    """
    allowed = mask if mask.dtype is torch.bool else mask > torch.finfo(mask.dtype).min / 2
    allowed = allowed.reshape(-1, *allowed.shape[-2:])[0]
    width = int(allowed[-1].sum())
    banded = torch.ones_like(allowed).tril().triu(1 - width)
    return width if width < len(allowed) and bool((allowed == banded).all()) else None


def pattern(a: LayerAttention, *, head: int | None = None, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Attention probabilities of one layer, float32.

    a.query: (heads, T, d_head).  a.key: (kv_heads, T, d_head); each serves heads // kv_heads query heads.
    Returns (heads, rows, T), or (rows, T) for one head; rows sum to 1 over the keys a query may see, less with a sink.
    Scaled dot-product attention, Vaswani et al. 2017, eq. 1; grouped heads, Ainslie et al. 2023; softcap, Gemma Team 2024.
    """
    if a.pattern is not None:
        whole = a.pattern if head is None else a.pattern[head : head + 1]
        chosen = (whole if rows is None else whole[:, rows]).float()
        return chosen if head is None else chosen[0]
    assert a.query is not None
    assert a.key is not None
    length = a.query.shape[1]
    group = a.query.shape[0] // a.key.shape[0]
    query = a.query if head is None else a.query[head : head + 1]
    key = a.key if head is None else a.key[head // group : head // group + 1]
    rows = torch.arange(length) if rows is None else rows
    rows = rows.to(query.device)
    # heads that share a key are one long list of queries to it: the keys need not be repeated
    together = query[:, rows].float().reshape(key.shape[0], query.shape[0] // key.shape[0] * len(rows), query.shape[-1])
    scores = (together @ key.float().transpose(-1, -2) * a.scaling).reshape(query.shape[0], len(rows), key.shape[1])
    if a.softcap is not None:
        scores = a.softcap * torch.tanh(scores / a.softcap)
    if a.mask is None:
        allowed = torch.arange(key.shape[1], device=rows.device)[None] <= rows[:, None]
        scores = scores.masked_fill(~allowed, -torch.inf)
    elif a.mask.dtype is torch.bool:
        scores = scores.masked_fill(~a.mask[..., rows, :], -torch.inf)
    else:
        mask = a.mask if head is None or a.mask.shape[0] == 1 else a.mask[head : head + 1]
        scores = scores + mask[:, rows].float()
    if a.sink is not None:
        sink = (a.sink if head is None else a.sink[head : head + 1]).float()
        scores = torch.cat([scores, sink[:, None, None].expand(-1, scores.shape[1], 1)], -1)
        probabilities = scores.softmax(-1)[..., :-1]
    else:
        probabilities = scores.softmax(-1)
    return probabilities if head is None else probabilities[0]


def called_with(call: Call, row: int, n: int, mask: torch.Tensor | None) -> LayerAttention:
    """What one text's attention in a call is computed from: its row of the batch, its first n tokens.

    mask: as `LayerAttention` has it, from `visible`.
    """
    scaling, softcap, sink = (call.options.get(name) for name in ("scaling", "softcap", "s_aux"))
    return LayerAttention(
        query=alone(call.query[row, :, :n]),
        key=alone(call.key[row, :, :n]),
        scaling=float(scaling) if isinstance(scaling, int | float | torch.Tensor) else call.query.shape[-1] ** -0.5,
        mask=mask,
        sink=sink.detach().flatten().clone() if isinstance(sink, torch.Tensor) else None,
        softcap=float(softcap) if isinstance(softcap, int | float) and softcap else None,
    )


def visible(call: Call) -> torch.Tensor | None:
    """Which keys each query of a call may see, and what is added to its scores; None for the plain causal mask.

    (batch | 1, heads | 1, T, keys), bool or added to the scores. Where no mask is given, sdpa takes the causal one
    unless the call or its module says otherwise, and eager attention takes none at all.
    """
    mask, bias = call.mask, call.options.get("position_bias")
    if mask is None:
        causal = call.options.get("is_causal")
        causal = getattr(call.module, "is_causal", True) if causal is None else causal
        if call.implementation == "sdpa" and causal:
            if bias is None:
                return None
            mask = torch.ones(call.query.shape[2], call.key.shape[2], dtype=torch.bool, device=call.query.device)
            mask = mask.tril()[None, None]
        else:
            mask = call.everything()
    if not isinstance(bias, torch.Tensor):
        return mask
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else bias + mask


def mixed(a: LayerAttention, values: torch.Tensor) -> torch.Tensor:
    """(heads, T, d_value) float32: what the heads put out, by the pattern. values: (kv_heads, T, d_value)."""
    weights = pattern(a)
    return weights @ values.float().repeat_interleave(weights.shape[0] // values.shape[0], 0)


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, holding no more memory than its own: a view of a larger one is copied."""
    tensor = tensor.detach()
    fits = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if fits else tensor.clone(memory_format=torch.contiguous_format)


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """One text's part of a batch, without the batch; the whole of a batch of one is not copied."""
    return own(tensor).contiguous()
