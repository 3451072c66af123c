"""What the routes view draws of a trace: choices in order of weight, loads, what chance gives, router probabilities."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.errors import BadInput
from labkit.views.kit.arrays import numbers
from labkit.views.kit.codes import quantize
from labkit.views.kit.running_text import Pieces, is_markup, joined, split

if TYPE_CHECKING:
    from labkit.trace.record import Trace

MOST_TOKENS = 2_048  # drawn; a browser's canvas has a widest side, and nobody reads further in a picture
MOST_BYTES = 2_000_000  # of experts and weights of one trace
COVERED = 0.95
_LOOKED_AT = 64  # tokens, to tell which function turns router logits into weights
_SAME = 1e-3


@dataclass(frozen=True)
class Drawn:
    """The routes of one trace of T tokens, its first n drawn: L routed layers, E experts, k chosen.

    pieces: the n tokens as running text.
    experts: (L, n, k), the largest weight first.  weights: (L, n, k) codes of weight / top.  top: the largest weight.
    load: (L, E) choices by expert, over all counted tokens of T.  counted: how many tokens these are.
    band: shares of the choices between which a uniform random choice leaves an expert in 95 % of cases, or None.
    special: those of the n tokens that are not counted.
    """

    tokens: int
    k: int
    pieces: Pieces
    experts: np.ndarray
    weights: np.ndarray
    top: float
    load: np.ndarray
    counted: int
    band: tuple[float, float] | None
    special: list[int]


def drawn(trace: Trace, special: Collection[int] | None = None) -> Drawn:
    """special: token ids that are drawn but not counted; None: the trace's own. Raises Unavailable without routes."""
    routes = trace.routes
    experts, weights = choices_of(trace)
    tokens, layers, k = experts.shape
    n_experts = routes.logits.shape[-1]
    kind = np.dtype(np.uint8 if n_experts <= 1 << 8 else "<u2")
    n = max(1, min(tokens, MOST_TOKENS, MOST_BYTES // (layers * k * (kind.itemsize + 1))))
    counted = ~np.isin(np.asarray(trace.ids), list(trace.special if special is None else special))
    load = np.stack([np.bincount(experts[counted, i].ravel(), minlength=n_experts) for i in range(layers)])
    finite = weights[np.isfinite(weights)]
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return Drawn(
        tokens=tokens,
        k=k,
        pieces=split(trace.tokens[:n]),
        experts=np.ascontiguousarray(experts[:n].swapaxes(0, 1), kind),
        weights=quantize(np.ascontiguousarray(weights[:n].swapaxes(0, 1)) / top),
        top=top,
        load=load,
        counted=int(counted.sum()),
        band=chance(int(counted.sum()), k, n_experts),
        special=np.flatnonzero(~counted[:n]).tolist(),
    )


def by_weight(experts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, L, k) experts and weights, each token's largest weight first: not every router hands them over in order."""
    order = np.argsort(-weights, axis=-1, kind="stable")
    return np.take_along_axis(experts, order, -1), np.take_along_axis(weights, order, -1)


def choices_of(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """(T, L, k) experts and weights of a trace, each token's largest weight first."""
    return by_weight(numbers(trace.routes.experts), numbers(trace.routes.weights.float()))


def chance(tokens: int, k: int, experts: int) -> tuple[float, float] | None:
    """Between which shares of the choices an expert lies in 95 % of cases when each token chooses k of E at random.

    An expert is then among a token's k with probability k / E: its number of tokens is binomial, and the two ends are
    that distribution's 2.5 % and 97.5 % quantiles over tokens · k. None where there is no token.
    """
    if tokens < 1:
        return None
    from scipy.special import bdtr

    below = bdtr(np.arange(tokens + 1.0), tokens, k / experts)
    tail = (1 - COVERED) / 2
    low, high = np.searchsorted(below, [tail, 1 - tail])
    return float(low / (tokens * k)), float(high / (tokens * k))


def router(trace: Trace) -> tuple[str, bool]:
    """Which function makes probabilities of a router's logits, and whether the choice follows them alone.

    "softmax" or "sigmoid", or "given" where the logits are probabilities already: the one to which the weights of the
    chosen experts are in proportion, or with one expert a token, are equal. The choice does not follow them alone where
    a balancing bias or groups of experts have a say (DeepSeek-AI 2024).
    """
    routes = trace.routes
    logits = numbers(routes.logits[:_LOOKED_AT]).astype(np.float64)
    experts = numbers(routes.experts[:_LOOKED_AT])
    weights = numbers(routes.weights[:_LOOKED_AT]).astype(np.float64)
    off = {}
    candidates = ["softmax", "sigmoid"]
    if np.nanmin(logits, initial=0) >= 0 and np.allclose(np.nansum(logits, -1), 1, atol=_SAME):
        candidates.append("given")
    for name in candidates:
        chosen = np.take_along_axis(as_probabilities(logits, name), experts, -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(weights / chosen)
        spread = ratio - ratio.mean(-1, keepdims=True) if experts.shape[-1] > 1 else ratio
        spread = np.abs(spread[np.isfinite(spread)])
        off[name] = float(spread.mean()) if spread.size else np.inf
    best = min(off, key=lambda name: off[name] + (0 if name == "softmax" else _SAME))
    kth = -np.sort(-logits, axis=-1)[..., experts.shape[-1] - 1 : experts.shape[-1]]
    with np.errstate(invalid="ignore"):
        alone = not (np.take_along_axis(logits, experts, -1) < kth).any()
    return best, alone


def as_probabilities(logits: np.ndarray, router: str) -> np.ndarray:
    """Router probabilities of logits (..., E), in their own precision."""
    from scipy.special import expit, softmax

    if router == "given":
        return logits
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(expit(logits) if router == "sigmoid" else softmax(logits, axis=-1))


def read_token(trace: Trace, layer: int, token: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(E,) router probabilities and (k,) weights, largest first, float32. layer: its place among the routed ones."""
    routes = trace.routes
    probabilities = as_probabilities(numbers(routes.logits[token, layer]).astype(np.float64), kind)
    weights = numbers(routes.weights[token, layer]).astype(np.float32)
    return probabilities.astype(np.float32), -np.sort(-weights, kind="stable")


def probability_codes(trace: Trace, tokens: int, kind: str) -> np.ndarray:
    """(tokens, L, E) codes of the first tokens' router probabilities, for a file: (code / 254)², to two digits."""
    return quantize(as_probabilities(numbers(trace.routes.logits[:tokens]), kind))


def changed(one: Trace, other: Trace) -> tuple[list[int], list[int]]:
    """By layer, of two traces of the same ids: tokens that choose another set of experts, and those of them that have
    another first one. Where one trace chooses fewer, another set is one that is not within the larger."""
    a, b = choices_of(one)[0], choices_of(other)[0]
    fewer, more = sorted((a, b), key=lambda experts: experts.shape[-1])
    sets = ~(fewer[..., None] == more[..., None, :]).any(-1).all(-1)
    return sets.sum(0).tolist(), (sets & (a[..., 0] != b[..., 0])).sum(0).tolist()


def shape(trace: Trace) -> tuple[tuple[int, ...], int]:
    """Routed layers, and experts in each."""
    routes = trace.routes
    return tuple(routes.layers), int(routes.logits.shape[-1])


def check(trace: Any) -> None:
    """Raises BadInput or Unavailable for what has no routes to show."""
    if isinstance(trace, list | tuple):
        raise BadInput(
            "lk.views.routes shows one trace, and this is a list of them; give one, e.g. traces[0], "
            "or two: lk.views.routes(traces[0], traces[1])."
        )
    if not hasattr(trace, "routes") or not hasattr(trace, "tokens"):  # a Trace without them says itself why
        raise BadInput(
            f'lk.views.routes shows a trace, not a {type(trace).__name__}; take one with lab.trace(text, keep="routes").'
        )
    if not trace.tokens or not trace.routes.layers:
        raise BadInput("This trace has no tokens or no routed layer to show; trace a text of at least one token.")
    if len(set(chosen := trace.routes.chosen)) > 1:
        raise BadInput(
            f"The layers of this trace choose different numbers of experts, from {min(chosen)} to {max(chosen)}, and "
            "lk.views.routes draws one number; have all layers choose as many, such as with lk.moe.choose(2)."
        )


def text_of(trace: Trace, special: Collection[int] | None = None) -> str:
    """The text a trace was taken of as somebody would have typed it: without its special tokens, and these."""
    left_out = {*trace.special, *(special or ())}
    kept = [token for token, id_ in zip(trace.tokens, trace.ids, strict=True) if id_ not in left_out]
    # a start token that nobody said is special would be typed as text, and come twice
    start = trace.ids[0] not in left_out and is_markup(trace.tokens[0])
    return joined(kept[1:] if start else kept)
