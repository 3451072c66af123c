"""Where a part of a model is most active: for each head, MLP or neuron the texts and tokens at which it does most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.tokens import token_strings
from labkit.trace.input import as_ids, as_texts
from labkit.trace.lab_like import check_lab
from labkit.trace.lens import head_writes

if TYPE_CHECKING:
    from labkit.circuits.graph import CircuitNode
    from labkit.trace.lab_like import LabLike, TracingLab
    from labkit.trace.record import Trace

Part = tuple[str, int, int | None]
"""Kind ("head", "mlp", "neuron"), layer, index within it."""

Lengths = dict[Part, torch.Tensor]  # (d_value, d_value) of each head: x G xᵀ is the squared length of what it writes
INSTRUMENTS = {"head": "head_output", "mlp": "mlp_output", "neuron": "mlp_neurons"}
MEASURES = {
    "head": "length of what it writes on the residual stream",
    "mlp": "length of what it writes on the residual stream",
    "neuron": "its activation",
}
WANTED = '(kind, layer, index) each: ("head", 3, 5), ("neuron", 2, 117) or ("mlp", 4, None), counted from 0'
MOST_TEXTS = 64
MOST_TOKENS = 128  # of a text, its first
BEFORE, AFTER = 12, 4  # tokens of an example around its peak


@dataclass(frozen=True)
class PartExample:
    """A text in which a part is active, around the token at which it is most so.

    text: its number among those given.  position: of the peak in that text, from 0.  value: there.
    start: the position of the first of `tokens`, (n,), which surround the peak.  values: (n,) of each.
    """

    text: int
    position: int
    value: float
    start: int
    tokens: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class PartExamples:
    """The strongest examples of a part, each of another text, by size.

    measure: what the values are, in words.  median: of their sizes over all tokens looked at, which any token reaches.
    tokens: how many those are.
    """

    measure: str
    top: tuple[PartExample, ...]
    median: float
    tokens: int


def part_of(node: CircuitNode) -> Part | None:
    """What a node is apart from its position; None for what has no activation of its own here."""
    if node.kind not in INSTRUMENTS or node.layer is None or (node.index is None) != (node.kind == "mlp"):
        return None
    return node.kind, node.layer, node.index


def part_examples(
    lab: TracingLab,
    parts: Iterable[Part],
    texts: Sequence[object],
    *,
    k: int = 4,
    going: Callable[[int, int], bool] = lambda _done, _total: True,
) -> dict[Part, PartExamples]:
    """In which texts, and at which tokens, parts of a model are most active.

    parts: (kind, layer, index) each: ("head", 3, 5), ("neuron", 2, 117), ("mlp", 4, None).
    texts: strings or token ids. The first 64 that differ are read, of each its first 128 tokens, a pass each.
    k: how many examples of each part, each of another text.  going: told how many texts are read of how many; False ends it, and
        what was read so far counts.
    A neuron's activity is its activation, of either sign; that of a head or an MLP the length of what it writes on the residual
    stream (of a head behind its part of the output projection, before a norm that may follow). The first token of a text is left
    out, where many models keep values out of all measure, unless it is the only one.
    What it can show: where a part does much. What it can't: what that is for, and what else it does elsewhere; the texts of a
    circuit's own pairs are all alike.
    Returns {part: its examples}; parts that the model does not have so are not in it.
    Raises BadInput for texts that can't be read, and for what is no part: another kind, a head or neuron without its index.
    """
    check_lab(lab)
    k = checks.whole("k", k, 1)
    wanted = list(dict.fromkeys(_checked(part) for part in checks.series("parts", parts, WANTED)))
    distinct: dict[tuple[int, ...], int] = {}
    longest = min(MOST_TOKENS, lab.context or MOST_TOKENS)
    for number, text in enumerate(as_texts(texts)):
        distinct.setdefault(tuple(as_ids(lab.tokenizer, text, chat=False, context=None)[:longest]), number)
    rows = list(distinct)[:MOST_TEXTS]
    if not rows:
        raise BadInput("There is no text to look for examples in; give a list with one at least.")
    reasons = lab.support()
    wanted = [part for part in wanted if reasons.get(INSTRUMENTS[part[0]]) is None]
    keep = tuple(dict.fromkeys(INSTRUMENTS[kind] for kind, *_ in wanted))
    found: list[np.ndarray] = []  # (parts, T) of each text
    lengths: Lengths = {}
    for number, ids in enumerate(rows):
        if not keep or not going(number, len(rows)):
            break
        trace: Trace = lab.trace(list(ids), keep=keep)
        found.append(np.stack([_activity(lab, trace, part, lengths) for part in wanted]))
    if not found:
        return {}
    firsts = [0 if row.shape[1] == 1 else 1 for row in found]
    peaks = np.stack(
        [np.abs(row[:, a:]).argmax(1) + a for row, a in zip(found, firsts, strict=True)], 1
    )  # (parts, texts)
    heights = np.stack([np.abs(row[np.arange(len(row)), peaks[:, i]]) for i, row in enumerate(found)], 1)
    counted = np.abs(np.concatenate([row[:, a:] for row, a in zip(found, firsts, strict=True)], 1))
    names = [tuple(token_strings(lab.tokenizer, list(ids))) for ids in rows[: len(found)]]
    given = {part: place for place, part in enumerate(wanted) if np.isfinite(counted[place]).all()}
    order = np.argsort(-heights, 1, kind="stable")[:, :k]
    medians = np.median(counted, 1)
    return {
        part: PartExamples(
            MEASURES[part[0]],
            tuple(_example(distinct[rows[i]], int(peaks[place, i]), found[i][place], names[i]) for i in order[place]),
            float(medians[place]),
            counted.shape[1],
        )
        for part, place in given.items()
    }


def _checked(part: object) -> Part:
    """Raise BadInput for what is no part. One that the model does not have is left out later."""
    kind, layer, index = part if isinstance(part, tuple) and len(part) == 3 else (None, None, None)
    layer, index = checks.as_whole(layer), None if kind == "mlp" and index is None else checks.as_whole(index)
    if kind not in INSTRUMENTS or layer is None or layer < 0 or (index is None) != (kind == "mlp") or (index or 0) < 0:
        raise BadInput(f"{checks.shown(part)} is no part; give {WANTED}.")
    return str(kind), layer, index


def _activity(lab: LabLike, trace: Trace, part: Part, lengths: Lengths) -> np.ndarray:
    """(T,) float32; NaN where the model does not have the part. lengths: filled as heads are met."""
    kind, layer, index = part
    if layer >= trace.layers:
        return np.full(len(trace), np.nan, np.float32)
    try:
        values = trace.tensor(INSTRUMENTS[kind], layer)
        if kind == "neuron":
            return _numbers(values[:, index])
        if kind == "mlp":
            return _numbers(values.float().norm(dim=-1))
        assert index is not None
        output = values[index].float().cpu()
        if part not in lengths:
            writes = head_writes(lab.anatomy, layer, index, values[index])
            lengths[part] = torch.eye(output.shape[-1]) if writes is None else writes @ writes.T
        return _numbers(((output @ lengths[part]) * output).sum(-1).clamp_min(0).sqrt())
    except (Unavailable, IndexError):
        return np.full(len(trace), np.nan, np.float32)


def _numbers(values: torch.Tensor) -> np.ndarray:
    found: np.ndarray = values.float().cpu().numpy()
    return found


def _example(text: int, peak: int, values: np.ndarray, tokens: tuple[str, ...]) -> PartExample:
    start, stop = max(0, peak - BEFORE), min(len(tokens), peak + AFTER + 1)
    around = tuple(float(value) for value in values[start:stop])
    return PartExample(text, peak, float(values[peak]), start, tokens[start:stop], around)
