"""Predict, then run: a guess is taken and locked, and later shown beside what came out."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

import traitlets
from traitlets.utils.bunch import Bunch

from labkit.errors import BadInput
from labkit.markup import escaped, html_table
from labkit.teaching import progress
from labkit.teaching.prediction.words import curve_words, number_text, number_words
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.drawing.figures import drawn
from labkit.views.drawing.page import Page
from labkit.views.kit.plots import curves

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from labkit.views.drawing.scene import Picture

Kind = Literal["number", "choice", "curve"]
_MOST_POINTS = 16


def predict(
    id: str,
    question: str,
    kind: Kind = "number",
    *,
    unit: str = "",
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    x: Sequence[float] = (),
    log: bool = False,
    x_label: str = "",
    y_label: str = "",
) -> Prediction:
    """Ask for a guess before the result is there. A locked guess can't be changed, and is shown when the cell is run again.

    kind: "number" (within low and high, where given), "choice" (one of choices), or "curve": a value for each x, sketched
        with pointer or keyboard between low (0 by default) and high (1); log puts the values on a logarithmic axis.
        The points stand at even distances, each labelled with its x.
    unit: of the number or of the curve's values.
    Returns a widget with `.guess` (None until locked), `.locked`, `.lock(value)`, and `.show(result)`.
    Only lk.progress(clear=id) lets one guess again. Raises BadInput for a question that can't be asked like that.
    """
    for name, values in (("choices", choices), ("x", x)):
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise BadInput(f"{name}={values!r} can't be used; give a list.")
    return Prediction(
        _spec(id, question, kind, unit, list(choices), low, high, list(x), bool(log), str(x_label), str(y_label))
    )


def _spec(
    id: object,
    question: object,
    kind: object,
    unit: object,
    choices: list[object],
    low: object,
    high: object,
    x: list[object],
    log: bool,
    x_label: str,
    y_label: str,
) -> Spec:
    if not isinstance(id, str) or not id or not isinstance(question, str) or not question:
        raise BadInput("A prediction needs an id and a question, both texts that are not empty.")
    if kind not in ("number", "choice", "curve"):
        raise BadInput(f"There is no prediction of kind {kind!r}; there are number, choice and curve.")
    if kind == "choice" and (len(choices) < 2 or len({str(c) for c in choices}) < len(choices)):
        raise BadInput("A choice needs at least two different choices: choices=(...).")
    if kind == "curve":
        if not 2 <= len(x) <= _MOST_POINTS:
            raise BadInput(f"A curve is sketched at 2 to {_MOST_POINTS} points; x has {len(x)}.")
        high = 1.0 if high is None else high
        low = (_finite(high, "high") / 1000 if log else 0.0) if low is None else low
    places = [_finite(value, "x") for value in x] if kind == "curve" else []
    if any(before >= after for before, after in itertools.pairwise(places)):
        raise BadInput("The x of a curve are to rise, each above the one before; give them in that order.")
    lowest, highest = (None if bound is None else _finite(bound, "low and high") for bound in (low, high))
    if lowest is not None and highest is not None and lowest >= highest:
        raise BadInput(f"low={lowest:g} must be below high={highest:g}.")
    if log and kind == "curve" and lowest is not None and lowest <= 0:
        raise BadInput("A logarithmic axis has no zero: give a low above 0.")
    return {
        "id": clean(id),
        "question": clean(question),
        "kind": kind,
        "unit": clean(str(unit)),
        "choices": [clean(str(choice)) for choice in choices],
        "low": lowest,
        "high": highest,
        "x": places,
        "log": log,
        "x_label": clean(x_label),
        "y_label": clean(y_label),
    }


class Spec(TypedDict):
    """A question as the page gets it; curve.js has the same."""

    id: str
    question: str
    kind: Kind
    unit: str
    choices: list[str]
    low: float | None
    high: float | None
    x: list[float]
    log: bool
    x_label: str
    y_label: str


Value = float | str | list[float]
"""A number, one of the choices, or a number for each x."""


class Prediction(View):
    """A question, the guess, and its lock. `guess` is None until it is locked."""

    _title = "Prediction"
    _esm = module("../teaching/prediction/prediction.js")
    _css = style("../teaching/prediction/prediction.css")

    spec = traitlets.Dict().tag(sync=True)
    locked_guess = traitlets.Dict().tag(sync=True)
    """{"value": the guess}, or nothing."""
    kept = traitlets.Bool(False).tag(sync=True)
    """Whether the kernel has the guess: a front end that locks one knows then that it arrived."""

    def __init__(self, spec: Spec) -> None:
        self.id: str = spec["id"]
        self._asked = spec
        self._clearing = False
        super().__init__(spec=spec)
        self._take_up()
        self.observe(self._on_locked, names="locked_guess")
        progress.watch(self)

    @property
    def locked(self) -> bool:
        return bool(self.locked_guess)

    @property
    def guess(self) -> Value | None:
        """A number, one of the choices, or a list of numbers for a curve; None until it is locked."""
        guess: Value | None = self.locked_guess.get("value")
        return guess

    def lock(self, value: object) -> None:
        """Lock a guess, as the button does. Raises BadInput for one that doesn't fit, or when another is locked."""
        value = _checked(self._asked, value)
        if self.locked:
            if value != self.guess:
                raise BadInput(
                    f'The guess for "{shorten(visible(self.id), 60)}" is locked; lk.progress(clear="{self.id}") lets you '
                    "guess again."
                )
            return
        self.locked_guess = {"value": value}

    def show(self, result: object) -> Comparison:
        """The guess and what came out, side by side.

        result: a number, one of the choices, or a number for each x. Raises BadInput for anything else.
        """
        return Comparison(self._asked, self.guess, _checked(self._asked, result, is_result=True))

    def refresh(self) -> None:
        """Called when the progress changes: a guess that was cleared can be made again."""
        if self.comm is not None and self.locked and progress.prediction_record(self.id) is None:
            self._clearing = True
            try:
                self.locked_guess = {}
                self.kept = False
            finally:
                self._clearing = False

    @traitlets.validate("locked_guess")
    def _valid_guess(self, proposal: Bunch) -> Mapping[str, object]:
        new: Mapping[str, object] = proposal["value"]
        if self._clearing or new == self.locked_guess:
            return new
        try:
            if self.locked or not isinstance(new, dict) or "value" not in new:
                raise BadInput("A locked guess stays.")
            return {"value": _checked(self._asked, new["value"])}
        except BadInput:  # from a front end: it is told what holds
            if self.comm is not None:
                self.send_state("locked_guess")
            return self.locked_guess

    def _take_up(self) -> None:
        """A guess that was locked in an earlier run, where it fits the question as it is now."""
        record = progress.prediction_record(self.id)
        if record is None or record.get("kind") != self._asked["kind"]:
            return
        try:
            value = _checked(self._asked, record.get("guess"))
        except BadInput:
            return
        self.locked_guess = {"value": value}
        self.kept = True

    def _on_locked(self, change: Bunch) -> None:
        if change["new"]:
            progress.predicted(self.id, self._asked["kind"], change["new"]["value"])
            self.kept = True

    def _describe(self) -> str:
        return f"{shorten(visible(self.id), 60)!r}, {'locked' if self.locked else 'no guess yet'}"

    def _table(self) -> pd.DataFrame:
        return _numbers(self._asked, guess=self.guess)

    def _static_text(self) -> str:
        guess = f"Your guess: {value_text(self._asked, self.guess)}" if self.locked else "No guess yet."
        offered = f"\nOne of: {'; '.join(self._asked['choices'])}" if self._asked["kind"] == "choice" else ""
        return f"Predict: {self._asked['question']}{offered}\n{guess}"

    def _static_html(self) -> str:
        question = html.escape(visible(self._asked["question"]))
        guess = html.escape(visible(value_text(self._asked, self.guess)))
        offered = "".join(f"<li>{html.escape(visible(choice))}</li>" for choice in self._asked["choices"])
        said = f"Your guess: {guess}" if self.locked else "No guess yet: run this cell to make one."
        return (
            f"<div><p><strong>Predict:</strong> {question}</p>"
            f"{f'<ul>{offered}</ul>' if self._asked['kind'] == 'choice' else ''}<p>{said}</p></div>"
        )


