"""The adapter view: a slider for each adapter, and the model's text with and without them, side by side."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import traitlets

from labkit import checks
from labkit.errors import BadInput
from labkit.lora.blending import Blended, Switched, Writer, blended
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.drawing.page import Page, Token
from labkit.views.drawing.scene import ACCENT, mixed
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job
from labkit.views.kit.job import Run as Writing
from labkit.views.kit.kept import Kept
from labkit.views.kit.prompted import Prompted
from labkit.views.kit.running_text import different, split
from labkit.views.kit.traits import Proposal

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.generating_lab import GeneratingLab
    from labkit.views.drawing.scene import Picture

MOST_ADAPTERS = 6
TOKENS = 60
STEPS_PER_ONE = 20  # of a slider
TOP = 2.0  # nats, where the shade is deepest, unless a token is further off
_PALE = "#ffffff"
_DELAY_SECONDS = 0.15  # a slider under way names many values; the one it rests at is meant
_PROMPTS_KEPT = 16  # whose text without adapters is not written again
_DRAWN_TOKENS = 1_000

State = Literal["writing", "done", "stopped"]


def adapter(
    lab: GeneratingLab,
    adapters: Switched | Sequence[Switched] | Mapping[str, Switched],
    prompt: str,
    *,
    scales: float | Sequence[float] = 1.0,
    limits: tuple[float, float] = (-1.0, 2.0),
    tokens: int = TOKENS,
    chat: bool | None = None,
) -> AdapterView:
    """Turn adapters on, off, up and beyond with sliders, and see the text with them beside the base's own.

    lab: the base, which is never changed but while a text is being written.
    adapters: one, a list of up to six, or a dict of them by the names to show. What they change is added up.
    prompt: what both texts answer, greedily; it can be typed over.
    scales: where the sliders begin, one number for all or one for each: 0 is off, 1 as trained, less than 0 takes away what was
        learnt and more than 1 overdoes it.
    limits: how far the sliders go; 0 and 1 lie between them.
    tokens: of each text at most.  chat: as of `lab.generate`.

    Marked are the tokens that the other text does not have; the shade is KL(base || with adapters) at each token, in nats.
    Raises BadInput for what is no adapter of this lab, a name that comes twice, an empty prompt, or limits without room.
    """
    named = _named(adapters)
    low, high = _limits(limits)
    first = [scales] * len(named) if isinstance(scales, int | float) else list(scales)
    if len(first) != len(named):
        raise BadInput(f"{len(first)} scales can't be used; give one number, or one for each of {len(named)} adapters.")
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput(f"prompt={prompt!r} is nothing to answer; give a text.")
    values = [checks.number("scales", value, low, high) for value in first]
    run = blended(lab, list(named.values()), tokens=tokens, chat=chat)
    return AdapterView(run, list(named), prompt, values=values, limits=(low, high))


@dataclass(frozen=True)
class _Request:
    prompt: str
    values: tuple[float, ...]

    @property
    def is_base(self) -> bool:
        return not any(self.values)


@dataclass(frozen=True)
class _Texts:
    """Both texts as far as they have come."""

    request: _Request
    base: Blended | None = None
    tuned: Blended | None = None
    state: State = "writing"


class AdapterView(View, Prompted):
    """A text with adapters at `scales` beside the base's. Set `scales` or `prompt` to do what the page does.

    `wait()` for the texts, `stop()` them, `again()` what was stopped or failed, `close()` for good.
    """

    _title = "Adapters: the text with and without them"
    _esm = module("adapter_view/adapter.js")
    _css = style("adapter_view/adapter.css")
    _written_again = True

    values: traitlets.List[float] = traitlets.List().tag(sync=True)
    """The scale of each adapter, in their order."""
    adapters: traitlets.List[str] = traitlets.List().tag(sync=True)
    """Their names."""
    limits = traitlets.Dict().tag(sync=True)
    """low and high of the sliders, and steps in a distance of 1."""
    shown = traitlets.Dict().tag(sync=True)
    """All that is drawn of the two texts; see `_shown`."""
    kl = traitlets.Bytes(b"").tag(sync=True)
    """(tokens of the text with adapters,) float32, nats; empty where it is not known."""
    status = traitlets.Dict().tag(sync=True)

    def __init__(
        self, run: Writer, names: Sequence[str], prompt: str, *, values: Sequence[float], limits: tuple[float, float]
    ) -> None:
        self._run, self._names = run, list(names)
        self._low, self._high = limits
        self._now: _Texts | None = None
        self._bases: Kept[Blended] = Kept(_PROMPTS_KEPT)
        self._job: Job[_Request, _Texts] = Job(
            self,
            self._write,
            self._written,
            status="status",
            failed="The text can't be written:",
            give_up=lambda _request: self._give_up(),
            keep_stopped=True,
            delay_seconds=_DELAY_SECONDS,
        )
        super().__init__(
            prompt=clean(prompt),
            values=list(values),
            adapters=[shorten(clean(name), 120) for name in names],
            limits={"low": self._low, "high": self._high, "steps": STEPS_PER_ONE},
        )
        self.observe(lambda _change: self._ask(), names=["prompt", "values"])
        self._ask()

    # what a user calls ------------------------------------------------------------------------------------------------

    @property
    def scales(self) -> dict[str, float]:
        """The scale of every adapter by its name. What is left out when it is set becomes 0."""
        return dict(zip(self._names, self.values, strict=True))

    @scales.setter
    def scales(self, given: Mapping[str, float]) -> None:
        for name in given:
            checks.one_of("scales", name, self._names, problem="names no adapter here")
        self.values = [given.get(name, 0.0) for name in self._names]

    @property
    def base(self) -> Blended | None:
        """The base's text, as far as it has come; None before its first token."""
        with self._lock:
            return None if self._now is None else self._now.base

    @property
    def tuned(self) -> Blended | None:
        """The text at these scales, as far as it has come; None before its first token, and where all are 0."""
        with self._lock:
            return None if self._now is None or self._old() else self._now.tuned

    def stop(self) -> None:
        """Stop the text in progress; what it has so far is kept."""
        self._job.stop()

    def again(self) -> None:
        """Write once more what was stopped, or failed."""
        self._ask()

    # what is asked for ------------------------------------------------------------------------------------------------

    @traitlets.validate("values")
    def _valid_values(self, proposal: Proposal) -> list[float]:
        given = list(proposal["value"])
        if len(given) != len(self._names):
            raise Refused(f"{len(given)} scales can't be used; give one for each of {len(self._names)} adapters.")
        return [self._scale(value, name) for value, name in zip(given, self._names, strict=True)]

    def _scale(self, value: object, name: str) -> float:
        scale = checks.as_number(value)
        if scale is None or not self._low <= scale <= self._high:
            raise Refused(
                f"A scale of {value!r} is out of range for {name!r}; give one from {self._low:g} to {self._high:g}, or wider "
                "limits."
            )
        return scale + 0.0  # -0.0 is 0

    def _ask(self) -> None:
        if not self.prompt.strip():
            self._job.clear()
            self._job.say("failed", "The prompt is empty; write something that the model can answer.")
            return
        self._job.ask(_Request(self.prompt, tuple(self.values)))
        with self._lock, self.hold_sync():
            self._publish()

    # the texts, in the job's thread -----------------------------------------------------------------------------------

    def _write(self, request: _Request, run: Writing) -> _Texts:
        with self._lock:
            before = self._now if self._now is not None and self._now.request.prompt == request.prompt else None
        base = self._base(request, run)
        if base is None or not base.done or run.stop.is_set():
            return _Texts(request, base, None if before is None else before.tuned, "stopped")
        if request.is_base:
            run.complete = True
            return _Texts(request, base, None, "done")
        texts = _Texts(request, base, None)
        for event in self._run(request.prompt, request.values, run.stop):
            texts = replace(texts, tuned=event)
            words = "measuring …" if event.kl is None and _all_there(event, texts) else "writing with the adapters …"
            run.say(words, draw=lambda now=texts: self._draw(now))  # type: ignore[misc]  # bound as it is now
            if run.stop.is_set() and not event.done:
                break
        run.complete = texts.tuned is not None and texts.tuned.done
        return replace(texts, state="done" if run.complete else "stopped")

    def _base(self, request: _Request, run: Writing) -> Blended | None:
        """The base's text, which goes on while a slider moves: it is the same at all scales."""

        def write() -> Blended:
            found = Blended()
            keep_on = threading.Event()
            for event in self._run(request.prompt, (0.0,) * len(self._names), keep_on):
                found = event
                now = _Texts(request, found)
                run.say("writing the base's text …", draw=lambda now=now: self._draw(now))  # type: ignore[misc]
                asked = self._job.asked
                if asked is None or asked.prompt != request.prompt or self.comm is None:
                    keep_on.set()
            return found

        found = self._bases.get(request.prompt, write)
        if not found.done:
            self._bases.drop(request.prompt)
        return found

    def _written(self, _request: _Request, found: _Texts) -> str:
        self._draw(found)
        count = 0 if found.tuned is None else len(found.tuned.tokens)
        if found.state == "stopped":
            return f"stopped after {count:,} tokens" if count else "stopped"
        return ""

    def _give_up(self) -> None:
        """What was being written does not hold; the base's text does, where it is whole."""
        if self._now is not None:
            base = self._now.base if self._now.base is not None and self._now.base.done else None
            self._draw(replace(self._now, base=base, tuned=None, state="stopped"))

    # what is shown ----------------------------------------------------------------------------------------------------

    def _draw(self, now: _Texts) -> None:
        self._now = now
        self._publish()

    def _old(self) -> bool:
        """Whether what is shown belongs to another prompt, or to other scales, than are set now."""
        now = self._now
        return now is not None and (now.request.prompt != self.prompt or now.request.values != tuple(self.values))

    def _publish(self) -> None:
        if self.comm is not None:
            self.shown = self._shown()
            kl = None if self._now is None or self._now.tuned is None else self._now.tuned.kl
            self.kl = b"" if kl is None else np.array(kl[:_DRAWN_TOKENS], "<f4").tobytes()

    def _shown(self) -> dict[str, object]:
        """prompt, state; base and tuned: None or pieces, differ (tokens that the other does not have), count, done; of: the
        scale of each adapter with which tuned was written; old: whether these are others than are set; top: nats where the
        shade is deepest; mean: of the KL, None while it is not known."""
        now = self._now
        if now is None:
            return {"prompt": self.prompt, "state": "writing", "base": None, "tuned": None, "of": [], "old": False}
        differ = _differing(now.base, now.tuned)
        kl = None if now.tuned is None else now.tuned.kl
        return {
            "prompt": now.request.prompt,
            "state": now.state,
            "of": list(now.request.values),
            "old": self._old(),
            "base": _side(now.base, differ[0]),
            "tuned": _side(now.tuned, differ[1]),
            "top": _top(kl),
            "mean": None if not kl or not math.isfinite(_mean(kl)) else _mean(kl),
        }

    # what is written --------------------------------------------------------------------------------------------------

    def _export_state(self) -> dict[str, object]:
        with self._lock:  # of one moment, while the worker writes on
            return {**super()._export_state(), "shown": self._shown()}

    def _describe(self) -> str:
        said = ", ".join(f"{shorten(visible(name), 40)}={value:g}" for name, value in self.scales.items())
        return f"{shorten(visible(self.prompt), 60)!r}, {said}"

    def _said(self) -> list[tuple[str, Blended, list[int]]]:
        """(heading, text, tokens that the other does not have) of each text that there is."""
        with self._lock:
            now = self._now
        if now is None:
            return []
        differ = _differing(now.base, now.tuned)
        of = ", ".join(f"{name} {value:g}" for name, value in zip(self._names, now.request.values, strict=True))
        said = [("adapters off", now.base, differ[0]), (of, now.tuned, differ[1])]
        return [(name, text, alone) for name, text, alone in said if text is not None]

    def _table(self) -> pd.DataFrame:
        """A row for each token of both texts: text ("base" or "adapters"), position, token, whether the other text lacks it,
        KL in nats, and the scale of each adapter."""
        import pandas as pd

        with self._lock:
            now = self._now
        sides = (
            []
            if now is None
            else [("base", now.base, (0.0,) * len(self._names)), ("adapters", now.tuned, now.request.values)]
        )
        differ = ([], []) if now is None else _differing(now.base, now.tuned)
        rows = [
            {
                "text": name,
                "position": i,
                "token": token,
                "differs": i in set(alone),
                "kl": math.nan if side.kl is None else side.kl[i],
                **{f"scale of {own}": value for own, value in zip(self._names, values, strict=True)},
            }
            for (name, side, values), alone in zip(sides, differ, strict=True)
            if side is not None
            for i, token in enumerate(side.tokens)
        ]
        head = ["text", "position", "token", "differs", "kl", *(f"scale of {own}" for own in self._names)]
        return pd.DataFrame(rows, columns=head)

    def _image(self) -> Picture:
        said, shown = self._said(), self._shown()
        page = Page(description=self._title).heading(self._title).note(f"To {shorten(str(shown['prompt']), 400)!r}")
        for name, text, alone in said:
            page.paragraph(shorten(visible(name), 200), bold=True, gap=2.0)
            other, top = set(alone), _top(text.kl)
            kl = text.kl or (0.0,) * len(text.tokens)
            page.tokens(
                Token(
                    token,
                    fill=None if kl[i] < 0.01 * top else mixed(_PALE, ACCENT, 0.5 * min(1.0, kl[i] / top)),
                    line=1.6 if i in other else 0.0,
                    line_colour=_UNSURE,
                )
                for i, token in enumerate(text.tokens)
            )
            if text.kl and any(text.kl):
                page.note(f"KL to the base {_mean(text.kl):.3f} nats a token on average; shade: up to {top:.3g} nats")
        if not said:
            page.paragraph("nothing written yet")
        elif len(said) > 1:
            page.note("Underlined: tokens that the other text does not have.")
        return page.picture()

    def _static_text(self) -> str:
        lines = [f"To {shorten(self.prompt, 200)!r}:"]
        for name, text, _ in self._said():
            mean = f" (KL to the base {_mean(text.kl):.3f} nats a token)" if text.kl and any(text.kl) else ""
            lines += [f"{name}{mean}", f"  {shorten(''.join(text.tokens), 600)!r}"]
        return "\n".join(lines if len(lines) > 1 else [*lines, "nothing written yet"])


