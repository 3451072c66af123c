"""What a language costs in tokens: the same passages in many languages, through every tokenizer at hand.

Measured as by Petrov et al. 2023 (Language model tokenizers introduce unfairness between languages, arXiv:2305.15425) and
Ahia et al. 2023 (Do all languages cost the same?, arXiv:2305.13707): the tokens of parallel texts, relative to English.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.results import Result
from labkit.statistics import interval, resampled
from labkit.tokenization.parallel import ENGLISH, languages
from labkit.tokenization.pipelines import pipeline, tokenizer_of
from labkit.trace.input import check_characters

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

__all__ = ["BYTES", "CHARACTERS", "LanguageTax", "language_tax"]

BYTES, CHARACTERS = "bytes", "characters"
FEWEST = 5  # passages, for an interval


@dataclass(frozen=True, eq=False, repr=False)
class LanguageTax(Result):
    """Tokens that the same passages take in many languages.

    table: a row for each tokenizer and language: tokenizer, language, code, script, passages, characters, bytes, tokens (of all
        passages, no signs put around them), per_character, per_byte, per_passage, relative (tokens over those of the reference,
        by the same tokenizer; with low and high, 95 %, by drawing passages again, the same for both), unknown (the share of
        tokens that stand for what the vocabulary has not: such a text is not cheap but lost).
        Beside the tokenizers stand "bytes" and "characters": what the same texts take by plain UTF-8 and by code points.
    reference: the language that is 1.  draws, seed: of the intervals.
    """

    reference: str
    draws: int
    seed: int

    def _title(self) -> str:
        return f"Tokens for the same text, relative to {self.reference}"

    def _remarks(self) -> Sequence[str]:
        lost = self.table[self.table["unknown"] > 0.01]
        if lost.empty:
            return ()
        names = ", ".join(dict.fromkeys(lost["tokenizer"]))
        return (
            f"Of some languages {names} sees signs for what is unknown (column unknown): fewer tokens, and no text.",
        )

    def worst(self, tokenizer: str) -> pd.Series:
        """The row of the dearest language of a tokenizer."""
        rows = self._rows(tokenizer)
        found: pd.Series = rows.loc[rows["relative"].idxmax()]
        return found

    def consequences(
        self, tokenizer: str, *, price: float = 1.0, context: int = 8192, tokens_per_second: float = 20.0
    ) -> pd.DataFrame:
        """What that does to price, context and speed, for what a million English tokens say.

        price: of a million tokens, in any currency.  context: positions of a model.  tokens_per_second: its speed.
        Columns: language, code, price (of what a million tokens of the reference say), context (how many tokens of the
        reference fit, in what they say), speed (tokens of the reference a second, in what they say), attention (operations of
        attention among all tokens of a text, which grow with the square, relative to the reference); low and high of price.
        """
        price = checks.number("price", price, above=0)
        context = checks.whole("context", context, 1)
        speed = checks.number("tokens_per_second", tokens_per_second, above=0)
        rows = self._rows(tokenizer)
        found: pd.DataFrame = rows[["language", "code"]].assign(
            price=price * rows["relative"],
            price_low=price * rows["low"],
            price_high=price * rows["high"],
            context=(context / rows["relative"]).round().astype(int),
            speed=speed / rows["relative"],
            attention=rows["relative"] ** 2,
        )
        return found.sort_values("price", ascending=False, ignore_index=True)

    def _rows(self, tokenizer: str) -> pd.DataFrame:
        tokenizer = checks.one_of("tokenizer", tokenizer, tuple(dict.fromkeys(self.table["tokenizer"])))
        found: pd.DataFrame = self.table[self.table["tokenizer"] == tokenizer]
        return found


def language_tax(
    tokenizers: object,
    texts: Mapping[str, Sequence[str]] | None = None,
    *,
    reference: str | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> LanguageTax:
    """How many tokens the same passages take in many languages, by each tokenizer and by plain bytes.

    tokenizers: a lab or a tokenizer, a list of them, or a mapping from names to them.
    texts: passages by language, as many in each and the same in content; by default 14 passages of the Universal Declaration
        of Human Rights in 83 languages, by their codes.  reference: the language the others are compared with; "eng" in those
        that are shipped, otherwise the first.
    draws: resamplings of the passages for each interval.
    Raises BadInput for passages that are not parallel, fewer than five of them, and names that are not there.
    """
    import pandas as pd

    named = _named(tokenizers)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    passages, about = _passages(texts)
    reference = checks.one_of("reference", reference or (ENGLISH if texts is None else next(iter(passages))), passages)
    weights = resampled(np.zeros(len(passages[reference]), np.int64), draws, np.random.default_rng(seed))
    rows: list[dict[str, object]] = []
    for name, tokenizer in {**named, BYTES: None, CHARACTERS: None}.items():
        counts = {code: _counts(name, tokenizer, some) for code, some in passages.items()}
        base = counts[reference][0]
        for code, (own, unknown) in counts.items():
            low, high = interval((weights @ own) / (weights @ base))
            letters, size = sum(map(len, passages[code])), sum(len(text.encode()) for text in passages[code])
            rows.append(
                {
                    "tokenizer": name,
                    "language": about[code][0],
                    "code": code,
                    "script": about[code][1],
                    "passages": len(own),
                    "characters": letters,
                    "bytes": size,
                    "tokens": int(own.sum()),
                    "per_character": own.sum() / letters,
                    "per_byte": own.sum() / size,
                    "per_passage": own.mean(),
                    "relative": own.sum() / base.sum(),
                    "low": float(low),
                    "high": float(high),
                    "unknown": unknown / own.sum(),
                }
            )
    return LanguageTax(pd.DataFrame(rows), about[reference][0], draws, seed)


def _named(tokenizers: object) -> dict[str, PreTrainedTokenizerBase]:
    """The tokenizers by the names they are shown by."""
    if isinstance(tokenizers, Mapping):
        found = {str(name): tokenizer_of(each)[0] for name, each in tokenizers.items()}
    else:
        several = tokenizers if isinstance(tokenizers, list | tuple) else [tokenizers]
        found = {}
        for each in several:
            tokenizer, _, name = tokenizer_of(each)
            while name in found:
                name += "'"
            found[name] = tokenizer
    if not found:
        raise BadInput("There is no tokenizer to count with; give a lab or a tokenizer, or a list of them.")
    if taken := {BYTES, CHARACTERS} & found.keys():
        raise BadInput(f"{min(taken)!r} is the name of what stands beside the tokenizers; give yours another.")
    return found


def _passages(
    texts: Mapping[str, Sequence[str]] | None,
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, str]]]:
    """(passages by code, name and script by code)."""
    if texts is None:
        shipped = languages()
        return (
            {code: each.passages for code, each in shipped.items()},
            {code: (each.name, each.script) for code, each in shipped.items()},
        )
    if not isinstance(texts, Mapping) or not texts:
        raise BadInput('Parallel texts are given by language: {"English": [passage, ...], "Deutsch": [passage, ...]}.')
    found = {str(name): checks.texts(f"texts[{name!r}]", some) for name, some in texts.items()}
    sizes = {name: len(some) for name, some in found.items()}
    if len(set(sizes.values())) > 1 or min(sizes.values()) < FEWEST:
        counts = ", ".join(f"{n} of {name}" for name, n in sizes.items())
        raise BadInput(f"Parallel texts are as many passages in each language, {FEWEST} at least; these are {counts}.")
    for some in found.values():
        check_characters(some)
    return found, {name: (name, "") for name in found}


def _counts(name: str, tokenizer: PreTrainedTokenizerBase | None, passages: Sequence[str]) -> tuple[np.ndarray, int]:
    """((passages,) tokens of each, how many of all stand for what is unknown)."""
    if tokenizer is None:
        return np.array([len(text.encode() if name == BYTES else text) for text in passages], np.float64), 0
    ids = [list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in passages]
    if not all(ids):
        raise BadInput(f"{name} makes no token of a passage; give texts with words in them.")
    sign = pipeline(tokenizer).unknown
    unknown = tokenizer.convert_tokens_to_ids(sign) if sign else None
    return np.array([len(each) for each in ids], np.float64), sum(id_ == unknown for each in ids for id_ in each)
