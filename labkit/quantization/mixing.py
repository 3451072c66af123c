"""A mix of bits: which matrix gets which format, so that the whole fits a number of bytes and costs as little as can be.

What each matrix costs alone in each format is measured on some texts; the costs are taken to add up; and the best choice
within the bytes is found by dynamic programming (the multiple-choice knapsack, Kellerer, Pferschy and Pisinger 2004, ch. 11):
exactly where the bytes fit into 20,000 steps, as in small models, and else with bytes rounded up to a step, which leaves
less than a step a matrix unused; it is never worse than one format for all. The result is measured on other texts,
beside uniform bits and beside mixes chosen at random.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.models.memory import human_bytes
from labkit.models.texts import texts as shipped_texts
from labkit.quantization import formats as formats_module
from labkit.quantization.comparing import compare, logits_of
from labkit.quantization.counting import packed_bytes
from labkit.quantization.grids import Format
from labkit.quantization.held_out import note_seen
from labkit.quantization.intervals import few_remarks, interval_of, with_interval
from labkit.quantization.inventory import contents
from labkit.quantization.quantizing import quantize
from labkit.quantization.sensitivities import (
    DRAWS,
    LONGEST,
    TOKENS,
    Alone,
    Given,
    Place,
    Row,
    alone,
    exchanged,
    formats_of,
    places,
)
from labkit.results import Result
from labkit.trace.building import refuse_odd_weights
from labkit.trace.documents import Documents
from labkit.trace.lab_like import check_lab
from labkit.trace.overlaps import Seen

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import BuiltLab

Made = TypeVar("Made", bound="BuiltLab")
FORMATS = ("int8", "int4", "int3", "int2")
MOST_STEPS = 20_000  # of the bytes, into which a budget is cut
CURVE = 60  # budgets on the curve
RANDOM = 3  # mixes chosen at random
PASSAGES = 8  # of each kind, of the texts that come with labkit, on each side


@dataclass(frozen=True, eq=False)
class Choices:
    """What there is to choose from: for each place its options, from the fewest bytes to the most."""

    rows: tuple[tuple[Row, ...], ...]
    tokens: int
    rest_bytes: int

    @property
    def smallest(self) -> int:
        """Bytes of the smallest mix, with all that is not quantized."""
        return self.rest_bytes + sum(options[0].size_bytes for options in self.rows)

    @property
    def largest(self) -> int:
        return self.rest_bytes + sum(max(row.size_bytes for row in options) for options in self.rows)

    @cached_property
    def kl(self) -> list[np.ndarray]:
        """For each place the KL of its options, nats a token."""
        return [np.array([row.sums.sum() / self.tokens for row in options]) for options in self.rows]

    @cached_property
    def _solved(self) -> tuple[int, list[np.ndarray], list[np.ndarray], np.ndarray]:
        """(bytes of a step, steps of each option, choice by place and steps left, least KL by steps)."""
        extra = [np.array([row.size_bytes - options[0].size_bytes for row in options]) for options in self.rows]
        step = math.gcd(*(int(e) for of_place in extra for e in of_place)) or 1
        total = sum(int(e.max()) for e in extra)
        step = max(step, -(-total // MOST_STEPS))
        costs = [-(-e // step) for e in extra]  # rounded up: what is chosen always fits
        steps = sum(int(cost.max()) for cost in costs)
        best = np.zeros(steps + 1)
        choices = []
        for cost, kl in zip(costs, self.kl, strict=True):
            tried = np.full((len(cost), steps + 1), np.inf)
            for option, (c, k) in enumerate(zip(cost.tolist(), kl.tolist(), strict=True)):
                tried[option, c:] = best[: steps + 1 - c] + k
            choices.append(tried.argmin(0).astype(np.uint8))
            best = tried.min(0)
        return step, costs, choices, best

    def _steps(self, budget: int) -> int:
        step, _, _, best = self._solved
        return min((budget - self.smallest) // step, len(best) - 1)

    def solve(self, budget: int) -> list[int]:
        """Which option each place gets, so that all fits into the budget at the least sum of KL."""
        _, costs, choices, _ = self._solved
        left = self._steps(budget)
        found: list[int] = []
        for cost, choice in zip(reversed(costs), reversed(choices), strict=True):
            found.append(int(choice[left]))
            left -= int(cost[found[-1]])
        # In large models a step is more than a byte and what is chosen is rounded up, so that what fits only just is passed
        # over: one format for all is looked at besides.
        alike = [each for each in self.alike() if self.size(each) <= budget]
        return min([found[::-1], *alike], key=self.predicted)

    def alike(self) -> list[list[int]]:
        """The mixes that give every place the same format, or the largest that it has."""
        return [_one_format(self, name) for name in dict.fromkeys(row.asked.name for o in self.rows for row in o)]

    def at_random(self, budget: int, rng: np.random.Generator) -> list[int]:
        """Options raised at random, one step at a time, as long as they fit."""
        chosen = [0] * len(self.rows)
        room = budget - self.smallest
        steps = [place for place, options in enumerate(self.rows) for _ in options[1:]]
        for place in rng.permutation(steps).tolist():
            options, at = self.rows[place], chosen[place]
            more = options[at + 1].size_bytes - options[at].size_bytes
            if more <= room:
                room -= more
                chosen[place] += 1
        return chosen

    def size(self, chosen: Sequence[int]) -> int:
        return self.rest_bytes + sum(o[i].size_bytes for o, i in zip(self.rows, chosen, strict=True))

    def predicted(self, chosen: Sequence[int]) -> float:
        return float(sum(kl[i] for kl, i in zip(self.kl, chosen, strict=True)))


@dataclass(frozen=True, eq=False, repr=False)
class Mix(Result, Generic[Made]):
    """Which format each matrix gets; `mix` tells the columns of the table.

    budget_bytes: what was asked for.  size_bytes: of the whole model as it would be, what is not quantized included.
    smallest_bytes, largest_bytes: of the mixes there are.  predicted_kl: the sum of what the matrices cost alone.
    curve: budget_bytes and predicted_kl, from the smallest to the largest mix.
    uniform: a row for each format given to all: format, size_bytes, predicted_kl, and mix_kl, the prediction for the best
        mix of as many bytes.
    measured: on other texts than the mix was found on, in nats a token with 95 % (documents drawn again within their kinds,
        NaN where a kind has fewer than 5): what ("mix",
        "uniform int4", "mix as large as uniform int4", "random mix": the mean of three chosen at random within the budget),
        size_bytes, predicted_kl, kl, kl_low, kl_high. None for a mix that `solve` found.
    """

    budget_bytes: int
    size_bytes: int
    smallest_bytes: int
    largest_bytes: int
    predicted_kl: float
    curve: pd.DataFrame
    uniform: pd.DataFrame
    measured: pd.DataFrame | None
    model: str
    tokens: int
    documents: int
    notes: tuple[str, ...]
    _choices: Choices = field(repr=False)
    _lab: Made = field(repr=False)
    _seen: Seen = field(repr=False)

    def config(self) -> dict[str, Given]:
        """{matrix: format}, which `quantize(lab, mix.config())` takes; names alone, ready for JSON, where formats were
        given by name."""
        formats: dict[str, Given] = dict(zip(self.table["name"], self._given(), strict=True))
        return formats

    def _given(self) -> list[Given]:
        asked = {(row.place.name, row.asked.name): row.given for options in self._choices.rows for row in options}
        return [asked[key] for key in zip(self.table["name"], self.table["format"], strict=True)]

    @property
    def options(self) -> pd.DataFrame:
        """All that there was to choose from: the columns of the table, a row for each matrix and each format it may have."""
        import pandas as pd

        rows = [
            _told(row, float(kl[option]))
            for options, kl in zip(self._choices.rows, self._choices.kl, strict=True)
            for option, row in enumerate(options)
        ]
        return pd.DataFrame(rows).astype({"layer": "Int64"})

    def lab(self) -> Made:
        """The model in this mix of formats, by rounding to nearest. It knows what texts the mix was found on, and `damage`
        refuses those, which a lab of `quantize(lab, mix.config())` does not."""
        made = quantize(self._lab, self.config(), progress=False)
        note_seen(made, self._seen, "had its mix of formats found on")
        return made

    def solve(self, budget_bytes: int) -> Mix[Made]:
        """The best mix for another budget, from the same measurements: in milliseconds."""
        budget = _checked(self._choices, budget_bytes)
        chosen = self._choices.solve(budget)
        return dataclasses.replace(
            self,
            table=_table(self._choices, chosen),
            budget_bytes=budget,
            size_bytes=self._choices.size(chosen),
            predicted_kl=self._choices.predicted(chosen),
            measured=None,
        )

    def _title(self) -> str:
        bits = 8 * self.table["bytes"].sum() / self.table["weights"].sum()
        return (
            f"{self.model} in {human_bytes(self.size_bytes)} of {human_bytes(self.budget_bytes)}: {bits:.2f} bits a weight "
            f"where it is quantized, KL of {self.predicted_kl:.3g} nats a token predicted"
        )

    def _remarks(self) -> Sequence[str]:
        lines: list[str] = []
        if self.measured is not None:
            lines = [
                f"{row.what}, {human_bytes(row.size_bytes)}: KL {with_interval(row.kl, row.kl_low, row.kl_high)} measured"
                for row in self.measured.itertuples()
            ]
        return (*lines, *self.notes)


def mix(
    lab: Made,
    *,
    budget_bytes: int,
    texts: object = None,
    measured_on: object = None,
    formats: Sequence[Given] = FORMATS,
    head: bool = False,
    tokens: int | None = TOKENS,
    longest: int | None = LONGEST,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> Mix[Made]:
    """The mix of formats that fits a number of bytes and costs the least KL divergence to the original.

    budget_bytes: for the whole model, what is not quantized included.
    texts: what each matrix's cost is measured on.  measured_on: what the mix and uniform bits are then measured on, other
        documents, since a choice is flattered by the texts it was made on; a document in both is refused. Without either,
        passages that come with labkit, of each side other ones.
    formats: to choose from, by name or as Formats.  head: also for the embedding and the output head, which otherwise stay
        as they are.  tokens, longest: as in `sensitivity`, for each side.
    The table has a row for each matrix: name, layer, matrix, format, bits_per_weight, bytes, weights, kl (alone).
    Costs are taken to add up, which is nearly so while they are small; `measured` holds what the mixes cost on the other texts.
    Raises BadInput for a budget below the smallest mix, and texts in both; Unavailable for a quantized model. The default
    model's weights lie on a 4-bit grid (`on_grid`): a mix found on it is an artefact of that grid.
    """
    check_lab(lab)
    checks.flag("progress", progress)
    refuse_odd_weights(lab, "given a mix of formats")
    wanted = formats_of(None, formats, "formats")
    budget = checks.whole("budget_bytes", budget_bytes, 1, wanted="a whole number of bytes, such as 8 * 2**30")
    most = None if tokens is None else checks.whole("tokens", tokens, 1)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    cut = None if longest is None else checks.whole("longest", longest, 2)
    if (texts is None) != (measured_on is None):
        raise BadInput(
            "The texts that a mix is found on and those it is measured on have to be different ones; give both texts and "
            "measured_on, such as lk.quantization.texts(8) and lk.quantization.texts(8, skip=8), or neither."
        )
    ours = shipped_texts(PASSAGES) if texts is None else texts
    others = shipped_texts(PASSAGES, skip=PASSAGES) if measured_on is None else measured_on
    found_on, judged_on = (Documents(lab, each, most=most, longest=cut) for each in (ours, others))
    if both := judged_on.also_in(lab, ours):
        raise BadInput(
            f"{len(both)} of the documents to measure on ({checks.some(both)}) stand also in those the mix is found on, which "
            "would flatter it; give others, such as lk.quantization.texts(8) and lk.quantization.texts(8, skip=8)."
        )
    _refuse_below(smallest_mix(lab, wanted, head), budget, None)  # before the costs are measured, which takes minutes
    measured = alone(lab, found_on, wanted, head=head, progress=progress)
    if not measured.complete:
        raise KeyboardInterrupt  # half the costs make no mix
    choices = _choices(lab, measured, int(found_on.tokens.sum()))
    budget = _checked(choices, budget)
    chosen = choices.solve(budget)
    uniform = {each.name: _one_format(choices, each.name) for each in wanted}
    return Mix(
        _table(choices, chosen),
        budget_bytes=budget,
        size_bytes=choices.size(chosen),
        smallest_bytes=choices.smallest,
        largest_bytes=choices.largest,
        predicted_kl=choices.predicted(chosen),
        curve=_curve(choices),
        uniform=_uniform_table(choices, uniform),
        measured=_measured(lab, judged_on, choices, chosen, uniform, budget, draws, seed, progress),
        model=lab.name,
        tokens=int(judged_on.tokens.sum()),
        documents=len(judged_on.ids),
        notes=(*found_on.cut, *few_remarks(judged_on), *measured.notes),
        _choices=choices,
        _lab=lab,
        _seen=Seen.of(lab, ours),
    )


def _choices(lab: BuiltLab, measured: Alone, tokens: int) -> Choices:
    by_place: dict[str, list[Row]] = {}
    for row in measured.rows:
        by_place.setdefault(row.place.name, []).append(row)
    if not by_place:
        raise BadInput(
            f"No matrix of {lab.name} can be quantized so, since {measured.why}; give other formats, or head=True."
        )
    rows = tuple(tuple(sorted(options, key=lambda row: row.size_bytes)) for options in by_place.values())
    rest = contents(lab).size_bytes - sum(options[0].place.size_bytes for options in rows)
    return Choices(rows, tokens, rest)


def _checked(choices: Choices, budget_bytes: object) -> int:
    budget = checks.whole("budget_bytes", budget_bytes, 1, wanted="a whole number of bytes, such as 8 * 2**30")
    _refuse_below(choices.smallest, budget, choices.rest_bytes)
    return budget


def _refuse_below(smallest: int, budget: int, rest: int | None) -> None:
    if budget < smallest:
        of_it = "" if rest is None else f", {human_bytes(rest)} of it not quantized"
        raise BadInput(
            f"budget_bytes={budget:,} is too little: the smallest mix of these formats takes {smallest:,} bytes{of_it}; give as "
            "many, or formats of fewer bits, or head=True."
        )


def smallest_mix(lab: BuiltLab, wanted: Sequence[Format], head: bool) -> int:
    """Bytes of the smallest mix, counted without measuring anything."""
    saved = 0
    for place in places(lab, head):
        fitted = (formats_module.fitted(formats_module.as_given(each), place.weight.shape) for each in wanted)
        sizes = [packed_bytes(each, tuple(place.weight.shape)) for each in fitted if isinstance(each, Format)]
        saved += place.size_bytes - min(sizes) if sizes else 0
    return contents(lab).size_bytes - saved


def _one_format(choices: Choices, name: str) -> list[int]:
    """Everything in one format; where a matrix does not have it, in the largest that it has."""
    return [
        next((i for i, row in enumerate(options) if row.asked.name == name), len(options) - 1)
        for options in choices.rows
    ]


def _table(choices: Choices, chosen: Sequence[int]) -> pd.DataFrame:
    import pandas as pd

    picked = zip(choices.rows, choices.kl, chosen, strict=True)
    rows = [_told(options[option], float(kl[option])) for options, kl, option in picked]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _told(row: Row, kl: float) -> dict[str, object]:
    """One matrix in one format, as a row of a table."""
    weights = row.place.weight.numel()
    return {
        "name": row.place.name,
        "layer": row.place.layer,
        "matrix": row.place.matrix,
        "format": row.asked.name,
        "bits_per_weight": 8 * row.size_bytes / weights,
        "bytes": row.size_bytes,
        "weights": weights,
        "kl": kl,
    }


def _curve(choices: Choices) -> pd.DataFrame:
    import pandas as pd

    budgets = np.unique(np.linspace(choices.smallest, choices.largest, CURVE).astype(np.int64)).tolist()
    return pd.DataFrame(
        {"budget_bytes": budgets, "predicted_kl": [choices.predicted(choices.solve(budget)) for budget in budgets]}
    )


def _uniform_table(choices: Choices, uniform: dict[str, list[int]]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "format": name,
            "size_bytes": choices.size(chosen),
            "predicted_kl": choices.predicted(chosen),
            "mix_kl": choices.predicted(choices.solve(choices.size(chosen))),
        }
        for name, chosen in uniform.items()
    ]
    return pd.DataFrame(rows)


# measured on other texts ------------------------------------------------------------------------------------------------------


def _measured(
    lab: BuiltLab,
    documents: Documents,
    choices: Choices,
    chosen: list[int],
    uniform: dict[str, list[int]],
    budget: int,
    draws: int,
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    import pandas as pd
    from tqdm.auto import tqdm

    rng = np.random.default_rng([seed, 1])
    tried = {"mix": [chosen]}
    for name, one in uniform.items():
        tried[f"uniform {name}"] = [one]
        same_bytes = choices.solve(choices.size(one))
        if same_bytes != one:
            tried[f"mix as large as uniform {name}"] = [same_bytes]
    tried["random mix"] = [choices.at_random(budget, rng) for _ in range(RANDOM)]
    weights = documents.drawn(draws, seed)
    drawn, tokens = weights @ documents.tokens, float(documents.tokens.sum())
    different = {tuple(one) for several in tried.values() for one in several}  # one mix may stand in several rows
    sums_of = {
        one: _divergence(lab, documents, choices, one)
        for one in tqdm(sorted(different), desc="measuring mixes", unit="mix", disable=not progress)
    }
    rows = []
    for what, several in tried.items():
        sums = np.mean([sums_of[tuple(one)] for one in several], axis=0)
        low, high = interval_of(documents, documents.tokens, (weights @ sums) / drawn)
        rows.append(
            {
                "what": what,
                "size_bytes": int(np.mean([choices.size(one) for one in several])),
                "predicted_kl": float(np.mean([choices.predicted(one) for one in several])),
                "kl": float(sums.sum() / tokens),
                "kl_low": low,
                "kl_high": high,
            }
        )
    return pd.DataFrame(rows)


def _divergence(lab: BuiltLab, documents: Documents, choices: Choices, chosen: Sequence[int]) -> np.ndarray:
    """(documents,): KL of a mix, summed over each document's counted tokens."""
    changes: list[tuple[Place, torch.Tensor]] = []
    for options, option in zip(choices.rows, chosen, strict=True):
        row = options[option]
        changes.append((row.place, row.format.pack(row.place.weight, row.place.name).unpack()))
    plain: Callable[[int], torch.Tensor] = logits_of(documents, lab)

    def mixed(number: int) -> torch.Tensor:
        with lab.turn(), exchanged(changes):
            return documents.run(lab, number).all_logits

    (found,) = compare(documents, plain, [mixed])
    return np.bincount(found.document, weights=found.kl, minlength=len(documents.ids))
