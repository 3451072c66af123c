"""Directions in the residual stream: found as a difference of means, taken out of the model, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from torch import Tensor

from labkit import checks
from labkit.circuits.activations import (
    Position,
    checked_layers,
    checked_place,
    checked_position,
    gathered,
    groups_of,
    rows_of,
)
from labkit.circuits.holding_out import check_enough, folds_of, share
from labkit.circuits.repeats import kinds_without_repeats
from labkit.errors import BadInput
from labkit.quantization.bases import Base, base_of
from labkit.quantization.comparing import compare, logits_of
from labkit.quantization.intervals import LEAST_DOCUMENTS
from labkit.statistics import dealt, interval, null, permuted_within, resampled
from labkit.trace.along import check_width, exact, unit
from labkit.trace.documents import Documents
from labkit.trace.edits import Edit, patch
from labkit.trace.input import as_kinds
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["Direction", "EditCost", "ablate_direction", "difference_of_means", "edit_cost"]

DRAWS = 1_000
PARTS = ("residual", "attention_output", "mlp_output")  # what of a layer a direction can be taken out of


@dataclass(frozen=True, eq=False, repr=False)
class Direction:
    """A direction in the residual stream, from `difference_of_means`. `lk.steer(d.vector, 5.0, layer=d.layer)` goes along it.

    vector: (d_model,) float32 (float64 of such a model), the mean over the positive texts less that over the negative
    ones, in the residual stream's units.
    layer: that the stream enters; the number of layers for what leaves the last.  position: of the token read, or "last",
    "mean".
    separation: the share of held-out texts that lie nearer to their own mean along the direction, which was found without
        them and all that belong to them, in five folds; separation_low, separation_high: 95 % (Wilson 1927).
    chance, chance_high, p: of the same with the labels dealt anew: mean, 97.5 %, and how often that reaches `separation`.
    positive, negative: how many texts.  model: by name.  seed: of folds and shuffles.
    base: the fingerprint of the model's weights, an adapter's left out; by it the direction is refused in another model.
    """

    vector: Tensor
    layer: int
    position: Position
    separation: float
    separation_low: float
    separation_high: float
    chance: float
    chance_high: float
    p: float
    positive: int
    negative: int
    model: str
    seed: int
    base: Base | None = None

    def belongs(self, lab: LabLike) -> None:
        """Raise BadInput for a lab of another model than the direction was found in."""
        if self.base is not None and (differs := base_of(lab).differs(self.base)):
            raise BadInput(
                f"This direction was found in {self.base.name}, and {lab.name} {differs}; find it in this model, or give its "
                "vector, to try it here all the same."
            )

    @property
    def unit(self) -> Tensor:
        """(d_model,): the same at length 1."""
        found: Tensor = self.vector / self.vector.norm()
        return found

    def __repr__(self) -> str:
        shuffled = "labels not shuffled"
        if self.chance == self.chance:
            shuffled = f"shuffled labels {self.chance:.0%} (97.5 %: {self.chance_high:.0%})"
        return (
            f"Direction(layer {self.layer} of {self.model}, length {float(self.vector.norm()):.3g}; separates "
            f"{self.separation:.0%} of held-out texts ({self.separation_low:.0%} to {self.separation_high:.0%}), {shuffled}; "
            f"{self.positive} positive, {self.negative} negative)"
        )


@overload
def difference_of_means(
    lab: LabLike,
    positive: Sequence[object],
    negative: Sequence[object],
    layer: int,
    *,
    position: Position = ...,
    chat: bool | None = ...,
    pairs: bool = ...,
    shuffles: int = ...,
    seed: int = ...,
) -> Direction: ...
@overload
def difference_of_means(
    lab: LabLike,
    positive: Sequence[object],
    negative: Sequence[object],
    layer: Sequence[int] | None = ...,
    *,
    position: Position = ...,
    chat: bool | None = ...,
    pairs: bool = ...,
    shuffles: int = ...,
    seed: int = ...,
) -> list[Direction]: ...
def difference_of_means(
    lab: LabLike,
    positive: Sequence[object],
    negative: Sequence[object],
    layer: int | Sequence[int] | None = None,
    *,
    position: Position = "last",
    chat: bool | None = False,
    pairs: bool = False,
    shuffles: int = 200,
    seed: int = 0,
) -> Direction | list[Direction]:
    """The direction from the mean of some texts to that of others in the residual stream: a Direction, or one for each layer.

    positive, negative: texts that have something and texts that lack it, at least five different ones of each; a text that
        stands in both is refused.
    layer: that the stream enters, 0 to the number of layers (which is what leaves the last); several, or None for all, give
        a list. Of several the best one looks better than it is; judge it on other texts.
    position: "last", "mean" of all tokens but the first, or a token's number.
    chat: False takes texts as they are; True or None makes prompts of them as `lab.generate` does, up to where the answer
    begins.
    pairs: positive[i] and negative[i] belong together (they differ in little else): then both are held out at once, and
        labels are shuffled within pairs.  shuffles: how often labels are dealt anew for what chance gives; 0 for never.
    Marks and Tegmark 2023 (arXiv:2310.06824); for refusal Arditi et al. 2024 (arXiv:2406.11717). Edits in force hold.
    Raises BadInput for too few texts, a text in both lists, a layer or a position that is not there; Unavailable where
    activations are NaN, and for a model without one residual stream.
    """
    shuffles, seed = checks.whole("shuffles", shuffles, 0), checks.seed(seed)
    pairs = checks.flag("pairs", pairs)
    at = checked_place(lab, "residual")
    layers = checked_layers(lab, at, layer)
    rows = [rows_of(lab, texts, name, chat=chat) for texts, name in ((positive, "positive"), (negative, "negative"))]
    there, counts = rows[0] + rows[1], [len(rows[0]), len(rows[1])]
    both = {tuple(row) for row in rows[0]} & {tuple(row) for row in rows[1]}
    if both:
        said = f"{len(both)} text{'s stand' if len(both) > 1 else ' stands'}"
        raise BadInput(f"{said} in both lists, so nothing tells them apart; take each out of one.")
    if pairs and counts[0] != counts[1]:
        raise BadInput(f"There are {counts[0]} positive and {counts[1]} negative texts, which make no pairs.")
    groups = groups_of(there, [*range(counts[0]), *range(counts[1])] if pairs else None)
    labels = np.repeat([1, 0], counts)
    if not len(labels):
        raise BadInput("There are no texts; give at least five positive and five negative ones.")
    check_enough(labels, groups, ("negative", "positive"))
    where = checked_position(position, there)
    values = gathered(lab, there, at, layers, where).values.astype(np.float64)
    folds = folds_of(labels, groups, seed)
    others = _shuffled(labels, groups, shuffles, np.random.default_rng(seed))
    base = base_of(lab)
    found = []
    for of_layer, x in zip(layers, values, strict=True):
        vector = x[labels == 1].mean(0) - x[labels == 0].mean(0)
        if not np.linalg.norm(vector) > 0:
            raise BadInput(
                f"At layer {of_layer} both means are the same, so there is no direction: at this position all texts have the "
                "same token, and nothing of the others has reached it; take a later layer or another position."
            )
        right = _own_side(x, labels[None], folds)
        separation, low, high = share(right[0], groups)
        chance, chance_high, p = (
            float(each) for each in null(np.array(separation), _own_side(x, others, folds).mean(1))
        )
        found.append(
            Direction(
                vector=torch.from_numpy(vector).to(torch.float64 if lab.dtype is torch.float64 else torch.float32),
                layer=of_layer,
                position=where,
                separation=separation,
                separation_low=low,
                separation_high=high,
                chance=chance,
                chance_high=chance_high,
                p=p,
                positive=counts[0],
                negative=counts[1],
                model=lab.name,
                seed=seed,
                base=base,
            )
        )
    return found[0] if checks.as_whole(layer) is not None else found


def _shuffled(labels: np.ndarray, groups: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, texts): labels dealt anew, those of a group together; within groups where each has both."""
    of_group = [set(labels[groups == group].tolist()) for group in np.unique(groups)]
    if all(len(each) > 1 for each in of_group):
        found = [labels[permuted_within(groups, rng)] for _ in range(draws)]
        return np.array(found, dtype=np.int64).reshape(draws, len(labels))
    if all(len(each) == 1 for each in of_group):
        return dealt(np.array([next(iter(each)) for each in of_group]), draws, rng)[:, groups]
    return dealt(labels, draws, rng)


