"""What was measured of labkit-moe while it was trained, and once it was: files that come with labkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.errors import BadModelFile
from labkit.models.shipped import ASSETS

if TYPE_CHECKING:
    import pandas as pd


def recorded_effects() -> pd.DataFrame:
    """What dropping each expert of labkit-moe does to the loss of each kind of text, measured once by its recipe.

    Returns the table of `effects` (layer, expert, kind, loss_change, low, high) on the first 600 characters of the first
    twelve shipped passages of each kind: `effects(lab, {k: [t[:600] for t in v] for k, v in texts(12).items()})`.
    """
    import pandas as pd

    path = ASSETS / "labkit-moe" / "effects.csv"
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise BadModelFile(f"{path.name}, which comes with labkit, can't be read; install labkit again.") from error


def checkpoints() -> dict[int, np.ndarray]:
    """{training step: chosen experts, (tokens, layers, k) uint8} of labkit-moe on 1,000 tokens of the shipped passages.

    The first entry is step 0, the untrained model; the last is the shipped one. For `saturation`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = ASSETS / "labkit-moe" / "choices.safetensors"
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadModelFile(f"{path.name}, which comes with labkit, can't be read; install labkit again.") from error
    return dict(sorted((int(step), chosen) for step, chosen in found.items()))
