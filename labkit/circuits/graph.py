"""A circuit as a graph: parts of a model that write into the residual stream, and what passes from one to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from labkit import checks

SHARE = "share of the way from corrupted to clean"
"""The unit of effects on a metric of two texts, as in `lk.patching`."""

Kind = Literal["input", "head", "mlp", "neuron", "feature", "error", "output"]


def node_id(kind: Kind, layer: int | None = None, index: int | None = None, position: int | None = None) -> str:
    """ "head 3.5", "mlp 3", "neuron 3.127", "input", "output"; at a position "head 3.5 @7"."""
    place = "" if layer is None else f" {layer}" if index is None else f" {layer}.{index}"
    return f"{kind}{place}" + ("" if position is None else f" @{position}")


@dataclass(frozen=True)
class CircuitNode:
    """A part of a model, at one position or at all together.

    id: unique in its graph, as `node_id` writes it: "head 3.5", or "head 3.5 @7" at position 7.
    kind: "input" is the token embedding, "output" the logits.
    layer: from 0; None of input and output.  index: of the head, neuron or feature within its layer; None where there is none.
    position: of the token, from 0; None where all positions are taken together.
    effect: on the metric, signed and in the unit of `CircuitGraph.unit`.
    """

    id: str
    kind: Kind
    layer: int | None
    index: int | None
    position: int | None
    effect: float


@dataclass(frozen=True)
class CircuitEdge:
    """What one part hands to a later one.

    sender, receiver: ids of nodes; at positions, both at the position where the receiver reads (attention carries what its
    keys and values read to later positions by itself).
    via: the input that reads it: "q", "k", "v" of a head, "" where there is but one.
    effect: on the metric, as of a node. The effects of all edges that leave a node sum to the node's, where both were taken
    by gradients.
    """

    sender: str
    receiver: str
    via: str
    effect: float


@dataclass(frozen=True)
class CircuitGraph:
    """A circuit's nodes and edges, strongest first.

    nodes, edges: by the size of their effects; "input" and "output" come first where there are edges.
    tokens: of the clean text, so that a position has its word; of the first pair where there are several.
    metric: in words.  unit: of the effects.  layers: of the model.
    """

    nodes: tuple[CircuitNode, ...]
    edges: tuple[CircuitEdge, ...]
    tokens: tuple[str, ...]
    model: str
    layers: int
    metric: str
    unit: str

    def strongest(self, size: int) -> CircuitGraph:
        """A graph of so many edges, and the nodes at their ends; of so many nodes, where there are no edges.

        Raises BadInput for a size below 0.
        """
        size = checks.whole("size", size, 0)
        if not self.edges:
            return replace(self, nodes=self.nodes[:size])
        edges = self.edges[:size]
        ends = {end for edge in edges for end in (edge.sender, edge.receiver)}
        return replace(self, nodes=tuple(node for node in self.nodes if node.id in ends), edges=edges)
