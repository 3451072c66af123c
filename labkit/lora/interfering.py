"""What adapters do to each other when they are on together: foretold by the inner products of their updates, and measured.

The Gram matrix of updates, ⟨ΔWₐ, ΔW_b⟩ summed over all matrices, costs products of small matrices alone. Where it is 0 the
adapters work in directions of their own; where it isn't, others push along an adapter's own direction, for or against it.
That is all it can say: the losses beside it are measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.lora.adapters import Adapter, by_name
from labkit.lora.forgetting import TextRows, row_losses
from labkit.lora.low_rank import LowRank, dense_weight
from labkit.lora.masks import mask
from labkit.results import Result
from labkit.statistics import SPREAD, interval, resampled
from labkit.trace import running

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Interference", "gram", "interference"]

DRAWS = 1_000


@dataclass(frozen=True, eq=False, repr=False)
class Interference(Result):
    """Adapters on together; `interference` tells the columns of the table.

    cosines: (adapters, adapters) DataFrame, the inner products of their updates over the products of their norms.
    null: by the same names, the cosine below which 95 % of random updates with the same singular values lie, without sign.
    model, draws, seed.
    """

    cosines: pd.DataFrame
    null: pd.DataFrame
    model: str
    draws: int
    seed: int

    def _title(self) -> str:
        worst = self.table.loc[self.table["harm"].idxmax()]
        return (
            f"{len(self.table)} adapters of {self.model} together: {worst['adapter']} loses most by the others, "
            f"{worst['harm']:+.3f} nats a token ({worst['harm_low']:+.3f} to {worst['harm_high']:+.3f}), foretold "
            f"{worst['harm_foretold']:+.3f}"
        )

    def _remarks(self) -> Sequence[str]:
        names = list(self.cosines.columns)
        pairs = [(i, j) for i in range(len(names)) for j in range(i)]
        return tuple(
            f"cosine of {names[j]} and {names[i]}: {self.cosines.iloc[i, j]:+.4f} (random: within ±{self.null.iloc[i, j]:.4f})"
            for i, j in pairs
        )


def interference(
    adapters: Mapping[str, Adapter[Any]] | Sequence[Adapter[Any]],
    data: Mapping[str, object] | Sequence[object],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interference:
    """Several adapters of one lab, each alone on its own data, and all together.

    adapters: two or more, by name or in a list.  data: of each, samples as `lk.lora.mask` reads them, that it was not trained on.
    The table has a row for each adapter, with losses in nats a token, of the tokens that carry loss in its own data:
    adapter, samples, loss_base, loss_alone (it alone), loss_together (all on), harm (together − alone; with harm_low and
    harm_high, 95 %, drawing samples again), loss_others (all but it); along: by how much of its own length the others push
    along its direction, ⟨Σ others, own⟩ / ‖own‖² (0: not at all, −1: they take it away), loss_foretold: the loss of it
    alone at the scale 1 + along, and harm_foretold. What the others do in other directions is in `harm` and not in
    `harm_foretold`.
    Raises BadInput for fewer than two adapters, of different labs, and data that can't be read.
    """
    import pandas as pd

    named = _named(adapters)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    texts = (
        data
        if isinstance(data, Mapping)
        else dict(zip(named, checks.series("data", data, "samples of each"), strict=False))
    )
    if set(texts) != set(named):
        raise BadInput(
            f"data is to have samples for each of {checks.listed(named)}, under the same names or in the same order."
        )
    lab = next(iter(named.values())).lab
    if any(each.lab.model is not lab.model for each in named.values()):
        raise BadInput("The adapters are on different labs; load all for one.")
    if odd := next((name for name, each in named.items() if each.replaced), None):
        raise BadInput(
            f"{odd} has whole tensors of its own, which inner products of low-rank updates leave out; give others."
        )
    rng = np.random.default_rng(seed)
    products, spread = gram(list(named.values()))
    norms = np.sqrt(np.diag(products))
    if not norms.all():
        raise BadInput(f"{list(named)[int(norms.argmin())]} changes nothing; there is nothing to interfere with.")
    rows = []
    for i, (name, adapter) in enumerate(named.items()):
        samples = mask(lab, texts[name])
        samples.check()
        counted = TextRows(lab.model, [each.ids for each in samples.samples], [each.learns for each in samples.samples])
        along = float((products[i].sum() - products[i, i]) / products[i, i])
        others = [each for j, each in enumerate(named.values()) if j != i]
        on = {
            "base": [],
            "alone": [(adapter, 1.0)],
            "together": [(each, 1.0) for each in named.values()],
            "others": [(each, 1.0) for each in others],
            "foretold": [(adapter, 1.0 + along)],
        }
        nats = {what: _losses(counted, adapter, put) for what, put in on.items()}
        tokens = nats["base"][1]
        losses = {what: float(found.sum() / tokens.sum()) for what, (found, _) in nats.items()}
        weights = resampled(np.zeros(len(tokens), dtype=np.int64), draws, rng)
        drawn = weights @ (nats["together"][0] - nats["alone"][0]) / (weights @ tokens)
        low, high = interval(drawn) if len(tokens) > 1 else (np.nan, np.nan)
        rows.append(
            {
                "adapter": name,
                "samples": len(tokens),
                "loss_base": losses["base"],
                "loss_alone": losses["alone"],
                "loss_together": losses["together"],
                "harm": losses["together"] - losses["alone"],
                "harm_low": float(low),
                "harm_high": float(high),
                "loss_others": losses["others"],
                "along": along,
                "loss_foretold": losses["foretold"],
                "harm_foretold": losses["foretold"] - losses["alone"],
            }
        )
    names = list(named)
    lengths = norms[:, None] * norms[None]
    cosines = pd.DataFrame(products / lengths, index=names, columns=names)
    by_chance = SPREAD * np.sqrt(spread) / lengths
    np.fill_diagonal(by_chance, np.nan)
    null = pd.DataFrame(by_chance, index=names, columns=names)
    return Interference(pd.DataFrame(rows), cosines, null, lab.name, draws, seed)


def gram(adapters: Sequence[Adapter[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Two (adapters, adapters) float64: inner products of their updates over all matrices, and their variance by chance.

    By chance: of updates with the same singular values in random directions, independent and uniform, whose inner product
    is 0 on average with variance ‖ΔWₐ‖² ‖ΔW_b‖² / (outputs · inputs) in each matrix.
    """
    count = len(adapters)
    products, spread = np.zeros((count, count)), np.zeros((count, count))
    model = running.language_model(adapters[0].lab.model)
    for module in dict.fromkeys(name for each in adapters for name in each.low_ranks):
        there = [each.low_ranks.get(module) for each in adapters]
        dora = any(each is not None and each.magnitude is not None for each in there)
        weight = dense_weight(model.get_submodule(module)).double().cpu() if dora else None
        here = np.zeros((count, count))
        for i in range(count):
            for j in range(i + 1):
                here[i, j] = here[j, i] = _inner(there[i], there[j], weight)
        size = next(each.a.shape[1] * each.b.shape[0] for each in there if each is not None)
        products += here
        spread += np.outer(np.diag(here), np.diag(here)) / size
    return products, spread


