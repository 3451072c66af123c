"""Runs in which some edges hand on another text's activations, with the very inputs changed.

A row of a pass enters a layer with what one of its inputs is to read, and behind the projections a head's queries, keys and
values are brought together from the rows that made them. Inputs that read the same share a row, so that a set in which few edges
are chosen, or nearly all, costs two or three rows and not one for each input of a layer's heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from labkit.circuits.contrasts import Both, Contrast
from labkit.circuits.edges import WRITTEN, Edges
from labkit.errors import Unavailable
from labkit.trace import running
from labkit.trace.edits import Site, installed
from labkit.trace.pairs import patched_value

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.circuits.parts import Base
    from labkit.trace.anatomy import Anatomy
    from labkit.trace.passes import TokenAxis

BLOCK = 64  # sets whose rows are shared out at once
HELD = 2**28  # bytes of what the senders of all sets in a pass wrote


def run_edges(
    model: PreTrainedModel,
    anatomy: Anatomy,
    edges: Edges,
    contrast: Contrast,
    base: Base,
    sets: Sequence[np.ndarray],
    advance: running.Progress | None = None,
) -> tuple[np.ndarray, Both]:
    """(sets,) the metric of the base text where along each set's edges the other text's activations are handed on."""
    if not running.answers_in_lists(model).even:
        raise Unavailable(
            f"Edges of this {anatomy.family} can't be patched: it answers otherwise in a list than alone, and each row of a "
            "pass is one input; take parts='heads'."
        )
    both = Both.take(model, anatomy, contrast, WRITTEN)
    ids, other = (contrast.clean, both.corrupted) if base == "clean" else (contrast.corrupted, both.clean)
    wrote = other["residual"][0]
    most = max(1, HELD // (len(edges.senders) * wrote.numel() * wrote.element_size()))
    found = np.zeros(len(sets))
    for numbers, wirings in _passes(edges, sets, running.tokens_a_pass(model) // len(ids), most):
        rewired = _Rewired(edges, other, wirings)
        with installed(model, anatomy, rewired.sites()):
            logits = running.forward(model, [ids] * (len(wirings) * rewired.rows)).all_logits
        for row, number in enumerate(numbers):
            found[number] = patched_value(contrast.metric, logits[row * rewired.rows])
            if advance is not None:
                advance.advance()
    return found, both


def rows_needed(edges: Edges, numbers: np.ndarray) -> int:
    """How many rows of a pass a set of edges takes."""
    return _wiring(edges, numbers).rows


class _Layer(NamedTuple):
    """Of one set, who reads what of a layer's rows.

    patterns: (reads, senders before it, positions or 1) bool: along which edges each row reads the other text.
    queries: (heads,) the row that holds what each head's queries read.  keys, values: (combinations,) the rows of which keys and
    values come, for each two of them that some head uses together.  together: (heads,) which of these a head uses.
    mlp: the row that an MLP beside the attention reads.
    """

    patterns: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    together: np.ndarray
    mlp: int


class _Wiring(NamedTuple):
    """One set. rows: that it takes.  layers: one each.  after: by layer, (senders, positions or 1) bool, what an MLP behind the
    attention reads along; the last one is the output's."""

    rows: int
    layers: list[_Layer]
    after: dict[int | None, np.ndarray]


