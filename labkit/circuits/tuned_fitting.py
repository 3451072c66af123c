"""Training a tuned lens: at every layer an affine map whose reading comes as near as it can to what the model will predict."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from labkit import checks
from labkit.circuits.jacobians import LENGTH, check_differentiable
from labkit.circuits.repeats import without_repeats
from labkit.circuits.tuned_lens import TunedLens
from labkit.errors import BadInput
from labkit.quantization.bases import base_of
from labkit.trace import running
from labkit.trace.along import exact
from labkit.trace.input import as_ids, as_kinds
from labkit.trace.lab_like import check_lab
from labkit.trace.lens import Ending, ending_of

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import TracingLab

LEAST_TEXTS = 8  # of which a quarter is held out
LEAST = 4  # tokens of a text, of which the first is left out: many models use it as an attention sink
HELD_OUT = 0.25


def fit_tuned_lens(
    lab: TracingLab,
    texts: object,
    *,
    steps: int = 200,
    tokens: int = 32,
    learning_rate: float = 1e-3,
    length: int = LENGTH,
    seed: int = 0,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> TunedLens:
    """Train a tuned lens: softmax(W_U · norm(A_l h + b_l)) for each layer l, to the least KL from the model's own prediction.

    texts: a list of texts, or texts by kind; eight different ones at least and better hundreds. A quarter is held out for
    `.quality`.
    steps: of Adam, whose rate falls to nothing; each reads `tokens` positions of one text, at all layers.  length: tokens
    of a text, its first.
    stop: an event that ends it; an interrupt ends it too. What was trained until then is kept.
    A_l begins as the identity, b_l at 0: the logit lens. Belrose et al. 2023 train on millions of tokens; so short a training as
    this one comes part of the way, and `.quality` says how far. Costs a pass and, for each layer, the unembedding of the
    positions forward and backward, a step; with 32 positions one to two minutes for 20 steps of the default model on one
    CPU core. Returns a `TunedLens` for `lk.lens(lab, trace, kind="tuned", lens=...)`. Raises BadInput for too few texts,
    Unavailable for a model whose residual stream can't be followed or that looks both ways.
    """
    check_lab(lab)
    steps, tokens = checks.whole("steps", steps, 1), checks.whole("tokens", tokens, 1)
    rate, length = checks.number("learning_rate", learning_rate, above=0), checks.whole("length", length, LEAST)
    rng = np.random.default_rng(checks.seed(seed))
    given = [text for some in as_kinds(texts).values() for text in some]
    rows = [
        as_ids(lab.tokenizer, text, chat=False, context=None)[: min(length, lab.context or length)] for text in given
    ]
    once, notes = without_repeats(rows)
    long = [rows[place] for place in once if len(rows[place]) >= LEAST]
    if len(long) < LEAST_TEXTS:
        raise BadInput(
            f"{len(long)} different texts of {LEAST} tokens or more are too few to train on some and judge by others; give "
            f"{LEAST_TEXTS} at least, and better hundreds."
        )
    check_differentiable(lab)
    held, learnt = np.split(rng.permutation(len(long)), [round(HELD_OUT * len(long))])
    training = _Training.of(lab, rate, steps)
    done, prior = 0, torch.zeros(0)
    with running.Progress("training a tuned lens", steps, "step", progress) as bar:
        order = [learnt[n] for _ in range(-(-steps // len(learnt))) for n in rng.permutation(len(learnt))][:steps]
        for number in order:
            if stop is not None and stop.is_set():
                break
            states, likely, ending = _seen(lab, long[number], tokens, rng)
            training.step(states, likely, ending)
            prior = likely.sum(0) if not len(prior) else prior + likely.sum(0)
            done += 1
            bar.advance()
    if not done:
        raise BadInput("The training was ended before its first step; nothing was learnt.")
    if done < steps:
        notes = (*notes, f"the training was ended after {done} of {steps} steps")
    quality = _quality(lab, [long[number] for number in held], training, prior / prior.sum(), tokens, rng)
    layers = range(len(training.maps))
    return TunedLens(
        jacobians={layer: training.maps[layer].detach().cpu() for layer in layers},
        prompts=min(done, len(learnt)),
        model=lab.name,
        layers=len(training.maps),
        notes=notes,
        base=base_of(lab),
        biases={layer: training.biases[layer].detach().cpu() for layer in layers},
        quality=quality,
    )


def _seen(
    lab: TracingLab, ids: list[int], tokens: int, rng: np.random.Generator
) -> tuple[list[Tensor], Tensor, Ending]:
    """Of some positions of a text: the states entering each layer, (n, d_model), and the model's prediction, (n, vocabulary)."""
    trace = lab.trace(ids, keep=("residual", "logits"))
    there = np.sort(rng.choice(np.arange(1, len(ids)), min(tokens, len(ids) - 1), replace=False))
    with torch.inference_mode(False):  # of the caller's, under which nothing could be learnt from
        states = [exact(trace.residual(layer)[there]).clone() for layer in range(trace.layers)]
        likely = exact(trace.logits[there]).softmax(-1)
    return states, likely, ending_of(lab, trace, ("residual", "logits"))


