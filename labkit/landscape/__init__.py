"""The landscape of models and machines: what fits where, what bounds it, how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.landscape.machines import Device as Device
    from labkit.landscape.machines import Devices as Devices
    from labkit.landscape.machines import Hardware as Hardware
    from labkit.landscape.machines import devices as devices
    from labkit.landscape.machines import hardware as hardware
    from labkit.landscape.planning import Plan as Plan
    from labkit.landscape.planning import plan as plan
    from labkit.landscape.selections import Selection as Selection
    from labkit.landscape.selections import selection as selection
    from labkit.landscape.training import Training as Training

_NAMES = {
    "machines": ("Device", "Devices", "Hardware", "devices", "hardware"),
    "planning": ("Plan", "plan"),
    "selections": ("Selection", "selection"),
    "training": ("Training",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
