"""Parts of a circuit switched off in the model, and what the text comes to without them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from labkit.errors import BadInput
from labkit.trace.edits import Edit, patch

if TYPE_CHECKING:
    from labkit.circuits.graph import CircuitGraph, CircuitNode
    from labkit.trace.lab_like import TracingLab
    from labkit.trace.record import Trace


@dataclass(frozen=True)
class Removal:
    """A number with all parts and without some. what: it is, in words; how: what was made of the parts."""

    what: str
    unit: str
    before: float
    after: float
    how: str = ""


Remover = Callable[[Sequence["CircuitNode"], threading.Event], Removal]
"""What gives a Removal for parts, in a worker; the event asks it to end early."""


def without(node: CircuitNode) -> Edit:
    """The edit that sets what a part writes to zero. Raises BadInput for a part that a model does not have of its own."""
    at = "" if node.position is None else f" @ {node.position}"
    if node.kind == "head":
        return patch(f"head_output[{node.layer}, {node.index}]{at}", 0.0)
    if node.kind == "mlp":
        return patch(f"mlp_output[{node.layer}]{at}", 0.0)
    if node.kind == "neuron":
        return patch(f"mlp_neurons[{node.layer}]{at}", _zeroed(node.index))
    raise BadInput(
        f"A part of the kind {node.kind!r} can't be set to zero in the model; give knock_out=, a function of CircuitNodes, to "
        "views.circuit."
    )


def _zeroed(index: int | None) -> Callable[[torch.Tensor], torch.Tensor]:
    def without_one(neurons: torch.Tensor) -> torch.Tensor:
        neurons[..., index] = 0
        return neurons

    return without_one


def own(knock_out: Callable[[Sequence[CircuitNode]], float], graph: CircuitGraph) -> Remover:
    """By a user's function of nodes."""

    def remove(nodes: Sequence[CircuitNode], _stop: threading.Event) -> Removal:
        before = float(knock_out([]))
        return Removal(graph.metric, graph.unit, before, float(knock_out(nodes)))

    return remove


def corrupting(without: Callable[[Sequence[str]], float]) -> Remover:
    """By a circuit's own `without`, a function of ids: the parts are what they are in the corrupted texts."""

    def remove(nodes: Sequence[CircuitNode], _stop: threading.Event) -> Removal:
        before = float(without([]))
        after = float(without([node.id for node in nodes]))
        return Removal(
            "the share of the way from corrupted to clean that is left", "", before, after, "as in the corrupted texts"
        )

    return remove


def zeroing(lab: TracingLab, text: Callable[[], Trace], metric: Callable[..., Any] | None) -> Remover:
    """The text is read by a lab with all parts, and again with these set to zero. metric: of its logits; None: its mean loss."""
    what, unit = ("the loss of the text", "nats a token") if metric is None else ("the metric", "")

    def measured(trace: Trace) -> float:
        return float(trace.loss[1:].mean()) if metric is None else float(metric(trace.logits))

    def remove(nodes: Sequence[CircuitNode], stop: threading.Event) -> Removal:
        ids = list(text().ids)
        edits = [without(node) for node in nodes]
        with lab.turn():
            before = measured(lab.trace(ids, keep="logits"))
            if stop.is_set():
                return Removal(what, unit, before, float("nan"))
            with lab.edit(*edits):
                return Removal(what, unit, before, measured(lab.trace(ids, keep="logits")), "set to zero")

    return remove
