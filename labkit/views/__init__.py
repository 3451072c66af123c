"""Views: each draws one measure, as a widget where a kernel is there and as one self-contained HTML file elsewhere.

A view is imported when it is first asked for, because widgets and arrays are slow to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.views.adapter_view import adapter as adapter
    from labkit.views.attention_view import attention as attention
    from labkit.views.charts import memory as memory
    from labkit.views.dose_chart import doses as doses
    from labkit.views.features_view import features as features
    from labkit.views.lens_chart import attribution as attribution
    from labkit.views.lens_chart import lens as lens
    from labkit.views.live_panel import live as live
    from labkit.views.lora_charts import runs as runs
    from labkit.views.lora_charts import updates as updates
    from labkit.views.mask_view import mask as mask
    from labkit.views.mix_view import mix as mix
    from labkit.views.patching_chart import patching as patching
    from labkit.views.quantization_charts import formats as formats
    from labkit.views.quantization_charts import sensitivity as sensitivity
    from labkit.views.quantization_charts import squeeze as squeeze
    from labkit.views.quantization_view import quantization as quantization
    from labkit.views.routes_view import routes as routes
    from labkit.views.sampling_view import temperature as temperature
    from labkit.views.specialisation_chart import damage as damage
    from labkit.views.specialisation_chart import specialisation as specialisation
    from labkit.views.steering_view import steering as steering
    from labkit.views.tokens_view import tokens as tokens
    from labkit.views.training_view import training as training
    from labkit.views.weight_chart import grid as grid

_HOMES = {
    "adapter": "labkit.views.adapter_view",
    "attention": "labkit.views.attention_view",
    "attribution": "labkit.views.lens_chart",
    "doses": "labkit.views.dose_chart",
    "formats": "labkit.views.quantization_charts",
    "sensitivity": "labkit.views.quantization_charts",
    "squeeze": "labkit.views.quantization_charts",
    "grid": "labkit.views.weight_chart",
    "features": "labkit.views.features_view",
    "lens": "labkit.views.lens_chart",
    "live": "labkit.views.live_panel",
    "memory": "labkit.views.charts",
    "mask": "labkit.views.mask_view",
    "mix": "labkit.views.mix_view",
    "patching": "labkit.views.patching_chart",
    "quantization": "labkit.views.quantization_view",
    "routes": "labkit.views.routes_view",
    "runs": "labkit.views.lora_charts",
    "specialisation": "labkit.views.specialisation_chart",
    "damage": "labkit.views.specialisation_chart",
    "steering": "labkit.views.steering_view",
    "tokens": "labkit.views.tokens_view",
    "temperature": "labkit.views.sampling_view",
    "training": "labkit.views.training_view",
    "updates": "labkit.views.lora_charts",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
