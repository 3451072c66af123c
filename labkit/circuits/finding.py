"""Finding a circuit: which heads, MLPs, neurons, or edges between them carry what tells two texts apart."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from labkit import checks
from labkit.circuits.contrasts import check_plain, contrasts_of, naming
from labkit.circuits.edges import Edges, check_edges, edge_effects
from labkit.circuits.graph import SHARE, CircuitEdge, CircuitGraph, CircuitNode, Kind, node_id
from labkit.circuits.measuring import MOST, Faithfulness, measure
from labkit.circuits.parts import INSTRUMENTS, Parts, effects
from labkit.circuits.study import Span, Study, check_positions
from labkit.errors import BadInput, NotEnoughMemory
from labkit.models.hardware import free_bytes
from labkit.models.memory import human_bytes
from labkit.models.tokens import token_strings
from labkit.results import Result
from labkit.trace import running
from labkit.trace.lab_like import check_lab
from labkit.trace.pairs import Metric
from labkit.trace.past import state_of

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import LabLike

Method = Literal["eap-ig", "attribution", "exact"]
What = Literal["heads", "edges", "neurons"]
STEPS = 5  # as Hanna et al. 2024
ROW_BYTES = 200  # of a table's row, with what is computed beside it
ROOM = 0.9  # of what is free
GRAPH_SIZE = 1000  # nodes, and edges: what a picture can hold
MOST_EXACT = (
    200_000  # tokens that exact patching runs unasked: five to fifteen minutes of the default model on a CPU core
)
CHUNK = 32  # parts that are patched on all pairs before the next ones are: what an interrupt may lose


@dataclass(frozen=True, eq=False, repr=False)
class Circuit(Result):
    """What carries a behaviour, strongest first.

    table: a row a part, by the size of its effect. effect is signed as in `lk.patching`: the share of the way from the
        corrupted to the clean metric that the part's clean activation brings back by itself; of several pairs, the mean
        weighted by how far apart each pair's two texts are.
        parts="heads": layer, head (missing for an MLP), part ("head" or "mlp"), effect.
        parts="neurons": layer, neuron, part, effect.
        parts="edges": sender, receiver (as `CircuitNode.id`), via ("q", "k", "v", or ""), effect.
        With positions=True also position and token, of the first pair's clean text.
    parts, method, steps: as asked; steps only of "eap-ig".  pairs: how many.  clean, corrupted: the metric's mean over the pairs.
    positions: whether parts are told apart by position.  metric: its name.  model: its name.  layers: how many it has.
    ranked: how many of the parts have an effect, those in the table: all, unless method="exact" had `top=` or was interrupted.
    interrupted: whether it was.
    """

    parts: What
    method: Method
    steps: int | None
    pairs: int
    clean: float
    corrupted: float
    positions: bool
    metric: str
    model: str
    layers: int
    _study: Study
    _order: np.ndarray  # all parts, strongest first
    _effects: np.ndarray  # of all parts, by number
    _nodes: tuple[CircuitNode, ...]  # of edges: their ends
    _tokens: tuple[str, ...]
    _held_out: bool
    ranked: int
    interrupted: bool

    def _title(self) -> str:
        by = f"{self.method}, {self.steps} steps" if self.steps else self.method
        few = f", {self.ranked:,} of {self._study.parts.size:,}" if self.ranked < self._study.parts.size else ""
        cut = ", interrupted" if self.interrupted else ""
        return f"Circuit of {self.parts} of {self.model}, by {by}{few}{cut}, from {self.pairs} pair{'s' * (self.pairs != 1)}"

    def _remarks(self) -> Sequence[str]:
        parts = self._study.parts
        if isinstance(parts, Edges) or self.parts != "heads" or "mlp_output" in parts.names:
            return ()
        return (
            "MLPs are not among the parts, since what they write can't be had from this model: they run as they are.",
        )

    @property
    def texts(self) -> tuple[tuple[int, ...], ...]:
        """The token ids of what it was found on: each pair's clean text, then its corrupted one."""
        return tuple(tuple(ids) for each in self._study.contrasts for ids in (each.clean, each.corrupted))

    @property
    def graph(self) -> CircuitGraph:
        """Nodes and edges, strongest first; of more than a thousand those. Its `strongest(size)` is a smaller one."""
        numbers = self._order[: min(GRAPH_SIZE, self.ranked)].tolist()
        parts = self._study.parts
        nodes = self._nodes
        edges: tuple[CircuitEdge, ...] = ()
        if isinstance(parts, Edges):
            found = []
            for number in numbers:
                sender, receiver, position = parts.place(number)
                at = "" if position is None else f" @{position}"
                found.append(CircuitEdge(sender.id + at, receiver.id + at, receiver.via, float(self._effects[number])))
            ends = {end for edge in found for end in (edge.sender, edge.receiver)}
            nodes, edges = tuple(node for node in nodes if node.id in ends), tuple(found)
        else:
            nodes = tuple(parts.node(number, float(self._effects[number])) for number in numbers)
        return CircuitGraph(nodes, edges, self._tokens, self.model, self.layers, self.metric, SHARE)

    @functools.cached_property
    def faithfulness(self) -> Faithfulness:
        """`by_size()` with its own settings, measured when first asked for: at most about 20,000 tokens are run."""
        return self.by_size()

    def by_size(
        self,
        sizes: Sequence[int] | None = None,
        *,
        draws: int | None = None,
        oracle: bool | None = None,
        most: int | None = MOST,
        seed: int = 0,
        progress: bool = True,
    ) -> Faithfulness:
        """Faithfulness and completeness by size, beside random graphs and the oracle; `Faithfulness` has the columns.

        sizes: numbers of parts; by default 1, 2, 4, ... and all, of more than 1,024 parts 1, 4, 16, ... and all.
        draws: random graphs of each size; by default 20, or as many as `most` allows, 5 at least. With fewer than 19 no p is
            below 0.05.  seed: of the draws.
        oracle: whether each single part is patched exactly, to know what circuit that would choose; by default where there are
            at most 512 parts.
        most: tokens that are run, about, where draws is None: there are fewer draws for it, then no oracle, then fewer pairs,
            the first ones, and `.notes` says so. None measures all.
        Costs (2 + draws) runs for each size and pair, and one for each part with the oracle. With parts="edges" a run has as
        many rows as inputs of a layer read something of their own, two for one edge and 3 · heads + 1 at most.
        Raises Unavailable where the model is not what it was when the circuit was found.
        """
        return measure(
            self._study,
            self._order,
            self.method,
            parts=self.parts,
            held_out=self._held_out,
            sizes=sizes,
            draws=draws,
            oracle=oracle,
            most=most,
            ranked=self.ranked,
            seed=seed,
            progress=progress,
        )

    def on(self, pairs: object, metric: object) -> Circuit:
        """The same ranking, to be measured on other pairs; table and effects stay those it was found with.

        Only there `p` says whether the circuit beats random graphs.
        """
        found = tuple(contrasts_of(self._study.lab, pairs, metric))
        if self.positions and check_positions(found) != self._study.parts.positions:
            raise BadInput(
                f"This circuit is of texts of {self._study.parts.positions} tokens, position by position; give pairs of as many."
            )
        study = dataclasses.replace(self._study, contrasts=found)
        return dataclasses.replace(self, _study=study, _held_out=True)

    def keeping(self, parts: int | Sequence[str], *, progress: bool = False) -> float:
        """Faithfulness where only some parts are kept: so many of the strongest, or those named as in the graph.

        Edges are named "sender -> receiver", with via in brackets where there is one: "head 0.1 -> head 1.2 (k)".
        """
        kept = self._numbers(parts)
        return float(self._study.shares("clean", [self._study.others(kept)], "measuring", progress)[0])

    def without(self, parts: int | Sequence[str], *, progress: bool = False) -> float:
        """What is left, as a share of the way from corrupted to clean, where some parts are corrupted; see `keeping`."""
        return float(self._study.shares("clean", [self._numbers(parts)], "measuring", progress)[0])

    def _numbers(self, parts: int | Sequence[str]) -> np.ndarray:
        if checks.as_whole(parts) is not None:
            count = checks.whole("parts", parts, 0, self._study.parts.size)
            if self.ranked < count < self._study.parts.size:
                raise BadInput(
                    f"{self.ranked:,} parts were patched and have an effect; give at most so many, or name them."
                )
            return self._order[:count]
        names = checks.series("parts", parts, 'a number, or a list of names such as "head 3.5"')
        known = self._by_name
        for name in names:
            if name not in known:
                near = checks.near(name, known)
                raise BadInput(f"There is no part {checks.shown(name)} here{near}; they are named as in .graph.")
        return np.array(sorted({known[str(name)] for name in names}), dtype=np.int64)

    @functools.cached_property
    def _by_name(self) -> dict[str, int]:
        parts = self._study.parts
        if isinstance(parts, Parts):
            return {parts.node(number, 0.0).id: number for number in range(parts.size)}
        found = {}
        for number in range(parts.size):
            sender, receiver, position = parts.place(number)
            at = "" if position is None else f" @{position}"
            via = f" ({receiver.via})" if receiver.via else ""
            found[f"{sender.id}{at} -> {receiver.id}{at}{via}"] = number
        return found


