"""Whether a model's weights lie on a grid of few bits already, told from how many values a group of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.quantization.weights import matrices
from labkit.results import Result
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

GROUP = 32  # weights, as GGUF's formats share a scale
FOUR_BITS = 16  # values that four bits can tell apart
CHUNK = 2**20  # groups that are sorted at once
GROUPS = 4_096  # of each matrix that are looked at


@dataclass(frozen=True, eq=False, repr=False)
class OnGrid(Result):
    """How many distinct values groups of weights have; `on_grid` tells the columns of the table.

    share: of all groups, those with at most 16 distinct values: on a grid of 4 bits.  largest: distinct values in the group
        that has most.  group: weights in a group.
    null_share, null_most, null_fewest: the same for normally distributed weights, rounded to the dtype that the model is in;
        null_fewest is the fewest values that a group of them had.
    on_grid: whether more than 99 % of the groups of the layers are on such a grid. Rankings of formats on such a model are
        artefacts of its grid.
    """

    share: float
    largest: int
    null_share: float
    null_most: int
    null_fewest: int
    on_grid: bool
    group: int
    model: str

    def _title(self) -> str:
        on = "lie on a grid of 4 bits already" if self.on_grid else "lie on no grid of 4 bits"
        return (
            f"The weights of {self.model} {on}: {self.share:.1%} of the groups of {self.group} have at most {FOUR_BITS} "
            f"distinct values, {self.largest} at most"
        )

    def _remarks(self) -> Sequence[str]:
        return (
            f"weights drawn at random: {self.null_share:.1%} of the groups, {self.null_fewest} to {self.null_most} values",
        )


def on_grid(
    lab: LabLike, *, group: int = GROUP, groups: int | None = GROUPS, head: bool = False, seed: int = 0
) -> OnGrid:
    """For each matrix, the largest number of distinct values in a group of consecutive weights of a row.

    A model that was stored in 4 bits and unpacked again has at most 16 in any group that shared a scale, where weights as
    they are trained have as many as there are weights. The default model is such a one.
    group: how many weights; 32 finds grids with groups of 32 and of its multiples.  groups: so many of a matrix are looked
        at, evenly spaced; None looks at all.  head: the embedding and the head too.
    Returns a row for each matrix: name, layer, matrix, largest, mean (distinct values of a group), share (of its groups,
    those with at most 16), groups. Rows that `group` does not divide are cut at their end.
    Raises BadInput for a group that no matrix has, Unavailable where weights are no plain numbers.
    """
    import pandas as pd

    check_lab(lab)
    group, seed = checks.whole("group", group, FOUR_BITS + 1), checks.seed(seed)
    most = None if groups is None else checks.whole("groups", groups, 1)
    rows = []
    for name, each in matrices(lab).items():
        if (each.part != "layer" and not head) or each.shape[-1] < group:
            continue
        if each.weight.device.type == "meta" or not each.weight.is_floating_point():
            raise Unavailable(
                f"{name} of {lab.name} holds no plain numbers; load the model unquantized with device='cpu'."
            )
        counts = distinct(each.weight, group, most)
        rows.append(
            {
                "name": name,
                "layer": each.layer,
                "matrix": each.matrix,
                "largest": int(counts.max()),
                "mean": float(counts.double().mean()),
                "share": float((counts <= FOUR_BITS).double().mean()),
                "groups": len(counts),
            }
        )
    if not rows:
        raise BadInput(f"No matrix of {lab.name} has rows of {group} weights; give a smaller group.")
    table = pd.DataFrame(rows).astype({"layer": "Int64"})
    share = float((table["share"] * table["groups"]).sum() / table["groups"].sum())
    random = torch.randn((GROUPS, group), dtype=torch.float32, generator=torch.Generator().manual_seed(seed)).to(
        lab.dtype
    )
    null = distinct(random, group)
    of_layers = table[table["layer"].notna()]
    return OnGrid(
        table,
        share=share,
        largest=int(table["largest"].max()),
        null_share=float((null <= FOUR_BITS).double().mean()),
        null_most=int(null.max()),
        null_fewest=int(null.min()),
        on_grid=bool((of_layers["share"] * of_layers["groups"]).sum() > 0.99 * of_layers["groups"].sum()),
        group=group,
        model=lab.name,
    )


def distinct(weight: torch.Tensor, group: int, most: int | None = None) -> torch.Tensor:
    """(groups,) int64: how many distinct values each group of consecutive weights of a row has. most: of so many groups."""
    columns = weight.shape[-1] // group * group
    blocks = weight[..., :columns].reshape(-1, group)
    if most is not None and len(blocks) > most:
        blocks = blocks[torch.linspace(0, len(blocks) - 1, most, dtype=torch.float64).round().long()]
    counts = []
    for start in range(0, len(blocks), CHUNK):
        ordered = blocks[start : start + CHUNK].float().sort(dim=-1).values
        counts.append((ordered[:, 1:] != ordered[:, :-1]).sum(-1) + 1)
    return torch.cat(counts).cpu()
