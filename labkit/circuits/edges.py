"""Edges: what one part of a model writes into the residual stream, as another reads it.

The stream is a sum, so what enters a head's queries, its keys, its values, an MLP or the logits is the sum of what the
embedding, heads and MLPs before it wrote. An edge is one summand of one such input. Its effect by gradient (EAP, Syed et
al. 2023) is the sender's difference times the gradient that reaches the stream through the receiver alone, the norm before it
included. Its effect by patching, with the very input changed, is in `rewiring`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit.circuits.contrasts import Both, Contrast, check_plain
from labkit.circuits.gradients import Point, check_slopes, differentiating, linearised, no_ends, points
from labkit.circuits.graph import node_id
from labkit.errors import Unavailable
from labkit.trace.probing import COARSEST, TOLERANCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace import running
    from labkit.trace.anatomy import Anatomy
    from labkit.trace.lab_like import LabLike

NAMES = ("residual", "queries", "keys", "values", "head_output", "attention_output", "mlp_output")
INSTRUMENTS = (
    "queries",
    "values",
    "head_output",
    "attention_output",
    "mlp_output",
    "residual",
)  # without which there are none
WRITTEN = ("residual", "head_output", "attention_output", "mlp_output")
READS = ("q", "k", "v")
SLACK = 50  # times a pass's own rounding: what sums of many parts may be off by


def check_edges(lab: LabLike) -> None:
    """Raise Unavailable where a model's queries, keys, values or summands of the stream are not seen."""
    instead = ", take parts='heads'" if lab.anatomy.support.get("head_output") is None else ""
    check_plain(lab, INSTRUMENTS, f"; edges between parts are not to be had then{instead}")


@dataclass(frozen=True)
class Sender:
    """What writes. layer, head: None for the input; head None for an MLP."""

    layer: int | None
    head: int | None

    @property
    def id(self) -> str:
        if self.layer is None:
            return node_id("input")
        return node_id("mlp", self.layer) if self.head is None else node_id("head", self.layer, self.head)


@dataclass(frozen=True)
class Receiver:
    """What reads: a head's queries, keys or values, an MLP, or (layer None) the output.

    senders: so many of all senders, the first ones, write before it.  start: its first edge's number.
    """

    layer: int | None
    head: int | None
    via: str
    senders: int
    start: int

    @property
    def id(self) -> str:
        if self.layer is None:
            return node_id("output")
        return node_id("mlp", self.layer) if self.head is None else node_id("head", self.layer, self.head)


