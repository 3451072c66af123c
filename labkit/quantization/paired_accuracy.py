"""Two labs on the same questions: which answers changed, and whether as many would change for no reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.quantization.multiple_choice import FILES, answers, chance_of, questions_of, refuse_calibrated
from labkit.results import Result
from labkit.statistics import ENDS, interval, resampled
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

DRAWS = 2_000


@dataclass(frozen=True, eq=False, repr=False)
class AccuracyChange(Result):
    """How many questions a model gets right beside another; `accuracy_change` tells the columns of the table.

    original_accuracy, accuracy: shares right.  change: the second less the first, with 95 %, low and high, by drawing the
        questions again, each with both answers (Efron 1979).
    lost, gained: questions that only the original gets right, and only the other.  p: of as uneven a split of those
        among models that are equally good (McNemar 1947, exactly, by the binomial distribution).
    random_change: 95 % of the differences between two who answer at random lie within this: a null.
    chance: the share right of answers at random.  empty: (original, other), the shares right with the question left out.
    task, model, original, seed, draws: as asked.
    """

    original_accuracy: float
    accuracy: float
    change: float
    low: float
    high: float
    lost: int
    gained: int
    p: float
    random_change: float
    chance: float
    empty: tuple[float, float]
    task: str
    model: str
    original: str
    draws: int
    seed: int

    def _title(self) -> str:
        return (
            f"{self.model} beside {self.original} on {len(self.table)} questions of {self.task}: {self.accuracy:.0%} right from "
            f"{self.original_accuracy:.0%}, a change of {100 * self.change:+.0f} points ({100 * self.low:+.0f} to "
            f"{100 * self.high:+.0f})"
        )

    def _remarks(self) -> Sequence[str]:
        return (
            f"{self.lost} answers lost and {self.gained} gained: p = {self.p:.2g} (McNemar)",
            f"null: two that answer at random get {self.chance:.0%} right and differ by up to {100 * self.random_change:.0f} "
            f"points; without the question these two get {self.empty[0]:.0%} and {self.empty[1]:.0%} right",
        )


def accuracy_change(
    original: LabLike,
    small: LabLike,
    task: str = "hellaswag",
    *,
    questions: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> AccuracyChange:
    """Ask two labs the same questions and compare answer by answer, as `accuracy` asks one.

    Both read the same questions, so that a difference is surer than the intervals of the two shares say: what counts are the
    questions that one of them gets right and the other does not.
    original, small: the model, and what became of it.  task, questions, seed: as in `accuracy`.  draws: of the interval.
    Returns a row for each question: question, right, original_chosen, chosen, original_correct, correct.
    Raises Unavailable where the package is missing, BadInput for what is no lab and for one that was calibrated on a question.
    """
    import pandas as pd

    for lab in (original, small):
        check_lab(lab)
    checks.flag("progress", progress)
    task, seed = checks.one_of("task", task, tuple(FILES)), checks.seed(seed)
    draws = checks.whole("draws", draws, 1)
    asked = questions_of(task, questions, seed)
    blank = [each._replace(context=each.blank) for each in asked]
    found, empty = [], []
    for lab in (original, small):
        refuse_calibrated(lab, asked)
        found.append(pd.DataFrame(answers(lab, asked, f"{task}, {lab.name}", progress)))
        empty.append(float(np.mean([row["correct"] for row in answers(lab, blank, "no question", progress)])))
    first, second = found
    table = pd.DataFrame(
        {
            "question": first["question"],
            "right": first["right"],
            "original_chosen": first["chosen"],
            "chosen": second["chosen"],
            "original_correct": first["correct"],
            "correct": second["correct"],
        }
    )
    change = second["correct"].to_numpy(float) - first["correct"].to_numpy(float)
    rng = np.random.default_rng(seed)
    low, high = interval(resampled(np.zeros(len(change), np.int64), draws, rng) @ change / len(change))
    shares = np.array([1 / len(question.options) for question in asked])
    by_chance = (rng.random((2, draws, len(asked))) < shares).mean(-1)
    lost, gained = int((change < 0).sum()), int((change > 0).sum())
    return AccuracyChange(
        table,
        original_accuracy=float(first["correct"].mean()),
        accuracy=float(second["correct"].mean()),
        change=float(change.mean()),
        low=float(low),
        high=float(high),
        lost=lost,
        gained=gained,
        p=mcnemar(lost, gained),
        random_change=float(np.percentile(np.abs(by_chance[0] - by_chance[1]), ENDS[1] - ENDS[0])),
        chance=chance_of(asked),
        empty=(empty[0], empty[1]),
        task=task,
        model=small.name,
        original=original.name,
        draws=draws,
        seed=seed,
    )


def mcnemar(lost: int, gained: int) -> float:
    """The chance of at least as uneven a split of the answers that changed, if each were as likely lost as gained."""
    if lost + gained == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained).pvalue)
