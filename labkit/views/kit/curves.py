"""Curves as a view sends and writes them: not too many points, and numbers in words."""

from __future__ import annotations

import math

import numpy as np

LINE_POINTS = 500
PICTURE_POINTS = 240  # of a picture, which a saved notebook carries: three pixels each


def line_points(xs: np.ndarray, ys: np.ndarray, limit: int = LINE_POINTS) -> np.ndarray:
    """What to draw of a line, (n, 2) float64 with n <= limit: all points, or the lowest and highest of each stretch.

    xs, ys: (count,). What is not finite becomes NaN: a gap. A stretch that holds one keeps a gap.
    """
    points = np.stack([xs, ys], axis=1) if len(xs) else np.empty((0, 2))
    points[~np.isfinite(points).all(axis=1)] = np.nan
    if len(points) <= limit:
        return points
    chosen: list[np.ndarray] = []
    gap = np.full((1, 2), np.nan)
    for stretch in np.array_split(points, limit // 3):
        there = stretch[~np.isnan(stretch[:, 1])]
        if len(there):
            low, high = int(there[:, 1].argmin()), int(there[:, 1].argmax())
            chosen.append(there[sorted({low, high})])
        if len(there) < len(stretch):
            chosen.append(gap)
    return np.concatenate(chosen)


def number(value: float) -> str:
    """A number with four digits that matter and a true minus sign; what isn't one in words."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.4g}"
    return text.replace("-", "−")
