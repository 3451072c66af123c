"""The forward pass under way: its shape, and where the texts' tokens are in it.

Which token of a text lies where is read from what the model is called with, so that it is known with padding and with a KV
cache, when a pass sees the newest token only.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from labkit.errors import Unavailable
from labkit.trace import running

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.places import Place

PADDED_DIMENSIONS = 2  # of an attention mask that says which tokens are padding: (batch, tokens)


class Found(NamedTuple):
    """Where a place's tokens are in one text: how many it has, which of them are here, and at which index each is."""

    tokens: int
    which: list[int]
    indices: list[int]


@dataclass(frozen=True)
class TokenAxis:
    """Where the texts' tokens are along the token axis of a tensor.

    columns: the column of the padded batch, counted from the beginning of the cache, that each entry of the axis holds.
    rows: (column of the first token, tokens so far) of each text; None where it can't be known, and `why` says why.
    whole: this pass is all there will be of the texts, so a token beyond them does not exist.
    """

    columns: Sequence[int]
    rows: Sequence[tuple[int, int]] | None
    why: str = ""
    whole: bool = False

    def find(self, place: Place, row: int) -> Found:
        """Where the place's tokens are in one text."""
        assert self.rows is not None
        start, length = self.rows[row]
        wanted = place.positions(length)
        if place.tokens is None and isinstance(self.columns, range):  # the usual case, without a search
            first = max(start, self.columns.start)
            here = range(first, max(first, min(start + length, self.columns.stop)))
            return Found(length, [c - start for c in here], [c - self.columns.start for c in here])
        found = [
            (k, self.columns.index(start + p)) for k, p in enumerate(wanted) if start + p in self.columns and p < length
        ]
        return Found(len(wanted), [k for k, _ in found], [index for _, index in found])


