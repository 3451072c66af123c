"""What becomes of a model without some of its heads: its loss, and what it says next."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit import checks
from labkit.attention.heads import repeated
from labkit.errors import BadInput, Unavailable
from labkit.models.tokens import token_strings
from labkit.results import Result
from labkit.trace import running
from labkit.trace.edits import Site, ablate_heads, installed
from labkit.trace.input import as_ids, is_many
from labkit.trace.lab_like import check_lab
from labkit.trace.passes import TokenAxis
from labkit.trace.record import Trace, check_predicts, token_loss

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import TracingLab

TOP = 5
Head = tuple[int, int]


# one set of heads, at a click -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AblationEffect:
    """A text's predictions before and after some heads were switched off.

    loss_before, loss_after: mean nats per token over the text; None for a text of one token.
    next: (token, probability before, probability after), the union of the five most probable tokens before and after
        the text's end, by the larger of the two probabilities.
    loss_change: nats, for each token of the text, after − before; NaN for the first, which nothing predicts.
    """

    heads: tuple[Head, ...]
    loss_before: float | None
    loss_after: float | None
    next: tuple[tuple[str, float, float], ...]
    loss_change: tuple[float, ...]


class Ablation:
    """Call it with (layer, head) pairs: what the model makes of one text without these heads.

    tokens, ids: the text's. The model's predictions with all heads are taken at each call, in the same turn on the lab's
    model: inside a `with lab.edit(...)` both are those of the edited model. Calls may come from any thread.
    """

    def __init__(self, lab: TracingLab, what: object) -> None:
        check_lab(lab)
        if is_many(what):
            raise BadInput("ablation takes one text; make one for each.")
        self._lab = lab
        self.ids: list[int] = _ids(lab, what)
        self.tokens: list[str] = token_strings(lab.tokenizer, self.ids)

    def __call__(self, heads: Sequence[Head], *, stop: threading.Event | None = None) -> AblationEffect | None:
        """The effect of switching the heads off together; None when stop was set before all was computed.

        Raises BadInput for a head that is not there, Unavailable where this model's heads can't be switched off.
        """
        chosen = _pairs(heads)
        edit = ablate_heads(chosen)
        if stop is not None and stop.is_set():
            return None
        with self._lab.turn():
            if stop is not None and stop.is_set():  # the turn may have been long in coming
                return None
            before, loss_before = self._predictions()
            if stop is not None and stop.is_set():
                return None
            with self._lab.edit(edit):
                after, loss_after = self._predictions()
        count = min(TOP, len(before))
        ids = list(dict.fromkeys([*before.topk(count).indices.tolist(), *after.topk(count).indices.tolist()]))
        ids.sort(key=lambda i: -max(float(before[i]), float(after[i])))
        names = token_strings(self._lab.tokenizer, ids)
        many = len(self.ids) > 1
        return AblationEffect(
            heads=chosen,
            loss_before=float(loss_before[1:].mean()) if many else None,
            loss_after=float(loss_after[1:].mean()) if many else None,
            next=tuple((name, float(before[i]), float(after[i])) for name, i in zip(names, ids, strict=True)),
            loss_change=tuple((loss_after - loss_before).tolist()),
        )

    def __repr__(self) -> str:
        return f"Ablation({len(self.ids)} tokens, {self._lab.name})"

    def _predictions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(probabilities of the next token (vocabulary,), loss of each token (T,))."""
        trace = self._lab.trace(self.ids, keep="logits")
        return trace.logits[-1].softmax(-1).cpu(), trace.loss


def ablation(lab: TracingLab, what: object) -> Ablation:
    """Something to call with heads, as views do: `ablation(lab, text)([(5, 3)])` is an AblationEffect.

    what: a text, token ids, messages, a Generation, or a Trace, whose ids are taken.
    """
    return Ablation(lab, what)


