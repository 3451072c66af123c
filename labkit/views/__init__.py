"""Views: each draws one measure, as a widget where a kernel is there and as one self-contained HTML file elsewhere.

A view is imported when it is first asked for, because widgets and arrays are slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.views.adapter_view import adapter as adapter
    from labkit.views.attention_view import attention as attention
    from labkit.views.charts import memory as memory
    from labkit.views.chat_view import chat as chat
    from labkit.views.circuit_view import circuit as circuit
    from labkit.views.compare_chart import compare as compare
    from labkit.views.context_charts import attention_over_distance as attention_over_distance
    from labkit.views.context_charts import loss_by_position as loss_by_position
    from labkit.views.context_charts import needles as needles
    from labkit.views.context_charts import rotation as rotation
    from labkit.views.context_charts import streaming as streaming
    from labkit.views.dose_chart import doses as doses
    from labkit.views.explorer_view import explorer as explorer
    from labkit.views.features_view import features as features
    from labkit.views.generation_charts import drafts as drafts
    from labkit.views.generation_charts import throughput as throughput
    from labkit.views.landscape_charts import footprint as footprint
    from labkit.views.landscape_charts import roofline as roofline
    from labkit.views.language_chart import languages as languages
    from labkit.views.lens_chart import attribution as attribution
    from labkit.views.lens_view import lens as lens
    from labkit.views.live_panel import live as live
    from labkit.views.lora_charts import runs as runs
    from labkit.views.lora_charts import updates as updates
    from labkit.views.mask_view import mask as mask
    from labkit.views.mix_view import mix as mix
    from labkit.views.patching_chart import patching as patching
    from labkit.views.probe_chart import probe as probe
    from labkit.views.quantization_charts import formats as formats
    from labkit.views.quantization_charts import sensitivity as sensitivity
    from labkit.views.quantization_charts import squeeze as squeeze
    from labkit.views.quantization_view import quantization as quantization
    from labkit.views.recurrent_charts import lengths as lengths
    from labkit.views.recurrent_charts import recall as recall
    from labkit.views.routes_view import routes as routes
    from labkit.views.sampling_view import temperature as temperature
    from labkit.views.specialisation_chart import damage as damage
    from labkit.views.specialisation_chart import specialisation as specialisation
    from labkit.views.steering_view import steering as steering
    from labkit.views.tokens_view import tokens as tokens
    from labkit.views.training_view import training as training
    from labkit.views.tree_view import tree as tree
    from labkit.views.weight_chart import grid as grid

_NAMES = {
    "adapter_view": ("adapter",),
    "attention_view": ("attention",),
    "charts": ("memory",),
    "chat_view": ("chat",),
    "circuit_view": ("circuit",),
    "compare_chart": ("compare",),
    "context_charts": ("attention_over_distance", "loss_by_position", "needles", "rotation", "streaming"),
    "dose_chart": ("doses",),
    "explorer_view": ("explorer",),
    "features_view": ("features",),
    "generation_charts": ("drafts", "throughput"),
    "landscape_charts": ("footprint", "roofline"),
    "language_chart": ("languages",),
    "lens_chart": ("attribution",),
    "lens_view": ("lens",),
    "live_panel": ("live",),
    "lora_charts": ("runs", "updates"),
    "mask_view": ("mask",),
    "mix_view": ("mix",),
    "patching_chart": ("patching",),
    "probe_chart": ("probe",),
    "quantization_charts": ("formats", "sensitivity", "squeeze"),
    "quantization_view": ("quantization",),
    "recurrent_charts": ("lengths", "recall"),
    "routes_view": ("routes",),
    "sampling_view": ("temperature",),
    "specialisation_chart": ("damage", "specialisation"),
    "steering_view": ("steering",),
    "tokens_view": ("tokens",),
    "training_view": ("training",),
    "tree_view": ("tree",),
    "weight_chart": ("grid",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
