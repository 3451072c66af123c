"""Places: the written names of what can be edited.

    residual[5]                 entering layer 5; residual[layers] leaves the last one, before the final norm
    residual[5] @ 3             ... of token 3
    attention_output[5] @ 2:7   of tokens 2 to 6
    mlp_output[*]               of all layers
    head_output[5, 3] @ 1,4,-1  of head 3; of tokens 1, 4 and the last
    queries[5, 3]  keys[5, 0]  values[5, 0]  mlp_neurons[5]  logits  embedding

The names are those of the instruments (instruments.py) and mean the tensors that a Trace gives by them. Without a head,
all heads; without @, all tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.trace.instruments import BY_NAME, HEADED, PLACES

__all__ = ["EXAMPLES", "HEADED", "NAMES", "Place", "Span", "parse"]

NAMES = PLACES
EXAMPLES = "residual[5], attention_output[5] @ 2:7, head_output[5, 3] @ 1,4,-1, logits"

_SHAPE = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\[([^\[\]]*)\])?\s*(?:@(.*))?\s*", re.DOTALL)
_NUMBER = re.compile(r"-?\d+")
_SPAN = re.compile(r"(-?\d+)?\s*:\s*(-?\d+)?")


@dataclass(frozen=True)
class Span:
    """Tokens start to stop - 1; None is the beginning or the end of the text; negative numbers count from its end."""

    start: int | None
    stop: int | None

    def __str__(self) -> str:
        return f"{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}"


@dataclass(frozen=True)
class Place:
    """One place of a model. layer, head, tokens: None for all of them.

    tokens: counted from the first of the text; negative ones from the end of what the model has been given so far.
    """

    name: str
    layer: int | None = None
    head: int | None = None
    tokens: tuple[int | Span, ...] | None = None

    def __str__(self) -> str:
        layer = "*" if self.layer is None else str(self.layer)
        inside = (
            "" if BY_NAME[self.name].per == "pass" else f"[{layer}]" if self.head is None else f"[{layer}, {self.head}]"
        )
        return f"{self.name}{inside}" + (f" @ {','.join(map(str, self.tokens))}" if self.tokens is not None else "")

    def positions(self, length: int) -> list[int]:
        """The tokens meant, in the order written, each once, in a text that has `length` tokens so far.

        A number or a span may lie beyond them: those tokens are still to come.
        """
        if self.tokens is None:
            return list(range(length))
        found: dict[int, None] = {}
        for part in self.tokens:
            if isinstance(part, int):
                found[part if part >= 0 else part + length] = None
            else:
                start = 0 if part.start is None else part.start if part.start >= 0 else max(0, part.start + length)
                stop = length if part.stop is None else part.stop if part.stop >= 0 else part.stop + length
                found |= dict.fromkeys(range(start, stop))
        return [position for position in found if position >= 0]


Counts = int | Sequence[int | None] | None


def parse(text: str, layers: int, heads: Counts = None, kv_heads: Counts = None) -> Place:
    """Read a place, checked against a model's numbers of layers, heads and key-value heads.

    heads, kv_heads: one number for all layers, or each layer's; None where it is not known.

    Negative layers and heads count from the end, as in Python. Raises BadInput that names what is wrong and what there
    is, Unavailable for attention patterns, which can be seen but not set, and for routes, which labkit.moe has edits for.
    """
    if not isinstance(text, str):
        raise BadInput(f"A place is written as a text, and {text!r} is none; for instance {EXAMPLES}.")
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise BadInput(f"The place {text!r} can't be read; write it like {EXAMPLES}.")
    name, inside, tokens = match.groups()
    _check_name(name, text)
    layer, head = _layer_and_head(name, inside, text, layers, heads, kv_heads)
    return Place(name, layer, head, None if tokens is None else _tokens(tokens, text))


def _check_name(name: str, text: str) -> None:
    if name in NAMES:
        return
    row = BY_NAME.get("attention" if name in ("pattern", "patterns") else name)
    if row is not None:
        raise Unavailable(row.no_edit)
    near = checks.near(name, NAMES, cutoff=0.5)
    raise BadInput(f"There is no place {name!r} in {text!r}{near}; there are {', '.join(NAMES)}.")


def _layer_and_head(
    name: str, inside: str | None, text: str, layers: int, heads: Counts, kv_heads: Counts
) -> tuple[int | None, int | None]:
    row = BY_NAME[name]
    if row.per == "pass":
        if inside is not None:
            raise BadInput(
                f"{text!r}: {name} {'have' if name.endswith('s') else 'has'} no layer; write {name}, or {name} @ 3 for one token."
            )
        return None, None
    if inside is None:
        raise BadInput(f"{text!r} names no layer; write {name}[0], or {name}[*] for all layers.")
    parts = [part.strip() for part in inside.split(",")]
    most = 2 if row.heads else 1
    if len(parts) > most:
        what = "a layer and a head" if most == 2 else "a layer and no head"
        raise BadInput(f"{text!r}: {name} has {what}; write {name}[{'0, 0' if most == 2 else '0'}].")
    layer = _index("layer", parts[0], text, layers + (row.per == "boundary"))
    if len(parts) == 1 or row.heads is None:
        return layer, None
    there = _counted(heads if row.heads == "head" else kv_heads, layer)
    if len(there) > 1 and parts[1].startswith("-"):
        raise BadInput(f"{text!r}: layers have different numbers of {row.heads}s; count from 0, or name one layer.")
    return layer, _index(row.heads, parts[1], text, min(there, default=None))


def _counted(counts: Counts, layer: int | None) -> set[int]:
    """The numbers of heads a layer has, or any of all layers; empty where they are not known."""
    every = [counts] if counts is None or isinstance(counts, int) else list(counts)
    chosen = every if layer is None or len(every) == 1 else [every[layer]]
    return {count for count in chosen if count is not None}


def _index(what: str, written: str, text: str, count: int | None) -> int | None:
    if written == "*":
        return None
    if not _NUMBER.fullmatch(written):
        raise BadInput(f"{text!r}: {written!r} is no {what}; give a number from 0, or * for all.")
    index = int(written)
    if count is None and index >= 0:
        return index
    if count is None or not -count <= index < count:
        there = f"{what}s are 0 to {count - 1}" if count is not None else "count from 0"
        raise BadInput(f"{text!r}: there is no {what} {index}; {there}.")
    return index % count


def _tokens(written: str, text: str) -> tuple[int | Span, ...]:
    parts: list[int | Span] = []
    for part in (p.strip() for p in written.split(",")):
        if _NUMBER.fullmatch(part):
            parts.append(int(part))
            continue
        span = _SPAN.fullmatch(part)
        if span is None:
            raise BadInput(f"{text!r}: {part!r} names no tokens; write @ 3, @ 2:7 or @ 1,4,-1.")
        start, stop = (None if bound is None else int(bound) for bound in span.groups())
        empty = start is not None and stop is not None and (start < 0) == (stop < 0) and start >= stop
        if empty or stop == 0:
            raise BadInput(f"{text!r}: there are no tokens in {part}; the first number is to be below the second.")
        parts.append(Span(start, stop))
    if len(set(parts)) < len(parts):
        raise BadInput(f"{text!r} names a token twice; name each once.")
    return tuple(parts)
