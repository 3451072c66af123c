"""Stand-ins for what writes a steered text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from labkit.views.steering_view import Steered

PLAIN = (" The", " cat", " sat", " on", " the", " mat", ".")
STORMY = (" The", " cat", " sat", " in", " a", " storm", " of", " rain", ".")
FEATURES = [(1234, "storms", 12.5), ("calm", "quiet seas", 4.0)]
PROMPT = "Once upon a time"
SECONDS = 10.0  # for what takes milliseconds; a test that waits so long has failed


class Writer:
    """A run that records its calls. `hold`: give out tokens one by one as `let` allows, until stopped."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[Any, float]]] = []
        self.stops: list[threading.Event] = []
        self.began, self.let, self.made = (threading.Semaphore(0) for _ in range(3))
        self.hold = False
        self.error: BaseException | None = None
        self.closed = self.running = self.most_running = 0
        self.plain, self.stormy = PLAIN, STORMY
        self.note = ""

    def __call__(self, prompt: str, strengths: dict[Any, float], stop: threading.Event) -> Iterator[Steered]:
        self.calls.append((prompt, strengths))
        self.stops.append(stop)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.began.release()
        pushed = any(strengths.values())
        tokens = self.stormy if pushed else self.plain
        try:
            for n in range(1, len(tokens) + 1):
                while self.hold and not self.let.acquire(timeout=0.01):
                    if stop.is_set():
                        return
                if self.error is not None and n > 2:
                    raise self.error
                done = n == len(tokens)
                loss = (3.25 if pushed else 2.0) if done else None
                yield Steered(tokens[:n], loss, done, self.note if pushed and done else "")
                self.made.release()
        finally:
            self.running -= 1
            self.closed += 1
