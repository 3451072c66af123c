"""A clean text and a corrupted one of equally many tokens, and the metric that tells them apart: what patching compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, SupportsFloat, cast

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.models.tokens import token_strings
from labkit.trace.input import as_ids, is_many

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

Metric = Callable[[torch.Tensor], object]


def check_metric(metric: object) -> None:
    """Raise BadInput for a metric that can't be called."""
    if not callable(metric):
        raise BadInput(
            "metric is to be a function of the logits (T, vocabulary), such as lambda logits: logits[-1, 42]."
        )


def pair_ids(lab: LabLike, clean: object, corrupted: object) -> tuple[list[int], list[int]]:
    """The token ids of both texts. Raises BadInput where they have not equally many tokens, and shows these."""
    for text in (clean, corrupted):
        if is_many(text):
            raise BadInput("One clean text is compared with one corrupted text; call it once for each pair.")
    both = [as_ids(lab.tokenizer, text, chat=False, context=lab.context) for text in (clean, corrupted)]
    if len(both[0]) != len(both[1]):
        written = ["|".join(token_strings(lab.tokenizer, ids)) for ids in both]
        raise BadInput(
            f"The clean text has {len(both[0])} tokens and the corrupted one {len(both[1])}: {checks.shown(written[0])} and "
            f"{checks.shown(written[1])}; choose words with equally many tokens."
        )
    return both[0], both[1]


def positions_of(positions: int | slice | Sequence[int] | None, n: int) -> list[int]:
    """The positions meant, of n tokens; all for None. Raises BadInput for none."""
    if positions is None:
        return list(range(n))
    several = [positions] if checks.as_whole(positions) is not None else positions
    chosen = list(dict.fromkeys(checks.indices("positions", "token", several, n, of="the texts have")))
    if not chosen:
        raise BadInput(f"positions={positions!r} names no token; the texts have tokens 0 to {n - 1}.")
    return chosen


def scores(logits: torch.Tensor) -> torch.Tensor:
    """Logits as a metric is given them: float32, and float64 of a model in float64."""
    return logits if logits.dtype is torch.float64 else logits.float()


def value_of(metric: Metric, logits: torch.Tensor) -> float:
    """The metric of one text's logits, (T, vocabulary). Raises BadInput where it is no number."""
    value = metric(scores(logits))
    try:
        return float(cast("SupportsFloat", value))
    except (TypeError, ValueError, RuntimeError) as error:
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise BadInput(
            f"The metric {getattr(metric, '__name__', metric)} returned a {type(value).__name__}{shape}; return one number."
        ) from error


def patched_value(metric: Metric, logits: torch.Tensor) -> float:
    """The metric of a run in which something was patched. Raises BadInput also where it is not finite, as a logarithm may be."""
    value = value_of(metric, logits)
    if not math.isfinite(value):
        raise BadInput(
            f"The metric {getattr(metric, '__name__', metric)} is finite for both texts and {value} where a part is patched, so "
            "that effect can't be said; choose a metric that is finite for all logits, such as a difference of two of them."
        )
    return value


def check_values(clean: float, corrupted: float) -> None:
    """Raise BadInput where the metric is no finite number or does not tell the two texts apart."""
    for value, text in ((clean, "clean"), (corrupted, "corrupted")):
        if not math.isfinite(value):
            raise BadInput(f"The metric of the {text} text is {value}; choose one that is a finite number.")
    if clean == corrupted:
        raise BadInput(
            f"The metric is {clean:g} for the clean and for the corrupted text, so there is nothing to bring back; "
            "choose texts that it tells apart."
        )
