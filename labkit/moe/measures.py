"""Who takes what: load, balance, specialisation, co-activation and saturation of a mixture's experts.

Every number stands beside what chance gives: load, balance and specialisation beside an even choice and, where they were
collected, routers of random directions in the same model, specialisation also beside what the tokens alone bring with them;
co-activation beside independent choice with the same loads and the random routers' strongest pair; saturation beside an even
choice, one with the same loads and the random routers. Shares and ratios, and of balance the largest violation, have an
interval over documents: tokens are never taken for independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.moe.counts import (
    LEAST_DOCUMENTS,
    LEAST_TOKENS,
    check_routing,
    choices_by_document,
    documents_of_kind,
    grid,
    tokens_by_document,
    too_few,
)
from labkit.moe.measured import Measured, origin
from labkit.moe.mutual import Data, Pairs
from labkit.moe.routing import Routing
from labkit.results import Result
from labkit.statistics import centred_interval, entropy, interval, resampled

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 1_000
STANDINS = 6  # untrained routers that are put in the model's place
STANDIN_DRAWS = 200  # resamplings of the documents for each of them


@dataclass(frozen=True, eq=False, repr=False)
class Load(Measured):
    """Each expert's share of the choices; `load` tells the columns of its table.

    untrained: how many untrained routers stand beside it.
    """

    untrained: int

    def _what(self) -> str:
        return "Load of the experts"


@dataclass(frozen=True, eq=False, repr=False)
class Balance(Measured):
    """How evenly the experts of each layer are used; `balance` tells the columns of its table.

    most_entropy: bits, of an even load; it stands beneath the table with what else an even load has.
    """

    most_entropy: float

    def _what(self) -> str:
        return "Balance of the layers"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        perfect = {"entropy": self.most_entropy, "entropy_share": 1.0, "max_violation": 0.0, "never_chosen": 0}
        return {"even load": perfect}


class Found(TypedDict):
    """How many experts stand out by a rule, and how many of an untrained router do."""

    found: float
    by_chance: float


@dataclass(frozen=True, eq=False, repr=False)
class Specialisation(Measured):
    """Which expert is chosen for which kind of text; `specialisation` tells the columns of its table.

    untrained: how many untrained routers stand beside it.
    stand_out: for each of two rules how many experts (of a layer, for one kind or several) stand out, `found`, and how many
        do `by_chance`: the mean over `standins` untrained routers, each held against the others as the model is against
        all. The rules: "untrained_high" where low is above untrained_high, "untrained_largest" where it is above that.
    stand_out_by_layer: the same by layer. found is NaN without untrained routers, by_chance with fewer than two.
    """

    untrained: int
    standins: int
    stand_out: Mapping[str, Found]
    stand_out_by_layer: Mapping[int, Mapping[str, Found]]

    def _what(self) -> str:
        return "Specialisation of the experts"

    def _remarks(self) -> Sequence[str]:
        counts = [
            f"experts whose whole interval is above {rule}: {counted['found']:g}; of an untrained router's "
            f"{counted['by_chance']:.1f}"
            for rule, counted in self.stand_out.items()
            if not np.isnan(counted["by_chance"])
        ]
        return (*counts, *self.notes)


def load(routing: Routing, *, draws: int = DRAWS, seed: int = 0) -> Load:
    """Each expert's share of the choices.

    Returns a row for each layer and expert: layer, expert, load (the shares of a layer sum to 1), low and high (95 %,
    resampling documents within their kinds), uniform (1/E), untrained_low and untrained_high (between which 95 % of the loads
    of all experts of the untrained routers lie in this layer; NaN where none were collected).
    """
    import pandas as pd

    check_routing(routing)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    counts = _by_document(routing, routing.experts).astype(np.float64)
    samples = np.tensordot(resampled(routing.kind_of, draws, np.random.default_rng(seed)), counts, 1)
    low, high = interval(samples / samples.sum(-1, keepdims=True))
    shares = counts.sum(0) / counts.sum((0, 2))[:, None]
    others = [_by_document(routing, chosen).sum(0) for chosen in _untrained(routing)]
    band = np.full((2, len(shares)), np.nan)
    if others:
        band = np.array(interval(np.concatenate(others, axis=1) / (len(routing) * routing.k), 1))
    table = pd.DataFrame(
        grid(layer=routing.layers, expert=range(routing.n_experts))
        | {"load": shares.ravel(), "low": low.ravel(), "high": high.ravel(), "uniform": 1 / routing.n_experts}
        | {name: np.repeat(of, routing.n_experts) for name, of in zip(_BAND, band, strict=True)}
    )
    return Load(table, **origin(routing, draws, seed), untrained=len(others))


def balance(routing: Routing, *, draws: int = DRAWS, seed: int = 0) -> Balance:
    """How evenly the experts of each layer are used.

    Returns a row a layer: layer; entropy of the load (bits); entropy_share (of log2 E, 1 when even); max_violation (the
    largest load over the mean load, minus 1: MaxVio of Wang et al. 2024, over all these tokens as one batch) with
    max_violation_low and max_violation_high (95 %, resampling documents within kinds, corrected for what resampling adds);
    never_chosen (experts). Beside them, with the prefix even_, the mean over `draws` choices of k experts at random for as
    many tokens, and with untrained_ the mean over the untrained routers (NaN where none were collected).
    """
    import pandas as pd

    check_routing(routing)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    rng = np.random.default_rng(seed)
    each = _by_document(routing, routing.experts)
    counts = each.sum(0)
    even = even_counts(len(routing), routing.n_experts, routing.k, draws, rng)
    samples = np.tensordot(resampled(routing.kind_of, draws, rng), each.astype(np.float64), 1)
    found = _evenness(counts)
    low, high = centred_interval(found["max_violation"], _evenness(samples)["max_violation"])
    columns: dict[str, object] = {"layer": routing.layers}
    for name, value in found.items():
        columns[name] = value
        if name == "max_violation":
            columns |= {"max_violation_low": low, "max_violation_high": high}
    columns |= {f"even_{name}": np.full(len(counts), np.mean(value)) for name, value in _evenness(even).items()}
    others = [_evenness(_by_document(routing, chosen).sum(0)) for chosen in _untrained(routing)]
    others = others or [{name: np.full(len(counts), np.nan) for name in found}]
    columns |= {f"untrained_{name}": np.mean([other[name] for other in others], axis=0) for name in others[0]}
    return Balance(
        pd.DataFrame(columns), **origin(routing, draws, seed), most_entropy=float(np.log2(routing.n_experts))
    )


def specialisation(
    routing: Routing,
    *,
    least_documents: int = LEAST_DOCUMENTS,
    least_tokens: int = LEAST_TOKENS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Specialisation:
    """For each layer, kind of text and expert, the share of the kind's tokens for which the expert is among the k chosen.

    Domain specialisation of OLMoE (Muennighoff et al. 2024). Returns a row each: layer, kind, expert, share (those of a
    layer and kind sum to k), low and high (95 %, resampling the kind's documents), uniform (k/E). An untrained router's
    experts have no identity, so what they show is told for the layer and kind as a whole: untrained_low and
    untrained_high, between which 95 % of the shares of all their experts lie, and untrained_largest, the largest share of
    a router, which one router in twenty exceeds: the one to hold the most striking of many experts against. by_token: the
    share if each token went where this token went in the other documents (as the load is where it occurs in no other):
    what the tokens of the kind bring with them. tokens, documents: of the kind, documents without a counted token left out.
    note: why there are no numbers, for a kind with fewer than least_documents or least_tokens.
    The result's `stand_out` counts the experts that stand out, and how many of an untrained router's do.
    """
    import pandas as pd

    check_routing(routing)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    rng = np.random.default_rng(seed)
    notes = too_few(routing, least_documents, least_tokens)
    kept = [kind for kind, note in enumerate(notes) if not note]
    tokens, counts = tokens_by_document(routing), _by_document(routing, routing.experts)
    others = [_by_document(routing, chosen) for chosen in _untrained(routing)]
    standins = min(STANDINS, len(others)) if len(others) > 1 else 0
    shape = (len(routing.layers), len(routing.kinds), routing.n_experts)
    columns = {
        name: np.full(shape, np.nan) for name in ("share", "low", "high", *_BAND, "untrained_largest", "by_token")
    }
    # (layer, expert): whether it stands out for some kind
    out = {rule: np.zeros((1 + standins, shape[0], shape[2]), bool) for rule in RULES}
    for kind in kept:
        members = np.flatnonzero((routing.kind_of == kind) & (tokens > 0))
        total = tokens[members].sum()
        weights = resampled(np.zeros(len(members), np.int64), draws, rng)

        def over_documents(
            of: np.ndarray, weights: np.ndarray, members: np.ndarray = members
        ) -> tuple[np.ndarray, np.ndarray]:
            sums = np.tensordot(weights, of[members].astype(np.float64), 1)
            return interval(sums / (weights @ tokens[members])[:, None, None])

        columns["share"][:, kind] = counts[members].sum(0) / total
        columns["low"][:, kind], columns["high"][:, kind] = over_documents(counts, weights)
        if not others:
            continue
        shares = np.stack([other[members].sum(0) for other in others], axis=1) / total  # (L, R, E)
        crowd = _crowd(shares)
        for name, value in crowd.items():
            columns[name][:, kind] = value[:, None]
        for rule in RULES:
            out[rule][0] |= columns["low"][:, kind] > crowd[rule][:, None]
        for number in range(standins):
            low = over_documents(others[number], weights[:STANDIN_DRAWS])[0]
            crowd = _crowd(np.delete(shares, number, axis=1))
            for rule in RULES:
                out[rule][1 + number] |= low > crowd[rule][:, None]
    if kept:
        data = Data.of(routing, kept)
        pairs, of_kind = Pairs.of_data(data), np.bincount(data.kind_of[data.document], minlength=len(kept))
        for layer in range(shape[0]):
            columns["by_token"][layer, kept] = pairs.elsewhere(data.experts[:, layer], shape[2]) / of_kind[:, None]
    axes = grid(layer=routing.layers, kind=routing.kinds, expert=range(routing.n_experts))
    number_of = np.tile(np.repeat(np.arange(shape[1]), shape[2]), shape[0])
    every = {name: column.ravel() for name, column in columns.items()}
    table = pd.DataFrame(
        axes
        | {name: every[name] for name in ("share", "low", "high")}
        | {"uniform": routing.k / routing.n_experts}
        | {name: every[name] for name in (*_BAND, "untrained_largest", "by_token")}
        | {"tokens": np.bincount(routing.kind, minlength=shape[1])[number_of]}
        | {"documents": documents_of_kind(routing)[number_of], "note": np.array(notes, dtype=object)[number_of]}
    )
    by_layer = {rule: found.sum(2) for rule, found in out.items()}  # (1 + standins, L)
    return Specialisation(
        table,
        **origin(routing, draws, seed),
        untrained=len(others),
        standins=standins,
        stand_out={rule: _beside_chance(found.sum(1), len(others)) for rule, found in by_layer.items()},
        stand_out_by_layer={
            layer: {rule: _beside_chance(found[:, i], len(others)) for rule, found in by_layer.items()}
            for i, layer in enumerate(routing.layers)
        },
    )


RULES = ("untrained_high", "untrained_largest")  # what an expert's whole interval is to be above, to stand out


def _crowd(shares: np.ndarray) -> dict[str, np.ndarray]:
    """(L,) each: what the experts of untrained routers show together. shares: (L, R, E)."""
    low, high = interval(shares.reshape(len(shares), -1), 1)
    largest = np.percentile(shares.max(-1), 95, axis=1)
    return {"untrained_low": low, "untrained_high": high, "untrained_largest": largest}


def _beside_chance(found: np.ndarray, routers: int) -> Found:
    """found: (1 + standins,), how many experts stand out, the model's first."""
    return {
        "found": int(found[0]) if routers else np.nan,
        "by_chance": float(found[1:].mean()) if len(found) > 1 else np.nan,
    }


# co-activation --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Coactivation(Measured):
    """Which experts are chosen together.

    table: the strongest pairs of each layer, a row each: layer, first, second (the more often chosen first), together
        (tokens that chose both), given (share of the second's tokens that chose the first), independent, ratio (given over
        independent), low and high (95 % of the ratio, resampling documents within their kinds), untrained_largest (the
        largest ratio of an untrained router, which one in twenty exceeds). `pairs` is the same.
    given: (L, E, E) float64, the share of the tokens that chose expert i (row) which chose j (column) as well; NaN on the
        diagonal and for an expert never chosen.
    independent: (L, E, E), the same for a choice of k experts that has each expert's load and nothing else in common.
    layers: which layers of the model are routed.  least_share: pairs that independent choice would bring together for a
        smaller share of the tokens are left out.
    """

    given: np.ndarray
    independent: np.ndarray
    layers: tuple[int, ...]
    least_share: float

    @property
    def pairs(self) -> pd.DataFrame:
        """The table of the strongest pairs."""
        return self.table

    def _title(self) -> str:
        return f"Co-activation of {self.given.shape[1]} experts in {len(self.layers)} layers of {self.model}"


def coactivation(
    routing: Routing, *, top: int = 5, least_share: float = 0.001, draws: int = DRAWS, seed: int = 0
) -> Coactivation:
    """Experts chosen together by a token, beside what independent choice with the same loads would give.

    top: how many pairs of each layer are told, by how much more often they are chosen together than independent choice
    would; pairs that independent choice would bring together for fewer than `least_share` of the tokens are left out.
    Independent choice: the one distribution over sets of k experts that has these loads and is otherwise as random as can
    be (conditional Bernoulli, Chen, Dempster and Liu 1994).
    Raises BadInput where a single expert is chosen, which has no company.
    """
    import pandas as pd

    check_routing(routing)
    top = checks.whole("top", top, 1)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    if routing.k < 2:
        raise BadInput("One expert is chosen for each token here, so none are chosen together; see load instead.")
    experts = routing.n_experts
    given = np.full((len(routing.layers), experts, experts), np.nan)
    independent = np.full_like(given, np.nan)
    rng = np.random.default_rng(seed)
    weights = resampled(routing.kind_of, draws, rng)
    rows = []
    for index, layer in enumerate(routing.layers):
        chosen = _indicator(routing.experts[:, index], experts)
        joint, expected, ratio = _together(chosen, routing.k, least_share)
        alone = np.diag(joint)
        with np.errstate(invalid="ignore", divide="ignore"):
            given[index] = np.where(np.eye(experts, dtype=bool), np.nan, joint / alone[:, None])
            independent[index] = np.where(np.eye(experts, dtype=bool), np.nan, expected / alone[:, None])
        largest = np.nan
        if routing.untrained is not None:
            others = [_together(_indicator(o[:, index], experts), routing.k, least_share)[2] for o in routing.untrained]
            largest = float(np.percentile([np.nanmax(o, initial=0.0) for o in others], 95))
        upper = np.triu(np.nan_to_num(ratio, nan=-1.0), 1)
        for place in np.argsort(-upper, axis=None, kind="stable")[:top]:
            pair = sorted(divmod(int(place), experts), key=lambda e: (-alone[e], e))
            if not ratio[pair[0], pair[1]] > 0:
                continue
            low, high = _ratio_interval(chosen[:, pair], routing, weights, ratio[pair[0], pair[1]])
            first, second = pair
            rows.append(
                {
                    "layer": layer,
                    "first": first,
                    "second": second,
                    "together": int(joint[first, second]),
                    "given": given[index, second, first],
                    "independent": independent[index, second, first],
                    "ratio": ratio[first, second],
                    "low": low,
                    "high": high,
                    "untrained_largest": largest,
                }
            )
    return Coactivation(
        pd.DataFrame(rows, columns=PAIR_COLUMNS),
        **origin(routing, draws, seed),
        given=given,
        independent=independent,
        layers=routing.layers,
        least_share=least_share,
    )


PAIR_COLUMNS = (
    *("layer", "first", "second", "together", "given", "independent", "ratio", "low", "high"),
    "untrained_largest",
)


def _together(chosen: np.ndarray, k: int, least_share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(E, E) each: tokens that chose both (an expert's own on the diagonal), as many by independent choice, the ratio."""
    n = len(chosen)
    joint = (chosen.T @ chosen).astype(np.float64)
    expected = joint_inclusion(np.diag(joint) / n, k) * n
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((expected >= least_share * n) & (expected > 0), joint / expected, np.nan)
    np.fill_diagonal(ratio, np.nan)
    return joint, expected, ratio


def _ratio_interval(pair: np.ndarray, routing: Routing, weights: np.ndarray, ratio: float) -> tuple[float, float]:
    """The pair's own three counts are resampled by document; the constant between their product and chance is kept."""
    documents = len(routing.kind_of)
    counts = [
        np.bincount(routing.document, weights=w, minlength=documents)
        for w in (pair[:, 0] * pair[:, 1], pair[:, 0], pair[:, 1], np.ones(len(pair)))
    ]
    both, first, second, total = (weights @ c for c in counts)
    lift = both * total / np.maximum(first * second, 1)
    plain = counts[0].sum() * counts[3].sum() / (counts[1].sum() * counts[2].sum())
    low, high = interval(lift * (ratio / plain))
    return float(low), float(high)


def joint_inclusion(loads: np.ndarray, k: int) -> np.ndarray:
    """(E, E): how often i and j are both in a random set of k that holds each expert with its probability in `loads`.

    loads: (E,), summing to k.  Off the diagonal rows sum to (k - 1) times the load; the diagonal is 0.
    Conditional Bernoulli (Chen, Dempster and Liu 1994): sets are weighted by the product of their members' odds. The odds
    that give these loads are the maximum of a concave likelihood, found by Newton's method.
    """
    always, never = loads >= 1 - 1e-9, loads <= 1e-12
    free = np.flatnonzero(~always & ~never)
    joint = np.where(always[:, None], loads, np.where(always, loads[:, None], 0.0))
    left = k - int(always.sum())
    if len(free) and left > 0:
        wanted = loads[free]
        logits = np.log(wanted / (1 - wanted))
        among, got = _of_odds(np.exp(logits - logits.max()), left)
        for _ in range(100):
            if np.abs(got - wanted).max() < 1e-12:
                break
            covariance = among - np.outer(got, got)
            np.fill_diagonal(covariance, got * (1 - got))
            # adding a constant to all logits changes nothing: the solution of least length is taken
            step = np.linalg.lstsq(covariance, wanted - got, rcond=1e-10)[0]
            logits = logits + step / max(1.0, np.abs(step).max())  # far from the end Newton's steps are too long
            among, got = _of_odds(np.exp(logits - logits.max()), left)
        joint[np.ix_(free, free)] = among
    np.fill_diagonal(joint, 0.0)
    return joint


def _of_odds(odds: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(E, E) how often both, (E,) how often each is in a random set of k, sets being weighted by their members' odds."""
    experts = len(odds)
    whole = _symmetric(odds[None], k)[0, k]
    others = ~np.eye(experts, dtype=bool)
    rows = odds * others
    each = odds * _symmetric(rows, k - 1)[:, k - 1] / whole
    if k == 1:
        return np.zeros((experts, experts)), each
    # without i and j: everything before j times everything after it, for all i at once
    before = np.zeros((experts + 1, experts, k - 1))
    after = np.zeros((experts + 1, experts, k - 1))
    before[0, :, 0] = after[experts, :, 0] = 1
    for j in range(experts):
        before[j + 1] = before[j]
        before[j + 1, :, 1:] += rows[:, j, None] * before[j, :, :-1]
        back = experts - 1 - j
        after[back] = after[back + 1]
        after[back, :, 1:] += rows[:, back, None] * after[back + 1, :, :-1]
    rest = np.einsum("jia,jia->ij", before[:experts], after[1:, :, ::-1])  # sums of k - 2 members
    return np.where(others, np.outer(odds, odds) * rest / whole, 0.0), each


def _symmetric(weights: np.ndarray, k: int) -> np.ndarray:
    """(rows, k + 1): elementary symmetric polynomials e_0 to e_k of each row of weights."""
    found = np.zeros((len(weights), k + 1))
    found[:, 0] = 1
    for column in weights.T:
        found[:, 1:] += column[:, None] * found[:, :-1]
    return found


# saturation -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Saturation(Result):
    """How much of the final choice was made at each step of training; `saturation` tells the columns of its table.

    tokens: how many.  draws: resamplings.  seed: of these.  n_experts, k: k of so many experts are chosen.
    """

    tokens: int
    draws: int
    seed: int
    n_experts: int
    k: int

    def _title(self) -> str:
        return f"Saturation: {self.tokens:,} tokens, {self.k} of {self.n_experts} experts"


def saturation(
    choices: Mapping[int, np.ndarray],
    final: np.ndarray | None = None,
    *,
    n_experts: int | None = None,
    document: np.ndarray | None = None,
    untrained: np.ndarray | None = None,
    layers: tuple[int, ...] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Saturation:
    """How much of the final choice of experts was made already at each step of training.

    Router saturation of OLMoE (Muennighoff et al. 2024). choices: step -> (N, L, k), the same tokens in the same order.
    final: (N, L, k); the last step's when None.  document: (N,) of each token, for an interval.
    untrained: (R, N, L, k), routers of random directions that chose for the same tokens.
    n_experts: E; the highest number that occurs, plus 1, when None.
    Returns a row for each step and layer: step, layer, share (of the k final experts, those chosen at this step: mean over
    tokens), low and high (95 %, resampling documents; NaN without `document`), uniform (k/E), same_loads (what two choices
    with the loads of this step and of the end share if they have nothing else in common), unrelated (what an untrained
    router shares with the final choice; NaN without `untrained`).
    """
    import pandas as pd

    if not isinstance(choices, Mapping) or not choices:
        raise BadInput("saturation takes the choices of each step: {step: array (tokens, layers, k)}.")
    steps = sorted(choices)
    last = np.asarray(choices[steps[-1]] if final is None else final)
    if last.ndim != 3 or any(np.shape(choices[step]) != last.shape for step in steps):
        raise BadInput("The choices are to be arrays (tokens, layers, k) of one shape; collect them on the same texts.")
    if untrained is not None and np.shape(untrained)[1:] != last.shape:
        raise BadInput(f"untrained is to be (routers, *{last.shape}); collect it on the same texts.")
    if document is not None and len(document) != len(last):
        raise BadInput(f"document names {len(document):,} tokens and the choices hold {len(last):,}; give one each.")
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    given = [last, *(np.asarray(choices[step]) for step in steps)]
    if not last.size or any(c.dtype.kind not in "iu" or c.min() < 0 for c in given):
        raise BadInput("The choices are to hold the numbers of experts, whole and from 0, of one token at least.")
    n, depth, k = last.shape
    highest = max(int(c.max()) for c in given)
    if n_experts is not None:
        n_experts = checks.whole("n_experts", n_experts, 1)
        if highest >= n_experts:
            raise BadInput(
                f"Expert {highest} occurs in the choices, so there are not {n_experts}; give n_experts={highest + 1} or more."
            )
    every = n_experts or highest + 1
    layers = tuple(range(depth)) if layers is None else layers
    shares = np.stack([overlap(np.asarray(choices[step]), last) for step in steps])  # (steps, N, L)
    low = high = np.full((len(steps), depth), np.nan)
    if document is not None:
        _, place = np.unique(document, return_inverse=True)
        size = np.bincount(place)
        sums = np.zeros((len(size), len(steps), depth))
        np.add.at(sums, place, shares.swapaxes(0, 1))
        weights = resampled(np.zeros(len(size), np.int64), draws, np.random.default_rng(seed))
        low, high = interval(np.tensordot(weights, sums, 1) / (weights @ size)[:, None, None])

    def loads(chosen: np.ndarray) -> np.ndarray:
        return np.asarray(choices_by_document(chosen, np.zeros(n, np.int64), 1, every)[0] / n)

    at_end = loads(last)
    same = np.stack([(loads(np.asarray(choices[step])) * at_end).sum(-1) / k for step in steps])
    unrelated = np.full(depth, np.nan)
    if untrained is not None:
        unrelated = np.mean([overlap(other, last).mean(0) for other in untrained], axis=0)
    table = pd.DataFrame(
        grid(step=steps, layer=layers)
        | {"share": shares.mean(1).ravel(), "low": low.ravel(), "high": high.ravel(), "uniform": k / every}
        | {"same_loads": same.ravel(), "unrelated": np.tile(unrelated, len(steps))}
    )
    return Saturation(table, tokens=n, draws=draws, seed=seed, n_experts=every, k=k)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, L) float64: the share of the k experts that two choices (N, L, k) have in common."""
    common = np.zeros(first.shape[:2], np.int64)
    for i in range(first.shape[2]):
        common += (first[:, :, i : i + 1] == second).any(-1)
    return np.asarray(common / first.shape[2])


# counting -------------------------------------------------------------------------------------------------------------

_BAND = ("untrained_low", "untrained_high")


def _untrained(routing: Routing) -> Sequence[np.ndarray]:
    return () if routing.untrained is None else tuple(routing.untrained)


def _by_document(routing: Routing, chosen: np.ndarray) -> np.ndarray:
    return choices_by_document(chosen, routing.document, len(routing.kind_of), routing.n_experts)


def _indicator(chosen: np.ndarray, experts: int) -> np.ndarray:
    """(N, E) float32: 1 where the expert is among those chosen. chosen: (N, k)."""
    found = np.zeros((len(chosen), experts), np.float32)
    np.put_along_axis(found, chosen.astype(np.int64), 1.0, axis=1)
    return found


def _evenness(counts: np.ndarray) -> dict[str, np.ndarray]:
    """counts: (..., E)."""
    experts = counts.shape[-1]
    bits = entropy(counts.astype(np.float64))
    return {
        "entropy": bits,
        "entropy_share": bits / np.log2(experts) if experts > 1 else np.ones_like(bits),
        "max_violation": counts.max(-1) / counts.mean(-1) - 1,
        "never_chosen": (counts == 0).sum(-1),
    }


def even_counts(n: int | np.ndarray, experts: int, k: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, E): how often each expert is chosen when each of n tokens chooses k at random, none twice.

    n: one number, or one for each draw.
    Expert by expert: a token that still has j to choose among m takes the next with probability j/m. Tokens that have the
    same j are alike, so their number is all that is kept.
    """
    counts = np.zeros((draws, experts), np.int64)
    left = np.zeros((draws, k + 1), np.int64)  # tokens that have this many still to choose
    left[:, k] = n
    for expert in range(experts):
        taken = rng.binomial(left, np.minimum(np.arange(k + 1) / (experts - expert), 1.0))
        counts[:, expert] = taken.sum(-1)
        left -= taken
        left[:, :-1] += taken[:, 1:]
    return counts
