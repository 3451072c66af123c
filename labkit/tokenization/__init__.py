"""Tokens: the bytes each stands for, how it came to be one, what a model pays for it, and what a language does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.tokenization.merging import Merges as Merges
    from labkit.tokenization.merging import merges as merges
    from labkit.tokenization.parallel import Language as Language
    from labkit.tokenization.parallel import languages as languages
    from labkit.tokenization.splitting import Token as Token
    from labkit.tokenization.splitting import Tokens as Tokens
    from labkit.tokenization.splitting import tokens as tokens
    from labkit.tokenization.taxing import LanguageTax as LanguageTax
    from labkit.tokenization.taxing import language_tax as language_tax

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "merging": ("Merges", "merges"),
    "parallel": ("Language", "languages"),
    "splitting": ("Token", "Tokens", "tokens"),
    "taxing": ("LanguageTax", "language_tax"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