# every head by itself -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class HeadEffects(Result):
    """What switching off one head at a time does to the loss of a text.

    table: a row a head: layer, head, loss (nats per token), loss_change (loss − that of the whole model).
    baseline: the whole model's loss, which stands beneath the table.  complete: False after an interrupt, when the table
        holds the heads that were done.  heads: how many there were to be.  model: its name.
    value: what the heads' outputs became.  loss_from: from which token on the loss was taken.
    """

    baseline: float
    complete: bool
    heads: int
    model: str
    value: float | str
    loss_from: int

    def _title(self) -> str:
        cut = "" if self.complete else f", interrupted after {len(self)} of {self.heads}"
        return f"One head of {self.model} at a time switched off{cut}"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"all heads": {"loss": self.baseline, "loss_change": 0.0}}


def effects(
    lab: TracingLab,
    what: object,
    heads: Iterable[Head] | None = None,
    *,
    value: float | str = 0.0,
    loss_from: int = 1,
    progress: bool = True,
) -> HeadEffects:
    """Switch off one head at a time and measure the loss of a text.

    what: as in `ablation`, of two tokens at least.  heads: (layer, head) pairs; all when None.
    value: what the head's output becomes instead, a number, or "mean": its mean over the tokens of this text.
    loss_from: the loss is the mean over the tokens from this one on; 1 is the whole text.
    Returns a row a head: layer, head, loss (nats per token), loss_change (loss − that of the whole model), beside the whole
    model's loss (`baseline`). An interrupt returns the heads that were done, with complete False.
    Raises BadInput for what can't be used, Unavailable where this model's heads can't be switched off.
    """
    import pandas as pd

    check_lab(lab)
    if is_many(what):
        raise BadInput("effects takes one text; call it once for each.")
    ids = _ids(lab, what)
    first = checks.as_whole(loss_from)
    if first is None or not 1 <= first < len(ids):
        raise BadInput(
            f"loss_from={loss_from!r} leaves no token to measure: this text's tokens are predicted from 1 to "
            f"{len(ids) - 1}."
            if len(ids) > 1
            else "A text of one token has no loss; give a longer one."
        )
    if value != "mean":
        value = checks.number("value", value, wanted='a number, or "mean"')
    losses: dict[tuple[Head, ...], torch.Tensor] = {}
    with lab.turn():
        outputs = _head_outputs(lab, ids)
        there = _all_heads(outputs)
        chosen = there if heads is None else _known(lab, _pairs(heads), there)
        sets = [(head,) for head in chosen]
        filling = (
            {layer: output.mean(1) for layer, output in outputs.items()}
            if value == "mean"
            else {layer: torch.full_like(output[:, 0], float(value)) for layer, output in outputs.items()}
        )
        baseline, complete = _run(lab, ids, sets, filling, losses, "ablating heads", progress)
    done = [head for head in chosen if (head,) in losses]
    whole = float(baseline[first:].mean())
    loss = [float(losses[head,][first:].mean()) for head in done]
    frame = pd.DataFrame(
        {
            "layer": [layer for layer, _ in done],
            "head": [head for _, head in done],
            "loss": np.array(loss, dtype=float),
            "loss_change": np.array([one - whole for one in loss], dtype=float),
        }
    )
    return HeadEffects(frame, whole, complete, len(chosen), lab.name, value, first)


# copying, with and without some heads ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class HalfLoss:
    """Mean loss (nats per token) on one block of repeated random tokens.

    intact: with all heads; without: with the chosen ones switched off; others: with as many others, one for each draw.
    """

    intact: float
    without: float
    others: tuple[float, ...]

    @property
    def share(self) -> float:
        """The share of draws that hurt at least as much as the chosen heads; NaN without draws."""
        return float(np.mean([loss >= self.without for loss in self.others])) if self.others else math.nan


