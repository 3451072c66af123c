"""One pass over the layers of a Trace: a small picture of every head, and its measures, from the same weights.

Patterns are computed a block of rows at a time, measured and let go, so that memory does not grow with the text.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.results import Result
from labkit.trace.record import LayerAttention, Trace, pattern

BLOCK = 2**19  # weights at once: 2 MiB, so that several passes over them stay in a processor's cache
MOST_WEIGHTS = 300_000_000
MOST_PAIRS = 2_000_000  # matching (query, key) pairs kept for a trace; where there are more, masks are made in passing
DENSE = 16  # from one pair in so many weights on, a mask is faster than a list of pairs
SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Measure:
    """What a number about a head says. uniform: what a head that looks evenly at all it may see would score."""

    title: str
    unit: str
    sentence: str
    source: str
    uniform: str


MEASURES: dict[str, Measure] = {
    "entropy": Measure(
        "entropy",
        "nats",
        "How spread out the attention of a query is: 0 when it looks at one token only.",
        "Shannon 1948; of attention heads, Clark et al. 2019",
        "the logarithm of the number of visible tokens: the most there can be",
    ),
    "distance": Measure(
        "distance",
        "tokens",
        "How far back a query looks on average, each token counted by its weight.",
        "Vig and Belinkov 2019",
        "half of the visible tokens before the query",
    ),
    "first": Measure(
        "first token",
        "share",
        "How much of the attention rests on token 0, often because there is nothing else to look at.",
        "Xiao et al. 2023, attention sinks",
        "one of the visible tokens, where token 0 is among them",
    ),
    "previous": Measure(
        "previous token",
        "share",
        "How much of the attention goes to the token just before the query.",
        "Clark et al. 2019; previous-token heads, Elhage et al. 2021",
        "one of the visible tokens",
    ),
    "own": Measure(
        "own token",
        "share",
        "How much of the attention stays on the query's own token.",
        "Clark et al. 2019",
        "one of the visible tokens",
    ),
    "induction": Measure(
        "induction",
        "share",
        "How much of the attention goes to the tokens that followed earlier occurrences of the present token.",
        "Olsson et al. 2022, prefix matching",
        "as many of the visible tokens as followed an earlier occurrence",
    ),
    "duplicate": Measure(
        "duplicate token",
        "share",
        "How much of the attention goes to earlier occurrences of the present token.",
        "Wang et al. 2022, duplicate-token heads",
        "as many of the visible tokens as are earlier occurrences",
    ),
    "change": Measure(
        "change",
        "share",
        "How much of the attention moved elsewhere between two traces: 0 for none of it, 1 for all.",
        "total variation distance between the rows",
        "nothing: it compares two traces",
    ),
}


@dataclass(frozen=True, eq=False)
class LayerSweep:
    """One layer, swept.

    measures: name -> (heads,) float64, the mean over the queries; NaN where undefined.
    highest: (heads, n, n) float32, the largest weight in each cell of p by p tokens, where p = ceil(T / side) and
        n = ceil(T / p); NaN where there is one among them. None when no side was asked for.
    rows: how many of the T queries were computed.  broken_rows: (heads,) how many of those hold NaN.
    """

    layer: int
    measures: dict[str, np.ndarray]
    highest: np.ndarray | None
    rows: int
    broken_rows: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class HeadMeasures(Result):
    """The measures of heads; `MEASURES` says what they are.

    table: a row a head, with layer, head, kv_head (the key-value head it reads) and a column for each measure.
    uniform: measure -> what a head would score on the same tokens that looks evenly at every token it may see, the mean
        over the layers' masks. It stands beneath the table.
    model: its name.  tokens: how many there were.  rows: how many of their queries were computed.  broken_rows: the most
        of them that hold NaN in any head.  aside: whether token 0 was set aside.
    repeated_tokens: how many repeated random tokens induction and duplicate were measured on; None where on the same text.
    """

    uniform: Mapping[str, float]
    model: str
    tokens: int
    rows: int
    broken_rows: int
    aside: bool
    repeated_tokens: int | None = None

    def _title(self) -> str:
        again = f", and on {self.repeated_tokens:,} repeated random ones" if self.repeated_tokens is not None else ""
        return f"Heads of {self.model} on {self.tokens:,} tokens{again}{', token 0 set aside' if self.aside else ''}"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"uniform": self.uniform}

    def _remarks(self) -> Sequence[str]:
        return ("uniform: what a head scores that looks evenly at all tokens it may see",)


def sweep(
    trace: Trace,
    *,
    layers: int | Sequence[int] | None = None,
    side: int | None = None,
    aside: bool = False,
    against: Trace | None = None,
    most_weights: int = MOST_WEIGHTS,
) -> Iterator[LayerSweep]:
    """Go through the layers once and yield each with its measures (`MEASURES` says what they are) and small pictures.

    A measure is a mean over queries i, those left out whose row holds NaN:
    - entropy, distance, first, previous, own: over i >= 2, where token 0, i - 1 and i are three tokens; in a text of one
      or two tokens over all of them.
    - induction: over queries whose token occurred before and was followed by a token other than the query's own place;
      the sum over all such j < i with ids[j - 1] == ids[i]. On a block of n different tokens repeated this is the usual
      mean of A[i, i - n + 1] over the second block.
    - duplicate: over queries whose token occurred before; the sum over all j < i with ids[j] == ids[i].
    - change, only with against: over all queries that hold numbers in both traces.
    layers: which; all that have attention when None.  side: the most cells a picture may have along a side.
    aside: measure the patterns with token 0 set aside: row / (sum of the row but for token 0), nothing on token 0, the first row
        all zero and in no mean. `first` alone is still that of the whole pattern.
    against: another trace of as many tokens and heads, such as the same text under an edit.
    most_weights: when layers · heads · T · T is more, rows are taken at even distances, the last one among them and in a
        picture some of every row of cells; `rows` says how many.
    With an attention sink, rows sum to less than 1, and the sink's part is in no measure.
    Raises Unavailable where there is no attention, BadInput for what can't be used; both before the first layer. A
    caller may stop between layers.
    """
    chosen = _layers(trace, layers)
    side = None if side is None else checks.whole("side", side, 1)
    most_weights = checks.whole("most_weights", most_weights, 1)
    if against is not None:
        _check_pair(trace, against, chosen)
    plan = _Plan.of(trace, chosen, side, most_weights)
    return _swept(trace, chosen, plan, bool(aside), against)


def measures(
    trace: Trace,
    *,
    layers: int | Sequence[int] | None = None,
    aside: bool = False,
    against: Trace | None = None,
    most_weights: int = MOST_WEIGHTS,
) -> HeadMeasures:
    """The measures of all heads: a row a head, with layer, head, kv_head and the measures that `sweep` gives.

    The arguments are those of `sweep`. The result holds beside its table what a head would score on this very text that
    looks evenly at every token it may see (`uniform`).
    """
    import pandas as pd

    columns: dict[str, list[int]] = {name: [] for name in ("layer", "head", "kv_head")}
    found: dict[str, list[np.ndarray]] = {}
    rows = broken = 0
    chosen = _layers(trace, layers)
    for swept in sweep(trace, layers=chosen, aside=aside, against=against, most_weights=most_weights):
        heads = len(swept.broken_rows)
        kv_heads = _kv_heads(trace, swept.layer)
        columns["layer"] += [swept.layer] * heads
        columns["head"] += range(heads)
        columns["kv_head"] += [head // max(1, heads // kv_heads) for head in range(heads)]
        for name, values in swept.measures.items():
            found.setdefault(name, []).append(values)
        rows, broken = swept.rows, max(broken, int(swept.broken_rows.max()))
    frame = pd.DataFrame(columns | {name: np.concatenate(parts) for name, parts in found.items()})
    return HeadMeasures(
        frame,
        uniform=uniform(trace, layers=chosen, aside=aside, most_weights=most_weights),
        model=trace.model,
        tokens=len(trace),
        rows=rows,
        broken_rows=broken,
        aside=bool(aside),
    )


def uniform(
    trace: Trace,
    *,
    layers: int | Sequence[int] | None = None,
    aside: bool = False,
    most_weights: int = MOST_WEIGHTS,
) -> dict[str, float]:
    """{measure: what a head scores on this text that looks evenly at all tokens it may see}; NaN where undefined.

    The mean over the layers, whose windows may differ. Where only the patterns were kept, every token up to the query's
    own is taken to be visible.
    """
    chosen = _layers(trace, layers)
    most_weights = checks.whole("most_weights", most_weights, 1)
    plan = _Plan.of(trace, chosen, None, most_weights)
    known: dict[int, dict[str, np.ndarray]] = {}
    for layer in chosen:
        mask = trace.attention_parts(layer).mask
        if id(mask) not in known:
            known[id(mask)] = _layer(_even(mask, len(trace)), plan, aside).measures
    by_layer = [known[id(trace.attention_parts(layer).mask)] for layer in chosen]
    return {name: float(np.mean([m[name].mean() for m in by_layer])) for name in by_layer[0]} if by_layer else {}


def set_aside(weights: torch.Tensor) -> torch.Tensor:
    """Patterns (..., rows, keys) without token 0: column 0 zero, the rest of each row scaled to sum to 1; a row with nothing
    else is all zero.

    Works in place. It divides by the sum of the rest: 1 − w0 in float32 would be mostly rounding where token 0 holds nearly all.
    """
    weights[..., :1] *= 0  # keeps NaN
    rest = weights.sum(-1, keepdim=True)
    return weights.mul_(torch.where(rest > 0, 1 / rest, 0.0))


# the rows, and how they are cut into blocks ---------------------------------------------------------------------------


class _Block(NamedTuple):
    """Rows start to stop of the plan's: `bands` rows of cells from `band` on, equally many rows each."""

    start: int
    stop: int
    band: int
    bands: int


