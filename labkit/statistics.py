"""What a number is worth: intervals, resampling and permuting of documents, p-values, quantities of information.

The unit is the document, since the tokens of one are no independent evidence: documents are drawn again, dealt other labels,
and split; tokens never. scipy does what it has (imported when first used); random numbers come from the generator that is
handed in, so that the same seed gives the same numbers.
"""

from __future__ import annotations

from typing import overload

import numpy as np

CONFIDENCE = 0.95
ENDS = (2.5, 97.5)  # percent: where an interval of 95 % ends
SPREAD = 1.96  # standard deviations to either end of 95 %
ROUNDING = 1e-12  # differences this small are none

__all__ = [
    "ENDS",
    "basic_interval",
    "centred_interval",
    "dealt",
    "entropy",
    "hypergeometric",
    "interval",
    "mutual_information",
    "normal_interval",
    "null",
    "p_value",
    "paired_difference",
    "permuted_within",
    "ranks",
    "resampled",
    "split",
    "wilson",
    "xlogx",
]


# intervals ------------------------------------------------------------------------------------------------------------


def interval(samples: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % of the samples along an axis: the percentile bootstrap (Efron 1979). NaN where there are no samples."""
    samples = np.asarray(samples, dtype=np.float64)
    if not samples.shape[axis]:
        missing = np.full(np.delete(samples.shape, axis), np.nan)
        return missing, missing
    low, high = np.percentile(samples, ENDS, axis=axis)
    return low, high


def basic_interval(observed: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % of a number that is never below 0, by the basic bootstrap (Davison and Hinkley 1997, 5.2).

    A resampling (along axis 0) is taken to be as far above what was observed as that is above the truth.
    """
    low, high = interval(samples)
    return np.maximum(2 * observed - high, 0.0), np.maximum(2 * observed - low, 0.0)


def centred_interval(observed: np.ndarray | float, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % of a number that is never below 0, from its resamplings along axis 0, less what resampling adds on average."""
    low, high = observed + np.percentile(samples, ENDS, axis=0) - np.mean(samples, axis=0)
    return np.maximum(low, 0.0), np.maximum(high, 0.0)


def normal_interval(observed: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where 95 % of such numbers would lie, by the standard deviation of few resamplings along axis 0; NaN from only one."""
    half = SPREAD * samples.std(0, ddof=1) if len(samples) > 1 else np.full(np.shape(observed), np.nan)
    return observed - half, observed + half


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % of a share of which `hits` of n were seen (Wilson 1927); NaN of none.

    Never empty at the ends: none of ten is no "never".
    """
    if not n:
        return float("nan"), float("nan")
    from scipy.stats import binomtest

    found = binomtest(int(hits), int(n)).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def paired_difference(both: int, first: int, second: int, neither: int) -> tuple[float, float, float]:
    """(p, low, high): how much more often the first of two is right than the second, on the same things, with 95 %.

    both, first, second, neither: how many of the things both got right, only the first, only the second, neither. The interval
    is made of the two shares' own, less what the pairs have in common (Newcombe 1998, Statistics in Medicine 17:2635, method
    10), so it has a width where all or none were right. NaN of none.
    """
    n = both + first + second + neither
    if not n:
        return float("nan"), float("nan"), float("nan")
    p, q = (both + first) / n, (both + second) / n
    (p_low, p_high), (q_low, q_high) = wilson(both + first, n), wilson(both + second, n)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    product = both * neither - first * second
    phi = 0.0
    if margins and product:
        phi = (max(product - n / 2, 0) if product > 0 else product) / margins**0.5

    def reach(a: float, b: float) -> float:
        return float(max(a * a - 2 * phi * a * b + b * b, 0.0) ** 0.5)

    return p - q, p - q - reach(p - p_low, q_high - q), p - q + reach(p_high - p, q - q_low)


def median_interval(values: np.ndarray) -> tuple[float, float, float, float]:
    """(median, low, high, coverage) of (n,) finite values: between two of them, by their ranks alone (Thompson 1936).

    The narrowest pair of ranks, equally far from both ends, between which the median of what they are drawn from lies with 95 %
    or more; below six values no pair does, and they are the lowest and the highest. coverage: the probability of those there
    are. NaN of a single value for all but the median, which is that value.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    if n < 2:
        return float(ordered[0]) if n else float("nan"), float("nan"), float("nan"), float("nan")
    covered = [1 - 2 * float(binom.cdf(k, n, 0.5)) for k in range(n // 2)]
    k = max((k for k, share in enumerate(covered) if share >= CONFIDENCE), default=0)
    return float(np.median(ordered)), float(ordered[k]), float(ordered[n - 1 - k]), covered[k]


# documents drawn again, dealt, split ----------------------------------------------------------------------------------


def resampled(kind_of: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, documents) float64: how often each document is in a sample, drawn with replacement within its kind.

    kind_of: (documents,). The bootstrap of Efron 1979 over documents.
    """
    weights = np.zeros((draws, len(kind_of)))
    for kind in np.unique(kind_of):
        members = np.flatnonzero(kind_of == kind)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return weights


def dealt(labels: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, documents): the documents' labels dealt to them anew, each time as many of each."""
    return np.array([rng.permutation(labels) for _ in range(draws)]).reshape(draws, len(labels))


def permuted_within(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(members,) a permutation that leaves every member in its group. groups: (members,)."""
    order = np.arange(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order[members] = rng.permutation(members)
    return order


def split(kind_of: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The documents in two groups, (some,) and (others,) ascending: `share` of each kind in the second.

    Whole documents, so that nothing is tried on the text it was made of. A kind of two documents or more is in both groups;
    a kind's only document is in the first.
    """
    others: list[int] = []
    for kind in np.unique(kind_of):
        members = np.flatnonzero(kind_of == kind)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        others += rng.permutation(members)[:count].tolist()
    second = np.array(sorted(others), dtype=np.int64)
    return np.setdiff1d(np.arange(len(kind_of)), second), second


# what is observed beside what chance gives ----------------------------------------------------------------------------


@overload
def p_value(observed: float, others: np.ndarray) -> float: ...
@overload
def p_value(observed: np.ndarray, others: np.ndarray) -> np.ndarray: ...
def p_value(observed: np.ndarray | float, others: np.ndarray) -> np.ndarray | float:
    """(1 + how many of the others, along axis 0, reach the observed) / (1 + how many there are).

    Uniform when the observed is one of them (North, Curtis and Sham 2002). Differences of rounding count as reaching. NaN
    where the observed is.
    """
    p = (1 + (others >= np.asarray(observed) - ROUNDING).sum(0)) / (1 + len(others))
    found = np.where(np.isnan(observed), np.nan, p)
    return found if found.ndim else float(found)


def null(observed: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, 97.5 % and p-value of what chance gives, `others` (draws, ...), for each observed; NaN where there are none."""
    if not len(others):
        missing = np.full(np.shape(observed), np.nan)
        return missing, missing, missing
    return others.mean(0), np.percentile(others, ENDS[1], axis=0), p_value(observed, others)


def hypergeometric(hits: int, drawn: int, right: int, n: int) -> float:
    """The chance that of `drawn` out of n things, `right` of which are right, at least `hits` are right."""
    from scipy.stats import hypergeom

    return float(hypergeom.sf(hits - 1, n, right, drawn))


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks over the whole of x, ties sharing theirs, less their mean. What rounding alone tells apart is tied."""
    from scipy.stats import rankdata

    found: np.ndarray = rankdata(np.asarray(x).round(12), axis=None).reshape(np.shape(x))
    return np.asarray(found - found.mean())


# information ----------------------------------------------------------------------------------------------------------


def xlogx(x: np.ndarray) -> np.ndarray:
    """x · ln x, 0 at 0."""
    from scipy.special import xlogy

    return np.asarray(xlogy(x, x))


def entropy(counts: np.ndarray) -> np.ndarray:
    """Bits, over the last axis of counts that need not sum to 1. NaN where there are none."""
    total = counts.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.maximum(np.log2(total) - xlogx(counts).sum(-1) / (total * np.log(2)), 0.0))


def mutual_information(table: np.ndarray) -> np.ndarray:
    """Bits between rows and columns of tables of counts (..., rows, columns). The plug-in estimate; never below 0."""
    total = table.sum((-1, -2))
    joint = xlogx(table).sum((-1, -2))
    margins = xlogx(table.sum(-1)).sum(-1) + xlogx(table.sum(-2)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.maximum((joint - margins + xlogx(total)) / (total * np.log(2)), 0.0))
