"""A persona as a direction: found from questions asked behind two system prompts, and put to the test on other questions.

Chen et al. 2025, Persona Vectors (arXiv:2507.21509), whose judge is a large model. Here nothing is judged: what the
persona itself answers is written down, and the question is how much likelier a push along the direction makes those very
words where the persona was not asked for, beside pushes of the same length at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from labkit import checks
from labkit.circuits.activations import rows_of
from labkit.circuits.directions import Direction, difference_of_means, edit_cost
from labkit.circuits.holding_out import LEAST
from labkit.circuits.pushing import Steers, random_directions, steers
from labkit.circuits.repeats import without_repeats
from labkit.errors import BadInput
from labkit.results import Result
from labkit.trace.along import exact
from labkit.trace.edits import Edit, patch
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.generation.generating_lab import GeneratingLab

__all__ = ["Persona", "persona"]

COSTED = 5  # random directions whose cost is measured


@dataclass(frozen=True, eq=False, repr=False)
class Persona(Result):
    """A persona's direction and what pushes along it do; `persona` tells the columns of the table.

    direction: the `Direction`, found on other questions than these.  asked: nats a token, the persona's answers where it is asked
    for.  unasked: the same words where it is not.  answers: the persona's own, by question.  questions: how many were judged.
    random: how many random directions the changes were compared with.  model: by name.  notes: of what was left out.
    """

    direction: Direction
    asked: float
    unasked: float
    answers: dict[str, str]
    questions: int
    random: int
    model: str
    notes: tuple[str, ...]

    def _title(self) -> str:
        return (
            f"A persona of {self.model}, pushed before layer {self.direction.layer}: log-probability of its own words, nats a "
            f"token, on {self.questions} questions that the direction was not found on"
        )

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        way = self.asked - self.unasked
        share = (0.0, 1.0) if way > 0 else (math.nan, math.nan)
        return {
            "not pushed": {"strength": 0.0, "likelihood": self.unasked, "change": 0.0, "share": share[0]},
            "asked for": {"likelihood": self.asked, "change": way, "share": share[1]},
        }

    def _remarks(self) -> Sequence[str]:
        return (
            f"p: among {self.random} random directions of that length; kl: what the push costs on general text",
            *self.notes,
        )


def persona(
    lab: GeneratingLab,
    questions: Sequence[str],
    system: str,
    texts: Sequence[object],
    *,
    layer: int,
    other: str | None = None,
    strengths: Sequence[float] = (0.5, 1.0, 2.0),
    tokens: int = 16,
    random: int = 19,
    seed: int = 0,
) -> Persona:
    """Find the direction of a persona, and see whether a push along it makes the model say what the persona says.

    questions: at least ten different ones; half of them find the direction, the others judge it.  system: the system prompt that
        asks for the persona.  other: that of the model beside it; None for the plain question.
    layer: before which the direction is found (at the last token before the answer) and added, to every token but the first.
    strengths: times the direction's own length.  texts: general ones, on which the cost is measured.  tokens: of an answer.
    random: directions drawn for comparison; the cost of five of them is measured.
    A row for each strength: strength; likelihood, log-probability of the persona's answers where it is not asked for, nats
    a token; change, from no push, with low and high (95 %, questions drawn again); share, of the way to where the persona
    is asked for (NaN where asking makes its words no likelier); random_low and random_high, where 95 % of the mean
    changes by random directions lie; p, how often one of those is at least as large, either way; kl, nats a token on
    `texts`; random_kl, the mean of random directions.
    Raises BadInput for too few questions and a model without chat template.
    """
    import pandas as pd

    check_lab(lab)
    tokens, random, seed = checks.whole("tokens", tokens, 1), checks.whole("random", random, 1), checks.seed(seed)
    if not isinstance(system, str) or not system.strip():
        raise BadInput(
            f"system={checks.shown(system)} asks for no persona; give the system prompt that does, one text."
        )
    given = list(checks.texts("questions", questions))
    once, notes = without_repeats(rows_of(lab, given, "questions", chat=False))
    if len(once) < 2 * LEAST:
        raise BadInput(
            f"{len(once)} different questions are too few to find a persona on half and judge it by the others; give {2 * LEAST}."
        )
    asked, plain = ([_asked(given[place], prompt) for place in once] for prompt in (system, other))
    order = np.random.default_rng(seed).permutation(len(once))
    found_on, judged = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    direction = difference_of_means(
        lab,
        [asked[i] for i in found_on],
        [plain[i] for i in found_on],
        checks.whole("layer", layer),
        chat=True,
        pairs=True,
        seed=seed,
    )
    prompts = rows_of(lab, [asked[i] for i in judged], "questions", chat=True)
    made = lab.generate(prompts, max_new_tokens=tokens, chat=False, alternatives=1)
    spoken = [(place, one) for place, one in zip(judged, made, strict=True) if one.ids]
    if len(spoken) < 2:
        raise BadInput("The persona answers nothing to most questions, so there are no words to look for; ask others.")
    before = rows_of(lab, [plain[i] for i, _ in spoken], "questions", chat=True)
    rows = [row + list(one.ids) for row, (_, one) in zip(before, spoken, strict=True)]
    metrics = [partial(_likelihood, list(one.ids)) for _, one in spoken]
    result = steers(
        lab,
        direction,
        rows,
        cast("Sequence[Callable[[Tensor], object]]", metrics),
        strengths=strengths,
        random=random,
        seed=seed,
    )
    own = float(np.mean([float(one.logprobs.mean()) for _, one in spoken]))
    table = _costed(lab, direction, result, texts, own, random, seed)
    answers = {given[once[i]]: one.text for i, one in spoken}
    columns = [
        "strength",
        "likelihood",
        "change",
        "low",
        "high",
        "share",
        "random_low",
        "random_high",
        "p",
        "kl",
        "random_kl",
    ]
    return Persona(
        pd.DataFrame(table)[columns],
        direction,
        own,
        result.unsteered,
        answers,
        len(spoken),
        random,
        lab.name,
        (*notes, *result.notes),
    )


def _costed(
    lab: GeneratingLab, direction: Direction, found: Steers, texts: Sequence[object], own: float, random: int, seed: int
) -> list[dict[str, object]]:
    """The rows of a push, with how far it goes and what it costs; the random directions are the first that it was measured by."""
    drawn = random_directions(random, direction.vector, seed)[:COSTED]
    others = [direction.vector.norm() * one for one in drawn]
    way = own - found.unsteered
    rows = []
    for row in found.table.to_dict("records"):
        strength = float(row["strength"])
        kl, *random_kl = (
            edit_cost(lab, _push(strength * vector, direction.layer), texts).kl
            for vector in (direction.vector, *others)
        )
        rows.append(
            {str(name): value for name, value in row.items()}
            | {
                "likelihood": row["value"],
                "share": float(row["change"]) / way if way > 0 else math.nan,
                "kl": kl,
                "random_kl": float(np.mean(random_kl)),
            }
        )
    return rows


def _asked(question: str, system: str | None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": question}]


def _likelihood(ids: Sequence[int], logits: Tensor) -> float:
    """Mean log-probability of the last tokens, given those before each."""
    logs = exact(logits)[-len(ids) - 1 : -1].log_softmax(-1)
    return float(logs[torch.arange(len(ids)), torch.tensor(ids)].mean())


def _push(vector: Tensor, layer: int) -> Edit:
    """Add a vector to what enters a layer, at every token but the first."""
    return patch(f"residual[{layer}] @ 1:", lambda x: x + vector.to(x))
