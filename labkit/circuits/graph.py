"""A circuit as a graph: parts of a model that write into the residual stream, and what passes from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["input", "head", "mlp", "neuron", "feature", "error", "output"]


@dataclass(frozen=True)
class CircuitNode:
    """A part of a model, at one position or at all together.

    id: unique in its graph, such as "head 3.5", or "head 3.5 @7" at position 7.
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
    """What one part hands to a later one. via: the input that reads it: "q", "k", "v" of a head, "" where there is but one."""

    sender: str
    receiver: str
    via: str
    effect: float


@dataclass(frozen=True)
class CircuitGraph:
    """A circuit's nodes and edges, strongest first.

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
