"""What a view says of an error, and how a trait refuses a value."""

from __future__ import annotations

import traitlets

from labkit.errors import BadInput, LabError
from labkit.markup import shorten, visible

_CHARACTERS = 400


class Refused(BadInput, traitlets.TraitError):
    """A value that a trait does not take: traitlets puts the old one back."""


def error_sentence(error: BaseException, what: str, end: str = ".") -> str:
    """An error as a sentence for a view: a LabError's own; any other's kind and text between `what` and `end`."""
    text = " ".join(str(error).split())
    if not (isinstance(error, LabError) and text):
        text = f"{what} {type(error).__name__}{': ' + text if text else ''}{end}"
    return shorten(visible(text), _CHARACTERS)