def _inner(one: LowRank | None, other: LowRank | None, weight: torch.Tensor | None) -> float:
    """⟨ΔW, ΔW'⟩; of B A and B' A' it is tr((Bᵀ B') (A' Aᵀ))."""
    if one is None or other is None:
        return 0.0
    if one.magnitude is not None or other.magnitude is not None:
        return float((one.delta(weight) * other.delta(weight)).sum())
    b = one.b.double().T @ other.b.double()
    a = other.a.double() @ one.a.double().T
    return one.scaling * other.scaling * float((b * a.T).sum())


def _losses(
    rows: TextRows, adapter: Adapter[Any], on: Sequence[tuple[Adapter[Any], float]]
) -> tuple[np.ndarray, np.ndarray]:
    with contextlib.ExitStack() as stack:
        for each, scale in on:
            stack.enter_context(each.on(scale))
        with adapter.lab.turn():
            return row_losses(rows, adapter.lab.model)


def _named(adapters: Mapping[str, Adapter[Any]] | Sequence[Adapter[Any]]) -> dict[str, Adapter[Any]]:
    named = by_name("adapters", adapters, "adapters")
    if len(named) < 2 or not all(isinstance(each, Adapter) for each in named.values()):
        raise BadInput("interference takes two adapters or more, in a list or by name.")
    return named