class Comparison(View):
    """A guess and what came out, side by side; `words` says how far apart they are."""

    _title = "Prediction and result"
    _esm = module("../teaching/prediction/comparison.js")
    _css = style("../teaching/prediction/prediction.css")

    spec = traitlets.Dict().tag(sync=True)
    guessed = traitlets.Dict().tag(sync=True)
    result = traitlets.Dict().tag(sync=True)
    words = traitlets.Unicode("").tag(sync=True)

    def __init__(self, spec: Spec, guess: Value | None, result: Value) -> None:
        self._asked = spec
        super().__init__(
            spec=spec,
            guessed={} if guess is None else {"value": guess, "text": value_text(spec, guess)},
            result={"value": result, "text": value_text(spec, result)},
            words="No guess was made." if guess is None else _words(spec, guess, result),
        )

    def _describe(self) -> str:
        return f"{shorten(visible(self.spec['id']), 60)!r}, {self.words!r}"

    def _table(self) -> pd.DataFrame:
        return _numbers(self._asked, guess=self.guessed.get("value"), result=self.result["value"])

    def _static_text(self) -> str:
        guess = f"Guess:  {self.guessed['text']}\n" if self.guessed else ""
        return f"{guess}Result: {self.result['text']}\n{self.words}"

    def _image(self) -> Picture:
        if self._asked["kind"] != "curve":
            return super()._image()
        page = Page(description=self._title).heading(self._title).paragraph(self._asked["question"])
        values = {"guess": self.guessed.get("value"), "result": self.result["value"]}
        return page.drawing(drawn(_curves(self._asked, values))).paragraph(self.words).picture()

    def _static_html(self) -> str:
        if self._asked["kind"] == "curve":
            return super()._static_html()
        guess = self.guessed.get("text", "no guess was made")
        rows = (("guess", guess), ("result", self.result["text"]))
        return f"<div>{html_table(rows, labelled=True)}<p>{escaped(self.words)}</p></div>"


