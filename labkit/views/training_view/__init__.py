"""The training view: a tuning as it runs, its curves and samples, and a Stop button that keeps the adapter."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import traitlets

from labkit.errors import BadInput
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.drawing.figures import drawn
from labkit.views.drawing.page import Page
from labkit.views.kit.curves import PICTURE_POINTS, line_points, number
from labkit.views.kit.errors import error_sentence
from labkit.views.kit.job import Job
from labkit.views.kit.job import Run as Following
from labkit.views.kit.plots import curves
from labkit.views.kit.wire import answers

if TYPE_CHECKING:
    import pandas as pd

    from labkit.views.drawing.scene import Picture

State = Literal["waiting", "running", "stopped", "finished", "failed"]
ENDED = ("stopped", "finished", "failed")
SHOWN_SAMPLES = 40
SAMPLE_CHARACTERS = 1_200
_LOOK_SECONDS = 0.5  # a run that ends without a step more is noticed by then
_REST_SECONDS = 0.2  # between two pictures
_PICTURE_POINTS = PICTURE_POINTS // 2  # there are four lines
_NATS = "nats a token"


class _Steps(Protocol):
    @property
    def steps(self) -> int: ...


class TrainingRun(Protocol):
    """What is drawn of a tuning; `labkit.lora.finetune` returns one."""

    @property
    def state(self) -> State: ...
    @property
    def history(self) -> pd.DataFrame: ...
    @property
    def samples(self) -> Sequence[tuple[int, str]]: ...
    @property
    def settings(self) -> _Steps: ...
    @property
    def title(self) -> str: ...
    @property
    def prompt(self) -> object: ...
    @property
    def seconds(self) -> float: ...
    @property
    def error(self) -> BaseException | None: ...
    def stop(self) -> object: ...
    def subscribe(
        self, step: Callable[[object], object], ended: Callable[[], object] | None = None, /
    ) -> Callable[[], None]: ...


@dataclass(frozen=True)
class _Curve:
    """A column of the history as a line. everywhere: it has a value at each step from 1, so that a missing one is a gap."""

    column: str
    name: str
    unit: str = "nats"
    everywhere: bool = False


@dataclass(frozen=True)
class _Chart:
    title: str
    note: str
    y: str
    curves: tuple[_Curve, ...]
    zero: bool = False
    small: bool = False


CHARTS = (
    _Chart(
        "Loss on the task",
        "What is trained on, and items that are not.",
        _NATS,
        (_Curve("loss", "training", everywhere=True), _Curve("held_out", "held-out")),
    ),
    _Chart(
        "Forgetting",
        "How much the loss on general text rose; 0: the adapter off.",
        _NATS,
        (_Curve("forgetting", "forgetting"),),
        zero=True,
    ),
    _Chart(
        "KL to the base",
        "How far the answers on the task have moved; 0: the adapter off.",
        _NATS,
        (_Curve("kl", "KL"),),
        zero=True,
    ),
    _Chart(
        "Learning rate", "", "", (_Curve("learning_rate", "learning rate", "", everywhere=True),), zero=True, small=True
    ),
    _Chart(
        "Gradient norm", "", "", (_Curve("gradient_norm", "gradient norm", "", everywhere=True),), zero=True, small=True
    ),
)
_CURVES = tuple(curve for chart in CHARTS for curve in chart.curves)


def training(run: TrainingRun, *, title: str = "") -> TrainingView:
    """Watch a tuning: loss and held-out loss, what it forgets, its pace, samples of a fixed prompt, and Stop.

    run: of `lk.lora.finetune`. Forgetting and KL stand beside the model with the adapter off, which is the line at 0.
    title: what stands above; by default what the run says of itself.

    Stop keeps the adapter of the steps that were done: `run.adapter`. While `run.wait()` blocks the kernel a click may not get
    through; interrupting the kernel does the same. A view of a run that has ended shows it as it was. Closing the view leaves
    the run alone. Raises BadInput for what is no run.
    """
    wanted = ("history", "state", "samples", "settings", "stop", "subscribe", "seconds")
    if not all(hasattr(run, name) for name in wanted):
        raise BadInput(f"There is no training in a {type(run).__name__}; give what lk.lora.finetune returned.")
    return TrainingView(run, title)


class TrainingView(View):
    """A tuning under way, or one that has ended. Made by `labkit.views.training`."""

    _title = "Training"
    _esm = module("training_view/training.js")
    _css = style("training_view/training.css")
    _written_again = True

    title = traitlets.Unicode("").tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    """What the samples go on from."""
    status = traitlets.Dict().tag(sync=True)
    """As kit/progress.js has it."""
    charts: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    """title, note, y, zero, small and lines ({name, n, colour}: how many points, the number of its colour) of each chart."""
    points = traitlets.Bytes(b"").tag(sync=True)
    """(sum of n, 2) float64 of step and value; NaN is a gap."""
    samples: traitlets.List[list[object]] = traitlets.List().tag(sync=True)
    """[step, text], the latest last."""
    notes: traitlets.List[str] = traitlets.List().tag(sync=True)
    _following = traitlets.Dict()

    def __init__(self, run: TrainingRun, title: str) -> None:
        self._run = run
        self._leaving = self._stopping = False
        self._news = threading.Event()
        self._job: Job[None, None] = Job(
            self,
            lambda _none, following: self._follow(following),
            lambda *_: self._draw(),
            status="_following",
            keep_stopped=True,
        )
        super().__init__()
        self.title = shorten(clean(title or run.title), 160)
        self.prompt = shorten(clean(_asked(run.prompt)), 400)
        self._draw()
        if self.status["state"] not in ENDED:
            self._job.ask(None)

    @property
    def run(self) -> TrainingRun:
        """The run that is drawn."""
        return self._run

    def stop(self) -> None:
        """Ask the run to end after the step under way; returns at once. The adapter of what was done is kept."""
        self._stopping = True
        self._news.set()
        with self._lock:
            if self.comm is not None:
                self.status = self._facts(self._run.history)

    def close(self) -> None:
        """Take the view out of the page. The run goes on."""
        self._leaving = True
        super().close()

    # the run, followed in the job's thread ----------------------------------------------------------------------------

    def _follow(self, following: Following) -> None:
        leave = self._run.subscribe(lambda _step: self._news.set(), self._news.set)
        try:
            while self._run.state not in ENDED:
                following.show(self._draw)
                time.sleep(_REST_SECONDS)
                self._news.wait(_LOOK_SECONDS)
                self._news.clear()
                if self._leaving:
                    return
                if self._stopping or following.stop.is_set():  # pressed; or the kernel was interrupted, or all is reset
                    self.stop()
                    self._run.stop()  # returns once the step under way has ended
        finally:
            leave()
        following.complete = True

    # what is shown ----------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        history = self._run.history
        charts, points = [], []
        for chart in CHARTS:
            found = [(curve, line_points(*_line(history, curve))) for curve in chart.curves]
            lines = [(curve, line) for curve, line in found if len(line)]
            points += [line for _, line in lines]
            charts.append(
                {
                    "title": chart.title,
                    "note": chart.note,
                    "y": chart.y,
                    "zero": chart.zero,
                    "small": chart.small,
                    "lines": [
                        {"name": curve.name, "n": len(line), "colour": _CURVES.index(curve)} for curve, line in lines
                    ],
                }
            )
        with self._lock, self.hold_sync():
            self.charts = charts
            self.points = b"".join(line.astype("<f8").tobytes() for line in points)
            self.samples = [[step, text] for step, text in self._samples()]
            self.notes = _gaps(history)
            self.status = self._facts(history)

    def _samples(self) -> list[tuple[int, str]]:
        found = [(int(step), shorten(clean(str(text)), SAMPLE_CHARACTERS)) for step, text in self._run.samples]
        # the first one stays: it is what the others are to be held against
        return found if len(found) <= SHOWN_SAMPLES else [found[0], *found[1 - SHOWN_SAMPLES :]]

    def _facts(self, history: pd.DataFrame) -> dict[str, object]:
        state = self._run.state
        self._stopping = self._stopping and state not in ENDED
        elapsed = self._run.seconds
        left = _latest(history, "seconds_left") if state == "running" else None
        return {
            "state": state,
            "begun": True,
            "stopping": self._stopping,
            "done": _steps(history),
            "total": int(self._run.settings.steps),
            "elapsed": elapsed,
            "heard": elapsed,
            "say": "",
            "values": _values(history),
            "message": self._sentence(history),
            **({} if left is None or not math.isfinite(left) else {"left": left}),
        }

    def _sentence(self, history: pd.DataFrame) -> str:
        """How it ended, or how far it is, without the time, which differs from run to run."""
        state, done = self._run.state, _steps(history)
        far = f"{done:,} of {self._run.settings.steps:,} steps"
        if state == "failed":
            error = self._run.error
            reason = "" if error is None else f": {error_sentence(error, 'the training raised', end='')}"
            return f"failed after {far}{reason}"
        if state == "stopped":
            return (
                f"stopped after {far}; the adapter holds what was learnt" if done else "stopped before the first step"
            )
        return {"finished": f"finished: {far}", "running": f"running: {far}"}.get(state, "waiting for its turn")

    @answers
    def _answer_stop(self) -> None:
        self.stop()

    @answers
    def _answer_hello(self) -> None:
        """A page that was loaded again: its clock starts at ours."""
        if self._run.state == "running":
            self.status = self._facts(self._run.history)

    # what is written --------------------------------------------------------------------------------------------------

    def _describe(self) -> str:
        return f"{shorten(visible(self.title), 60)!r}, {self._run.state}"

    def _static_text(self) -> str:
        history = self._run.history
        lines = [f"{self.title}: {self._sentence(history)}"]
        lines += [f"  {name}: {value}" for name, value in _values(history)]
        samples = self._samples()
        for step, text in samples[:1] + samples[1:][-1:]:
            lines.append(f"  after step {step}: {shorten(text, 200)!r}")
        return "\n".join([*lines, *_gaps(history)])

    def _table(self) -> pd.DataFrame:
        """The run's history: a row for each step."""
        return self._run.history

    def _image(self) -> Picture:
        history = self._run.history
        sentence = self._sentence(history)
        page = Page(description=f"{self.title}: {sentence}").heading(self.title).paragraph(sentence)
        for chart in CHARTS:
            lines = {curve.name: line_points(*_line(history, curve), _PICTURE_POINTS) for curve in chart.curves}
            points = {name: (line[:, 0].tolist(), line[:, 1].tolist()) for name, line in lines.items() if len(line)}
            if chart.small or not points:
                continue
            page.paragraph(chart.title, bold=True, gap=0.0)
            figure = curves(points, x="step", y=chart.y).update_layout(height=220)
            if chart.zero:
                figure.update_yaxes(zeroline=True, rangemode="tozero")
            page.drawing(drawn(figure))
        page.table(_values(history), ("latest", ""), right=(1,))
        samples = self._samples()
        if samples:
            page.paragraph(f"Samples{': ' + self.prompt if self.prompt else ''}", bold=True, gap=2.0)
        for step, text in samples[:1] + samples[1:][-1:]:
            page.note(f"after step {step}").paragraph(shorten(text, 400))
        for note in _gaps(history):
            page.note(note)
        return page.picture()


