"""A text of three tokens, and what stands in for a lab that lets it branch and knows how its tokens were chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from generations import generation

from labkit.generation.record import Generation
from labkit.views.tree_view import Branched

ROOT = [("The", 0.6, {"A": 0.2}), (" cat", 0.5, {" dog": 0.3}), (" sat", 0.7, {" ran": 0.1})]


def branch(
    run: Generation, at: int, token: int | str, *, on_token: Callable[[Generation], None], stop_event: threading.Event
) -> Branched:
    """Goes on with the alternative of that id and one more token."""
    old = [(one, 0.5, {two: 0.2}) for one, two in zip(run.tokens, [row[1] for row in run.top_tokens], strict=True)]
    text = run.top_tokens[at][run.top_ids[at].tolist().index(token)]
    steps = [*old[:at], (text, 0.2, {" x": 0.1}), (" on", 0.9, {" off": 0.05})]
    on_token(generation(steps[: at + 1], finish_reason="running"))
    return Branched(generation(steps), reused=4 + at, saved_seconds=0.12)


def chosen(run: Generation, token: int, names: Callable[[int], str] = lambda id_: f" w{id_}") -> Any:
    """A step as `Generation.distribution` gives it: of 1,000 tokens 8 are listed, and top-p cuts all but the best two."""
    own = np.array([0.5, 0.2, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01])
    ids = [run.ids[token], *range(7)]
    with np.errstate(divide="ignore"):
        kept = np.log(np.where(np.arange(8) < 2, own / 0.7, 0.0))
    table = pd.DataFrame(
        {
            "token": [names(id_) for id_ in ids],
            "id": ids,
            "logprob": np.log(own),
            "top_p": kept,
            "cut_by": ["", "", *["top_p"] * 6],
            "taken": [True, *[False] * 7],
        }
    )
    rows = {"stage": ["model", "top_p"], "tokens": [1000, 2], "entropy": [1.9, 0.6], "cut": [0.0, 0.3]}
    return SimpleNamespace(table=table, stages=pd.DataFrame(rows), note="")
