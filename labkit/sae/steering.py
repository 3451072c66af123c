"""What steering does: how often a concept appears in what the model writes, and what that costs in plausibility."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from labkit import checks
from labkit.errors import BadInput
from labkit.results import Result
from labkit.sae.dictionary import SAE, Feature, checked_sae
from labkit.sae.interventions import number, steer
from labkit.sae.reading import defined, ids_for, residuals
from labkit.statistics import interval, wilson
from labkit.trace.edits import Edit
from labkit.trace.input import as_texts

if TYPE_CHECKING:
    from labkit.generation.generating_lab import GeneratingLab
    from labkit.generation.record import Generation
    from labkit.trace.lab_like import LabLike

__all__ = ["Doses", "Steered", "broken", "difference", "dose", "steered"]

DRAWS = 1_000
RANDOM = "random direction"
SAME_IN_A_ROW = 8  # of the same token, or of the same few: the model has broken
LONGEST_LOOP = 4


def difference(lab: LabLike, sae: SAE, present: Sequence[object], absent: Sequence[object]) -> Tensor:
    """(d_in,): mean residual over texts that have a concept minus the mean over texts that lack it, at the SAE's layer.

    Tokens where the features are not defined (the first of each text) don't count. The plain way to a direction, to set
    beside a feature: Marks and Tegmark 2023. Raises BadInput where there is no token to count.
    """
    present, absent = as_texts(present, "present"), as_texts(absent, "absent")
    if not present or not absent:
        raise BadInput("A difference of means needs texts that have the concept and texts that lack it.")
    checked_sae(sae).belongs(lab)
    means = []
    for texts in (present, absent):
        rows = [ids_for(lab, sae, text) for text in texts]
        read = zip(rows, residuals(lab, rows, sae.layer), strict=True)
        counted = torch.cat([x[defined(lab, sae, ids, x)] for ids, x in read])
        if not len(counted):
            raise BadInput("These texts have no token to count: the first of each does not; give longer ones.")
        means.append(counted.mean(0))
    return means[0] - means[1]


def broken(ids: Sequence[int]) -> str | None:
    """The sentence that says how a continuation has fallen apart, or None: whether it ends in a loop of up to four tokens."""
    for period in range(1, LONGEST_LOOP + 1):
        length = max(SAME_IN_A_ROW, 3 * period)
        tail = list(ids[-length:])
        if len(tail) == length and all(tail[i] == tail[i - period] for i in range(period, length)):
            what = "the same token" if period == 1 else f"the same {period} tokens"
            return f"The model broke: it says {what} over and over."
    return None


@dataclass(frozen=True, eq=False, repr=False)
class Doses(Result):
    """What `dose` found, a row per direction and strength; `lk.views.doses` draws it.

    prompts: how many continuations each row stands for.  tokens: of each at most.  model, sae: by name.
    """

    prompts: int
    tokens: int
    model: str
    sae: str

    def _title(self) -> str:
        return (
            f"{self.model} steered at the layer of {self.sae}: {self.prompts} prompts, up to {self.tokens} tokens each"
        )

    def _remarks(self) -> tuple[str, ...]:
        return ("A random direction says what any push of that strength does.",) if self._has_random() else ()

    def _has_random(self) -> bool:
        return any(str(name).startswith(RANDOM) for name in self.table["direction"])


def dose(
    lab: GeneratingLab,
    sae: SAE,
    directions: Mapping[str, Feature | Tensor | Callable[[float], Edit]],
    strengths: Iterable[float],
    prompts: Sequence[object],
    concept: Callable[[str], bool],
    *,
    tokens: int = 24,
    chat: bool | None = False,
    random: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Doses:
    """Steer along each direction by each strength, write on from each prompt, and look at what came out.

    directions: name -> feature or direction (taken at length 1, so that strengths mean the same), or a function from a
    strength to an edit, such as lambda value: lk.clamp(sae[1234], value). concept: whether a
    continuation has it. tokens: of each continuation, greedy. chat: False writes on from the prompts as they are, True
    answers them. random: so many directions drawn at random stand beside them, as "random direction", to see what any push
    does; one draw is one draw, and several show how much they differ.
    Returns a row per direction and strength: share (of continuations with the concept), low and high (95 %, by Wilson's
    formula over prompts, so that none of ten does not pass for never), loss (nats a token that the model without steering
    gives to what was written; of the texts that did not break, since a loop is easy to predict), loss_low, loss_high (95 %,
    resampling prompts), broken (share that ended in a loop), example (the first continuation with the concept, else the
    first) and its prompt. Strength 0 is the same for all directions and is run once.
    Raises BadInput before anything is written for prompts, directions or strengths that can't be used.
    """
    prompts = as_texts(prompts, "prompts")
    if len(prompts) < 2:
        raise BadInput("Give several prompts: from one, nothing can be said about others.")
    if not isinstance(directions, Mapping) or not directions:
        raise BadInput("There is no direction to steer along; give them by name, such as {'feature': sae[1234]}.")
    strengths = [number(strength, "A strength") for strength in strengths]
    if not strengths:
        raise BadInput("There is no strength to steer by; give some, such as (0, 40, 80).")
    checked_sae(sae).belongs(lab)
    directions = dict(directions)
    random = checks.whole("random", int(random) if isinstance(random, bool) else random, 0)  # False for none
    generator = torch.Generator().manual_seed(seed)
    for i in range(random):
        drawn = torch.randn(sae.d_in, generator=generator)
        directions.setdefault(RANDOM if i == 0 else f"{RANDOM} {i + 1}", drawn)
    from tqdm.auto import tqdm

    # every edit is made before the first text is written, so that a bad one is refused at once
    plan = [
        (name, s, [_push(what, s, sae.layer, sae.d_in)] if s else [])
        for name, what in directions.items()
        for s in strengths
    ]
    for _, _, edits in plan:
        for edit in edits:
            if edit.check is not None:
                edit.check(lab)
    draw = np.random.default_rng(seed)
    chosen = draw.integers(len(prompts), size=(DRAWS, len(prompts)))
    unsteered: tuple[list[Generation], np.ndarray] | None = None
    rows = []
    for name, strength, edits in tqdm(plan, desc="steering", disable=not progress, leave=False):
        if edits:
            made, loss = _written(lab, prompts, tokens, chat, *edits)
        else:
            unsteered = unsteered or _written(lab, prompts, tokens, chat)
            made, loss = unsteered
        fell = np.array([broken(each.ids) is not None for each in made])
        loss = np.where(fell, np.nan, loss)  # a loop is easy to predict, and so would look cheap
        has = np.array([bool(concept(each.text)) for each in made])
        shown = int(has.argmax())
        share_low, share_high = wilson(int(has.sum()), len(has))
        loss_low, loss_high = _resampled(loss, chosen)
        rows.append(
            {
                "direction": name,
                "strength": strength,
                "share": has.mean(),
                "low": share_low,
                "high": share_high,
                "loss": _mean(loss),
                "loss_low": loss_low,
                "loss_high": loss_high,
                "broken": float(fell.mean()),
                "example": made[shown].text,
                "prompt": prompts[shown],
            }
        )
    import pandas as pd

    return Doses(pd.DataFrame(rows), len(prompts), tokens, lab.name, sae.name)


def _push(what: Feature | Tensor | Callable[[float], Edit], strength: float, layer: int, d_in: int) -> Edit:
    """Steering along a direction of length 1, whatever length a feature's own has; or what a function makes of the strength."""
    if isinstance(what, Feature):
        return replace(steer(what.direction, strength, layer=what.sae.layer), check=what.sae.belongs)
    if callable(what):
        edit = what(strength)
        if not isinstance(edit, Edit):
            raise BadInput(f"A function among the directions is to make an edit of a strength, and it made {edit!r}.")
        return edit
    if isinstance(what, Tensor) and what.ndim == 1 and len(what) != d_in:
        raise BadInput(f"This direction has {len(what)} numbers, and what enters the layer has {d_in}; give another.")
    return steer(what, strength, layer=layer)


