"""Inside a tuning: the change of each matrix, its singular values, its rank, its size, and directions it has that W had not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.lora.adapters import Adapter
from labkit.lora.low_rank import LowRank, own_dense_weight
from labkit.quantization.comparing import check_same_tokens
from labkit.quantization.weights import Matrix, matrices
from labkit.results import Result
from labkit.statistics import interval
from labkit.trace import running
from labkit.trace.adding import own_parameters

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import BuiltLab

__all__ = ["Intruders", "Updates", "WeightChange", "intruders", "updates", "weight_changes"]

TOP = 8  # directions of a change that are compared with W
DRAWS = 20
ZERO = 1e-12  # of the largest singular value: less is none


# the changes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WeightChange:
    """One matrix W, (outputs, inputs) float64, and its change: a LowRank, or another matrix of the shape of W.

    name: of its module.  layer: None outside the layers.  matrix: what stands in the same place of each layer.
    """

    name: str
    layer: int | None
    matrix: str
    weight: torch.Tensor
    change: LowRank | torch.Tensor

    def dense(self) -> torch.Tensor:
        """ΔW, (outputs, inputs) float64."""
        return self.change.delta(self.weight) if isinstance(self.change, LowRank) else self.change

    @property
    def rank(self) -> int:
        """The most that ΔW can have."""
        if isinstance(self.change, LowRank) and self.change.magnitude is None:
            return min(self.change.rank, *map(int, self.weight.shape))
        return min(map(int, self.weight.shape))

    def svd(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ΔW = U diag(s) Vᵀ, as (outputs, rank), (rank,) falling, (rank, inputs); of B A by way of their small factors."""
        if not isinstance(self.change, LowRank) or self.change.magnitude is not None:
            u, s, vh = torch.linalg.svd(self.dense(), full_matrices=False)
            return u, s, vh
        left, small_left = torch.linalg.qr(self.change.scaling * self.change.b.double())
        right, small_right = torch.linalg.qr(self.change.a.double().T)
        u, s, vh = torch.linalg.svd(small_left @ small_right.T, full_matrices=False)
        return left @ u, s, vh @ right.T


def weight_changes(
    what: Adapter[BuiltLab] | BuiltLab,
    base: BuiltLab | None = None,
    *,
    matrices: str | Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
) -> Iterator[WeightChange]:
    """What a tuning changes, matrix by matrix: of an adapter, or of a tuned lab beside its base.

    matrices: names or patterns, such as "q_proj"; layers: which; None for all. Matrices of a tuned lab that did not change
    are left out.
    """
    lab, given = _pair(what, base)
    places = _places(lab)
    chosen = _chosen(given, places, matrices, layers)
    model = running.language_model(lab.model)
    tuned = None if isinstance(what, Adapter) else running.language_model(what.model)
    for name in chosen:
        layer, short = places.get(name, (None, name.rpartition(".")[2]))
        weight = own_dense_weight(model.get_submodule(name)).double().cpu()
        if isinstance(what, Adapter):
            yield WeightChange(name, layer, short, weight, what.low_ranks[name])
            continue
        assert tuned is not None
        change = own_dense_weight(tuned.get_submodule(name)).double().cpu() - weight
        if bool(change.any()):
            yield WeightChange(name, layer, short, weight, change)


def _pair(what: Adapter[BuiltLab] | BuiltLab, base: BuiltLab | None) -> tuple[BuiltLab, list[str]]:
    if isinstance(what, Adapter):
        if base is not None:
            checks.refuse("base", base, "none beside an adapter, which has its own")
        if not what.low_ranks:
            raise BadInput(f"{what.name} changes no matrix by a low-rank update; there is nothing to look into.")
        return what.lab, list(what.low_ranks)
    if base is None:
        raise BadInput("A tuned lab is looked at beside its base: give base=, or an adapter.")
    check_same_tokens(base, what)
    mine, theirs = _linear(base), _linear(what)
    if {name: matrix.shape for name, matrix in mine.items()} != {n: matrix.shape for n, matrix in theirs.items()}:
        raise BadInput(
            f"{what.name} and {base.name} have matrices of other names or shapes; give the base it was tuned from."
        )
    return base, list(mine)


