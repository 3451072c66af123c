"""What was measured of labkit's small models while they were trained: tables that come with labkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit import checks
from labkit.errors import BadModelFile
from labkit.models.shipped import ASSETS

if TYPE_CHECKING:
    import pandas as pd

MODELS = ("wide", "narrow", "tiny")


def recorded_squeeze(model: str | None = "wide") -> pd.DataFrame:
    """What rounding costs a model the more it has read, measured once by `labkit/recipes/squeeze.py`.

    model: "wide" (labkit-squeeze: width 128), "narrow" (64) or "tiny" (32); None for all three.
    A row for each checkpoint (`step`, `tokens` read by then) and format ("int8", "int4", "int3", "int2": from the smallest to
    the largest weight of each 32 in a row; "ternary": one scale for a matrix). The matrices of the layers are rounded to
    nearest, the embedding stays.
    bits: of a weight, with its share of the scales.  original_loss, loss: in float32 and in the format, nats a token on
    held-out passages, each of the five kinds counting the same.  loss_change: the second less the first, low and high: 95 %
    by resampling documents.  growth: how much more that is than at step 400 for the same model and format; beyond_wide: than
    for `wide` at the same step and format; each with _low and _high.
    One point again, of labkit-squeeze (step 2,400; labkit-squeeze-early is step 400), stored in half precision:
    `small = quantize(lab, "int3", group_size=32, symmetric=False)`, ("ternary" without settings), and
    `damage(lab, small, texts(20, characters=350), tokens=None)`, whose rows of the five kinds have a mean loss_change as here.
    The learning rate is constant up to step 2,400; in `narrow`, which went on, it falls to nothing at 3,000.
    Raises BadInput for another model, BadModelFile where the table can't be read.
    """
    if model is not None:
        checks.one_of("model", model, MODELS)
    table = _table("squeezed.csv")
    return table if model is None else table[table["model"] == model].reset_index(drop=True)


def recorded_ternary() -> pd.DataFrame:
    """Ternary matrices made after the training and trained through, beside full precision: one size, tokens and data.

    A row for each checkpoint (`step`, `tokens`) and `way`: "full precision", "rounded after", "trained through". The scale of
    a matrix is its mean magnitude in both (BitNet b1.58, Ma et al. 2024); activations are not rounded.
    loss: nats a token as in `recorded_squeeze`.  cost: how much more than in full precision. Each with _low and _high, 95 %
    by resampling documents.
    Raises BadModelFile where the table can't be read.
    """
    return _table("ternary.csv")


def _table(name: str) -> pd.DataFrame:
    import pandas as pd

    path = ASSETS / "labkit-squeeze" / name
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise BadModelFile(f"{name}, which comes with labkit, can't be read; install labkit again.") from error