def _own_side(x: np.ndarray, labels: np.ndarray, folds: Sequence[np.ndarray]) -> np.ndarray:
    """(draws, texts) bool: which held-out texts are nearer to their own class's mean along the difference of means.

    x: (texts, d).  labels: (draws, texts) of 0 and 1, for each draw of which all is found anew.
    """
    right = np.zeros(labels.shape, bool)
    for held in folds:
        one, other = labels[:, ~held] == 1, labels[:, ~held] == 0
        means = [(of @ x[~held]) / np.maximum(of.sum(1, keepdims=True), 1) for of in (one, other)]
        direction, middle = means[0] - means[1], (means[0] + means[1]) / 2
        reading = direction @ x[held].T - (direction * middle).sum(1, keepdims=True)
        right[:, held] = (reading > 0) == (labels[:, held] == 1)
    return right


# taken out of the model -----------------------------------------------------------------------------------------------


def ablate_direction(
    direction: Direction | Tensor,
    layers: int | Sequence[int] | None = None,
    *,
    parts: Sequence[str] = ("residual", "attention_output"),
) -> Edit:
    """Take a direction out of the residual stream, at every token: x − (x · r) r, with r the direction at length 1.

    direction: a Direction, or (d_model,) of your own.
    layers: None for all, so that the model never holds anything along it; or some, whose input and attention lose it, while
        what later layers write along it stays.
    parts: what of a layer is projected: "residual", what enters it (with None also what leaves the last);
        "attention_output", so that its MLP does not read it either; "mlp_output". In a model without attention as labkit
        sees it give ("residual",).
    A direction of another model is refused by its weights, a tensor by its width alone; float64 models are projected in float64.
    Directional ablation of Arditi et al. 2024 (arXiv:2406.11717, section 2.4). An edit like all others, for `lab.edit`.
    Raises BadInput for a direction that is none; `lab.edit` raises it for one of another width and for layers that are not
    there, and Unavailable for parts that the model does not have.
    """
    given = direction.vector if isinstance(direction, Direction) else direction
    r = unit(
        given, "ablate_direction takes a Direction, from difference_of_means, or a direction (d_model,) as a tensor."
    )
    named = checks.series("parts", parts, "a list of parts, such as ('residual', 'attention_output')")
    chosen = [checks.one_of("parts", part, PARTS) for part in named]
    if not chosen:
        raise BadInput("parts is empty, so nothing would be changed; give at least 'residual'.")
    if layers is None:
        inside = ["*"]
    else:
        several = (
            [layers] if checks.as_whole(layers) is not None else checks.series("layers", layers, "a list of layers")
        )
        inside = [str(checks.whole("layers", layer, 0)) for layer in several]
        if not inside:
            raise BadInput("layers is empty, so nothing would be changed; give some, or None for all.")

    def without(x: Tensor) -> Tensor:
        check_width(x, r, "load the model it was found in")
        rows = exact(x)
        here = r.to(rows)
        return (rows - (rows @ here)[..., None] * here).to(x)

    def belongs(lab: LabLike) -> None:
        if (width := getattr(lab.config, "hidden_size", None)) not in (None, len(r)):
            found_in = direction.model if isinstance(direction, Direction) else "the model it was found in"
            raise BadInput(
                f"This direction has {len(r)} numbers and the residual stream of {lab.name} {width}; load {found_in}."
            )
        if isinstance(direction, Direction):
            direction.belongs(lab)

    places = tuple(f"{part}[{layer}]" for layer in inside for part in dict.fromkeys(chosen))
    return replace(Edit(places, patch(places[0], without).value), check=belongs)


