"""Stand-ins for a tuning under way and for what writes a text with adapters on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import pandas as pd

from labkit.lora.blending import Blended

WORDS = ("sat", "tree", "dog", "mat", "tired", "other", "because", "was", "where", "after")
DATA = [{"prompt": f"the cat {word}", "completion": f"{word} ran"} for word in WORDS[:8]]
HELD_OUT = [{"prompt": f"the cat {word}", "completion": f"{word} ran"} for word in WORDS[8:]]
SECONDS = 10.0  # for what takes milliseconds; a test that waits so long has failed
COLUMNS = (
    "step", "loss", "held_out", "forgetting", "kl", "learning_rate", "gradient_norm", "tokens_per_second", "seconds_left",
)  # fmt: skip
BASE = (" The", " date", " is", " 3", " May", ".")
TUNED = ("2", "0", "2", "5", "-05-03")


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait for it to hold."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came"
        time.sleep(0.01)


class HandRun:
    """A run that takes a step whenever `step()` is called, measured every fifth."""

    def __init__(self, steps: int = 60, title: str = "LoRA of rank 16 on tiny", prompt: str = "3 May 2025") -> None:
        self.settings = SimpleNamespace(steps=steps)
        self.title, self.prompt, self.seconds = title, prompt, 0.0
        self.state, self.error = "running", None
        self.rows: list[dict[str, float]] = []
        self.samples: list[tuple[int, str]] = []
        self.stops = 0
        self._watchers: list[tuple[Callable[[object], object], Callable[[], object] | None]] = []
        self._take(0)

    @property
    def history(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def subscribe(
        self, step: Callable[[object], object], ended: Callable[[], object] | None = None
    ) -> Callable[[], None]:
        entry = (step, ended)
        self._watchers.append(entry)
        return lambda: self._watchers.remove(entry)

    def stop(self) -> HandRun:
        self.stops += 1
        self.end("stopped")
        return self

    def end(self, state: str) -> None:
        self.state = state
        for _, ended in list(self._watchers):
            if ended is not None:
                ended()

    def step(self, count: int = 1, loss: float | None = None) -> None:
        for _ in range(count):
            self._take(len(self.rows), loss)
            for watch, _ended in list(self._watchers):
                watch(self.rows[-1])
            if len(self.rows) > self.settings.steps:
                self.end("finished")

    def _take(self, i: int, loss: float | None = None) -> None:
        row = {"step": float(i)} | dict.fromkeys(COLUMNS[1:], math.nan)
        if i:
            row |= {"loss": 2.0 / i**0.5 if loss is None else loss, "learning_rate": 2e-3 * (1 - i / 61)}
            row |= {"gradient_norm": 1.0 / i, "tokens_per_second": 1234.5, "seconds_left": 60.0 - i}
        if i % 5 == 0:
            row |= {"held_out": 2.5 / (i + 1) ** 0.4, "forgetting": 0.002 * i - 0.01 * (i > 0), "kl": 0.03 * i}
            self.samples.append((i, f"answer {i}: 2025-05-0{i % 10}"))
        self.rows.append(row)
        self.seconds = float(i)


class AdapterWriter:
    """What `blended` returns, with two adapters: it records what it is asked. `hold`: give out tokens as `let` allows."""

    def __init__(self, base: Sequence[str] = BASE, tuned: Sequence[str] = TUNED) -> None:
        self.base, self.tuned = tuple(base), tuple(tuned)
        self.calls: list[tuple[str, tuple[float, ...]]] = []
        self.given = 0  # tokens, of the latest call
        self.hold, self.let = False, threading.Semaphore(0)
        self.error: BaseException | None = None

    def __call__(self, prompt: str, scales: Sequence[float], stop: threading.Event) -> Iterator[Blended]:
        self.calls.append((prompt, tuple(scales)))
        tokens = self.tuned if any(scales) else self.base
        if self.error is not None:
            raise self.error
        for n in range(1, len(tokens) + 1):
            while self.hold and not self.let.acquire(timeout=0.01):
                if stop.is_set():
                    return
            if stop.is_set():
                return
            self.given = n
            yield Blended(tokens[:n])
        yield Blended(tokens, tuple(0.5 * i * sum(map(abs, scales)) for i in range(len(tokens))), True)


def hand_mask(samples: int = 12, packing: bool = False, hostile: str = "") -> SimpleNamespace:
    """What `lk.lora.mask` returns of prompts with completions: the last tokens of each carry loss, and the very last ends."""

    def one(i: int) -> SimpleNamespace:
        prompt = ["<s>", "user", "\n", f"{hostile}What", " is", f" {i}", "?", "</s>", "\n"]
        answer = [" It", " is", *[" very"] * (i % 7), f" {i}", ".", "</s>"]
        tokens = tuple(prompt + answer)
        learns = (False,) * len(prompt) + (True,) * len(answer)
        marked = "".join(prompt) + "⟦" + "".join(answer) + "⟧"
        return SimpleNamespace(
            ids=tuple(range(100, 100 + len(tokens))),
            tokens=tokens,
            learns=learns,
            turns=((len(prompt), len(tokens)),),
            ends=True,
            trained=len(answer),
            marked=marked,
            sample=SimpleNamespace(kind="prompt"),
        )

    made = tuple(one(i) for i in range(samples))
    table = pd.DataFrame({"sample": range(samples), "tokens": [len(each.ids) for each in made]})
    return SimpleNamespace(
        table=table,
        samples=made,
        kind="prompt",
        tokens=sum(len(each.ids) for each in made),
        trained=sum(each.trained for each in made),
        ending=("</s>",),
        frame=("<s>user\n", "</s>\n"),
        limit=256,
        packing="bfd" if packing else None,
        row_tokens=64 if packing else None,
        rows=tuple(tuple(range(i, min(i + 3, samples))) for i in range(0, samples, 3)) if packing else (),
        problems=(),
        duplicates=0,
        model="tiny",
    )
