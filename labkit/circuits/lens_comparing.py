"""How much lenses say, by layer, on text they were not fitted on: beside each other, a shuffled lens and no lens at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from labkit import checks
from labkit.circuits.jacobian_lens import JacobianLens
from labkit.circuits.jacobians import SKIPPED
from labkit.circuits.lens_reading import fitted_for
from labkit.circuits.repeats import kinds_without_repeats
from labkit.errors import BadInput
from labkit.results import Result
from labkit.statistics import interval, resampled
from labkit.trace import running
from labkit.trace.documents import documents_of
from labkit.trace.input import as_kinds
from labkit.trace.lab_like import check_lab
from labkit.trace.lens import Ending, divergence, ending_of, likelihoods
from labkit.trace.record import check_predicts

if TYPE_CHECKING:
    from labkit.trace.lab_like import TracingLab
    from labkit.trace.record import Trace

WAYS = ("jacobian", "logit", "other layer", "shuffled")  # "unigram" looks at no state, and so at no layer
MEASURES = ("kl", "next", "later")
LEAST_DOCUMENTS = 4


@dataclass(frozen=True, eq=False, repr=False)
class LensQuality(Result):
    """Lenses compared; `lens_quality` tells the columns of its table.

    differences: the Jacobian lens less each of the others, document by document: against, layer, measure, difference, low,
    high; below 0 it is the better one.  documents, positions: how many were read, of each document at most.  ahead: how many
    tokens later ones are looked for.  model: its name.  prompts: that the Jacobian lens was fitted on.
    notes: of documents that stood there twice.
    """

    differences: pd.DataFrame
    documents: int
    positions: int
    ahead: int
    model: str
    prompts: int
    notes: tuple[str, ...] = ()

    def _title(self) -> str:
        return (
            f"Lenses of {self.model} on {self.documents} documents (the Jacobian lens of {self.prompts} prompts): KL in nats, "
            "ranks as log10(1 + rank)"
        )

    def _remarks(self) -> Sequence[str]:
        return ("in brackets of 95 %, by documents drawn again; differences: .differences", *self.notes)


class _Read(NamedTuple):
    """What one document gave. values: (ways, layers, measures). The rest is for the unigram prior."""

    values: np.ndarray
    likely: torch.Tensor  # (vocabulary,) float64, the mean prediction
    entropy: float
    following: torch.Tensor  # (positions, 1 + ahead) ids


def lens_quality(
    lab: TracingLab,
    texts: object,
    *,
    lens: JacobianLens | None = None,
    layers: Sequence[int] | None = None,
    positions: int = 16,
    ahead: int = 8,
    longest: int = 128,
    draws: int = 1_000,
    seed: int = 0,
    progress: bool = True,
) -> LensQuality:
    """Compare the Jacobian lens with the logit lens, a shuffled lens and the unigram prior, by layer.

    texts: by kind, or a list; not those the lens was fitted on.  lens: as for `lk.lens`.  layers: None for all it reads at but
        the last, which is the model's own prediction.  positions: of a document, spread evenly, none of the first 16.
    ahead: tokens after the next that count as coming later.  longest: tokens of a document, its first.
    Returns a `LensQuality`, a row for each way and layer, with 95 % intervals (_low, _high) of documents drawn again within
    their kinds: kl (nats: KL(the model's own prediction || the lens's)); next (log10(1 + rank) of the token that follows);
    later (the same, averaged over the `ahead` tokens after it that are other than it). Lower is better in all three.
    way: "jacobian"; "logit"; "other layer" (the Jacobian lens with the matrices of the layers dealt anew, none its own);
    "shuffled" (its own matrix with the rows in another order: the same size of state, no meaning); "unigram" (the mean of
    what the model predicts in all other documents, whatever the state; layer is missing).
    Costs four unembeddings of a document's positions for each layer. Raises BadInput for a lens of another model, and where
    under 4 documents are long enough.
    """
    check_lab(lab)
    check_predicts(lab.anatomy.causal, lab.name)
    positions, ahead = checks.whole("positions", positions, 1), checks.whole("ahead", ahead, 1)
    longest, draws = checks.whole("longest", longest, SKIPPED + ahead + 2), checks.whole("draws", draws, 1)
    fitted = fitted_for(lab, "jacobian", lens)
    assert fitted is not None
    wanted = sorted(fitted.jacobians) if layers is None else [checks.index("layer", i, fitted.layers) for i in layers]
    for layer in wanted:
        fitted.jacobian(layer)
    if not wanted:
        raise BadInput("layers is empty; leave it away for all that the lens reads at.")
    kinds, notes = kinds_without_repeats(lab, as_kinds(texts))
    ids, kind_of, _ = documents_of(lab, kinds)
    least = SKIPPED + ahead + 2
    long = [number for number, row in enumerate(ids) if len(row) >= least]
    if len(long) < LEAST_DOCUMENTS:
        raise BadInput(
            f"{len(long)} of {len(ids)} documents have {least} tokens or more, too few to say anything; give {LEAST_DOCUMENTS} "
            "at least, and better 50."
        )
    rng = np.random.default_rng(checks.seed(seed))
    shuffled = torch.from_numpy(rng.permutation(fitted.d_model))
    others = _elsewhere(sorted(fitted.jacobians), rng)
    found: list[_Read] = []
    with running.Progress("comparing lenses", len(long), "document", progress) as bar:
        for number in long:
            trace = lab.trace(ids[number][:longest].tolist(), keep=("residual", "logits"))
            found.append(_read(lab, trace, fitted, wanted, others, shuffled, positions, ahead))
            bar.advance()
    if len(found) < LEAST_DOCUMENTS:
        raise BadInput(f"The comparison was ended after {len(found)} documents, too few to say anything.")
    weights = resampled(kind_of[long[: len(found)]], draws, rng)
    return replace(_result(lab.name, fitted, wanted, found, weights, positions, ahead), notes=notes)


def _elsewhere(layers: Sequence[int], rng: np.random.Generator) -> dict[int, int]:
    """For each layer another one, each once: a cycle in random order."""
    order = rng.permutation(len(layers))
    return {layers[a]: layers[b] for a, b in zip(order, np.roll(order, 1), strict=True)}


def _read(
    lab: TracingLab,
    trace: Trace,
    fitted: JacobianLens,
    layers: Sequence[int],
    others: dict[int, int],
    shuffled: torch.Tensor,
    positions: int,
    ahead: int,
) -> _Read:
    ending: Ending = ending_of(lab, trace, ("residual", "logits"))
    room = len(trace) - 1 - ahead  # positions that have `ahead` tokens after the next
    chosen = torch.from_numpy(np.unique(np.linspace(SKIPPED, room - 1, positions).astype(np.int64)))
    logits = trace.logits
    likely, entropy = likelihoods(logits[chosen.to(logits.device)].log_softmax(-1))
    following = torch.tensor(trace.ids)[chosen[:, None] + torch.arange(1, ahead + 2)]
    values = np.zeros((len(WAYS), len(layers), len(MEASURES)))
    for place, layer in enumerate(layers):
        residual = trace.residual(layer)
        states = residual[chosen.to(residual.device)]
        own = fitted.carried(states, layer)
        ways = [own, states, fitted.carried(states, others[layer]), own[:, shuffled.to(own.device)]]
        read = ending.logits(torch.cat(ways)).to(likely.device)
        for way, part in enumerate(read.split(len(states))):
            kl = divergence(likely, entropy, part, part.logsumexp(-1)).mean()
            values[way, place] = [float(kl), *_ranks(part, following.to(part.device))]
    return _Read(values, likely.double().mean(0).cpu(), float(entropy.double().mean()), following)


def _ranks(scores: torch.Tensor, following: torch.Tensor) -> tuple[float, float]:
    """Mean log10(1 + rank) of the next token, and of those after it that are others. scores: (n or 1, vocabulary)."""
    rows = scores.expand(len(following), -1)
    ranks = torch.stack([(rows > rows.gather(1, ids[:, None])).sum(1) for ids in following.T], 1)
    logs = (1.0 + ranks.double()).log10()
    others = following[:, 1:] != following[:, :1]
    later = logs[:, 1:][others]
    return float(logs[:, 0].mean()), float(later.mean()) if len(later) else float("nan")


def _result(
    name: str,
    fitted: JacobianLens,
    layers: Sequence[int],
    found: Sequence[_Read],
    weights: np.ndarray,
    positions: int,
    ahead: int,
) -> LensQuality:
    values = np.stack([one.values for one in found])  # (documents, ways, layers, measures)
    everywhere = torch.stack([one.likely for one in found])
    prior = np.zeros((len(found), len(MEASURES)))
    for number, one in enumerate(found):
        rest = ((everywhere.sum(0) - one.likely) / (len(found) - 1)).clamp_min(1e-300)
        kl = float(-one.entropy - (one.likely * rest.log()).sum())
        prior[number] = [kl, *_ranks(rest[None], one.following)]

    def summed(per_document: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(..., measures) each: the mean over documents, and its interval; a document without a value counts for none."""
        there = ~np.isnan(per_document)
        filled = np.where(there, per_document, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = filled.sum(0) / there.sum(0)
            samples = np.tensordot(weights, filled, 1) / np.tensordot(weights, there.astype(np.float64), 1)
        return mean, *interval(samples)

    def row(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, object]:
        cells: dict[str, object] = {}
        for at, measure in enumerate(MEASURES):
            cells |= {measure: mean[at], f"{measure}_low": low[at], f"{measure}_high": high[at]}
        return cells

    rows: list[dict[str, object]] = []
    mean, low, high = summed(values)
    for way, label in enumerate(WAYS):
        for place, layer in enumerate(layers):
            rows.append({"way": label, "layer": layer} | row(mean[way, place], low[way, place], high[way, place]))
    of_none: dict[str, object] = {"way": "unigram", "layer": None}
    rows.append(of_none | row(*summed(prior)))

    compared: list[tuple[object, ...]] = []
    against = {label: values[:, way] for way, label in enumerate(WAYS) if way}
    against["unigram"] = np.broadcast_to(prior[:, None], values[:, 0].shape)
    for label, other in against.items():
        mean, low, high = summed(values[:, 0] - other)
        for place, layer in enumerate(layers):
            for at, measure in enumerate(MEASURES):
                here = (mean[place, at], low[place, at], high[place, at])
                compared.append((label, layer, measure, *here))
    return LensQuality(
        pd.DataFrame(rows).astype({"layer": "Int64"}),
        differences=pd.DataFrame(compared, columns=["against", "layer", "measure", "difference", "low", "high"]),
        documents=len(found),
        positions=positions,
        ahead=ahead,
        model=name,
        prompts=fitted.prompts,
    )