def _asked(prompt: object) -> str:
    """What the samples answer, in words: a text, or what messages say; "" where it is neither."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Sequence) and all(isinstance(message, Mapping) for message in prompt):
        return "\n".join(str(message.get("content", "")) for message in prompt)
    return ""


def _line(history: pd.DataFrame, curve: _Curve) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a curve: (n,) float64 each; what was not measured at a step is left out."""
    if curve.column not in history:
        return np.empty(0), np.empty(0)
    steps = history["step"].to_numpy(np.float64)
    values = history[curve.column].to_numpy(np.float64, na_value=np.nan)
    there = ~np.isnan(values)
    if curve.everywhere and there.any():
        there |= steps > 0  # step 0 is the model before it was trained
    return steps[there], values[there]


def _latest(history: pd.DataFrame, column: str) -> float | None:
    if column not in history:
        return None
    there = history[column].dropna()
    return float(there.iloc[-1]) if len(there) else None


def _steps(history: pd.DataFrame) -> int:
    return int(history["step"].iloc[-1]) if len(history) else 0


def _values(history: pd.DataFrame) -> list[list[str]]:
    """The latest of each curve in words, in the charts' order."""
    found = []
    for curve in _CURVES:
        value = _latest(history, curve.column)
        if value is not None:
            found.append([_TITLES.get(curve.column, curve.name), f"{number(value)} {curve.unit}".rstrip()])
    pace = _latest(history, "tokens_per_second")
    if pace is not None and math.isfinite(pace):
        found.append(["tokens a second", f"{pace:,.0f}"])
    return found


_TITLES = {"loss": "loss", "held_out": "held-out loss"}


def _gaps(history: pd.DataFrame) -> list[str]:
    """What of the curves can't be drawn."""
    said = []
    for curve in _CURVES:
        _, values = _line(history, curve)
        if broken := int((~np.isfinite(values)).sum()):
            name = _TITLES.get(curve.column, curve.name)
            said.append(f"Of {len(values):,} values of the {name}, {broken:,} are no finite number: gaps.")
    return said