def find(
    lab: LabLike,
    pairs: object,
    metric: Metric | Sequence[Metric],
    method: Method = "eap-ig",
    parts: What = "heads",
    *,
    steps: int = STEPS,
    positions: bool = False,
    top: int | None = None,
    most: int | None = MOST_EXACT,
    progress: bool = True,
) -> Circuit:
    """Find the parts of a model that carry what tells clean texts from corrupted ones.

    pairs: a list of (clean, corrupted), each two texts of equally many tokens.
    metric: a function of the logits (T, vocabulary) of a text, float32, that gives a number, or a list of one for each pair.
    parts: "heads" (heads, and MLPs where what they write can be had), "neurons" (single neurons of the MLPs), or "edges" (what
        a head, an MLP or the embedding writes, as a later head's queries, keys or values, an MLP or the output reads it).
    method: "exact" patches one part after another, a run each on every pair; "attribution" takes the gradient at the
        corrupted text times the difference (Nanda 2023; of edges, EAP: Syed et al. 2023); "eap-ig" the mean of the
        gradients at `steps` points on the way from the corrupted to the clean text's embeddings (Hanna et al. 2024).
    positions: whether a part counts at each position by itself; pairs then have one length.
    top: with method="exact", so many parts that are the strongest by "attribution" are patched, and no others.
    most: with method="exact", tokens that may be run; more are refused beforehand, with what would fit. None for any number.
    An interrupt of "exact" keeps the parts that were patched on all pairs.
    Returns a `Circuit`: its table ranks the parts, `.graph` holds them for a picture, `.faithfulness` measures circuits by
    size. Keeping a circuit sets everything else to its activation in the corrupted text; the embedding is the clean text's.
    parts="edges" keeps the embedding's edges, too, only where they are in the circuit. Heads stay as they are where parts is
    "neurons".
    What it can't show: a part whose activation is the same in both texts has no effect, however much it does.
    Raises BadInput for pairs or a metric that can't be used, Unavailable where the model does not have the parts, NotEnoughMemory
    where there are more parts than memory holds, and BadInput where exact patching would take more than `most`, before anything
    is patched.
    """
    check_lab(lab)
    method = checks.one_of("method", method, ("eap-ig", "attribution", "exact"), problem="is no way to find a circuit")
    parts = checks.one_of("parts", parts, ("heads", "edges", "neurons"), problem="is nothing a circuit is made of")
    steps = checks.whole("steps", steps, 1)
    positions = checks.flag("positions", positions)
    if top is not None and method != "exact":
        raise BadInput(f"top={checks.shown(top)} goes with method='exact'; {method!r} takes all parts at once.")
    contrasts = contrasts_of(lab, pairs, metric)
    at = check_positions(contrasts) if positions else None
    with lab.turn():
        model, anatomy = lab.model, lab.anatomy
        if parts == "edges":
            check_edges(lab)
        else:
            check_plain(lab, INSTRUMENTS[parts][:1])
        state = state_of(model)
        check_memory(lab, parts, max(len(contrast.clean) for contrast in contrasts), at)
        whole = Edges.of(model, anatomy, contrasts[0], at) if parts == "edges" else Parts.of(anatomy, parts, at)
        study = Study(lab, tuple(contrasts), whole, state)
        used = steps if method == "eap-ig" else None
        layers = len(anatomy.layers)
        if method == "exact":
            top = None if top is None else checks.whole("top", top, 1, whole.size)
            check_cost(study, top, most)
            ranked = _exact(study, top, progress)
        else:
            ranked = _by_gradient(study, used, progress)
    order = ranked.order()
    tokens = tuple(token_strings(lab.tokenizer, contrasts[0].clean))
    one = contrasts[0].metric
    return Circuit(
        _frame(whole, order[: ranked.known], ranked.effects, tokens),
        parts,
        method,
        used,
        len(contrasts),
        float(ranked.span.clean.mean()),
        float(ranked.span.corrupted.mean()),
        positions,
        getattr(one, "__name__", type(one).__name__),
        lab.name,
        layers,
        study,
        order,
        ranked.effects,
        _nodes(whole, ranked) if isinstance(whole, Edges) else (),
        tokens,
        False,
        ranked.known,
        ranked.interrupted,
    )


