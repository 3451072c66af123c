"""Text as it can be shown anywhere: valid Unicode, nothing invisible, not too long."""

from __future__ import annotations

import unicodedata

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean(text: str) -> str:
    """The text as valid Unicode: surrogate pairs joined, lone surrogates (no encoding takes them) as U+FFFD."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def visible(text: str) -> str:
    """The text with control, bidirectional and invisible characters written out, e.g. U+202E; line breaks stay."""
    return "".join(
        f"⟨U+{ord(character):04X}⟩"
        if unicodedata.category(character) in _UNSEEN and character not in "\n\t"
        else character
        for character in clean(text)
    )


def shorten(text: str, characters: int) -> str:
    """The text, cut to at most so many characters, with a sign where it was cut."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
