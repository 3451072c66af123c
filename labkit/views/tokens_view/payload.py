"""A generation as the token view's traits: one table of strings, one block of numbers, a few facts in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labkit.errors import BadInput
from labkit.models.tokens import ESCAPED_BYTE, REPLACEMENT, token_bytes
from labkit.views.base import clean

if TYPE_CHECKING:
    import torch

    from labkit.generation.record import Generation, Sampling

TEXT, OUTSIDE, CONTINUED = 0, 1, 2  # kinds of a piece
PROMPT_SHOWN = 40  # tokens; a longer prompt is folded to its last PROMPT_TAIL
PROMPT_TAIL = 24
_PROMPT_CHARACTERS = 20_000

_FINISH = {
    "end": "ended by itself",
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


class Piece(NamedTuple):
    """What one token adds to the running text.

    kind TEXT: its characters. CONTINUED: nothing more, its bytes finish a character that an earlier token began.
    OUTSIDE: it is no part of the text (a special token, a stop string), text is the token itself.
    """

    text: str
    kind: int


def pieces(tokens: Sequence[str], text: str) -> list[Piece]:
    """Split the generated text over its tokens; the TEXT pieces joined give the text.

    A character may take several tokens, written by their bytes (<0xF0>) or as U+FFFD: the first gets the character.
    Where text and tokens can't be brought together, the tokens' own texts are the pieces.
    """
    if "".join(tokens) == text:
        return [Piece(token, TEXT) for token in tokens]
    data = text.encode("utf-8", "surrogatepass")
    found: list[Piece] = []
    at = i = 0
    while i < len(tokens):
        token, end = tokens[i], i + 1
        whole = token.encode("utf-8", "surrogatepass")
        rest = data[at : at + len(whole)]
        dropped = token.lstrip().encode("utf-8", "surrogatepass") if at == 0 else b""
        if whole and rest == whole:
            found.append(Piece(token, TEXT))
            at += len(whole)
        elif _broken(token):
            while end < len(tokens) and _broken(tokens[end]):
                end += 1
            split, at = _characters(tokens[i:end], tokens[end:], data, at)
            found += split
        elif dropped and data.startswith(dropped):
            found.append(Piece(token.lstrip(), TEXT))  # a decoder that drops the first word's space
            at = len(dropped)
        elif rest and at + len(rest) == len(data) and whole.startswith(rest):
            found.append(Piece(rest.decode("utf-8", "surrogatepass"), TEXT))  # a stop string began inside this token
            at = len(data)
        else:
            found.append(Piece(token, OUTSIDE))
        i = end
    return found if at == len(data) else [Piece(token, TEXT) for token in tokens]


def _broken(token: str) -> bool:
    """Whether a token holds part of a character."""
    return REPLACEMENT in token or ESCAPED_BYTE.search(token) is not None


def _characters(run: Sequence[str], following: Sequence[str], data: bytes, at: int) -> tuple[list[Piece], int]:
    """The pieces of a run of broken tokens that starts at a byte of the text, and the byte where it ends."""
    parts = [token_bytes(token) for token in run]
    joined = b"".join(parts)
    if data.startswith(joined, at):
        shares = [bytearray() for _ in run]
        owner = [k for k, part in enumerate(parts) for _ in part]
        first = 0
        for k, byte in enumerate(joined):
            first = k if byte & 0xC0 != 0x80 else first  # a character belongs to the token with its first byte
            shares[owner[first]].append(byte)
        whole = [bytes(share).decode("utf-8", "replace") for share in shares]
        return [Piece(share, TEXT if share else CONTINUED) for share in whole], at + len(joined)
    text = data[at:].decode("utf-8", "surrogatepass")
    stop = _where(text, following, 0, sum(map(len, parts)))
    return _share(text[:stop], run), at + len(text[:stop].encode("utf-8", "surrogatepass"))


def _where(text: str, following: Sequence[str], at: int, width: int) -> int:
    """Where in the text the run of at most `width` characters that starts at `at` ends."""
    if not following:
        return min(len(text), at + width)
    found = text.find(following[0], at, at + width + len(following[0])) if following[0] else -1
    return found if found >= 0 else min(len(text), at + width)


def _share(characters: str, run: Sequence[str]) -> list[Piece]:
    """Give each character to the token of the run that begins it, assuming they take equally many tokens."""
    shares = [""] * len(run)
    for k, character in enumerate(characters):
        shares[k * len(run) // len(characters)] += character
    return [Piece(share, TEXT if share else CONTINUED) for share in shares]


def payload(generation: Generation, *, alternatives: int, prompt: bool, running: bool) -> dict[str, object]:
    """The traits of one generation of n tokens, k = min(alternatives, those kept) shown for each.

    strings: each text that occurs, once, in the order of first use (so that a longer run begins with the same ones).
    block: little-endian int32 columns of n (token, piece, kind, rank, id), then (n, k) alternatives' strings and
        (n, k) their ids; then float32 columns of n (logprob, sampled logprob, entropy) and (n, k) logprobs; nats.
    facts: n, k, and the sentences of the head. prompt_text: [what is folded away, what is shown].
    Raises BadInput when alternatives is not a whole number of at least 0.
    """
    if isinstance(alternatives, bool) or not isinstance(alternatives, int) or alternatives < 0:
        raise BadInput(f"alternatives={alternatives!r} can't be shown; give a whole number such as 5, or 0 for none.")
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
        },
        "prompt_text": prompt_text(generation) if prompt else ["", ""],
    }


def headline(generation: Generation, *, running: bool = False) -> list[str]:
    """The facts of the head line after the model's name, each a few words."""
    n = len(generation.ids)
    parts = [f"{n:,} token{'' if n == 1 else 's'}"]
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


def joined(tokens: Sequence[str]) -> str:
    """Tokens as one text, characters that they split put together from their bytes."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")


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


def numbers(values: Sequence[float] | torch.Tensor | np.ndarray, dtype: str) -> np.ndarray:
    """A tensor or array as a contiguous numpy array of the given little-endian type."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.ascontiguousarray(np.asarray(values), dtype=dtype)
