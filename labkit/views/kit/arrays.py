"""Numbers as a view sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def numbers(values: Sequence[float] | torch.Tensor | np.ndarray, dtype: str | np.dtype | None = None) -> np.ndarray:
    """A tensor or array as a contiguous numpy array of the given little-endian type, or of its own."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.ascontiguousarray(np.asarray(values), dtype=dtype)
