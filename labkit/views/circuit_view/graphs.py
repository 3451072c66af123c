"""A circuit's graph as the view takes it and sends it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, get_args

import numpy as np

from labkit.circuits.graph import SHARE, CircuitEdge, CircuitGraph, CircuitNode, Kind
from labkit.errors import BadInput
from labkit.markup import clean, shorten, visible

if TYPE_CHECKING:
    import pandas as pd

KINDS: tuple[str, ...] = get_args(Kind)
END = ("input", "output")  # the ends of a model, which are no parts of a circuit that a size counts
TOKEN_CHARACTERS = 80
Curve: TypeAlias = list[dict[str, float | None]]


class Sent(NamedTuple):
    """The graph as the page has it; the traits of `CircuitView` tell the arrays."""

    facts: dict[str, object]
    places: np.ndarray
    effects: np.ndarray
    links: np.ndarray
    weights: np.ndarray


def graph_of(found: Any) -> tuple[CircuitGraph, str]:
    """The graph of what was given, and what its sizes count: "parts" or "edges".

    Raises BadInput for anything without one, and for a graph that contradicts itself.
    """
    graph = getattr(found, "graph", found)
    if not all(hasattr(graph, name) for name in ("nodes", "edges", "tokens", "layers")):
        raise BadInput(
            f"views.circuit shows a circuit, and a {type(found).__name__} has none; give what lk.circuits.find "
            "returned, or a CircuitGraph."
        )
    if not graph.nodes:
        raise BadInput("This circuit has no parts, so there is nothing to draw; give a graph with one node at least.")
    _check(graph)
    return graph, "edges" if getattr(found, "parts", None) == "edges" and graph.edges else "parts"


def _check(graph: CircuitGraph) -> None:
    ids = {node.id for node in graph.nodes}
    if len(ids) < len(graph.nodes):
        raise BadInput("Two nodes of this circuit have the same id; each node needs one of its own.")
    for node in graph.nodes:
        if node.kind not in KINDS:
            raise BadInput(f"kind={node.kind!r} of {_called(node.id)} is not known; give one of {', '.join(KINDS)}.")
        if node.layer is not None and not 0 <= node.layer < graph.layers:
            raise BadInput(f"{_called(node.id)} is in layer {node.layer}, and the model has {graph.layers} layers.")
        if node.position is not None and not 0 <= node.position < len(graph.tokens):
            raise BadInput(
                f"{_called(node.id)} is at position {node.position}, and the text has {len(graph.tokens)} tokens."
            )
    for edge in graph.edges:
        for end in (edge.sender, edge.receiver):
            if end not in ids:
                raise BadInput(f"An edge joins {_called(end)}, and there is no such node in this circuit.")


def _called(id: str) -> str:
    return f"the node {shorten(visible(str(id)), 60)!r}"


def ranked(graph: CircuitGraph, by: str) -> Sequence[CircuitNode | CircuitEdge]:
    """What a size counts, strongest first; what has no number comes last."""
    given: Sequence[CircuitNode | CircuitEdge] = (
        graph.edges if by == "edges" else [node for node in graph.nodes if node.kind not in END]
    )
    return sorted(given, key=lambda each: math.inf if math.isnan(each.effect) else -abs(each.effect))


def described(graph: CircuitGraph, by: str) -> Sent:
    """The graph as traits. by: what its sizes count."""
    at = {node.id: i for i, node in enumerate(graph.nodes)}
    vias = list(dict.fromkeys(edge.via for edge in graph.edges))
    places = [
        (KINDS.index(node.kind), *(-1 if x is None else x for x in (node.layer, node.index, node.position)))
        for node in graph.nodes
    ]
    links = [(at[edge.sender], at[edge.receiver], vias.index(edge.via)) for edge in graph.edges]
    facts = {
        "model": clean(graph.model),
        "metric": clean(graph.metric),
        "unit": clean(graph.unit),
        "signs": signs(graph),
        "layers": graph.layers,
        "tokens": [shorten(clean(token), TOKEN_CHARACTERS) for token in graph.tokens],
        "ids": [node.id for node in graph.nodes],
        "kinds": list(KINDS),
        "vias": vias,
        "by": by,
    }
    return Sent(
        facts,
        np.asarray(places, "<i4").reshape(-1, 4),
        np.asarray([node.effect for node in graph.nodes], "<f4"),
        np.asarray(links, "<i4").reshape(-1, 3),
        np.asarray([edge.effect for edge in graph.edges], "<f4"),
    )


def signs(graph: CircuitGraph) -> tuple[str, str]:
    """What an effect above 0 does, and one below; a share of the way to a clean metric may well lower the metric."""
    return ("towards the clean text", "away from it") if graph.unit == SHARE else ("raises the metric", "lowers it")


def curve_of(faithfulness: Any) -> Curve:
    """What was measured at each size: the number columns of a table that has sizes; empty where there is none."""
    table: pd.DataFrame | None = getattr(faithfulness, "table", faithfulness)
    if table is None or "size" not in getattr(table, "columns", ()):
        return []
    names = [
        str(name)
        for name in table.columns
        if name != "size" and table[name].dtype.kind in "fiu" and table[name].notna().any()
    ]
    rows = table.sort_values("size").drop_duplicates("size", keep="last").to_dict("records")
    return [
        {"size": int(row["size"]), **{name: float(row[name]) if math.isfinite(row[name]) else None for name in names}}
        for row in rows
    ]


def measured(curve: Curve) -> list[str]:
    """The names of a curve's lines; its other columns are the ends of intervals, and p-values."""
    return [
        name
        for name in (curve[0] if curve else {})
        if name not in ("size", "p") and not name.endswith(("_low", "_high"))
    ]


def name_of(node: CircuitNode) -> str:
    """ "3.5" for head 5 of layer 3."""
    return f"{node.layer}.{node.index}"


def label_of(node: CircuitNode) -> str:
    """What a part is called in a picture."""
    if node.kind == "input":
        return "tokens"
    if node.kind == "output":
        return "logits"
    own = "" if node.layer is None else str(node.layer)
    own += "" if node.index is None else f".{node.index}"
    return (
        own
        if node.kind == "head"
        else f"{ {'mlp': 'MLP', 'neuron': 'n', 'feature': 'f', 'error': 'err'}[node.kind] } {own}"
    )
