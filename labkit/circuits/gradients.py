"""Gradients of a metric by activations: at the corrupted text, or on average on the way from it to the clean one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from labkit.circuits.contrasts import Both, Contrast, Tensors, kept_by, row_of
from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.capture import observing
from labkit.trace.edits import Site, installed
from labkit.trace.pairs import Metric, scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.anatomy import Anatomy
    from labkit.trace.passes import TokenAxis

FINITE = "choose a metric that is finite for all logits, such as a difference of two of them"


class Point(NamedTuple):
    """Some points of the way, in one pass. live: by instrument and layer, within autograd's graph, a row a point.

    total: the metric summed over the rows, which do not depend on each other.  share: of one row in the mean over all points.
    seen: the tensors by themselves, where they were asked for by name.
    """

    live: Tensors
    seen: Tensors
    total: torch.Tensor
    share: float


def check_weights(model: PreTrainedModel) -> None:
    """Raise Unavailable where autograd can't go through the weights."""
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise Unavailable(
            "This model was loaded under torch.inference_mode, and autograd can't go through its weights; load it outside."
        )


@contextlib.contextmanager
def differentiating() -> Iterator[None]:
    """With autograd on, whatever mode the caller is in. Never over a `yield` of a generator that may be left unfinished."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def points(
    model: PreTrainedModel,
    anatomy: Anatomy,
    contrast: Contrast,
    names: Sequence[str],
    steps: int | None,
    ends: Callable[[str], tuple[torch.Tensor, torch.Tensor]],
    advance: running.Progress | None = None,
) -> Iterator[Point]:
    """Passes whose graph is kept: over the corrupted text, or with `steps` over the middles of as many parts of the way.

    The way is straight, from the corrupted to the clean text in `way(anatomy)`. names: instruments whose tensors are wanted.
    ends: clean and corrupted, each (T, d), of an instrument of layer 0.  advance: is told of each point that was worked on.
    """
    check_weights(model)
    count = 1 if steps is None else steps
    size = running.copies(model, len(contrast.corrupted), count)
    start = way(anatomy)
    changing = False
    for first in range(0, count, size):
        at = range(first, min(first + size, count))
        edit: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if steps is not None:
            clean, corrupted = ends(start)
            part = torch.tensor([(k + 0.5) / steps for k in at], device=clean.device, dtype=clean.dtype)[:, None, None]
            edit = installed(model, anatomy, [Site(start, 0, _putting(corrupted + part * (clean - corrupted)))])
        with edit, observing(model, anatomy, kept_by(names), gradients=True) as captured:
            logits = running.forward(model, [contrast.corrupted] * len(at), grad=True).all_logits
        with differentiating():
            total = torch.stack([_scalar(contrast.metric, row) for row in logits]).sum()
            # what both texts give is checked with their plain runs; a gradient may be finite where the metric is not
            if steps is not None and not bool(total.isfinite()):
                raise BadInput(
                    f"The metric is {float(total.detach())} on the way from the corrupted to the clean text; {FINITE}, or "
                    "take the gradient at the corrupted text alone (method='attribution', or steps=None)."
                )
            changing = _changes(contrast.metric, total, logits) or changing
        yield Point(captured.live, captured.layered, total, 1 / count)
        if advance is not None:
            advance.advance(len(at))
    if not changing:
        raise BadInput(
            f"The gradient of the metric {_name(contrast.metric)} is exactly 0 wherever it was taken, so that every effect "
            "would read 0 (it rounds, counts, cuts off, or is saturated); choose a metric that follows small changes of the "
            "logits, or patch exactly (method='exact', or lk.patching)."
        )


def linearised(
    model: PreTrainedModel,
    anatomy: Anatomy,
    contrast: Contrast,
    names: Sequence[str],
    steps: int | None,
    keep: Sequence[str],
    advance: running.Progress | None = None,
) -> tuple[Both, Iterator[Point]]:
    """Both plain runs, and the passes whose graph is kept. Without steps the corrupted text is run only once, with its graph.

    keep: instruments of the plain runs, each among the names.
    """
    if steps is None:
        (point,) = points(model, anatomy, contrast, names, None, no_ends, advance)
        return Both.beside(model, anatomy, contrast, keep, (row_of(point.seen, 0), float(point.total.detach()))), iter(
            [point]
        )
    both = Both.take(model, anatomy, contrast, [*keep, way(anatomy)])

    def ends(start: str) -> tuple[torch.Tensor, torch.Tensor]:
        return both.clean[start][0], both.corrupted[start][0]

    return both, points(model, anatomy, contrast, names, steps, ends, advance)


def no_ends(_name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What `points` is given without steps, when it asks for none."""
    raise AssertionError("asked for without steps")


def way(anatomy: Anatomy) -> str:
    """The instrument in which the way from the corrupted to the clean text is straight: the embedding where it can be had."""
    return "residual" if anatomy.support.get("embedding") else "embedding"


def mean_gradients(point_passes: Iterator[Point], names: Sequence[str]) -> Tensors:
    """The mean over all points of the metric's gradient, by instrument and layer."""
    found: Tensors = {name: {} for name in names}
    for point in point_passes:
        wanted = [(name, layer, x) for name in names for layer, x in point.live.get(name, {}).items()]
        with differentiating():
            slopes = torch.autograd.grad(point.total, [x for *_, x in wanted], allow_unused=True)
        check_slopes(slopes)
        for (name, layer, x), slope in zip(wanted, slopes, strict=True):
            mean = torch.zeros_like(x[0]) if slope is None else slope.detach().sum(0) * point.share
            found[name][layer] = found[name][layer] + mean if layer in found[name] else mean
    return found


def check_slopes(slopes: Sequence[torch.Tensor | None]) -> None:
    """Raise BadInput where a gradient is NaN or infinite."""
    if not all(slope is None or bool(slope.isfinite().all()) for slope in slopes):
        raise BadInput(
            f"The metric's gradient is NaN or infinite, so no effect can be estimated; {FINITE}, load the model in "
            "float32, or patch exactly (method='exact', or lk.patching)."
        )


def _putting(value: torch.Tensor) -> Callable[[torch.Tensor, TokenAxis], torch.Tensor]:
    return lambda _whole, _axis: value


NO_WAY = (
    "so no gradient goes through it; compute it from the logits with torch, or patch exactly (method='exact', or "
    "lk.patching)."
)


def _name(metric: Metric) -> str:
    return str(getattr(metric, "__name__", metric))


def _changes(metric: Metric, total: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether a metric's gradient by the logits is anything but 0. Raises BadInput where there is none."""
    (slope,) = torch.autograd.grad(total, logits, retain_graph=True, allow_unused=True)
    if slope is None:
        raise BadInput(f"The metric {_name(metric)} returned a Tensor that is not derived from its logits, {NO_WAY}")
    return bool(slope.any())


def _scalar(metric: Metric, logits: torch.Tensor) -> torch.Tensor:
    name, no_way = _name(metric), NO_WAY
    try:
        value = metric(scores(logits))
    except RuntimeError as error:
        if "requires grad" not in str(error):
            raise
        raise BadInput(f"The metric {name} leaves torch's graph, {no_way}") from error
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        raise BadInput(
            f"The metric {name} returned a {type(value).__name__} that is not derived from its logits, {no_way}"
        )
    if value.numel() != 1:
        raise BadInput(f"The metric {name} returned a Tensor of shape {tuple(value.shape)}; return one number.")
    return value.reshape(()).double()
