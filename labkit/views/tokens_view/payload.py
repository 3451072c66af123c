"""A generation as the token view's traits: one table of strings, one block of numbers, a few facts in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labkit.checks import whole
from labkit.markup import clean, counted
from labkit.models.tokens import REPLACEMENT
from labkit.views.kit.arrays import numbers
from labkit.views.kit.running_text import joined, pieces
from labkit.views.tokens_view.marks import drafted_of, foot, marks

if TYPE_CHECKING:
    from labkit.generation.record import Generation, Sampling

HESITATION = 3  # nats; from this entropy on the model hesitated: as open as 20 equal choices
PROMPT_SHOWN = 40  # tokens; a longer prompt is folded to its last PROMPT_TAIL
PROMPT_TAIL = 24
_PROMPT_CHARACTERS = 20_000

_FINISH = {
    "end": "ended by itself",
    "form": "ended where its form was complete",
    "stop": "ended at a stop string",
    "length": "cut at the token limit",
    "context": "cut where the model's context is full",
    "stopped": "stopped",
    "interrupted": "interrupted",
    "running": "generating …",
}
_EMPTY = {
    "end": "the model ended its text at once.",
    "stop": "a stop string came first.",
    "length": "max_new_tokens left no room for one.",
    "context": "the prompt fills the model's context; shorten it.",
    "stopped": "it was stopped before the first.",
    "interrupted": "it was interrupted before the first.",
}


class Stroke(NamedTuple):
    """The line under tokens of a probability from `least` on: its thickness in pixels, straight and wavy, and how much of the
    colour of doubt is in it, 0 to 1."""

    least: float
    label: str
    line: float
    wave: float
    deep: float

    def sent(self) -> dict[str, object]:
        """As tokens_view/logic.js reads it."""
        return {"from": self.least, **self._asdict()}


STROKES = (
    Stroke(0.9, "over 90 %", 1.0, 0.8, 0.0),
    Stroke(0.5, "50–90 %", 1.5, 0.8, 0.45),
    Stroke(0.2, "20–50 %", 3.5, 1.2, 0.65),
    Stroke(0.05, "5–20 %", 5.0, 2.0, 0.85),
    Stroke(0.0, "under 5 %", 7.0, 3.0, 1.0),
)


def stroke_of(probability: float) -> Stroke:
    """The line of a token's probability; the thickest of what is no number."""
    return next((each for each in STROKES if probability >= each.least), STROKES[-1])


def payload(generation: Generation, *, alternatives: int, prompt: bool, running: bool) -> dict[str, object]:
    """The traits of one generation of n tokens, k = min(alternatives, those kept) shown for each.

    strings: each text that occurs, once, in the order of first use (so that a longer run begins with the same ones).
    block: little-endian int32 columns of n (token, piece, kind, rank, id), then (n, k) alternatives' strings and
        (n, k) their ids; then float32 columns of n (logprob, sampled logprob, entropy) and (n, k) logprobs; nats.
    facts: n, k, the sentences of the head and the foot, and the tokens that drafts left a mark on. forbidden, allowed: see
    `marks`. prompt_text: [what is folded away, what is shown].
    Raises BadInput when alternatives is not a whole number of at least 0.
    """
    alternatives = whole("alternatives", alternatives, 0, wanted="a whole number such as 5, or 0 for none")
    n = len(generation.ids)
    top_logprobs = numbers(generation.top_logprobs, "<f4").reshape(n, -1) if n else np.zeros((0, 0), "<f4")
    k = min(alternatives, top_logprobs.shape[1])
    top_ids = numbers(generation.top_ids, "<i4").reshape(n, -1) if n else np.zeros((0, 0), "<i4")

    table: dict[str, int] = {}

    def index(text: str) -> int:
        return table.setdefault(clean(text), len(table))

    split = pieces(generation.tokens, generation.text)
    head = np.zeros((5, n), "<i4")
    others = np.zeros((n, k), "<i4")
    for i in range(n):  # token by token, so that the table of a longer run continues that of a shorter one
        head[0, i] = index(generation.tokens[i])
        head[1, i] = index(split[i].text)
        head[2, i] = split[i].kind
        for j in range(k):
            others[i, j] = index(generation.top_tokens[i][j])
    if n:
        head[3] = numbers(generation.ranks, "<i4")
        head[4] = np.asarray(generation.ids, "<i4")
    drafted, rounds = drafted_of(generation)
    logprobs = numbers(generation.logprobs, "<f4")
    block = b"".join(
        part.tobytes()
        for part in (
            head,
            others,
            top_ids[:, :k],
            logprobs,
            numbers(generation.sampled_logprobs, "<f4"),
            numbers(generation.entropies, "<f4"),
            top_logprobs[:, :k],
        )
    )
    return {
        "strings": list(table),
        "block": block,
        "facts": {
            "n": n,
            "k": k,
            "model": clean(generation.model),
            "headline": headline(generation, running=running),
            "drawn": drawn(generation.sampling),
            "empty": why_empty(generation, running=running),
            "running": running,
            "prompt_tokens": len(generation.prompt_ids),
            "foot": foot(generation),
            "drafted": drafted,
            "rounds": rounds,
        },
        **marks(generation, k),
        "prompt_text": prompt_text(generation) if prompt else ["", ""],
    }