@dataclass(frozen=True)
class Edges:
    """All edges, numbered receiver by receiver, senders in their order; with positions, each at each position, positions last.

    heads: of each layer; 0 where it has no attention.  mlps: whether a layer has an MLP.  parallel: whether it reads what
    enters the layer, and not what the attention added.  writing: by layer, (heads, d_head, d_model), from a head's output to
    what it adds to the stream.
    """

    senders: tuple[Sender, ...]
    receivers: tuple[Receiver, ...]
    heads: tuple[int, ...]
    mlps: tuple[bool, ...]
    parallel: tuple[bool, ...]
    writing: dict[int, torch.Tensor]
    size: int
    positions: int | None

    @staticmethod
    def of(model: PreTrainedModel, anatomy: Anatomy, contrast: Contrast, positions: int | None) -> Edges:
        """Look at the model on one contrast. Raises Unavailable where the stream is no sum of heads and MLPs."""
        heads = tuple((layer.heads or 0) if layer.attention is not None else 0 for layer in anatomy.layers)
        mlps = tuple(layer.mlp is not None for layer in anatomy.layers)
        both = Both.take(model, anatomy, contrast, WRITTEN)
        writing = {i: _writing(anatomy, both, i) for i, count in enumerate(heads) if count}
        _check_sums(anatomy, both, heads, mlps)
        parallel = _parallel(model, anatomy, contrast, mlps)
        return Edges.between(heads, mlps, parallel, writing, positions)

    @staticmethod
    def between(
        heads: Sequence[int],
        mlps: Sequence[bool],
        parallel: Sequence[bool],
        writing: dict[int, torch.Tensor],
        positions: int | None,
    ) -> Edges:
        senders = [Sender(None, None)]
        receivers: list[Receiver] = []
        start = 0

        def add(layer: int | None, head: int | None, via: str, count: int) -> None:
            nonlocal start
            receivers.append(Receiver(layer, head, via, count, start))
            start += count * (positions or 1)

        for layer, count in enumerate(heads):
            before = len(senders)
            for via in READS:
                for head in range(count):
                    add(layer, head, via, before)
            senders += [Sender(layer, head) for head in range(count)]
            if mlps[layer]:
                add(layer, None, "", before if parallel[layer] else len(senders))
                senders.append(Sender(layer, None))
        add(None, None, "", len(senders))
        return Edges(
            tuple(senders), tuple(receivers), tuple(heads), tuple(mlps), tuple(parallel), writing, start, positions
        )

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.array([receiver.start for receiver in self.receivers])

    def place(self, number: int) -> tuple[Sender, Receiver, int | None]:
        """An edge by its number: its ends, and its position."""
        receiver = self.receivers[int(np.searchsorted(self._starts, number, side="right")) - 1]
        sender, position = divmod(number - receiver.start, self.positions or 1)
        return self.senders[sender], receiver, None if self.positions is None else position

    def kinds(self) -> np.ndarray:
        """(size,) all of one kind: chance draws from all edges alike."""
        return np.zeros(self.size, np.int64)

    def leaving(self) -> list[np.ndarray]:
        """The edges of each sender, with positions of each at each: (senders · positions) arrays of numbers."""
        there = self.positions or 1
        return [
            np.array([r.start + sender * there + at for r in self.receivers if sender < r.senders])
            for sender in range(len(self.senders))
            for at in range(there)
        ]

    def of_layer(self, layer: int | None, head: bool) -> list[Receiver]:
        return [r for r in self.receivers if r.layer == layer and (r.head is not None) == head]

    def written(self, both: Both) -> torch.Tensor:
        """(senders, T, d_model) what each wrote in the clean run, less what it wrote in the corrupted one."""
        parts = [both.difference("residual", 0)[None]]
        for layer, count in enumerate(self.heads):
            if count:
                parts.append(both.difference("head_output", layer) @ self.writing[layer].to(parts[0].device))
            if self.mlps[layer]:
                parts.append(both.difference("mlp_output", layer)[None])
        whole = torch.cat([part.to(parts[0].device) for part in parts])
        return whole if whole.dtype is torch.float64 else whole.float()


# what the stream is made of -------------------------------------------------------------------------------------------


def _writing(anatomy: Anatomy, both: Both, layer: int) -> torch.Tensor:
    """(heads, d_head, d_model). Raises Unavailable where a layer's heads don't add up to what its attention wrote."""
    outputs, expected = both.clean["head_output"][layer], both.clean["attention_output"][layer]
    heads, _, width = outputs.shape
    projection = anatomy.layers[layer].output_projection
    why = (
        f"edges can't be told apart in this {anatomy.family}: the heads of layer {layer} don't add up to what its attention "
        "wrote (a norm or a gate stands after them); take parts='heads'"
    )
    if projection is None:
        raise Unavailable(f"{why[0].upper()}{why[1:]}.")
    try:
        with torch.no_grad():
            each = torch.eye(heads * width, dtype=outputs.dtype, device=outputs.device)
            bias = projection.forward(torch.zeros_like(each[:1]))
            matrix: torch.Tensor = (projection.forward(each) - bias) * anatomy.multiplier
        matrix = matrix.reshape(heads, width, -1)
        found = torch.einsum("htw,hwd->td", outputs, matrix) + bias * anatomy.multiplier
        off = (found - expected).norm() / (expected.norm() + 1e-30)
    except (RuntimeError, ValueError) as error:
        raise Unavailable(f"{why[0].upper()}{why[1:]}.") from error
    if not off <= SLACK * TOLERANCE.get(outputs.dtype, COARSEST) and bool(expected.any()):
        raise Unavailable(f"{why[0].upper()}{why[1:]}.")
    return matrix


