"""What a tuned model has forgotten: its loss on general text, and how far it has moved from the base where the task is done.

A token's loss is of the token predicted from those before it, as everywhere in labkit: the labels are shifted. The base is
a second model over the same weights, so that it has no adapter in it at all. An untouched model has exactly 0 of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch

from labkit import checks
from labkit.lora.adapters import Adapter
from labkit.lora.masks import general_texts, mask
from labkit.quantization.comparing import TokenDamage, check_same_tokens, compare, divergence
from labkit.results import Result
from labkit.statistics import interval, resampled
from labkit.trace import running
from labkit.trace.lab_like import BuiltLab, check_lab

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import LabLike

DRAWS, NOISE_ROWS = 1_000, 4
Made = TypeVar("Made", bound=BuiltLab)


class TextRows:
    """Token rows of which some tokens are counted, batched once.

    ids: each row's.  counted: for each row and token whether it is, as `Masked.learns` has it; the first never is.
    """

    def __init__(self, model: PreTrainedModel, ids: Sequence[Sequence[int]], counted: Sequence[Sequence[bool]]) -> None:
        self.ids = [np.asarray(row, dtype=np.int64) for row in ids]
        self.batches: list[tuple[list[int], torch.Tensor]] = []
        for group in running.groups(model, [len(row) for row in self.ids]):
            wanted = torch.zeros((len(group), max(len(self.ids[i]) for i in group)), dtype=torch.bool)
            for row, i in enumerate(group):
                wanted[row, 1 : len(self.ids[i])] = torch.tensor(counted[i][1:], dtype=torch.bool)
            self.batches.append((group, wanted.to(model.device)))

    def padded(self, number: int) -> torch.Tensor:
        """(batch, width) int64: the ids of a batch, 0 where there are none."""
        group, _ = self.batches[number]
        return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(self.ids[i]) for i in group], batch_first=True)

    def logits(self, model: PreTrainedModel, number: int) -> torch.Tensor:
        """(batch, width, vocabulary): a model's on one of the batches."""
        return running.forward(model, [self.ids[i].tolist() for i in self.batches[number][0]]).all_logits


@dataclass(frozen=True, eq=False, repr=False)
class Forgotten(Result):
    """What a tuned model has forgotten; `forgotten` tells the columns of the table.

    noise: the mean KL, nats a token, of the original with itself when each text is run alone and not in a list: the null of
    KL. The null of a change of loss is 0, which an untouched model has exactly.
    """

    noise: float
    tuned: str
    original: str
    draws: int
    seed: int

    def _title(self) -> str:
        rows = {row["texts"]: row for _, row in self.table.iterrows()}
        general = rows["general"]
        return (
            f"{self.tuned} beside {self.original}: {general['change']:+.3f} nats a token on general text "
            f"({general['change_low']:+.3f} to {general['change_high']:+.3f})"
        )

    def _remarks(self) -> Sequence[str]:
        return (f"noise of running again: KL {self.noise:.2g} nats a token",)


