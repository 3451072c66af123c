"""Documents of several kinds: their token ids, batched once, on which a model is measured again and again.

The unit of evidence is the document. Sums are kept by document, so that an interval can draw documents again.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.statistics import interval, resampled
from labkit.trace import running
from labkit.trace.input import as_ids, as_kinds
from labkit.trace.overlaps import Seen
from labkit.trace.record import check_predicts

if TYPE_CHECKING:
    import torch

    from labkit.trace.lab_like import LabLike
    from labkit.trace.resuming import Entering


def documents_of(lab: LabLike, texts: object) -> tuple[list[np.ndarray], np.ndarray, tuple[str, ...]]:
    """The token ids of every document, its kind, and what was cut."""
    if not isinstance(texts, Mapping) or not texts:
        raise BadInput('Texts are given by kind, with one kind at least: {"prose": [text, ...], "python": [...]}.')
    documents, kind_of, cut = [], [], 0
    for number, (kind, of_kind) in enumerate(texts.items()):
        if isinstance(of_kind, str | bytes) or not isinstance(of_kind, Sequence) or not len(of_kind):
            raise BadInput(f"{kind!r} is to be a list of documents, with one at least; give a list of texts.")
        for index, document in enumerate(of_kind):
            if checks.as_whole(document) is not None and not hasattr(document, "tolist"):
                raise BadInput(f"{kind!r} is to be a list of documents, and holds token ids; put them in a list.")
            try:
                ids = as_ids(lab.tokenizer, document, chat=False, context=None)
            except BadInput as error:
                raise BadInput(f"Document {index} of {kind!r}: {error}") from error
            cut += lab.context is not None and len(ids) > lab.context
            documents.append(np.array(ids[: lab.context], dtype=np.int64))
            kind_of.append(number)
    were = "document was" if cut == 1 else "documents were"
    notes = (f"{cut} {were} cut to the model's context of {lab.context:,} tokens.",) if cut else ()
    return documents, np.array(kind_of, dtype=np.int64), notes


def few_notes(
    kinds: Sequence[str], documents: np.ndarray, tokens: np.ndarray, least_documents: int, least_tokens: int
) -> list[str]:
    """For each kind "" or why nothing is said of it. documents, tokens: (kinds,), how many there are."""
    notes = []
    for kind, d, t in zip(kinds, documents.tolist(), tokens.tolist(), strict=True):
        enough = d >= least_documents and t >= least_tokens
        held = f"{d} document{'s' * (d != 1)} with {t:,} token{'s' * (t != 1)} of {kind}"
        few = f"{held} {'is' if d == 1 else 'are'} too few; give {least_documents} with {least_tokens:,}"
        notes.append("" if enough else few)
    return notes


class Documents:
    """Documents of several kinds, batched once.

    kinds; kind_of: (documents,) index into kinds.  tokens: (documents,) how many are counted: neither the first of a
    document, which nothing predicts, nor special ones.  batches: (which documents, (batch, width) bool what is counted).
    most: stop taking documents, one of each kind in turn, before more than so many tokens are counted; None takes all.
    longest: take no more than so many tokens of a document, its first; so that the same number of tokens is of more documents.
    """

    def __init__(self, lab: LabLike, texts: object, *, most: int | None = None, longest: int | None = None) -> None:
        import torch

        check_predicts(lab.anatomy.causal, lab.name)
        texts = as_kinds(texts)
        self.ids, self.kind_of, self.cut = documents_of(lab, texts)
        self.kinds = tuple(texts)
        self.ids = [ids[:longest] for ids in self.ids]
        special = np.array(sorted(set(getattr(lab.tokenizer, "all_special_ids", None) or ())), dtype=np.int64)
        counted = [~np.isin(ids, special) & (np.arange(len(ids)) > 0) for ids in self.ids]
        self.tokens = np.array([int(mask.sum()) for mask in counted])
        if most is not None:
            chosen = self._in_turn(most)
            self.ids, counted = [self.ids[d] for d in chosen], [counted[d] for d in chosen]
            self.kind_of, self.tokens = self.kind_of[chosen], self.tokens[chosen]
        if not self.tokens.any():
            raise BadInput("These documents have no token with a loss; give longer ones.")
        self.batches: list[tuple[list[int], torch.Tensor]] = []
        for group in running.groups(lab.model, [len(ids) for ids in self.ids]):
            wanted = np.zeros((len(group), max(len(self.ids[d]) for d in group)), bool)
            for row, d in enumerate(group):
                wanted[row, : len(counted[d])] = counted[d]
            self.batches.append((group, torch.from_numpy(wanted).to(lab.device)))

    def _in_turn(self, most: int) -> list[int]:
        """Documents, the first of each kind, then the second, ..., until `most` tokens are reached; one at least."""
        place = [int((self.kind_of[:d] == kind).sum()) for d, kind in enumerate(self.kind_of)]
        order = sorted(range(len(place)), key=lambda d: (place[d], d))
        inside = np.cumsum(self.tokens[order]) <= most
        return sorted(order[: max(1, int(inside.argmin()) if not inside.all() else len(order))])

    @property
    def tokens_of_kind(self) -> np.ndarray:
        return np.bincount(self.kind_of, weights=self.tokens, minlength=len(self.kinds)).astype(np.int64)

    @property
    def documents_of_kind(self) -> np.ndarray:
        """How many documents of each kind have a counted token."""
        return np.bincount(self.kind_of[self.tokens > 0], minlength=len(self.kinds))

    def run(
        self, lab: LabLike, number: int, entering: Entering | None = None, *, logits: running.Logits = "all"
    ) -> running.Output:
        """One pass over the documents of a batch. entering: what enters a layer; the layers before it are then not run."""
        if entering is not None:
            entering.number = number
        return running.forward(lab.model, [self.ids[d].tolist() for d in self.batches[number][0]], logits=logits)

    def some(self, numbers: Sequence[int]) -> Documents:
        """The same documents, of whose batches only some are run."""
        part = copy.copy(self)
        part.batches = [self.batches[number] for number in numbers]
        return part

    def losses(self, lab: LabLike, entering: Entering | None = None) -> np.ndarray:
        """(documents,) float64: nats summed over each document's counted tokens, as the model computes them now."""
        found = np.zeros(len(self.ids))
        with entering or contextlib.nullcontext():
            for number, (group, wanted) in enumerate(self.batches):
                output = self.run(lab, number, entering)
                found[group] = _summed(output.all_logits, output.ids, wanted)
        return found

    def names(self, numbers: Sequence[int]) -> list[str]:
        """Documents by their kind and their place in it, from 0: "prose 3"."""
        return [f"{self.kinds[self.kind_of[d]]} {int((self.kind_of[:d] == self.kind_of[d]).sum())}" for d in numbers]

    def also_in(self, lab: LabLike, texts: object) -> list[str]:
        """The names of those of these documents whose text stands in other texts as well, whole or in large part."""
        return self.names(Seen.of(lab, texts).among(lab, self.ids))

    def drawn(self, draws: int, seed: int) -> np.ndarray:
        """(draws, documents): how often each document is in a sample, drawn within its kind.

        Where a kind has a single document, drawing within kinds would always give the same: then all are drawn as one kind.
        """
        alone = np.bincount(self.kind_of).min() < 2
        kind_of = np.zeros_like(self.kind_of) if alone else self.kind_of
        return resampled(kind_of, draws, np.random.default_rng(seed))

    def notes(self, least_documents: int, least_tokens: int) -> list[str]:
        """For each kind "" or why nothing is said of it."""
        return few_notes(self.kinds, self.documents_of_kind, self.tokens_of_kind, least_documents, least_tokens)

    def means(
        self, sums: np.ndarray, notes: Sequence[str], draws: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, kinds) each: the mean a token of each kind, and where 95 % of resamplings of its documents lie.

        sums: (rows, documents).  notes: of each kind; NaN where there is one.
        """
        mean, samples = self.samples(sums, notes, draws, seed)
        return mean, *interval(samples, 1)

    def samples(self, sums: np.ndarray, notes: Sequence[str], draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The means (rows, kinds), and those of `draws` resamplings (rows, draws, kinds). See `means`."""
        rng = np.random.default_rng(seed)
        mean = np.full((len(sums), len(self.kinds)), np.nan)
        samples = np.full((len(sums), draws, len(self.kinds)), np.nan)
        for kind, note in enumerate(notes):
            if note:
                continue
            members = np.flatnonzero((self.kind_of == kind) & (self.tokens > 0))
            weights = resampled(np.zeros(len(members), np.int64), draws, rng)
            mean[:, kind] = sums[:, members].sum(1) / self.tokens[members].sum()
            samples[:, :, kind] = sums[:, members] @ weights.T / (weights @ self.tokens[members])
        return mean, samples

    def baseline(self, sums: np.ndarray) -> dict[str, float]:
        """Mean loss of each kind, nats a token."""
        total = np.bincount(self.kind_of, weights=sums, minlength=len(self.kinds))
        with np.errstate(invalid="ignore", divide="ignore"):
            return dict(zip(self.kinds, (total / self.tokens_of_kind).tolist(), strict=True))


def _summed(logits: torch.Tensor, ids: torch.Tensor, wanted: torch.Tensor) -> np.ndarray:
    """(batch,) float64: nats of the wanted tokens, each predicted from the tokens before it."""
    from torch.nn.functional import cross_entropy

    nats = cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return np.asarray((nats.view(ids.shape[0], -1).double() * wanted[:, 1:]).sum(1).cpu().numpy())
