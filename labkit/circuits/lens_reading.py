"""One face for the lenses: what the state at a layer and position disposes the model to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import pandas as pd
import torch

from labkit import checks
from labkit.circuits.jacobian_lens import JacobianLens
from labkit.circuits.lens_files import shipped_lens
from labkit.circuits.tuned_lens import TunedLens
from labkit.errors import BadInput, Unavailable
from labkit.models.tokens import token_strings
from labkit.results import Result
from labkit.trace.lab_like import check_lab
from labkit.trace.lens import Ending, divergence, ending_of, lens_frame, likelihoods
from labkit.trace.record import Trace

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

Kind = Literal["jacobian", "tuned", "logit"]
KINDS: tuple[Kind, ...] = ("jacobian", "tuned", "logit")


class Top(NamedTuple):
    """A token that a lens reads: its text, its id, and the probability it is given."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class LensTable(Result):
    """What a lens reads at each layer and position; its columns are those of `lk.logit_lens`.

    kind: of the lens.  model: its name.  layers: how many it has, so the rows of this layer are the model's own prediction.
    """

    kind: str
    model: str
    layers: int

    def _title(self) -> str:
        return f"{self.kind.capitalize()} lens of {self.model}: {self.layers} layers"


class LensReading:
    """A lens held to a trace. Layers and positions are the trace's; `lens` makes it.

    kind: "jacobian", "tuned" or "logit".  layers: at which it reads, 0 to trace.layers as `trace.residual` counts; the
    last is the model's own prediction.  lens: the `JacobianLens` or `TunedLens`; None for the logit lens.  trace, model:
    what it reads.
    Nothing is computed before it is asked for: a cell, a column or a layer costs its own rows of the unembedding.
    """

    def __init__(
        self, lab: LabLike, trace: Trace, kind: Kind, fitted: JacobianLens | None, ending: Ending | None = None
    ) -> None:
        self.kind, self.lens, self.trace, self.model = kind, fitted, trace, trace.model
        self.ending: Ending = ending or ending_of(lab, trace, ("residual", "logits"))
        self.layers: tuple[int, ...] = tuple(range(trace.layers + 1)) if fitted is None else fitted.readable
        self._lab = lab

    def state(self, layer: int) -> torch.Tensor:
        """(T, d_model): the states at a layer, carried on to where the last residual would be."""
        there = self.there(layer)
        return carried(self.lens, self.trace.residual(there), there)

    def logits(self, layer: int) -> torch.Tensor:
        """(T, vocabulary) float32: W_U · norm(J_l h) at every position of a layer; `lk.lens_logits` where J is the identity."""
        return self.ending.logits(self.state(layer))

    def distribution(self, layer: int, position: int) -> torch.Tensor:
        """(vocabulary,) float32 on the CPU: the probabilities at a layer and position."""
        at = checks.index("position", position, len(self.trace), of="this text has")
        return self.ending.logits(self.state(layer)[at : at + 1])[0].softmax(-1).cpu()

    def top(self, layer: int, position: int, k: int = 5) -> list[Top]:
        """The k most probable tokens at a layer and position, each (token, id, probability), the most probable first."""
        return tops(self._lab, self.distribution(layer, position)[None], k)[0]

    def column(self, position: int, k: int = 5) -> dict[int, list[Top]]:
        """{layer: its k most probable tokens} at one position, computed together."""
        at = checks.index("position", position, len(self.trace), of="this text has")
        states = {layer: self.trace.residual(layer)[at] for layer in self.layers}
        return column(self._lab, self.ending, self.lens, states, k)

    def rows(self, layers: int | Sequence[int] | None = None, *, k: int = 1) -> LensTable:
        """A row for each layer and position, with the columns of `lk.logit_lens`: top tokens, rank of what follows, KL, ...

        layers: which; None for all the lens reads at. k: how many top tokens. Costs an unembedding of the text a layer.
        """
        one = checks.as_whole(layers)
        given = (
            [one] if one is not None else self.layers if layers is None else checks.series("layers", layers, "layers")
        )
        wanted = list(dict.fromkeys(map(self.there, given)))
        if not wanted:
            raise BadInput(f"layers is empty; choose from {checks.some(self.layers)}.")
        frame = lens_frame(self._lab, self.trace, self.ending, wanted, self.state, k=k)
        return LensTable(frame, self.kind, self.model, self.trace.layers)

    def there(self, layer: object) -> int:
        """A layer that it reads at, counted from 0. Raises BadInput for another."""
        found = checks.index("layer", layer, self.trace.layers + 1, of="the lens reads")
        if self.lens is not None:
            self.lens.jacobian(found)
        return found

    @cached_property
    def table(self) -> pd.DataFrame:
        """The table of `rows()`: all layers, one top token; computed when first asked for."""
        return self.rows().table

    def __repr__(self) -> str:
        of = "" if self.lens is None else f", fitted on {self.lens.prompts} prompts"
        return (
            f"LensReading({self.kind} lens of {self.model}{of}: {len(self.layers)} layers x {len(self.trace)} tokens; "
            ".top(layer, position), .column(position), .rows())"
        )