def headline(generation: Generation, *, running: bool = False) -> list[str]:
    """The facts of the head line after the model's name, each a few words."""
    n = len(generation.ids)
    parts = [counted(n, "token")]
    if n and generation.tokens_per_second > 0:
        parts.append(f"{generation.tokens_per_second:,.1f} tokens/s")
    parts.append("generating …" if running else _FINISH.get(generation.finish_reason, generation.finish_reason))
    if n:
        mean = float(numbers(generation.logprobs, "<f4").astype(float).mean())
        if math.isfinite(mean):
            text = f"{mean:.2f}".replace("-", "−").replace("−0.00", "0.00")
            size = math.exp(-mean) if mean > -700 else math.inf
            perplexity = f"{size:.2f}" if size < 1e4 else f"{size:.1e}"
            parts.append(f"mean log-probability {text} nats (perplexity {perplexity})")
    parts.append(drawn(generation.sampling))
    if not generation.engine.startswith("transformers"):
        parts.append(generation.engine)
    return parts


def drawn(sampling: Sampling) -> str:
    """How the tokens were chosen, in words."""
    if not sampling.temperature:
        filters = [] if sampling.repetition_penalty is None else [f"repetition penalty {sampling.repetition_penalty:g}"]
        return ", ".join(["greedy", *filters])
    named = {
        "temperature": sampling.temperature,
        "top-k": sampling.top_k,
        "top-p": sampling.top_p,
        "min-p": sampling.min_p,
        "repetition penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
    }
    return ", ".join(
        f"{name} {value:g}" if name != "seed" else f"seed {value}" for name, value in named.items() if value is not None
    )


def why_empty(generation: Generation, *, running: bool = False) -> str:
    """A sentence when there is no text to see, otherwise nothing."""
    if running:
        return "" if len(generation.ids) else "Waiting for the first token …"
    if not len(generation.ids):
        return f"No token was generated: {_EMPTY.get(generation.finish_reason, generation.finish_reason)}"
    if not generation.text:
        return "The text is empty: the tokens below are not part of it (they end or steer the generation)."
    return ""


def prompt_text(generation: Generation) -> list[str]:
    """The prompt as [what is folded away, what is shown]; a prompt of many characters keeps its last 20,000."""
    tokens = list(generation.prompt_tokens)
    cut = 0 if len(tokens) <= PROMPT_SHOWN else len(tokens) - PROMPT_TAIL
    whole = _mended(joined(tokens), generation.prompt)
    tail = joined(tokens[cut:])
    if REPLACEMENT in tail or not whole.endswith(tail):
        tail = whole[-len(tail) :] if cut else whole  # counted in characters where tokens split them
    rest = whole[: len(whole) - len(tail)]
    room = _PROMPT_CHARACTERS - len(tail)
    if room < 0:
        return ["", "… " + clean(tail[-_PROMPT_CHARACTERS:])]
    return [clean(rest if len(rest) <= room else "… " + rest[len(rest) - room :]), clean(tail)]


def _mended(joined: str, prompt: str | Sequence[Mapping[str, object] | int]) -> str:
    """The joined tokens with characters that tokens split put back from the prompt as it was given."""
    if REPLACEMENT not in joined:
        return joined
    parts_given = [prompt] if isinstance(prompt, str) else prompt
    contents = [part.get("content") if isinstance(part, Mapping) else part for part in parts_given]
    for text in contents:
        if isinstance(text, str) and text:
            parts = re.split(r"[^\x00-\x7f]+", text)
            match = re.search(r"[^\x00-\x7f]+".join(map(re.escape, parts)), joined)
            if match:
                joined = joined[: match.start()] + text + joined[match.end() :]
    return joined