@dataclass(frozen=True)
class EditCost:
    """What edits do to what a model says of text: nothing would be a kl of exactly 0.

    kl: KL(without the edits || with them), nats a token, with 95 % over texts (low, high; NaN where fewer than
    5 were counted, which show too little of how texts differ).  same: the share of tokens of
    which the likeliest next one stays.  loss: change of the loss, nats a token.  texts, tokens: how many were counted.
    notes: whether texts were cut to the model's context, or stood there twice.
    """

    kl: float
    low: float
    high: float
    same: float
    loss: float
    texts: int
    tokens: int
    notes: tuple[str, ...] = ()


def edit_cost(
    lab: LabLike, edits: Edit | Sequence[Edit], texts: Sequence[object], *, draws: int = DRAWS, seed: int = 0
) -> EditCost:
    """What edits cost on text that they are not meant for: how far the next-token distributions move, token by token.

    edits: one, or several that are on together.  texts: harmless or general ones; one that stands there twice counts once.
     draws: resamplings of texts for the interval. Edits and adapters that are on already are so for both sides. Raises
    BadInput for no texts or ones without a counted token.
    """
    check_lab(lab)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    given = [edits] if isinstance(edits, Edit) else checks.series("edits", edits, "an edit or a list of them")
    changes = [each for each in given if isinstance(each, Edit)]
    if not changes or len(changes) < len(given):
        raise BadInput(
            "edit_cost takes edits such as lk.circuits.ablate_direction(d), and this is none; give at least one."
        )
    kinds, repeated = kinds_without_repeats(lab, as_kinds(texts))
    documents = Documents(lab, kinds)

    def edited(number: int) -> Tensor:
        with lab.edit(*changes):
            return documents.run(lab, number).all_logits

    (damage,) = compare(documents, logits_of(documents, lab), [edited])
    count = len(documents.ids)
    tokens = np.bincount(damage.document, minlength=count)
    kl = np.bincount(damage.document, weights=damage.kl, minlength=count)
    weights = resampled(np.zeros(int((tokens > 0).sum()), np.int64), draws, np.random.default_rng(seed))
    enough = int((tokens > 0).sum()) >= LEAST_DOCUMENTS
    low, high = interval(weights @ kl[tokens > 0] / (weights @ tokens[tokens > 0]))
    return EditCost(
        kl=float(damage.kl.mean()),
        low=float(low) if enough else float("nan"),
        high=float(high) if enough else float("nan"),
        same=float(damage.same.mean()),
        loss=float((damage.loss - damage.original_loss).mean()),
        texts=int((tokens > 0).sum()),
        tokens=len(damage.kl),
        notes=(*documents.cut, *repeated),
    )
