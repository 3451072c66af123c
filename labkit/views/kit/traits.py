"""What traitlets hands to a view's observers and validators, and constants that a view sends to its page."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

import traitlets

from labkit.views.kit.errors import Refused

Change: TypeAlias = dict[str, Any]
"""Of an observer: "name", "old", "new"."""
Proposal: TypeAlias = dict[str, Any]
"""Of a validator: "trait", "value"."""
Content: TypeAlias = dict[str, Any]
"""Of a message of the page, or facts by name: what JSON takes."""


def sent(**constants: object) -> traitlets.Dict[str, object]:
    """Constants that the page needs too, as a trait of the view: `constants = sent(levels=LEVELS)`."""
    return traitlets.Dict(constants, read_only=True).tag(sync=True)


class OneOf(traitlets.Unicode):  # type: ignore[type-arg]
    """One of several words, synced; another is refused with a sentence that says which there are."""

    def __init__(self, names: Collection[str], default: str) -> None:
        super().__init__(default)
        self._words = tuple(names)
        self.tag(sync=True)

    def validate(self, _view: object, value: object) -> str:
        if value not in self._words:
            raise Refused(f"{self.name}={value!r} is not known; give one of {', '.join(self._words)}.")
        return str(value)
