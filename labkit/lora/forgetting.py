"""What a tuned model has forgotten: its loss on general text, and how far it has moved from the base where the task is done.

A token's loss is of the token predicted from those before it, as everywhere in labkit: the labels are shifted. The base is
a second model over the same weights, so that it has no adapter in it at all. An untouched model has exactly 0 of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from labkit.quantization.comparing import compare
from labkit.trace import running

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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

    base: a model with the weights as they were.  held_out: samples that are not trained on, or None; general: texts, or None,
    and base_loss, what the base loses on them.
    """

    base: PreTrainedModel
    held_out: TextRows | None
    general: TextRows | None
    base_loss: float

    @classmethod
    def of(cls, base: PreTrainedModel, held_out: TextRows | None, general: TextRows | None) -> Measuring:
        return cls(base, held_out, general, math.nan if general is None else _loss(general, base))

    def __call__(self, tuned: PreTrainedModel) -> Measured:
        loss = kl = math.nan
        rows = self.held_out
        if rows is not None:
            (found,) = compare(rows, partial(rows.logits, self.base), [partial(rows.logits, tuned)])
            loss, kl = float(found.loss.mean()), float(found.kl.mean())
        forgotten = math.nan if self.general is None else _loss(self.general, tuned) - self.base_loss
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
