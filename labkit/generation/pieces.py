"""The text of a run while it grows: whole characters only, nothing that a stop string may take back, nothing lost.

A decoder may change what it made of earlier tokens when more come: characters spelt in bytes, a text's first space. So
text is handed out only once no later token can change it, and what was handed out, joined, is the text of all the
tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.models.tokens import REPLACEMENT, token_strings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTLE_TOKENS = 32
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class Pieces:
    """Text in pieces, token by token; and the whole text of given tokens.

    stop: strings that end the text. They may be or hold special tokens, written by their names.
    stopped: whether one was met.  length: how many tokens there were.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.stop = tuple(stop)
        self.stopped = False
        self._reader = _Reader(tokenizer)
        self.length = 0  # tokens so far
        self._ids: list[int] = []  # without special tokens
        self._names: list[tuple[int, str]] = []  # (place in the text, name) of each special token
        self._before = 0  # how many of them stand before the first token of the text
        self._settled = ""  # text of the tokens before `_start`, which no later token can change
        self._start = 0
        self._context = 0  # from here on tokens are decoded: a whole character or more before `_start`
        self._given = ""
        self._settles = True

    @property
    def given(self) -> str:
        """The text handed out so far."""
        return self._given

    def add(self, id_: int) -> str:
        """The text that became certain with one more token, "" if none did."""
        self.length += 1
        if (name := self._reader.special_name(id_)) is not None:
            self._names.append((len(self._whole(final=False)), name))
            self._before += not self._ids
        else:
            self._ids.append(id_)
        text = self._whole(final=False)
        if self._settles and len(self._ids) - self._start > SETTLE_TOKENS:
            self._settle(text)
        if text.endswith(REPLACEMENT):  # it may be the beginning of a character that is not whole yet
            text = text[:-1]
        return self._hand_out(text, final=False)

    def add_end(self, id_: int) -> str:
        """The rest of the text, ended by a token that is no part of it; its name may be a stop string all the same."""
        if self._reader.special_name(id_) is not None:
            return self.add(id_) + self.end()
        self.length += 1
        return self.end()

    def end(self) -> str:
        """What was held back."""
        text = self._reader.text(self._ids, final=True)
        if not text.startswith(self._given):  # no decoder known does this; what was said can't be taken back
            text = self._whole(final=True)
        return self._hand_out(text, final=True)

    def _settle(self, text: str) -> None:
        """Keep each decode short: from here on only a few tokens before the new ones are decoded with them."""
        length = self._reader.last_whole(self._ids)
        if length and not text.endswith(REPLACEMENT):
            self._settled, self._start, self._context = text, len(self._ids), len(self._ids) - length

    def _whole(self, *, final: bool) -> str:
        """The text so far: what is settled, and the newer tokens decoded after some that are known.

        Some decoders treat the beginning of a text otherwise (SentencePiece's drop its first space), so new tokens are
        decoded behind known ones, whose own text is taken off again.
        """
        if self._start:
            before = self._reader.text(self._ids[self._context : self._start], final=True)
            text = self._reader.text(self._ids[self._context :], final=final)
            if text.startswith(before):
                return self._settled + text[len(before) :]
            self._settles, self._start, self._settled = False, 0, ""  # this decoder wants to see the whole
        return self._reader.text(self._ids, final=final)

    def _hand_out(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        end = len(text)
        if self.stop:
            found, open_from = self._search(text)
            if found is not None:
                self.stopped, end = True, found
            elif not final:
                end = open_from
        piece = text[len(self._given) : end]
        self._given += piece
        return piece

    def _search(self, text: str) -> tuple[int | None, int]:
        """Where in the text the first stop string begins, if one is there; and from where on one may have begun.

        They are looked for in the text as it is, and in the text with the special tokens' names in it, with and without the
        space that a decoder takes off its beginning. What was handed out is known to begin none.
        """
        begin = len(self._given)
        rest = text[begin:]
        found: list[int] = []
        open_from = len(text)
        for stop in self.stop:
            if (at := rest.find(stop)) >= 0:
                found.append(begin + at)
            open_from = min(open_from, len(text) - _overlap(rest, stop))
        for lead in dict.fromkeys((self._reader.stripped(self._ids) if not begin else "", "")):
            names = [
                (0 if order < self._before else len(lead) + place - begin, name)
                for order, (place, name) in enumerate(self._names)
                if place >= begin
            ]
            if not lead and not names:
                continue
            named, places = _with_names(lead + rest, names)
            for stop in self.stop:
                if (at := named.find(stop)) >= 0:
                    found.append(begin + max(0, places[at] - len(lead)))
                open_from = min(open_from, begin + max(0, places[len(named) - _overlap(named, stop)] - len(lead)))
        return (min(found) if found else None), open_from


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids without special tokens, as the tokenizer decodes them at once.

    One thing is done otherwise. Where bytes stand that make no text, decoders of tokens such as <0xE4> take every
    character spelt in bytes beside them for broken; here whole characters stay, and each byte of none is a U+FFFD.
    """
    reader = _Reader(tokenizer)
    return reader.text([id_ for id_ in ids if reader.special_name(id_) is None], final=True)


class _Reader:
    """Decoding by a tokenizer, with what has to be known of single tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._special: dict[int, str | None] = {}
        self._byte: dict[int, int | None] = {}
        self._replacement: list[int] | None = None

    def special_name(self, id_: int) -> str | None:
        """The name of a token that is left out of the text; None for all others."""
        if id_ not in self._special:
            name = self._decode([id_], skip=False)
            left_out = bool(name) and not self._decode([id_], skip=True)
            self._special[id_] = name if left_out else None
        return self._special[id_]

    def text(self, ids: Sequence[int], *, final: bool) -> str:
        """The text of ids without special tokens. Unless final, a character that may still become whole is left out."""
        return self._decode(self._mended(ids, final=final), skip=True)

    def last_whole(self, ids: Sequence[int]) -> int:
        """How many tokens at the end make the last thing that stands by itself; 0 where a character is not whole."""
        tail = self._bytes_at_end(ids)
        if not tail:
            return 1
        characters = _characters(tail)
        last, whole = characters[-1]
        return 0 if whole is None else len(last)

    def stripped(self, ids: Sequence[int]) -> str:
        """The space that the decoder takes off the beginning of a text of these ids, or nothing."""
        if not ids:
            return ""
        first = token_strings(self.tokenizer, ids[:1])[0]
        return " " if first == " " + self._decode(ids[:1], skip=True) else ""

    def _mended(self, ids: Sequence[int], *, final: bool) -> list[int]:
        """ids with every byte that belongs to no character written as the three bytes of U+FFFD."""
        mended: list[int] = []
        run: list[int] = []
        for id_ in [*ids, None]:
            if id_ is not None and self._byte_of(id_) is not None:
                run.append(id_)
                continue
            if run:
                mended += self._mended_run(run, pending=id_ is None and not final)
                run = []
            if id_ is not None:
                mended.append(id_)
        return mended

    def _mended_run(self, run: list[int], *, pending: bool) -> list[int]:
        mended: list[int] = []
        at = 0
        for part, whole in _characters(bytes(byte for id_ in run if (byte := self._byte_of(id_)) is not None)):
            own = run[at : at + len(part)]
            at += len(part)
            if whole:
                mended += own
            elif whole is None and pending:
                break
            else:
                mended += (self._replacement_ids() * len(part)) or own
        return mended

    def _bytes_at_end(self, ids: Sequence[int]) -> bytes:
        found: list[int] = []
        for id_ in reversed(ids):
            if (byte := self._byte_of(id_)) is None:
                break
            found.append(byte)
        return bytes(reversed(found))

    def _byte_of(self, id_: int) -> int | None:
        """The byte that a token such as <0xE4> stands for; None for all others."""
        if id_ not in self._byte:
            name = self.tokenizer.convert_ids_to_tokens(id_)
            match = _BYTE_TOKEN.fullmatch(name) if isinstance(name, str) else None
            is_byte = match is not None and self._decode([id_], skip=False) != name
            self._byte[id_] = int(match[1], 16) if match is not None and is_byte else None
        return self._byte[id_]

    def _replacement_ids(self) -> list[int]:
        if self._replacement is None:
            wanted = REPLACEMENT.encode()
            ids = [self.tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in wanted]
            known = [
                id_
                for id_, byte in zip(ids, wanted, strict=True)
                if isinstance(id_, int) and self._byte_of(id_) == byte
            ]
            self._replacement = known if len(known) == len(wanted) else []
        return self._replacement

    def _decode(self, ids: Sequence[int], *, skip: bool) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)


def _characters(data: bytes) -> list[tuple[bytes, bool | None]]:
    """Bytes by characters of UTF-8: each with True; a byte of none with False; None for one that may become whole."""
    found: list[tuple[bytes, bool | None]] = []
    at = 0
    while at < len(data):
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        length, whole = 1, False
        try:
            for end in range(at + 1, min(at + 4, len(data)) + 1):
                if decoder.decode(data[end - 1 : end]):
                    length, whole = end - at, True
                    break
            else:
                if len(data) - at < 4:
                    found.append((data[at:], None))
                    return found
        except UnicodeDecodeError:
            pass
        found.append((data[at : at + length], whole))
        at += length
    return found


def _with_names(text: str, names: Sequence[tuple[int, str]]) -> tuple[str, list[int]]:
    """The text with names put in at their places; and for each place in it, and its end, the place in the text."""
    parts: list[str] = []
    places: list[int] = []
    at = 0
    for place, name in names:
        place = min(place, len(text))
        parts += [text[at:place], name]
        places += [*range(at, place), *[place] * len(name)]
        at = place
    parts.append(text[at:])
    places += range(at, len(text) + 1)
    return "".join(parts), places


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of text are the beginning of stop."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
