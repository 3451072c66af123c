"""What a lab tells of a circuit's parts: what each writes on the logits itself, and where its heads look."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labkit.errors import BadInput, Unavailable
from labkit.markup import clean
from labkit.models.tokens import token_strings
from labkit.trace.lens import logit_attribution
from labkit.views.attention_view.codes import pack
from labkit.views.kit.arrays import numbers
from labkit.views.kit.codes import quantize

if TYPE_CHECKING:
    from labkit.circuits.graph import CircuitGraph
    from labkit.trace.lab_like import TracingLab
    from labkit.trace.record import Trace

KEEP = ("attention", "residual", "head_output", "attention_output", "mlp_output", "logits")
"""What a trace for the circuit view holds."""


class Looked(NamedTuple):
    """effects: (parts,) logits, NaN where a part's own is not known; facts: whose logit that is."""

    effects: np.ndarray
    facts: dict[str, object]


def trace_of(lab: TracingLab, graph: CircuitGraph) -> Trace:
    """The lab's trace of the graph's text. Raises BadInput where its tokens are not the graph's."""
    ids = list(lab.tokenizer("".join(graph.tokens), add_special_tokens=False).input_ids)
    if token_strings(lab.tokenizer, ids) != list(graph.tokens):
        raise BadInput(
            "The lab splits this circuit's text into other tokens than the circuit has; give its trace: "
            "lk.views.circuit(found, lab, trace=lab.trace(clean, keep=lk.views.circuit_view.KEEP))."
        )
    trace: Trace = lab.trace(ids, keep=KEEP)
    return trace


def direct_effects(lab: TracingLab, trace: Trace, graph: CircuitGraph) -> Looked:
    """Direct logit attribution of the text's last prediction, by the graph's parts.

    A part at an earlier position writes nothing there itself: 0. What is known of no part of its own (a neuron, a feature) is
    NaN. Raises as `logit_attribution` does.
    """
    if len(trace) != len(graph.tokens):
        raise BadInput(
            f"The trace has {len(trace)} tokens, and the circuit {len(graph.tokens)}; give that of its text."
        )
    try:
        found = logit_attribution(lab, trace, by="head")
    except Unavailable:
        found = logit_attribution(lab, trace, by="layer")  # heads that don't add up; MLPs are known all the same
    known = {
        (row["component"], _whole(row["layer"]), _whole(row["head"])): float(row["contribution"])
        for row in found.table.to_dict("records")
    }
    last = len(trace) - 1
    effects = np.full(len(graph.nodes), np.nan)
    for i, node in enumerate(graph.nodes):
        component = {"input": "embedding", "head": "head", "mlp": "mlp"}.get(node.kind)
        if component is None:
            continue
        value = known.get((component, node.layer, node.index if component == "head" else None), np.nan)
        effects[i] = value if node.position in (None, last) else 0.0
    return Looked(effects, {"token": clean(found.token), "position": last, "logit": found.logit})


def pattern_of(trace: Trace, layer: int, head: int) -> bytes:
    """A head's pattern as codes of square roots: the half that a causal model sees, else the whole, row by row."""
    codes = quantize(numbers(trace.attention(layer, head).float()))
    return pack(codes) if trace.causal else codes.tobytes()


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | np.integer) else None
