"""The attention view: which tokens each token looks at, for one head at a time."""

from __future__ import annotations

import html
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from labkit.errors import BadInput
from labkit.views.attention_view.payload import (
    Head,
    cell_labels,
    clearest_head,
    label,
    layers_with_attention,
    pool_size,
    ranges,
    read_cell,
    read_head,
)
from labkit.views.base import View, module, shorten, style, visible

if TYPE_CHECKING:
    from labkit.trace.record import Trace

EXPORT_BYTES = 2_000_000  # of patterns in an exported file, unless its heads are chosen


def attention(trace: Trace, *, layer: int | None = None, head: int | None = None) -> AttentionView:
    """Show where a head looks: a row for each token, shaded by how much it attends to each token before it.

    layer, head: the first to be shown. Left out, it is the head whose tokens look most firmly at one other token that
    is neither the first (often an attention sink) nor the token itself, compared on at most 48 tokens of the text.
    Raises Unavailable when the trace has no attention, BadInput for a layer or head that is not there.
    """
    return AttentionView(trace, layer=layer, head=head)


class AttentionView(View):
    """The attention pattern of the head (`layer`, `head`); set either, or both at once with `show`, to see another."""

    _title = "Where a head looks"
    _esm = module("common.js", "attention_view/logic.js", "attention_view/attention.js")
    _css = style("attention_view/attention.css")

    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    cells = traitlets.Bytes(b"").tag(sync=True)
    """The shown head's codes (`payload.quantize`, `payload.pack`), a byte for each cell."""
    summary = traitlets.Dict().tag(sync=True)
    """What is said about the head that `cells` is of, its layer and number among it."""
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    facts = traitlets.Dict().tag(sync=True)
    version = traitlets.Int(0).tag(sync=True)
    """Counts the heads drawn. A front end redraws when it changes, once the traits above agree again."""

    def __init__(self, trace: Trace, *, layer: int | None = None, head: int | None = None, **kwargs: Any) -> None:
        if isinstance(trace, list | tuple):
            raise BadInput("lk.views.attention shows one trace, and this is a list of them; give one, e.g. traces[0].")
        if not trace.tokens:
            raise BadInput("This trace has no tokens to show; trace a text of at least one.")
        self._trace = trace
        self._layers = layers_with_attention(trace)
        layer = None if layer is None else self._checked("layer", layer)
        head = None if head is None else self._checked("head", head)
        chosen = layer is None and head is None
        self._shown = self._first(layer, head)
        self._embedded: list[tuple[int, int]] = []
        shown = read_head(trace, *self._shown)
        super().__init__(
            layer=self._shown[0],
            head=self._shown[1],
            cells=shown.cells,
            summary=shown.summary,
            labels=cell_labels(trace),
            facts={
                "model": trace.model,
                "tokens": len(trace.tokens),
                "pool": pool_size(len(trace.tokens)),
                "layers": self._layers,
                "heads": trace.heads,
                "kv_heads": trace.kv_heads,
                "chosen": list(self._shown) if chosen else None,
            },
            **kwargs,
        )
        self.on_msg(self._on_message)

    def show(self, layer: int, head: int) -> None:
        """Show another head; the front end gets it in one message."""
        with self.hold_sync(), self.hold_trait_notifications():
            self.layer = layer
            self.head = head

    def to_html(self, path: str | Path, heads: Iterable[tuple[int, int]] | None = None) -> Path:
        """Write the view to one HTML file that opens offline and in which the heads it holds can be explored.

        heads: the (layer, head) pairs to hold beside the shown one. Left out: the others of its layer, then whole
        layers from the nearest outward, up to about 2 MB. The file says which it does not hold, and gives weights to
        two digits. Returns the file's path. Raises BadInput for a head that is not there, or a path that can't be
        written.
        """
        self._embedded = self._that_fit() if heads is None else self._asked_for(heads)
        try:
            return super().to_html(path)
        finally:
            self._embedded = []

    @traitlets.validate("layer", "head")
    def _valid(self, proposal: Any) -> int:
        return self._checked(proposal["trait"].name, proposal["value"])

    @traitlets.observe("layer", "head")
    def _on_head(self, _change: Any) -> None:
        if (self.layer, self.head) == self._shown:
            return
        self._shown = (self.layer, self.head)
        head = read_head(self._trace, *self._shown)
        with self.hold_sync():
            self.cells = head.cells
            self.summary = head.summary
            self.version += 1

    def _on_message(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if not isinstance(content, dict) or content.get("type") != "exact":
            return
        place: list[Any] = [content.get(name) for name in ("layer", "head", "row", "column")]
        if any(isinstance(value, bool) or not isinstance(value, int) for value in place):
            return
        layer, head, row, column = place
        known = layer in self._layers and 0 <= head < self._trace.heads
        if not known or not 0 <= column <= row < len(self.labels):
            return
        query, key, weight = read_cell(self._trace, layer, head, row, column)
        self.send(
            {
                "type": "exact",
                "layer": layer,
                "head": head,
                "row": row,
                "column": column,
                "query": query,
                "key": key,
                "query_text": label(self._trace, query),
                "key_text": label(self._trace, key),
                "weight": weight if weight == weight else None,  # JSON has no NaN
            }
        )

    def _first(self, layer: int | None, head: int | None) -> tuple[int, int]:
        if layer is not None and head is not None:
            return layer, head
        return clearest_head(
            self._trace,
            self._layers if layer is None else [layer],
            range(self._trace.heads) if head is None else [head],
        )

    def _checked(self, what: str, value: Any) -> int:
        there = self._layers if what == "layer" else range(self._trace.heads)
        count = self._trace.layers if what == "layer" else self._trace.heads
        try:
            index = operator.index(value)
        except TypeError:
            index = count
        index = index + count if -count <= index < 0 else index
        if isinstance(value, bool) or index not in there:
            raise BadInput(
                f"There is no attention of {what} {value!r}: {self._trace.model} has {what} {ranges(there)}."
            )
        return index

    def _asked_for(self, heads: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        wanted = [self._shown]
        for pair in heads:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise BadInput(f"heads={pair!r} is no (layer, head) pair; give a list such as [(3, 0), (3, 1)].")
            wanted.append((self._checked("layer", pair[0]), self._checked("head", pair[1])))
        return list(dict.fromkeys(wanted))

    def _that_fit(self) -> list[tuple[int, int]]:
        room = max(1, EXPORT_BYTES // (len(self.labels) * (len(self.labels) + 1) // 2))
        layer, head = self._shown
        found = [self._shown, *((layer, h) for h in range(self._trace.heads) if h != head)][:room]
        for near in sorted(self._layers, key=lambda other: (abs(other - layer), other)):
            if near != layer and len(found) + self._trace.heads <= room:
                found += [(near, h) for h in range(self._trace.heads)]
        return found

    def _export_state(self) -> dict[str, Any]:
        read = {pair: read_head(self._trace, *pair) for pair in sorted(self._embedded)}
        return {
            **super()._export_state(),
            "embedded": [head.summary for head in read.values()],
            "embedded_cells": b"".join(head.cells for head in read.values()),
            "left_out": self._left_out(read),
        }

    def _left_out(self, held: dict[tuple[int, int], Head]) -> str:
        """What the file does not hold, in words."""
        heads = range(self._trace.heads)
        missing = {layer: [h for h in heads if (layer, h) not in held] for layer in self._layers}
        whole = [layer for layer, left in missing.items() if len(left) == len(heads)]
        parts = [f"layer{'s' * (len(whole) > 1)} {ranges(whole)}"] if whole else []
        parts += [
            f"head{'s' * (len(left) > 1)} {ranges(left)} of layer {layer}"
            for layer, left in missing.items()
            if left and layer not in whole
        ]
        return shorten("; ".join(parts), 400)

    def _describe(self) -> str:
        text = shorten(visible("".join(self._trace.tokens[:60])), 60)
        return f"{text!r}, layer={self.layer}, head={self.head}"

    def _head_line(self) -> str:
        tokens = len(self._trace.tokens)
        return (
            f"{self._trace.model} · {tokens} token{'' if tokens == 1 else 's'} · layer {self.layer} · head {self.head}"
        )

    def _static_text(self) -> str:
        lines = [self._head_line()]
        for query, key, weight in self._links():
            lines.append(f"{query} looks at {key}: {weight:.4f}")
        return "\n".join(lines)

    def _static_html(self) -> str:
        rows = "".join(
            f"<tr><td><code>{html.escape(visible(query))}</code></td><td><code>{html.escape(visible(key))}</code></td>"
            f"<td>{weight:.4f}</td></tr>"
            for query, key, weight in self._links()
        )
        return (
            f"<div><p>{html.escape(visible(self._head_line()))}</p><table><caption>The strongest links of this head, "
            "those to the first token and to itself aside</caption><thead><tr><th>token</th><th>looks at</th>"
            f"<th>weight</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def _links(self) -> list[tuple[str, str, float]]:
        return [
            (
                f"{shorten(link['query_text'], 40)!r} ({link['query']})",
                f"{shorten(link['key_text'], 40)!r} ({link['key']})",
                link["weight"],
            )
            for link in self.summary["links"]
        ]
