"""A text of three tokens and what stands in for a lab that lets it branch."""

from __future__ import annotations

import threading
from collections.abc import Callable

from generations import generation

from labkit.generation.record import Generation
from labkit.views.tree_view import Branched

ROOT = [("The", 0.6, {"A": 0.2}), (" cat", 0.5, {" dog": 0.3}), (" sat", 0.7, {" ran": 0.1})]


def branch(
    run: Generation, at: int, token: int, *, on_token: Callable[[Generation], None], stop_event: threading.Event
) -> Branched:
    """Goes on with the alternative of that id and one more token."""
    old = [(one, 0.5, {two: 0.2}) for one, two in zip(run.tokens, [row[1] for row in run.top_tokens], strict=True)]
    text = run.top_tokens[at][run.top_ids[at].tolist().index(token)]
    steps = [*old[:at], (text, 0.2, {" x": 0.1}), (" on", 0.9, {" off": 0.05})]
    on_token(generation(steps[: at + 1], finish_reason="running"))
    return Branched(generation(steps), reused=4 + at, saved_seconds=0.12)
