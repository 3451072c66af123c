"""Fitting a Jacobian lens on any lab."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.circuits.jacobian_lens import JacobianLens
from labkit.circuits.jacobians import LEAST, LENGTH, Stopped, check_differentiable, text_jacobians
from labkit.circuits.repeats import without_repeats
from labkit.errors import BadInput
from labkit.quantization.bases import Base, base_of
from labkit.trace import running
from labkit.trace.input import as_ids, as_kinds
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

LEAST_TEXTS = 4  # of which half says something of the other


def fit_lens(
    lab: LabLike,
    texts: object,
    *,
    length: int = LENGTH,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> JacobianLens:
    """Fit a Jacobian lens: a forward pass for each text, and d_model backward.

    texts: a list of texts, or texts by kind, each counted alike; about 100 of 128 tokens make a lens that is used, published
        ones are of 1,000.  length: tokens of a text, its first; the rest is left out.
    stop: an event that ends it; an interrupt ends it too. What was done until then is kept.
    Takes d_model backward passes of `length` tokens a text: for the default model one to three minutes of one CPU core.
    Load the model in float32; bfloat16 takes half the time, and its rounding is far below the difference between texts.
    Returns a `JacobianLens`, with the agreement of its halves. Texts with fewer than 18 tokens, whose first 16 and last are
    not counted, are left out, and those of the same first tokens count once, which its notes say. Raises BadInput where
    under 4 texts are left, Unavailable for a model whose residual stream can't be followed or that looks both ways.
    """
    check_lab(lab)
    length = checks.whole("length", length, LEAST)
    kinds = as_kinds(texts)
    given = [text for some in kinds.values() for text in some]
    rows = [
        as_ids(lab.tokenizer, text, chat=False, context=None)[: min(length, lab.context or length)] for text in given
    ]
    once, repeated = without_repeats(rows)
    rows = [rows[number] for number in once]
    long = [row for row in rows if len(row) >= LEAST]
    if len(long) < LEAST_TEXTS:
        were = f"{len(rows)} text{'s' * (len(rows) != 1)}"
        raise BadInput(
            f"A lens is an average over texts, and {were if len(long) == len(rows) else f'{len(long)} of {were}'} with "
            f"{LEAST} tokens or more {'is' if len(long) == 1 else 'are'} too few; give {LEAST_TEXTS} at least, and better 100."
        )
    check_differentiable(lab)
    sums: list[torch.Tensor] = []  # of the texts at even and at odd places
    done = 0
    with running.Progress("fitting a lens", len(long), "text", progress) as bar, lab.turn():
        for row in long:
            try:
                found = text_jacobians(lab, row, stop=stop)
            except Stopped:
                break
            if not sums:
                sums = [torch.zeros_like(found), torch.zeros_like(found)]
            sums[done % 2] += found
            done += 1
            bar.advance()
    notes = list(repeated)
    if left := len(rows) - len(long):
        notes.append(
            f"{left} text{'s' * (left != 1)} of under {LEAST} tokens {'was' if left == 1 else 'were'} left out"
        )
    if done < len(long):
        if done < LEAST_TEXTS:
            raise BadInput(f"The fit was ended after {done} of {len(long)} texts, which are too few to average over.")
        notes.append(f"the fit was ended after {done} of {len(long)} texts")
    return lens_of_sums(sums[0], sums[1], done, lab.name, tuple(notes), base_of(lab))


def lens_of_sums(
    even: torch.Tensor,
    odd: torch.Tensor,
    done: int,
    model: str,
    notes: tuple[str, ...] = (),
    base: Base | None = None,
) -> JacobianLens:
    """A lens from (layers − 1, d_model, d_model) sums over the texts at even and at odd places, `done` texts in all."""
    mean = (even + odd) / done
    off = ~torch.eye(mean.shape[-1], dtype=torch.bool)  # the diagonal, near 1 in all late layers, would agree by itself
    halves = [torch.corrcoef(torch.stack([a[off], b[off]]))[0, 1] for a, b in zip(even, odd, strict=True)]
    agreement = {layer: float(value) for layer, value in enumerate(halves, 1)}
    return JacobianLens(dict(enumerate(mean, 1)), done, model, len(mean) + 1, agreement, notes, base)
