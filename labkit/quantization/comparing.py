"""Two models token by token: what each gives for the next one, compared as the logits pass, none of which is kept.

Both models run the same batch one after the other. Their logits are reduced at once, a few rows at a time and in float64,
to a handful of numbers a token. So the memory taken is that of two batches' logits, whatever the length of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from labkit.errors import BadInput, Unavailable
from labkit.trace.documents import Documents
from labkit.trace.lab_like import LabLike

CHUNK = 2**17  # elements of logits that are compared at once: what stays in a processor's cache
LARGEST = 30.0  # nats; where logits differ by more, exponentials of float32 may overflow

Run = Callable[[int], torch.Tensor]  # the number of a batch -> its logits, (batch, width, vocabulary)


class Batched(Protocol):
    """Texts in batches: their ids, and for each batch which texts it has and (batch, width) bool what of them is counted."""

    @property
    def ids(self) -> Sequence[np.ndarray]: ...
    @property
    def batches(self) -> Sequence[tuple[list[int], torch.Tensor]]: ...


@dataclass(frozen=True, eq=False)
class TokenDamage:
    """A model beside the original, a value for each counted token.

    document, position: (N,) int64, which document and where in it the predicted token is.
    original_loss, loss: (N,) float64, nats.  kl: (N,) float64, KL(original || model), nats, never below 0.
    same: (N,) bool, both find the same token most probable.  right: (N,) float64, change of the right token's probability.
    """

    document: np.ndarray
    position: np.ndarray
    original_loss: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    same: np.ndarray
    right: np.ndarray


def compare(
    documents: Batched, original: Run, others: Sequence[Run], advance: Callable[[], object] = lambda: None
) -> list[TokenDamage]:
    """Each of the others beside the original, which runs once for all of them. advance: called after each pass."""
    parts: list[list[np.ndarray]] = [[] for _ in others]
    places: list[np.ndarray] = []
    for number, (group, wanted) in enumerate(documents.batches):
        row, column = wanted[:, 1:].nonzero(as_tuple=True)
        places.append(np.stack([np.array(group)[row.cpu().numpy()], column.cpu().numpy() + 1]))
        ids = _padded(documents, group, wanted.shape[1])[row.cpu(), column.cpu() + 1]
        reference = original(number)
        advance()
        for run, found in zip(others, parts, strict=True):
            found.append(_compared(reference, run(number), row, column, ids))
            advance()
    document, position = np.concatenate(places, axis=1)
    order = np.lexsort((position, document))
    compared = []
    for found in parts:
        first, second, kl, same, right = np.concatenate(found, axis=1)[:, order]
        compared.append(TokenDamage(document[order], position[order], first, second, kl, same.astype(bool), right))
    return compared


def logits_of(documents: Documents, lab: LabLike) -> Run:
    """A lab's logits, batch by batch. The lab's turn is taken for each."""

    def run(number: int) -> torch.Tensor:
        with lab.turn():
            return documents.run(lab, number).all_logits

    return run


def check_same_tokens(original: LabLike, other: LabLike) -> None:
    """Raise BadInput where two labs do not mean the same by a token's number."""
    if odd := different_tokens(original, other):
        raise BadInput(
            f"{other.name} and {original.name} have different vocabularies ({odd:,} entries differ), so their predictions "
            "can't be compared token by token; give the original that the quantized model was made of."
        )


def different_tokens(original: LabLike, other: LabLike) -> int:
    """How many entries of two labs' vocabularies differ; 0 where a token's number means the same to both."""
    if other.tokenizer is original.tokenizer:
        return 0
    ours: dict[str, int] = getattr(original.tokenizer, "get_vocab", dict)()
    theirs: dict[str, int] = getattr(other.tokenizer, "get_vocab", dict)()
    return len(set(ours.items()) ^ set(theirs.items())) if ours != theirs else 0


def _padded(documents: Batched, group: Sequence[int], width: int) -> torch.Tensor:
    ids = torch.zeros((len(group), width), dtype=torch.long)
    for row, d in enumerate(group):
        ids[row, : len(documents.ids[d])] = torch.from_numpy(documents.ids[d])
    return ids


