"""The next-token distribution at a temperature, exact over the whole vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.errors import BadInput

if TYPE_CHECKING:
    import torch

LOWEST, HIGHEST, STEP = 0.0, 2.0, 0.05
SETTINGS = np.round(np.arange(LOWEST, HIGHEST + STEP / 2, STEP), 2)
"""The 41 positions of the slider."""


def as_logits(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """Logits as (vocab,) float64.

    Raises BadInput when they are not one row of numbers: of another shape, holding a NaN or +inf, or no finite one.
    """
    if not isinstance(values, np.ndarray) and hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    logits = np.asarray(values, dtype=np.float64)
    if logits.ndim != 1 or not len(logits):
        raise BadInput(
            f"Logits of shape {logits.shape} are no next-token logits; give those of one position: (vocab,)."
        )
    if np.isnan(logits).any() or np.isposinf(logits).any() or not np.isfinite(logits).any():
        raise BadInput("The logits hold a NaN or an infinity, so there is no distribution; check the model's weights.")
    return logits


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(logits / temperature), (vocab,) float64, sums to 1; at 0 the most probable token (the first) has it all.

    logits: (vocab,) float64. temperature: at least 0.
    """
    from scipy.special import softmax

    if temperature <= 0:
        return np.asarray(np.arange(len(logits)) == np.argmax(logits), dtype=np.float64)
    return np.asarray(softmax((logits - logits.max()) / temperature))


def entropy(distribution: np.ndarray) -> float:
    """Shannon entropy of a distribution, in nats."""
    from scipy.special import entr

    return float(entr(distribution).sum())


def most_probable(logits: np.ndarray, count: int) -> np.ndarray:
    """Ids of the most probable tokens, best first, the lower id first where equal; the same at every temperature."""
    count = min(count, len(logits))
    nearest = np.argpartition(-logits, count - 1)[:count]
    floor = logits[nearest].min()
    candidates = np.flatnonzero(logits >= floor)
    return candidates[np.lexsort((candidates, -logits[candidates]))][:count]


def row(logits: np.ndarray, ids: np.ndarray, temperature: float) -> np.ndarray:
    """What one setting shows: (3 + len(ids),) float32 of temperature, entropy (nats), the others' share, each share."""
    distribution = probabilities(logits, temperature)
    shown = distribution[ids]
    named = np.zeros(len(distribution), dtype=bool)
    named[ids] = True
    others = float(distribution[~named].sum())  # summed, not 1 minus the rest: a small share stays exact
    return np.array([temperature, entropy(distribution), others, *shown], dtype="<f4")


def table(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`row` for every position of the slider: (41, 3 + len(ids)) float32."""
    return np.stack([row(logits, ids, float(setting)) for setting in SETTINGS])