_UNSURE = "#d55e00"


def _named(adapters: object) -> dict[str, Switched]:
    """Adapters by the names to show. Raises BadInput for none, too many, and a name that comes twice."""
    if isinstance(adapters, Mapping):
        found = [(str(name), each) for name, each in adapters.items()]
    elif isinstance(adapters, Iterable) and not hasattr(adapters, "on"):
        found = [(str(getattr(each, "name", "")), each) for each in adapters]
    else:
        found = [(str(getattr(adapters, "name", "")), adapters)]
    if not found or len(found) > MOST_ADAPTERS:
        raise BadInput(f"There is room for 1 to {MOST_ADAPTERS} adapters, and these are {len(found)}; give as many.")
    names = [name for name, _ in found]
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise BadInput(f"Two adapters are called {twice!r}; give a dict of them by the names to show.")
    return dict(found)


def _limits(limits: object) -> tuple[float, float]:
    low, high = (
        checks.number("limits", end) for end in checks.series("limits", limits, "two numbers, such as (-1, 2)")
    )
    if not (low <= 0 and high >= 1):
        raise BadInput(f"limits=({low:g}, {high:g}) leave out 0 or 1, off and as trained; give such as (-1, 2).")
    return low, high


def _all_there(event: Blended, before: _Texts) -> bool:
    return before.tuned is not None and event.tokens == before.tuned.tokens


def _differing(base: Blended | None, tuned: Blended | None) -> tuple[list[int], list[int]]:
    """In each text the tokens that the other does not have; of a text under way, beside as much of the other."""
    if base is None or tuned is None:
        return [], []
    room = len(base.tokens) if tuned.done else len(tuned.tokens)
    return different(base.tokens[:room], tuned.tokens)


def _mean(kl: Sequence[float]) -> float:
    return sum(kl) / len(kl) if kl else 0.0


def _top(kl: Sequence[float] | None) -> float:
    """Where the shade is deepest, in nats: the same for most texts, so that they can be compared."""
    most = max((value for value in kl or () if math.isfinite(value)), default=0.0)
    return TOP if most <= 2 * TOP else float(f"{most:.1g}")


def _side(text: Blended | None, differ: list[int]) -> dict[str, object] | None:
    if text is None:
        return None
    return {
        "pieces": split(text.tokens[:_DRAWN_TOKENS]).sent(),
        "differ": [i for i in differ if i < _DRAWN_TOKENS],
        "count": len(text.tokens),
        "done": text.done,
    }
