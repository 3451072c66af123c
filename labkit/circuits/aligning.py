"""Distributed alignment search: where in a state a variable of a known causal graph is kept, found by interchange interventions.

A text is run with the part of its state that lies in a few learned directions taken from another text. If those directions hold
the variable, and nothing else, the model then says what the causal graph says of the first text with the second's variable.
Geiger et al. 2023, Finding Alignments Between Interpretable Causal Variables and Distributed Neural Representations
(arXiv:2303.02536); Wu et al. 2023, Interpretability at Scale (arXiv:2305.08809).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from labkit import checks
from labkit.circuits.activations import checked_layers, checked_place, checked_position, gathered, rows_of
from labkit.circuits.repeats import without_repeats
from labkit.errors import BadInput
from labkit.quantization.bases import Base, base_of
from labkit.results import Result
from labkit.statistics import wilson
from labkit.trace import running
from labkit.trace.along import exact
from labkit.trace.building import untrained_lab
from labkit.trace.edits import Edit, Site, installed, patch
from labkit.trace.lens import token_id

if TYPE_CHECKING:
    from labkit.trace.edits import Change
    from labkit.trace.lab_like import BuiltLab, LabLike
    from labkit.trace.passes import TokenAxis

__all__ = ["Alignment", "das"]

PLACES = ("residual", "attention_output", "mlp_output")
LEAST = 20  # pairs: of which a quarter is held out
DRAWS = 5  # times that random directions are drawn: each costs a pass over the pairs held out
HELD_OUT = 0.25


@dataclass(frozen=True, eq=False, repr=False)
class Alignment(Result):
    """Directions that were trained to hold a variable, and how often swapping it does what the causal graph says.

    table: a row for each `swapped`, on pairs that were held out: accuracy, how often the model's answer, among those that
        occur, is the one that the graph demands; low, high: 95 % (Wilson 1927); of what was repeated the lowest and
        highest; pairs. "learned"; "random directions" (as many, not trained, drawn five times);
        "whole state"; "nothing" (the text left alone); "answers dealt anew" (the same training where answers are dealt among
        the pairs, judged by such answers); "untrained model" (the same training in a model of this kind that learnt nothing).
    basis: (d_model, directions), orthonormal, float32, or float64 of such a model.  at, layer, position: where.
    answers: how many different ones there are.  trained_on: pairs.  loss: nats, the mean of the last tenth of the steps.
    model: by name.  seed: of the split, the start and what was dealt.  notes: of pairs that stood there twice.
    base: the fingerprint of the model's weights, by which it is refused in another model.
    """

    basis: Tensor
    at: str
    layer: int
    position: int
    answers: int
    trained_on: int
    loss: float
    model: str
    seed: int
    notes: tuple[str, ...]
    base: Base | None

    def _title(self) -> str:
        return (
            f"A variable in {self.basis.shape[1]} of {len(self.basis)} directions of {self.at}[{self.layer}] of {self.model}: "
            f"trained on {self.trained_on} pairs, {self.answers} answers"
        )

    def _remarks(self) -> Sequence[str]:
        return self.notes

    def belongs(self, lab: LabLike) -> None:
        """Raise BadInput for a lab of another model than the directions were learned in."""
        if self.base is not None and (differs := base_of(lab).differs(self.base)):
            raise BadInput(
                f"This alignment was learned in {self.base.name}, and {lab.name} {differs}; learn it in this model."
            )

    def interchange(self, lab: LabLike, source: object) -> Edit:
        """An edit that gives whatever text is run the variable of `source`, a text; for `lab.edit`.

        Raises BadInput for a lab of another model than this was learned in, and so does `lab.edit` there.
        """
        self.belongs(lab)
        (row,) = rows_of(lab, [source], "source", chat=False)
        checked_position(self.position, [row])
        there = torch.from_numpy(gathered(lab, [row], self.at, [self.layer], self.position).values[0, 0])
        edit = patch(f"{self.at}[{self.layer}] @ {self.position}", partial(_swapped, there, self.basis))
        return replace(edit, check=self.belongs)


def _swapped(source: Tensor, basis: Tensor, x: Tensor) -> Tensor:
    wide = exact(x)
    turned = basis.to(wide)
    return (wide + (source.to(wide) - wide) @ turned @ turned.T).to(x.dtype)


def das(
    lab: LabLike,
    pairs: Sequence[object],
    answers: Sequence[str | int],
    layer: int,
    *,
    at: str = "residual",
    position: int = -1,
    directions: int = 1,
    steps: int = 200,
    batch: int = 16,
    learning_rate: float = 0.05,
    shuffles: int = 3,
    untrained: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Alignment:
    """Learn the directions of a state that hold a variable, by what the model says when they are swapped between two texts.

    pairs: (base, source), two texts each, at least 20 different pairs.  answers: for each pair the single token, by text or id,
        that the causal graph gives for the base text with the source's value of the variable. A graph of which the whole answer
        follows from the variable alone is met by swapping everything: choose pairs in which other things differ, too.
    layer, at: "residual" (what enters the layer), "attention_output" or "mlp_output".  position: of the token, in both texts; -1
        is the last.  directions: how many are learned together.
    steps, batch, learning_rate: of Adam on the cross entropy among the answers that occur, read at the last token of the base.
    shuffles, untrained: how often the training is repeated with answers dealt anew, and in untrained models.
    A quarter of the pairs is held out; a text may stand in pairs on both sides, a pair never. Costs (1 + shuffles + untrained)
    trainings of `steps` passes forward and backward: with 16 short pairs one to three seconds a step of the default model on a
    busy CPU core, so a quarter of an hour and more as it stands here; steps=30, shuffles=1 tell early what there is to be had.
    Returns an `Alignment`: what it shows is that swapping these directions does what the graph says more often than the
    nulls beside it. What it can't: that the model uses no others; and with many directions a training finds something in a
    model that learnt nothing, which is why that stands beside it.
    Raises BadInput for pairs, answers, layers and positions that can't be used; Unavailable where the model does not have
    the place.
    """
    import pandas as pd

    at = checked_place(lab, checks.one_of("at", at, PLACES))
    (layer,) = checked_layers(lab, at, checks.whole("layer", layer))
    steps, batch = checks.whole("steps", steps, 1), checks.whole("batch", batch, 1)
    rate = checks.number("learning_rate", learning_rate, above=0)
    shuffles, untrained, seed = (
        checks.whole("shuffles", shuffles, 0),
        checks.whole("untrained", untrained, 0),
        checks.seed(seed),
    )
    width = int(lab.config.hidden_size)
    directions = checks.whole("directions", directions, 1, width)
    task, notes = _task(lab, pairs, answers, position)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(task.wanted))
    held, learnt = np.split(order, [round(HELD_OUT * len(order))])
    settings = _Settings(at, layer, directions, steps, batch, rate)
    trainings = 1 + shuffles + untrained
    rows: list[dict[str, object]] = []

    def put(name: str, accuracies: Sequence[float]) -> None:
        low, high = wilson(round(accuracies[0] * len(held)), len(held))
        if len(accuracies) > 1:
            low, high = min(accuracies), max(accuracies)
        rows.append(
            {"swapped": name, "accuracy": float(np.mean(accuracies)), "low": low, "high": high, "pairs": len(held)}
        )

    with running.Progress("learning directions", trainings * steps, "step", progress) as bar:
        run = _Run(lab, task, settings)
        basis, loss = run.trained(learnt, task.wanted, seed, bar)
        put("learned", [run.accuracy(held, task.wanted, basis)])
        put(
            "random directions",
            [
                run.accuracy(held, task.wanted, _start(width, directions, seed + number).to(basis))
                for number in range(1, DRAWS + 1)
            ],
        )
        put("whole state", [run.accuracy(held, task.wanted, torch.eye(width).to(basis))])
        put("nothing", [run.accuracy(held, task.wanted, None)])
        dealt = []
        for number in range(shuffles):
            others = task.wanted[rng.permutation(len(task.wanted))]
            found, _ = run.trained(learnt, others, seed + number, bar)
            dealt.append(run.accuracy(held, others, found))
        if dealt:
            put("answers dealt anew", dealt)
        random = []
        for number in range(untrained):
            blank = _Run(untrained_lab(cast("BuiltLab", lab), seed + number), task, settings)
            found, _ = blank.trained(learnt, task.wanted, seed, bar)
            random.append(blank.accuracy(held, task.wanted, found))
        if random:
            put("untrained model", random)
    if bar.interrupted:
        raise KeyboardInterrupt
    return Alignment(
        pd.DataFrame(rows),
        basis=basis,
        at=at,
        layer=layer,
        position=task.position,
        answers=len(task.tokens),
        trained_on=len(learnt),
        loss=loss,
        model=lab.name,
        seed=seed,
        notes=notes,
        base=base_of(lab),
    )


@dataclass(frozen=True)
class _Task:
    """bases, sources: token ids, one each a pair.  tokens: the answers that occur.  wanted: (pairs,) which of them each has."""

    bases: list[list[int]]
    sources: list[list[int]]
    tokens: list[int]
    wanted: np.ndarray
    position: int


@dataclass(frozen=True)
class _Settings:
    at: str
    layer: int
    directions: int
    steps: int
    batch: int
    rate: float


def _task(lab: LabLike, pairs: object, answers: object, position: int) -> tuple[_Task, tuple[str, ...]]:
    given = checks.series("pairs", pairs, "a list of (base, source)")
    named = checks.series("answers", answers, "a list with the token for each pair")
    if len(given) != len(named):
        raise BadInput(f"There are {len(given)} pairs and {len(named)} answers; give one answer for each pair.")
    for number, pair in enumerate(given):
        if isinstance(pair, str | bytes) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise BadInput(f"Pair {number} is {checks.shown(pair)}; give (base, source), two texts.")
    if not given:
        raise BadInput(f"There is no pair to learn from; give {LEAST} different ones at least.")
    both = [
        rows_of(lab, [cast("Sequence[object]", pair)[side] for pair in given], name, chat=False)
        for side, name in enumerate(("the bases", "the sources"))
    ]
    rows = [[*base, -1, *source] for base, source in zip(*both, strict=True)]
    size = running.embedding_rows(lab.model)
    ids = [token_id(lab.tokenizer, size, cast("str | int", name)) for name in named]
    answer_of: dict[tuple[int, ...], int] = {}
    for number, (row, token) in enumerate(zip(rows, ids, strict=True)):
        if answer_of.setdefault(tuple(row), token) != token:
            raise BadInput(f"Pair {number} stands there before with another answer; a causal graph gives one for each.")
    once, notes = without_repeats(rows, noun="pair")
    if len(once) < LEAST:
        raise BadInput(
            f"{len(once)} different pairs are too few to learn from some and judge by others; give {LEAST} at least."
        )
    bases, sources = ([side[place] for place in once] for side in both)
    at = checks.whole("position", position)
    checked_position(at, bases)
    checked_position(at, sources)
    ids = [ids[place] for place in once]
    tokens = sorted(set(ids))
    if len(tokens) < 2:
        raise BadInput("All pairs have the same answer, so nothing is to be learned; give pairs whose answers differ.")
    return _Task(bases, sources, tokens, np.array([tokens.index(one) for one in ids]), at), notes


def _start(width: int, directions: int, seed: int) -> Tensor:
    draw = torch.randn(width, directions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found: Tensor = torch.linalg.qr(draw).Q
    return found


class _Run:
    """The interventions of one task in one model; the sources are run once."""

    def __init__(self, lab: LabLike, task: _Task, settings: _Settings) -> None:
        self.lab, self.task, self.settings = lab, task, settings
        states = gathered(lab, task.sources, settings.at, [settings.layer], task.position).values[0]
        self.states = torch.from_numpy(states).to(lab.device)

    def trained(self, pairs: np.ndarray, wanted: np.ndarray, seed: int, bar: running.Progress) -> tuple[Tensor, float]:
        """The directions, (d_model, n) orthonormal, and the loss at the end."""
        free = _start(self.states.shape[1], self.settings.directions, seed).to(self.states).requires_grad_()
        optimizer = torch.optim.Adam([free], lr=self.settings.rate)
        rng = np.random.default_rng(seed)
        losses = []
        for _ in range(self.settings.steps):
            some = rng.choice(pairs, min(self.settings.batch, len(pairs)), replace=False)
            with torch.inference_mode(False), torch.enable_grad():
                basis = torch.linalg.qr(free).Q
                total = free.new_zeros(())
                for numbers, logits in self._logits(some, basis, grad=True):
                    target = torch.from_numpy(wanted[numbers]).to(logits.device)
                    total = total + torch.nn.functional.cross_entropy(logits, target, reduction="sum")
                loss = total / len(some)
                (free.grad,) = torch.autograd.grad(loss, [free])
            optimizer.step()
            losses.append(float(loss.detach()))
            bar.advance()
        with torch.no_grad():
            found = torch.linalg.qr(free).Q.detach()
        return found, float(np.mean(losses[-max(1, len(losses) // 10) :]))

    def accuracy(self, pairs: np.ndarray, wanted: np.ndarray, basis: Tensor | None) -> float:
        right = 0
        for numbers, logits in self._logits(pairs, basis, grad=False):
            right += int((logits.argmax(-1).cpu().numpy() == wanted[numbers]).sum())
        return right / len(pairs)

    def _logits(self, pairs: np.ndarray, basis: Tensor | None, *, grad: bool) -> list[tuple[np.ndarray, Tensor]]:
        """Of groups of pairs, the logits of the answers at the last token of the base, (pairs, answers)."""
        found = []
        model, anatomy = self.lab.model, self.lab.anatomy
        with self.lab.turn():
            for group in running.groups(model, [len(self.task.bases[i]) for i in pairs]):
                numbers = pairs[group]
                rows = [self.task.bases[i] for i in numbers]
                sites = (
                    []
                    if basis is None
                    else [Site(self.settings.at, self.settings.layer, self._swap(numbers, rows, basis))]
                )
                with installed(model, anatomy, sites):
                    logits = running.forward(model, rows, logits="last", grad=grad).all_logits
                found.append((numbers, exact(logits)[:, self.task.tokens]))
        return found

    def _swap(self, numbers: np.ndarray, rows: Sequence[Sequence[int]], basis: Tensor) -> Change:
        at = self.task.position
        places = torch.tensor([at if at >= 0 else len(row) + at for row in rows])
        width = max(len(row) for row in rows)

        def change(whole: Tensor, _axis: TokenAxis) -> Tensor:
            columns = (places + whole.shape[1] - width).to(whole.device)
            each = torch.arange(len(rows), device=whole.device)
            new = whole.clone()
            new[each, columns] = _swapped(self.states[numbers].to(whole.device), basis, whole[each, columns])
            return new

        return change