def forgotten(
    lab: Made,
    tuned: Adapter[Made] | LabLike,
    task: object = None,
    *,
    general: object = None,
    columns: Mapping[str, str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Forgotten:
    """What tuning has cost: the loss on general text, and how far the model has moved where it does its new task.

    lab: the original.  tuned: an Adapter, which is measured on this lab, or the lab of a tuned model.
    task: samples of the new task, as `read` takes them, best held out ones; None for none.
    general: texts; None for the shipped passages.
    A row for "general", and one for "task" where there is one: texts, documents, tokens, original_loss, loss, change (of the
    loss, nats a token; with _low and _high), kl (KL(original || tuned), nats a token; with _low and _high). On the task these
    are of the tokens that carry loss, on which the answers depend. Intervals are 95 %, by drawing documents again.
    Shenfeld et al. 2025 ("RL's Razor") find forgetting to follow from the KL on the new task.
    Raises BadInput for a lab of another vocabulary and for samples that can't be read.
    """
    import pandas as pd

    check_lab(lab)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    texts = general_texts(lab, [], general)
    if texts is None:
        checks.refuse("general", general, "a list of texts, or leave it out for the shipped ones")
    masks = {"general": texts}
    if task is not None:
        masks["task"] = mask(lab, task, columns=columns)
        masks["task"].check()
    run = _runner(lab, tuned)
    rng = np.random.default_rng(seed)
    rows, noise = [], 0.0
    for kind, masked in masks.items():
        there = TextRows(lab.model, [each.ids for each in masked.samples], [each.learns for each in masked.samples])
        with lab.turn():
            (found,) = compare(there, partial(there.logits, lab.model), [partial(run, there)])
            noise = max(noise, _rerun_noise(lab.model, there))
        rows.append({"texts": kind, **_told(found, draws, rng)})
    name = getattr(tuned, "name", type(tuned).__name__)
    return Forgotten(pd.DataFrame(rows), noise=noise, tuned=str(name), original=lab.name, draws=draws, seed=seed)


def _runner(lab: Made, tuned: Adapter[Made] | LabLike) -> Callable[[TextRows, int], torch.Tensor]:
    """The tuned model's logits on one batch of some rows."""
    if isinstance(tuned, Adapter):
        mine = tuned if tuned.lab is lab else tuned.for_lab(lab)

        def on(rows: TextRows, number: int) -> torch.Tensor:
            with mine.on():
                return rows.logits(lab.model, number)

        return on
    check_lab(tuned)
    check_same_tokens(lab, tuned)

    def other(rows: TextRows, number: int) -> torch.Tensor:
        with tuned.turn():
            return rows.logits(tuned.model, number)

    return other


def _told(found: TokenDamage, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """A row of the table: means over tokens, with intervals that draw documents again."""
    names, of = np.unique(found.document, return_inverse=True)
    tokens = np.bincount(of)
    weights = resampled(np.zeros(len(names), np.int64), draws, rng)
    row: dict[str, float] = {"documents": len(names), "tokens": len(of)}
    row |= {"original_loss": float(found.original_loss.mean()), "loss": float(found.loss.mean())}
    for name, values in (("change", found.loss - found.original_loss), ("kl", found.kl)):
        sums = np.bincount(of, weights=values)
        low, high = (math.nan, math.nan) if len(names) < 2 else interval((weights @ sums) / (weights @ tokens))
        row |= {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _rerun_noise(model: PreTrainedModel, rows: TextRows) -> float:
    """The mean KL of a model with itself: the first rows alone, and in the pass they share."""
    group, _ = rows.batches[0]
    together = rows.logits(model, 0)
    found = []
    for place, i in enumerate(group[:NOISE_ROWS]):
        alone = running.forward(model, [rows.ids[i].tolist()]).all_logits[0]
        found.append(divergence(together[place, : len(alone)], alone))
    return float(np.concatenate(found).mean())


class Measured(NamedTuple):
    """Nats a token; NaN where there is nothing to measure on.

    held_out: the loss on held-out samples, of the tokens that carry loss.  kl: on the same tokens, KL(base || tuned), the mean.
    forgetting: the loss on general text, less the base's.
    """

    held_out: float = math.nan
    kl: float = math.nan
    forgetting: float = math.nan


@dataclass(frozen=True)
class Measuring:
    """What is measured of a model while it is tuned, against its base.

    base: a model with the weights as they were; None where there is nothing to measure on.  held_out: samples that are not
    trained on, or None; general: texts, or None.
    """

    base: PreTrainedModel | None = None
    held_out: TextRows | None = None
    general: TextRows | None = None

    @cached_property
    def base_loss(self) -> float:
        """What the base loses on the general texts, nats a token; run when it is first asked for."""
        assert self.base is not None
        assert self.general is not None
        return _loss(self.general, self.base)

    def __call__(self, tuned: PreTrainedModel, stopping: Callable[[], bool] = lambda: False) -> Measured:
        """stopping: asked between one and the next; once it is true, the rest is NaN."""
        loss = kl = forgotten = math.nan
        rows, base = self.held_out, self.base
        if rows is not None and base is not None and not stopping():
            (found,) = compare(rows, partial(rows.logits, base), [partial(rows.logits, tuned)])
            loss, kl = float(found.loss.mean()), float(found.kl.mean())
        if self.general is not None and not stopping():
            forgotten = _loss(self.general, tuned) - self.base_loss
        return Measured(loss, kl, forgotten)


def row_losses(rows: TextRows, model: PreTrainedModel) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) nats of the counted tokens of each row together, and (rows,) how many they are."""
    nats, tokens = np.zeros(len(rows.ids)), np.zeros(len(rows.ids))
    for number, (group, wanted) in enumerate(rows.batches):
        logits = rows.logits(model, number)
        row, column = wanted[:, 1:].nonzero(as_tuple=True)
        right = rows.padded(number)[row.cpu(), column.cpu() + 1].to(logits.device)
        lost = torch.nn.functional.cross_entropy(logits[row, column].float(), right, reduction="none")
        of = np.asarray(group)[row.cpu().numpy()]
        np.add.at(nats, of, lost.double().cpu().numpy())
        np.add.at(tokens, of, 1)
    return nats, tokens


def _loss(rows: TextRows, model: PreTrainedModel) -> float:
    """Nats a counted token."""
    nats, tokens = row_losses(rows, model)
    return float(nats.sum() / tokens.sum())