@dataclass(frozen=True, repr=False)
class Knockout:
    """What switching off some heads does to copying, next to switching off as many others.

    second: on the second block, which can be copied from the first.  first: on the first, where nothing can be: what it
    loses is harm of a general kind. The first token of each block is left out, since nothing tells that a block begins.
    drawn: the other heads of each draw.
    """

    heads: tuple[Head, ...]
    length: int
    first: HalfLoss
    second: HalfLoss
    same_layers: bool
    drawn: tuple[tuple[Head, ...], ...] = field(repr=False)

    @property
    def share(self) -> float:
        """The share of draws that hurt copying at least as much as the chosen heads do."""
        return self.second.share

    @property
    def table(self) -> pd.DataFrame:
        """Mean loss on each block: intact, without the heads, and without as many others (mean and highest of the draws)."""
        import pandas as pd

        rows = {"first block, nothing to copy": self.first, "second block, a copy": self.second}
        return pd.DataFrame(
            {
                "intact": {name: half.intact for name, half in rows.items()},
                "without": {name: half.without for name, half in rows.items()},
                "others, mean": {name: float(np.mean(half.others or math.nan)) for name, half in rows.items()},
                "others, highest": {name: max(half.others, default=math.nan) for name, half in rows.items()},
                "share as high": {name: half.share for name, half in rows.items()},
            }
        )

    def _words(self) -> tuple[str, str]:
        heads = ", ".join(f"{layer}.{head}" for layer, head in self.heads)
        drawn = f"{len(self.drawn)} draws of as many others" + (" in the same layers" if self.same_layers else "")
        return (
            f"Loss in nats without heads {heads}, on {self.length} random tokens and their copy",
            f"others: {drawn}; share as high: of the draws whose loss is at least that without the chosen heads",
        )

    def __repr__(self) -> str:
        above, below = self._words()
        return f"{above}\n{self.table.to_string(float_format='{:.3f}'.format)}\n{below}"

    def _repr_html_(self) -> str:
        above, below = self._words()
        return f"<p>{above}</p>{self.table.to_html(float_format='{:.3f}'.format)}<p>{below}</p>"


def knockout(
    lab: TracingLab,
    heads: Sequence[Head],
    *,
    length: int = 50,
    draws: int = 20,
    seed: int = 0,
    same_layers: bool = False,
) -> Knockout:
    """Does switching these heads off hurt copying more than switching off as many others?

    The model reads repeated random tokens (`repeated`, block of `length`): intact, without the heads, and `draws` times
    without as many others, drawn by chance from all heads but these. same_layers: the others are drawn from the same
    layers, as many in each as there are chosen ones, since a layer's depth alone makes a difference.
    seed: of the tokens and the draws.
    Raises BadInput for heads that are not there and where too few others are left to draw from.
    """
    draws, seed = checks.whole("draws", draws, 0), checks.seed(seed)
    chosen = tuple(sorted(_pairs(heads)))
    if not chosen:
        raise BadInput("There is no head to switch off; give at least one (layer, head).")
    ids = repeated(lab, length, 2, seed)
    losses: dict[tuple[Head, ...], torch.Tensor] = {}
    with lab.turn():
        outputs = _head_outputs(lab, ids)
        there = _all_heads(outputs)
        _known(lab, chosen, there)
        drawn = _draws(chosen, there, draws, seed, same_layers)
        zero = {layer: torch.zeros_like(output[:, 0]) for layer, output in outputs.items()}
        sets = list(dict.fromkeys([chosen, *drawn]))
        baseline, complete = _run(lab, ids, sets, zero, losses, "", False)
    if not complete:
        raise KeyboardInterrupt
    start = len(ids) - 2 * length

    def half(first: int) -> HalfLoss:
        tokens = slice(first + 1, first + length)
        return HalfLoss(
            intact=float(baseline[tokens].mean()),
            without=float(losses[chosen][tokens].mean()),
            others=tuple(float(losses[d][tokens].mean()) for d in drawn),
        )

    return Knockout(chosen, int(length), half(start), half(start + length), same_layers, drawn)


def _draws(
    chosen: tuple[Head, ...], there: Sequence[Head], draws: int, seed: int, same_layers: bool
) -> tuple[tuple[Head, ...], ...]:
    """As many others as are chosen, each time drawn anew; each draw sorted."""
    rng = np.random.default_rng([seed, 1])  # another stream than the tokens'
    others = [head for head in there if head not in chosen]
    groups = {"the model": (len(chosen), others)}
    if same_layers:
        groups = {
            f"layer {layer}": (sum(i == layer for i, _ in chosen), [head for head in others if head[0] == layer])
            for layer, _ in chosen
        }
    for where, (count, pool) in groups.items():
        if draws and len(pool) < count:
            raise BadInput(
                f"There are {len(pool)} other heads in {where} to draw {count} from; choose fewer heads"
                f"{', or draw from all layers (same_layers=False)' if same_layers else ''}."
            )
    return tuple(
        tuple(sorted(pool[i] for count, pool in groups.values() for i in rng.choice(len(pool), count, replace=False)))
        for _ in range(draws)
    )


