"""Find features: by the words they are active on, and by what some texts have in common and others lack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from labkit.errors import BadInput
from labkit.models.tokens import token_bytes, token_strings
from labkit.results import Result
from labkit.sae.dictionary import SAE
from labkit.sae.indexing import Index, given
from labkit.sae.reading import features_of_each
from labkit.trace.input import as_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from labkit.trace.lab_like import LabLike

__all__ = ["CommonFeatures", "FoundFeatures", "common", "search"]

RELABELLINGS = 200
DEALS = 50
NEAR = 6  # tokens on either side of a peak in which its word is looked for


@dataclass(frozen=True, eq=False, repr=False)
class FoundFeatures(Result):
    """What `search` found, a row per feature.

    chance: the most hits of any feature where the words are dealt to all examples at random, in the mean of some deals:
    what a row's hits have to pass.  asked: the words that were looked for.
    """

    chance: float
    asked: tuple[str, ...]

    def _title(self) -> str:
        return f"Features whose examples have their peak on {', '.join(self.asked)}"

    def _beneath(self) -> dict[str, dict[str, float]]:
        return {"chance": {"hits": self.chance}}

    def _remarks(self) -> tuple[str, ...]:
        return ("chance: the most hits of any feature when the words are dealt to all examples at random.",)


def search(
    lab: LabLike, sae: SAE, words: str | Sequence[str], *, of: Index | None = None, k: int = 20
) -> FoundFeatures:
    """Features whose examples have their peak on one of these words: search(lab, sae, "january february march").

    words: words to look for, whole and in any case; a text is taken apart at spaces and commas. In scripts that put no
    spaces between words (Chinese, Japanese, Thai) any stretch counts as one. of: an index; None for the one that came with
    the autoencoder.
    Returns a row per feature, the one with the most hits first: feature, hits (examples whose peak is on one of the words),
    examples, words (how many different ones of those asked), density (share of the corpus's tokens it is active on), found
    (the words at its peaks); beside it `chance`, the most hits that chance gives a feature.
    A few examples say what a feature may be; whether it is that, `check_name` measures.
    """
    asked = words.replace(",", " ").split() if isinstance(words, str) else words
    if not isinstance(asked, Sequence) or not all(isinstance(word, str) for word in asked):
        raise BadInput("Words to look for are texts; give them as one text, or as a list of texts.")
    wanted = {_bare(word) for word in asked} - {""}
    if not wanted:
        raise BadInput("There is no word to look for; give some, such as search(lab, sae, 'january february').")
    found = given(lab, sae, of)
    peaks = _peaks(lab.tokenizer, found)
    at_peak = [[{word for word in wanted if peak.on(word)} for peak in row] for row in peaks]
    hits = np.array([[bool(words_there) for words_there in row] for row in at_peak])
    there = found.values > 0
    count, examples = hits.sum(1), there.sum(1)
    different = np.array([len(set().union(*row)) for row in at_peak])
    order = [int(i) for i in np.lexsort((found.counts, examples, -different, -count)) if count[i] > 0][:k]

    import pandas as pd

    table = pd.DataFrame(
        {
            "feature": order,
            "hits": [int(count[i]) for i in order],
            "examples": [int(examples[i]) for i in order],
            "words": [int(different[i]) for i in order],
            "density": [float(found.density[i]) for i in order],
            "found": [", ".join(dict.fromkeys(peak.word for peak in peaks[i] if peak.word)) for i in order],
        }
    )
    return FoundFeatures(table, _dealt(hits, there), tuple(sorted(wanted)))


def _dealt(hits: np.ndarray, there: np.ndarray) -> float:
    """The most hits of any feature, in the mean of some deals of all hits to all examples."""
    draw, dealt = np.random.default_rng(0), np.zeros(hits.shape, dtype=bool)
    flat, most = hits[there], []
    for _ in range(DEALS if flat.any() else 0):
        dealt[there] = draw.permutation(flat)
        most.append(int(dealt.sum(1).max()))
    return float(np.mean(most)) if most else 0.0


@dataclass(frozen=True)
class _Peak:
    """What stands where a feature is most active in an example: the text near it, in lower case, and where in it the token is.

    Nothing where there is no example.
    """

    text: str = ""
    start: int = 0
    stop: int = 0

    def on(self, word: str) -> bool:
        """Whether the token is in this word, whole; in scripts without spaces between words any stretch is one."""
        at = self.text.find(word)
        while at >= 0:
            if at < self.stop and at + len(word) > self.start and self._ends(at) and self._ends(at + len(word)):
                return True
            at = self.text.find(word, at + 1)
        return False

    def _ends(self, at: int) -> bool:
        """Whether a word can end here."""
        return not (0 < at < len(self.text) and _joins(self.text[at - 1]) and _joins(self.text[at]))

    @cached_property
    def word(self) -> str:
        """The word the token is in; of a token with several, the last. In scripts without spaces, what the token is of it."""
        words = [found.span() for found in re.compile(r"[^\W_]+").finditer(self.text, self.start, self.stop)]
        if not words:
            return ""
        start, stop = words[-1]
        while start > 0 and not self._ends(start):
            start -= 1
        while stop < len(self.text) and not self._ends(stop):
            stop += 1
        return self.text[start:stop]


def _joins(character: str) -> bool:
    """Whether a character goes with the one beside it into one word."""
    return character.isalnum() and not _SPACELESS.match(character)


# Thai, Lao, Khmer, Burmese; Japanese and Chinese
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


# The last index's peaks. It is held weakly, with the tokenizer: once either is gone, so is what was made of it.
_KNOWN: WeakKeyDictionary[Index, WeakKeyDictionary[PreTrainedTokenizerBase, list[list[_Peak]]]] = WeakKeyDictionary()


def _peaks(tokenizer: PreTrainedTokenizerBase, found: Index) -> list[list[_Peak]]:
    """(features, examples), made once of each index and tokenizer."""
    known = _KNOWN.setdefault(found, WeakKeyDictionary())
    if (made := known.get(tokenizer)) is None:
        memo: dict[int, str] = {}
        made = [
            [
                _peak(tokenizer, memo, ids[ids != found.nothing], int(peak)) if value > 0 else _Peak()
                for ids, peak, value in zip(found.ids[i], found.peaks[i], found.values[i], strict=True)
            ]
            for i in range(len(found.counts))
        ]
        known[tokenizer] = made
    return made


def _peak(tokenizer: PreTrainedTokenizerBase, memo: dict[int, str], ids: np.ndarray, peak: int) -> _Peak:
    first = max(0, peak - NEAR)
    parts = [token_bytes(text) for text in token_strings(tokenizer, ids[first : peak + NEAR].tolist(), memo=memo)]
    data, start = b"".join(parts), sum(map(len, parts[: peak - first]))
    stop = start + len(parts[peak - first])
    # a token may be a part of a character, which then counts as a whole
    while start > 0 and _continues(data, start):
        start -= 1
    while stop < len(data) and _continues(data, stop):
        stop += 1
    before, own, after = (
        part.decode("utf-8", "replace").casefold() for part in (data[:start], data[start:stop], data[stop:])
    )
    start, stop = len(before) + len(own) - len(own.lstrip()), len(before) + len(own.rstrip())
    return _Peak(before + own + after, start, max(start, stop))


def _continues(data: bytes, at: int) -> bool:
    """Whether a byte is a later one of a character in UTF-8."""
    return data[at] & 0xC0 == 0x80


def _bare(word: str) -> str:
    return re.sub(r"^\W+|\W+$", "", word.casefold())


@dataclass(frozen=True, eq=False, repr=False)
class CommonFeatures(Result):
    """What `common` found, a row per feature.

    separating: how many features part the two groups without a mistake.  by_chance: how many do in the mean when the texts
    are dealt to groups of these sizes at random.  as_many: the share of such deals with at least as many.  All of all
    features, not only of those in the table.
    """

    separating: int
    by_chance: float
    as_many: float

    def _title(self) -> str:
        return "Features more active in each text of one group than in any of the other"

    def _remarks(self) -> tuple[str, ...]:
        return (
            f"{self.separating:,} part the two groups; {self.by_chance:.3g} when the texts are dealt at random, and "
            f"{self.as_many:.1%} of such deals have at least as many.",
        )


def common(
    lab: LabLike, sae: SAE, present: Sequence[object], absent: Sequence[object], *, k: int = 20, seed: int = 0
) -> CommonFeatures:
    """Features more active somewhere in each of some texts than anywhere in others: common(lab, sae, five_of, five_without).

    Give texts of about the same length: a longer one has more tokens for a feature to be active on, so that texts that
    differ in length only are parted by many features.
    Returns a row per feature, the clearest first: feature, weakest (the smallest, over `present`, of its highest activation
    in a text), strongest_absent (its highest activation in any text of `absent`), margin (the difference). Of an
    autoencoder whose activations may be below 0 each side of a feature counts by itself, by its size: sign is 1 or -1.
    Beside it how many features part the groups, and how many chance gives. When these are alike, what was found says
    nothing. With few texts a deal is now and then the true one or its opposite, so that as_many can't be very small.
    """
    present, absent = as_texts(present, "present"), as_texts(absent, "absent")
    if len(present) < 2 or len(absent) < 2:
        raise BadInput("Give at least two texts that have it and two that lack it; five of each say more.")
    found = features_of_each(lab, sae, [*present, *absent])
    signs = (1, -1) if sae.signed else (1,)
    heights = torch.zeros(len(found), len(signs) * len(sae))
    for row, each in enumerate(found):
        at = each.indices >= 0
        for side, sign in enumerate(signs):
            heights[row].scatter_reduce_(0, each.indices[at] + side * len(sae), sign * each.values[at], reduce="amax")
    own = torch.arange(len(found)) < len(present)
    margin = _margin(heights, own)
    draw = torch.Generator().manual_seed(seed)
    by_chance = []
    for _ in range(RELABELLINGS):
        dealt = own[torch.randperm(len(found), generator=draw)]
        by_chance.append(int((_margin(heights, dealt) > 0).sum()))
    order = [i for i in margin.argsort(descending=True)[:k].tolist() if margin[i] > 0]

    import pandas as pd

    table = pd.DataFrame(
        {"feature": [i % len(sae) for i in order]}
        | ({"sign": [signs[i // len(sae)] for i in order]} if sae.signed else {})
        | {
            "weakest": [float(heights[own, i].min()) for i in order],
            "strongest_absent": [float(heights[~own, i].max()) for i in order],
            "margin": [float(margin[i]) for i in order],
        }
    )
    separating = int((margin > 0).sum())
    as_many = sum(each >= separating for each in by_chance)
    # the true deal is one of them
    return CommonFeatures(table, separating, float(np.mean(by_chance)), (1 + as_many) / (1 + len(by_chance)))


def _margin(heights: Tensor, own: Tensor) -> Tensor:
    """(features,): above zero where the feature is active in all of one's own texts, and less in all others."""
    weakest = heights[own].amin(0)
    return torch.where(weakest > 0, weakest - heights[~own].amax(0), torch.full_like(weakest, -torch.inf))
