"""Tokens: the bytes each stands for, how it came to be one, what a model pays for it, and what a language does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.tokenization.comparing import UnitComparison as UnitComparison
    from labkit.tokenization.comparing import compare_units as compare_units
    from labkit.tokenization.comparing import compare_units_events as compare_units_events
    from labkit.tokenization.comparing import recorded_units as recorded_units
    from labkit.tokenization.merging import Merges as Merges
    from labkit.tokenization.merging import merges as merges
    from labkit.tokenization.parallel import Language as Language
    from labkit.tokenization.parallel import languages as languages
    from labkit.tokenization.splitting import Token as Token
    from labkit.tokenization.splitting import Tokens as Tokens
    from labkit.tokenization.splitting import tokens as tokens
    from labkit.tokenization.taxing import LanguageTax as LanguageTax
    from labkit.tokenization.taxing import language_tax as language_tax
    from labkit.tokenization.toy_models import PatchModel as PatchModel
    from labkit.tokenization.toy_models import UnitModel as UnitModel

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "comparing": ("UnitComparison", "compare_units", "compare_units_events", "recorded_units"),
    "merging": ("Merges", "merges"),
    "parallel": ("Language", "languages"),
    "splitting": ("Token", "Tokens", "tokens"),
    "taxing": ("LanguageTax", "language_tax"),
    "toy_models": ("PatchModel", "UnitModel"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
