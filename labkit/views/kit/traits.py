"""What traitlets hands to a view's observers and validators, and constants that a view sends to its page."""

from __future__ import annotations

from typing import Any, TypeAlias

import traitlets

Change: TypeAlias = dict[str, Any]
"""Of an observer: "name", "old", "new"."""
Proposal: TypeAlias = dict[str, Any]
"""Of a validator: "trait", "value"."""
Content: TypeAlias = dict[str, Any]
"""Of a message of the page, or facts by name: what JSON takes."""


def sent(**constants: object) -> traitlets.Dict[str, object]:
    """Constants that the page needs too, as a trait of the view: `constants = sent(levels=LEVELS)`."""
    return traitlets.Dict(constants, read_only=True).tag(sync=True)