@dataclass(frozen=True)
class _Ranked:
    """effects: (parts,), NaN where unknown.  senders: of edges, what each sender does by itself, (senders, positions or 1).

    estimated: (parts,) by gradient, by which parts of unknown effect stand behind the others; None where that is not known.
    """

    effects: np.ndarray
    senders: np.ndarray
    span: Span
    estimated: np.ndarray | None = None
    interrupted: bool = False

    @property
    def known(self) -> int:
        return int(np.isfinite(self.effects).sum())

    def order(self) -> np.ndarray:
        """All parts, strongest first."""
        rest = np.zeros(len(self.effects)) if self.estimated is None else self.estimated
        unknown = np.isnan(self.effects)
        return np.lexsort((-np.abs(np.where(unknown, rest, self.effects)), unknown))


def _by_gradient(study: Study, steps: int | None, progress: bool) -> _Ranked:
    model, anatomy, parts = study.lab.model, study.lab.anatomy, study.parts
    changes, senders, clean, corrupted = [], [], [], []
    with running.Progress("taking gradients", (steps or 1) * len(study.contrasts), "point", progress) as bar:
        for number, contrast in enumerate(study.contrasts):
            with naming(number, len(study.contrasts)):
                if isinstance(parts, Edges):
                    change, of_senders, both = edge_effects(model, anatomy, parts, contrast, steps, bar)
                else:
                    change, both = effects(model, anatomy, parts, contrast, steps, bar)
                    of_senders = np.zeros((0, 1))
            changes.append(change)
            senders.append(of_senders)
            clean.append(both.clean_value)
            corrupted.append(both.corrupted_value)
    if bar.interrupted:
        raise KeyboardInterrupt
    span = Span(np.array(clean), np.array(corrupted))
    return _Ranked(span.share_of(np.array(changes)), span.share_of(np.array(senders)), span)


