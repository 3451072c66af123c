"""How many held-out answers of a task are right: with intervals, beside what no skill gives, and before against after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.lora.tasks import Task
from labkit.results import Result
from labkit.statistics import ENDS, paired_difference, wilson
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.generation.generating_lab import GeneratingLab

__all__ = ["ExactMatch", "Gain", "exact_match", "gain"]

ENDED = ("end",)  # the finish reasons of an answer that the model ended itself


@dataclass(frozen=True, eq=False, repr=False)
class ExactMatch(Result):
    """How many held-out answers are right; `exact_match` tells the columns of the table.

    share: of the answers that are right, with its interval of 95 % (Wilson 1927), low and high.
    others, others_high: what the same answers give when each is judged as the answer to another item: the mean over all pairs,
        and the 97.5 % of dealing them out anew.  constant: what the training data's most frequent answer gives for every
        item.  constant_answer: that answer.
    ended: the share of answers that the model ended itself.  graded: when an answer is right.  task, model: names.
    """

    share: float
    low: float
    high: float
    others: float
    others_high: float
    constant: float
    constant_answer: str
    ended: float
    task: str
    graded: str
    model: str
    seed: int

    def _title(self) -> str:
        return (
            f"{self.model}: {self.share:.0%} of {len(self.table)} held-out answers of {self.task} right ({self.low:.0%} to "
            f"{self.high:.0%}); {self.graded}"
        )

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {
            "answers of other items": {"right": self.others},
            "always the most frequent answer": {"right": self.constant},
        }

    def _remarks(self) -> Sequence[str]:
        found = []
        if self.low <= max(self.others_high, self.constant):
            found.append("What no skill gives is within the interval: nothing of the task is shown here.")
        if self.ended < 1:
            found.append(f"{1 - self.ended:.0%} of the answers did not end by themselves and were cut.")
        return found


@dataclass(frozen=True, eq=False, repr=False)
class Gain(Result):
    """What tuning did to the same items; `gain` tells the columns of the table.

    difference: of the shares that are right, after less before, with its interval of 95 %, low and high (of pairs: Newcombe
        1998).  won, lost: items that only after, and only before, are right.
    p: of so uneven a count of won and lost if neither were favoured (exact, two-sided; McNemar 1947).
    """

    difference: float
    low: float
    high: float
    won: int
    lost: int
    p: float
    before: str
    after: str
    task: str

    def _title(self) -> str:
        return (
            f"{self.task}: {100 * self.difference:+.0f} points ({100 * self.low:+.0f} to {100 * self.high:+.0f}) from "
            f"{self.before} to {self.after}; {self.won} of {len(self.table)} won, {self.lost} lost, p = {self.p:.2g}"
        )

    def _remarks(self) -> Sequence[str]:
        return ("No difference is within the interval.",) if self.low <= 0 <= self.high else ()


def exact_match(
    lab: GeneratingLab,
    task: Task,
    *,
    items: int | None = None,
    max_new_tokens: int | None = None,
    template: Mapping[str, object] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> ExactMatch:
    """Have a model answer a task's held-out prompts, greedily, and count what is right.

    items: only the first so many.  max_new_tokens: of an answer (default: the task's `most_tokens`).
    template: arguments for the chat template, as `generate` takes them: those that the model was tuned with.
    draws: how often answers are dealt to other items, by the seed, for what no skill gives.
    An adapter that is on, and edits, are in force. Returns a row for each item: prompt, wanted, answer, right, ended (whether
    the model ended it itself). Two runs on the same items are compared by `gain`.
    Raises Unavailable for a task of plain text, which has no right answers.
    """
    import pandas as pd

    check_lab(lab)
    if not isinstance(task, Task):
        checks.refuse("task", task, "a Task, such as lk.lora.tasks.dates()")
    if task.held_out and task.held_out[0].kind != "prompt":
        raise Unavailable(
            f"The task {task.name} is plain text, which has no right answers; compare the loss on task.held_out."
        )
    chosen = task.held_out[
        : checks.whole("items", len(task.held_out) if items is None else items, 1, len(task.held_out))
    ]
    most = checks.whole("max_new_tokens", task.most_tokens if max_new_tokens is None else max_new_tokens, 1)
    draws, rng = checks.whole("draws", draws, 1), np.random.default_rng(checks.seed(seed))
    prompts = [sample.prompt for sample in chosen]
    written = lab.generate(prompts, max_new_tokens=most, chat=None, template=template, alternatives=1)
    answers = [generation.text for generation in written]
    graded = {answer: np.array([task.grade(prompt, answer) for prompt in prompts]) for answer in dict.fromkeys(answers)}
    right = np.array([graded[answer] for answer in answers]).T  # (items, answers): as judged for each item
    n = len(prompts)
    ended = [generation.finish_reason in ENDED for generation in written]
    table = pd.DataFrame(
        {
            "prompt": prompts,
            "wanted": [sample.completion for sample in chosen],
            "answer": answers,
            "right": right.diagonal().copy(),
            "ended": ended,
        }
    )
    hits = int(right.diagonal().sum())
    low, high = wilson(hits, n)
    others, others_high = _of_others(right, draws, rng)
    constant = Counter(sample.completion for sample in task.train).most_common(1)[0][0]
    return ExactMatch(
        table,
        share=hits / n,
        low=low,
        high=high,
        others=others,
        others_high=others_high,
        constant=float(np.mean([task.grade(prompt, constant) for prompt in prompts])),
        constant_answer=constant,
        ended=float(np.mean(ended)),
        task=task.name,
        graded=task.graded,
        model=lab.name,
        seed=seed,
    )


def gain(before: ExactMatch, after: ExactMatch) -> Gain:
    """What changed between two runs of `exact_match` on the same items: untuned and tuned, say.

    Returns a row for each item: prompt, wanted, before, after (the answers), was_right, is_right.
    Raises BadInput where the two are not of the same items.
    """
    import pandas as pd
    from scipy.stats import binomtest

    for name, given in (("before", before), ("after", after)):
        if not isinstance(given, ExactMatch):
            checks.refuse(name, given, "what lk.lora.exact_match returns")
    first, second = before.table, after.table
    if first["prompt"].tolist() != second["prompt"].tolist() or first["wanted"].tolist() != second["wanted"].tolist():
        raise BadInput(
            f"The two are not of the same items ({len(first)} of {before.task} and {len(second)} of {after.task}), so they can't "
            "be paired; measure both with the same task and items."
        )
    was, now = first["right"].to_numpy(dtype=bool), second["right"].to_numpy(dtype=bool)
    won, lost = int((now & ~was).sum()), int((was & ~now).sum())
    difference, low, high = paired_difference(int((was & now).sum()), won, lost, int((~was & ~now).sum()))
    table = pd.DataFrame(
        {
            "prompt": first["prompt"],
            "wanted": first["wanted"],
            "before": first["answer"],
            "after": second["answer"],
            "was_right": was,
            "is_right": now,
        }
    )
    return Gain(
        table,
        difference=difference,
        low=low,
        high=high,
        won=won,
        lost=lost,
        p=float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
        before=before.model,
        after=after.model,
        task=after.task,
    )


def _of_others(right: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """(mean, 97.5 %) of the share right when no item gets its own answer; NaN of a single item.

    right: (items, answers). Each draw lays the items in a ring, and each gets its neighbour's answer.
    """
    n = len(right)
    if n < 2:
        return float("nan"), float("nan")
    mean = float((right.sum() - right.diagonal().sum()) / (n * (n - 1)))
    rings = (rng.permutation(n) for _ in range(draws))
    return mean, float(np.percentile([right[ring, np.roll(ring, 1)].mean() for ring in rings], ENDS[1]))