@dataclass
class _Training:
    """By layer an affine map under training, each by itself."""

    maps: list[Tensor]
    biases: list[Tensor]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @staticmethod
    def of(lab: TracingLab, rate: float, steps: int) -> _Training:
        width, count = int(lab.config.hidden_size), len(lab.anatomy.layers)
        dtype = torch.float64 if lab.dtype is torch.float64 else torch.float32
        with torch.inference_mode(False):
            maps = [torch.eye(width, dtype=dtype, device=lab.device).requires_grad_() for _ in range(count)]
            biases = [torch.zeros(width, dtype=dtype, device=lab.device).requires_grad_() for _ in range(count)]
        optimizer = torch.optim.Adam([*maps, *biases], lr=rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        return _Training(maps, biases, optimizer, schedule)

    def read(self, state: Tensor, layer: int, ending: Ending) -> Tensor:
        """(n, vocabulary) log-probabilities."""
        matrix, bias = self.maps[layer], self.biases[layer]
        return exact(ending.logits(state.to(matrix) @ matrix.T + bias, grad=torch.is_grad_enabled())).log_softmax(-1)

    def step(self, states: list[Tensor], likely: Tensor, ending: Ending) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            for layer, state in enumerate(states):
                found = self.read(state.clone(), layer, ending)
                loss = _kl(likely.to(found), found).mean()
                parameters = [self.maps[layer], self.biases[layer]]
                for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    parameter.grad = slope
            self.optimizer.step()
            self.schedule.step()


def _kl(likely: Tensor, logs: Tensor) -> Tensor:
    """(n,) nats."""
    own = torch.special.entr(likely).sum(-1)
    found: Tensor = -(likely * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(-1) - own
    return found


@torch.no_grad()
def _quality(
    lab: TracingLab, texts: list[list[int]], training: _Training, prior: Tensor, tokens: int, rng: np.random.Generator
) -> pd.DataFrame:
    """See `TunedLens.quality`."""
    import pandas as pd

    count = len(training.maps)
    others = np.roll(np.arange(count), max(1, count // 2))  # each layer with the map of another
    sums = np.zeros((count, 4))
    positions = 0
    for ids in texts:
        states, likely, ending = _seen(lab, ids, tokens, rng)
        for layer, state in enumerate(states):
            readings = (
                training.read(state, layer, ending),
                exact(ending.logits(state.to(ending.dtype))).log_softmax(-1),
                training.read(state, int(others[layer]), ending),
                prior.to(likely).clamp_min(1e-30).log().expand_as(likely),
            )
            sums[layer] += [float(_kl(likely.to(logs), logs).sum()) for logs in readings]
        positions += len(likely)
    frame = pd.DataFrame(sums / positions, columns=["kl", "logit", "other_layer", "constant"])
    frame.insert(0, "layer", range(count))
    return frame
