"""Texts held out in turn, so that each is judged by what was learnt without it or any text that belongs to it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from labkit.errors import BadInput
from labkit.statistics import wilson

LEAST = 5  # different texts of a class, and the folds that they are dealt into

__all__ = ["LEAST", "check_enough", "folds_of", "random_state", "share"]


def check_enough(labels: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> None:
    """Raise BadInput where a class has too few different texts to hold some out. labels: (texts,) indices into names."""
    for number, name in enumerate(names):
        there = len(np.unique(groups[labels == number]))
        if there < LEAST:
            few = f"{there} different text{'s' * (there != 1)}"
            raise BadInput(
                f"{name} has {few} (the same text, or the same group, counts once), too few to hold some out and say "
                f"anything; give at least {LEAST} of each class."
            )


def folds_of(labels: np.ndarray, groups: np.ndarray, seed: int) -> list[np.ndarray]:
    """(texts,) bool for each of five folds: which are held out. Each class is in each as evenly as whole groups allow.

    Raises BadInput where groups leave a fold without a class to learn.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(LEAST, shuffle=True, random_state=random_state(seed))
    folds = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a class has fewer members than folds: looked at below
        for learnt, held in splitter.split(labels, labels, groups):
            if len(np.unique(labels[learnt])) < len(np.unique(labels)):
                raise BadInput(
                    "The groups leave no class in every part that is learnt from: one group holds nearly all of a class; give "
                    "smaller groups."
                )
            mask = np.zeros(len(labels), bool)
            mask[held] = True
            folds.append(mask)
    return folds


def random_state(seed: int) -> int:
    """A seed as scikit-learn takes it."""
    return int(np.random.default_rng(seed).integers(2**31))


def share(right: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """(share, low, high): how many held-out texts are right, with 95 % (Wilson 1927).

    The interval is that of as many independent things as there are groups, since texts of a group are no independent
    evidence.
    """
    found = float(right.mean())
    n = len(np.unique(groups))
    low, high = wilson(round(found * n), n)
    return found, min(low, found), max(high, found)
