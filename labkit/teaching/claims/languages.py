"""What is computed of the claim on what languages cost in tokens."""

from __future__ import annotations

from labkit.models.shipped import MODELS
from labkit.tokenization.taxing import BYTES, LanguageTax, language_tax

DEFAULT, OWN = "SmolLM2", "labkit-moe"


def measured() -> LanguageTax:
    """The shipped passages through the default model's tokenizer and that of labkit's own models."""
    from transformers import AutoTokenizer

    from labkit.lab import load

    with load() as lab:
        tokenizer = lab.tokenizer
    own = AutoTokenizer.from_pretrained(MODELS[OWN].tokenizer_path)
    return language_tax({DEFAULT: tokenizer, OWN: own})


def language_tax_claim() -> tuple[float, str]:
    """(tokens of the median language relative to English, by the default model; a sentence)."""
    table = measured().table
    others = table[table["code"] != "eng"]
    of = {name: rows.set_index("code") for name, rows in others.groupby("tokenizer")}
    default, own, plain = of[DEFAULT], of[OWN], of[BYTES]
    surely = int((default["low"] > 1).sum())
    dearest = default["relative"].idxmax()
    worst = default.loc[dearest]
    chinese = own.loc["cmn_hans"]
    return round(float(default["relative"].median()), 2), (
        f"{DEFAULT} takes more tokens than for English in {surely} of {len(default)} languages, with 95 % each: "
        f"{default['relative'].median():.2f} times as many in the median one, {worst['relative']:.1f} "
        f"({worst['low']:.1f} to {worst['high']:.1f}) in {worst['language']}; plain bytes take {plain['relative'].median():.2f} "
        f"and {plain.loc[dearest, 'relative']:.2f}; {OWN}, which learnt Chinese, takes {chinese['relative']:.2f} "
        f"({chinese['low']:.2f} to {chinese['high']:.2f}) for Chinese, {DEFAULT} {default.loc['cmn_hans', 'relative']:.2f}: "
        "it is what a tokenizer was trained on, and no property of a language"
    )
