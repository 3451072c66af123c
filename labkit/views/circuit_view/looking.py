"""What a lab tells of a circuit's parts: what each writes on the logits itself, where its heads look, where it is most active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labkit.circuits.active_parts import PartExample, PartExamples, part_examples, part_of
from labkit.errors import BadInput, Unavailable
from labkit.markup import clean
from labkit.models.tokens import token_strings
from labkit.trace.lens import logit_attribution, neuron_contributions
from labkit.views.attention_view.codes import pack
from labkit.views.kit.arrays import numbers
from labkit.views.kit.codes import quantize
from labkit.views.kit.running_text import split

if TYPE_CHECKING:
    from labkit.circuits.graph import CircuitGraph
    from labkit.trace.lab_like import TracingLab
    from labkit.trace.record import Trace

KEEP = ("attention", "residual", "head_output", "attention_output", "mlp_output", "logits")
"""What a trace for the circuit view holds; with "mlp_neurons" besides, a neuron's direct effect is known, too."""
NEURONS = "mlp_neurons"
COMPONENTS = {"input": "embedding", "head": "head", "mlp": "mlp", "neuron": "mlp"}


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
    neurons = any(node.kind == "neuron" for node in graph.nodes) and lab.support().get(NEURONS) is None
    trace: Trace = lab.trace(ids, keep=(*KEEP, NEURONS) if neurons else KEEP)
    return trace


def direct_effects(lab: TracingLab, trace: Trace, graph: CircuitGraph) -> Looked:
    """Direct logit attribution of the text's last prediction, by the graph's parts.

    A part at an earlier position writes nothing there itself: 0. What is known of no part of its own (a feature; a neuron that
    the trace did not keep) is NaN. Raises as `logit_attribution` does.
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
    singles = [
        (node.layer, node.index) for node in graph.nodes if node.kind == "neuron" and node.position in (None, last)
    ]
    asked = [(layer, index) for layer, index in singles if layer is not None and index is not None]
    of_neurons: dict[tuple[int | None, int | None], float] = {}
    if asked and NEURONS in trace.keep:
        of_neurons |= neuron_contributions(lab, trace, list(dict.fromkeys(asked)), found.token_id).items()
    effects = np.full(len(graph.nodes), np.nan)
    for i, node in enumerate(graph.nodes):
        if node.kind not in COMPONENTS:
            continue
        if node.position not in (None, last):
            effects[i] = 0.0
        elif node.kind == "neuron":
            effects[i] = of_neurons.get((node.layer, node.index), np.nan)
        else:
            effects[i] = known.get(
                (COMPONENTS[node.kind], node.layer, node.index if node.kind == "head" else None), np.nan
            )
    kept = "" if NEURONS in trace.keep else "not known: the trace was taken without 'mlp_neurons'"
    facts = {"token": clean(found.token), "position": last, "logit": found.logit, "neurons": kept if asked else ""}
    return Looked(effects, facts)


def pattern_of(trace: Trace, layer: int, head: int) -> bytes:
    """A head's pattern as codes of square roots: the half that a causal model sees, else the whole, row by row."""
    codes = quantize(numbers(trace.attention(layer, head).float()))
    return pack(codes) if trace.causal else codes.tobytes()


Sampled = dict[str, dict[str, object]]
"""What is drawn of each part's examples, by "head 3.5"."""


def sampled(
    lab: TracingLab,
    graph: CircuitGraph,
    texts: Sequence[object],
    names: Sequence[str],
    going: Callable[[int, int], bool],
) -> Sampled:
    """The texts in which each part is most active. names: of the texts; going: as `part_examples` has it."""
    parts = [part for node in graph.nodes if (part := part_of(node)) is not None]
    found = part_examples(lab, parts, texts, going=going)
    return {sample_key(*part): _sent(each, names) for part, each in found.items()}


def _sent(found: PartExamples, names: Sequence[str]) -> dict[str, object]:
    def example(one: PartExample) -> dict[str, object]:
        values = [round(value, 4) for value in one.values]
        where = {"peak": one.position - one.start, "position": one.position, "from": names[one.text]}
        return {**split(one.tokens).sent(), "values": values, **where}

    examples = [example(one) for one in found.top]
    return {"measure": found.measure, "median": found.median, "tokens": found.tokens, "examples": examples}


def sample_key(kind: str, layer: int, index: int | None) -> str:
    """ "head 3.5", "mlp 3.": a part without its position, as the page asks for it."""
    return f"{kind} {layer}.{'' if index is None else index}"


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | np.integer) else None