def _check_sums(anatomy: Anatomy, both: Both, heads: Sequence[int], mlps: Sequence[bool]) -> None:
    for layer in range(len(anatomy.layers)):
        stream = both.clean["residual"][layer].double()
        after = both.clean["residual"][layer + 1].double().to(stream.device)
        added = torch.zeros_like(stream)
        for name, there in (("attention_output", heads[layer]), ("mlp_output", mlps[layer])):
            if there:
                added = added + both.clean[name][layer].double().to(stream.device)
        if (
            not (stream + added - after).norm()
            <= SLACK * TOLERANCE.get(both.clean["residual"][0].dtype, COARSEST) * after.norm()
        ):
            raise Unavailable(
                f"Edges can't be told apart in this {anatomy.family}: layer {layer} changes the residual stream by something "
                "other than its attention and its MLP; take parts='heads'."
            )


def _parallel(model: PreTrainedModel, anatomy: Anatomy, contrast: Contrast, mlps: Sequence[bool]) -> tuple[bool, ...]:
    """Of each layer whether its MLP does not depend on what its attention wrote."""
    (point,) = points(model, anatomy, Contrast(contrast.clean, contrast.corrupted, _any), NAMES, None, no_ends)
    found = []
    for layer, there in enumerate(mlps):
        wrote = point.live.get("attention_output", {}).get(layer)
        if not there or wrote is None:
            found.append(True)
            continue
        mlp = point.live["mlp_output"][layer]
        with differentiating():
            (slope,) = torch.autograd.grad(mlp.sum(), wrote, retain_graph=True, allow_unused=True)
        found.append(slope is None)
    return tuple(found)


def _any(logits: torch.Tensor) -> torch.Tensor:
    return logits.sum()


# by gradient ----------------------------------------------------------------------------------------------------------


def edge_effects(
    model: PreTrainedModel,
    anatomy: Anatomy,
    edges: Edges,
    contrast: Contrast,
    steps: int | None,
    advance: running.Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, Both]:
    """(size,) what handing on the clean activation along each edge would change the metric by, to first order.

    Also the same of each sender by itself, (senders,) or (senders, positions), by the gradient of its whole output, and both
    runs. Raises Unavailable where receivers' gradients don't sum to that of the stream: then something else reads it.
    """
    both, passes = linearised(model, anatomy, contrast, NAMES, steps, WRITTEN, advance)
    written = edges.written(both)
    found = np.zeros(edges.size)
    nodes = np.zeros((len(edges.senders), edges.positions or 1))
    for point in passes:
        whole = _whole_gradients(point, edges)
        below = whole["residual"][len(anatomy.layers)]
        _add(found, edges, edges.receivers[-1:], [below], written, point.share)
        for layer in reversed(range(len(anatomy.layers))):
            with differentiating():
                readers, slopes = _read(point, edges, layer, whole)
            _add(found, edges, readers, slopes, written, point.share)
            below = torch.stack([below.to(slopes[0].device), *slopes]).sum(0) if slopes else below
            stream = whole["residual"][layer]
            if not (below - stream).norm() <= SLACK * TOLERANCE.get(stream.dtype, COARSEST) * (
                stream.norm() + below.norm()
            ):
                raise Unavailable(
                    f"Edges can't be told apart in this {anatomy.family}: layer {layer} reads the residual stream elsewhere, "
                    "too, than in queries, keys, values and MLP (a gate, or keys shared between layers); take parts='heads'."
                )
        for number, sender in enumerate(edges.senders):
            slope, difference = _at_sender(sender, whole, both)
            each = (difference.double() * slope.double()).sum(-1)
            nodes[number] += point.share * (each if edges.positions else each.sum(-1, keepdim=True)).cpu().numpy()
    return found, nodes, both


def _whole_gradients(point: Point, edges: Edges) -> dict[str, dict[int, torch.Tensor]]:
    """The metric's gradient by every tensor, with a row a point, as autograd gives it; zero where nothing depends on it."""
    wanted = [(name, layer, x) for name in NAMES for layer, x in point.live.get(name, {}).items()]
    with differentiating():
        slopes = torch.autograd.grad(point.total, [x for *_, x in wanted], allow_unused=True, retain_graph=True)
    check_slopes(slopes)
    found: dict[str, dict[int, torch.Tensor]] = {name: {} for name in NAMES}
    for (name, layer, x), slope in zip(wanted, slopes, strict=True):
        found[name][layer] = torch.zeros_like(x) if slope is None else slope.detach()
    return found