def _outside(what: Adapter[BuiltLab] | BuiltLab, base: BuiltLab | None) -> tuple[str, ...]:
    """The names of parameters that changed beside the matrices that are looked at."""
    if isinstance(what, Adapter):
        return tuple(what.replaced)
    assert base is not None
    looked_at = {f"{name}.weight" for name in _linear(base)}
    mine, theirs = (own_parameters(running.language_model(lab.model)) for lab in (base, what))
    return tuple(
        name
        for name, value in mine.items()
        if name not in looked_at and name in theirs and not torch.equal(value, theirs[name].to(value))
    )


def _nothing(what: Adapter[BuiltLab] | BuiltLab, base: BuiltLab | None) -> BadInput:
    """What is said where no matrix that was asked for changed."""
    if outside := _outside(what, base):
        return BadInput(
            f"No matrix of the layers that was asked for changed in {what.name}; {checks.some(outside)} did, which "
            f"{'is' if len(outside) == 1 else 'are'} not looked into."
        )
    return BadInput(f"{what.name} has the weights of its base in what was asked for: nothing changed.")


def _linear(lab: BuiltLab) -> dict[str, Matrix]:
    return {name: each for name, each in matrices(lab).items() if each.parameter == "weight" and each.part == "layer"}


def _places(lab: BuiltLab) -> dict[str, tuple[int | None, str]]:
    return {each.name: (each.layer, each.matrix) for each in matrices(lab).values()}


def _chosen(
    names: list[str],
    places: dict[str, tuple[int | None, str]],
    patterns: str | Iterable[str] | None,
    layers: Iterable[int] | None,
) -> list[str]:
    wanted = None if patterns is None else checks.texts("matrices", patterns)
    numbers = (
        None if layers is None else {checks.as_whole(layer) for layer in checks.series("layers", layers, "numbers")}
    )
    found = []
    for name in names:
        layer, short = places.get(name, (None, name.rpartition(".")[2]))
        fits = wanted is None or any(fnmatchcase(name, each) or fnmatchcase(short, each) for each in wanted)
        if fits and (numbers is None or layer in numbers):
            found.append(name)
    if not found:
        there = dict.fromkeys(places.get(name, (None, name))[1] for name in names)
        raise BadInput(f"No matrix that changed is chosen by matrices and layers; there are {checks.listed(there)}.")
    return found


# size and rank ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Updates(Result):
    """The change of each matrix by a tuning; `updates` tells the columns of the table.

    singular_values: by the name of the matrix, those of ΔW, falling.  weight_norms: by that name, ‖W‖.
    name: of the tuning.  model: its base.  outside: what changed too and is no matrix of the layers: embedding, head, norms.
    top: of how many directions the alignment is.  draws, seed: of the random directions.
    """

    singular_values: dict[str, np.ndarray]
    weight_norms: dict[str, float]
    name: str
    model: str
    outside: tuple[str, ...]
    top: int
    draws: int
    seed: int

    def by_layer(self) -> pd.DataFrame:
        """How far each layer moved: layer, norm (of all its changes together), relative (beside its weights'), share (of the
        squared norm of all changes; 0 where nothing changed)."""
        table = self.table[self.table["layer"].notna()]
        squares = table.assign(change=table["norm"] ** 2, own=table["name"].map(self.weight_norms) ** 2)
        sums = squares.groupby("layer")[["change", "own"]].sum()
        result = sums.index.to_frame(index=False).astype(int)
        result["norm"] = np.sqrt(sums["change"].to_numpy())
        result["relative"] = np.sqrt((sums["change"] / sums["own"]).to_numpy())
        result["share"] = (sums["change"] / (sums["change"].sum() or 1.0)).to_numpy()
        return result

    def _title(self) -> str:
        most = self.table.loc[self.table["relative"].idxmax()]
        where = f"layer {int(most['layer'])}, {most['matrix']}" if most["layer"] == most["layer"] else most["matrix"]
        return (
            f"{self.name} changes {len(self.table)} matrices of {self.model}, by {self.table['relative'].median():.2%} of their "
            f"size (median), most {where}: {most['relative']:.2%}"
        )

    def _remarks(self) -> Sequence[str]:
        outside = f"outside of the layers' matrices these changed too: {checks.some(self.outside)}"
        return (
            *((outside,) if self.outside else ()),
            "null_effective_rank: of B A with normal entries, of the same shape and rank; null_alignment: of random directions "
            f"({self.draws} draws; null_alignment_high: 97.5 % are below it)",
        )


