"""Circuits made by hand: no model, but graphs as a search for circuits gives them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd

from labkit.circuits import CircuitEdge, CircuitGraph, CircuitNode

TOKENS = ("When", " Mary", " and", " John", " went", ",", " John", " gave", " it", " to")


def random_circuit(
    tokens: Sequence[str] = TOKENS,
    *,
    layers: int = 6,
    heads: int = 4,
    parts: int = 40,
    edges: int = 120,
    placed: bool = True,
    seed: int = 0,
    model: str = "tiny-model",
    metric: str = "logit difference of Mary and John",
) -> CircuitGraph:
    """Heads, MLPs and a few neurons with falling effects of either sign; edges go from earlier parts to later ones."""
    draw = random.Random(seed)
    last = len(tokens) - 1
    nodes: dict[str, CircuitNode] = {}
    while len(nodes) < parts:
        kind = draw.choices(("head", "mlp", "neuron"), (6, 3, 1))[0]
        layer, position = draw.randrange(layers), draw.choice((last, draw.randint(0, last))) if placed else None
        index = None if kind == "mlp" else draw.randrange(heads) if kind == "head" else draw.randrange(500)
        name = f"{kind} {layer}" + ("" if index is None else f".{index}") + (f" @{position}" if placed else "")
        effect = draw.choice((1, 1, -1)) * draw.random() ** 3
        nodes[name] = CircuitNode(name, kind, layer, index, position, effect)  # type: ignore[arg-type]
    ends = [CircuitNode("logits", "output", None, None, last if placed else None, 0.0)]
    ends += [CircuitNode(f"token @{i}", "input", None, None, i, 0.0) for i in range(len(tokens))] if placed else []
    everyone = [*nodes.values(), *ends]
    joined: dict[tuple[str, str, str], CircuitEdge] = {}
    for _ in range(50 * edges):
        if len(joined) == edges:
            break
        a, b = draw.sample(everyone, 2)
        if _depth(a, layers) >= _depth(b, layers) or (placed and (a.position or 0) > (b.position or 0)):
            continue
        via = draw.choice("qkv") if b.kind == "head" else ""
        joined[a.id, b.id, via] = CircuitEdge(a.id, b.id, via, draw.choice((1, 1, -1)) * draw.random() ** 3)

    def strength(each: CircuitNode | CircuitEdge) -> float:
        return -abs(each.effect)

    return CircuitGraph(
        tuple(sorted(everyone, key=strength)),
        tuple(sorted(joined.values(), key=strength)),
        tuple(tokens),
        model,
        layers,
        metric,
        "logits",
    )


def _depth(node: CircuitNode, layers: int) -> float:
    if node.layer is None:
        return -1 if node.kind == "input" else layers
    return node.layer + (0 if node.kind == "head" else 0.5)


def found(graph: CircuitGraph, parts: str = "heads") -> Any:
    """A graph with a curve, as a search returns them."""
    sizes = [1, 2, 4, 8, 16, 32]
    faithful = [0.11, 0.25, 0.48, 0.71, 0.875, 0.97]
    table = pd.DataFrame(
        {
            "size": sizes,
            "faithfulness": faithful,
            "completeness": [0.9, 0.8, 0.6, 0.4, 0.2, float("nan")],
            "random": [0.0, 0.01, 0.02, 0.05, 0.1, 0.3],
            "random_low": [-0.1, -0.05, 0.0, 0.01, 0.02, 0.1],
            "random_high": [0.1, 0.1, 0.15, 0.2, 0.3, 0.6],
            "p": float("nan"),
        }
    )
    return SimpleNamespace(graph=graph, faithfulness=table, parts=parts)
