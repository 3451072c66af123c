"""The lens view: what the model is about to say at each layer and token, one lens or two, also while it writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import traitlets

from labkit.checks import refuse, texts, whole
from labkit.errors import BadInput
from labkit.markup import counted
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job, Run
from labkit.views.kit.traits import OneOf, Proposal
from labkit.views.kit.wire import answers
from labkit.views.lens_chart import lens as lens_map
from labkit.views.lens_view.cells import Cells, Column, Reading, columns_of, layers_of, tokens_of
from labkit.views.lens_view.picture import drawn

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.edits import Edit
    from labkit.trace.lens import LogitLens
    from labkit.views.chart import Chart
    from labkit.views.drawing.scene import Picture
    from labkit.views.lens_view.writing import WritingLab

__all__ = ["LensView", "Reading", "lens"]

SHOWN = 10  # tokens of a cell's distribution
Writer = Callable[[str, Callable[[Sequence[Column]], None], threading.Event], str]
"""Called in a worker with a prompt, a function that takes the columns so far, and an event that asks it to end; returns a
sentence on how it ended."""


@overload
def lens(what: LogitLens | pd.DataFrame, *, colour: Literal["top", "next"] = ..., title: str | None = ...) -> Chart: ...
@overload
def lens(
    what: Reading | Sequence[Reading] | Mapping[str, Reading], *, k: int = ..., title: str | None = ...
) -> LensView: ...
@overload
def lens(
    what: WritingLab,
    *,
    prompt: str,
    kind: str | Sequence[str] = ...,
    fitted: Any = ...,
    edits: Sequence[Edit] = ...,
    k: int = ...,
    title: str | None = ...,
    **settings: Any,
) -> LensView: ...
def lens(
    what: Any,  # checked below, and typed above
    *,
    prompt: str | None = None,
    kind: str | Sequence[str] = "logit",
    fitted: Any = None,
    edits: Sequence[Edit] = (),
    k: int = SHOWN,
    colour: Literal["top", "next"] = "top",
    title: str | None = None,
    **settings: Any,
) -> Chart | LensView:
    """What the model is about to say: layers downward, tokens across, in each cell the token a lens reads there.

    what: one of
        a reading of `lk.lens(lab, trace, kind)`, a list of them, or a dict with names of one's own: a widget. A cell shows its
            distribution when it is clicked; two lenses of one text stand side by side.
        a lab, with `prompt`: the same while the text is written, a column for each token as it comes, with a Stop button.
            The prompt is a user's message where the model has a chat template; chat=False: a text to go on with.
            kind: of the lens, or several; fitted: a `JacobianLens` for kind="jacobian", by default the shipped one, or the
            `TunedLens` for kind="tuned"; edits: in force while it writes, such as [lk.swap(...)]: a `with lab.edit(...)` around
            the call is over by then; settings: of lab.generate, such as max_new_tokens=40 or temperature=0.8, and layers=[...],
            those to read.
        the table of `lk.logit_lens`, or part of it (`frame[frame.position > 3]`): a chart. colour: the probability of the token
            in the cell ("top") or of the token that actually follows ("next").
    k: how many tokens of each distribution are kept.  title: above it; of a chart by default a sentence that says after how
        many layers half of the final predictions can be read.
    Raises BadInput for anything else, and for readings of different texts.
    """
    if hasattr(what, "columns"):
        return lens_map(what, colour=colour, title=title)
    k = whole("k", k, 1)
    if prompt is not None:
        from labkit.views.lens_view.writing import writer

        if not all(callable(getattr(what, name, None)) for name in ("generate", "trace", "edit")):
            raise BadInput(f"A prompt is written on by a lab, and a {type(what).__name__} is none; give the lab first.")
        if not isinstance(prompt, str):
            refuse("prompt", prompt, "a text; it can be edited in the view")
        kinds = list(texts("kind", kind))
        if not kinds:
            refuse("kind", kind, "a kind of lens, or several, such as 'logit'")
        write, layers = writer(what, kinds, fitted, k=k, edits=edits, **settings)
        return LensView(kinds, layers, model=what.name, k=k, title=title, write=write, prompt=prompt)
    given = what if isinstance(what, Mapping) else {}
    readings: list[Any] = list(given.values()) if given else list(what) if isinstance(what, list | tuple) else [what]
    if not readings or not all(callable(getattr(each, "top", None)) for each in readings):
        raise BadInput(
            "views.lens shows what lk.lens(lab, trace, kind) returned, several of them, the table of lk.logit_lens, or a lab "
            "with prompt=...; give one of these."
        )
    names = list(given) or _names([str(getattr(each, "kind", "lens")) for each in readings])
    tokens = tokens_of(readings[0])
    if any(tokens_of(each) != tokens for each in readings):
        raise BadInput("These lenses read different texts; show each text in a view of its own.")
    view = LensView(names, layers_of(readings), model=str(getattr(readings[0], "model", "")), k=k, title=title)
    view._show(columns_of(dict(zip(view._names, readings, strict=True)), k))
    return view


class LensView(View):
    """What lenses read, a column for each token. `kind` is the lens on show, `beside` the one next to it, "" for none.

    With a lab: set `typed` for another prompt, `write()` lets it be written on, `stop()` ends that, `wait()` waits for it.
    """

    _title = "What the model is about to say, layer by layer"
    _esm = module("lens_view/lens.js")
    _css = style("lens_view/lens.css")
    _written_again = True

    facts = traitlets.Dict().tag(sync=True)
    """model, title, kinds, layers (the numbers of the rows), k, depth (the row of this number is the model's own prediction),
    extent (how many layers there are and are read, in words)."""
    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    written = traitlets.Int(0).tag(sync=True)
    """How many of the tokens, at the end, the model wrote itself."""
    texts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Every token that stands in a cell, once."""
    places = traitlets.Bytes(b"").tag(sync=True)
    """(tokens, lenses, layers, k) int32: the place in `texts` of each cell's most probable tokens; -1 where there is none."""
    probabilities = traitlets.Bytes(b"").tag(sync=True)
    """Of the same shape, float32."""
    divergences = traitlets.Bytes(b"").tag(sync=True)
    """(tokens, lenses, layers) float32: KL(the model's own prediction || the cell's), nats; NaN where it is not known."""
    version = traitlets.Int(0).tag(sync=True)
    """Counts what was shown: the traits above agree with one another when it changes."""

    kind = traitlets.Unicode("").tag(sync=True)
    beside = traitlets.Unicode("").tag(sync=True)
    colour = OneOf(("probability", "divergence"), "probability")
    held: traitlets.List[int] = traitlets.List().tag(sync=True)
    """[token, row of the layers] of the cell whose distribution is on show; empty for none."""

    can_write = traitlets.Bool(False).tag(sync=True)
    typed = traitlets.Unicode("").tag(sync=True)
    """The prompt."""
    status = traitlets.Dict().tag(sync=True)
    """Of writing, as `Job` says it."""

    def __init__(
        self,
        kinds: Sequence[str],
        layers: Sequence[int],
        *,
        model: str,
        k: int,
        title: str | None = None,
        write: Writer | None = None,
        prompt: str = "",
    ) -> None:
        self._names, self._layers, self._k = [clean(each) for each in kinds], list(layers), k
        self._columns: list[Column] = []
        self._write = write
        self._writing: Job[str, str] = Job(
            self,
            self._go,
            lambda _prompt, said: said,
            status="status",
            failed="The text can't be written:",
            keep_stopped=True,
        )
        self._drawn = 0
        super().__init__(can_write=write is not None, typed=prompt)
        self.facts = {
            "model": clean(model),
            "title": clean(title or ""),
            "kinds": self._names,
            "layers": self._layers,
            "k": k,
            "depth": max(self._layers, default=0),
            "extent": self._extent(),
        }
        self.kind = self._names[0]
        self.beside = self._names[1] if len(self._names) > 1 else ""
        self._writing.clear()
        if write is not None:
            self.write()

    @traitlets.validate("kind", "beside")
    def _valid_kind(self, proposal: Proposal) -> str:
        value = str(proposal["value"])
        if value not in self._names and not (value == "" and proposal["trait"].name == "beside"):
            raise Refused(
                f"{proposal['trait'].name}={value!r} is not shown here; give one of {', '.join(self._names)}."
            )
        return value

    @answers
    def write(self) -> None:
        """Let the model write on the prompt, anew."""
        if self._write is None:
            raise BadInput("Only a view of a lab writes: lk.views.lens(lab, prompt=...).")
        self._writing.ask(self.typed)

    @answers
    def stop(self) -> None:
        """End the writing; what is there is kept."""
        self._writing.stop()

    def _go(self, prompt: str, run: Run) -> str:
        """In the job's thread."""
        assert self._write is not None
        latest: list[Sequence[Column]] = [[]]

        def take(columns: Sequence[Column]) -> None:
            latest[0] = list(columns)
            said = f"{sum(column.written for column in columns)} tokens written"
            run.say(said, draw=lambda: self._show(latest[0]))

        said = self._write(prompt, take, run.stop)
        run.show(lambda: self._show(latest[0]))
        return said

    def _show(self, columns: Sequence[Column]) -> None:
        cells = Cells.of(columns, self._names, self._layers, self._k)
        self._columns = list(columns)
        with self.hold_sync():
            self.tokens = [shorten(clean(column.token), 80) for column in columns]
            self.written = sum(column.written for column in columns)
            self.texts = cells.texts
            self.places, self.probabilities = cells.places.tobytes(), cells.probabilities.tobytes()
            self.divergences = cells.divergences.tobytes()
            if self.held and self.held[0] >= len(columns):
                self.held = []
            self.version += 1

    # what is written --------------------------------------------------------------------------------------------------

    def _describe(self) -> str:
        return f"{', '.join(self._names)}: {self._extent()}, {len(self._columns)} tokens"

    def _extent(self) -> str:
        """The rows are as many as the layers and one, where what enters the first is read, too; they may be few of them."""
        depth, rows = max(self._layers, default=0), sum(layer > 0 for layer in self._layers)
        return counted(depth, "layer") + (f", read after {rows} of them" if rows < depth else "")

    def _static_text(self) -> str:
        lines = [f"{self.facts['title'] or self._title}: {self._describe()}"]
        text = shorten(visible("".join(self.tokens)), 200)
        lines.append(f"after {text!r}:")
        last = self._columns[-1] if self._columns else None
        for layer in self._layers[:: max(1, len(self._layers) // 12)] if last else ():
            top = last.cells.get((self.kind, layer)) if last else None
            if top is not None and top.tokens:
                lines.append(f"  layer {layer:>2}: {top.tokens[0]!r} {top.probabilities[0]:.4f}")
        return "\n".join(lines)

    def _table(self) -> pd.DataFrame:
        """A row for each lens, layer, position and place in its distribution: kind, layer, position, token, written, place (from
        1), top_token, probability, kl (nats)."""
        import pandas as pd

        rows = [
            (kind, layer, position, column.token, column.written, place, token, probability, cell.kl)
            for position, column in enumerate(self._columns)
            for (kind, layer), cell in column.cells.items()
            for place, (token, probability) in enumerate(zip(cell.tokens, cell.probabilities, strict=True), 1)
        ]
        names = ["kind", "layer", "position", "token", "written", "place", "top_token", "probability", "kl"]
        return pd.DataFrame(rows, columns=names)

    def _image(self) -> Picture:
        kinds = [each for each in (self.kind, self.beside) if each]
        return drawn(self.facts["title"] or self._title, self._columns, self._layers, kinds)


def _names(kinds: Sequence[str]) -> list[str]:
    """Names of lenses, told apart where two are of a kind."""
    return [kind if kinds.count(kind) == 1 else f"{kind} {kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)]
