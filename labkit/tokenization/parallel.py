"""The same passages in many languages, as they come with labkit: articles of the Universal Declaration of Human Rights."""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

from labkit.errors import BadModelFile
from labkit.models.shipped import ASSETS

__all__ = ["ENGLISH", "Language", "languages"]

ENGLISH = "eng"


class Language(NamedTuple):
    """A language's passages, each the same text as the English one of its number.

    code: ISO 639-3, with the spelling or script where there are several.  script: ISO 15924.
    """

    code: str
    name: str
    script: str
    passages: tuple[str, ...]


@cache
def languages() -> dict[str, Language]:
    """All shipped languages by code, English first; origin and licence: labkit/assets/languages/README.md."""
    path = ASSETS / "languages" / "declaration.json"
    try:
        entries = json.loads(path.read_text("utf-8"))["languages"]
        return {
            code: Language(code, entry["name"], entry["script"], tuple(entry["passages"]))
            for code, entry in entries.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModelFile(f"{path.name}, which comes with labkit, can't be read; install labkit again.") from error
