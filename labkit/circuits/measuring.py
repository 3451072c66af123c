"""How much of a behaviour a circuit carries, by size, beside random graphs and the circuit that exact patching would choose.

Wang et al. 2022 ("Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small"); everything
outside the circuit has the activation of the corrupted text, as in Hanna et al. 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labkit import checks
from labkit.circuits.study import Study
from labkit.errors import BadInput
from labkit.results import Result
from labkit.statistics import interval, p_value

DRAWS = 20
ORACLE_PARTS = 512  # exact patching of more single parts is not done unasked
ORACLE_SIZE = 32


@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness(Result):
    """How faithful and how complete circuits of each size are.

    table: a row a size, the strongest parts first:
        size: parts kept.
        faithfulness: of the clean text, with everything outside the circuit set to its corrupted activation; as in
            `lk.patching`, 0 is the corrupted result and 1 that of the whole model. It may go beyond either.
        completeness: the other way round, the circuit corrupted and the rest clean: near 0, the behaviour needs the circuit;
            near 1, something outside does the same.
        random, random_low, random_high: faithfulness of random graphs of the same size, as many parts of each kind: mean, and
            where 95 % lie.
        p: (1 + random graphs at least as faithful) / (1 + draws). Missing on the pairs that the circuit was found on, where
            the strongest of many beat chance because they were chosen: measure on others, `circuit.on(pairs)`.
        oracle: faithfulness of the circuit of this size that patching every single part exactly would choose; missing where
            that was not done.
    parts: what a circuit is made of.  pairs: how many it was measured on.  held_out: whether these are others than those it was
    found on.  draws: random graphs of each size.  model: its name.
    """

    parts: str
    pairs: int
    held_out: bool
    draws: int
    model: str

    def _title(self) -> str:
        on = "pairs it was not found on" if self.held_out else "the pairs it was found on"
        return f"Circuits of {self.parts} of {self.model}, measured on {on} ({self.pairs})"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"corrupted": {"faithfulness": 0.0}, "clean": {"faithfulness": 1.0}}


def measure(
    study: Study,
    order: np.ndarray,
    found_by: str,
    *,
    parts: str,
    held_out: bool,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    oracle: bool | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """See `Circuit.by_size`. order: all parts, strongest first."""
    import pandas as pd

    total = study.parts.size
    asked = doubling(total) if sizes is None else checks.series("sizes", sizes, "a list of whole numbers")
    chosen = sorted({checks.whole("sizes", size, 0, total) for size in asked})
    if not chosen:
        raise BadInput(f"sizes is empty; give numbers of parts from 0 to {total}, or None for 1, 2, 4, ... and all.")
    draws, seed = checks.whole("draws", draws, 0), checks.seed(seed)
    oracle = (total <= ORACLE_PARTS and found_by != "exact") if oracle is None else checks.flag("oracle", oracle)
    rng = np.random.default_rng(seed)
    kept = [order[:size] for size in chosen]
    drawn = [[study.drawn(numbers, rng) for _ in range(draws)] for numbers in kept]
    best: list[np.ndarray] = []
    if oracle:
        single = study.shares("corrupted", [np.array([n]) for n in range(total)], "patching single parts", progress)
        by_effect = np.argsort(-np.abs(single), kind="stable")
        best = [by_effect[:size] for size in chosen if size <= ORACLE_SIZE]
    removed = [study.others(numbers) for numbers in (*kept, *best, *(one for draw in drawn for one in draw))]
    values = study.shares("clean", [*removed, *kept], "measuring circuits", progress)
    faithfulness, completeness = values[: len(kept)], values[len(removed) :]
    oracles = np.full(len(kept), np.nan)
    oracles[: len(best)] = values[len(kept) : len(kept) + len(best)]
    chance = values[len(kept) + len(best) : len(removed)].reshape(len(kept), draws)
    low, high = interval(chance, 1)
    frame = pd.DataFrame(
        {
            "size": chosen,
            "faithfulness": faithfulness,
            "completeness": completeness,
            "random": chance.mean(1) if draws else np.full(len(kept), np.nan),
            "random_low": low,
            "random_high": high,
            "p": p_value(faithfulness, chance.T) if held_out and draws else np.full(len(kept), np.nan),
            "oracle": oracles,
        }
    )
    return Faithfulness(frame, parts, len(study.contrasts), held_out, draws, study.lab.name)


def doubling(total: int) -> list[int]:
    """1, 2, 4, ... and all."""
    return [*(2**k for k in range(total.bit_length()) if 2**k < total), total]