def _curves(spec: Spec, values: Mapping[str, Value | None]) -> go.Figure:
    """Guess and result of a curve, its points at even distances as they were sketched."""
    places = list(range(len(spec["x"])))
    drawn = {name: (places, ys) for name, ys in values.items() if isinstance(ys, list)}
    return curves(
        drawn,
        x=spec["x_label"],
        y=spec["y_label"] + (f" ({spec['unit']})" if spec["unit"] else ""),
        dashes=["dash" if name == "guess" else "solid" for name in drawn],
        xaxis_tickvals=places,
        xaxis_ticktext=[number_text(x) for x in spec["x"]],
        yaxis_type="log" if spec["log"] else "linear",
    )


def _numbers(spec: Spec, **values: Value | None) -> pd.DataFrame:
    """A row, or for a curve one for each x; what was not guessed is empty."""
    import pandas as pd

    if spec["kind"] != "curve":
        return pd.DataFrame([values])
    columns = {name: [None] * len(spec["x"]) if value is None else value for name, value in values.items()}
    return pd.DataFrame({"x": spec["x"], **columns})


def value_text(spec: Spec, value: Value | None) -> str:
    """A guess or a result as text, with its unit."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return number_text(value, spec["unit"])
    pairs = zip(spec["x"], value, strict=True)
    unit = f" ({spec['unit']})" if spec["unit"] else ""
    return ", ".join(f"{number_text(x)}: {number_text(y)}" for x, y in pairs) + unit


def _words(spec: Spec, guess: Value, result: Value) -> str:
    if isinstance(guess, list) and isinstance(result, list):
        return curve_words(spec["x"], guess, result, spec["unit"], log=spec["log"])
    if isinstance(guess, int | float) and isinstance(result, int | float):
        return number_words(guess, result, spec["unit"])
    return "As you said." if guess == result else "It came out otherwise."


def _finite(value: object, what: str) -> float:
    """A finite number, whole ones kept whole; tensors and arrays of one number are taken."""
    if hasattr(value, "item") and not isinstance(value, str):
        try:
            value = value.item()
        except (ValueError, RuntimeError) as error:
            raise BadInput(f"A single number is wanted for {what}.") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"A number is wanted for {what}, not a {type(value).__name__}.")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise BadInput(f"A finite number is wanted for {what}.")
    return value


def _checked(spec: Spec, value: object, *, is_result: bool = False) -> Value:
    """The value as the kind of question wants it. A result may lie outside the range that was asked for."""
    what = "the result" if is_result else "the guess"
    if spec["kind"] == "choice":
        if not isinstance(value, str) or clean(value) not in spec["choices"]:
            raise BadInput(f"{what.capitalize()} must be one of the choices: {'; '.join(spec['choices'])}.")
        return clean(value)
    low, high = (None, None) if is_result else (spec["low"], spec["high"])
    if spec["kind"] == "number":
        return _within(_finite(value, what), low, high)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple) or len(value) != len(spec["x"]):
        raise BadInput(f"{what.capitalize()} must hold {len(spec['x'])} numbers, one for each x.")
    values = [_within(_finite(y, what), low, high) for y in value]
    if spec["log"] and min(values) <= 0:
        raise BadInput("A logarithmic axis has no zero: every value must be above 0.")
    return values


def _within(value: float, low: float | None, high: float | None) -> float:
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = (
            f"from {low:g} to {high:g}"
            if low is not None and high is not None
            else (f"of at least {low:g}" if low is not None else f"of at most {high:g}")
        )
        raise BadInput(f"A guess {bounds} is asked for, not {value:g}.")
    return value
