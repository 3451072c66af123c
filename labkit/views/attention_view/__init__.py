"""The attention view: all heads on a map, one head in full, the text under it, and what becomes of it without a head."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import traitlets

from labkit import checks
from labkit.attention import uniform
from labkit.errors import BadInput
from labkit.markup import counted, ranges
from labkit.views.attention_view.codes import pool_size
from labkit.views.attention_view.exported import numbers_of, picture
from labkit.views.attention_view.measures import handed_in, measure_facts
from labkit.views.attention_view.overview import PARTS, Overview, measure_names
from labkit.views.attention_view.reading import (
    TILE,
    Head,
    as_link,
    clearest_head,
    label,
    layers_with_attention,
    mean_pattern,
    read_band,
    read_cell,
    read_head,
    read_line,
)
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.kit.codes import LEVELS, quantize
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job, Run
from labkit.views.kit.kept import Kept
from labkit.views.kit.traits import Change, Content, OneOf, Proposal, sent
from labkit.views.kit.wire import Answer, answers

if TYPE_CHECKING:
    import pandas as pd

    from labkit.attention import AblationEffect, HeadMeasures
    from labkit.trace.record import Trace
    from labkit.views.drawing.scene import Picture

FILE_BYTES = 3_000_000  # of an exported file, unless its heads are chosen
AT_ONCE = 3_000_000  # weights of a map that is computed before the view is shown: some hundredths of a second
UNIFORM_WEIGHTS = 20_000_000  # from which the uniform level is taken; more change nothing that could be seen
SCALES = {"sqrt": "square root", "linear": "linear", "log": "logarithmic"}
ORDERS = {"layers": "layers × heads", "highest": "highest first"}
_MEANS_KEPT, _BANDS_KEPT = 4, 16
Place = tuple[int, int, int]  # which trace, layer, head
Ablate = Callable[[Sequence[tuple[int, int]]], "AblationEffect"]


def attention(
    trace: Trace,
    *,
    layer: int | None = None,
    head: int | None = None,
    compare: Trace | tuple[int, int] | None = None,
    names: tuple[str, str] = ("first", "second"),
    ablate: Ablate | None = None,
    measures: HeadMeasures | pd.DataFrame | None = None,
    measure: str | None = None,
    order: str = "layers",
    scale: str = "sqrt",
    aside: bool = False,
) -> AttentionView:
    """Show where a model's heads look: a map of all heads, the chosen one in full, and the text it reads.

    layer, head: the first to be shown. Left out, it is the head whose tokens look most firmly at one other token that
    is neither the first (often an attention sink) nor the token itself, compared on at most 48 tokens of the text.
    compare: what stands beside it: another (layer, head) of this trace, or another trace of the same model (another
        prompt, or this one under an edit), whose same head is then shown. names: what the two traces are called.
    ablate: `lk.attention.ablation(lab, trace)`, or any callable of (layer, head) pairs; with it, heads can be taken away.
    measures: `lk.attention.heads(lab, text)`, or a DataFrame with columns layer and head; its other columns of
        numbers can then be chosen for the map, beside the measures of this text.
    measure, order ("layers" or "highest"): what the map shows of each head, and whether it sorts them by that.
    scale: of the colours, "sqrt", "linear" or "log".  aside: leave the first token out and renormalise the rest.
    Raises Unavailable when the trace has no attention, BadInput for what is not there or can't be used.
    """
    return AttentionView(**locals())  # its own arguments, by their names


class AttentionView(View):
    """The attention pattern of the head (`layer`, `head`), among all of them. Set either, or both at once with `show`."""

    _title = "Where the heads look"
    _esm = module("attention_view/attention.js")
    _css = style("attention_view/attention.css")

    constants = sent(levels=LEVELS, tile=TILE, parts=PARTS, orders=ORDERS, scales=SCALES)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    cells = traitlets.Bytes(b"").tag(sync=True)
    """The shown head's codes (`codes.quantize`, `codes.pack`), a byte for each cell."""
    summary = traitlets.Dict().tag(sync=True)
    """What is said about the head that `cells` is of, its layer and number among it."""
    version = traitlets.Int(0).tag(sync=True)
    """Counts the heads drawn. A front end redraws when it changes, once the traits above agree again."""
    beside: traitlets.List[int] = traitlets.List().tag(sync=True)
    """What is compared: [trace (0 or 1), layer, head], or nothing."""
    beside_cells = traitlets.Bytes(b"").tag(sync=True)
    beside_summary = traitlets.Dict().tag(sync=True)
    beside_version = traitlets.Int(0).tag(sync=True)
    texts: traitlets.List[str] = traitlets.List().tag(sync=True)
    """The tokens of each trace, as labels."""
    facts = traitlets.Dict().tag(sync=True)
    extra = traitlets.Bytes(b"").tag(sync=True)
    """Measures handed in: (measures, layers, heads) float32."""
    marked: traitlets.List[list[int]] = traitlets.List().tag(sync=True)
    """The [layer, head] pairs that are marked: for ablation, and for the text's mean."""
    measure = traitlets.Unicode("").tag(sync=True)
    order = OneOf(ORDERS, "layers")
    scale = OneOf(SCALES, "sqrt")
    aside = traitlets.Bool(False).tag(sync=True)
    effect = traitlets.Dict().tag(sync=True)
    """What the latest ablation that was done did, JSON alone, and of which heads."""
    effect_status = traitlets.Dict({"state": "idle"}).tag(sync=True)
    map_status = traitlets.Dict({"state": "idle"}).tag(sync=True)
    """How the jobs stand that ablate and that compute the map."""
    # The map in eight parts, each set once: what is resent when a part comes does not grow with the model.
    vars().update({f"map_{i}": traitlets.Bytes(b"").tag(sync=True) for i in range(PARTS)})

    def __init__(
        self,
        trace: Trace,
        *,
        layer: int | None = None,
        head: int | None = None,
        compare: Trace | tuple[int, int] | None = None,
        names: tuple[str, str] = ("first", "second"),
        ablate: Ablate | None = None,
        measures: HeadMeasures | pd.DataFrame | None = None,
        measure: str | None = None,
        aside: bool = False,
        **traits: object,
    ) -> None:
        """traits: `order`, `scale`, and the widget's own, such as layout={"width": "60%"}."""
        self._map_job: Job[bool, None] = Job(
            self,
            self._fill,
            lambda _aside, _nothing: None,
            status="map_status",
            failed="The map could not be computed:",
        )
        self._ablation_job: Job[list[tuple[int, int]], AblationEffect] = Job(
            self,
            self._effect_of,
            self._show_effect,
            status="effect_status",
            failed="It could not be computed:",
            facts=lambda heads: {"heads": [list(pair) for pair in heads]},
        )
        _check_trace(trace)
        other, pair = _compared(trace, compare)
        if not isinstance(names, tuple | list) or len(names) != 2:
            checks.refuse("names", names, "a name for each of the two traces")
        if ablate is not None and not callable(ablate):
            raise BadInput(f"ablate={ablate!r} can't be called; give lk.attention.ablation(lab, trace).")
        self._traces = [trace] if other is None else [trace, other]
        self._layers, self._heads = layers_with_attention(trace), range(trace.heads)
        if other is not None and layers_with_attention(other) != self._layers:
            raise BadInput("The two traces don't have attention in the same layers; compare traces of the same model.")
        chosen = layer is None and head is None and len(trace.tokens) > 2  # else there was nothing to choose by
        self._shown = clearest_head(
            trace,
            self._layers if layer is None else [self._checked("layer", layer)],
            self._heads if head is None else [self._checked("head", head)],
        )
        self._ablate = ablate
        self._ablate_stops = ablate is not None and "stop" in inspect.signature(ablate).parameters
        self._bands: Kept[np.ndarray] = Kept(_BANDS_KEPT)
        self._means: Kept[np.ndarray] = Kept(_MEANS_KEPT)
        self._embedded: list[Place] = []
        self._read: dict[Place, Head] = {}  # while a file is written
        self._file_map: dict[str, bytes] = {}
        self._against = other if other is not None and len(other) == len(trace) else None
        self._overview = self._new_overview(aside)
        extra, given = handed_in(measures, self._layers, trace.heads)
        even = uniform(trace, layers=self._layers, most_weights=UNIFORM_WEIGHTS)
        own = [measure_facts(name, even) for name in measure_names(compared=self._against is not None)]
        self._measures = [str(facts["name"]) for facts in own + given]
        super().__init__(
            layer=self._shown[0],
            head=self._shown[1],
            texts=[[label(each, i) for i in range(len(each.tokens))] for each in self._traces],
            facts={
                "model": trace.model,
                "names": [shorten(visible(str(name)), 40) for name in names],
                "tokens": [len(each.tokens) for each in self._traces],
                "pools": [pool_size(len(each.tokens)) for each in self._traces],
                "layers": self._layers,
                "heads": trace.heads,
                "kv_heads": _shared(trace, self._layers),
                "chosen": list(self._shown) if chosen else None,
                "measures": own + given,
                "can_ablate": ablate is not None,
                "same_text": all(list(each.tokens) == list(trace.tokens) for each in self._traces),
            },
            extra=extra,
            measure=str(measure) if measure is not None else ("change" if self._against is not None else "previous"),
            aside=bool(aside),
            **traits,
        )
        self._read_shown()
        self.observe(self._on_aside, "aside")
        self.beside = [1, *self._shown] if other is not None else [0, *pair] if pair is not None else []
        if len(self._layers) * trace.heads * len(trace) ** 2 <= AT_ONCE:
            self._finish_map()

    # what a user calls --------------------------------------------------------------------------------------------

    def show(self, layer: int, head: int) -> None:
        """Show another head; the front end gets it in one message. Raises BadInput for one that is not there."""
        layer, head = self._checked("layer", layer), self._checked("head", head)
        with self.hold_sync(), self.hold_trait_notifications():
            self.layer = layer
            self.head = head

    def ablate(self, heads: Iterable[tuple[int, int]] | None = None) -> None:
        """Take heads away, by default the marked ones or else the shown one, and show what becomes of the text.

        It is computed in a thread; `wait` waits for it. Raises BadInput when the view was made without `ablate`.
        """
        if self._ablate is None:
            raise BadInput(
                "This view can't ablate heads; make it with lk.views.attention(trace, ablate=lk.attention.ablation(lab, trace))."
            )
        pairs = self._pairs((self.marked or [self._shown]) if heads is None else heads)
        if not pairs:
            raise BadInput("No head was given to take away; give (layer, head) pairs.")
        self._ablation_job.ask(pairs)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until the map is complete and no ablation runs; whether that came in time. For use without a front end."""
        self._answer_start()
        return super().wait(timeout_seconds)

    def to_html(
        self, path: str | Path, heads: Iterable[tuple[int, int]] | None = None, *, most_bytes: int = FILE_BYTES
    ) -> Path:
        """Write the view to one HTML file that opens offline and in which the heads it holds can be explored.

        heads: the (layer, head) pairs to hold beside the shown one. Left out: the others of its layer, then those of
        the nearest layers outward, as long as the file stays within `most_bytes`. The map is whole in any case;
        the file says which heads it does not hold, and gives weights to two digits. Returns the file's path.
        Raises BadInput for a head that is not there, for fewer bytes than the map and the shown head take, or a path that
        can't be written.
        """
        most_bytes = checks.whole(
            "most_bytes", most_bytes, 1, wanted=f"a whole number of bytes, such as {FILE_BYTES:,}"
        )
        self._finish_map()
        self._file_map = self._map_of_file()
        self._embedded = self._that_fit(most_bytes) if heads is None else self._asked_for(heads)
        try:
            return super().to_html(path)
        finally:
            self._embedded, self._read, self._file_map = [], {}, {}

    # traits -------------------------------------------------------------------------------------------------------

    @traitlets.validate("layer", "head")
    def _valid_place(self, proposal: Proposal) -> int:
        return self._checked(proposal["trait"].name, proposal["value"])

    @traitlets.validate("beside")
    def _valid_beside(self, proposal: Proposal) -> list[int]:
        value = list(proposal["value"])
        if not value:
            return []
        if len(value) != 3 or isinstance(value[0], bool) or value[0] not in range(len(self._traces)):
            raise Refused(f"beside={value!r} is nothing to compare; give [trace, layer, head], trace 0 or 1.")
        return [value[0], self._checked("layer", value[1]), self._checked("head", value[2])]

    @traitlets.validate("marked")
    def _valid_marked(self, proposal: Proposal) -> list[list[int]]:
        return [list(pair) for pair in dict.fromkeys(self._pairs(proposal["value"]))]

    @traitlets.validate("measure")
    def _valid_measure(self, proposal: Proposal) -> str:
        asked = str(proposal["value"])
        known = asked if asked in self._measures else f"given:{asked}"
        if known not in self._measures:
            there = ", ".join(name.removeprefix("given:") for name in self._measures)
            raise Refused(f"There is no measure {asked!r}; there are {there}.")
        return known

    @traitlets.observe("layer", "head")
    def _on_head(self, _change: Change) -> None:
        if (self.layer, self.head) != self._shown:
            self._shown = (self.layer, self.head)
            self._read_shown()

    def _on_aside(self, change: Change) -> None:
        self._read_shown()
        self._read_beside(change)
        self._map_job.ask(self.aside)

    def _read_shown(self) -> None:
        head = read_head(self._traces[0], *self._shown, aside=self.aside)
        with self.hold_sync():
            self.cells, self.summary = head.cells, {**head.summary, "trace": 0}
            self.version += 1

    @traitlets.observe("beside")
    def _read_beside(self, _change: Change) -> None:
        if not self.beside:
            return
        which, layer, head = self.beside
        read = read_head(self._traces[which], layer, head, aside=self.aside)
        with self.hold_sync():
            self.beside_cells, self.beside_summary = read.cells, {**read.summary, "trace": which}
            self.beside_version += 1

    # the map ------------------------------------------------------------------------------------------------------

    def _new_overview(self, aside: bool) -> Overview:
        return Overview(self._traces[0], self._layers, aside=aside, against=self._against)

    @answers
    def _answer_start(self) -> None:
        """A front end shows the view that did not come by `display`: inside a box, or after a reload."""
        if not (self._overview.finished and self._overview.aside == self.aside) and not self._map_job.busy:
            self._map_job.ask(self.aside)

    def _fill(self, aside: bool, run: Run) -> None:
        """Compute what is missing of the map."""
        if self._overview.aside != aside or self._overview.broken:  # a pass that broke can't go on
            self._overview = self._new_overview(aside)
        self._overview.run(lambda number, part: run.show(lambda: self.set_trait(f"map_{number}", part)), run.stop)

    def _finish_map(self) -> None:
        self._answer_start()
        self._map_job.wait()

    def _map_of_file(self) -> dict[str, bytes]:
        """The map's parts with the first token counted: in a file the view itself sets it aside, head by head."""
        parts = {f"map_{i}": getattr(self, f"map_{i}") for i in range(PARTS)}
        if self.aside and not self._overview.broken:
            self._new_overview(False).run(lambda number, part: parts.update({f"map_{number}": part}))
        return parts

    # questions of a page --------------------------------------------------------------------------------------------

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[Content, Content]:
        if self.comm is not None:
            self._answer_start()
        bundle: tuple[Content, Content] = super()._repr_mimebundle_(**kwargs)
        return bundle

    @answers
    def _answer_exact(
        self, trace: int, layer: int, head: int, aside: bool, row: int, column: int, pool: int
    ) -> Content:
        """The highest weight of a cell, and of which two tokens it is."""
        of, layer, head = self._place(trace, layer, head)
        if not 1 <= pool <= pool_size(len(of)) or not 0 <= column <= row < -(-len(of) // pool):
            raise BadInput(f"There is no cell ({row}, {column}) of {pool} tokens.")
        return as_link(of, *read_cell(of, layer, head, row, column, pool=pool, aside=aside))

    @answers
    def _answer_tile(self, trace: int, layer: int, head: int, aside: bool, row: int, column: int, pool: int) -> Answer:
        """A square of cells of `pool` tokens: its shape, and its codes as bytes."""
        of, layer, head = self._place(trace, layer, head)
        tiles = -(-len(of) // (pool * TILE)) if 1 <= pool <= pool_size(len(of)) else 0
        if not 0 <= column <= row < tiles:
            raise BadInput(f"There is no tile ({row}, {column}) of {pool} tokens.")
        which = (trace, layer, head, pool, row, aside)
        band = self._bands.get(which, lambda: read_band(of, layer, head, pool, row, aside=aside))
        tile = band[:, column * TILE : (column + 1) * TILE]
        return Answer([int(tile.shape[0]), int(tile.shape[1])], [tile.tobytes()])

    @answers
    def _answer_line(self, trace: int, heads: list[list[int]], token: int, into: bool, aside: bool) -> Answer:
        """Where a token looks, or (`into`) who looks at it: the mean of some heads, as bytes."""
        pairs = self._pairs(heads)
        if trace not in range(len(self._traces)) or not pairs or not 0 <= token < len(self._traces[trace]):
            raise BadInput(f"There is no token {token} of trace {trace} to follow over {len(pairs)} heads.")
        of = self._traces[trace]
        if pool_size(len(of)) > 1:
            line = read_line(of, pairs, token, into=into, aside=aside)
        else:
            mean = self._means.get((trace, *pairs, aside), lambda: mean_pattern(of, pairs, aside=aside))
            line = mean[:, token] if into else mean[token]
        return Answer(None, [quantize(line).tobytes()])

    @answers
    def _answer_ablate(self, heads: list[list[int]]) -> None:
        self.ablate(self._pairs(heads))

    def _place(self, which: int, layer: int, head: int) -> tuple[Trace, int, int]:
        if which not in range(len(self._traces)) or layer not in self._layers or head not in self._heads:
            raise BadInput(f"There is no head {head} of layer {layer} in trace {which}.")
        return self._traces[which], layer, head

    def _effect_of(self, heads: list[tuple[int, int]], run: Run) -> AblationEffect:
        assert self._ablate is not None
        return self._ablate(heads, stop=run.stop) if self._ablate_stops else self._ablate(heads)  # type: ignore[call-arg]

    def _show_effect(self, heads: list[tuple[int, int]], effect: AblationEffect) -> None:
        self.effect = {
            "heads": [list(pair) for pair in heads],
            "loss_before": checks.as_number(effect.loss_before),
            "loss_after": checks.as_number(effect.loss_after),
            "next": [
                {"text": clean(shorten(text, 80)), "before": checks.as_number(before), "after": checks.as_number(after)}
                for text, before, after in effect.next
            ],
        }

    # checking -----------------------------------------------------------------------------------------------------

    def _checked(self, what: str, value: object) -> int:
        trace = self._traces[0]
        there, count = (self._layers, trace.layers) if what == "layer" else (self._heads, trace.heads)
        index = checks.as_whole(value)
        index = index + count if index is not None and -count <= index < 0 else index
        if index is None or index not in there:
            raise Refused(f"There is no attention of {what} {value!r}: {trace.model} has {what} {ranges(there)}.")
        return index

    def _pairs(self, heads: object) -> list[tuple[int, int]]:
        """(layer, head) pairs, each there. Raises BadInput."""
        try:
            given = checks.series("heads", heads, "a list of (layer, head) pairs, such as [(3, 0), (3, 1)]")
            pairs = [checks.pair("head", each) for each in given]
        except BadInput as error:
            raise Refused(str(error)) from None
        return [(self._checked("layer", layer), self._checked("head", head)) for layer, head in pairs]

    # files and fallbacks ------------------------------------------------------------------------------------------

    def _asked_for(self, heads: Iterable[tuple[int, int]]) -> list[Place]:
        wanted = [(which, *pair) for pair in self._pairs(heads) for which in range(len(self._traces))]
        return list(dict.fromkeys(self._needed() + wanted))

    def _needed(self) -> list[Place]:
        """The heads on show."""
        which, layer, head = self.beside or (0, *self._shown)
        return list(dict.fromkeys([(0, *self._shown), (which, layer, head)]))

    def _that_fit(self, most_bytes: int) -> list[Place]:
        """As many heads as the file has room for, compressed as they will be: those of the nearest layers first."""
        found = self._needed()
        room = most_bytes - len(self._page().encode("utf-8")) - sum(map(self._bytes_in_file, found))
        if room < 0:
            raise BadInput(
                f"A file of {most_bytes:,} bytes can't hold the map and the shown head; "
                f"give most_bytes={most_bytes - room:,} or more."
            )
        for layer in sorted(self._layers, key=lambda at: (abs(at - self.layer), at)):
            for head in self._heads:
                both = [(which, layer, head) for which in range(len(self._traces))]
                group = [place for place in both if place not in found]
                room -= sum(map(self._bytes_in_file, group))
                if room < 0:
                    return found
                found += group
        return found

    def _bytes_in_file(self, place: Place) -> int:
        read = self._read_for_file(place)
        return len(zlib.compress(read.cells + read.rest.tobytes(), 6)) * 4 // 3 + 1_200  # and what is said about it

    def _read_for_file(self, place: Place) -> Head:
        if place not in self._read:
            which, layer, head = place
            self._read[place] = read_head(self._traces[which], layer, head)
        return self._read[place]

    def _export_state(self) -> Content:
        read = {place: self._read_for_file(place) for place in sorted(self._embedded)}
        return {
            **super()._export_state(),
            **self._file_map,
            "cells": b"",
            "beside_cells": b"",
            "embedded": [{**head.summary, "trace": place[0]} for place, head in read.items()],
            "embedded_cells": b"".join(head.cells for head in read.values()),
            "embedded_rest": b"".join(head.rest.astype("<f4").tobytes() for head in read.values()),
            "left_out": self._left_out({(layer, head) for which, layer, head in read if which == 0}),
        }

    def _left_out(self, held: set[tuple[int, int]]) -> str:
        """What the file does not hold, in words."""
        missing = {layer: [h for h in self._heads if (layer, h) not in held] for layer in self._layers}
        whole = [layer for layer, left in missing.items() if len(left) == len(self._heads)]
        parts = [f"layer{'s' * (len(whole) > 1)} {ranges(whole)}"] if whole else []
        parts += [
            f"head{'s' * (len(left) > 1)} {ranges(left)} of layer {layer}"
            for layer, left in missing.items()
            if left and layer not in whole
        ]
        return shorten("; ".join(parts), 400)

    def _describe(self) -> str:
        text = shorten(visible("".join(self._traces[0].tokens[:60])), 60)
        return f"{text!r}, layer={self.layer}, head={self.head}"

    def _head_line(self) -> str:
        trace = self._traces[0]
        return f"{trace.model} · {counted(len(trace), 'token')} · layer {self.layer} · head {self.head}"

    def _static_text(self) -> str:
        links = [f"{query} looks at {key}: {weight}" for query, key, weight in self._links()]
        return "\n".join([self._head_line(), *links])

    def _table(self) -> pd.DataFrame:
        return numbers_of(self._traces[0], self.layer, self.head)

    def _image(self) -> Picture:
        return picture(self.cells, self._traces[0].tokens, self._head_line(), self._links())

    def _links(self) -> list[tuple[str, str, str]]:
        def named(link: Content, end: str) -> str:
            return f"{shorten(link[f'{end}_text'], 40)!r} ({link[end]})"

        return [(named(link, "query"), named(link, "key"), f"{link['weight']:.4f}") for link in self.summary["links"]]


def _check_trace(trace: object) -> None:
    if isinstance(trace, list | tuple):
        raise BadInput(
            "lk.views.attention shows one trace, and this is a list of them; give one, e.g. traces[0], "
            "or two: lk.views.attention(traces[0], compare=traces[1])."
        )
    if not getattr(trace, "tokens", None):
        raise BadInput("This trace has no tokens to show; trace a text of at least one.")


def _compared(trace: Trace, compare: Trace | tuple[int, int] | None) -> tuple[Trace | None, tuple[int, int] | None]:
    """What is shown beside: another trace, or a (layer, head) pair."""
    if compare is None:
        return None, None
    if isinstance(compare, tuple | list) and len(compare) == 2 and not hasattr(compare[0], "tokens"):
        return None, (compare[0], compare[1])
    if isinstance(compare, tuple) or not hasattr(compare, "attention"):
        raise BadInput(f"compare={compare!r} can't be shown beside; give another trace, or a (layer, head) pair.")
    _check_trace(compare)
    if (compare.layers, compare.heads) != (trace.layers, trace.heads):
        raise BadInput(
            f"The two traces have {trace.layers} layers of {trace.heads} heads and {compare.layers} of {compare.heads}; "
            "compare traces of the same model."
        )
    return compare, None


def _shared(trace: Trace, layers: Sequence[int]) -> int:
    """How many key-value heads every layer has; as many as heads, so that nothing is said to be shared, where they differ."""
    counts = {trace.kv_heads_of(layer) for layer in layers}
    return counts.pop() if len(counts) == 1 else trace.heads