def updates(
    what: Adapter[BuiltLab] | BuiltLab,
    base: BuiltLab | None = None,
    *,
    matrices: str | Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Updates:
    """How a tuning changes each matrix: ΔW = B A of an adapter, or the difference of a tuned lab to its base.

    what: an Adapter; or a Lab tuned in full, with `base` the lab it was tuned from: then of the matrices of the layers. What
        else changed (embedding, head, norms) is named in `outside`.
    matrices, layers: names or patterns ("q_proj"), and numbers; None for all that changed.
    The table has a row for each matrix: name, layer, matrix, rank (the most that ΔW can have), norm (‖ΔW‖, Frobenius),
    relative (‖ΔW‖ / ‖W‖), spectral (the largest singular value of ΔW), effective_rank (exp of the entropy of the singular
    values as shares of their sum, Roy & Vetterli 2007), stable_rank (‖ΔW‖² / spectral²), alignment
    (‖Uᵀ W V‖ / ‖W‖ with the 8 strongest directions U, V of ΔW, or all where there are fewer: how much of W lies where
    it was changed; Hu et al. 2021, 7.3), and beside them null_effective_rank, null_alignment and null_alignment_high of
    random directions. All in float64.
    """
    import pandas as pd

    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    generator = torch.Generator().manual_seed(seed)
    rows, values, norms = [], {}, {}
    for each in weight_changes(what, base, matrices=matrices, layers=layers):
        u, s, vh = each.svd()
        norm, own = float(s.norm()), float(each.weight.norm())
        count = min(TOP, int((s > ZERO * s[0]).sum()))
        random = _random_alignments(each.weight, max(count, 1), draws, generator)
        inside = float((u[:, :count].T @ each.weight @ vh[:count].T).norm()) / own if count else float("nan")
        values[each.name], norms[each.name] = s.numpy(), own
        rows.append(
            {
                "name": each.name,
                "layer": each.layer,
                "matrix": each.matrix,
                "rank": each.rank,
                "norm": norm,
                "relative": norm / own,
                "spectral": float(s[0]),
                "effective_rank": _effective_rank(s),
                "null_effective_rank": _null_effective_rank(each, generator),
                "stable_rank": norm**2 / float(s[0]) ** 2 if norm else float("nan"),
                "alignment": inside,
                "null_alignment": float(random.mean()),
                "null_alignment_high": float(interval(random)[1]),
            }
        )
    if not rows:
        raise _nothing(what, base)
    table = pd.DataFrame(rows)
    table["layer"] = table["layer"].astype("Int64")
    model = what.lab if isinstance(what, Adapter) else base
    assert model is not None
    return Updates(table, values, norms, what.name, model.name, _outside(what, base), TOP, draws, seed)


def _effective_rank(s: torch.Tensor) -> float:
    total = float(s.sum())
    if not total:
        return 0.0
    shares = s / total
    return float(torch.special.entr(shares).sum().exp())


def _null_effective_rank(each: WeightChange, generator: torch.Generator) -> float:
    outputs, inputs = each.weight.shape
    if each.rank == min(outputs, inputs):  # the singular values of one normal matrix, by those of its smaller square
        drawn = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
        return _effective_rank(torch.linalg.svdvals(drawn))
    b = torch.randn(outputs, each.rank, generator=generator, dtype=torch.float64)
    a = torch.randn(inputs, each.rank, generator=generator, dtype=torch.float64)
    return _effective_rank(torch.linalg.svdvals(torch.linalg.qr(b).R @ torch.linalg.qr(a).R.T))


def _random_alignments(weight: torch.Tensor, count: int, draws: int, generator: torch.Generator) -> np.ndarray:
    """(draws,), ‖Uᵀ W V‖ / ‖W‖ for `count` random orthonormal directions on either side."""
    own, found = weight.norm(), []
    for _ in range(draws):
        u, v = (_directions(size, count, generator) for size in weight.shape)
        found.append(float((u.T @ weight @ v).norm() / own))
    return np.array(found)


def _directions(size: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """(size, count), random and orthonormal, uniform (Mezzadri 2007: QR alone prefers some signs)."""
    q, r = torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64))
    basis: torch.Tensor = q * r.diagonal().sign()
    return basis


