"""Is a feature what its name says? A name is a rule that predicts where it fires; fresh text decides.

It is easy to tell a story about examples. So a name has to be put as a rule before fresh text is looked at, and the same rule
is tried on other features: a rule that "finds" those as well says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.sae.dictionary import Feature, checked_feature
from labkit.sae.reading import Features, features_of_each
from labkit.statistics import hypergeometric, interval
from labkit.trace.input import as_texts

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["NameCheck", "Quiz", "check_name", "quiz"]

Rule = Callable[[Sequence[str], int], bool]
LEAST_FIRINGS, LEAST_TEXTS = 10, 5  # the second for an interval: fewer texts can't be resampled to any purpose
DRAWS = 1_000
CONTEXT = 16  # tokens shown before the one in question


@dataclass(frozen=True)
class NameCheck:
    """How well a rule predicts a feature on fresh text.

    recall: of the tokens the feature fires on, the share the rule says.  precision: of the tokens the rule says, the share
    the feature fires on.  balanced: mean of recall and of the share of silent tokens the rule leaves alone; 0.5 is chance.
    low, high: 95 % of balanced, resampling texts; NaN for under five texts, which say nothing about other texts.
    others_mean, others_highest: balanced accuracy of the same rule for other features of similar density; NaN where there
    is none.  firings, tokens, texts: what was counted.
    """

    recall: float
    precision: float
    balanced: float
    low: float
    high: float
    others_mean: float
    others_highest: float
    firings: int
    tokens: int
    texts: int

    def __str__(self) -> str:
        interval = "no interval from so few texts" if math.isnan(self.low) else f"{self.low:.2f} to {self.high:.2f}"
        others = "no other feature fires about as often"
        if not math.isnan(self.others_mean):
            others = f"for other features {self.others_mean:.2f} (at most {self.others_highest:.2f})"
        return (
            f"predicts {self.recall:.0%} of {self.firings} firings (recall), and is right in {self.precision:.0%} of its claims "
            "(precision); "
            f"balanced accuracy {self.balanced:.2f} ({interval}), by chance 0.50, {others}"
        )


def check_name(
    lab: LabLike,
    feature: Feature,
    rule: Rule,
    texts: Sequence[object],
    *,
    others: int = 20,
    seed: int = 0,
    sign: int = 1,
) -> NameCheck:
    """Try a name on texts that were not looked at before.

    rule: given the tokens of a text and a position, whether the feature fires there: lambda tokens, i: "may" in tokens[i].
    texts: fresh ones. others: how many other features, of similar density in these texts, the rule is tried on. sign: which
    side of the features the name is of, 1 or -1; the second only where activations may be below 0.
    Raises BadInput where the feature fires on fewer than 10 tokens of these texts, so that nothing can be said.
    """
    _check_sign(checked_feature(feature), sign)
    found = features_of_each(lab, feature.sae, as_texts(texts))
    said = [np.array([bool(rule(each.tokens, i)) for i in range(len(each))])[each.defined.numpy()] for each in found]
    fires = [_fires(each, feature.index, sign) for each in found]
    firings, tokens = int(sum(f.sum() for f in fires)), sum(map(len, fires))
    if firings < LEAST_FIRINGS:
        raise BadInput(
            f"Feature {feature.index} fires on {firings} of these {tokens:,} tokens, too few to say anything; "
            f"give more text, until it fires on {LEAST_FIRINGS}."
        )
    draw = np.random.default_rng(seed)
    low, high = _interval(said, fires, draw) if len(found) >= LEAST_TEXTS else (math.nan, math.nan)
    claims, right = sum(int(s.sum()) for s in said), sum(int((s & f).sum()) for s, f in zip(said, fires, strict=True))
    compared = [
        _balanced(said, [_fires(each, other, sign) for each in found])
        for other in _similar(found, feature, firings, others, draw, sign)
    ]
    return NameCheck(
        recall=right / firings,
        precision=right / claims if claims else 0.0,
        balanced=_balanced(said, fires),
        low=low,
        high=high,
        others_mean=float(np.mean(compared)) if compared else float("nan"),
        others_highest=float(np.max(compared)) if compared else float("nan"),
        firings=firings,
        tokens=tokens,
        texts=len(found),
    )


def _interval(
    said: Sequence[np.ndarray], fires: Sequence[np.ndarray], draw: np.random.Generator
) -> tuple[float, float]:
    """95 % of the balanced accuracy, texts drawn with replacement."""
    counts = np.array(  # of each text: right where it fires, firings, right where it is silent, silent tokens
        [((s & f).sum(), f.sum(), (~s & ~f).sum(), (~f).sum()) for s, f in zip(said, fires, strict=True)], dtype=float
    )
    hits, firings, spared, silent = counts[draw.integers(len(counts), size=(DRAWS, len(counts)))].sum(1).T
    whole = (firings > 0) & (silent > 0)
    low, high = interval((hits[whole] / firings[whole] + spared[whole] / silent[whole]) / 2)
    return float(low), float(high)


def _check_sign(feature: Feature, sign: int) -> None:
    if sign not in (1, -1) or isinstance(sign, bool):
        checks.refuse("sign", sign, "1 or -1")
    if sign < 0 and not feature.sae.signed:
        raise BadInput(f"Activations of {feature.sae.name} are never below 0; leave sign away.")


def _fires(found: Features, feature: int, sign: int) -> np.ndarray:
    """(defined tokens,) bool: where a feature is active, on its side of this sign."""
    fires: np.ndarray = ((found.indices == feature) & (sign * found.values > 0))[found.defined].any(-1).numpy()
    return fires


def _balanced(said: Sequence[np.ndarray], fires: Sequence[np.ndarray]) -> float:
    says, does = np.concatenate(said), np.concatenate(fires)
    if does.all() or not does.any():
        return float("nan")
    return float((says[does].mean() + (~says[~does]).mean()) / 2)


def _similar(
    found: Sequence[Features], feature: Feature, firings: int, count: int, draw: np.random.Generator, sign: int
) -> list[int]:
    """Other features that fire on half to twice as many of these tokens."""
    counts = torch.zeros(len(feature.sae), dtype=torch.int64)
    for each in found:
        counts += torch.bincount(each.indices[sign * each.values > 0], minlength=len(counts))
    near = [i for i, n in enumerate(counts.tolist()) if firings / 2 <= n <= firings * 2 and i != feature.index]
    return [int(i) for i in draw.permutation(near)[:count]]


@dataclass(frozen=True, repr=False)
class Quiz:
    """Places in fresh text, half of them where a feature fires: say which, then be scored.

    items: (tokens before and at the place in question, the last being the one).  fires: the answers, not to be looked at.
    """

    items: tuple[tuple[str, ...], ...]
    fires: tuple[bool, ...]

    def __repr__(self) -> str:
        # the answers stay out of it
        asked = (
            f"Does the feature fire on the word in brackets? On {sum(self.fires)} of these {len(self.fires)} it does:"
        )
        shown = (repr("".join(item[:-1]) + f"[{item[-1]}]")[1:-1] for item in self.items)
        return "\n".join([asked, *(f"  {number}  {words}" for number, words in enumerate(shown))])

    def score(self, answers: Sequence[bool]) -> tuple[float, float]:
        """(share right, the chance of at least as many where as many yeses are dealt to the places at random).

        Hypergeometric, since a quiz says that half of its places fire.
        """
        if len(answers) != len(self.fires):
            raise BadInput(f"There are {len(self.fires)} places and {len(answers)} answers; give one for each.")
        said, n, firing = [bool(a) for a in answers], len(self.fires), sum(self.fires)
        hits, yes = sum(a and f for a, f in zip(said, self.fires, strict=True)), sum(said)
        right = sum(a == f for a, f in zip(said, self.fires, strict=True))
        return right / n, hypergeometric(hits, yes, firing, n)


def quiz(lab: LabLike, feature: Feature, texts: Sequence[object], *, n: int = 10, seed: int = 0, sign: int = 1) -> Quiz:
    """n places of fresh texts, half of them where the feature fires, in a random order, each with what stands before it.

    sign: which side of the feature, as of `check_name`.
    """
    if n < 2 or n % 2:
        raise BadInput(f"A quiz has an even number of places, half of them where the feature fires, and {n!r} is none.")
    _check_sign(checked_feature(feature), sign)
    found = features_of_each(lab, feature.sae, as_texts(texts))
    yes: list[tuple[int, int]] = []
    no: list[tuple[int, int]] = []
    for number, each in enumerate(found):
        at = ((each.indices == feature.index) & (sign * each.values > 0)).any(-1)
        for position in each.defined.nonzero().flatten().tolist():
            (yes if at[position] else no).append((number, position))
    for places, what in ((yes, "fires"), (no, "is silent")):
        if len(places) < n // 2:
            raise BadInput(
                f"Feature {feature.index} {what} on {len(places)} tokens of these texts; a quiz of {n} needs {n // 2}."
            )
    draw = np.random.default_rng(seed)
    chosen = [(yes[i], True) for i in draw.choice(len(yes), n // 2, replace=False)]
    chosen += [(no[i], False) for i in draw.choice(len(no), n // 2, replace=False)]
    asked = [chosen[i] for i in draw.permutation(n)]
    items = [tuple(found[t].tokens[max(0, p - CONTEXT) : p + 1]) for (t, p), _ in asked]
    return Quiz(tuple(items), tuple(fires for _, fires in asked))
