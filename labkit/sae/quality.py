"""How good an autoencoder is on a text: what it leaves unexplained, and what the model loses when it has only that.

Three figures are usual. The *fraction of variance unexplained*: the squared error of the reconstruction over the variance
of the residual stream. *L0*: how many features are active on a token, in the mean. *Loss recovered*: how much of the
model's loss is saved, between the mean in place of the residual stream (0) and the residual stream itself (1), by the
reconstruction in its place. A *dead* feature is active on no token. Every figure stands beside simpler ways to rebuild a
residual stream: as many principal components as features are active, an untrained autoencoder, the mean, and nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit import checks
from labkit.errors import BadInput
from labkit.results import Result
from labkit.sae.dictionary import SAE, checked_sae
from labkit.sae.interventions import AFTER_THE_FIRST
from labkit.sae.reading import defined, ids_for, residuals
from labkit.statistics import interval
from labkit.trace.edits import patch
from labkit.trace.input import as_kinds

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.generating_lab import GeneratingLab

__all__ = ["Quality", "evaluate", "untrained"]

WAYS = ("principal components", "untrained", "mean", "zero")
LEAST_TOKENS = 200  # of a kind of text, for a figure about it
LEAST_TEXTS, DRAWS = 5, 1_000  # of each kind, for an interval; fewer can't be resampled to any purpose


@dataclass(frozen=True, eq=False, repr=False)
class Quality(Result):
    """What came out; `table` has a row for each way and kind of text, and for all kinds together.

    Columns: way ("sae", "principal components", "untrained", "mean", "zero"), kind, tokens (counted), unexplained (the
    fraction of the variance around the mean of all counted tokens), l0 (active features a token), loss (nats a token, of
    the model itself), loss_spliced (with this way's reconstruction in place of the residual stream), increase (the
    difference), low and high (95 % of the increase, resampling texts within their kinds; NaN for under five texts of a
    kind), loss_recovered (1 − increase / increase of "mean"). dead: the fraction of features active on no counted token,
    which falls with more text.
    tokens: counted in all. left_out: tokens not counted: first positions and norms out of all measure; they are left as
    they are when a way is spliced in. components: how many principal components were taken. sae: what was measured.
    """

    dead: float
    tokens: int
    left_out: int
    components: int
    sae: SAE

    def _title(self) -> str:
        own = self.table[(self.table["way"] == "sae") & (self.table["kind"] == "all")].iloc[0]
        said = [f"{own['unexplained']:.1%} unexplained"]
        if math.isfinite(own["increase"]):
            said.append(f"{own['increase']:+.3f} nats")
        if math.isfinite(own["loss_recovered"]):
            said.append(f"{own['loss_recovered']:.1%} of the loss recovered")
        return f"Quality({self.sae.name}: {', '.join(said)}, {self.tokens:,} tokens)"


def untrained(sae: SAE, seed: int = 0, *, k: int | None = None) -> SAE:
    """An autoencoder of the same kind and sizes with random unit rows, and its transpose as encoder: a level of chance.

    It keeps the trained one's decoder bias, about the mean of what is read.
    k: features active on a token, for a kind that does not fix how many: what stands beside such a one is a topk
    autoencoder, since a threshold or a gate that was never trained says nothing. With topk and abstopk it is the trained
    one's own. Raises BadInput for other kinds without k.
    """
    from dataclasses import replace

    checked_sae(sae)
    if sae.k is None and k is None:
        raise BadInput(
            f"Only a topk autoencoder has an untrained one of its kind; {sae.name} is {sae.architecture}, so give k, how many "
            "features are to be active on a token."
        )
    fixed = sae.k is not None
    rows = torch.randn(len(sae), sae.d_in, generator=torch.Generator().manual_seed(seed))
    rows /= rows.norm(dim=-1, keepdim=True)
    return replace(
        sae,
        name=f"untrained, like {sae.name}",
        encoder=rows.T.contiguous(),
        encoder_bias=torch.zeros(len(sae)),
        decoder=rows,
        architecture=sae.architecture if fixed else "topk",
        k=sae.k if fixed else checks.whole("k", k, 1, len(sae)),
        threshold=None,
        gate=None,
        rescaled=sae.rescaled and fixed,
        folder=None,  # what is known of the trained one's features is not known of these
        _library=None,
    )


def evaluate(
    lab: GeneratingLab,
    sae: SAE,
    texts: Mapping[str, Sequence[object]] | Sequence[object],
    *,
    against: Sequence[str] = WAYS,
    losses: bool = True,
    progress: bool = True,
) -> Quality:
    """Measure an autoencoder on texts, by kind, beside simpler ways to rebuild the same residual stream.

    texts: kind of text -> texts, as `lk.moe.texts` gives them, or a list of texts.  against: of "principal components" (as
    many as features are active on a token on average, fitted to these very texts, which favours them), "untrained" (by
    default where there is one: for topk), "mean" (of these texts), "zero".  losses: False leaves out the model's loss,
    which takes most of the time.
    Use a lab in float32: figures from bfloat16 differ.
    Raises BadInput where the autoencoder does not belong to the model, or a kind of text has under 200 tokens to count.
    """
    checked_sae(sae).belongs(lab)
    if unknown := [way for way in against if way not in WAYS]:
        raise BadInput(f"There is no way called {unknown[0]!r} to compare with; there are {', '.join(WAYS)}.")
    if "untrained" in against and sae.k is None:
        if against is not WAYS:
            untrained(sae)  # says why there is none
        against = tuple(way for way in against if way != "untrained")
    kinds = as_kinds(texts)
    if not kinds:
        raise BadInput("There is no text to measure on; give some, such as lk.moe.texts(10).")
    if "all" in kinds:
        raise BadInput(
            "No kind of text can be called 'all', which is what the table calls all of them; give another name."
        )
    rows = [(kind, ids_for(lab, sae, text)) for kind in kinds for text in kinds[kind]]
    found = list(residuals(lab, [ids for _, ids in rows], sae.layer))
    masks = [defined(lab, sae, ids, x) for (_, ids), x in zip(rows, found, strict=True)]
    counted = {k: sum(int(m.sum()) for (kind, _), m in zip(rows, masks, strict=True) if kind == k) for k in kinds}
    for kind, count in counted.items():
        if count < LEAST_TOKENS:
            raise BadInput(
                f"{kind} has {count} tokens to count, too few to say anything; give at least {LEAST_TOKENS}."
            )
    together = torch.cat([x[m] for x, m in zip(found, masks, strict=True)])
    of_kind = [kind for (kind, _), m in zip(rows, masks, strict=True) for _ in range(int(m.sum()))]
    mean = together.mean(0)
    active = [sae.active(part)[1] for part in together.split(4_096)]
    l0 = torch.cat([(indices >= 0).sum(-1) for indices in active])
    fired = torch.zeros(len(sae), dtype=torch.bool)
    for indices in active:
        fired[indices[indices >= 0].unique()] = True
    components = round(float(l0.float().mean()))
    ways = _ways(sae, together, mean, components, against)
    left = {way: _left(rebuild, together) for way, rebuild in ways.items()}
    spread = (together - mean).square().sum(-1)
    found_loss = _losses(lab, sae, rows, masks, ways if losses else {}, progress)
    table = _table(kinds, of_kind, ways, left, spread, l0, rows, found_loss)
    out = sum(len(ids) for _, ids in rows) - len(together)
    return Quality(table, 1 - float(fired.float().mean()), len(together), out, components, sae)


def _ways(
    sae: SAE, x: Tensor, mean: Tensor, components: int, against: Sequence[str]
) -> dict[str, Callable[[Tensor], Tensor]]:
    ways: dict[str, Callable[[Tensor], Tensor]] = {"sae": sae.reconstruct}
    if "principal components" in against:
        centred = (x - mean).double()
        basis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, max(0, sae.d_in - components) :].float()
        ways["principal components"] = lambda rows: (rows - mean) @ basis @ basis.T + mean
    if "untrained" in against:
        ways["untrained"] = untrained(sae).reconstruct
    if "mean" in against:
        ways["mean"] = lambda rows: mean.expand_as(rows)
    if "zero" in against:
        ways["zero"] = torch.zeros_like
    return ways


def _left(rebuild: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(rows,) squared distance between x and its reconstruction."""
    return torch.cat([(part - rebuild(part)).square().sum(-1) for part in x.split(4_096)])


