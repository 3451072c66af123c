"""Pairs of a clean and a corrupted text with the metric between them: what attribution and circuits are taken on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.capture import observing
from labkit.trace.instruments import BY_NAME
from labkit.trace.pairs import Metric, check_metric, check_values, pair_ids, value_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.anatomy import Anatomy
    from labkit.trace.lab_like import LabLike

Tensors = dict[str, dict[int, torch.Tensor]]  # by instrument and layer, of one text: (T, d) or (heads, T, d_head)

__all__ = ["Both", "Contrast", "check_plain", "contrasts_of", "naming"]


@dataclass(frozen=True)
class Contrast:
    """Two texts' token ids, equally many, and the metric of their logits."""

    clean: list[int]
    corrupted: list[int]
    metric: Metric


def contrasts_of(lab: LabLike, pairs: object, metric: object) -> list[Contrast]:
    """The pairs, each with its metric. Raises BadInput, which names the pair that can't be used."""
    wanted = "a list of (clean, corrupted), one pair at least"
    items = checks.series("pairs", pairs, wanted)
    if not items:
        raise BadInput("There is no pair to compare; give a list of (clean, corrupted) with one at least.")
    metrics = [metric] * len(items)
    if not callable(metric):
        metrics = checks.series(
            "metric", metric, "a function of the logits (T, vocabulary), or a list of one for each pair"
        )
    if len(metrics) != len(items):
        raise BadInput(
            f"There are {len(items)} pairs and {len(metrics)} metrics; give one metric, or one for each pair."
        )
    found = []
    for number, (pair, one) in enumerate(zip(items, metrics, strict=True)):
        if isinstance(pair, str | bytes) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise BadInput(f"Pair {number} is {checks.shown(pair)}; give (clean, corrupted), as in {wanted}.")
        try:
            check_metric(one)
            clean, corrupted = pair_ids(lab, *pair)
        except BadInput as error:
            raise BadInput(f"Pair {number}: {error}") from error
        assert callable(one)
        found.append(Contrast(clean, corrupted, one))
    return found


@contextlib.contextmanager
def naming(number: int, count: int) -> Iterator[None]:
    """Say of which of several pairs a BadInput is."""
    try:
        yield
    except BadInput as error:
        if count == 1:
            raise
        raise BadInput(f"Pair {number}: {error}") from error


def check_plain(lab: LabLike, names: Sequence[str], remedy: str = "") -> None:
    """Raise Unavailable where a model does not have the instruments, or vectors stand before its texts.

    remedy: the end of the sentence.
    """
    for name in names:
        if reason := lab.anatomy.support.get(name):
            raise Unavailable(f"{name} can't be attributed to in {lab.name}: {reason}{remedy}.")
    if running.virtual_tokens(lab.model):
        raise Unavailable(
            f"{lab.name} can't be attributed to: trained vectors stand before its texts (prompt tuning); take the model without "
            "them: lk.Lab(model.get_base_model(), tokenizer)."
        )


@dataclass(frozen=True)
class Both:
    """What both runs of a contrast gave. clean, corrupted: their activations; and the metric of each."""

    clean: Tensors
    corrupted: Tensors
    clean_value: float
    corrupted_value: float

    @staticmethod
    def take(model: PreTrainedModel, anatomy: Anatomy, contrast: Contrast, keep: Sequence[str]) -> Both:
        """Run both texts. keep: instruments, as in `lab.trace`. The caller has the lab's turn."""
        texts = [contrast.clean, contrast.corrupted]
        together = running.copies(model, len(contrast.clean), 2) == 2
        groups = [texts] if together else [[text] for text in texts]
        found = [one for rows in groups for one in _observed(model, anatomy, contrast.metric, rows, keep)]
        return Both.of(*found)

    @staticmethod
    def beside(
        model: PreTrainedModel,
        anatomy: Anatomy,
        contrast: Contrast,
        keep: Sequence[str],
        corrupted: tuple[Tensors, float],
    ) -> Both:
        """Run the clean text alone, where the corrupted one was run before."""
        (clean,) = _observed(model, anatomy, contrast.metric, [contrast.clean], keep)
        return Both.of(clean, corrupted)

    @staticmethod
    def of(clean: tuple[Tensors, float], corrupted: tuple[Tensors, float]) -> Both:
        check_values(clean[1], corrupted[1])
        return Both(clean[0], corrupted[0], clean[1], corrupted[1])

    def difference(self, name: str, layer: int) -> torch.Tensor:
        """Clean less corrupted."""
        return self.clean[name][layer] - self.corrupted[name][layer]

    @property
    def span(self) -> float:
        """The metric's difference, clean less corrupted."""
        return self.clean_value - self.corrupted_value


def _observed(
    model: PreTrainedModel, anatomy: Anatomy, metric: Metric, rows: Sequence[list[int]], keep: Sequence[str]
) -> list[tuple[Tensors, float]]:
    """Of each text its activations and the metric."""
    with observing(model, anatomy, keep) as captured:
        logits = running.forward(model, rows).all_logits
    return [(row_of(captured.layered, row), value_of(metric, logits[row])) for row in range(len(rows))]


def row_of(layered: Tensors, row: int) -> Tensors:
    """One text's part of what a pass left."""
    return {name: {layer: tensor[row] for layer, tensor in sorted(by.items())} for name, by in layered.items()}


def kept_by(names: Sequence[str]) -> tuple[str, ...]:
    """What is to be kept so that derivatives come by these instruments."""
    return tuple(dict.fromkeys(BY_NAME[name].keep for name in names))
