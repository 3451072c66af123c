"""Decoding: prompts in, recorded generations out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.generation.batches import Repeats as Repeats
    from labkit.generation.batches import Throughput as Throughput
    from labkit.generation.batches import repeats as repeats
    from labkit.generation.batches import throughput as throughput
    from labkit.generation.beam_search import beams as beams
    from labkit.generation.caches import CacheSizes as CacheSizes
    from labkit.generation.caches import CacheTimes as CacheTimes
    from labkit.generation.caches import cache_sizes as cache_sizes
    from labkit.generation.caches import cache_times as cache_times
    from labkit.generation.choices import Choices as Choices
    from labkit.generation.choices import distribution as distribution
    from labkit.generation.forms import Form as Form
    from labkit.generation.forms import Grammar as Grammar
    from labkit.generation.margins import Margin as Margin
    from labkit.generation.margins import first_difference as first_difference
    from labkit.generation.margins import smallest_margin as smallest_margin
    from labkit.generation.record import Generation as Generation
    from labkit.generation.record import Reuse as Reuse
    from labkit.generation.record import Sampling as Sampling
    from labkit.generation.speculation import Draft as Draft
    from labkit.generation.speculation import Speculation as Speculation
    from labkit.generation.tree import Comparison as Comparison
    from labkit.generation.tree import Tree as Tree

_NAMES = {
    "batches": ("Repeats", "Throughput", "repeats", "throughput"),
    "beam_search": ("beams",),
    "caches": ("CacheSizes", "CacheTimes", "cache_sizes", "cache_times"),
    "choices": ("Choices", "distribution"),
    "forms": ("Form", "Grammar"),
    "margins": ("Margin", "first_difference", "smallest_margin"),
    "record": ("Generation", "Reuse", "Sampling"),
    "speculation": ("Draft", "Speculation"),
    "tree": ("Comparison", "Tree"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
