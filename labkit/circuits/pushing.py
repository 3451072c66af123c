"""Whether a push along a direction does what the direction is said to be, beside pushes of the same length at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from labkit import checks
from labkit.circuits.activations import rows_of
from labkit.circuits.directions import Direction
from labkit.circuits.repeats import without_repeats
from labkit.errors import BadInput
from labkit.results import Result
from labkit.statistics import interval, p_value, resampled
from labkit.trace import running
from labkit.trace.along import check_width, exact, unit
from labkit.trace.edits import patch
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["Metrics", "Steers", "steers"]

Metric = Callable[[Tensor], object]
Metrics = Metric | Sequence[Metric]
DRAWS = 1_000


@dataclass(frozen=True, eq=False, repr=False)
class Steers(Result):
    """What pushes along a direction change; `steers` tells the columns of the table.

    unsteered: the metric's mean without any.  length: of the direction, in the residual stream's units.  layer: before which
    it is added.  prompts: how many.  random: how many random directions.  model: by name.  seed: of them.
    notes: of prompts that stood there twice.
    """

    unsteered: float
    length: float
    layer: int
    prompts: int
    random: int
    model: str
    seed: int
    notes: tuple[str, ...] = ()

    def _title(self) -> str:
        how = f"along a direction of length {self.length:.3g}: {self.prompts} prompts"
        return f"{self.model} pushed before layer {self.layer} {how}"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"not pushed": {"strength": 0.0, "value": self.unsteered, "change": 0.0}}

    def _remarks(self) -> Sequence[str]:
        return (
            f"p: how often one of {self.random} random directions of that length changes at least as much, either way.",
            *self.notes,
        )


def steers(
    lab: LabLike,
    direction: Direction | Tensor,
    prompts: Sequence[object],
    metric: Metrics,
    *,
    layer: int | None = None,
    strengths: Sequence[float] = (1.0,),
    random: int = 20,
    tokens: str = "1:",
    chat: bool | None = False,
    seed: int = 0,
) -> Steers:
    """Push the residual stream along a direction and see what the model then says, beside random directions of the same length.

    direction: a Direction, or (d_model,) with the layer it is added before; added as it is, times each of the strengths.
    prompts: at least two different ones; the same with the same metric counts once.  metric: of the logits of one prompt,
        (T, vocabulary) float32, gives a number, such as `lambda logits: logits[-1, good] - logits[-1, bad]`; or a list
        with one for each prompt.
    tokens: which are pushed, as places write them; "1:" leaves the first alone.  random: directions drawn for comparison.
    A row for each strength: strength; value, the metric's mean over prompts; change, from the model left alone, with low and
    high (95 %, resampling prompts); random_low, random_high: where 95 % of the mean changes by random directions lie; p, how
    often one of those is at least as large, either way. Random directions are drawn alike in all dimensions, and most of a
    stream's dimensions
    do little: a small p says that the direction does more than a push of its length, and not that it alone does so.
    Raises BadInput for a metric that gives no finite number, a direction that is none, or a layer missing or not there.
    """
    if isinstance(direction, Direction):
        if layer is not None and layer != direction.layer:
            raise BadInput(
                f"This direction was found at layer {direction.layer}; leave layer away, or give its vector instead."
            )
        check_lab(lab)
        direction.belongs(lab)
        layer, vector = direction.layer, direction.vector
    else:
        vector = direction
    along = unit(vector, "steers takes a Direction, from difference_of_means, or a direction (d_model,) as a tensor.")
    length = float(exact(vector.detach()).norm())
    if layer is None:
        raise BadInput("A direction of your own needs the layer it is added before: layer=15.")
    random, seed = checks.whole("random", random, 1), checks.seed(seed)
    amounts = [checks.number("strengths", each) for each in checks.series("strengths", strengths, "a list of numbers")]
    if not amounts:
        raise BadInput("There is no strength to push by; give some, such as (-1, 1).")
    rows = rows_of(lab, prompts, "prompts", chat=chat)
    layer = checks.index("layer", layer, len(lab.anatomy.layers) + 1, of=f"{lab.name} has")
    metrics = (
        [metric] * len(rows)
        if callable(metric)
        else checks.series("metric", metric, "a function, or one for each prompt")
    )
    if len(metrics) != len(rows) or not all(callable(each) for each in metrics):
        raise BadInput(
            f"There are {len(rows)} prompts and not as many metrics; give one function, or one for each prompt."
        )
    once, notes = without_repeats(rows, [id(each) for each in metrics])
    rows, metrics = [rows[place] for place in once], [metrics[place] for place in once]
    if len(rows) < 2:
        raise BadInput("Give several different prompts: from one, nothing can be said about others.")
    return _measured(lab, along, length, layer, amounts, rows, metrics, random, tokens, seed, notes)


def _measured(
    lab: LabLike,
    along: Tensor,
    length: float,
    layer: int,
    amounts: Sequence[float],
    rows: Sequence[Sequence[int]],
    metrics: Sequence[object],
    random: int,
    tokens: str,
    seed: int,
    notes: tuple[str, ...],
) -> Steers:
    import pandas as pd

    with lab.turn():
        batches = running.groups(lab.model, [len(row) for row in rows])

    def pushed(push: Tensor | None) -> np.ndarray:
        """(prompts,) the metric of each."""

        def added(x: Tensor) -> Tensor:
            assert push is not None
            check_width(x, push, "load the model it was found in")
            return x + push.to(x)

        values = np.zeros(len(rows))
        edits = [] if push is None else [patch(f"residual[{layer}] @ {tokens}", added)]
        with lab.edit(*edits):
            for batch in batches:
                with lab.turn():
                    output = running.forward(lab.model, [rows[i] for i in batch])
                for place, i in enumerate(batch):
                    values[i] = _number(metrics[i], output.all_logits[place, : len(rows[i])].float())
        return values

    drawn = random_directions(random, along, seed)
    weights = resampled(np.zeros(len(rows), np.int64), DRAWS, np.random.default_rng(seed)) / len(rows)
    before = pushed(None)
    found = []
    for amount in amounts:
        changes = pushed(amount * length * along) - before
        others = np.array([(pushed(amount * length * other) - before).mean() for other in drawn])
        if amount and not changes.any() and not others.any():
            raise BadInput(
                f"No push changes anything: tokens={tokens!r} names no token of these prompts that the metric sees; give longer "
                "prompts, or other tokens."
            )
        low, high = interval(weights @ changes)
        change = float(changes.mean())
        p = p_value(abs(change), np.abs(others))
        found.append(
            (amount, float(before.mean()) + change, change, float(low), float(high), *map(float, interval(others)), p)
        )
    columns = ["strength", "value", "change", "low", "high", "random_low", "random_high", "p"]
    table = pd.DataFrame(found, columns=columns)
    return Steers(table, float(before.mean()), length, layer, len(rows), random, lab.name, seed, notes)


def random_directions(count: int, like: Tensor, seed: int) -> Tensor:
    """(count, d_model) of length 1, uniform over the sphere, in the dtype and on the device of a direction."""
    drawn = torch.randn(count, len(like), generator=torch.Generator().manual_seed(seed))
    found: Tensor = (drawn / drawn.norm(dim=1, keepdim=True)).to(like)
    return found


def _number(metric: object, logits: Tensor) -> float:
    assert callable(metric)
    value = checks.as_number(metric(logits))
    if value is None:
        raise BadInput("The metric returned no finite number; return one, such as logits[-1, 42].")
    return value
