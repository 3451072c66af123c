"""Quantization: what bits cost, on the weights, in the text and on the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.models.texts import texts as texts
    from labkit.quantization import formats as formats
    from labkit.quantization.advice import Advice as Advice
    from labkit.quantization.advice import advise as advise
    from labkit.quantization.cached import CacheDamage as CacheDamage
    from labkit.quantization.cached import CacheSizes as CacheSizes
    from labkit.quantization.cached import cache_damage as cache_damage
    from labkit.quantization.cached import cache_sizes as cache_sizes
    from labkit.quantization.cached import quantized_cache as quantized_cache
    from labkit.quantization.calibration import Activations as Activations
    from labkit.quantization.calibration import activations as activations
    from labkit.quantization.counting import Sizes as Sizes
    from labkit.quantization.counting import sizes as sizes
    from labkit.quantization.fingerprints import OnGrid as OnGrid
    from labkit.quantization.fingerprints import on_grid as on_grid
    from labkit.quantization.floats import FP8 as FP8
    from labkit.quantization.format_table import ByFormat as ByFormat
    from labkit.quantization.format_table import by_format as by_format
    from labkit.quantization.gguf_blocks import Q8Zero as Q8Zero
    from labkit.quantization.gguf_blocks import TypeOne as TypeOne
    from labkit.quantization.gguf_blocks import TypeZero as TypeZero
    from labkit.quantization.gguf_blocks import gguf_bytes as gguf_bytes
    from labkit.quantization.gguf_export import write_gguf as write_gguf
    from labkit.quantization.grids import Format as Format
    from labkit.quantization.grids import Grid as Grid
    from labkit.quantization.grids import Packed as Packed
    from labkit.quantization.integers import Absmax as Absmax
    from labkit.quantization.integers import MinMax as MinMax
    from labkit.quantization.integers import ZeroPoint as ZeroPoint
    from labkit.quantization.inventory import Contents as Contents
    from labkit.quantization.inventory import contents as contents
    from labkit.quantization.k_quants import Q4K as Q4K
    from labkit.quantization.k_quants import Q6K as Q6K
    from labkit.quantization.layers import PackedLinear as PackedLinear
    from labkit.quantization.microscaling import MXFP4 as MXFP4
    from labkit.quantization.mixing import Mix as Mix
    from labkit.quantization.mixing import mix as mix
    from labkit.quantization.multiple_choice import Accuracy as Accuracy
    from labkit.quantization.multiple_choice import accuracy as accuracy
    from labkit.quantization.normal_float import NF4 as NF4
    from labkit.quantization.paired_accuracy import AccuracyChange as AccuracyChange
    from labkit.quantization.paired_accuracy import accuracy_change as accuracy_change
    from labkit.quantization.quantizing import quantize as quantize
    from labkit.quantization.reconstruction import Reconstruction as Reconstruction
    from labkit.quantization.reconstruction import matrix as matrix
    from labkit.quantization.recorded import recorded_squeeze as recorded_squeeze
    from labkit.quantization.recorded import recorded_ternary as recorded_ternary
    from labkit.quantization.sensitivities import Sensitivity as Sensitivity
    from labkit.quantization.sensitivities import sensitivity as sensitivity
    from labkit.quantization.speeds import Speed as Speed
    from labkit.quantization.speeds import speed as speed
    from labkit.quantization.ternary import Absmean as Absmean
    from labkit.quantization.ternary_counts import Multiplications as Multiplications
    from labkit.quantization.ternary_counts import multiplications as multiplications
    from labkit.quantization.text_damage import Damage as Damage
    from labkit.quantization.text_damage import damage as damage
    from labkit.quantization.weights import Matrix as Matrix
    from labkit.quantization.weights import matrices as matrices

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "advice": ("Advice", "advise"),
    "multiple_choice": ("Accuracy", "accuracy"),
    "paired_accuracy": ("AccuracyChange", "accuracy_change"),
    "cached": ("CacheDamage", "CacheSizes", "cache_damage", "cache_sizes", "quantized_cache"),
    "fingerprints": ("OnGrid", "on_grid"),
    "counting": ("Sizes", "sizes"),
    "inventory": ("Contents", "contents"),
    "floats": ("FP8",),
    "format_table": ("ByFormat", "by_format"),
    "gguf_blocks": (
        "Q8Zero",
        "TypeOne",
        "TypeZero",
        "gguf_bytes",
    ),
    "k_quants": (
        "Q4K",
        "Q6K",
    ),
    "microscaling": ("MXFP4",),
    "normal_float": ("NF4",),
    "ternary": ("Absmean",),
    "calibration": ("Activations", "activations"),
    "gguf_export": ("write_gguf",),
    "grids": ("Format", "Grid", "Packed"),
    "integers": ("Absmax", "MinMax", "ZeroPoint"),
    "layers": ("PackedLinear",),
    "weights": ("Matrix", "matrices"),
    "reconstruction": ("Reconstruction", "matrix"),
    "quantizing": ("quantize",),
    "mixing": ("Mix", "mix"),
    "sensitivities": ("Sensitivity", "sensitivity"),
    "recorded": ("recorded_squeeze", "recorded_ternary"),
    "ternary_counts": ("Multiplications", "multiplications"),
    "speeds": ("Speed", "speed"),
    "text_damage": ("Damage", "damage"),
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, _NAMES, elsewhere={"labkit.models.texts": ("texts",)}, modules=("formats",)
)
