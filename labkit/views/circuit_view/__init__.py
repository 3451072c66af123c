"""The circuit view: the parts of a circuit by layer and token, how much of the model's answer they carry, each at a click."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import traitlets

from labkit.checks import series, whole
from labkit.errors import BadInput
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.circuit_view.graphs import END, Curve, curve_of, described, graph_of, measured, name_of, ranked
from labkit.views.circuit_view.looking import (
    KEEP,
    Looked,
    Sampled,
    direct_effects,
    pattern_of,
    sample_key,
    sampled,
    trace_of,
)
from labkit.views.circuit_view.picture import drawn
from labkit.views.circuit_view.removing import Removal, Remover, corrupting, own, zeroing
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job, Run
from labkit.views.kit.traits import Change, Proposal
from labkit.views.kit.wire import Answer, answers

if TYPE_CHECKING:
    import pandas as pd

    from labkit.circuits.graph import CircuitGraph, CircuitNode
    from labkit.trace.lab_like import TracingLab
    from labkit.trace.record import Trace
    from labkit.views.drawing.scene import Picture

__all__ = ["KEEP", "CircuitView", "circuit"]

FIRST_SIZE = 24  # parts or edges that are shown at first
NAME_CHARACTERS = 40
PATTERN_BYTES = 400_000  # of heads' patterns in a file, the strongest heads first
GROUP = "group "  # before its name, a folded group's id
EXAMPLE_CHARACTERS = 300_000  # of examples in a file, likewise: with all else it stays below 2 MB


def circuit(
    found: CircuitGraph | Any,
    lab: TracingLab | None = None,
    *,
    trace: Trace | None = None,
    metric: Callable[..., Any] | None = None,
    knock_out: Callable[[Sequence[CircuitNode]], float] | None = None,
    faithfulness: Any = None,
    texts: Sequence[object] | None = None,
    size: int | None = None,
) -> CircuitView:
    """Show a circuit: layers downward, tokens across, each part as large as its effect, each edge as wide as its own.

    A slider says how many parts (or edges) are kept, strongest first, and what share of the model's answer they carry where
    that was measured. A click on a part gives its numbers, its edges and its token; parts can be pinned, named and grouped, a
    group can be folded into one, and a file (`to_html`) keeps that.
    found: a CircuitGraph, or what `lk.circuits.find` returned.
    lab: with it a part also shows what it writes on the logit of the model's first choice (`lk.logit_attribution`), a head its
        pattern, and each the texts in which it is most active (`lk.circuits.part_examples`).
    trace: of the graph's own text, kept with `labkit.views.circuit_view.KEEP`; by default the lab reads the graph's tokens.
    texts: in which such examples are looked for, a pass each, 64 at most; by default those of the circuit's pairs, else the
        graph's own; []: in none.
    What becomes of the model without a part is computed when it is knocked out: by `knock_out`, a function of a list of
        CircuitNodes that gives a number (called in a worker thread); else with `metric`, a function of the text's logits
        (T, vocabulary), the parts set to zero; else by the circuit's own `without` (of heads and neurons: the parts set to what
        they are in the corrupted texts, and the share of the way from the corrupted metric to the clean one that is left); else,
        of a lab, the parts set to zero and the mean loss of the text.
    faithfulness: a table with a row for each size, such as `found.on(other_pairs, metric).faithfulness`; by default that of
        `found`, which is measured now where it was not yet; False: none.
    size: how many parts are shown at first.
    Raises BadInput for anything that is no graph, and for one that contradicts itself.
    """
    graph, by = graph_of(found)
    if faithfulness is None:
        faithfulness = getattr(found, "faithfulness", None)
    without = None if knock_out is not None or metric is not None or by == "edges" else getattr(found, "without", None)
    return CircuitView(
        graph,
        curve_of(faithfulness),
        by,
        lab=lab,
        trace=trace,
        remove=own(knock_out, graph) if knock_out is not None else corrupting(without) if callable(without) else None,
        metric=metric,
        texts=_own_texts(found) if texts is None else _numbered(texts),
        size=size,
    )


def _numbered(texts: object) -> Texts:
    given = series("texts", texts, "a list of texts, or [] for none")
    return Texts(given, [f"text {i}" for i in range(len(given))])


def _own_texts(found: object) -> Texts | None:
    """The texts of a circuit's pairs, and what each is called; None where they are not known."""
    own = getattr(found, "texts", None)
    if own is None:
        return None
    return Texts(
        list(own), [f"{side} text of pair {i}" for i in range(len(own) // 2) for side in ("clean", "corrupted")]
    )


class Texts(NamedTuple):
    """Texts to look for examples in, and what each is called."""

    texts: list[object]
    names: list[str]


class CircuitView(View):
    """A circuit on show. `size` is how many parts or edges are kept, `focus` the id of the part that is looked at.

    `pin(id)`, `name(id, name)`, `group(ids, name)`, `fold(name)` do what the buttons do; an empty name undoes it.
    `knock_out(*ids)` switches parts off, none to put all back, and `wait()` waits for what becomes of it.
    """

    _title = "A circuit: which parts of the model make it say so"
    _esm = module("circuit_view/circuit.js")
    _css = style("circuit_view/circuit.css")

    facts = traitlets.Dict().tag(sync=True)
    """See `described` in graphs.py."""
    places = traitlets.Bytes(b"").tag(sync=True)
    """(parts, 4) int32: kind, layer, index, position; -1 for none."""
    effects = traitlets.Bytes(b"").tag(sync=True)
    """(parts,) float32."""
    links = traitlets.Bytes(b"").tag(sync=True)
    """(edges, 3) int32: sender, receiver, via."""
    weights = traitlets.Bytes(b"").tag(sync=True)
    """(edges,) float32."""
    curve: traitlets.List[dict[str, float | None]] = traitlets.List().tag(sync=True)
    """What was measured at each size."""
    size = traitlets.Int(0).tag(sync=True)
    focus = traitlets.Unicode("").tag(sync=True)

    pins = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Parts that are shown at every size."""
    names = traitlets.Dict(key_trait=traitlets.Unicode(), value_trait=traitlets.Unicode()).tag(sync=True)
    """What somebody calls a part, by its id."""
    groups = traitlets.Dict(key_trait=traitlets.Unicode(), value_trait=traitlets.Unicode()).tag(sync=True)
    """The group that a part is in, by its id."""
    folded = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Groups that are drawn as one part."""

    can_look = traitlets.Bool(False).tag(sync=True)
    looked = traitlets.Dict().tag(sync=True)
    """What `direct` is of: token, position, logit; empty before that is known."""
    direct = traitlets.Bytes(b"").tag(sync=True)
    """(parts,) float32: what each writes on that logit itself; NaN where that is not known."""
    patterns: traitlets.Dict[str, list[int]] = traitlets.Dict().tag(sync=True)
    """In a file: where each head's pattern is in `cells`, [from, bytes], by "layer.head"."""
    cells = traitlets.Bytes(b"").tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    """Of looking at the text, as `Job` says it."""
    examples = traitlets.Dict().tag(sync=True)
    """In a file: where parts are most active, by "head 3.5" (`looking.sampled`)."""
    sampling = traitlets.Dict().tag(sync=True)
    """Of looking for examples, as `Job` says it."""

    can_remove = traitlets.Bool(False).tag(sync=True)
    knocked = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Parts that are switched off."""
    removed = traitlets.Dict().tag(sync=True)
    """What became of it: ids, what, unit, how (the parts were changed), before, after."""
    removing = traitlets.Dict().tag(sync=True)
    """As `Job` says it."""

    def __init__(
        self,
        graph: CircuitGraph,
        curve: Curve,
        by: str,
        *,
        lab: TracingLab | None,
        trace: Trace | None,
        metric: Callable[..., Any] | None,
        remove: Remover | None,
        texts: Texts | None,
        size: int | None,
    ) -> None:
        self.graph = graph
        self._nodes = {node.id: node for node in graph.nodes}
        self._lab, self._trace = lab, trace
        self._looking: Job[None, Looked] = Job(
            self, self._look, self._seen, status="status", failed="The text can't be looked at:"
        )
        self._knocking: Job[tuple[str, ...], Removal] = Job(
            self,
            self._remove,
            self._show_removal,
            status="removing",
            failed="It can't be knocked out:",
            give_up=lambda _ids: self._forget_removal(),
        )
        self._samples: Sampled = {}
        self._texts = Texts([], []) if lab is None else texts
        self._sampling: Job[None, Sampled] = Job(
            self,
            self._sample,
            self._show_samples,
            status="sampling",
            failed="No examples can be had:",
            keep_stopped=True,
        )
        self._remover = zeroing(lab, self._text, metric) if remove is None and lab is not None else remove
        total = len(ranked(graph, by))
        sent = described(graph, by)
        super().__init__(can_look=lab is not None, can_remove=self._remover is not None)
        with self.hold_sync():
            self.facts = sent.facts
            self.places, self.effects = sent.places.tobytes(), sent.effects.tobytes()
            self.links, self.weights = sent.links.tobytes(), sent.weights.tobytes()
            self.curve = curve
            self.size = min(total, FIRST_SIZE) if size is None else min(total, whole("size", size, 0))
        self._knocking.clear()
        self._sampling.clear()
        self.observe(self._on_knocked, names="knocked")
        if lab is not None:
            self._looking.ask(None)
            if self._texts is None or self._texts.texts:
                self._sampling.ask(None)

    # what a user calls ------------------------------------------------------------------------------------------------

    def pin(self, *ids: str, on: bool = True) -> None:
        """Show parts at every size. on: False lets them go again. Raises BadInput for a part that is not there."""
        given = [self._known(each) for each in ids]
        self.pins = [each for each in self.pins if each not in given] + (given if on else [])

    def name(self, id: str, name: str) -> None:
        """Call a part something; "" for its own name again. Raises BadInput for a part that is not there."""
        self._known(id)
        self.names = {**self.names, id: name} if name.strip() else {k: v for k, v in self.names.items() if k != id}

    def group(self, ids: Sequence[str], name: str) -> None:
        """Put parts into a group; "" takes them out of theirs. Raises BadInput for a part that is not there."""
        given = [self._known(each) for each in ([ids] if isinstance(ids, str) else ids)]
        others = {id: group for id, group in self.groups.items() if id not in given}
        self.groups = {**others, **dict.fromkeys(given, name)} if name.strip() else others

    def fold(self, name: str, on: bool = True) -> None:
        """Draw a group as one part, effects and edges summed; on: False takes it apart. Raises BadInput for no group's name."""
        if name not in self.groups.values():
            raise BadInput(
                f"{shorten(visible(name), 60)!r} is no group; put parts into one first: view.group(ids, name)."
            )
        self.folded = [each for each in self.folded if each != name] + ([name] if on else [])

    def knock_out(self, *ids: str) -> None:
        """Switch parts off, and no others; none to put all back. `wait()`, then `removed` says what became of it."""
        if not self.can_remove:
            raise BadInput("Nothing can be knocked out without a lab; give one: lk.views.circuit(found, lab).")
        self.knocked = [self._known(each) for each in ids]

    @answers
    def _answer_stop(self) -> None:
        self._knocking.stop()

    # traits that a page sets ------------------------------------------------------------------------------------------

    @traitlets.validate("pins", "knocked")
    def _valid_ids(self, proposal: Proposal) -> list[str]:
        return list(dict.fromkeys(self._known(each) for each in proposal["value"]))

    @traitlets.validate("names", "groups")
    def _valid_names(self, proposal: Proposal) -> dict[str, str]:
        given: Mapping[str, str] = proposal["value"]
        return {self._known(id): shorten(clean(name).strip(), NAME_CHARACTERS) for id, name in given.items()}

    @traitlets.validate("folded")
    def _valid_folded(self, proposal: Proposal) -> list[str]:
        return list(dict.fromkeys(shorten(clean(name).strip(), NAME_CHARACTERS) for name in proposal["value"]))

    @traitlets.validate("size")
    def _valid_size(self, proposal: Proposal) -> int:
        return int(min(max(0, proposal["value"]), len(ranked(self.graph, str(self.facts["by"])))))

    @traitlets.validate("focus")
    def _valid_focus(self, proposal: Proposal) -> str:
        value = str(proposal["value"])
        if value.startswith(GROUP) and value.removeprefix(GROUP) in self.groups.values():
            return value
        return self._known(value) if value else ""

    def _known(self, id: str) -> str:
        if id not in self._nodes:
            raise Refused(f"{shorten(visible(str(id)), 60)!r} is no part of this circuit; `view.table` lists them.")
        return id

    # looking at the text ----------------------------------------------------------------------------------------------

    def _text(self) -> Trace:
        """The trace of the graph's text, taken where it was not given."""
        if self._trace is None:
            assert self._lab is not None
            self._trace = trace_of(self._lab, self.graph)
        return self._trace

    def _look(self, _request: None, _run: Run) -> Looked:
        assert self._lab is not None
        return direct_effects(self._lab, self._text(), self.graph)

    def _seen(self, _request: None, looked: Looked) -> str:
        self.direct, self.looked = looked.effects.astype("<f4").tobytes(), looked.facts
        return ""

    @answers
    def _answer_pattern(self, layer: int, head: int) -> Answer:
        """The attention pattern of a head: its codes, the seen half alone where the model is causal."""
        if self._trace is None:
            raise BadInput("The text has not been read yet.")
        return Answer({"n": len(self._trace)}, [pattern_of(self._trace, layer, head)])

    def _sample(self, _request: None, run: Run) -> Sampled:
        assert self._lab is not None
        texts = Texts([self._text().ids], ["this text"]) if self._texts is None else self._texts

        def going(done: int, total: int) -> bool:
            run.say(f"text {done + 1} of {total}", done=done, total=total)
            return not run.stop.is_set()

        return sampled(self._lab, self.graph, texts.texts, texts.names, going)

    def _show_samples(self, _request: None, samples: Sampled) -> str:
        self._samples = samples
        return ""

    @answers
    def _answer_examples(self, kind: str, layer: int, index: int | None) -> Answer:
        """Where a part is most active; null where that is not known."""
        return Answer(self._samples.get(sample_key(kind, layer, index)))

    # knocking out -----------------------------------------------------------------------------------------------------

    def _on_knocked(self, change: Change) -> None:
        if not change["new"]:
            with self._lock:
                self._forget_removal()
                self._knocking.clear()
        elif self.can_remove:
            self._knocking.ask(tuple(change["new"]))

    def _remove(self, ids: tuple[str, ...], run: Run) -> Removal:
        nodes = [self._nodes[id] for id in ids]
        assert self._remover is not None
        return self._remover(nodes, run.stop)

    def _show_removal(self, ids: tuple[str, ...], removal: Removal) -> str:
        values = {"before": _finite(removal.before), "after": _finite(removal.after)}
        self.removed = {"ids": list(ids), "what": removal.what, "unit": removal.unit, "how": removal.how, **values}
        return ""

    def _forget_removal(self) -> None:
        self.removed = {}

    # what is written --------------------------------------------------------------------------------------------------

    def _describe(self) -> str:
        parts = sum(node.kind not in END for node in self.graph.nodes)
        return f"{shorten(visible(self.graph.metric), 60)!r}, {parts} parts, {len(self.graph.edges)} edges"

    def _sentence(self) -> str:
        by, total = str(self.facts["by"]), len(ranked(self.graph, str(self.facts["by"])))
        said = f"{self.graph.model}: the {self.size} strongest of {total} {by}; metric: {self.graph.metric}"
        row = next((row for row in self.curve if row["size"] == self.size), None)
        numbers = {} if row is None else {name: row[name] for name in [*measured(self.curve), "p"] if name in row}
        return "; ".join([said, *(f"{name} {value:.3f}" for name, value in numbers.items() if value is not None)])

    def _static_text(self) -> str:
        unit = f" {self.graph.unit}" if self.graph.unit else ""
        rows = self.table.head(12).to_dict("records")
        lines = [f"{row['effect']:+.4g}{unit}  {row['id']}{_after(row['name'])}" for row in rows]
        return "\n".join([self._sentence(), *lines])

    def _table(self) -> pd.DataFrame:
        """The parts, strongest first: id, kind, layer, index, position, token, effect, direct (both of the graph's own unit and
        in logits), pinned, name, group."""
        import pandas as pd

        direct = np.frombuffer(self.direct, "<f4") if self.direct else np.full(len(self.graph.nodes), np.nan)
        tokens = self.graph.tokens
        rows = [
            {
                "id": node.id,
                "kind": node.kind,
                "layer": node.layer,
                "index": node.index,
                "position": node.position,
                "token": None if node.position is None else tokens[node.position],
                "effect": node.effect,
                "direct": float(direct[i]),
                "pinned": node.id in self.pins,
                "name": self.names.get(node.id, ""),
                "group": self.groups.get(node.id, ""),
            }
            for i, node in enumerate(self.graph.nodes)
        ]
        frame = pd.DataFrame(rows).astype({"layer": "Int64", "index": "Int64", "position": "Int64"})
        strongest = frame.effect.abs().sort_values(ascending=False, kind="stable", na_position="last").index
        return frame.loc[strongest].reset_index(drop=True)

    def _image(self) -> Picture:
        return drawn(
            self._title,
            self._sentence(),
            self.graph,
            by=str(self.facts["by"]),
            size=self.size,
            pins=self.pins,
            names=self.names,
            curve=self.curve,
        )

    def _export_state(self) -> dict[str, Any]:
        state = super()._export_state()
        if self._trace is not None and self._lab is not None:
            state["patterns"], state["cells"] = self._patterns_written()
        state["examples"] = self._samples_written()
        return state

    def _samples_written(self) -> Sampled:
        """The examples of the strongest parts, as many as a file has room for."""
        written: Sampled = {}
        room = EXAMPLE_CHARACTERS
        for node in sorted(self.graph.nodes, key=lambda node: -abs(node.effect) if math.isfinite(node.effect) else 0.0):
            key = "" if node.layer is None else sample_key(node.kind, node.layer, node.index)
            if key in self._samples and key not in written:
                room -= len(json.dumps(self._samples[key]))
                if room < 0:
                    break
                written[key] = self._samples[key]
        return written

    def _patterns_written(self) -> tuple[dict[str, list[int]], bytes]:
        """The patterns of the strongest heads, as many as a file has room for."""
        assert self._trace is not None
        where: dict[str, list[int]] = {}
        written = b""
        for node in sorted(self.graph.nodes, key=lambda node: -abs(node.effect) if math.isfinite(node.effect) else 0.0):
            if node.kind != "head" or node.layer is None or node.index is None or name_of(node) in where:
                continue
            codes = pattern_of(self._trace, node.layer, node.index)
            if len(written) + len(codes) > PATTERN_BYTES:
                break
            where[name_of(node)] = [len(written), len(codes)]
            written += codes
        return where, written


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _after(name: str) -> str:
    return f" ({visible(name)})" if name else ""
