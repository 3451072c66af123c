"""Mixtures of experts: which expert takes which token, whether that means anything, and what becomes without some."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.moe.costs import costs as costs
    from labkit.moe.edits import choose as choose
    from labkit.moe.edits import drop as drop
    from labkit.moe.edits import forbid as forbid
    from labkit.moe.edits import force as force
    from labkit.moe.edits import random_router as random_router
    from labkit.moe.corpus import checkpoints as checkpoints
    from labkit.moe.corpus import passages as passages
    from labkit.moe.corpus import texts as texts

# name -> module, fetched when first asked for; no function is named like its module, which would stand in its place
_HOMES = {
    "choose": "edits",
    "drop": "edits",
    "forbid": "edits",
    "force": "edits",
    "random_router": "edits",
    "costs": "costs",
    "checkpoints": "corpus",
    "passages": "corpus",
    "texts": "corpus",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"labkit.moe.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
