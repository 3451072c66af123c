"""Circuits: what a model is about to say, and which of its parts make it say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.circuits.graph import CircuitEdge as CircuitEdge
    from labkit.circuits.graph import CircuitGraph as CircuitGraph
    from labkit.circuits.graph import CircuitNode as CircuitNode

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "graph": ("CircuitEdge", "CircuitGraph", "CircuitNode"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