class _Plan:
    """Which rows are computed, what they are to match, and the sizes of a picture's cells."""

    def __init__(self, ids: Sequence[int], cell: int, every: int, side: int | None) -> None:
        """cell: tokens to a band.  every: rows computed in each."""
        self.length = len(ids)
        self.cell, self.side = cell, side
        self.cells = math.ceil(self.length / cell)
        rows, self.counts = [], []
        for start in range(0, self.length, cell):
            size = min(cell, self.length - start)
            count = min(every, size)
            rows += [start + -(-(k + 1) * size // count) - 1 for k in range(count)]
            self.counts.append(count)
        self.rows = torch.tensor(rows, dtype=torch.long)
        self.ids = torch.tensor(ids, dtype=torch.long)
        self.matches = _Matches(self.ids, self.rows)
        self._blocks: dict[tuple[int, bool], list[_Block]] = {}

    @staticmethod
    def of(trace: Trace, layers: Sequence[int], side: int | None, most_weights: int) -> _Plan:
        length = len(trace)
        wanted = sum(trace.heads_of(layer) for layer in layers) * length * length
        share = min(1.0, most_weights / wanted) if wanted else 1.0
        cell = math.ceil(length / side) if side is not None else 1
        if side is None and share < 1:
            cell = min(length, math.ceil(1 / share))
        return _Plan(trace.ids, max(1, cell), max(1, int(cell * share)), side)

    def blocks(self, heads: int, causal: bool) -> list[_Block]:
        """Whole bands where several fit into a block, else parts of one."""
        if (heads, causal) in self._blocks:
            return self._blocks[heads, causal]
        blocks: list[_Block] = []
        start, band = 0, 0
        while band < len(self.counts):
            count, bands = self.counts[band], 1
            while band + bands < len(self.counts) and self.counts[band + bands] == count:
                stop = start + (bands + 1) * count
                if heads * (stop - start) * self.keys(stop, causal) > BLOCK:
                    break
                bands += 1
            stop = start + bands * count
            at_once = max(1, BLOCK // (heads * self.keys(stop, causal)))
            if bands > 1 or count <= at_once:
                blocks.append(_Block(start, stop, band, bands))
            else:
                blocks += [_Block(s, min(s + at_once, stop), band, 1) for s in range(start, stop, at_once)]
            start, band = stop, band + bands
        self._blocks[heads, causal] = blocks
        return blocks

    def keys(self, stop: int, causal: bool) -> int:
        """How many keys the rows before stop can see."""
        return int(self.rows[stop - 1]) + 1 if causal else self.length


class _Matches:
    """Where a query's token occurred before (duplicate), and what followed there (induction), block by block."""

    def __init__(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        self.ids, self.rows = ids, rows
        self.before = torch.full_like(ids, -1)  # before[j] is the token before j; no id is -1
        self.before[1:] = ids[:-1]
        self.pairs: dict[tuple[str, int, int], torch.Tensor | None] = {}
        self.kept = 0
        # what followed an earlier occurrence counts unless it is the query itself, which it is right after the first
        first: dict[int, int] = {}
        firsts = torch.tensor([first.setdefault(id_, i) for i, id_ in enumerate(ids.tolist())], dtype=torch.long)[rows]
        self.defined = {"induction": (firsts < rows - 1).numpy(), "duplicate": (firsts < rows).numpy()}

    def share(self, name: str, block: _Block, weights: torch.Tensor) -> torch.Tensor:
        """weights: (heads, rows of the block, keys).  Returns (heads, rows)."""
        heads, rows, keys = weights.shape
        out = weights.new_zeros(heads, rows)
        if not self.defined[name][block.start : block.stop].any():
            return out
        key = (name, block.start, keys)
        if key not in self.pairs:
            found = self._mask(name, block, keys).reshape(-1).nonzero()[:, 0]
            few = len(found) * DENSE <= rows * keys and self.kept + len(found) <= MOST_PAIRS
            self.pairs[key] = found.to(weights.device) if few else None
            self.kept += len(found) if few else 0
        pairs = self.pairs[key]
        if pairs is None:
            mask = self._mask(name, block, keys).to(weights)
            for head in range(heads):  # no array of the size of the weights
                out[head] = torch.linalg.vecdot(weights[head], mask)
            return out
        return out.index_add_(1, pairs // keys, weights.reshape(heads, -1)[:, pairs])

    def _mask(self, name: str, block: _Block, keys: int) -> torch.Tensor:
        """(rows, keys) bool."""
        rows = self.rows[block.start : block.stop, None]
        wanted = self.ids if name == "duplicate" else self.before
        return (wanted[None, :keys] == self.ids[rows]) & (torch.arange(keys)[None] < rows)


# one layer ------------------------------------------------------------------------------------------------------------


def _swept(
    trace: Trace, layers: Sequence[int], plan: _Plan, aside: bool, against: Trace | None
) -> Iterator[LayerSweep]:
    for layer in layers:
        other = None if against is None else against.attention_parts(layer)
        yield dataclasses.replace(_layer(trace.attention_parts(layer), plan, aside, other), layer=layer)


@torch.no_grad()
def _layer(a: LayerAttention, plan: _Plan, aside: bool, other: LayerAttention | None = None) -> LayerSweep:
    """One layer in blocks of rows. Its number is filled in by the caller."""
    heads, device = _heads(a), _device(a)
    causal = _causal(a) and (other is None or _causal(other))
    a, other = _ready(a), None if other is None else _ready(other)
    names = ["entropy", "distance", "first", "previous", "own", "induction", "duplicate"]
    names += ["change"] if other is not None else []
    found = {name: torch.zeros(heads, len(plan.rows), device=device) for name in (*names, "total")}
    highest = torch.zeros(heads, plan.cells, plan.cells, device=device) if plan.side is not None else None
    for block in plan.blocks(heads, causal):
        keys = plan.keys(block.stop, causal)
        rows = plan.rows[block.start : block.stop].to(device)
        weights = _weights(a, rows, keys)
        at = slice(block.start, block.stop)
        found["first"][:, at] = weights[..., 0]
        if aside:
            weights = set_aside(weights)
        _measure(weights, rows, {name: found[name][:, at] for name in found})
        for name in ("induction", "duplicate"):
            found[name][:, at] = plan.matches.share(name, block, weights)
        if highest is not None:
            _pool(weights, plan, block, highest, found["total"][:, at])
        if other is not None:
            theirs = _weights(other, rows, keys)
            if aside:
                theirs = set_aside(theirs)
            found["change"][:, at] = theirs.to(device).sub_(weights).abs_().sum(-1) / 2
    sound = ~found.pop("total").isnan().cpu().numpy()
    return LayerSweep(
        layer=-1,
        measures={name: _mean(name, values, sound, plan, aside) for name, values in found.items()},
        highest=None if highest is None else highest.cpu().numpy(),
        rows=len(plan.rows),
        broken_rows=(~sound).sum(1),
    )


def _measure(weights: torch.Tensor, rows: torch.Tensor, into: dict[str, torch.Tensor]) -> None:
    """Fill in what a block's weights say row by row. weights: (heads, rows, keys)."""
    keys = weights.shape[-1]
    # distances are taken from the last key first: that keeps the numbers small that rounding is a part of
    from_end = torch.arange(keys - 1, -1, -1, device=weights.device, dtype=weights.dtype)
    both = weights @ torch.stack([torch.ones_like(from_end), from_end], 1)
    into["total"].copy_(both[..., 0])
    into["distance"].copy_(both[..., 1] - (keys - 1 - rows) * both[..., 0])
    logarithms = weights.clamp_min(SMALLEST).log_()
    into["entropy"].copy_(-torch.linalg.vecdot(weights, logarithms))
    into["own"].copy_(_at(weights, rows))
    into["previous"].copy_(_at(weights, (rows - 1).clamp_min(0)) * (rows > 0))


def _at(weights: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(heads, rows): each row's weight in its own column."""
    return weights.gather(-1, columns[None, :, None].expand(weights.shape[0], -1, 1))[..., 0]


def _pool(weights: torch.Tensor, plan: _Plan, block: _Block, highest: torch.Tensor, total: torch.Tensor) -> None:
    """Take a block into the pictures."""
    heads, _, keys = weights.shape
    bands = slice(block.band, block.band + block.bands)
    columns = weights.reshape(heads, block.bands, -1, keys).amax(2)
    cells = math.ceil(keys / plan.cell)
    if plan.cell > 1:
        columns = torch.nn.functional.pad(columns, (0, cells * plan.cell - keys))
        columns = columns.reshape(heads, block.bands, cells, plan.cell).amax(-1)
    target = highest[:, bands, :cells]
    torch.maximum(target, columns, out=target)
    if cells < plan.cells:  # a softmax over NaN is NaN for every key, also those that were left out here
        broken = total.reshape(heads, block.bands, -1).isnan().any(-1)
        if bool(broken.any()):
            highest[:, bands, cells:] = highest[:, bands, cells:].masked_fill(broken[..., None], math.nan)


def _mean(name: str, values: torch.Tensor, sound: np.ndarray, plan: _Plan, aside: bool) -> np.ndarray:
    """(heads,) float64: over the queries that count and hold numbers."""
    array = values.double().cpu().numpy()
    rows = plan.rows.numpy()
    if name in plan.matches.defined:
        counts = plan.matches.defined[name]
    elif name == "change":
        counts = np.ones(len(rows), dtype=bool)
        sound = sound & ~np.isnan(array)
    else:
        counts = rows >= 2 if plan.length > 2 else rows >= 0
    if aside and name != "first":
        counts = counts & (rows > 0)
    used = sound & counts
    n = used.sum(1)
    return np.where(n > 0, np.where(used, array, 0.0).sum(1) / np.maximum(n, 1), np.nan)


def _weights(a: LayerAttention, rows: torch.Tensor, keys: int) -> torch.Tensor:
    """(heads, rows, keys) float32, to be written into: the rows' weights on the first keys; they see no others."""
    if a.pattern is not None:
        return a.pattern[:, rows, :keys].float()  # indexed by a tensor, so a copy: the trace's own stays as it is
    assert a.key is not None
    mask = None if a.mask is None else a.mask[..., :keys]
    return pattern(dataclasses.replace(a, key=a.key[:, :keys], mask=mask), rows=rows)


def _ready(a: LayerAttention) -> LayerAttention:
    """The same layer in float32, converted once and not block by block."""
    if a.query is None or a.key is None:
        return a
    return dataclasses.replace(a, query=a.query.float(), key=a.key.float())


def _causal(a: LayerAttention) -> bool:
    """Whether no query sees a key after it, so that those need not be computed."""
    if a.pattern is not None:
        return False
    if a.mask is None:
        return True
    return a.mask.dtype is torch.bool and not bool(a.mask.triu(1).any())


def _even(mask: torch.Tensor | None, length: int) -> LayerAttention:
    """A layer whose heads look evenly at all they may see; one head, or one for each there is a mask of."""
    if mask is not None and mask.dtype is not torch.bool:
        mask = mask > torch.finfo(mask.dtype).min / 2
    heads = mask.shape[0] if mask is not None and mask.dim() == 3 else 1
    device = None if mask is None else mask.device
    nothing = torch.zeros(heads, length, 1, device=device)
    return LayerAttention(query=nothing, key=nothing, mask=mask)


def _heads(a: LayerAttention) -> int:
    source = a.query if a.pattern is None else a.pattern
    assert source is not None
    return source.shape[0]


def _device(a: LayerAttention) -> torch.device:
    source = a.query if a.pattern is None else a.pattern
    assert source is not None
    return source.device


def _kv_heads(trace: Trace, layer: int) -> int:
    return trace.kv_heads_of(layer)


# checking -------------------------------------------------------------------------------------------------------------


def _layers(trace: Trace, layers: int | Sequence[int] | None) -> list[int]:
    """The layers asked for, each of which has attention."""
    if not isinstance(trace, Trace):
        raise BadInput(f"This takes a Trace, from lab.trace(text), and {type(trace).__name__} is none.")
    there = trace.layers_with("attention")
    if layers is None:
        if not there:
            raise Unavailable(f"No layer of this {trace.family} has attention.")
        return there
    given: Sequence[int]
    if (one := checks.as_whole(layers)) is not None:
        given = [one]
    elif isinstance(layers, Sequence) and not isinstance(layers, str):
        given = layers
    else:
        checks.refuse("layers", layers, "a list of whole numbers")
    chosen = [trace.layer_number(layer) for layer in given]
    for layer in chosen:
        trace.attention_parts(layer)  # raises where it has none
    return chosen


def _check_pair(trace: Trace, against: Trace, layers: Sequence[int]) -> None:
    there = _layers(against, None)
    if len(against) != len(trace):
        raise BadInput(
            f"The two traces have {len(trace)} and {len(against)} tokens; compare texts with equally many tokens."
        )
    for layer in layers:
        if layer not in there or _heads(against.attention_parts(layer)) != _heads(trace.attention_parts(layer)):
            raise BadInput(
                f"Layer {layer} of the two traces does not have the same heads; compare traces of the same model."
            )
