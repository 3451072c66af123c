"""The steering view: sliders that push a model along directions, and its text with and without them, side by side."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from numbers import Real
from typing import TYPE_CHECKING, Literal

import traitlets

from labkit.checks import as_number, as_whole
from labkit.errors import BadInput
from labkit.markup import counted, one_line
from labkit.sae.steering import Steered
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.drawing.page import Page, Token
from labkit.views.drawing.scene import ACCENT
from labkit.views.kit.cells import GRACE_SECONDS, place, same_cell
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job, Run
from labkit.views.kit.prompted import Prompted
from labkit.views.kit.running_text import parted
from labkit.views.kit.traits import Content, Proposal

__all__ = ["Steered", "SteeringView", "steering"]

if TYPE_CHECKING:
    import pandas as pd

    from labkit.views.drawing.scene import Picture

MOST_FEATURES = 6
STEPS = 40  # of a slider, each side of 0
DRAWN_TOKENS = 1_000
_DELAY_SECONDS = 0.15  # a slider under way names many values; the one it rests at is meant
_PROMPTS_KEPT = 16  # whose unsteered text is not written again
_SCALES = (4, 6, 8, 12, 16, 24)  # nats: where the bars may end

Key = int | str


Writer = Callable[[str, dict[Key, float], threading.Event], Iterable[Steered]]


def steering(
    run: Writer, features: Sequence[tuple[Key, str, float]], *, prompt: str, limit: float = 2.0, unit: str = ""
) -> SteeringView:
    """Push the model along up to six directions with sliders, and see its text beside the one it writes unsteered.

    run: called in a worker thread with the prompt, a strength for every key, and a threading.Event; returns an iterator,
        as a rule a generator, of Steered or of what has its fields, as `lk.sae.steered(lab, sae)` does. It looks at the
        event now and then: once it is set, it returns what it has. With all strengths 0 it writes the unsteered text,
        which is asked for once a prompt and kept, so that two runs of one prompt should draw alike (greedily, or with
        one seed).
    features: for each direction its key, the label to show, and its highest activation in text, which is what a
        strength should be compared with.
    prompt: what is gone on from; it can be typed over.
    limit: how far a slider goes either way, in a feature's highest activations.
    unit: of the strengths, written after them.

    The thread knows nothing of a `with lab.edit(...)` around this call: `run` opens its edits itself. Running a cell again
    stops the texts of the view that the cell made before.
    Raises BadInput when run can't be called, the prompt is empty, or features are none, over six, named twice, or have an
    activation that is not above 0.
    """
    return SteeringView(run, features, prompt=prompt, limit=limit, unit=unit)


@dataclass(frozen=True)
class _Direction:
    key: Key
    label: str
    typical: float
    high: float  # the slider's end; its other end is -high


@dataclass(frozen=True)
class _Request:
    prompt: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class _Text:
    """A text as far as it has come, and what it was written with."""

    request: _Request
    event: Steered
    state: Literal["writing", "done", "stopped"]


@dataclass
class _Side:
    name: str
    now: _Text | None = None
    complete: bool = True
    kept: _Text | None = None  # what comes back when the next fails; never one that was cut short by a newer request


class SteeringView(View, Prompted):
    """A text steered by `strengths` beside the unsteered one. Set `strengths` or `prompt` to do what the page does.

    `wait()` for the texts, `stop()` them, `again()` what was stopped or failed, `close()` for good.
    """

    _title = "Steering: the text with and without a push"
    _esm = module("steering_view/steering.js")
    _css = style("steering_view/steering.css")
    _written_again = True

    values: traitlets.List[float] = traitlets.List().tag(sync=True)
    """The strength of each feature, in their order."""
    features: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    """For each feature: key (as text), label, typical, step and high of its slider."""
    unit = traitlets.Unicode("").tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    """All that is drawn of the two texts; see `_shown`."""
    status = traitlets.Dict().tag(sync=True)
    """state: "waiting", "running", "done", "stopped" or "failed"; message: a sentence."""

    def __init__(
        self,
        run: Writer,
        features: Sequence[tuple[Key, str, float]],
        *,
        prompt: str,
        limit: float = 2.0,
        unit: str = "",
    ) -> None:
        self._unsteered, self._steered = _Side("unsteered"), _Side("steered")
        # Two jobs: a slider that moves stops the steered text, and leaves the unsteered one of its prompt to its end.
        self._plain = self._job(self._unsteered, then=lambda _request: self._ask_steered())
        self._pushed = self._job(self._steered)
        if not callable(run):
            kind = type(run).__name__
            raise BadInput(
                f"run writes the texts, and a {kind} can't be called; give a function of prompt, strengths, stop."
            )
        self._run = run
        self._directions = _directions(features, limit)
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadInput(f"prompt={prompt!r} is nothing to go on from; give a text.")
        self._done_plain: OrderedDict[str, Steered] = OrderedDict()
        super().__init__(
            prompt=clean(prompt),
            values=[0.0] * len(self._directions),
            features=[
                {**asdict(each), "key": shorten(visible(str(each.key)), 40), "steps": STEPS}
                for each in self._directions
            ],
            unit=shorten(visible(str(unit)), 40),
        )
        self.observe(lambda _change: self._ask(), names=["prompt", "values"])
        self._place = place()
        self._older = same_cell(self, _VIEWS)
        _VIEWS.add(self)
        for older in self._older:
            older.stop()
        self._ask()

    # what a user calls ------------------------------------------------------------------------------------------------

    @property
    def strengths(self) -> dict[Key, float]:
        """The strength of every feature by its key. What is left out when it is set becomes 0."""
        return self._by_key(self.values)

    @strengths.setter
    def strengths(self, given: Mapping[Key, float]) -> None:
        known = [each.key for each in self._directions]
        for key in given:
            if key not in known:
                raise BadInput(f"There is no feature {key!r} here; give of {', '.join(map(repr, known))}.")
        self.values = [given.get(key, 0.0) for key in known]

    @property
    def unsteered(self) -> Steered | None:
        """The unsteered text of this prompt, as far as it has come; None before its first event."""
        return self._present(self._unsteered)

    @property
    def steered(self) -> Steered | None:
        """The text at these strengths, as far as it has come; None before its first event and where all are 0."""
        return self._present(self._steered)

    def stop(self) -> None:
        """Stop the text in progress; what it has so far is kept."""
        for job in (self._plain, self._pushed):
            job.stop()

    def again(self) -> None:
        """Write what was stopped, or failed, once more."""
        self._ask()

    # what is asked for ------------------------------------------------------------------------------------------------

    @traitlets.validate("values")
    def _valid_values(self, proposal: Proposal) -> list[float]:
        given = list(proposal["value"])
        if len(given) != len(self._directions):
            raise Refused(
                f"{len(given)} strengths can't be used; give one for each of {len(self._directions)} features."
            )
        return [_strength(value, each) for value, each in zip(given, self._directions, strict=True)]

    def _ask(self) -> None:
        with self._lock, self.hold_sync():
            if not any(self.values):
                self._steered.now = self._steered.kept = None
            self._pushed.drop()
            request = _Request(self.prompt, (0.0,) * len(self._directions))
            if not self.prompt.strip():
                self._plain.clear()
                self._plain.say("failed", "The prompt is empty; write something that the model can go on from.")
            elif self.prompt in self._done_plain:
                self._done_plain.move_to_end(self.prompt)
                known = self._done_plain[self.prompt]
                self._unsteered.now = self._unsteered.kept = _Text(request, known, "done")
                if any(self.values):
                    self._plain.drop()
                    self._ask_steered()
                else:
                    self._plain.answer(request, known)
            elif self._plain.asked != request:
                self._plain.ask(request)
            self._publish()

    def _ask_steered(self) -> None:
        """Once the unsteered text is there."""
        if any(self.values):
            self._pushed.ask(_Request(self.prompt, tuple(self.values)))

    # the texts, in the jobs' threads ----------------------------------------------------------------------------------

    def _job(self, side: _Side, then: Callable[[_Request], None] | None = None) -> Job[_Request, Steered]:
        return Job(
            self,
            lambda request, run: self._write(request, run, side),
            lambda request, event: self._written(request, event, side),
            status="status",
            failed="The text can't be written:",
            give_up=lambda _request: self._give_up(side),
            then=then,
            keep_stopped=True,
            delay_seconds=_DELAY_SECONDS,
        )

    def _write(self, request: _Request, run: Run, side: _Side) -> Steered:
        """Take the events one by one and show them; the last of them."""
        while self._older:  # two at once would only get in each other's way
            self._older.pop().wait(GRACE_SECONDS)
        far = f"writing the {side.name} text …"
        run.say(far)
        given = self._run(request.prompt, self._by_key(request.values), run.stop)
        if not isinstance(given, Iterable):
            kind = type(given).__name__
            raise BadInput(f"run returned a {kind} where an iterator of Steered is needed; write it as a generator.")
        events = iter(given)
        event: Steered | None = None
        try:
            for each in events:
                event = _checked(each)
                if event.done or run.stop.is_set():
                    break
                with self._lock:
                    if run.wanted:
                        side.now = _Text(request, event, "writing")
                run.say(f"{far} {counted(len(event.tokens), 'token')}", draw=self._publish)
        finally:
            # before anything is said of the end: what the generator changed in the model is put back by then
            if callable(close := getattr(events, "close", None)):
                close()
            with self._lock:
                if not run.wanted and side.now is not None and side.now.state == "writing":
                    side.now = replace(side.now, state="stopped")
        if event is None and not run.stop.is_set():
            raise BadInput("run ended without an event; let it yield a Steered at least once.")
        event = event or Steered()
        run.complete = event.done or not run.stop.is_set()
        side.complete = run.complete
        return event

    def _written(self, request: _Request, event: Steered, side: _Side) -> str:
        complete = side.complete
        if complete and side is self._unsteered:
            self._done_plain[request.prompt] = event
            while len(self._done_plain) > _PROMPTS_KEPT:
                self._done_plain.popitem(last=False)
        if event.tokens or complete:  # stopped before its first token, it leaves the old text
            side.now = side.kept = _Text(request, event, "done" if complete else "stopped")
        self._publish()
        text = side.now
        if text is None or self._old(text):
            return "done" if complete else "stopped"
        count = counted(len(text.event.tokens), "token")
        return f"{side.name} text: {count}" if complete else f"stopped after {count}"

    def _give_up(self, side: _Side) -> None:
        if side.now is not None and side.now.state == "writing":
            side.now = side.kept
        self._publish()

    # what is shown ----------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        if self.comm is not None:
            self.shown = self._shown()

    def _present(self, side: _Side) -> Steered | None:
        with self._lock:
            return None if side.now is None or self._old(side.now) else side.now.event

    def _old(self, text: _Text) -> bool:
        """Whether the text belongs to another prompt, or to other strengths, than are set now."""
        prompt, values = text.request.prompt, text.request.values
        return prompt != self.prompt or (any(values) and values != tuple(self.values))

    def _shown(self) -> Content:
        """Both texts in words and shares, all of it fit for JSON.

        prompt: the one they go on from.  parted: the first token in which they differ, or None.  scale: nats at the
            bars' ends.
        unsteered, steered: None, or tokens, more (how many are left out), count, state, old (whether they belong to
            other settings), of (label, strength and typical of each that is not 0), note, loss (in words), share (of the
            bar), gap (to the unsteered loss, in words).
        """
        plain, pushed = self._unsteered.now, self._steered.now
        both = [text for text in (plain, pushed) if text is not None]
        losses = [_loss(text) for text in both]
        finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
        scale = _scale(max(finite, default=0.0))
        base = _loss(plain)
        latest = (pushed if pushed is not None and not self._old(pushed) else None) or plain or pushed
        return {
            "prompt": self.prompt if latest is None else latest.request.prompt,
            "unsteered": self._side_of(plain, scale, None),
            "steered": self._side_of(
                pushed, scale, base if pushed and plain and pushed.request.prompt == plain.request.prompt else None
            ),
            "parted": _parted(plain, pushed),
            "scale": scale,
        }

    def _side_of(self, text: _Text | None, scale: float, base: float | None) -> Content | None:
        if text is None:
            return None
        loss = _loss(text)
        share = None if loss is None or math.isnan(loss) else min(1.0, max(0.0, loss / scale))
        gap = math.nan if loss is None or base is None else loss - base
        return {
            "tokens": [clean(token) for token in text.event.tokens[:DRAWN_TOKENS]],
            "more": max(0, len(text.event.tokens) - DRAWN_TOKENS),
            "count": len(text.event.tokens),
            "state": text.state,
            "old": self._old(text),
            "of": [
                [each.label, value, each.typical]
                for each, value in zip(self._directions, text.request.values, strict=True)
                if value
            ],
            "note": _note(text.event),
            "loss": _loss_words(loss),
            "share": share,
            "gap": f"{abs(gap):.3f} {'more' if gap >= 0 else 'less'} than unsteered" if math.isfinite(gap) else "",
        }

    def _by_key(self, values: Iterable[float]) -> dict[Key, float]:
        return {each.key: value for each, value in zip(self._directions, values, strict=True)}

    def _export_state(self) -> dict[str, object]:
        with self._lock:  # of one moment, while the worker writes on
            return {**super()._export_state(), "shown": self._shown()}

    def _describe(self) -> str:
        pushed = {key: value for key, value in self.strengths.items() if value}
        said = ", ".join(f"{shorten(visible(str(key)), 40)}={value:g}" for key, value in pushed.items())
        return f"{shorten(visible(self.prompt), 60)!r}, {said or 'unsteered'}"

    def _now(self) -> tuple[Content, list[tuple[str, str, list[str]]]]:
        """What is shown, and for each text its heading, its loss in words, and its tokens."""
        with self._lock:
            shown = self._shown()
        said = []
        for name, side in ((name, shown[name]) for name in ("unsteered", "steered") if shown[name]):
            of = ", ".join(f"{label} {strength_words(value)}" for label, value, _ in side["of"])
            loss = f"mean loss {side['loss']} nats per token" if side["loss"] else ""
            far = {"writing": "not finished", "stopped": "stopped", "done": ""}[side["state"]]
            words = "; ".join(filter(None, (loss, far, side["note"])))
            said.append((f"{name}{': ' + of if of else ''}", words, side["tokens"]))
        return shown, said

    def _table(self) -> pd.DataFrame:
        """A row for each token of both texts: the text it belongs to, its place in it, the text's mean loss in nats per
        token, and the strength of each direction."""
        import pandas as pd

        with self._lock:
            texts = [(side.name, side.now) for side in (self._unsteered, self._steered)]
        rows = [
            {"text": name, "position": i, "token": token, "mean_loss": text.event.mean_loss}
            | {each.label: value for each, value in zip(self._directions, text.request.values, strict=True)}
            for name, text in texts
            if text is not None
            for i, token in enumerate(text.event.tokens)
        ]
        head = ["text", "position", "token", "mean_loss", *(each.label for each in self._directions)]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(head)))

    def _image(self) -> Picture:
        shown, said = self._now()
        at = math.inf if shown["parted"] is None else shown["parted"]
        page = Page(description=self._title).heading(self._title).note(f"After {shorten(shown['prompt'], 400)!r}")
        for name, words, tokens in said:
            page.paragraph(name, bold=True, gap=2.0)
            page.tokens(
                Token(token, line=1.4 if i >= at else 0.0, line_colour=ACCENT) for i, token in enumerate(tokens)
            )
            if words:
                page.note(words)
        if not said:
            page.paragraph("nothing written yet")
        elif at < math.inf:
            page.note("Underlined: from where on the two differ.")
        return page.picture()

    def _static_text(self) -> str:
        shown, said = self._now()
        lines = [f"After {shorten(shown['prompt'], 200)!r}:"]
        for name, words, tokens in said:
            lines += [f"{name}{' (' + words + ')' if words else ''}", f"  {shorten(''.join(tokens), 600)!r}"]
        return "\n".join(lines if said else [*lines, "nothing written yet"])


_VIEWS: weakref.WeakSet[SteeringView] = weakref.WeakSet()


def strength_words(value: float) -> str:
    """A strength with its sign, as exact as it is: "+12.5", "−3", "0"."""
    return f"{value:+.10g}".replace("-", "−") if value else "0"


def _directions(features: Iterable[object], limit: float) -> list[_Direction]:
    reach = as_number(limit)
    if reach is None or reach <= 0:
        raise BadInput(f"limit={limit!r} gives a slider no room; give how many highest activations it goes, such as 2.")
    try:
        given = list(islice(features, MOST_FEATURES + 1))  # it may never end
    except TypeError:
        raise BadInput(
            f"features={features!r} can't be used; give (key, label, highest activation) for each."
        ) from None
    if not given:
        raise BadInput("There is no feature to steer with; give (key, label, highest activation) for at least one.")
    if len(given) > MOST_FEATURES:
        raise BadInput(f"There is room for {MOST_FEATURES} features; give that many at most.")
    found = [_direction(each, reach) for each in given]
    keys = [each.key for each in found]
    if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
        raise BadInput(f"Feature {twice[0]!r} comes twice; give each once.")
    return found


def _direction(given: object, reach: float) -> _Direction:
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 3:
        raise BadInput(f"{given!r} names no feature; give (key, label, highest activation).")
    named = given[0]
    key: Key | None = named if isinstance(named, str) and named else as_whole(named)
    if key is None:
        raise BadInput(f"{named!r} is no key of a feature; give a number or a name.")
    typical = as_number(given[2])
    if typical is None or typical <= 0:
        raise BadInput(
            f"The highest activation of feature {key!r} is {given[2]!r}, and a slider needs one above 0; leave out a "
            "feature that is never active."
        )
    high = float(f"{reach * typical:.4g}")
    if not math.isfinite(high) or high == 0:
        raise BadInput(f"A slider to {reach!r} times {typical!r} can't be drawn; give another limit.")
    return _Direction(key, shorten(clean(str(given[1]).strip() or str(key)), 120), typical, high)


def _strength(value: object, of: _Direction) -> float:
    strength = as_number(value)
    if strength is None or abs(strength) > of.high:
        raise Refused(
            f"A strength of {value!r} is out of range for feature {of.key!r}; give one from {-of.high:g} to {of.high:g}, "
            "or a larger limit."
        )
    return strength + 0.0  # -0.0 is 0


def _checked(event: Steered) -> Steered:
    """The event as a Steered, from anything that has its fields."""
    if not all(hasattr(event, name) for name in ("tokens", "mean_loss", "done")):
        raise BadInput(f"run yielded a {type(event).__name__} where a labkit.sae.Steered is needed.")
    tokens = event.tokens
    if isinstance(tokens, str) or not isinstance(tokens, Sequence) or not all(isinstance(each, str) for each in tokens):
        raise BadInput("tokens of a Steered are texts; give a tuple of them.")
    if event.mean_loss is not None and (isinstance(event.mean_loss, bool) or not isinstance(event.mean_loss, Real)):
        raise BadInput(f"mean_loss={event.mean_loss!r} of a Steered is no number; give nats per token, or None.")
    return Steered(
        tuple(tokens),
        None if event.mean_loss is None else float(event.mean_loss),
        bool(event.done),
        str(getattr(event, "note", "") or ""),
    )


def _loss(text: _Text | None) -> float | None:
    return None if text is None else text.event.mean_loss


def _loss_words(loss: float | None) -> str:
    if loss is None:
        return ""
    if math.isnan(loss):
        return "not a number"
    return f"{loss:.3f}".replace("-", "−") if math.isfinite(loss) else "infinite"


def _note(event: Steered) -> str:
    said = one_line(event.note, 300)
    return said[:1].upper() + said[1:]


def _scale(most: float) -> float:
    """Where the bars end, in nats: few places, so that a text under way seldom moves them."""
    for end in _SCALES:
        if most <= end:
            return float(end)
    return float(f"{most * 1.1:.1g}") if float(f"{most * 1.1:.1g}") >= most else most


def _parted(plain: _Text | None, pushed: _Text | None) -> int | None:
    if plain is None or pushed is None or plain.request.prompt != pushed.request.prompt:
        return None
    return parted(plain.event.tokens, pushed.event.tokens, (plain.state == "done", pushed.state == "done"))
