"""Weights and probabilities as bytes for the eye."""

from __future__ import annotations

import numpy as np

LEVELS = 254
NOT_A_NUMBER = 255


def quantize(weights: np.ndarray) -> np.ndarray:
    """Weights of 0 to 1 as codes for the eye, uint8: 0 is exactly zero, 1 to 254 the square root, 255 not a number.

    A code c stands for (c / 254)². The root is off by at most half a level, below the first level by up to one.
    """
    with np.errstate(invalid="ignore"):
        codes = np.rint(np.sqrt(np.clip(weights, 0, 1)) * LEVELS)
        codes = np.where(weights > 0, np.maximum(codes, 1), codes)
    return np.where(np.isnan(weights), NOT_A_NUMBER, codes).astype(np.uint8)
