"""A decoding loop of our own over anything that gives the logits of the next token: a compiled step, another engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, cast

import torch

if TYPE_CHECKING:
    from transformers import LogitsProcessorList


class Feed(Protocol):
    """What reads tokens of one text and gives the logits, (vocabulary,) float32, of the token that follows."""

    def start(self, ids: Sequence[int], room: int, *, stopped: Callable[[], bool]) -> torch.Tensor:
        """Read a prompt after which `room` tokens may follow; what was read before is forgotten."""
        ...

    def read(self, id_: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Read one more token of the same text, a tensor without dimensions where the logits were; what waits for the next."""
        ...

    @property
    def ahead(self) -> bool:
        """Whether a token is read while it is recorded, as where a device or a library works by itself meanwhile."""
        ...


class Engine(Protocol):
    """What decodes in place of transformers' own loop."""

    @property
    def description(self) -> str:
        """Of engine and precision, for the record."""
        ...

    def feed(self) -> AbstractContextManager[Feed]:
        """What reads one prompt after the other, ready for as long as a `with` lasts."""
        ...


BEGUN = 1024  # tokens that there is place for at first


def begun(ids: Sequence[int], room: int) -> torch.Tensor:
    """(1, places): a text's ids with place for tokens to come, `room` of them at most; more is made by `doubled`."""
    row = torch.zeros(1, len(ids) + min(room, BEGUN), dtype=torch.long)
    row[0, : len(ids)] = torch.tensor(ids)
    return row


def doubled(row: torch.Tensor) -> torch.Tensor:
    """A row of ids with as much place again: a user may allow more tokens than memory has place for."""
    return torch.cat([row, torch.zeros_like(row)], dim=1)


def write(
    feed: Feed,
    ids: Sequence[int],
    room: int,
    *,
    sampled: bool,
    processors: LogitsProcessorList,
    recorded: Callable[[torch.LongTensor], bool],
    stopped: Callable[[], bool],
) -> int:
    """Write up to `room` tokens after a prompt, each chosen as transformers' generate chooses: the likeliest, or drawn.

    processors: filters, called as by transformers.  recorded: told all ids after each token; True ends the text.
    stopped: ends the text before its first token where True by then. Returns how many tokens were written.
    """
    given = len(ids)
    logits = feed.start(ids, room, stopped=stopped)
    total = given + room
    told = begun(ids, room)
    row = told.to(logits.device)  # the same where that is the CPU
    for length in range(given, total):
        if length == given and stopped():
            return 0
        seen = cast("torch.LongTensor", row[:, :length])
        scores = processors(seen, cast("torch.FloatTensor", logits[None].float()))
        chosen = torch.multinomial(scores.softmax(-1), 1)[0, 0] if sampled else scores[0].argmax()
        if length == told.shape[1]:
            apart = row is not told
            told = doubled(told)
            row = doubled(row) if apart else told
        row[0, length] = chosen
        told[0, length] = int(chosen)
        last = length + 1 == total
        read = feed.read(chosen) if feed.ahead and not last else None
        if recorded(cast("torch.LongTensor", told[:, : length + 1])) or last:
            return length + 1 - given
        logits = (read or feed.read(chosen))()
    return room
