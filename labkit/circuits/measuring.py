"""How much of a behaviour a circuit carries, by size, beside random graphs and the circuit that exact patching would choose.

Wang et al. 2022 ("Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small"); everything
outside the circuit has the activation of the corrupted text, as in Hanna et al. 2024.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from labkit import checks
from labkit.circuits.study import Study
from labkit.errors import BadInput
from labkit.results import Result
from labkit.statistics import interval, p_value

DRAWS, FEWEST_DRAWS = 20, 5
ORACLE_PARTS = 512  # exact patching of more single parts is not done unasked
ORACLE_SIZE = 32
MOST = 20_000  # tokens that are run unasked: about a minute of the default model on a quiet CPU core
DOUBLING = 1024  # parts, up to which sizes are twice the one before, and four times beyond


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
    found on.  draws: random graphs of each size.  model: its name.  notes: what was left out to keep within `most`.
    """

    parts: str
    pairs: int
    held_out: bool
    draws: int
    model: str
    notes: tuple[str, ...] = ()

    def _title(self) -> str:
        on = "pairs it was not found on" if self.held_out else "the pairs it was found on"
        return f"Circuits of {self.parts} of {self.model}, measured on {on} ({self.pairs})"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"corrupted": {"faithfulness": 0.0}, "clean": {"faithfulness": 1.0}}

    def _remarks(self) -> Sequence[str]:
        return self.notes


def measure(
    study: Study,
    order: np.ndarray,
    found_by: str,
    *,
    parts: str,
    held_out: bool,
    ranked: int | None = None,
    sizes: Sequence[int] | None = None,
    draws: int | None = None,
    oracle: bool | None = None,
    most: int | None = MOST,
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """See `Circuit.by_size`. order: all parts, strongest first.  ranked: how many of them have an effect; None for all."""
    import pandas as pd

    total = study.parts.size
    ranked = total if ranked is None else ranked
    asked = spread(ranked, total) if sizes is None else checks.series("sizes", sizes, "a list of whole numbers")
    chosen = sorted({checks.whole("sizes", size, 0, total) for size in asked})
    if not chosen:
        raise BadInput(f"sizes is empty; give numbers of parts from 0 to {total}, or None for 1, 2, 4, ... and all.")
    if beyond := [size for size in chosen if ranked < size < total]:
        raise BadInput(
            f"size={beyond[0]} can't be used, since {ranked:,} of {total:,} parts were patched and have an effect; give sizes "
            f"up to {ranked:,}, or {total:,} for all."
        )
    draws = None if draws is None else checks.whole("draws", draws, 0)
    oracle = None if oracle is None else checks.flag("oracle", oracle)
    most = None if most is None else checks.whole("most", most, 1)
    rng = np.random.default_rng(checks.seed(seed))
    kept = [order[:size] for size in chosen]
    drawn = [[study.drawn(numbers, rng) for _ in range(DRAWS if draws is None else draws)] for numbers in kept]
    may = total <= ORACLE_PARTS and found_by != "exact"
    study, plan = _within(study, kept, drawn, draws, oracle, may, most)
    drawn = [draw[: plan.draws] for draw in drawn]
    best: list[np.ndarray] = []
    if plan.oracle:
        single = study.shares("corrupted", [np.array([n]) for n in range(total)], "patching single parts", progress)
        by_effect = np.argsort(-np.abs(single), kind="stable")
        best = [by_effect[:size] for size in chosen if size <= ORACLE_SIZE]
    removed = [study.others(numbers) for numbers in (*kept, *best, *(one for draw in drawn for one in draw))]
    values = study.shares("clean", [*removed, *kept], "measuring circuits", progress)
    faithfulness, completeness = values[: len(kept)], values[len(removed) :]
    oracles = np.full(len(kept), np.nan)
    oracles[: len(best)] = values[len(kept) : len(kept) + len(best)]
    chance = values[len(kept) + len(best) : len(removed)].reshape(len(kept), plan.draws)
    low, high = interval(chance, 1)
    frame = pd.DataFrame(
        {
            "size": chosen,
            "faithfulness": faithfulness,
            "completeness": completeness,
            "random": chance.mean(1) if plan.draws else np.full(len(kept), np.nan),
            "random_low": low,
            "random_high": high,
            "p": p_value(faithfulness, chance.T) if held_out and plan.draws else np.full(len(kept), np.nan),
            "oracle": oracles,
        }
    )
    return Faithfulness(frame, parts, len(study.contrasts), held_out, plan.draws, study.lab.name, plan.notes)


class _Plan(NamedTuple):
    draws: int
    oracle: bool
    notes: tuple[str, ...]


def _within(
    study: Study,
    kept: Sequence[np.ndarray],
    drawn: Sequence[Sequence[np.ndarray]],
    draws: int | None,
    oracle: bool | None,
    may: bool,
    most: int | None,
) -> tuple[Study, _Plan]:
    """What of the measuring is done so that at most so many tokens are run: what was asked for (not None) is.

    First there are fewer random graphs, then no oracle, then fewer pairs, the first ones.  may: have an oracle unasked.
    """
    wished, with_oracle = DRAWS if draws is None else draws, may if oracle is None else oracle
    if most is None or draws is not None:
        return study, _Plan(wished, with_oracle, ())
    notes: list[str] = []
    fixed = study.tokens([*(study.others(numbers) for numbers in kept), *kept])
    once = study.tokens([study.others(draw[0]) for draw in drawn if 0 < len(draw[0]) < study.parts.size])
    # each single part by itself; of edges the input of one head is another one, two rows
    singles = study.parts.size * study.tokens([np.array([0])]) if with_oracle else 0
    fits = (most - fixed - singles) // once if once else DRAWS
    if fits < FEWEST_DRAWS and with_oracle and oracle is None:
        with_oracle, singles = False, 0
        fits = (most - fixed) // once if once else DRAWS
        notes.append("no oracle")
    used = int(min(max(fits, FEWEST_DRAWS), DRAWS))
    if used < DRAWS:
        notes.append(f"{used} random graphs of each size instead of {DRAWS}")
    cost = fixed + singles + used * once
    pairs = len(study.contrasts)
    if cost > most and pairs > 1:
        pairs = max(1, pairs * most // cost)
        notes.append(f"the first {pairs} of {len(study.contrasts)} pairs")
        study = dataclasses.replace(study, contrasts=study.contrasts[:pairs])
    said = f"to run about {most:,} tokens: {checks.listed(notes)}; most=None, or draws=, measures all" if notes else ""
    return study, _Plan(used, with_oracle, (said,) if said else ())


def spread(ranked: int, total: int) -> list[int]:
    """1, 2, 4, ... (of many parts 1, 4, 16, ...), all that are ranked, and all."""
    step = 1 if total <= DOUBLING else 2
    return [*(2**k for k in range(0, ranked.bit_length(), step) if 2**k < ranked), *sorted({ranked, total})]
