"""The parts a circuit is made of: heads and MLPs, or single neurons; their effects by gradient, and runs with some patched."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from labkit.circuits.contrasts import Both, Contrast, Tensors
from labkit.circuits.gradients import linearised, mean_gradients
from labkit.circuits.graph import CircuitNode, Kind, node_id
from labkit.trace import running
from labkit.trace.edits import Site, installed
from labkit.trace.instruments import BY_NAME
from labkit.trace.pairs import patched_value

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.anatomy import Anatomy
    from labkit.trace.edits import Change
    from labkit.trace.passes import TokenAxis

Base = Literal["clean", "corrupted"]

INSTRUMENTS = {"heads": ("head_output", "mlp_output"), "neurons": ("mlp_neurons",)}
KINDS: dict[str, Kind] = {"head_output": "head", "mlp_output": "mlp", "mlp_neurons": "neuron"}


@dataclass(frozen=True)
class Group:
    """The parts of one kind in one layer: so many, the first of them at `start` among all parts."""

    name: str
    layer: int
    count: int
    start: int

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]


@dataclass(frozen=True)
class Parts:
    """All parts, numbered group by group; with positions, each part at each position, positions last.

    positions: how many, or None where a part is taken at all of them together.
    """

    names: tuple[str, ...]
    groups: tuple[Group, ...]
    size: int
    positions: int | None

    @staticmethod
    def of(anatomy: Anatomy, what: str, positions: int | None) -> Parts:
        names = tuple(name for name in INSTRUMENTS[what] if anatomy.support.get(name) is None)
        groups: list[Group] = []
        size = 0
        layers = sorted((layer, name) for name in names for layer in BY_NAME[name].layers(anatomy))
        for layer, name in layers:
            here = anatomy.layers[layer]
            count = {"head": here.heads or 0, "mlp": 1, "neuron": here.neurons or 0}[KINDS[name]]
            groups.append(Group(name, layer, count, size))
            size += count * (positions or 1)
        return Parts(names, tuple(groups), size, positions)

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.array([group.start for group in self.groups])

    def place(self, number: int) -> tuple[Group, int, int | None]:
        """A part by its number: its group, its index there, its position."""
        group = self.groups[int(np.searchsorted(self._starts, number, side="right")) - 1]
        index, position = divmod(number - group.start, self.positions or 1)
        return group, index, None if self.positions is None else position

    def node(self, number: int, effect: float) -> CircuitNode:
        group, index, position = self.place(number)
        of_layer = None if group.kind == "mlp" else index
        return CircuitNode(
            node_id(group.kind, group.layer, of_layer, position), group.kind, group.layer, of_layer, position, effect
        )

    def kinds(self) -> np.ndarray:
        """(size,) which kind each part is of, as a number: chance draws as many of each."""
        known = sorted({group.name for group in self.groups})
        counts = [group.count * (self.positions or 1) for group in self.groups]
        return np.repeat([known.index(group.name) for group in self.groups], counts)

    def masks(self, sets: Sequence[np.ndarray], device: torch.device) -> Iterator[tuple[Group, torch.Tensor]]:
        """Of each group the parts that are in the sets: (sets, count, positions or 1) bool."""
        dense = torch.zeros(len(sets), self.size, dtype=torch.bool)
        for row, numbers in enumerate(sets):
            dense[row, torch.from_numpy(numbers)] = True
        for group in self.groups:
            stop = group.start + group.count * (self.positions or 1)
            chosen = dense[:, group.start : stop].reshape(len(sets), group.count, -1)
            if bool(chosen.any()):
                yield group, chosen.to(device)


def effects(
    model: PreTrainedModel,
    anatomy: Anatomy,
    parts: Parts,
    contrast: Contrast,
    steps: int | None,
    advance: running.Progress | None = None,
) -> tuple[np.ndarray, Both]:
    """(size,) what setting each part to its clean activation would change the metric by, to first order; and both runs."""
    both, passes = linearised(model, anatomy, contrast, parts.names, steps, parts.names, advance)
    slopes = mean_gradients(passes, parts.names)
    found = np.zeros(parts.size)
    for group in parts.groups:
        product = both.difference(group.name, group.layer).double() * slopes[group.name][group.layer].double()
        each = {"head": lambda x: x.sum(-1), "mlp": lambda x: x.sum(-1)[None], "neuron": lambda x: x.T}[group.kind](
            product
        )
        each = each.sum(-1, keepdim=True) if parts.positions is None else each
        found[group.start : group.start + each.numel()] = each.flatten().cpu().numpy()
    return found, both


def run_sets(
    model: PreTrainedModel,
    anatomy: Anatomy,
    parts: Parts,
    contrast: Contrast,
    base: Base,
    sets: Sequence[np.ndarray],
    advance: running.Progress | None = None,
) -> tuple[np.ndarray, Both]:
    """(sets,) the metric of the base text where the parts of each set have the other text's activation; and both plain runs."""
    both = Both.take(model, anatomy, contrast, parts.names)
    ids, other = (contrast.clean, both.corrupted) if base == "clean" else (contrast.corrupted, both.clean)
    size = running.copies(model, len(ids), len(sets))
    found: list[float] = []
    for first in range(0, len(sets), size):
        some = sets[first : first + size]
        device = next(iter(next(iter(other.values())).values())).device
        sites = [
            Site(group.name, group.layer, _taking(_as_mask(group, mask), other, group))
            for group, mask in parts.masks(some, device)
        ]
        with installed(model, anatomy, sites):
            logits = running.forward(model, [ids] * len(some)).all_logits
        for row in logits:
            found.append(patched_value(contrast.metric, row))
            if advance is not None:
                advance.advance()
    return np.array(found), both


def _as_mask(group: Group, mask: torch.Tensor) -> torch.Tensor:
    """(rows, count, positions or 1) as it broadcasts to the instrument's tensor."""
    if group.kind == "head":
        return mask[..., None]  # (rows, heads, T, d_head)
    return mask.transpose(1, 2)  # (rows, T, d)


def _taking(mask: torch.Tensor, other: Tensors, group: Group) -> Change:
    value = other[group.name][group.layer]

    def change(whole: torch.Tensor, _axis: TokenAxis) -> torch.Tensor:
        return torch.where(mask.to(whole.device), value.to(whole.device, whole.dtype), whole)

    return change
