"""A window of the newest tokens in place of the whole text, with or without the first ones kept (StreamingLLM, Xiao et al. 2023,
2309.17453): as a mask at the attention, so that traces show it, and what it does to loss and to the cache.

Tokens that fall out of the window are masked; positions stay the true ones, while StreamingLLM counts them within its cache.
Within a model's trained length the two differ in how far away the first tokens seem, and in nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit import checks
from labkit.context.long_losses import DRAWS, LEAST
from labkit.context.long_texts import as_documents, check_room, read_losses
from labkit.errors import BadInput, Unavailable
from labkit.generation.caches import read_cache
from labkit.models.config import first_number
from labkit.models.memory import cache_bytes
from labkit.results import Result
from labkit.statistics import interval, resampled
from labkit.trace import running
from labkit.trace.edits import ModelEdit
from labkit.trace.interface import Call, tapped
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import LabLike


def windowed(window: int, sinks: int = 0) -> ModelEdit:
    """An edit by which each token sees the newest `window` tokens, itself included, and the first `sinks` of the text.

    `with lab.edit(lk.context.windowed(256, sinks=4)): ...`. Holds in every layer, for traces, generation and cached runs; layers
    with a window of their own keep the narrower of the two, and so do several such edits. The cache itself keeps all: what it
    could drop is what no later token sees, and `streaming` counts it.
    `lab.edit` raises Unavailable where a model's attention can't be reached.
    """
    window, sinks = checks.whole("window", window, 1), checks.whole("sinks", sinks, 0)

    def check(lab: LabLike) -> None:
        if (reason := lab.anatomy.support.get("queries")) is not None:
            raise Unavailable(f"Attention of {lab.name} can't be given a window: {reason}.")
        if not lab.anatomy.causal:
            raise Unavailable(f"{lab.name} looks both ways, so that no token of it has a window of earlier ones.")
        own = first_number(lab.config, "sliding_window")
        if sinks and own is not None and own < (lab.context or own + 1):
            raise Unavailable(
                f"Layers of {lab.name} keep a window of {own:,} tokens, and the first ones leave its cache; give sinks=0."
            )
        # what computes attention elsewhere (linear attention, a state) is not reached by a mask
        elsewhere = [i for i, layer in enumerate(lab.anatomy.layers) if not layer.heads]
        if elsewhere:
            raise Unavailable(
                f"Layer {elsewhere[0]} of {lab.name} has no attention, and what it carries on is not cut by a window."
            )

    return ModelEdit(
        (f"a window of {window} tokens and {sinks} sinks",), lambda model: _masked(model, window, sinks), check
    )


@contextlib.contextmanager
def _masked(model: PreTrainedModel, window: int, sinks: int) -> Iterator[None]:
    with tapped(model, _Window(window, sinks)):
        yield


class _Window:
    """Listens at the attention, and narrows its mask."""

    def __init__(self, window: int, sinks: int) -> None:
        self.window, self.sinks = window, sinks

    def before(self, call: Call) -> None:
        if running.trying():
            return
        queries, keys = call.query.shape[2], call.key.shape[2]
        mask = call.mask
        if mask is None:
            mask = call.everything()
            if getattr(call.module, "is_causal", True) and queries > 1:
                mask = mask.tril(keys - queries)
        mask = mask[..., :keys]
        sees = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        # of several windows each counts by what was seen before the first: what one has cut would move the places of the next
        sees = call.shared.setdefault("seen without windows", sees)
        # places are counted among the keys that some query sees, so that padding and what a cache has not filled are none
        place = sees.any(-2, keepdim=True).long().cumsum(-1) - 1  # (..., 1, keys)
        here = (place * sees).amax(-1, keepdim=True)  # (..., queries, 1): its own, the last it sees
        kept = (here - place < self.window) | (place < self.sinks)
        call.mask = mask & kept if mask.dtype == torch.bool else mask.masked_fill(~kept, torch.finfo(mask.dtype).min)

    def after(self, _call: Call, output: torch.Tensor) -> torch.Tensor:
        return output


@dataclass(frozen=True, eq=False, repr=False)
class Streaming(Result):
    """Loss and cache with a window, with sinks besides, and with all; `streaming` tells the columns of the table."""

    model: str
    window: int
    sinks: int
    length: int
    documents: int
    draws: int
    seed: int

    def _title(self) -> str:
        return (
            f"{self.model} with a window of {self.window:,} tokens, with {self.sinks} sinks besides, and with all: "
            f"{self.documents} documents of {self.length:,} tokens"
        )

    def _remarks(self) -> Sequence[str]:
        return ("loss and change are of the tokens beyond the window, for which something fell out of it",)


def streaming(
    lab: LabLike,
    texts: object = None,
    *,
    window: int = 128,
    sinks: int = 4,
    tokens: int | None = None,
    documents: int = 5,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> Streaming:
    """What a window of the newest tokens costs, and what the first few tokens beside it give back.

    window: tokens each token sees, itself included.  sinks: first tokens seen besides.  "window alone" sees window + sinks
        newest ones, so that both see equally many.
    tokens: of each document; None for the model's context, 1,024 at most.  texts, documents: as in `loss_by_position`.
    Returns a row for "all", "window" and "window and sinks": kept, loss (nats a token, of the tokens beyond the window; with
    low and high, 95 % by documents drawn again), change (from "all", with change_low and change_high), cache_bytes (of a real
    cache with as many tokens as are still seen at the end), tokens_kept.
    Raises NotEnoughMemory before anything is run, Unavailable where attention can't be reached, BadInput.
    """
    import pandas as pd

    check_lab(lab)
    checks.flag("progress", progress)
    window, sinks = checks.whole("window", window, 1), checks.whole("sinks", sinks, 1)
    context = lab.context or 1024
    length = checks.whole("tokens", min(context, 1024) if tokens is None else tokens, 2, lab.context)
    if window + sinks >= length - 1:
        raise BadInput(
            f"A window of {window:,} tokens and {sinks} sinks leaves nothing out of {length:,} tokens; narrow it."
        )
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    check_room(lab, length)
    ids = as_documents(lab, texts, length, checks.whole("documents", documents, 1))
    both = window + sinks
    ways = {"all": (), "window": (windowed(both),), "window and sinks": (windowed(window, sinks),)}
    nats: dict[str, list[float]] = {}
    with running.Progress("windows", len(ids) * len(ways), "text", progress) as bar:
        for kept, edits in ways.items():
            for document in ids:
                with lab.edit(*edits), lab.turn():
                    losses = read_losses(lab, document)
                nats.setdefault(kept, []).append(float(losses[both:].mean()))
                bar.advance()
    if bar.interrupted:
        raise KeyboardInterrupt
    weights = resampled(np.zeros(len(ids), np.int64), draws, np.random.default_rng(seed)) / len(ids)
    rows = []
    for kept in ways:
        own, change = np.array(nats[kept]), np.array(nats[kept]) - np.array(nats["all"])
        ends = [interval(weights @ one) if len(ids) >= LEAST else (np.nan, np.nan) for one in (own, change)]
        count = length if kept == "all" else both
        with lab.turn():
            size = cache_bytes(read_cache(lab, min(count, context - 1)).cache)
        rows.append(
            {
                "kept": kept,
                "loss": float(own.mean()),
                "low": float(ends[0][0]),
                "high": float(ends[0][1]),
                "change": float(change.mean()),
                "change_low": float(ends[1][0]),
                "change_high": float(ends[1][1]),
                "cache_bytes": size,
                "tokens_kept": count,
            }
        )
    return Streaming(pd.DataFrame(rows), lab.name, window, sinks, length, len(ids), draws, seed)