def _wiring(edges: Edges, numbers: np.ndarray) -> _Wiring:
    chosen = np.zeros(edges.size, bool)
    chosen[numbers] = True
    at = edges.positions or 1
    layers: list[_Layer] = []
    after: dict[int | None, np.ndarray] = {}
    rows, start = 1, 0
    before = 1  # senders that wrote what enters the layer
    for layer, heads in enumerate(edges.heads):
        beside = edges.mlps[layer] and edges.parallel[layer]
        count = 3 * heads + beside
        block = chosen[start : start + count * before * at].reshape(count, before, at)
        start += block.size
        first, row_of = _distinct(block.reshape(count, -1))
        several = row_of[: 3 * heads].reshape(3, heads)
        pairs, together = np.zeros((2, 0), np.int64), np.zeros(0, np.int64)
        if heads:
            pairs, together = np.unique(several[1:], axis=1, return_inverse=True)
        patterns = block[first] if count else np.zeros((1, before, at), bool)
        layers.append(
            _Layer(patterns, several[0], pairs[0], pairs[1], together.reshape(-1), int(row_of[-1]) if beside else 0)
        )
        rows = max(rows, len(patterns), pairs.shape[1])
        before += heads
        if edges.mlps[layer] and not beside:
            after[layer] = chosen[start : start + before * at].reshape(before, at)
            start += before * at
        before += edges.mlps[layer]
    after[None] = chosen[start:].reshape(before, at)
    return _Wiring(rows, layers, after)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each different row of a table of bools first stands, and which of these each row is."""
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    packed = np.ascontiguousarray(np.packbits(rows, axis=1))
    whole = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def _passes(
    edges: Edges, sets: Sequence[np.ndarray], rows: int, most: int
) -> Iterator[tuple[list[int], list[_Wiring]]]:
    """The sets by number, as they share a pass: those that take as many rows together."""
    for start in range(0, len(sets), BLOCK):
        wirings = {n: _wiring(edges, sets[n]) for n in range(start, min(start + BLOCK, len(sets)))}
        group: list[int] = []
        for number in sorted(wirings, key=lambda n: wirings[n].rows):
            if group and (len(group) == most or (len(group) + 1) * wirings[number].rows > rows):
                yield group, [wirings[n] for n in group]
                group = []
            group.append(number)
        yield group, [wirings[n] for n in group]


class _Rewired:
    """One pass in which several sets of edges hand on other activations; each has as many rows as the one that takes most."""

    def __init__(self, edges: Edges, other: dict[str, dict[int, torch.Tensor]], wirings: Sequence[_Wiring]) -> None:
        self.edges, self.other, self.wirings = edges, other, wirings
        self.sets, self.rows = len(wirings), max(wiring.rows for wiring in wirings)
        self.stream = self.entered = torch.empty(0)  # (sets, T, d), (sets, rows, T, d)
        self.change = torch.empty(0)  # (sets, senders, T, d): other less current, of those that wrote
        self.number = {(sender.layer, sender.head): number for number, sender in enumerate(edges.senders)}

    def sites(self) -> list[Site]:
        layers = len(self.edges.heads)
        found = [Site("residual", layers, self._visit(self._leave))]
        for layer in range(layers):
            found.append(Site("residual", layer, self._visit(self._enter, layer)))
            if self.edges.heads[layer]:
                found += [
                    Site("queries", layer, self._visit(self._queries, layer)),
                    Site("keys", layer, self._visit(self._keys, layer)),
                    Site("values", layer, self._visit(self._values, layer)),
                    Site("head_output", layer, self._visit(self._heads, layer)),
                    Site("attention_output", layer, self._visit(self._attention, layer)),
                ]
            if self.edges.mlps[layer]:
                found.append(Site("mlp_output", layer, self._visit(self._mlp, layer)))
        return found

    def _visit(
        self, change: Callable[..., torch.Tensor], *arguments: int
    ) -> Callable[[torch.Tensor, TokenAxis], torch.Tensor]:
        """A change that is shown the rows of each set apart: (sets, rows, ...)."""

        def visit(whole: torch.Tensor, _axis: TokenAxis) -> torch.Tensor:
            rows = whole.reshape(self.sets, self.rows, *whole.shape[1:])
            return change(rows, *arguments).expand(rows.shape).reshape(whole.shape)

        return visit

    def _read(self, patterns: Sequence[np.ndarray]) -> torch.Tensor:
        """(sets, reads, T, d): the stream as it is, changed along the edges of each pattern, (reads, senders, positions or 1)."""
        chosen = torch.from_numpy(np.stack(patterns)).to(self.change)
        change = self.change[:, : chosen.shape[2]]
        moved: torch.Tensor
        if self.edges.positions is None:
            moved = (chosen[..., 0] @ change.flatten(2)).unflatten(-1, change.shape[2:])
        else:
            moved = torch.einsum("srct,sctd->srtd", chosen, change)
        return self.stream[:, None] + moved

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        """As many as a set has rows, the first of them again."""
        return np.concatenate([rows, np.repeat(rows[:1], self.rows - len(rows), 0)])

    def _of(self, layer: int, name: str, like: torch.Tensor) -> torch.Tensor:
        """(sets, n) row numbers of a layer."""
        numbers = [getattr(wiring.layers[layer], name) for wiring in self.wirings]
        padded = [self._padded(each) for each in numbers] if name in ("keys", "values") else numbers
        return torch.from_numpy(np.stack(padded)).to(like.device)

    def _each(self, like: torch.Tensor) -> torch.Tensor:
        return torch.arange(self.sets, device=like.device)[:, None]

    def _enter(self, rows: torch.Tensor, layer: int) -> torch.Tensor:
        if layer == 0:
            self.stream = rows[:, 0]
            self.change = rows.new_zeros(self.sets, len(self.edges.senders), *self.stream.shape[1:])
            self.change[:, 0] = self.other["residual"][0].to(rows) - self.stream
        self.stream, self.change = self.stream.to(rows), self.change.to(rows)
        self.entered = self._read([self._padded(wiring.layers[layer].patterns) for wiring in self.wirings])
        return self.entered

    def _queries(self, rows: torch.Tensor, layer: int) -> torch.Tensor:
        """(sets, 1, heads, T, d_head): each head's queries are of its own row."""
        heads = torch.arange(self.edges.heads[layer], device=rows.device)
        return rows[self._each(rows), self._of(layer, "queries", rows), heads][:, None]

    def _keys(self, rows: torch.Tensor, layer: int) -> torch.Tensor:
        return rows[self._each(rows), self._of(layer, "keys", rows)]

    def _values(self, rows: torch.Tensor, layer: int) -> torch.Tensor:
        return rows[self._each(rows), self._of(layer, "values", rows)]

    def _heads(self, rows: torch.Tensor, layer: int) -> torch.Tensor:
        """(sets, 1, heads, T, d_head): each head's output is that of the row with its keys and values."""
        heads = torch.arange(self.edges.heads[layer], device=rows.device)
        output = rows[self._each(rows), self._of(layer, "together", rows), heads]
        change = (self.other["head_output"][layer].to(rows) - output) @ self.edges.writing[layer].to(rows)
        first = self.number[layer, 0]
        self.change[:, first : first + change.shape[1]] = change
        return output[:, None]

    def _attention(self, rows: torch.Tensor, layer: int) -> torch.Tensor:
        wrote = rows[:, 0]
        self.stream = self.stream + wrote
        if self.edges.mlps[layer] and not self.edges.parallel[layer]:
            # the layer adds this to what entered, and its MLP reads the sum
            return self._read([wiring.after[layer][None] for wiring in self.wirings]) - self.entered
        return wrote[:, None]

    def _mlp(self, rows: torch.Tensor, layer: int) -> torch.Tensor:
        mine = torch.tensor([wiring.layers[layer].mlp for wiring in self.wirings], device=rows.device)
        wrote = rows[self._each(rows)[:, 0], mine]
        self.stream = self.stream + wrote
        self.change[:, self.number[layer, None]] = self.other["mlp_output"][layer].to(rows) - wrote
        return wrote[:, None]

    def _leave(self, rows: torch.Tensor) -> torch.Tensor:
        self.stream, self.change = self.stream.to(rows), self.change.to(rows)
        return self._read([wiring.after[None][None] for wiring in self.wirings])
