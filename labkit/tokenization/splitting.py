"""A text token by token: bytes, ids, the merge that made each, and what each byte of it costs a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.markup import counted
from labkit.results import Result
from labkit.tokenization.pipelines import Pipeline, pipeline, tokenizer_of
from labkit.tokenization.spelling import SPACE, Spelling, spelling
from labkit.trace.input import as_ids, check_characters

if TYPE_CHECKING:
    from labkit.trace.lab_like import TracingLab

__all__ = ["Token", "Tokens", "tokens"]

SHOWN_CHANGES = 3


@dataclass(frozen=True)
class Token:
    """One token of a text.

    text: its bytes as text; a byte that is only part of a character as <0xE4>.  bytes: those of the text that it stands for;
    b"" for one that was put around it.  id.  piece: as the vocabulary writes it.
    special: one of the tokenizer's signs.  added: put there by the tokenizer, no part of the text.  unknown: stands for what
    the vocabulary has not.  changed: what it spells is not what the text has.  dropped: how many of the bytes no token holds.
    rank: the number of the merge that makes it, from 0, the most frequent pair; None where no merge does.
    score: its log probability (nats) in a Unigram vocabulary; None in others.
    loss: nats, given the tokens before it; NaN without a model and where nothing stands before it.
    """

    text: str
    bytes: bytes
    id: int
    piece: str
    special: bool
    added: bool
    unknown: bool
    changed: bool
    dropped: int
    rank: int | None
    score: float | None
    loss: float

    @property
    def bits_per_byte(self) -> float:
        """Its loss in bits for each of its bytes; NaN where it has none."""
        return self.loss / math.log(2) / len(self.bytes) if self.bytes else math.nan


@dataclass(frozen=True, eq=False, repr=False)
class Tokens(Result):
    """A text as its tokens: a sequence of `Token`, and a table with a row for each.

    `found[3]`, `found[1:]`, `len(found)` and `for token in found` are of the tokens; `found["loss"]` is the table's column.

    table: token, id, bytes (hexadecimal), piece, special, added, unknown, changed, rank, score, loss (nats), bits_per_byte.
    text, name: the text, and whose tokens these are.  items: the tokens.
    way: "spelt", the tokens' own bytes are the text's, each checked; "offsets", they are not, and the tokenizer says which
        characters each came from.
    byte_loss: (bytes,) nats: a token's loss, spread evenly over its bytes, so that the sum is the tokens'. NaN where there is
        none. A token that adds no byte (a space that is no part of the text, a further token of one character) gives its loss
        to the token of that character, or to the next.
    bits_per_byte: of all bytes with a loss; None without a model.  first: the number of the first byte with a loss, or None.
    notes: what was done to the text, and what is not known.  merges: how many the tokenizer has.
    """

    text: str
    name: str
    items: tuple[Token, ...]
    way: str
    byte_loss: np.ndarray
    bits_per_byte: float | None
    first: int | None
    notes: tuple[str, ...]
    merges: int

    @property
    def ids(self) -> list[int]:
        """The tokens' ids."""
        return [token.id for token in self.items]

    @property
    def exact(self) -> bool:
        """Whether the tokens hold every byte of the text, so that it can be had back from them."""
        return not any(token.changed or token.unknown or token.dropped for token in self.items)

    def __getitem__(self, key: object) -> Any:
        if isinstance(key, slice):
            return self.items[key]
        number = checks.as_whole(key)
        if number is None:
            return super().__getitem__(key)
        return self.items[checks.index("token", number, len(self.items), of="the text has")]

    def __iter__(self) -> Iterator[Token]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def _title(self) -> str:
        size = len(self.text.encode())
        cost = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.3f} bits per byte"
        return f"{counted(len(self.items), 'token')} of {self.name}, {counted(size, 'byte')}{cost}"

    def _remarks(self) -> Sequence[str]:
        return self.notes