# running --------------------------------------------------------------------------------------------------------------


def _run(
    lab: TracingLab,
    ids: list[int],
    sets: Sequence[tuple[Head, ...]],
    filling: Mapping[int, torch.Tensor],
    losses: dict[tuple[Head, ...], torch.Tensor],
    title: str,
    progress: bool,
) -> tuple[torch.Tensor, bool]:
    """Write down the loss of each token (T,) without each set of heads, several sets as rows of one pass.

    filling: by layer (heads, d_head), what stands in for a head. Returns the whole model's losses, and whether all was
    done: an interrupt ends it.
    """
    model, anatomy = lab.model, lab.anatomy
    # every pass has as many rows, also the whole model's: matrix products of another shape round differently
    rows = [ids] * running.copies(model, len(ids), len(sets))
    baseline = token_loss(running.forward(model, rows).all_logits[0], ids)
    with running.Progress(title, len(sets), "head", progress) as bar:
        for start in range(0, len(sets), len(rows)):
            now = sets[start : start + len(rows)]
            with installed(model, anatomy, _sites(now, filling)):
                logits = running.forward(model, rows).all_logits
            for row, heads in enumerate(now):
                losses[heads] = token_loss(logits[row], ids)
                bar.advance()
    return baseline, not bar.interrupted


def _sites(sets: Sequence[tuple[Head, ...]], filling: Mapping[int, torch.Tensor]) -> list[Site]:
    """One change a layer, which replaces in each row the heads that are off there."""
    by_layer: dict[int, list[tuple[int, int]]] = {}
    for row, heads in enumerate(sets):
        for layer, head in heads:
            by_layer.setdefault(layer, []).append((row, head))

    def change_of(layer: int, mine: list[tuple[int, int]]) -> Callable[[torch.Tensor, TokenAxis], torch.Tensor]:
        def change(whole: torch.Tensor, _view: TokenAxis) -> torch.Tensor:
            new = whole.clone(memory_format=torch.contiguous_format)
            for row, head in mine:
                new[row, head] = filling[layer][head].to(new)
            return new

        return change

    return [Site("head_output", layer, change_of(layer, mine)) for layer, mine in by_layer.items()]


def _head_outputs(lab: TracingLab, ids: list[int]) -> dict[int, torch.Tensor]:
    """(heads, T, d_head) of each layer that has heads, as the model computes them on these tokens."""
    if reason := lab.anatomy.support.get("head_output"):
        raise Unavailable(f"The heads of {lab.name} can't be switched off: {reason}.")
    check_predicts(lab.anatomy.causal, lab.name)
    trace = lab.trace(ids, keep="head_output")
    return {layer: trace.head_output(layer) for layer in trace.layers_with("head_output")}


def _all_heads(outputs: Mapping[int, torch.Tensor]) -> list[Head]:
    return [(layer, head) for layer, output in outputs.items() for head in range(output.shape[0])]


def _known(lab: TracingLab, chosen: Sequence[Head], there: Sequence[Head]) -> list[Head]:
    known = set(there)
    for layer, head in chosen:
        if (layer, head) not in known:
            raise BadInput(
                f"There is no head ({layer}, {head}) in {lab.name}: it has layers {there[0][0]} to {there[-1][0]} and "
                f"heads 0 to {max(h for _, h in there)}."
            )
    return list(chosen)


def _pairs(heads: object) -> tuple[Head, ...]:
    """(layer, head) pairs of plain integers, each once, in their order."""
    if isinstance(heads, str | bytes | Mapping) or not isinstance(heads, Iterable):
        raise BadInput(f"Heads are given as (layer, head) pairs, such as [(5, 3)], and {heads!r} is no list of them.")
    return tuple(dict.fromkeys(checks.pair("head", pair) for pair in heads))


def _ids(lab: TracingLab, what: object) -> list[int]:
    if isinstance(what, Trace):
        return list(what.ids)
    return as_ids(lab.tokenizer, what, chat=False, context=lab.context)
