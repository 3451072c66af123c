"""The quantization view: a matrix and the model's text in few bits, which change with format, groups, symmetry and method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import traitlets

from labkit import checks
from labkit.errors import BadInput
from labkit.models.memory import human_bytes
from labkit.quantization import formats
from labkit.quantization.methods import METHODS
from labkit.quantization.trials import Setting, Text, Trials
from labkit.views.base import View, clean, module, shorten, style
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job, Run
from labkit.views.kit.prompted import Prompted
from labkit.views.kit.running_text import different, parted, split
from labkit.views.kit.traits import Change, OneOf, Proposal
from labkit.views.quantization_view.error_map import ErrorMap, error_map
from labkit.views.quantization_view.picture import drawn
from labkit.views.weight_chart import MOST_POINTS, OUTLIER, Histogram, histogram

if TYPE_CHECKING:
    import pandas as pd

    from labkit.quantization.grids import GroupSize
    from labkit.quantization.reconstruction import Reconstruction
    from labkit.quantization.trials import WritingLab
    from labkit.quantization.weights import Matrix
    from labkit.views.drawing.scene import Picture

PROMPT = "Once upon a time there was a"
OWN = "own"  # the format's own size of groups
TOKENS = 40
MOST_TOKENS = 400
_DELAY_SECONDS = 0.1
_TEXT_DELAY_SECONDS = 0.6  # somebody who still chooses does not want the model quantized yet
_SHOWN_OUTLIERS = 3


def quantization(
    lab: WritingLab,
    *,
    prompt: str = PROMPT,
    calibration: object = None,
    layer: int | None = None,
    matrix: str | None = None,
    format: str = "int4",
    group_size: GroupSize | None = None,
    symmetric: bool | None = None,
    method: str = "rtn",
    tokens: int = TOKENS,
    chat: bool | None = False,
    seed: int = 0,
) -> QuantizationView:
    """See what few bits do: to one matrix at once, and to the text of the whole model a little later.

    lab: with unquantized weights; it stays as it is.
    prompt: what both models go on from, greedily; it can be typed over.
    calibration: texts, or texts by kind, such as lk.quantization.texts(10, skip=30): for "gptq" and "awq", which are offered
        only with some, and for the error of the matrix's outputs.
    layer, matrix: which matrix is drawn first, such as 3 and "q_proj"; by default the first of the middle layer.
    format, group_size, symmetric, method: as of `lk.quantization.quantize`; where to begin.
    tokens: of the texts at most, up to 400.  chat: False goes on from the prompt as it is, True answers it.
    Raises BadInput for settings that don't go together, Unavailable for a lab that is quantized already.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput(f"prompt={prompt!r} is nothing to go on from; give a text.")
    trials = Trials(
        lab,
        calibration=calibration,
        tokens=checks.whole("tokens", tokens, 1, MOST_TOKENS),
        chat=chat,
        seed=checks.seed(seed),
    )
    checks.one_of("format", format, formats.NAMES)
    checks.one_of("method", method, METHODS)
    if method not in trials.methods:
        raise BadInput(
            f"method={method!r} needs text to go by; give calibration=lk.quantization.texts(10, skip=30), or your own."
        )
    layers = list(trials.layers)
    chosen = layers[len(layers) // 2] if layer is None else checks.index("layer", layer, max(layers) + 1)
    if chosen not in trials.layers:
        raise BadInput(f"layer {chosen} of {lab.name} has no matrix that could be quantized; give one of {layers}.")
    there = trials.layers[chosen]
    first = next(iter(there)) if matrix is None else checks.one_of("matrix", matrix, there)
    formats.of(format, group_size=group_size, symmetric=symmetric)
    setting = Setting(format, group_size, symmetric, method).fitting()
    if not trials.goes(setting):
        raise BadInput(
            f"method={method!r} can't be used with {format} in this setting; use method='rtn', or another format."
        )
    return QuantizationView(trials, setting, chosen, first, prompt)


@dataclass(frozen=True)
class _Asked:
    """What the panes of a matrix are asked for. group: whose grid is drawn; -1: the one of median range."""

    place: Matrix
    setting: Setting
    group: int


@dataclass(frozen=True)
class _Texts:
    """Both texts as far as they have come; complete: nothing is left to be written."""

    prompt: str
    setting: Setting
    original: Text | None = None
    quantized: Text | None = None
    state: Literal["writing", "done", "stopped"] = "writing"


class QuantizationView(View, Prompted):
    """One matrix and one text in few bits. Set `layer`, `matrix`, `format`, `group`, `symmetric`, `method` or `prompt` to do
    what the page does; what does not go with a new choice gives way to it.

    `wait()` for what was asked, `stop()` the texts, `again()` what was stopped or failed, `close()` for good.
    """

    _title = "Quantization: what few bits do to a matrix and to the text"
    _esm = module("quantization_view/quantization.js")
    _css = style("quantization_view/quantization.css")
    _written_again = True

    layer = traitlets.Int(0).tag(sync=True)
    matrix = traitlets.Unicode("").tag(sync=True)
    format = OneOf(formats.NAMES, "int4")
    group = traitlets.Unicode(OWN).tag(sync=True)
    """How many weights share a grid: "own" (the format's), a number, "channel" or "tensor"."""
    symmetric = traitlets.Bool(True).tag(sync=True)
    """Of integer formats: around zero, or from the smallest to the largest weight."""
    method = OneOf(tuple(METHODS), "rtn")
    drawn_group = traitlets.Int(-1).tag(sync=True)
    """Whose grid is laid over the histogram; -1: the group whose range is the median one."""
    choices = traitlets.Dict().tag(sync=True)
    """What the controls offer: layers, matrices, formats, groups, methods as [value, title], and whether there is a symmetry."""
    pane = traitlets.Dict().tag(sync=True)
    """The numbers of the matrix; see `_matrix_shown`."""
    counts = traitlets.Bytes(b"").tag(sync=True)
    """(bins,) uint32, of the histogram."""
    levels = traitlets.Bytes(b"").tag(sync=True)
    """(values,) float32: the grid of the group that is drawn."""
    points = traitlets.Bytes(b"").tag(sync=True)
    """(points, 2) float32: weights of that group, and what became of them."""
    cells = traitlets.Bytes(b"").tag(sync=True)
    """(down, across) of uint32, float32, float32: in each cell the weight that is furthest off: its place, it, its value."""
    texts = traitlets.Dict().tag(sync=True)
    matrix_status = traitlets.Dict().tag(sync=True)
    text_status = traitlets.Dict().tag(sync=True)

    def __init__(self, trials: Trials, setting: Setting, layer: int, matrix: str, prompt: str) -> None:
        self._trials = trials
        self._drawn: Reconstruction | None = None
        self._now: _Texts | None = None
        self._map: ErrorMap | None = None
        self._settling = True
        self._panes = Job(
            self,
            self._measure,
            self._show_matrix,
            status="matrix_status",
            failed="The matrix can't be quantized:",
            give_up=lambda _asked: self._no_matrix(),
            delay_seconds=_DELAY_SECONDS,
        )
        self._writing = Job(
            self,
            self._write,
            self._show_texts,
            status="text_status",
            failed="The text can't be written:",
            give_up=lambda _asked: self._no_text(),
            keep_stopped=True,
            delay_seconds=_TEXT_DELAY_SECONDS,
        )
        super().__init__()
        self.layer, self.matrix, self.prompt = layer, matrix, clean(prompt)
        self.format, self.method = setting.format, setting.method
        self.group = OWN if setting.group_size is None else str(setting.group_size)
        self.symmetric = setting.symmetric is not False
        self._settling = False
        self.observe(
            self._changed,
            names=["layer", "matrix", "format", "group", "symmetric", "method", "drawn_group", "prompt"],
        )
        self._offer()
        self._ask_matrix()
        self._ask_texts()

    # what a user calls ------------------------------------------------------------------------------------------------

    @property
    def setting(self) -> Setting:
        """What is chosen, as `quantize` takes it."""
        size: GroupSize | None
        if self.group == "channel":
            size = "channel"
        elif self.group == "tensor":
            size = "tensor"
        else:
            size = None if self.group == OWN else int(self.group)
        return Setting(self.format, size, self.symmetric, self.method).fitting()

    @property
    def reconstruction(self) -> Reconstruction | None:
        """The matrix on show, as `lk.quantization.matrix` gives it; None until it is there."""
        with self._lock:
            return self._drawn

    def stop(self) -> None:
        """Stop the texts in progress; what they have so far is kept."""
        self._writing.stop()

    def again(self) -> None:
        """Do once more what was stopped, or failed."""
        self._ask_matrix()
        self._ask_texts()

    # what is asked for ------------------------------------------------------------------------------------------------

    @traitlets.validate("layer")
    def _valid_layer(self, proposal: Proposal) -> int:
        if proposal["value"] not in self._trials.layers:
            raise Refused(
                f"There is no layer {proposal['value']!r} here; there are {len(self._trials.layers)}, from 0."
            )
        return int(proposal["value"])

    @traitlets.validate("matrix")
    def _valid_matrix(self, proposal: Proposal) -> str:
        names = list(dict.fromkeys(name for there in self._trials.layers.values() for name in there))
        if proposal["value"] not in names:
            raise Refused(f"There is no matrix {proposal['value']!r} here; give one of {checks.listed(names)}.")
        return str(proposal["value"])

    @traitlets.validate("group")
    def _valid_group(self, proposal: Proposal) -> str:
        value = str(proposal["value"])
        if value not in (OWN, "channel", "tensor") and not (value.isdecimal() and 2 <= int(value) <= 2**20):
            raise Refused(f'group={value!r} can\'t be used; give a number from 2, "channel", "tensor" or "own".')
        return value

    @traitlets.validate("method")
    def _valid_method(self, proposal: Proposal) -> str:
        if proposal["value"] not in self._trials.methods:
            raise Refused(
                f"method={proposal['value']!r} needs text to go by; give lk.views.quantization calibration=texts."
            )
        return str(proposal["value"])

    def _changed(self, change: Change) -> None:
        if self._settling:
            return
        with self._lock, self.hold_sync():
            if change["name"] == "prompt":
                self._ask_texts()
                return
            self._settling = True
            try:
                self._settle(str(change["name"]))
            finally:
                self._settling = False
            self._offer()
            self._ask_matrix()
            if change["name"] in ("format", "group", "symmetric", "method"):
                self._ask_texts()

    def _settle(self, newest: str) -> None:
        """What does not go with the newest choice gives way to it."""
        there = self._trials.layers[self.layer]
        if self.matrix not in there:
            self.matrix = next(iter(there))
        if newest != "drawn_group":
            self.drawn_group = -1
        own = self._trials.own_group(self.setting, self._place())
        if newest != "group" and (self.group not in self._groups() or (newest == "format" and isinstance(own, str))):
            self.group = OWN
        if newest == "method" and not self._trials.goes(self.setting):
            self.symmetric = not self.symmetric
        if not self._trials.goes(self.setting):
            if newest in ("method", "symmetric"):
                self.group = OWN if newest == "method" else self.group
            if not self._trials.goes(self.setting):
                self.method = "rtn"

    def _groups(self) -> dict[str, str]:
        place = self._place()
        own = self._trials.own_group(self.setting, place)
        names = {"channel": "a row", "tensor": "the matrix"}
        found = {OWN: "none fits" if own is None else f"{names.get(str(own), own)} (usual)"}
        for size in self._trials.groups_of(self.setting, place):
            if size != own:
                found[str(size)] = names.get(str(size), str(size))
        if self.group not in found and self.group.isdecimal():  # set by hand
            made = formats.fitted(self.format, place.shape)
            if not isinstance(made, str):
                found[self.group] = self.group
        return found

    def _offer(self) -> None:
        setting = self.setting
        self.choices = {
            "layers": list(self._trials.layers),
            "matrices": list(self._trials.layers[self.layer]),
            "formats": list(formats.NAMES),
            "groups": [list(pair) for pair in self._groups().items()],
            "symmetries": setting.is_integer,
            "methods": [[name, f"{name}: {METHODS[name].title}"] for name in self._trials.methods_of(setting)],
        }

    def _place(self) -> Matrix:
        return self._trials.layers[self.layer][self.matrix]

    def _ask_matrix(self) -> None:
        self._panes.ask(_Asked(self._place(), self.setting, self.drawn_group))

    def _ask_texts(self) -> None:
        if not self.prompt.strip():
            self._writing.clear()
            self._writing.say("failed", "The prompt is empty; write something that the model can go on from.")
            return
        self._writing.ask(_Texts(self.prompt, self.setting))

    # the matrix, in its job's thread ----------------------------------------------------------------------------------

    def _measure(self, asked: _Asked, run: Run) -> Reconstruction:
        reads = self._trials.calibration is not None
        fresh = reads and not self._trials.is_read(asked.place)
        if fresh:
            if not METHODS[asked.setting.method].calibrated:  # all but the error of its outputs is there at once
                quick = self._trials.matrix(asked.place, asked.setting, outputs=False)
                run.show(lambda: self._draw_matrix(asked, quick, pending=True))
            run.say("running the calibration text as far as this layer …")
        return self._trials.matrix(asked.place, asked.setting, outputs=reads)

    def _show_matrix(self, asked: _Asked, found: Reconstruction) -> str:
        self._draw_matrix(asked, found, pending=False)
        return ""

    def _draw_matrix(self, asked: _Asked, found: Reconstruction, *, pending: bool) -> None:
        group = asked.group if asked.group >= 0 else None
        groups = found.packed.codes()[0].shape[0]
        shown = histogram(found, group if group is not None and group < groups else None)
        self._drawn, self._map = found, error_map(found.weight.numpy(), found.unpacked.numpy())
        self.counts = shown.counts.astype("<u4").tobytes()
        self.levels = shown.levels.astype("<f4").tobytes()
        some = np.unique(np.linspace(0, len(shown.weights) - 1, min(MOST_POINTS, len(shown.weights))).astype(int))
        self.points = np.stack([shown.weights[some], shown.values[some]], 1).astype("<f4").tobytes()
        self.cells = self._map.packed()
        self.pane = self._matrix_shown(asked, found, shown, pending)

    def _no_matrix(self) -> None:
        self._drawn = self._map = None
        self.pane = {}

    def _matrix_shown(self, asked: _Asked, found: Reconstruction, shown: Histogram, pending: bool) -> dict[str, object]:
        """All numbers of the matrix, fit for JSON."""
        assert self._map is not None
        size = len(shown.weights)
        return {
            "name": found.name,
            "layer": asked.place.layer,
            "matrix": asked.place.matrix,
            "described": found.format.described(),
            "method": METHODS[found.method].title,
            "shape": list(found.weight.shape),
            "bits": found.bits_per_weight,
            "bytes": found.size_bytes,
            "weight_error": found.weight_error,
            "output_error": found.output_error,
            "pending": pending,
            "calibrated": self._trials.calibration is not None,
            "reach": float(shown.edges[-1]),
            "std": shown.std,
            "group": shown.group,
            "groups": shown.groups,
            "size": size,
            "used": len(np.unique(shown.values)),
            "choices": shown.choices,
            "outliers": len(shown.outliers),
            "outlier_from": OUTLIER,
            "far": [float(value) for value in shown.outliers[:_SHOWN_OUTLIERS]],
            "rows": self._map.rows,
            "columns": self._map.columns,
            "down": self._map.down,
            "across": self._map.across,
            "block": list(self._map.block),
            "top": float(self._map.errors.max()),
        }

    # the texts, in their job's thread ---------------------------------------------------------------------------------

    def _write(self, asked: _Texts, run: Run) -> _Texts:
        original = self._follow(
            self._trials.original(asked.prompt, run.stop), asked, None, run, "writing the original's text …"
        )
        if original is None or run.stop.is_set():
            return _Texts(asked.prompt, asked.setting, original, None, "stopped")

        def say(done: int, total: int) -> None:
            run.say("quantizing the model …", done=done, total=total)

        run.say("quantizing the model …")
        small = self._trials.quantized(asked.setting, asked.prompt, run.stop, say)
        quantized = self._follow(small, asked, original, run, "writing the quantized model's text …")
        run.complete = quantized is not None and quantized.done
        return _Texts(asked.prompt, asked.setting, original, quantized, "done" if run.complete else "stopped")

    def _follow(
        self, texts: Iterator[Text], asked: _Texts, original: Text | None, run: Run, message: str
    ) -> Text | None:
        """Take a text as it is written and show it; how far it came."""
        text: Text | None = None
        for text in texts:
            both = (text, None) if original is None else (original, text)
            now = _Texts(asked.prompt, asked.setting, *both)
            run.say(message, draw=lambda now=now: self._draw_texts(now))  # type: ignore[misc]  # bound as it is now
            if run.stop.is_set():
                break
        return text

    def _show_texts(self, _asked: _Texts, found: _Texts) -> str:
        self._draw_texts(found)
        if found.original is None or found.quantized is None:
            return "stopped"
        return "" if found.state == "done" else f"stopped after {len(found.quantized.tokens)} tokens"

    def _draw_texts(self, now: _Texts) -> None:
        self._now = now
        self.texts = self._texts_shown(now)

    def _no_text(self) -> None:
        """The original's text holds still."""
        if self._now is not None:
            self._draw_texts(replace(self._now, setting=self.setting, quantized=None, state="stopped"))

    def _texts_shown(self, now: _Texts) -> dict[str, object]:
        """Both texts in pieces, and which of their tokens the other does not have."""
        sides = [now.original, now.quantized]
        differ = different(*(side.tokens if side else None for side in sides))
        return {
            "prompt": now.prompt,
            "described": self._setting_words(now.setting),
            "state": now.state,
            "parted": _parted(*sides),
            "original": _side(now.original, differ[0]),
            "quantized": _side(now.quantized, differ[1]),
        }

    def _setting_words(self, setting: Setting) -> str:
        made = formats.of(setting.format, group_size=setting.group_size, symmetric=setting.symmetric)
        return f"{made.described()}, by {METHODS[setting.method].title}"

    # what is written --------------------------------------------------------------------------------------------------

    def _export_state(self) -> dict[str, object]:
        with self._lock:
            return super()._export_state()

    def _describe(self) -> str:
        return f"layer {self.layer}, {self.matrix}, {self._setting_words(self.setting)}"

    def _table(self) -> pd.DataFrame:
        """The histogram of the matrix: from, to, weights, and how many of the grid's values lie there; with the matrix'
        numbers beside it."""
        import pandas as pd

        with self._lock:
            found, pane = self._drawn, dict(self.pane)
        if found is None:
            return pd.DataFrame(columns=["from", "to", "weights", "values"])
        shown = histogram(found, pane["group"])
        values, _ = np.histogram(shown.levels, bins=shown.edges)
        table = pd.DataFrame(
            {"from": shown.edges[:-1], "to": shown.edges[1:], "weights": shown.counts, "values": values}
        )
        return table.assign(
            matrix=found.name,
            format=found.format.described(),
            method=found.method,
            bits_per_weight=found.bits_per_weight,
            bytes=found.size_bytes,
            weight_error=found.weight_error,
            output_error=np.nan if found.output_error is None else found.output_error,
        )

    def _sentences(self) -> list[str]:
        with self._lock:
            pane = dict(self.pane)
        if not pane:
            return ["nothing computed yet"]
        shape = " × ".join(map(str, pane["shape"]))
        lines = [
            f"{pane['name']} ({shape}) in {pane['described']}, by {pane['method']}",
            f"{pane['bits']:.3f} bits a weight, {pane['bytes']:,} bytes; the weights move by {pane['weight_error']:.2%}",
        ]
        if pane["output_error"] is not None:
            lines[-1] += f", the outputs by {pane['output_error']:.2%}"
        if pane["outliers"]:
            lines.append(f"{pane['outliers']:,} weights lie beyond {OUTLIER:.0f} standard deviations")
        return lines

    def _static_text(self) -> str:
        lines = self._sentences()
        with self._lock:
            now = self._now
        if now is not None:
            lines.append(f"After {shorten(now.prompt, 200)!r}:")
            for name, text in (("original", now.original), ("quantized", now.quantized)):
                if text is not None:
                    lines.append(f"{name} ({human_bytes(text.size_bytes)}): {shorten(''.join(text.tokens), 500)!r}")
        return "\n".join(lines)

    def _image(self) -> Picture:
        with self._lock:
            found, pane, now, grid_map = self._drawn, dict(self.pane), self._now, self._map
        shown = None if found is None else histogram(found, pane["group"])
        texts = []
        if now is not None:
            sides = (now.original, now.quantized)
            differ = different(*(side.tokens if side else None for side in sides))
            texts = [
                (f"{name}, {human_bytes(side.size_bytes)}", side.tokens, set(other))
                for name, side, other in zip(("The original", "Quantized"), sides, differ, strict=True)
                if side is not None
            ]
        return drawn(self._title, self._sentences(), shown, grid_map, None if now is None else now.prompt, texts)


def _parted(one: Text | None, other: Text | None) -> int | None:
    """The first token in which two texts differ; None while they don't."""
    return parted(one.tokens, other.tokens, (one.done, other.done)) if one is not None and other is not None else None


def _side(text: Text | None, differ: list[int]) -> dict[str, object] | None:
    if text is None:
        return None
    size = human_bytes(text.size_bytes)
    return {
        "texts": split(text.tokens).texts,
        "differ": differ,
        "done": text.done,
        "bytes": text.size_bytes,
        "size": size,
    }