def _exact(study: Study, top: int | None, progress: bool) -> _Ranked:
    parts = study.parts
    estimated = None if top is None else _by_gradient(study, None, progress).effects
    wanted = np.arange(parts.size) if estimated is None else np.argsort(-np.abs(estimated), kind="stable")[:top]
    leaving = parts.leaving() if isinstance(parts, Edges) else []
    found = np.full(parts.size, np.nan)
    senders = np.zeros((0, parts.positions or 1))
    done = 0
    with running.Progress("patching", (len(wanted) + len(leaving)) * len(study.contrasts), "run", progress) as bar:
        if leaving:
            values, span = study.values("corrupted", leaving, bar)
            senders = span.share(values).reshape(-1, parts.positions or 1)
        for start in range(0, len(wanted), CHUNK):
            some = wanted[start : start + CHUNK]
            values, span = study.values("corrupted", [np.array([number]) for number in some], bar)
            found[some] = span.share(values)
            done += len(some)
    if bar.interrupted and not done:
        raise KeyboardInterrupt
    return _Ranked(found, senders, span, estimated, bar.interrupted)


def check_cost(study: Study, top: int | None, most: int | None) -> None:
    """Raise BadInput where exact patching would run more tokens than it may; says how many runs it takes, and what would fit."""
    most = None if most is None else checks.whole("most", most, 1)
    parts = study.parts
    of_edges = isinstance(parts, Edges)
    each = (2 if of_edges else 1) * sum(len(contrast.clean) for contrast in study.contrasts)
    others = len(parts.senders) * (parts.positions or 1) if isinstance(parts, Edges) else 0
    count = parts.size if top is None else top
    if most is None or (needed := (count + others) * each) <= most:
        return
    pairs = len(study.contrasts)
    fits = most // each - others
    ways = [f"top={fits:,} (the strongest by attribution)"] if fits > 0 else []
    ways += ["fewer pairs"] if pairs > 1 else []
    ways += ["method='eap-ig'", "most=None"]
    noun = "edges" if of_edges else "neurons" if "mlp_neurons" in getattr(parts, "names", ()) else "heads and MLPs"
    raise BadInput(
        f"Patching {count:,} {noun} of {study.lab.name} exactly takes {(count + others) * pairs:,} runs, {needed:,} tokens in "
        f"all, and at most {most:,} are run unasked; give {checks.listed(ways, 'or')}."
    )


