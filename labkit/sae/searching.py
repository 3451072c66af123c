"""Find features: by the words they are at work on, and by what some texts have in common and others lack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from labkit.errors import BadInput
from labkit.models.tokens import token_strings
from labkit.sae.dictionary import SAE
from labkit.sae.indexing import NOTHING, Index, index
from labkit.sae.reading import features as features_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["common", "search"]

RELABELLINGS = 200
DEALS = 50
LONGEST_WORD = 6  # tokens on either side of the peak


def search(lab: Any, sae: SAE, words: str | Sequence[str], *, of: Index | None = None, k: int = 20) -> pd.DataFrame:
    """Features whose examples have their peak on one of these words: search(lab, sae, "january february march").

    words: words to look for, whole and in any case; a text is taken apart at spaces and commas. of: an index; None for the
    one that came with the autoencoder.
    Returns a row per feature, the best first: feature, hits (examples whose peak is on one of the words), examples, words
    (how many different ones of those asked), density (share of the corpus's tokens it is at work on), found (the words at
    its peaks). attrs: "chance": the most hits of any feature where the words are dealt to all examples at random, in the mean
    of some deals, which is what the first row has to pass; "asked".
    A few examples say what a feature may be; whether it is that, `check_name` measures.
    """
    asked = words.replace(",", " ").split() if isinstance(words, str) else list(words)
    wanted = {_bare(word) for word in asked} - {""}
    if not wanted:
        raise BadInput("There is no word to look for; give some, such as search(lab, sae, 'january february').")
    found = index(lab, sae) if of is None else of
    peaks = _peak_words(lab.tokenizer, found)
    hits = np.array([[word in wanted for word in row] for row in peaks])
    there = found.values > 0
    count, examples = (hits & there).sum(1), there.sum(1)
    different = np.array(
        [len({w for w, h in zip(row, hit, strict=True) if h}) for row, hit in zip(peaks, hits & there, strict=True)]
    )
    share = np.where(examples > 0, count / np.maximum(examples, 1), 0.0)
    order = [int(i) for i in np.lexsort((found.counts, -different, -share)) if count[i] > 0][:k]

    import pandas as pd

    table = pd.DataFrame(
        {
            "feature": order,
            "hits": [int(count[i]) for i in order],
            "examples": [int(examples[i]) for i in order],
            "words": [int(different[i]) for i in order],
            "density": [float(found.density[i]) for i in order],
            "found": [", ".join(dict.fromkeys(w for w, t in zip(peaks[i], there[i], strict=True) if t)) for i in order],
        }
    )
    chance = _dealt(hits, there)
    table.attrs = {"chance": chance, "asked": sorted(wanted)}
    return table


def _dealt(hits: np.ndarray, there: np.ndarray) -> float:
    """The most hits of any feature, in the mean of some deals of all hits to all examples."""
    draw, dealt = np.random.default_rng(0), np.zeros(hits.shape, dtype=bool)
    flat, most = hits[there], []
    for _ in range(DEALS if flat.any() else 0):
        dealt[there] = draw.permutation(flat)
        most.append(int(dealt.sum(1).max()))
    return float(np.mean(most)) if most else 0.0


_WORDS: dict[tuple[int, int], tuple[Any, Any, list[list[str]]]] = {}


def _peak_words(tokenizer: Any, found: Index) -> list[list[str]]:
    """(features, examples): the bare word at each example's peak; "" where there is no example."""
    key = (id(tokenizer), id(found))
    if key not in _WORDS:
        memo: dict[int, str] = {}
        words = [
            [
                _word(tokenizer, memo, found.ids[i, slot], int(found.peaks[i, slot]))
                if found.values[i, slot] > 0
                else ""
                for slot in range(found.ids.shape[1])
            ]
            for i in range(len(found.counts))
        ]
        _WORDS.clear()
        _WORDS[key] = (tokenizer, found, words)  # kept with what it was made of, so that no id is used twice
    return _WORDS[key][2]


def _word(tokenizer: Any, memo: dict[int, str], ids: np.ndarray, peak: int) -> str:
    """The word a token is in: back to the token that begins it, on to the one before the next."""
    near = ids[ids != NOTHING].tolist()
    first = max(0, peak - LONGEST_WORD)
    texts = token_strings(tokenizer, near[first : peak + LONGEST_WORD], memo=memo)
    at = peak - first
    start, stop = at, at + 1
    while start > 0 and texts[start][:1].isalnum():
        start -= 1
    while stop < len(texts) and texts[at].strip().isalnum() and texts[stop][:1].isalnum():
        stop += 1
    parts = "".join(texts[start:stop]).split()
    return _bare(parts[-1]) if parts else ""


def _bare(word: str) -> str:
    return re.sub(r"^\W+|\W+$", "", word.casefold())


def common(
    lab: Any, sae: SAE, present: Sequence[Any], absent: Sequence[Any], *, k: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Features more active somewhere in each of some texts than anywhere in others: common(lab, sae, five_of, five_without).

    Returns a row per feature, the clearest first: feature, weakest (the smallest, over `present`, of its highest activation
    in a text), strongest_absent (its highest activation in any text of `absent`), margin (the difference). attrs:
    "separating": how many features part the two groups without a mistake; "by_chance": how many do in the mean when the
    texts are dealt to groups of these sizes at random; both of all features. When the two numbers are alike, what was found
    says nothing.
    """
    if len(present) < 2 or len(absent) < 2:
        raise BadInput("Give at least two texts that have it and two that lack it; five of each say more.")
    found = features_of(lab, sae, [*present, *absent])
    heights = torch.zeros(len(found), len(sae))
    for row, each in enumerate(found):
        at = each.indices >= 0
        heights[row].scatter_reduce_(0, each.indices[at], each.values[at], reduce="amax")
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
        {
            "feature": order,
            "weakest": [float(heights[own, i].min()) for i in order],
            "strongest_absent": [float(heights[~own, i].max()) for i in order],
            "margin": [float(margin[i]) for i in order],
        }
    )
    table.attrs = {"separating": int((margin > 0).sum()), "by_chance": float(np.mean(by_chance))}
    return table


def _margin(heights: Tensor, own: Tensor) -> Tensor:
    """(features,): above zero where the feature is at work in all of one's own texts, and less in all others."""
    weakest = heights[own].amin(0)
    return torch.where(weakest > 0, weakest - heights[~own].amax(0), torch.full_like(weakest, -torch.inf))
