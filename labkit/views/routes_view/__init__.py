"""The routes view: a text coloured by the expert each token goes to, all layers under it, and how the load is shared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import traitlets

from labkit import checks
from labkit.errors import BadInput
from labkit.markup import counted, ranges
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.kit.codes import LEVELS
from labkit.views.kit.errors import Refused
from labkit.views.kit.traits import OneOf, Proposal, sent
from labkit.views.kit.typed import TypedText
from labkit.views.kit.wire import Answer, answers
from labkit.views.routes_view.choices import (
    Drawn,
    changed,
    check,
    drawn,
    probability_codes,
    read_token,
    router,
    shape,
    text_of,
)
from labkit.views.routes_view.exported import COLOURS, OTHER, PALETTE, numbers_of, picture

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.record import Trace
    from labkit.views.drawing.scene import Picture

FILE_BYTES = 1_500_000  # of router probabilities in an exported file; the tokens beyond them are without
ORDERS = {"number": "by number", "most": "most chosen first"}
_LISTED = 8  # experts, where no script runs

Take = Callable[[str], "Trace | Sequence[Trace]"]


def routes(
    trace: Trace,
    other: Trace | None = None,
    *,
    take: Take | None = None,
    layer: int | None = None,
    names: tuple[str, str] | None = None,
    special: Collection[int] | None = None,
) -> RoutesView:
    """Show which experts a text's tokens are sent to: the text in their colours, every layer, and each expert's load.

    trace: taken with keep="routes". other: a second trace of the same model beside it: another prompt, or the same one
        under an edit; where the ids are equal, tokens whose choice changed are marked and counted. Under lk.moe.choose
        those are the tokens whose fewer experts are not all among the more.
    take: a function from a text to its trace, such as `lambda text: lab.trace(text, keep="routes")`; with it the text can
        be typed over. With `other` it may return two traces; one alone replaces the first.
    layer: the one to be shown, by its number in the model; left out, the middle one of those that have a router.
    names: what the two traces are called. special: ids that are not counted in the loads; left out, the special tokens
        of each trace; () counts all.
    Raises Unavailable when the trace has no routes, BadInput for what is not there or can't be used, and for a trace whose
    layers choose different numbers of experts.
    """
    return RoutesView(trace, other, take=take, layer=layer, names=names, special=special)


class RoutesView(View, TypedText):
    """The routes of a text in the layer `layer`; set it for another. With `take`, set `typed` for another text, and
    `wait()` until it is shown."""

    _title = "Which experts the tokens go to"
    _esm = module("routes_view/routes.js")
    _css = style("routes_view/routes.css")

    constants = sent(palette=PALETTE, others=OTHER, levels=LEVELS, orders=ORDERS)
    layer = traitlets.Int(0).tag(sync=True)
    held: traitlets.List[int] = traitlets.List().tag(sync=True)
    """The token that is held: [trace (0 or 1), token], or nothing."""
    order = OneOf(ORDERS, "number")
    """How the loads stand: by the experts' "number", or the "most" chosen first."""
    numbers = traitlets.Bool(True).tag(sync=True)
    """Whether each token has its expert's number under it."""
    picked = traitlets.Dict().tag(sync=True)
    """Experts given a colour by hand: the layer (as text) -> their numbers, the latest last."""
    texts: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    """For each trace its tokens' pieces of the running text."""
    experts = traitlets.Bytes(b"").tag(sync=True)
    """For each trace (layers, drawn tokens, its k), the largest weight first; a byte each, or two from 257 experts on."""
    weights = traitlets.Bytes(b"").tag(sync=True)
    """For each trace (layers, drawn tokens, its k) codes: a weight is (code / 254)² times the largest."""
    load = traitlets.Bytes(b"").tag(sync=True)
    """For each trace (layers, experts) uint32: choices over all counted tokens."""
    facts = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        trace: Trace,
        other: Trace | None = None,
        *,
        take: Take | None = None,
        layer: int | None = None,
        names: tuple[str, str] | None = None,
        special: Collection[int] | None = None,
        **traits: object,
    ) -> None:
        """traits: the widget's own, such as layout={"width": "60%"}."""
        self._follow_typed(self._taken, self._shown, failed="The text can't be traced:")
        if take is not None and not callable(take):
            raise BadInput(f'take={take!r} can\'t be called; give lambda text: lab.trace(text, keep="routes").')
        if names is not None and (isinstance(names, str) or not isinstance(names, Sequence) or len(names) != 2):
            checks.refuse("names", names, "a name for each of the two traces")
        check(trace)
        if other is not None:
            check(other)
        self._take = take
        self._names = names
        self._special = None if special is None else _ids(special)
        self._traces = [trace] if other is None else [trace, other]
        self._shape = shape(trace)
        self._drawn: list[Drawn] = []
        state = self._read(self._traces)
        layers = self._shape[0]
        super().__init__(
            **state,
            layer=layers[len(layers) // 2] if layer is None else self._checked(layer),
            typed="" if take is None else text_of(trace, self._special),
            **traits,
        )

    # reading ------------------------------------------------------------------------------------------------------

    def _read(self, traces: Sequence[Trace]) -> dict[str, object]:
        """The traits of these traces. Raises BadInput when they are of another shape than the view's."""
        for each in traces:
            if shape(each) != self._shape:
                there, here = (f"{_layers(layers)} of {n} experts" for layers, n in (shape(each), self._shape))
                raise BadInput(f"A trace with {there} can't stand in a view of {here}; give traces of one model.")
        reads = [drawn(each, self._special) for each in traces]
        layers, experts = self._shape
        same = len(traces) == 2 and list(traces[0].ids) == list(traces[1].ids)
        kind, alone = router(traces[0])
        names = self._names or (("before", "after") if same else ("first", "second"))
        sets, firsts = changed(*traces) if same else ([], [])
        facts = {
            "model": clean(shorten(traces[0].model, 80)),
            "names": [shorten(visible(str(name)), 40) for name in names],
            "layers": list(layers),
            "experts": experts,
            "k": [each.k for each in reads],
            "bytes": reads[0].experts.itemsize,
            "tokens": [each.tokens for each in reads],
            "drawn": [len(each.pieces.texts) for each in reads],
            "counted": [each.counted for each in reads],
            "special": [each.special for each in reads],
            "marks": [each.pieces.marks() for each in reads],
            "bands": [None if each.band is None else list(each.band) for each in reads],
            "tops": [each.top for each in reads],
            "router": kind,
            "alone": alone,
            "same": same,
            "changed": sets,
            "changed_first": firsts,
            "can_take": self._take is not None,
        }
        self._drawn, self._router = reads, kind
        return {
            "texts": [each.pieces.texts for each in reads],
            "experts": b"".join(each.experts.tobytes() for each in reads),
            "weights": b"".join(each.weights.tobytes() for each in reads),
            "load": b"".join(each.load.astype("<u4").tobytes() for each in reads),
            "facts": facts,
        }

    def _taken(self, text: str) -> list[Trace]:
        """Whatever `take` makes of a text. Raises BadInput for what can't stand in this view."""
        assert self._take is not None
        taken = self._take(text)
        given = list(taken) if isinstance(taken, Sequence) else [taken, *self._traces[1:]]
        if len(given) != len(self._traces):
            raise BadInput(
                f"take returned {len(given)} traces, and the view shows {len(self._traces)}; return as many, or one."
            )
        for each in given:
            check(each)
        return given

    def _shown(self, given: list[Trace]) -> dict[str, object]:
        state = self._read(given)
        self._traces = given
        there = self.held and self.held[1] < self._tokens_drawn(self.held[0])
        return {**state, "held": self.held if there else []}

    # traits and messages ------------------------------------------------------------------------------------------

    @traitlets.validate("layer")
    def _valid_layer(self, proposal: Proposal) -> int:
        return self._checked(proposal["value"])

    @traitlets.validate("held")
    def _valid_held(self, proposal: Proposal) -> list[int]:
        value = list(proposal["value"])
        whole = len(value) == 2 and all(type(each) is int for each in value)
        there = whole and value[0] in range(len(self._drawn)) and value[1] in range(self._tokens_drawn(value[0]))
        if value and not there:
            raise Refused(f"held={value!r} is no token; give [trace, token], such as [0, 3], or [].")
        return value

    def _tokens_drawn(self, trace: int) -> int:
        return len(self._drawn[trace].pieces.texts)

    @answers
    def _answer_token(self, version: int, trace: int, layer: int, token: int) -> Answer:
        """One token's exact numbers; layer: its place among the routed ones."""
        with self._lock:
            there = (
                version == self.version and trace in range(len(self._traces)) and layer in range(len(self._shape[0]))
            )
            if not there or token not in range(self._drawn[trace].tokens):
                raise BadInput(f"Token {token} of trace {trace}, layer {layer}, is not on show any more.")
            numbers = read_token(self._traces[trace], layer, token, self._router)
        return Answer(buffers=[np.ascontiguousarray(each, "<f4").tobytes() for each in numbers])

    def _checked(self, value: object) -> int:
        layers = self._shape[0]
        layer = checks.as_whole(value)
        if layer is None or layer not in layers:
            raise Refused(
                f"There is no router in layer {value!r} of {self._traces[0].model}; these layers have one: {ranges(layers)}."
            )
        return layer

    # files and fallbacks ------------------------------------------------------------------------------------------

    def _export_state(self) -> dict[str, object]:
        layers, experts = self._shape
        room = FILE_BYTES // (len(layers) * experts * len(self._drawn))
        with_probabilities = [min(len(each.pieces.texts), room) for each in self._drawn]
        codes = [
            probability_codes(trace, n, self._router) for trace, n in zip(self._traces, with_probabilities, strict=True)
        ]
        return {
            **super()._export_state(),
            "facts": {**self.facts, "with_probabilities": with_probabilities},
            "probabilities": b"".join(each.tobytes() for each in codes),
            "typed": "",
            "status": {},
        }

    def _describe(self) -> str:
        trace = self._traces[0]
        text = shorten(visible("".join(trace.tokens[:60])), 60)
        beside = f" and {len(self._traces[1])}" if len(self._traces) > 1 else ""
        return f"{text!r}, {len(trace)}{beside} tokens, layer={self.layer}"

    def _head_line(self) -> str:
        layers, experts = self._shape
        trace, k = self._traces[0], self._drawn[0].k
        of = f"layer {self.layer} of {_layers(layers)}"
        return f"{trace.model} · {counted(len(trace), 'token')} · {of}, {k} of {experts} experts"

    def _place(self) -> int:
        return self._shape[0].index(self.layer)

    def _most_chosen(self, layer: int, count: int) -> list[int]:
        """The experts of a layer that most tokens of all traces on show choose first, those nobody chooses left out."""
        firsts = np.zeros(self._shape[1])
        for each in self._drawn:  # among equals the more chosen one comes first
            words = np.delete(each.experts[layer, :, 0], each.special)
            firsts += np.bincount(words, minlength=self._shape[1])
            firsts += each.load[layer] / (1 + each.counted * each.k)
        return [int(e) for e in np.argsort(-firsts, kind="stable")[:count] if firsts[e] > 0]

    def _loads(self) -> list[tuple[int, int, float]]:
        """The most chosen experts of the layer on show in the first trace: number, tokens, share of the choices."""
        first = self._drawn[0]
        load, choices = first.load[self._place()], max(1, first.counted * first.k)
        most = [int(e) for e in np.argsort(-load, kind="stable")[:_LISTED] if load[e] > 0]
        return [(e, int(load[e]), float(load[e] / choices)) for e in most]

    def _chance_line(self) -> str:
        band = self._drawn[0].band
        uniform = f"uniform {1 / self._shape[1]:.1%}"
        return uniform if band is None else f"{uniform}, random choice {band[0]:.1%} to {band[1]:.1%} in 95 % of cases"

    def _static_text(self) -> str:
        lines = [self._head_line(), f"share of the choices ({self._chance_line()}):"]
        return "\n".join(lines + [f"expert {e}: {share:.1%} ({tokens} tokens)" for e, tokens, share in self._loads()])

    def _slots(self) -> np.ndarray:
        """(layers, tokens) which of the colours each token's first expert has in the first trace; -1 for none."""
        firsts = self._drawn[0].experts[:, :, 0].astype(int)
        slots = np.full(firsts.shape, -1)
        for i in range(len(firsts)):
            for slot, expert in enumerate(self._most_chosen(i, len(COLOURS))):
                slots[i, firsts[i] == expert] = slot
        return slots

    def _table(self) -> pd.DataFrame:
        return numbers_of(self._traces)

    def _image(self) -> Picture:
        layer = self._place()
        chosen = self._most_chosen(layer, len(COLOURS))
        return picture(
            self._drawn[0],
            layer,
            self._slots(),
            chosen,
            head=self._head_line(),
            chance=self._chance_line(),
            loads=self._loads(),
        )


def _ids(special: object) -> frozenset[int]:
    wanted = "token ids, such as lab.tokenizer.all_special_ids"
    ids = [checks.as_whole(each) for each in checks.series("special", special, wanted)]
    if None in ids:
        checks.refuse("special", special, wanted)
    return frozenset(each for each in ids if each is not None)


def _layers(layers: Sequence[int]) -> str:
    return counted(len(layers), "routed layer")


__all__ = ["RoutesView", "routes"]
