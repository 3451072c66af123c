"""The temperature view: a slider, the next-token distribution it shapes, and a text sampled with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import traitlets

from labkit.checks import number, whole
from labkit.errors import BadInput
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.drawing.page import Page
from labkit.views.kit.job import Job, Run
from labkit.views.kit.traits import Change, Proposal, sent
from labkit.views.kit.wire import answers
from labkit.views.sampling_view.distribution import (
    HIGHEST,
    LOWEST,
    STEP,
    as_logits,
    entropy,
    most_probable,
    probabilities,
    row,
    table,
)
from labkit.views.tokens_view import TokenTraits, static_text
from labkit.views.tokens_view.exported import draw
from labkit.views.tokens_view.payload import payload

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from labkit.generation.record import Generation
    from labkit.views.drawing.scene import Picture

SHOWN = 12  # tokens with a bar of their own
_DELAY_SECONDS = 0.15  # a slider under way names many values; the one it rests at is meant


class Sampler(Protocol):
    """What the view is handed: three callables under one name, as a Lab has them."""

    def generate(self, prompt: str, **settings: object) -> Generation:
        """Called in a worker thread with max_new_tokens, temperature, seed, chat, on_token (takes the Generation so
        far) and stop_event (a threading.Event that asks it to return what it has)."""
        ...

    def next_logits(self, prompt: str, *, chat: bool | None) -> torch.Tensor:
        """(vocab,) logits of the token after the prompt."""
        ...

    def token_text(self, id_: int, /) -> str:
        """The text of a token id."""
        ...


def temperature(
    sampler: Sampler, prompt: str, *, chat: bool | None = None, max_new_tokens: int = 24, value: float = 0.7
) -> TemperatureView:
    """Move the temperature and see the next-token distribution, exact, and a text sampled with it.

    sampler: a Lab, or anything with its generate, next_logits and token_text. chat: as in Lab.generate.
    Raises BadInput when the logits make no distribution, or a setting is out of range.
    """
    for name in ("generate", "next_logits", "token_text"):
        if not callable(getattr(sampler, name, None)):
            kind = type(sampler).__name__
            raise BadInput(f"views.temperature samples with a lab, and a {kind} has no {name}; give the lab first.")
    return TemperatureView(
        partial(sampler.generate, chat=chat),
        prompt,
        next_logits=partial(sampler.next_logits, chat=chat),
        token_text=sampler.token_text,
        max_new_tokens=max_new_tokens,
        value=value,
    )


@dataclass(frozen=True)
class _Sample:
    temperature: float
    seed: int


class TemperatureView(View, TokenTraits):
    """The distribution of the next token at `temperature`, and a sample drawn with it.

    Setting `temperature` does what the slider does. `wait()` for the sample, `stop()` it, `resample()` for another,
    `close()` for good. `generation` is the latest finished sample, None before the first.
    """

    _title = "Temperature: how bold the choice of the next token is"
    _esm = module("sampling_view/sampling.js")
    _css = style("tokens_view/tokens.css", "sampling_view/sampling.css")
    _written_again = True

    slider = sent(lowest=LOWEST, highest=HIGHEST, step=STEP)
    temperature = traitlets.Float(0.7).tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """The text of each token that has a bar, most probable first."""
    others_count = traitlets.Int(0).tag(sync=True)
    settings = traitlets.Bytes(b"").tag(sync=True)
    """`distribution.table` as bytes: what an exported file, or a kernel that is busy, shows at once."""
    current = traitlets.Bytes(b"").tag(sync=True)
    """`distribution.row` at `temperature`, which may lie between the slider's positions."""
    status = traitlets.Dict().tag(sync=True)
    """As `Job` says it, with seed; while it runs, draft: the text so far."""

    def __init__(
        self,
        generate: Callable[..., Generation],
        prompt: str,
        *,
        next_logits: Callable[[str], torch.Tensor | np.ndarray],
        token_text: Callable[[int], str],
        max_new_tokens: int = 24,
        value: float = 0.7,
    ) -> None:
        self._job: Job[_Sample, tuple[Generation, str]] = Job(
            self,
            self._sample,
            self._drawn,
            status="status",
            failed="The sample failed with",
            facts=lambda _request: {"seed": self._seed},
            keep_stopped=True,
            delay_seconds=_DELAY_SECONDS,
        )
        whole("max_new_tokens", max_new_tokens, 1)
        self._generate = generate
        self._prompt_given = prompt
        self._max_new_tokens = max_new_tokens
        self._logits = as_logits(next_logits(prompt))
        self._ids = most_probable(self._logits, SHOWN)
        self._seed = 0
        self.generation: Generation | None = None
        super().__init__(
            temperature=_checked(value),
            prompt=clean(prompt),
            names=[clean(token_text(int(id_))) for id_ in self._ids],
            others_count=len(self._logits) - len(self._ids),
            settings=table(self._logits, self._ids).tobytes(),
            current=row(self._logits, self._ids, _checked(value)).tobytes(),
            facts={"n": 0, "k": 0, "headline": [], "drawn": "", "empty": "", "running": False, "prompt_tokens": 0},
        )
        self.observe(self._on_temperature, names="temperature")
        self._ask()

    @traitlets.validate("temperature")
    def _valid_temperature(self, proposal: Proposal) -> float:
        return _checked(proposal["value"])

    def distribution(self) -> np.ndarray:
        """The next token's probabilities at the present temperature, (vocab,) float64."""
        return probabilities(self._logits, self.temperature)

    @answers
    def resample(self) -> None:
        """Draw another sample, with the next seed."""
        self._seed += 1
        self._ask()

    @answers
    def stop(self) -> None:
        """Stop the sample in progress; what it has so far is kept."""
        self._job.stop()

    def _on_temperature(self, change: Change) -> None:
        with self._lock:
            self.current = row(self._logits, self._ids, change["new"]).tobytes()
        self._ask()

    def _ask(self) -> None:
        self._job.ask(_Sample(self.temperature, self._seed))

    def _sample(self, request: _Sample, run: Run) -> tuple[Generation, str]:
        """In the job's thread: the generation, and what is said of it."""
        generation = self._generate(
            self._prompt_given,
            max_new_tokens=self._max_new_tokens,
            temperature=request.temperature,
            seed=None if request.temperature == 0 else request.seed,
            on_token=lambda so_far: run.say(draft=clean(so_far.text)),
            stop_event=run.stop,
        )
        seconds = generation.prefill_seconds + generation.decode_seconds  # not what it waited for its turn
        said = f"{len(generation.ids)} tokens in {seconds:.1f} s"
        return generation, f"stopped after {said}" if run.stop.is_set() else said

    def _drawn(self, _request: _Sample, result: tuple[Generation, str]) -> str:
        self.generation, said = result
        for name, value in payload(self.generation, alternatives=5, prompt=False, running=False).items():
            setattr(self, name, value)
        self.version += 1
        return said

    def _describe(self) -> str:
        return f"{shorten(visible(self._prompt_given), 60)!r}, temperature={self.temperature:g}"

    def _static_text(self) -> str:
        lines = [f"Next token after {shorten(self._prompt_given, 80)!r} at temperature {self.temperature:g}:"]
        lines += [f"{share:8.2%}  {name!r}" for name, share in self._shares()]
        lines.append(f"entropy {entropy(self.distribution()):.3f} nats")
        if self.generation is not None:
            lines.append(static_text(self.generation))
        return "\n".join(lines)

    def _table(self) -> pd.DataFrame:
        """The tokens with a bar, and all others together: their probability at each setting of the slider and as it is."""
        import pandas as pd

        now = row(self._logits, self._ids, self.temperature)
        rows = np.stack([*np.frombuffer(self.settings, "<f4").reshape(-1, len(now)), now]).astype(float)
        every = [
            pd.DataFrame(
                {
                    "temperature": round(float(temperature), 6),
                    "shown": i == len(rows) - 1,
                    "token": [*self.names, None],
                    "id": [*map(int, self._ids), -1],
                    "probability": [*shares, others],
                    "entropy": spread,
                }
            )
            for i, (temperature, spread, others, *shares) in enumerate(rows)
        ]
        return pd.concat(every, ignore_index=True)

    def _image(self) -> Picture:
        page = Page(description=self._title).heading(self._title)
        page.paragraph(f"Next token after {shorten(self._prompt_given, 200)!r} at temperature {self.temperature:g}")
        shares = self._shares()
        page.table(
            [(repr(name), f"{share:.2%}") for name, share in shares],
            ("token", "probability"),
            right=(1,),
            bars=[share for _, share in shares],
        ).note(f"entropy {entropy(self.distribution()):.3f} nats; {self.others_count:,} other tokens are not listed")
        if self.generation is not None:
            draw(page, self.generation, "A text sampled with it")
        return page.picture()

    def _shares(self) -> list[tuple[str, float]]:
        shares = self.distribution()[self._ids]
        return [(shorten(name, 60), float(share)) for name, share in zip(self.names, shares, strict=True)]


def _checked(value: object) -> float:
    return number("temperature", value, LOWEST, HIGHEST, wanted=f"one from {LOWEST:g} (greedy) to {HIGHEST:g}")