def _read(
    point: Point, edges: Edges, layer: int, whole: dict[str, dict[int, torch.Tensor]]
) -> tuple[list[Receiver], list[torch.Tensor]]:
    """The receivers of a layer, and the gradient that reaches the stream through each alone: (rows, T, d_model)."""
    live = point.live
    stream = live["residual"][layer]
    readers: list[Receiver] = []
    slopes: list[torch.Tensor] = []
    if edges.heads[layer]:
        parts = _by_head(live, layer, whole)
        for via, name in zip(READS, ("queries", "keys", "values"), strict=True):
            readers += [r for r in edges.of_layer(layer, True) if r.via == via]
            slopes += _pulled(live[name][layer], stream, parts[name])
    for reader in edges.of_layer(layer, False):
        source = stream if edges.parallel[layer] else live["attention_output"][layer]
        readers.append(reader)
        slopes += _pulled(live["mlp_output"][layer], source, whole["mlp_output"][layer][None])
    return readers, slopes


def _by_head(
    live: dict[str, dict[int, torch.Tensor]], layer: int, whole: dict[str, dict[int, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """By operand, (heads, rows, its heads, T, d_head): the metric's gradient by it through each query head alone."""
    names = ("queries", "keys", "values")
    output, slope = live["head_output"][layer], whole["head_output"][layer]
    heads = output.shape[1]
    if all(live[name][layer].shape[1] == heads for name in names):
        apart = torch.eye(heads, device=output.device, dtype=output.dtype)[:, None, :, None, None]
        return {name: whole[name][layer] * apart for name in names}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for head in range(heads):  # keys and values are shared by several
        alone = torch.zeros_like(slope)
        alone[:, head] = slope[:, head]
        operands = [live[name][layer] for name in names]
        for name, operand, mine in zip(
            names,
            operands,
            torch.autograd.grad(output, operands, alone, retain_graph=True, allow_unused=True),
            strict=True,
        ):
            found[name].append(torch.zeros_like(operand) if mine is None else mine)
    return {name: torch.stack(parts) for name, parts in found.items()}


def _pulled(output: torch.Tensor, source: torch.Tensor, slopes: torch.Tensor) -> list[torch.Tensor]:
    """Gradients by the output, (n, *its shape), as gradients by the source: n of its shape."""
    found = []
    for slope in slopes:
        (mine,) = torch.autograd.grad(output, source, slope, retain_graph=True, allow_unused=True)
        found.append(torch.zeros_like(source) if mine is None else mine)
    return found


def _add(
    found: np.ndarray,
    edges: Edges,
    readers: Sequence[Receiver],
    slopes: Sequence[torch.Tensor],
    written: torch.Tensor,
    share: float,
) -> None:
    """Add what the senders' differences are worth to each receiver."""
    for count in {reader.senders for reader in readers}:
        same = [n for n, reader in enumerate(readers) if reader.senders == count]
        mean = torch.stack([slopes[n].sum(0) for n in same]).to(written) * share
        how = "std,rtd->rst" if edges.positions else "std,rtd->rs"
        for n, each in zip(same, torch.einsum(how, written[:count], mean).double().cpu().numpy(), strict=True):
            found[readers[n].start : readers[n].start + each.size] += each.ravel()


def _at_sender(
    sender: Sender, whole: dict[str, dict[int, torch.Tensor]], both: Both
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient by all that a sender gives, summed over rows, and its difference."""
    if sender.layer is None:
        return whole["residual"][0].sum(0), both.difference("residual", 0)
    if sender.head is None:
        return whole["mlp_output"][sender.layer].sum(0), both.difference("mlp_output", sender.layer)
    slope = whole["head_output"][sender.layer].sum(0)[sender.head]
    return slope, both.difference("head_output", sender.layer)[sender.head]