def _chunks(count: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK // vocabulary)
    return (slice(start, start + size) for start in range(0, count, size))


def _compared(
    original: torch.Tensor, other: torch.Tensor, row: torch.Tensor, column: torch.Tensor, ids: torch.Tensor
) -> np.ndarray:
    """(5, tokens) float64: the losses of both, KL, whether the first choice is the same, change of the right one's share."""
    if original.shape != other.shape:
        raise BadInput(
            f"The models have {original.shape[-1]:,} and {other.shape[-1]:,} logits for each token, so they can't be "
            "compared; give the original that the quantized model was made of."
        )
    found = np.empty((5, len(ids)))
    for part in _chunks(len(ids), original.shape[-1]):
        ours, theirs = _at(original, row[part], column[part]), _at(other, row[part], column[part])
        same = ours.argmax(-1).cpu() == theirs.argmax(-1).cpu()
        first, second = (_double(logits).log_softmax(-1) for logits in (ours, theirs))
        if bool(second.isnan().any()) or bool(first.isnan().any()):
            raise Unavailable("One of the models computes NaN, so nothing can be said of it; look at its weights.")
        second = second.to(first.device)
        right = ids[part, None].to(first.device)
        losses = [-logs.gather(-1, right).squeeze(-1) for logs in (first, second)]
        kl = _kl(first, second)
        change = losses[1].neg().exp() - losses[0].neg().exp()
        found[:, part] = np.stack([*(x.cpu().numpy() for x in (*losses, kl)), same.numpy(), change.cpu().numpy()])
    return found


def _at(logits: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = logits[row.to(logits.device), column.to(logits.device)]
    return found


def _double(logits: torch.Tensor) -> torch.Tensor:
    """float64, on the CPU where the device has none."""
    return (logits.cpu() if logits.device.type == "mps" else logits).double()


def divergence(original: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """(tokens,) float64: KL of two tensors of logits, (tokens, vocabulary)."""
    return np.asarray(_kl(*(_double(logits).log_softmax(-1) for logits in (original, other))).cpu().numpy())


def _kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(tokens,): KL of log-probabilities in float64. A token that the first gives no chance counts nothing."""
    terms = torch.where(first == -torch.inf, 0.0, first.exp() * (first - second))
    return terms.sum(-1).clamp(min=0.0)  # rounding alone can make it negative


class Reference:
    """The original's logits of one batch, against which many changed ones are held.

    Quicker than `compare`, since the original's probabilities are computed once: KL = log Σ p · exp(d), d the change of the
    logits less its mean under p. That is log(1 + Σ p · (exp(d) − 1 − d)), whose terms are all at least 0, so that float32 is
    enough for a KL of 1e-8; rows with changes too large for that are computed in float64.
    """

    def __init__(self, documents: Documents, number: int, logits: torch.Tensor) -> None:
        self.group, wanted = documents.batches[number]
        self.row, self.column = wanted[:, 1:].nonzero(as_tuple=True)
        self.logits = logits[self.row, self.column].float()
        self.p = self.logits.softmax(-1)
        self.documents = len(documents.ids)

    def kl(self, logits: torch.Tensor) -> np.ndarray:
        """(documents,) float64: KL summed over the counted tokens of each document of the batch, 0 for the others."""
        per_token = np.empty(len(self.row))
        for part in _chunks(len(self.row), logits.shape[-1]):
            theirs = logits[self.row[part], self.column[part]].float()
            ours, p = self.logits[part], self.p[part]
            change = theirs - ours
            change -= (p * change).sum(-1, keepdim=True)
            large = ~(change.amax(-1) < LARGEST)  # NaN too, of logits of minus infinity
            found = torch.log1p((p * (torch.expm1(change) - change)).sum(-1)).double()
            if bool(large.any()):
                found[large] = _kl(*(_double(x[large]).log_softmax(-1) for x in (ours, theirs))).to(found.device)
            per_token[part] = found.cpu().numpy()
        document = np.array(self.group)[self.row.cpu().numpy()]
        return np.bincount(document, weights=per_token, minlength=self.documents)
