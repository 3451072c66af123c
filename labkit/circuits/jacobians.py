"""The Jacobian of the last residual stream by each layer's, averaged over a text's positions: what a Jacobian lens is made of.

The estimator is that of the published lenses (Gurnee et al. 2026; anthropics/jacobian-lens). With V the positions of a text
but for its first SKIPPED and its last, and h_l what leaves layer l,

    J_l = mean over t in V of the sum over t' in V, t' >= t, of  d h_last[t'] / d h_l[t].

Later positions are summed and not averaged: J_l h is what a state adds to all that is still to be said. One pass backward
from one number of h_last, put at all of V at once, gives a row of every J_l.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from labkit.circuits.gradients import check_weights
from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.along import exact
from labkit.trace.capture import observing

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

SKIPPED = 16  # positions at the beginning of a text, where a model parks attention
LENGTH = 128  # tokens of a text, at most
LEAST = SKIPPED + 2  # of which one is left, between the first and the last


class Stopped(Exception):
    """The work was told to end."""


def check_differentiable(lab: LabLike) -> None:
    """Raise Unavailable for a model whose residual stream can't be followed to its end."""
    if reason := lab.anatomy.support.get("residual"):
        raise Unavailable(f"A lens reads the residual stream, and that of {lab.name} can't be had: {reason}.")
    if not lab.anatomy.causal:
        raise Unavailable(
            f"{lab.name} looks at later tokens too, so a state acts on earlier ones and is not read for what comes next; "
            'fit a lens on a causal model, or ask what its states hold with lk.circuits.probe(lab, texts, labels, at="residual").'
        )
    check_weights(lab.model)
    if running.virtual_tokens(lab.model):
        raise Unavailable(
            f"{lab.name} has trained vectors before its texts (prompt tuning); fit the lens on the model without them: "
            "lk.Lab(model.get_base_model(), tokenizer)."
        )
    if len(lab.anatomy.layers) < 2:
        raise Unavailable(f"{lab.name} has a single layer, after which nothing is left to be skipped over by a lens.")


def text_jacobians(
    lab: LabLike,
    ids: Sequence[int],
    *,
    rows: Sequence[int] | None = None,
    together: int | None = None,
    stop: threading.Event | None = None,
) -> torch.Tensor:
    """(layers − 1, rows, d_model) on the CPU, float32, or float64 of such a model: J_0, J_1, ... of one text.

    [l, i, j] is the last's number i by l's j.
    ids: at least LEAST tokens; all are read.  rows: which of the d_model rows; None for all.  together: how many of them
    share a pass, each on a copy of the text; None for as many as the device gains from.  stop: ends it with Stopped.
    The derivatives are computed in the model's own dtype. The caller has the lab's turn.
    """
    if len(ids) < LEAST:
        raise BadInput(f"This text has {len(ids)} tokens, and a Jacobian is averaged over texts of {LEAST} and more.")
    width = int(lab.config.hidden_size)
    wanted = list(range(width) if rows is None else rows)
    size = running.copies(lab.model, len(ids), len(wanted), most=together)
    inside = slice(SKIPPED, len(ids) - 1)
    # torch's fused attention takes as long backward on a CPU, for texts so short, as all the rest of the model together
    plain = sdpa_kernel(SDPBackend.MATH) if lab.device.type == "cpu" else contextlib.nullcontext()
    with plain, observing(lab.model, lab.anatomy, ("residual",), gradients=True) as captured:
        running.forward(lab.model, [list(ids)] * size, logits="none", grad=True)
    live = captured.live["residual"]
    last, before = live[len(lab.anatomy.layers)], [live[i] for i in range(1, len(lab.anatomy.layers))]
    found = torch.empty(len(before), len(wanted), width, dtype=exact(last).dtype)
    for start in range(0, len(wanted), size):
        if stop is not None and stop.is_set():
            raise Stopped
        some = wanted[start : start + size]
        ends = torch.zeros_like(last)
        for copy, row in enumerate(some):
            ends[copy, inside, row] = 1.0
        more = start + size < len(wanted)
        for layer, gradient in enumerate(torch.autograd.grad(last, before, ends, retain_graph=more)):
            found[layer, start : start + len(some)] = exact(gradient[: len(some), inside]).mean(1)
    if not bool(found.isfinite().all()):
        raise Unavailable(
            f"A Jacobian of {lab.name} holds NaN or infinity, which would spoil the average: a weight is NaN, or the dtype too "
            "narrow; load the model in float32."
        )
    return found