def _nodes(edges: Edges, ranked: _Ranked) -> tuple[CircuitNode, ...]:
    """Input and output, then the senders, strongest first; with positions each at each."""
    at: list[int | None] = [None] if edges.positions is None else list(range(edges.positions))
    found: list[CircuitNode] = []
    for number, sender in enumerate(edges.senders):
        kind: Kind = "input" if sender.layer is None else "mlp" if sender.head is None else "head"
        for column, position in enumerate(at):
            effect = float(ranked.senders[number, column])
            name = node_id(kind, sender.layer, sender.head, position)
            found.append(CircuitNode(name, kind, sender.layer, sender.head, position, effect))
    first = [node for node in found if node.kind == "input"]
    rest = [node for node in found if node.kind != "input"]
    last = edges.receivers[-1]
    reached = np.nansum(ranked.effects[last.start :].reshape(last.senders, -1), axis=0)
    # all of the metric's difference reaches the output; at one position as much as its edges bring there
    outputs = [
        CircuitNode(node_id("output", position=p), "output", None, None, p, 1.0 if p is None else float(reached[p]))
        for p in at
    ]
    return (*first, *outputs, *sorted(rest, key=lambda node: -abs(node.effect)))


def _frame(parts: Parts | Edges, order: np.ndarray, effects: np.ndarray, tokens: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, list[object]] = {}

    def put(**values: object) -> None:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)

    for number in order.tolist():
        if isinstance(parts, Edges):
            sender, receiver, position = parts.place(number)
            put(sender=sender.id, receiver=receiver.id, via=receiver.via)
        else:
            group, index, position = parts.place(number)
            if group.kind == "neuron":
                put(layer=group.layer, neuron=index, part="neuron")
            else:
                put(layer=group.layer, head=index if group.kind == "head" else None, part=group.kind)
        if position is not None:
            put(position=position, token=tokens[position])
    columns["effect"] = effects[order].tolist()
    frame = pd.DataFrame(columns)
    return frame.astype({"head": "Int64"}) if "head" in frame else frame


def check_memory(lab: LabLike, what: What, tokens: int, positions: int | None) -> None:
    """Raise NotEnoughMemory where there are more parts, or edges, than are free to hold; says what would fit."""
    anatomy = lab.anatomy
    width = int(getattr(lab.model.get_input_embeddings(), "weight").shape[-1])  # noqa: B009
    item = max(4, lab.dtype.itemsize)
    if what == "edges":
        heads = [layer.heads or 0 for layer in anatomy.layers]
        empty = Edges.between(
            heads, [layer.mlp is not None for layer in anatomy.layers], [False] * len(heads), {}, positions
        )
        count, noun = empty.size, "edges"
        # what each sender wrote, twice, and the gradients of one layer's receivers
        held = (2 * len(empty.senders) + 6 * max(heads, default=0)) * tokens * width * item
    else:
        whole = Parts.of(anatomy, what, positions)
        count, noun = whole.size, "neurons" if what == "neurons" else "heads and MLPs"
        rows = {"head": 1, "mlp": width, "neuron": 1}
        sizes = [
            g.count * (anatomy.layers[g.layer].value_size or 1 if g.kind == "head" else rows[g.kind])
            for g in whole.groups
        ]
        held = 4 * sum(sizes) * tokens * item
    needed, free = held + count * ROW_BYTES, free_bytes(str(lab.device))
    if needed <= ROOM * free:
        return
    each = count * ROW_BYTES // tokens if positions else 0
    fixed = 0 if positions else count * ROW_BYTES
    fits = int((ROOM * free - fixed) / (held / tokens + each))
    texts = f"texts of at most {fits:,} tokens" if fits > 1 else "a smaller model"
    others = [option for option, there in (("positions=False", positions), ("parts='heads'", what != "heads")) if there]
    raise NotEnoughMemory(
        f"{lab.name} has {count:,} {noun} on {tokens:,} tokens, which need {human_bytes(needed)} where {human_bytes(int(free))} "
        f"are free; give {checks.listed([texts, *others], 'or')}."
    )