class Pass:
    """The forward pass under way. `begin` and `end` are hooks of the modules a pass begins at."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: nn.Module = model
        self.family = str(model.config.get_text_config().model_type)
        # a pass begins at the model itself, at the one below a wrapper, or at a part of it that a user calls directly
        inner: nn.Module = running.language_model(model)
        base = getattr(inner, "base_model", inner)
        decoders = [part for name, part in base.named_children() if name == "decoder"]
        self.whole_models: list[nn.Module] = list(dict.fromkeys([model, inner]))
        self.entrances: list[nn.Module] = list(dict.fromkeys([model, inner, base, *decoders]))
        self.virtual = running.virtual_tokens(model)
        self.names = {module: inspect.signature(module.forward) for module in self.entrances}
        self.entered: nn.Module | None = None
        self.batch = self.tokens = 0
        self.token = (0, 0)  # of a layer that goes through its tokens one by one: at which it is, of how many
        self.past: int | None = 0
        self.whole = False
        self.kept: object = 0
        self.given: dict[str, object] = {}
        self.known: tuple[list[tuple[int, int]] | None, str] | None = None

    def begin(self, module: nn.Module, args: tuple[object, ...], keywords: dict[str, object]) -> None:
        """Before a pass: read its shape."""
        if self.entered is not None and module is not self.model:
            return
        self.entered = self.known = None  # until all is read
        given = self.names[module].bind_partial(*args).arguments | keywords
        inputs = given.get("inputs_embeds") if given.get("input_ids") is None else given["input_ids"]
        if not isinstance(inputs, torch.Tensor):
            return
        self.batch, self.tokens = inputs.shape[:2]
        self.past = _past(given, given.get("attention_mask"), self.tokens)
        self.whole = given.get("use_cache") is False and self.past == 0 and not running.generating()
        self.kept = given.get("logits_to_keep", 0)
        self.given = {name: given.get(name) for name in ("attention_mask", "position_ids")}
        self.entered = module

    def end(self, module: nn.Module, _args: object, _output: object) -> None:
        if module is self.entered:
            self.entered = None
            self.given = {}

    def split(self, tensor: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, d), also of a module that sees its tokens as one long list, as opt's MLP does.

        Virtual tokens (prompt tuning) stand before a text's own.
        """
        if self.entered is None:
            raise Unavailable("Edits hold for passes through the model; call lab.model(...) and not a layer of it.")
        rows = self.batch * self.tokens * tensor.shape[-1]
        with_virtual = rows + self.batch * self.virtual * tensor.shape[-1]
        if tensor.dim() > 3 or tensor.numel() not in (rows, with_virtual):
            raise Unavailable(
                f"What passes through {self.family} here, {tuple(tensor.shape)}, has no row for each of the {self.tokens} "
                "tokens it was given; look at the logits instead."
            )
        return tensor.reshape(self.batch, -1, tensor.shape[-1])

    def axis(self) -> TokenAxis:
        """Of a tensor with the tokens of this pass."""
        past = self.past or 0
        return TokenAxis(range(past, past + self.tokens), *self._rows(), self.whole)

    def token_axis(self) -> TokenAxis:
        """Of the state after the token that a recurrent layer is at."""
        at = (self.past or 0) + self.token[0]
        return TokenAxis(range(at, at + 1), *self._rows(), self.whole)

    def cached_axis(self, count: int) -> TokenAxis:
        """Of keys or values: all tokens up to now, then room of a static cache; or the latest, in a window."""
        width = (self.past or 0) + self.tokens
        first = 0 if count >= width else width - count
        return TokenAxis(range(first, first + count), *self._rows(), self.whole)

    def logits_axis(self, count: int) -> TokenAxis:
        """Of logits, which may be computed for some tokens only."""
        past = self.past or 0
        if isinstance(self.kept, torch.Tensor):
            return TokenAxis([past + int(i) % self.tokens for i in self.kept], *self._rows(), self.whole)
        width = past + self.tokens
        return TokenAxis(range(width - count, width), *self._rows(), self.whole)

    def _rows(self) -> tuple[list[tuple[int, int]] | None, str]:
        if self.known is None:
            self.known = self._read_rows(self.given.get("attention_mask"), self.given.get("position_ids"))
        return self.known

    def _read_rows(self, mask: object, positions: object) -> tuple[list[tuple[int, int]] | None, str]:
        if self.past is None:
            return None, f"{self.family} does not say how many tokens it has read before"
        width = self.past + self.tokens
        if mask is None:
            return [(0, width)] * self.batch, ""
        if isinstance(mask, torch.Tensor) and mask.dim() == PADDED_DIMENSIONS and mask.shape[1] >= width:
            real = mask[:, :width] != 0
            lengths = real.sum(1)
            first = real.int().argmax(1)
            last = width - 1 - real.flip(1).int().argmax(1)
            if bool(((last - first + 1 != lengths) & (lengths > 0)).any()):
                return None, "the attention mask leaves out tokens within a text"
            return list(zip(first.tolist(), lengths.tolist(), strict=True)), ""
        ready_made = not isinstance(mask, torch.Tensor) or mask.dim() > PADDED_DIMENSIONS
        if ready_made and isinstance(positions, torch.Tensor) and positions.dim() == PADDED_DIMENSIONS:
            # generate hands a static cache a mask ready for use; its positions tell the padding, which is on the left
            counts = (positions[:, -1] + 1).tolist()
            counts = counts * self.batch if len(counts) == 1 else counts
            return [(width - n, n) for n in counts], ""
        return None, "the attention mask does not tell which tokens are padding"


def _past(given: Mapping[str, object], mask: object, tokens: int) -> int | None:
    """How many tokens the model has read before this pass; None where that can't be known."""
    cache = given.get("past_key_values")
    if cache is not None and hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    if isinstance(mask, torch.Tensor) and mask.dim() == PADDED_DIMENSIONS and mask.shape[1] >= tokens:
        return mask.shape[1] - tokens
    states = [given[name] for name in ("cache_params", "state") if given.get(name) is not None]
    if any(not hasattr(state, "has_previous_state") or state.has_previous_state() for state in states):
        return None  # a recurrent state keeps no count
    return 0
