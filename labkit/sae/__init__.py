"""Sparse autoencoders: the features a model's residual stream is made of, found, named, checked and steered."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.sae.dictionary import SAE as SAE
    from labkit.sae.dictionary import Feature as Feature
    from labkit.sae.interventions import clamp as clamp
    from labkit.sae.interventions import splice as splice
    from labkit.sae.interventions import steer as steer
    from labkit.sae.loading import load as load
    from labkit.sae.quality import Quality as Quality
    from labkit.sae.quality import evaluate as evaluate
    from labkit.sae.reading import Features as Features
    from labkit.sae.reading import features as features
    from labkit.sae.reading import residual as residual

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "dictionary": ("Feature", "SAE"),
    "interventions": ("clamp", "splice", "steer"),
    "loading": ("load",),
    "quality": ("Quality", "evaluate"),
    "reading": ("Features", "features", "residual"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"labkit.sae.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