def _losses(
    lab: GeneratingLab,
    sae: SAE,
    rows: Sequence[tuple[str, list[int]]],
    masks: Sequence[Tensor],
    ways: Mapping[str, Callable[[Tensor], Tensor]],
    progress: bool,
) -> dict[str, list[Tensor]]:
    """Per way, and for the model itself (""), the loss of each text's tokens from the second on."""
    from tqdm.auto import tqdm

    if not ways:
        return {}
    found: dict[str, list[Tensor]] = {way: [] for way in ("", *ways)}
    texts = zip(rows, masks, strict=True)
    for (_, ids), mask in tqdm(texts, desc="texts", total=len(rows), disable=not progress, leave=False):
        found[""].append(lab.trace(ids, keep="logits").loss[1:])
        for way, rebuild in ways.items():
            with lab.edit(patch(f"residual[{sae.layer}] @ {AFTER_THE_FIRST}", _replaced(mask[1:], rebuild))):
                found[way].append(lab.trace(ids, keep="logits").loss[1:])
    return found


def _replaced(counted: Tensor, rebuild: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An edit that leaves tokens which are not counted, (tokens after the first,) bool, as they are."""

    def change(x: Tensor) -> Tensor:
        rows = x.float().cpu()
        return torch.where(counted[:, None], rebuild(rows), rows).to(x)

    return change


def _table(
    kinds: Mapping[str, object],
    of_kind: Sequence[str],
    ways: Iterable[str],
    left: Mapping[str, Tensor],
    spread: Tensor,
    l0: Tensor,
    rows: Sequence[tuple[str, list[int]]],
    losses: Mapping[str, list[Tensor]],
) -> pd.DataFrame:
    import pandas as pd

    masks = {k: torch.tensor([kind == k for kind in of_kind]) for k in kinds}
    masks["all"] = torch.ones(len(of_kind), dtype=torch.bool)

    def loss(way: str, kind: str) -> float:
        if way not in losses:
            return math.nan
        parts = [part for (k, _), part in zip(rows, losses[way], strict=True) if kind in (k, "all")]
        return float(torch.cat(parts).double().mean())

    lines = []
    for way in ways:
        for kind, mask in masks.items():
            own, spliced = loss("", kind), loss(way, kind)
            by_mean = loss("mean", kind) - own
            low, high = _interval(way, kind, rows, losses)
            lines.append(
                {
                    "way": way,
                    "kind": kind,
                    "tokens": int(mask.sum()),
                    "unexplained": float(left[way][mask].double().sum() / spread[mask].double().sum()),
                    "l0": float(l0[mask].float().mean()) if way == "sae" else math.nan,
                    "loss": own,
                    "loss_spliced": spliced,
                    "increase": spliced - own,
                    "low": low,
                    "high": high,
                    "loss_recovered": 1 - (spliced - own) / by_mean,
                }
            )
    return pd.DataFrame(lines)


def _interval(
    way: str, kind: str, rows: Sequence[tuple[str, list[int]]], losses: Mapping[str, list[Tensor]]
) -> tuple[float, float]:
    """95 % of the increase in loss, texts drawn with replacement within each kind."""
    if way not in losses:
        return math.nan, math.nan
    groups: dict[str, list[int]] = {}
    for number, (name, _) in enumerate(rows):
        if kind in (name, "all"):
            groups.setdefault(name, []).append(number)
    if min(map(len, groups.values())) < LEAST_TEXTS:
        return math.nan, math.nan
    sums = torch.stack([(a.double() - b.double()).sum() for a, b in zip(losses[way], losses[""], strict=True)])
    counts = torch.tensor([len(each) for each in losses[""]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat(
        [torch.tensor(g)[torch.randint(len(g), (DRAWS, len(g)), generator=generator)] for g in groups.values()], dim=1
    )
    increases = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = interval(increases.numpy())
    return float(low), float(high)