def lens(lab: LabLike, trace: Trace, kind: Kind = "jacobian", *, lens: JacobianLens | None = None) -> LensReading:
    """What the state at each layer and position disposes the model to say, now and later.

    trace: kept with "residual" and "logits".
    kind: "jacobian": softmax(W_U · norm(J_l h)), J_l the average effect of a state at layer l on the last residual stream at
        its own and later positions (Gurnee et al. 2026); "logit": J_l = I, as in `lk.logit_lens`; "tuned":
        softmax(W_U · norm(A_l h + b_l)), trained to foretell the model's prediction (Belrose et al. 2023); none is shipped.
    lens: a `JacobianLens` of this model, from `lk.circuits.fit_lens` or `load_lens`; None takes the one that comes with labkit,
        which is of the default model. For kind="tuned" a `TunedLens`, from `lk.circuits.fit_tuned_lens` or `load_lens`.
    Layers count as `trace.residual` does, 0 what enters the first; a Jacobian lens reads from 1, and at the last layer all
    lenses are the model's own prediction. Returns a `LensReading`: `.top(layer, position, k)` gives (token, id, probability).
    What it can show: what a state leads to on average, over texts. What it can't: what this very text makes of it, since J_l
    is one matrix for all; and a reading is a correlation: `lk.swap` and patching test whether it matters.
    Raises BadInput for a lens of another model, Unavailable where there is none for this model or the trace kept too little.
    """
    check_lab(lab)
    kind = checks.one_of("kind", kind, KINDS, problem="is no kind of lens")
    if not isinstance(trace, Trace):
        raise BadInput(f"A lens reads a Trace, from lab.trace(text), and a {type(trace).__name__} is none.")
    return LensReading(lab, trace, kind, fitted_for(lab, kind, lens))


def fitted_for(lab: LabLike, kind: Kind, lens: JacobianLens | None) -> JacobianLens | None:
    """The lens of a kind for a lab: the given one, checked, or the shipped one; None for the logit lens."""
    if lens is not None and not isinstance(lens, JacobianLens):
        raise BadInput(
            f"lens is to be a JacobianLens, from lk.circuits.fit_lens or load_lens, and a {type(lens).__name__} is none."
        )
    if kind == "tuned":
        if lens is None:
            raise Unavailable(
                f"There is no tuned lens for {lab.name} here; fit one: lens = lk.circuits.fit_tuned_lens(lab, texts), then "
                'lk.lens(lab, trace, kind="tuned", lens=lens), or lk.views.lens(lab, prompt=..., kind="tuned", fitted=lens); or '
                'use kind="jacobian" or kind="logit".'
            )
        if not isinstance(lens, TunedLens):
            raise BadInput(
                "This is a Jacobian lens and no tuned one; leave kind away, or fit one: lk.circuits.fit_tuned_lens."
            )
        lens.belongs(lab)
        return lens
    if kind == "logit":
        if lens is not None:
            raise BadInput('The logit lens takes no fitted lens; leave lens away, or use kind="jacobian".')
        return None
    if isinstance(lens, TunedLens):
        raise BadInput('This is a tuned lens; read with it as kind="tuned".')
    found = lens or shipped_lens(lab.name)
    if found is None:
        raise Unavailable(
            f"labkit ships no Jacobian lens for {lab.name}; fit one: lens = lk.circuits.fit_lens(lab, texts), then lk.lens(lab, "
            "trace, lens=lens); or open a published one with lk.circuits.load_lens(path)."
        )
    found.belongs(lab)
    return found


