"""Attention heads: their measures, and what becomes of the model without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

# imported at once: these functions are called like their modules, which would otherwise stand in their place
from labkit.attention.heads import heads, repeated
from labkit.attention.peak import LiveBytes, peak_bytes
from labkit.attention.sweep import MEASURES, HeadMeasures, LayerSweep, Measure, measures, set_aside, sweep, uniform
from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.attention.ablations import Ablation as Ablation
    from labkit.attention.ablations import AblationEffect as AblationEffect
    from labkit.attention.ablations import HalfLoss as HalfLoss
    from labkit.attention.ablations import HeadEffects as HeadEffects
    from labkit.attention.ablations import Knockout as Knockout
    from labkit.attention.ablations import ablation as ablation
    from labkit.attention.ablations import effects as effects
    from labkit.attention.ablations import knockout as knockout

# what needs transformers waits until it is asked for
_NAMES = {
    "ablations": (
        "Ablation",
        "AblationEffect",
        "HalfLoss",
        "HeadEffects",
        "Knockout",
        "ablation",
        "effects",
        "knockout",
    )
}

__getattr__, __dir__, _ = lazy_names(__name__, _NAMES)

__all__ = [
    "MEASURES",
    "Ablation",
    "AblationEffect",
    "HalfLoss",
    "HeadEffects",
    "HeadMeasures",
    "Knockout",
    "LayerSweep",
    "LiveBytes",
    "Measure",
    "ablation",
    "effects",
    "heads",
    "knockout",
    "measures",
    "peak_bytes",
    "repeated",
    "set_aside",
    "sweep",
    "uniform",
]
