"""Probes: what can be read off a model's activations by a linear classifier, beside what can be read without the model.

Alain and Bengio 2016 (arXiv:1610.01644); control tasks and selectivity: Hewitt and Liang 2019 (arXiv:1909.03368).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

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
from labkit.circuits.pushing import Metrics, Steers, steers
from labkit.errors import BadInput, Unavailable
from labkit.quantization.bases import Base, base_of
from labkit.results import Result
from labkit.statistics import paired_difference
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["Baseline", "Probe", "probe"]

ITERATIONS = 2_000
LEAST_SPREAD = 1e-6  # of the widest number's standard deviation; what varies less is left out


class Baseline(NamedTuple):
    """A share of right answers with 95 %."""

    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class Probe(Result):
    """What probes read, a row for each layer; `probe` tells the columns of the table.

    at, position: what was read, and where in each text.  classes: in order; `direction` points to the second of two.
    chance: the share of the most frequent class.  token: a classifier that sees the token at the position alone, or for
    "mean" the counts of all tokens; bag: the counts of a text's tokens up to the position.  control_by: what control labels
    are a function of, "token" or "text".  texts, groups: how many, and how many of them are different.  folds, seed: of
    holding out.
    model: by name.  normals: by layer, (classes, d) float32, or (1, d) of two: in the units of what was read; what
    `direction` is made of.  spans: by layer, (classes,) or (1,): how far the means lie apart along them.
    base: the fingerprint of the model's weights, by which `steers` refuses another model.
    """

    at: str
    position: Position
    classes: tuple[str, ...]
    chance: float
    token: Baseline
    bag: Baseline
    control_by: str
    texts: int
    groups: int
    folds: int
    seed: int
    model: str
    normals: Mapping[int, Tensor] = field(repr=False)
    spans: Mapping[int, Tensor] = field(repr=False)
    base: Base | None = field(default=None, repr=False)

    def _title(self) -> str:
        where = {"last": "the last token", "mean": "the mean of tokens"}.get(
            str(self.position), f"token {self.position}"
        )
        return (
            f"Probes of {self.model} at {self.at}, {where}: {checks.listed(self.classes, 'or')}; {self.texts} texts, "
            f"{self.groups} of them different, {self.folds} folds"
        )

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        alone = "token alone" if self.position != "mean" else "tokens alone"
        return {
            alone: self.token._asdict(),
            "bag of tokens": self.bag._asdict(),
            "most frequent class": {"accuracy": self.chance},
        }

    def _remarks(self) -> Sequence[str]:
        lines = (
            ["Each layer by itself: of several, the best one looks better than it is."] if len(self.table) > 1 else []
        )
        if self.control_by == "text":
            lines.append(
                "Control labels are drawn for each text, since the token read does not vary enough: none can be learnt for "
                "held-out texts, so that selectivity is accuracy above chance."
            )
        return lines

    def direction(self, layer: int | None = None, label: object = None) -> Tensor:
        """(d,) float32: from the other classes towards one, in the units of what was read; `lk.steer` takes it.

        Along it the class's mean lies as far from the mean of the others as it is long, so that adding it moves an average
        text of the others to where an average one of the class reads. It is the probe's normal, which tells the classes
        apart best and
        need not be how they differ: for that there is `difference_of_means`.
        layer: may be left out where one was read.  label: the class it points to; of two, the second one.
        Raises BadInput for a layer that was not read or a label that is none of the classes.
        """
        layer = self._layer(layer)
        normals, spans = self.normals[layer], self.spans[layer]
        number = len(self.classes) - 1 if label is None else self._class(label)
        if len(self.classes) == 2:
            return normals[0] * spans[0] * (1 if number else -1)
        if label is None:
            raise BadInput(
                f"There are {len(self.classes)} classes; give label, one of {checks.listed(self.classes, 'or')}."
            )
        return normals[number] * spans[number]

    def steers(
        self,
        lab: LabLike,
        prompts: Sequence[object],
        metric: Metrics,
        *,
        layer: int | None = None,
        label: object = None,
        strengths: Sequence[float] = (1.0,),
        random: int = 20,
        tokens: str = "1:",
        chat: bool | None = False,
        seed: int = 0,
    ) -> Steers:
        """Does steering along the probe's direction do what the probe reads? As `lk.circuits.steers`, with this direction.

        strengths: in lengths of `direction(layer, label)`; negative ones push the other way.
        Raises Unavailable for a probe of anything but the residual stream, along which alone there is steering, and BadInput
        for another model than was probed.
        """
        if self.at != "residual":
            raise Unavailable(
                f"Steering is along the residual stream, and this probe reads {self.at}; probe at='residual'."
            )
        check_lab(lab)
        if self.base is not None and (differs := base_of(lab).differs(self.base)):
            raise BadInput(
                f"This probe was made on {self.base.name}, and {lab.name} {differs}; probe this model, or, to push it with this "
                "direction all the same: lk.circuits.steers(lab, probe.direction(layer), prompts, metric, layer=layer)."
            )
        layer = self._layer(layer)
        return steers(
            lab,
            self.direction(layer, label),
            prompts,
            metric,
            layer=layer,
            strengths=strengths,
            random=random,
            tokens=tokens,
            chat=chat,
            seed=seed,
        )

    def _layer(self, layer: object) -> int:
        known = list(self.normals)
        if layer is None and len(known) == 1:
            return known[0]
        found = checks.as_whole(layer)
        if found not in known:
            raise BadInput(f"layer={checks.shown(layer)} was not probed; give one of {checks.some(known, 40)}.")
        return found

    def _class(self, label: object) -> int:
        names = list(self.classes)
        if str(label) not in names:
            raise BadInput(f"label={checks.shown(label)} is none of the classes; give {checks.listed(names, 'or')}.")
        return names.index(str(label))


def probe(
    lab: LabLike,
    texts: Sequence[object],
    labels: Sequence[object],
    layer: int | Sequence[int] | None = None,
    *,
    at: str = "residual",
    position: Position = "last",
    chat: bool | None = False,
    groups: Sequence[object] | None = None,
    C: float = 1.0,
    controls: int = 3,
    seed: int = 0,
) -> Probe:
    """How well a linear classifier reads labels off a model's activations, layer by layer, beside what needs no model.

    texts: as `lab.trace` takes them; they run once for all layers, edits and adapters in force.  labels: one for each, of
        two classes or more, with at least five different texts of each.
    layer: one, several, or None for all that have the instrument.
    at: "residual" (the stream that enters a layer; of number `layers`: that leaves the last), "attention_output",
        "mlp_output", "mlp_neurons", "head_output", "queries", "keys" or "values" (heads side by side).
    position: "last"; "mean" of all tokens but the first; or a token's number, -1 the last.
    chat: False takes texts as they are; True or None makes prompts of them, up to where the answer begins.
    groups: a name for each text, such as its document or template; texts of a group are held out together.
    C: of scikit-learn's LogisticRegression, the inverse of how strongly weights are held small; activations are scaled to a
        standard deviation of 1 on what is learnt from.  controls: how many control tasks are averaged, 0 for none.
    Every accuracy is of texts held out in five folds; texts with the same token ids are in the same fold, so that none is
    judged by its own double. A row for each layer: layer; accuracy, low, high (95 %, Wilson 1927, for as many independent
    texts as there are different ones); control (the accuracy on labels that are a random function of the token at the
    position, the same for each token everywhere, with the classes' shares; of the text where that token hardly varies,
    `control_by`); selectivity, accuracy
    less control: what the probe reads beyond what it could learn by heart; over_tokens, over_tokens_low, over_tokens_high:
    accuracy less that of the better of two classifiers that see no model, of the token at the position and of the bag of
    tokens (95 % by Newcombe 1998 on the same texts). Only where over_tokens_low is above 0 does the probe beat the tokens.
    Raises BadInput for one class, too few texts, another number of labels than texts, empty texts, a layer or a position
    that is not there; Unavailable where activations are NaN or the model does not have the instrument.
    """
    import pandas as pd

    seed, controls = checks.seed(seed), checks.whole("controls", controls, 0)
    strength = checks.number("C", C, above=0)
    at = checked_place(lab, at)
    layers = checked_layers(lab, at, layer)
    rows = rows_of(lab, texts, "texts", chat=chat)
    y, classes = _classes(labels, len(rows))
    together = groups_of(rows, groups)
    check_enough(y, together, [f"Class {name!r}" for name in classes])
    where = checked_position(position, rows)
    values = gathered(lab, rows, at, layers, where).values
    rng = np.random.default_rng(seed)
    folds = folds_of(y, together, seed)

    seen = _counts(rows, where)
    alone = seen if where == "mean" else _one_hot([row[-1 if where == "last" else int(where)] for row in rows])
    by_token, by_bag = _right(alone, y, folds, strength, scaled=False), _right(seen, y, folds, strength, scaled=False)
    better = by_token if by_token.mean() >= by_bag.mean() else by_bag
    control_by, dealt = _control(alone if where != "mean" else np.zeros((len(rows), 1)), together, y, controls, rng)
    control_folds = [folds_of(each, together, seed) for each in dealt]

    found, normals, spans = [], {}, {}
    for of_layer, x in zip(layers, values.astype(np.float64), strict=True):
        right = _right(x, y, folds, strength)
        accuracy, low, high = share(right, together)
        over, over_low, over_high = _difference(right, better, together)
        controlled = [_right(x, each, of, strength).mean() for each, of in zip(dealt, control_folds, strict=True)]
        control = float(np.mean(controlled)) if controlled else float("nan")
        found.append((of_layer, accuracy, low, high, control, accuracy - control, over, over_low, over_high))
        normals[of_layer], spans[of_layer] = _normals(x, y, strength)
    columns = (
        "layer",
        "accuracy",
        "low",
        "high",
        "control",
        "selectivity",
        *(f"over_tokens{s}" for s in ("", "_low", "_high")),
    )
    return Probe(
        table=pd.DataFrame(found, columns=list(columns)),
        at=at,
        position=where,
        classes=classes,
        chance=float(np.bincount(y).max() / len(y)),
        token=Baseline(*share(by_token, together)),
        bag=Baseline(*share(by_bag, together)),
        control_by=control_by,
        texts=len(rows),
        groups=len(np.unique(together)),
        folds=len(folds),
        seed=seed,
        model=lab.name,
        normals=normals,
        spans=spans,
        base=base_of(lab),
    )


# labels ---------------------------------------------------------------------------------------------------------------


def _classes(labels: object, texts: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """(texts,) int64 index of each text's class, and the classes in order: of numbers by size, otherwise by name."""
    wanted = "a list with a label for each text, such as ['formal', 'casual', ...]"
    given = [checks.plain(each) for each in checks.series("labels", labels, wanted)]
    if len(given) != texts:
        raise BadInput(f"There are {texts} texts and {len(given)} labels; give one label for each text.")
    known: list[str | int | float] = []
    for each in given:
        if not isinstance(each, str | int | float) or each != each:
            raise BadInput(f"{checks.shown(each)} can't be a label; give texts or numbers.")
        known.append(each)
    different = set(known)
    if len(different) < 2:
        held = f"All labels are {checks.shown(known[0])}" if known else "There are no texts"
        raise BadInput(f"{held}: with one class there is nothing to tell apart; give texts of at least two.")
    numbers = all(not isinstance(each, str) for each in different)
    order = sorted(different) if numbers else sorted(different, key=str)
    names = tuple(str(each) for each in order)
    if len(set(names)) < len(names):
        raise BadInput("Two different labels read the same as text, such as 1 and '1'; write them all in one way.")
    place = {each: i for i, each in enumerate(order)}
    return np.array([place[each] for each in known], dtype=np.int64), names