def tokens(lab_or_tokenizer: object, text: str, *, loss: bool = True, name: str | None = None) -> Tokens:
    """A text token by token: the bytes each stands for, how it came to be one, and with a lab what each byte costs.

    lab_or_tokenizer: a lab; or a tokenizer of transformers or of the tokenizers library, which gives no loss.
    text: with the tokens that the tokenizer puts around one (<s>), as `lab.trace` sees it.  loss: whether the model is asked;
        its pass has to fit into the context, the tokens alone do not.  name: to show, where several are side by side.
    The bytes joined are the text's, exactly. Where the tokenizer loses some (WordPiece drops white space, and what it does
    not know), its offsets say where each token came from, and `way`, `changed`, `dropped` and the notes say so.
    Raises BadInput for an empty text, half a surrogate pair, and a text longer than the model's context; Unavailable for a
    slow tokenizer that changes the text, and for a model whose logits are no predictions.
    """
    tokenizer, lab, own_name = tokenizer_of(lab_or_tokenizer)
    name = own_name if name is None else str(name)
    loss = checks.flag("loss", loss)
    if not isinstance(text, str) or not text:
        raise BadInput(f"text={checks.shown(text)} has no tokens to show; give a text of at least one character.")
    check_characters(text)
    asked = lab if loss else None
    try:
        ids = as_ids(tokenizer, text, chat=False, context=None)
    except BadInput as error:
        raise BadInput("The tokenizer makes no token of this text; give one with a word in it.") from error
    if asked is not None and asked.context is not None and len(ids) > asked.context:
        raise BadInput(
            f"The text has {len(ids):,} tokens and the model's context holds {asked.context:,}; shorten it, or give "
            "loss=False for its tokens alone."
        )
    steps = pipeline(tokenizer)
    spelt = spelling(tokenizer, text, ids, steps)
    losses = np.full(len(ids), np.nan) if asked is None else _losses(asked, ids)
    special = {*(getattr(tokenizer, "all_special_ids", None) or ())}
    special |= {i for i, token in (getattr(tokenizer, "added_tokens_decoder", None) or {}).items() if token.special}
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(ids))]
    spread = _over_bytes(spelt, losses)
    is_space = SPACE in text and SPACE not in str(tokenizer.decode(list(ids)))  # the sign itself comes back as a space
    items = tuple(
        _token(number, id_, piece, spelt, steps, id_ in special, losses, is_space)
        for number, (id_, piece) in enumerate(zip(ids, pieces, strict=True))
    )
    known = np.flatnonzero(np.isfinite(spread))
    cost = float(np.nansum(spread) / math.log(2) / len(known)) if len(known) else None
    first = int(known[0]) if len(known) else None
    notes = _notes(text, steps, spelt, items, spread, asked is not None)
    return Tokens(_table(items), text, name, items, spelt.way, spread, cost, first, notes, len(steps.merges))


def _losses(lab: TracingLab, ids: Sequence[int]) -> np.ndarray:
    found: np.ndarray = lab.trace(list(ids), keep=("logits",)).loss.double().numpy()
    return found


def _token(
    number: int,
    id_: int,
    piece: str,
    spelt: Spelling,
    steps: Pipeline,
    special: bool,
    losses: np.ndarray,
    is_space: bool,
) -> Token:
    held, added, dropped = spelt.held[number], spelt.added[number], spelt.dropped[number]
    own = spelt.own[number]
    unknown = bool(steps.unknown) and piece == steps.unknown and own != held and not added
    lead = spelt.prefix if own == spelt.prefix + held else b""
    same = own in (lead + held, b" " + held) if spelt.way == "spelt" else own.strip(b" ") == held.strip(b" \n\t\r")
    same = same and not (is_space and SPACE in piece and SPACE.encode() in held)
    return Token(
        text=piece if added else written(held),
        bytes=held,
        id=int(id_),
        piece=piece,
        special=special,
        added=added,
        unknown=unknown,
        changed=not (added or unknown or same),
        dropped=dropped,
        rank=steps.made.get(piece),
        score=steps.scores.get(piece),
        loss=float(losses[number]),
    )


def written(data: bytes) -> str:
    """Bytes as text; those that are no whole character as <0xE4>."""
    text = data.decode("utf-8", "surrogateescape")  # which stands for such bytes by U+DC80 to U+DCFF
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in text)


