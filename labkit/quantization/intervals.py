"""Intervals over documents, where there are enough of them, and the words where there are not; the null of running again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.statistics import interval

if TYPE_CHECKING:
    from labkit.trace.documents import Documents

LEAST_DOCUMENTS = 5  # of a kind; of fewer, drawing them again shows far too little of how documents differ
Interval = tuple[float, float]
NO_INTERVAL: Interval = (float("nan"), float("nan"))


def interval_of(documents: Documents, counted: np.ndarray, samples: np.ndarray) -> Interval:
    """95 % of a number from its resamplings over documents; NaN where a kind has fewer than 5.

    counted: (documents,), of how many tokens of each the number is.  samples: (draws,), NaN where nothing was drawn.
    """
    of_kind = np.bincount(documents.kind_of[counted > 0])
    if not of_kind.any() or of_kind[of_kind > 0].min() < LEAST_DOCUMENTS:
        return NO_INTERVAL
    low, high = interval(samples[np.isfinite(samples)])
    return float(low), float(high)


def few_remarks(documents: Documents) -> tuple[str, ...]:
    """Why there are no intervals, where documents of a kind are too few; nothing where there are enough."""
    counts = zip(documents.kinds, documents.documents_of_kind.tolist(), strict=True)
    few = [f"{count} of {kind}" for kind, count in counts if 0 < count < LEAST_DOCUMENTS]
    if not few:
        return ()
    return (
        f"no intervals where a kind has fewer than {LEAST_DOCUMENTS} documents ({checks.some(few, 5)}): resampling so few shows "
        "too little of how they differ; give more and shorter ones, such as lk.quantization.texts(10, characters=350)",
    )


def with_interval(value: float, low: float, high: float) -> str:
    """A number with its interval, where it has one: "0.012 (0.01 to 0.014)"."""
    between = f" ({low:.3g} to {high:.3g})" if np.isfinite(low) and np.isfinite(high) else ""
    return f"{value:.3g}{between}"


def noise_remark(noise: float) -> str:
    """What running again alone gives, in words."""
    said = f"noise of running again, with other padding and among other texts: KL {noise:.2g} nats a token"
    if noise == 0.0:
        return f"{said}: exactly 0, since this machine adds up a token's products in one order whatever shares the pass"
    return said