# shared with what reads while the text is written ---------------------------------------------------------------------


class Cell(NamedTuple):
    """What a lens reads at a layer and position. top: the most probable tokens, the most probable first.

    kl: nats, KL(the model's own prediction there || this one); 0 at the last layer.
    """

    top: list[Top]
    kl: float


class Held(NamedTuple):
    """A lens and the layers it is read at, ascending. fitted: the `JacobianLens`; None for the logit lens."""

    fitted: JacobianLens | None
    layers: tuple[int, ...]


def carried(fitted: JacobianLens | None, states: torch.Tensor, layer: int) -> torch.Tensor:
    """States of a layer, (..., d_model), where the last residual would be."""
    return states if fitted is None else fitted.carried(states, layer)


def column(
    lab: LabLike, ending: Ending, fitted: JacobianLens | None, states: dict[int, torch.Tensor], k: int
) -> dict[int, list[Top]]:
    """{layer: its k most probable tokens} from the states of one position, (d_model,) by layer."""
    rows = torch.stack([carried(fitted, state, layer) for layer, state in states.items()])
    return dict(zip(states, tops(lab, ending.logits(rows).softmax(-1), k), strict=True))


def cells(
    lab: LabLike,
    ending: Ending,
    lenses: Mapping[str, Held],
    states: Mapping[int, torch.Tensor],
    k: int,
    memo: dict[int, str],
) -> dict[tuple[str, int], Cell]:
    """What several lenses read at one position: {(lens, layer): its cell}, all by one product with the unembedding.

    states: (d_model,) by layer, the last residual's among them, which is every lens's last row and the model's own prediction.
    memo: of tokens' texts, filled and used again.
    """
    last = max(states)
    keys = [(name, layer) for name, held in lenses.items() for layer in held.layers if layer != last]
    rows = [carried(lenses[name].fitted, states[layer], layer) for name, layer in keys]
    logits = ending.logits(torch.stack([*rows, states[last]]))
    total = logits.logsumexp(-1)
    best = logits.topk(k)
    final = logits[-1:] - total[-1:, None]
    likely, entropy = likelihoods(final)
    far = divergence(likely, entropy, logits, total)
    far[-1] = 0.0
    probabilities = (best.values - total[:, None]).exp().tolist()
    found = [
        Cell([Top(*one) for one in zip(token_strings(lab.tokenizer, ids, memo=memo), ids, values, strict=True)], kl)
        for ids, values, kl in zip(best.indices.tolist(), probabilities, far.tolist(), strict=True)
    ]
    of = dict(zip(keys, found[:-1], strict=True))
    return {
        (name, layer): found[-1] if layer == last else of[name, layer]
        for name, held in lenses.items()
        for layer in held.layers
    }


def tops(lab: LabLike, probabilities: torch.Tensor, k: int) -> list[list[Top]]:
    """The k most probable tokens of each row, (rows, vocabulary)."""
    best = probabilities.topk(checks.whole("k", k, 1, probabilities.shape[-1]))
    memo: dict[int, str] = {}
    return [
        [Top(*one) for one in zip(token_strings(lab.tokenizer, ids, memo=memo), ids, values, strict=True)]
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