def _over_bytes(spelt: Spelling, losses: np.ndarray) -> np.ndarray:
    """(bytes,) nats: each token's loss over its bytes."""
    own = [len(each) for each in spelt.held]
    of_text = [i for i in range(len(own)) if not spelt.added[i]]
    sums = np.zeros(len(own))
    waiting = 0.0
    last = -1
    for i in of_text:
        if own[i]:
            sums[i] = losses[i] + waiting
            waiting, last = 0.0, i
        elif last >= 0 and spelt.own[i] != b" ":  # a further token of a character
            sums[last] += losses[i]
        else:  # a space before a word that is no part of the text
            waiting += 0.0 if math.isnan(losses[i]) else float(losses[i])
    if last >= 0:
        sums[last] += waiting
    parts = [np.full(size, sums[i] / size) for i, size in enumerate(own) if size]
    return np.concatenate(parts) if parts else np.zeros(0)


def _table(items: Sequence[Token]) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {
            "token": [each.text for each in items],
            "id": [each.id for each in items],
            "bytes": [each.bytes.hex(" ") for each in items],
            "piece": [each.piece for each in items],
            "special": [each.special for each in items],
            "added": [each.added for each in items],
            "unknown": [each.unknown for each in items],
            "changed": [each.changed for each in items],
            "rank": pd.array([each.rank for each in items], dtype="Int64"),
            "score": [math.nan if each.score is None else each.score for each in items],
            "loss": [each.loss for each in items],
            "bits_per_byte": [each.bits_per_byte for each in items],
        }
    )


def _notes(
    text: str, steps: Pipeline, spelt: Spelling, items: Sequence[Token], spread: np.ndarray, asked: bool
) -> tuple[str, ...]:
    found: list[str] = []
    if spelt.prefix:
        found.append(
            "The tokenizer puts a space before the text; the first token holds it, and it is no byte of the text."
        )
    elif steps.prefix_space and spelt.way == "offsets":
        found.append("The tokenizer puts a space before the text, which is no byte of it.")
    if steps.changes:
        found.append(f"Before it splits a text, the tokenizer {'; '.join(dict.fromkeys(steps.changes))}.")
    if spelt.way == "offsets":
        found.append(
            "Its tokens do not spell this text: the bytes are those of the characters each came from, by its offsets."
        )
    changed = [token for token in items if token.changed]
    if changed:
        shown = ", ".join(f"{token.text!r} as {token.piece!r}" for token in changed[:SHOWN_CHANGES])
        more = " …" if len(changed) > SHOWN_CHANGES else ""
        found.append(f"Not as the text has it: {counted(len(changed), 'token')}, {shown}{more}.")
    if any(SPACE in token.piece and SPACE.encode() in token.bytes for token in changed):
        found.append(f"The tokenizer writes {SPACE} for a space, so that a {SPACE} of the text can't be told from one.")
    if unknown := sum(token.unknown for token in items):
        found.append(
            f"For want of a token, the model sees {counted(unknown, 'sign')} for what is unknown: those bytes are lost to it."
        )
    if lost := sum(token.dropped for token in items):
        found.append(
            f"No token holds {counted(lost, 'byte')} of the text, white space as a rule; what it is stands with the next token."
        )
    if not steps.fast:
        found.append(f"{steps.model} is a slow tokenizer: it tells no merges and nothing of what it changes.")
    elif steps.model == "BPE" and not steps.merges:
        found.append("The tokenizer holds no merges: no token has a rank.")
    if asked:
        without = int(np.isnan(spread).sum())
        if without == len(spread):
            found.append("No byte has a loss: the text is a single token, and nothing stands before it.")
        elif without:
            found.append(
                f"No loss is known of the first {counted(without, 'byte')}: nothing stands before the first token, and no start "
                "token is put there."
            )
        after = [token.piece for token in items if token.added and math.isfinite(token.loss)]
        if after:
            found.append(f"The loss of {', '.join(map(repr, after))}, which the tokenizer added, counts for no byte.")
    return tuple(found)