# fits -----------------------------------------------------------------------------------------------------------------


class _Fit(NamedTuple):
    """A classifier of x: (classes or 1, d) weights in the units of x, (classes or 1,) intercepts."""

    weights: np.ndarray
    intercepts: np.ndarray

    def says(self, x: np.ndarray) -> np.ndarray:
        scores = x @ self.weights.T + self.intercepts
        return np.asarray(scores.argmax(1) if len(self.weights) > 1 else scores[:, 0] > 0).astype(np.int64)


def _fit(x: np.ndarray, y: np.ndarray, strength: float, *, scaled: bool) -> _Fit:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    middle, spread = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if scaled:
        middle, spread = x.mean(0), x.std(0)
        spread = np.where(spread > LEAST_SPREAD * max(float(spread.max()), 1e-300), spread, np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after so many steps what is left changes no answer
        model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit((x - middle) / spread, y)
    weights = np.asarray(model.coef_, np.float64) / spread
    return _Fit(weights, np.asarray(model.intercept_, np.float64) - weights @ middle)


def _right(
    x: np.ndarray, y: np.ndarray, folds: Sequence[np.ndarray], strength: float, *, scaled: bool = True
) -> np.ndarray:
    """(texts,) bool: which texts are told rightly by what was learnt without their fold."""
    right = np.zeros(len(y), bool)
    for held in folds:
        right[held] = _fit(x[~held], y[~held], strength, scaled=scaled).says(x[held]) == y[held]
    return right


def _normals(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[Tensor, Tensor]:
    """Of a fit on all texts: normals of length 1, and how far along each the class's mean is from that of the others."""
    weights = _fit(x, y, strength, scaled=True).weights
    normals = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-300)
    classes = [1] if len(normals) == 1 else range(len(normals))
    spans = [normal @ (x[y == c].mean(0) - x[y != c].mean(0)) for normal, c in zip(normals, classes, strict=True)]
    return torch.from_numpy(normals).float(), torch.tensor(np.array(spans)).float()


def _difference(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """How much more often the first is right, with 95 % for as many independent texts as there are groups."""
    n = len(np.unique(groups))
    counts = [float((first & second).mean()), float((first & ~second).mean()), float((~first & second).mean())]
    both, one, other = (round(each * n) for each in counts)
    p, low, high = paired_difference(both, one, other, max(n - both - one - other, 0))
    exact = float(first.mean() - second.mean())
    return exact, low + exact - p, high + exact - p


# what needs no model --------------------------------------------------------------------------------------------------


def _one_hot(tokens: Sequence[int]) -> np.ndarray:
    """(texts, different tokens)."""
    _, index = np.unique(tokens, return_inverse=True)
    return np.eye(int(index.max()) + 1)[index]


def _counts(rows: Sequence[Sequence[int]], position: Position) -> np.ndarray:
    """(texts, different tokens): how often each token is in a text, up to the position."""
    upto = [row if isinstance(position, str) else row[: range(len(row))[position] + 1] for row in rows]
    known = {token: i for i, token in enumerate(sorted({token for row in upto for token in row}))}
    counts = np.zeros((len(rows), len(known)))
    for text, row in enumerate(upto):
        np.add.at(counts[text], [known[token] for token in row], 1)
    return counts


def _control(
    alone: np.ndarray, groups: np.ndarray, y: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[str, list[np.ndarray]]:
    """What control labels are a function of, and for each draw the labels: (texts,), with about the classes' shares.

    alone: (texts, different tokens), one-hot.
    """
    tokens = alone.argmax(1)
    for by, of in (("token", tokens), ("text", groups)):
        kinds, index, sizes = np.unique(of, return_inverse=True, return_counts=True)
        found = []
        for _ in range(draws):
            for _ in range(20):  # a draw in which a class has too little to be held out is drawn again
                labels = _dealt_by_size(sizes, np.bincount(y) / len(y), rng)[index]
                if all(len(np.unique(groups[labels == c])) >= 5 for c in range(int(y.max()) + 1)):
                    found.append(labels)
                    break
        if len(kinds) > int(y.max()) + 1 and len(found) == draws:
            return by, found
    return "text", []


def _dealt_by_size(sizes: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(kinds,) a class for each kind, in random order to the class that lacks most of its share."""
    total, missing = sizes.sum(), shares * sizes.sum()
    found = np.zeros(len(sizes), np.int64)
    for kind in rng.permutation(len(sizes)):
        chance = np.maximum(missing, 0) / max(np.maximum(missing, 0).sum(), 1e-12 * total)
        found[kind] = (
            rng.choice(len(shares), p=chance / chance.sum()) if chance.sum() > 0 else rng.integers(len(shares))
        )
        missing[found[kind]] -= sizes[kind]
    return found
