"""Circuits: what a model is about to say, and which of its parts make it say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.circuits.attributing import Agreement as Agreement
    from labkit.circuits.attributing import Attribution as Attribution
    from labkit.circuits.attributing import attribution as attribution
    from labkit.circuits.finding import Circuit as Circuit
    from labkit.circuits.finding import find as find
    from labkit.circuits.graph import CircuitEdge as CircuitEdge
    from labkit.circuits.graph import CircuitGraph as CircuitGraph
    from labkit.circuits.graph import CircuitNode as CircuitNode
    from labkit.circuits.measuring import Faithfulness as Faithfulness

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "attributing": ("Agreement", "Attribution", "attribution"),
    "finding": ("Circuit", "find"),
    "graph": ("CircuitEdge", "CircuitGraph", "CircuitNode"),
    "measuring": ("Faithfulness",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