def _written(
    lab: GeneratingLab, prompts: Sequence[object], tokens: int, chat: bool | None, *edits: Edit
) -> tuple[list[Generation], np.ndarray]:
    """Continuations under edits, and the loss that the model without them gives to each; NaN for one without a token."""
    with lab.edit(*edits):
        made = lab.generate(cast("list[str]", list(prompts)), max_new_tokens=tokens, chat=chat, alternatives=1)
    return made, np.array([_loss(lab, each) for each in made])


def _resampled(loss: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """95 % of the mean over prompts drawn with replacement; those that wrote nothing don't count."""
    there = np.isfinite(loss)
    counts = there[chosen].sum(1)
    means = np.where(there, loss, 0.0)[chosen].sum(1)[counts > 0] / counts[counts > 0]
    if not len(means):
        return math.nan, math.nan
    low, high = interval(means)
    return float(low), float(high)


def _mean(loss: np.ndarray) -> float:
    there = loss[np.isfinite(loss)]
    return float(there.mean()) if len(there) else math.nan


def _loss(lab: GeneratingLab, made: Generation) -> float:
    """Nats a token of what was written, by the model as it is now."""
    if not made.ids:
        return float("nan")
    ids = [*made.prompt_ids, *made.ids]
    return float(lab.trace(ids, keep="logits").loss[len(made.prompt_ids) :].mean())


@dataclass(frozen=True)
class Steered:
    """A continuation under way: what lk.views.steering draws.

    tokens: the continuation so far, each token's text, without the prompt; while it is being written, a character that is
    several tokens comes as one.  mean_loss: nats a token that the model without
    steering gives to it, which is what steering costs in plausibility; None while it is not known, and for a text that broke,
    since a loop is easy to predict.  done: nothing more
    comes.  note: a sentence to be shown as a warning, such as that the model broke.
    """

    tokens: tuple[str, ...] = ()
    mean_loss: float | None = None
    done: bool = False
    note: str = ""


def steered(
    lab: GeneratingLab, sae: SAE, *, tokens: int = 40, chat: bool | None = False
) -> Callable[[str, Mapping[int, float], threading.Event], Iterator[Steered]]:
    """What lk.views.steering runs: (prompt, feature -> strength, stop) -> the continuation as it is written.

    chat: False writes on from the prompt as it is, True answers it.
    """
    checked_sae(sae).belongs(lab)

    def run(prompt: str, strengths: Mapping[int, float], stop: threading.Event) -> Iterator[Steered]:
        edits = [steer(sae[int(i)], strength) for i, strength in strengths.items() if strength]
        pieces: list[str] = []
        with lab.edit(*edits):
            for piece in lab.stream(prompt, chat=chat, max_new_tokens=tokens, alternatives=1):
                if stop.is_set():
                    return
                pieces.append(piece)
                yield Steered(tuple(pieces), None, False)
            made = lab.last_generation  # still inside: afterwards the model may be somebody else's
        if made is None or isinstance(made, list):
            return
        note = broken(made.ids)
        yield Steered(tuple(made.tokens), None if note else _loss(lab, made), True, note or "")

    return run