# directions that W did not have -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Intruders(Result):
    """Intruder dimensions of each matrix; `intruders` tells what they are and the columns of the table.

    found: their number in all matrices together; null_low_rank, null_full_rank: that of random changes.
    top, threshold: as asked.  name: of the tuning.  model: its base.
    """

    found: int
    null_low_rank: float
    null_full_rank: float
    top: int
    threshold: float
    name: str
    model: str
    draws: int
    seed: int

    def _title(self) -> str:
        return (
            f"{self.name}: {self.found} intruder dimensions among the {self.top} strongest directions of each of "
            f"{len(self.table)} matrices (cosine below {self.threshold:g} to all of {self.model}'s)"
        )

    def _remarks(self) -> Sequence[str]:
        return (
            f"random changes with the same singular values have {self.null_low_rank:.1f}, and of full rank with the same norm "
            f"{self.null_full_rank:.1f} ({self.draws} draws)",
        )


def intruders(
    what: Adapter[BuiltLab] | BuiltLab,
    base: BuiltLab | None = None,
    *,
    top: int = 10,
    threshold: float = 0.5,
    matrices: str | Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    draws: int = 1,
    seed: int = 0,
) -> Intruders:
    """Directions among the strongest of a tuned matrix that are like none the base had.

    An intruder dimension is a left singular vector of W + ΔW, one of the `top` with the largest singular values, whose
    cosine (without its sign) to every left singular vector of W is below `threshold`. Shuttleworth et al. 2024, "LoRA vs Full
    Fine-tuning: An Illusion of Equivalence": tunings of low rank have them where full ones to the same loss have none.
    what, base, matrices, layers: as of `updates`.
    The table has a row for each matrix: name, layer, matrix, intruders, least_cosine (the smallest of the `top` vectors'
    largest cosines), and beside them null_low_rank and null_full_rank: the intruders of a random change with the singular
    values of ΔW, and of one with normal entries and ΔW's norm, each the mean of `draws`.
    """
    import pandas as pd

    top, draws, seed = checks.whole("top", top, 1), checks.whole("draws", draws, 1), checks.seed(seed)
    threshold = checks.fraction("threshold", threshold, zero=False)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for each in weight_changes(what, base, matrices=matrices, layers=layers):
        own = torch.linalg.svd(each.weight, full_matrices=False).U
        cosines = _largest_cosines(own, each.weight + each.dense(), top)
        _, s, _ = each.svd()
        low, full = [], []
        for _ in range(draws):
            u, v = (_directions(size, len(s), generator) for size in each.weight.shape)
            noise = torch.randn(each.weight.shape, generator=generator, dtype=torch.float64)
            low.append(_count(_largest_cosines(own, each.weight + (u * s) @ v.T, top), threshold))
            full.append(_count(_largest_cosines(own, each.weight + noise * (s.norm() / noise.norm()), top), threshold))
        rows.append(
            {
                "name": each.name,
                "layer": each.layer,
                "matrix": each.matrix,
                "intruders": _count(cosines, threshold),
                "least_cosine": float(cosines.min()),
                "null_low_rank": float(np.mean(low)),
                "null_full_rank": float(np.mean(full)),
            }
        )
    if not rows:
        raise _nothing(what, base)
    table = pd.DataFrame(rows)
    table["layer"] = table["layer"].astype("Int64")
    return Intruders(
        table,
        int(table["intruders"].sum()),
        float(table["null_low_rank"].sum()),
        float(table["null_full_rank"].sum()),
        top,
        threshold,
        what.name,
        (what.lab if isinstance(what, Adapter) else base).name,  # type: ignore[union-attr]
        draws,
        seed,
    )


def _largest_cosines(own: torch.Tensor, tuned: torch.Tensor, top: int) -> torch.Tensor:
    """(top,), of each of the strongest left singular vectors of `tuned`, the largest cosine to a column of `own`."""
    u = torch.linalg.svd(tuned, full_matrices=False).U[:, :top]
    largest: torch.Tensor = (u.T @ own).abs().amax(1)
    return largest


def _count(cosines: torch.Tensor, threshold: float) -> int:
    return int((cosines < threshold).sum())
