"""How much the expert says about the kind of text, beyond what is chance and beyond what the token says: in bits.

A router that was never trained looks specialised, because kinds of text differ in their tokens. So the information between
kind and expert stands beside three levels of chance: kinds permuted over documents, routers of random directions, and the
token held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.moe.counts import (
    LEAST_DOCUMENTS,
    LEAST_TOKENS,
    check_routing,
    choices_by_document,
    too_few,
)
from labkit.moe.measured import Measured, origin
from labkit.moe.routing import Routing
from labkit.statistics import (
    basic_interval,
    dealt,
    entropy,
    mutual_information,
    normal_interval,
    null,
    resampled,
    xlogx,
)

DRAWS = 200
PICKS = 2  # occurrences that stand for a token in a document, one after the other
COMPARED = 4  # permutations by which the model's router and untrained ones are set against each other
RESAMPLES = 30  # of the documents, where each has to count all tokens anew: enough for a standard deviation
PARTS = 8  # of a document, for the information about position
RESAMPLED_BY = 2  # permutations that each resampling of the documents is set against, for roles
ONE_KIND = "one kind of text has nothing to be told from"
ROLES = ("token", "kind", "position")


@dataclass(frozen=True, eq=False, repr=False)
class Information(Measured):
    """Bits between the kind of text and the expert, beside three levels of chance; `information` tells the columns.

    resamples: resamplings of the documents behind given_token_above_low and _high.  untrained: untrained routers.
    kinds: those that are looked at.  kind: bits, their entropy over the tokens, the most information can be.
    token: bits, I(kind; token), the most by_token can reach (plug-in); token_shuffled: the same with kinds dealt at random.
    kind_given_token: bits, the most given_token can reach.  shared: the share of the tokens whose id occurs in more than
        one kind: only these can say anything about given_token.
    NaN where fewer than two kinds have enough documents.
    """

    resamples: int = 0
    untrained: int = 0
    kinds: tuple[str, ...] = ()
    kind: float = math.nan
    token: float = math.nan
    token_shuffled: float = math.nan
    kind_given_token: float = math.nan
    shared: float = math.nan

    def _what(self) -> str:
        return "Information about the kind of text in the experts"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"at most": {"information": self.kind, "by_token": self.token, "given_token": self.kind_given_token}}


def information(
    routing: Routing,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    least_documents: int = LEAST_DOCUMENTS,
    least_tokens: int = LEAST_TOKENS,
) -> Information:
    """Mutual information, in bits, between the kind of text and an expert drawn at random among a token's k.

    Returns a row a layer:
    information: the plug-in estimate, 0 to the result's `kind` (the entropy of the kinds over the tokens).
    low, high: 95 %, resampling documents within kinds, corrected for what resampling adds (basic bootstrap).
    shuffled, shuffled_high: mean and 97.5 % when kinds are permuted over documents; p_shuffled.
    untrained, untrained_high: mean and 97.5 % of the untrained routers; p_untrained = (1 + number of untrained routers with
        at least as much) / (R + 1). NaN where none were collected.
    by_token: the information of a choice that sends each token where this token went in the other documents (as the load
        is where it occurs in no other): what a table from token to expert brings with it.
    given_token: I(kind; expert | token), what the expert says about the kind to somebody who knows the token; a token counts
        once for each document that holds it. The plug-in is far above 0 where tokens are rare, so it stands beside
        given_token_shuffled and given_token_shuffled_high, where kinds are permuted among the documents of each token;
        p_given_token; given_token_above = given_token - given_token_shuffled is the number to quote, with
        given_token_above_low and given_token_above_high: 95 %, by the standard deviation of `resamples` resamplings of the
        documents within their kinds.
    given_token_untrained, given_token_untrained_high, p_given_token_untrained: given_token_above of the untrained routers,
        each less what it shows itself with kinds permuted.
    note: what is to be known about the row, such as kinds left out for want of documents.
    `Information` tells what stands beside the table.
    Permuting kinds over documents takes documents to be of like length whatever their kind; cut them so.
    Kinds with fewer than least_documents or least_tokens are left out; with fewer than two kinds all numbers are NaN.
    """
    import pandas as pd

    check_routing(routing)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    kept, note = _enough(routing, least_documents, least_tokens)
    columns: dict[str, object] = {"layer": routing.layers}
    if len(kept) < 2:
        columns |= dict.fromkeys(_COLUMNS, np.nan) | {"note": note or ONE_KIND}
        return Information(pd.DataFrame(columns), **origin(routing, draws, seed))
    rng = np.random.default_rng(seed)
    data = Data.of(routing, kept)
    counts = data.by_document(data.experts)
    others = data.untrained
    observed = _of_kinds(counts, data.kind_of, data.kinds)

    weights = resampled(data.kind_of, draws, rng)
    per_kind = [np.tensordot(weights[:, members], counts[members], 1) for members in data.members]  # (draws, L, E) each
    low, high = basic_interval(observed, mutual_information(np.stack(per_kind, -2)))
    columns |= {"information": observed, "low": low, "high": high}

    labels = dealt(data.kind_of, draws, rng)
    columns |= _null("shuffled", observed, _permuted(counts, labels, data.kinds))
    columns |= _null(
        "untrained", observed, np.array([_of_kinds(data.by_document(o), data.kind_of, data.kinds) for o in others])
    )

    pairs = Pairs.of_data(data)
    tables = np.stack([pairs.elsewhere(data.experts[:, i], data.n_experts) for i in range(len(routing.layers))])
    columns |= {"by_token": mutual_information(tables)}
    given, shuffled, above, of_others, samples = pairs.given_token(data, draws, rng, weights[:RESAMPLES])
    columns |= {"given_token": given}
    columns |= _null("given_token_shuffled", given, shuffled, p="p_given_token")
    columns |= _around("given_token_above", given - shuffled.mean(0), samples)
    columns |= _null("given_token_untrained", above, of_others)
    table = pd.DataFrame(columns)[["layer", *_COLUMNS]]
    table["note"] = note

    tokens = pairs.kind_table(pairs.kind)
    once = pairs.kind_table(pairs.kind, occurrences=False)
    tables_dealt = [pairs.kind_table(label[pairs.document]) for label in labels[: min(draws, 50)]]
    return Information(
        table,
        **origin(routing, draws, seed),
        resamples=len(samples),
        untrained=len(others),
        kinds=tuple(routing.kinds[kind] for kind in kept),
        kind=float(entropy(tokens.sum(0))),
        token=float(mutual_information(tokens)),
        token_shuffled=float(np.mean([mutual_information(t) for t in tables_dealt])),
        kind_given_token=float((entropy(once) * once.sum(1)).sum() / once.sum()),
        shared=float(pairs.size[pairs.shared].sum() / pairs.size.sum()),
    )


_COLUMNS = (
    *("information", "low", "high"),
    *("shuffled", "shuffled_high", "p_shuffled"),
    *("untrained", "untrained_high", "p_untrained"),
    "by_token",
    *("given_token", "given_token_shuffled", "given_token_shuffled_high", "p_given_token"),
    *("given_token_above", "given_token_above_low", "given_token_above_high"),
    *("given_token_untrained", "given_token_untrained_high", "p_given_token_untrained"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Roles(Measured):
    """What the experts of each layer know about token, kind of text and position; `roles` tells the columns of its table.

    resamples: resamplings of the documents behind low and high.  untrained: how many untrained routers stand beside it.
    """

    resamples: int
    untrained: int

    def _what(self) -> str:
        return "Roles of the experts"


def roles(
    routing: Routing,
    by: str | Sequence[str] = ROLES,
    *,
    draws: int = 100,
    seed: int = 0,
    least_documents: int = LEAST_DOCUMENTS,
    least_tokens: int = LEAST_TOKENS,
) -> Roles:
    """What an expert knows: its information, in bits, about the token, the kind of text, and the place in the document.

    by: "token", "kind", "position" (in eighths of the document), or several of them.
    Returns a row for each layer and each of these: layer, by, information (plug-in), shuffled and shuffled_high (mean and
    97.5 % where the choices are detached from what they are asked about), p_shuffled, above (information minus shuffled: to
    be compared between rows), low and high (95 % of above, by the standard deviation of `resamples` resamplings of
    the documents within their kinds; rather too wide where above is about 0), share (above over the entropy of the expert),
    untrained, untrained_high and p_untrained (mean, 97.5 % and p of `above` among the untrained routers), note (what is to
    be known about the row).
    Detached: kinds are permuted over documents; tokens are permuted within their document, so that what a document as a
    whole likes is not counted for the token; documents are turned round by a random number of places, so that neighbours
    stay together.
    Kinds with fewer than least_documents or least_tokens are left out of all rows; where nothing is left, or one kind alone
    to be distinguished, the numbers are NaN.
    """
    import pandas as pd

    check_routing(routing)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    wanted = (by,) if isinstance(by, str) else tuple(by)
    for name in wanted:
        if name not in ROLES:
            raise BadInput(
                f"Nothing is known of roles by {name!r}{checks.near(name, ROLES)}; ask for {', '.join(ROLES)}."
            )
    kept, note = _enough(routing, least_documents, least_tokens)
    data = Data.of(routing, kept)
    rng = np.random.default_rng(seed)
    weights = resampled(data.kind_of, min(draws, RESAMPLES), rng)
    starts, sizes = data.spans()
    heading: dict[str, tuple[np.ndarray, Callable[[], np.ndarray]]] = {}
    if "token" in wanted:
        token = np.unique(data.ids, return_inverse=True)[1]

        def within() -> np.ndarray:
            # sorting by document and a random number permutes each document by itself
            return token[np.argsort(data.document + rng.random(len(token)), kind="stable")]

        heading["token"] = token, within
    if "kind" in wanted:
        heading["kind"] = data.kind_of[data.document], lambda: rng.permutation(data.kind_of)[data.document]
    if "position" in wanted:
        place = np.arange(len(data.ids)) - np.repeat(starts, sizes)
        size = np.repeat(sizes, sizes)

        def turned() -> np.ndarray:
            shift = np.repeat(rng.integers(0, np.maximum(sizes, 1)), sizes)
            return np.asarray((place + shift) % size * PARTS // size)

        heading["position"] = place * PARTS // size, turned
    rows = []
    chosen_entropy = entropy(data.by_document(data.experts).sum(0))
    for name in (n for n in ROLES if n in wanted):
        if not kept or (name == "kind" and len(kept) < 2):
            empty = dict.fromkeys(_ROLE_COLUMNS, np.nan)
            rows.append(pd.DataFrame({"layer": routing.layers, "by": name} | empty | {"note": note or ONE_KIND}))
            continue
        label, detach = heading[name]
        rows_of = int(label.max()) + 1
        observed = data.information_about(label, rows_of, data.experts)
        detached = [detach() for _ in range(min(draws, COMPARED))]
        few = [data.information_about(d, rows_of, data.experts) for d in detached]
        rest = [data.information_about(detach(), rows_of, data.experts) for _ in range(draws - len(few))]
        every = np.array(few + rest)
        others = [
            data.information_about(label, rows_of, o)
            - np.mean([data.information_about(d, rows_of, o) for d in detached], axis=0)
            for o in data.untrained
        ]
        above = observed - every.mean(0)
        share = np.divide(above, chosen_entropy, out=np.zeros_like(above), where=chosen_entropy > 0)
        columns = {"layer": routing.layers, "by": name, "information": observed} | _null("shuffled", observed, every)
        samples = np.array([data.above(label, detached[:RESAMPLED_BY], rows_of, w) for w in weights])
        around = _around("above", above, samples)
        columns |= {"above": above, "low": around["above_low"], "high": around["above_high"], "share": share}
        columns |= _null("untrained", observed - np.mean(few, axis=0), np.array(others))
        rows.append(pd.DataFrame(columns | {"note": note}))
    order = {name: i for i, name in enumerate(ROLES)}
    table = pd.concat(rows).sort_values(["layer", "by"], key=lambda c: c.map(order) if c.name == "by" else c)
    table = table.reset_index(drop=True)
    return Roles(table, **origin(routing, draws, seed), resamples=len(weights), untrained=len(data.untrained))


_ROLE_COLUMNS = (
    *("information", "shuffled", "shuffled_high", "p_shuffled", "above", "low", "high", "share"),
    *("untrained", "untrained_high", "p_untrained"),
)


def _enough(routing: Routing, least_documents: int, least_tokens: int) -> tuple[list[int], str]:
    """The kinds that are looked at, and a sentence on those that are not."""
    notes = too_few(routing, least_documents, least_tokens)
    return [kind for kind, note in enumerate(notes) if not note], "; ".join(n for n in notes if n)


# what is counted ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Data:
    """The tokens of the kinds that are looked at, documents and kinds numbered anew; a document's tokens together."""

    ids: np.ndarray
    document: np.ndarray
    kind_of: np.ndarray
    experts: np.ndarray
    untrained: tuple[np.ndarray, ...]
    n_experts: int
    kinds: int

    @classmethod
    def of(cls, routing: Routing, kept: Sequence[int]) -> Data:
        where = np.flatnonzero(np.isin(routing.kind, kept))
        where = where[np.argsort(routing.document[where], kind="stable")]
        documents, document = np.unique(routing.document[where], return_inverse=True)
        whole = len(where) == len(routing) and bool((where[1:] > where[:-1]).all())
        others = () if routing.untrained is None else tuple(routing.untrained)
        return cls(
            ids=routing.ids[where],
            document=document,
            kind_of=np.searchsorted(kept, routing.kind_of[documents]),
            experts=routing.experts if whole else routing.experts[where],
            untrained=others if whole else tuple(o[where] for o in others),
            n_experts=routing.n_experts,
            kinds=len(kept),
        )

    @property
    def members(self) -> list[np.ndarray]:
        """The documents of each kind."""
        return [np.flatnonzero(self.kind_of == kind) for kind in range(self.kinds)]

    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each document starts, and its number of tokens."""
        sizes = np.bincount(self.document, minlength=len(self.kind_of))
        return np.cumsum(sizes) - sizes, sizes

    def by_document(self, chosen: np.ndarray) -> np.ndarray:
        return choices_by_document(chosen, self.document, len(self.kind_of), self.n_experts).astype(np.float64)

    def information_about(self, label: np.ndarray, labels: int, chosen: np.ndarray) -> np.ndarray:
        """(L,) bits between a label of each token and an expert drawn among those chosen for it."""
        n, layers, k = chosen.shape
        first = np.repeat(label * self.n_experts, k)
        logs = _Logs(n * k)
        by_label = logs.sum(np.bincount(label, minlength=labels) * k)
        found = np.empty(layers)
        for layer in range(layers):
            counts = np.bincount(first + chosen[:, layer].ravel(), minlength=labels * self.n_experts)
            loads = counts.reshape(labels, self.n_experts).sum(0)
            found[layer] = logs.sum(counts) - by_label - logs.sum(loads) + logs.sum(np.array([n * k]))
        return np.asarray(np.maximum(found / (n * k * np.log(2)), 0.0))

    def above(self, label: np.ndarray, detached: Sequence[np.ndarray], labels: int, weights: np.ndarray) -> np.ndarray:
        """(L,) bits about a label beyond those about the detached ones, when each document counts `weights` times.

        The experts' own entropy is the same in both and left out.
        """
        here = np.flatnonzero(weights[self.document] > 0)  # a third of the documents is in no resampling
        chosen, times = self.experts[here].astype(np.int64), weights[self.document[here]]
        _, layers, k = chosen.shape
        every, logs = np.repeat(times, k), _Logs(min(int(times.sum()) * k, 2**12))

        def joint(of: np.ndarray) -> np.ndarray:
            first = (of[here] * self.n_experts)[:, None]
            outer = logs.sum(np.bincount(of[here], times, minlength=labels) * k)
            return np.array(
                [logs.sum(np.bincount((first + chosen[:, i]).ravel(), every)) - outer for i in range(layers)]
            )

        return np.asarray((joint(label) - np.mean([joint(d) for d in detached], axis=0)) / (every.sum() * np.log(2)))


class _Logs:
    """x · ln x of whole numbers, looked up: most counts of a large table are small."""

    def __init__(self, most: int) -> None:
        self.table = xlogx(np.arange(min(most, 2**16) + 1, dtype=np.float64))

    def sum(self, counts: np.ndarray) -> float:
        counts = counts.astype(np.int64, copy=False)  # counted with weights they are whole numbers all the same
        small = counts < len(self.table)
        if small.all():
            return float(self.table[counts].sum())
        return float(self.table[counts[small]].sum() + xlogx(counts[~small].astype(np.float64)).sum())


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs (token, document) that occur, by token: what is moved as one when kinds are permuted given the token.

    of: (N,) the pair of each token of the text.  token, document, size, kind: (pairs,); size is the number of occurrences.
    shared: (pairs,) bool, whether the token occurs in more than one kind.
    """

    of: np.ndarray
    token: np.ndarray
    document: np.ndarray
    size: np.ndarray
    kind: np.ndarray
    kinds: int
    shared: np.ndarray

    @classmethod
    def of_data(cls, data: Data) -> Pairs:
        documents = len(data.kind_of)
        token = np.unique(data.ids, return_inverse=True)[1]
        key, of, size = np.unique(token * documents + data.document, return_inverse=True, return_counts=True)
        kind = data.kind_of[key % documents]
        pairs = cls(
            of=of,
            token=key // documents,
            document=key % documents,
            size=size,
            kind=kind,
            kinds=data.kinds,
            shared=np.empty(0, bool),
        )
        in_kinds = (pairs.kind_table(kind) > 0).sum(1) > 1
        object.__setattr__(pairs, "shared", in_kinds[pairs.token])
        return pairs

    def kind_table(self, kind: np.ndarray, *, occurrences: bool = True) -> np.ndarray:
        """(different tokens, kinds) float64: occurrences, or documents, when the pairs are of these kinds."""
        shape = (int(self.token[-1]) + 1, self.kinds)
        key, weights = self.token * self.kinds + kind, self.size if occurrences else None
        return np.bincount(key, weights, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)

    def elsewhere(self, chosen: np.ndarray, experts: int) -> np.ndarray:
        """(kinds, E): the choices of each kind, were each token to go where it went in the other documents.

        As the load is for a token that no other document holds. chosen: (N, k).
        """
        n, k = chosen.shape
        different = int(self.token[-1]) + 1
        everywhere = np.bincount(self.token, self.size, minlength=different)
        load = np.bincount(chosen.ravel(), minlength=experts) / n
        elsewhere = everywhere[self.token] - self.size
        rate = np.divide(self.size, elsewhere, out=np.zeros(len(self.size)), where=elsewhere > 0)
        key = (self.token[self.of] * experts)[:, None] + chosen
        by_token = np.bincount(key.ravel(), minlength=different * experts).reshape(different, experts)
        # what a pair finds elsewhere is its token's choices everywhere less its own, each at the pair's rate
        rates = np.bincount(self.token * self.kinds + self.kind, rate, minlength=different * self.kinds)
        table = rates.reshape(different, self.kinds).T @ by_token
        own = (self.kind[self.of] * experts)[:, None] + chosen
        table -= np.bincount(own.ravel(), np.repeat(rate[self.of], k), minlength=table.size).reshape(table.shape)
        nowhere = np.bincount(self.kind[elsewhere == 0], self.size[elsewhere == 0], minlength=self.kinds)
        return np.asarray(np.maximum(table, 0.0) + np.outer(nowhere, load))

    def permuted(self, rng: np.random.Generator, documents: int) -> np.ndarray:
        """(pairs,) kinds permuted among the documents of each token.

        Documents are put in one random order for all tokens, and each token's kinds are dealt out along it: what a
        document does to all its tokens alike stays together, as it does in the text itself.
        """
        rank = rng.permutation(documents)
        order = np.argsort(self.token * documents + rank[self.document])
        dealt = rng.permutation(self.kinds)
        counts = np.bincount(self.token * self.kinds + self.kind, minlength=(int(self.token[-1]) + 1) * self.kinds)
        counts = counts.reshape(-1, self.kinds)[:, dealt]
        kinds = np.empty_like(self.kind)
        kinds[order] = np.repeat(np.tile(dealt, len(counts)), counts.ravel())
        return kinds

    def given_token(
        self, data: Data, draws: int, rng: np.random.Generator, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """I(kind; expert | token) in bits: (L,) observed, (draws, L) with kinds permuted, and the first less the mean of
        a few of the second, (L,), (R, L) of untrained routers and (resamples, L) when documents count as often as `weights`
        (resamples, documents) say.

        One occurrence stands for each pair, so that pairs differ in nothing but their kind and permuting is fair: with all
        occurrences, kinds that repeat a token often would lend their many to the others. Mean over several picks.
        """
        _, layers, k = data.experts.shape
        experts = data.n_experts
        kept = np.flatnonzero(self.shared)  # a token of one kind adds nothing, however kinds are permuted
        places = np.argsort(self.of, kind="stable")  # the text's tokens, by pair
        starts = np.cumsum(self.size) - self.size
        picks = [places[(starts + rng.random(len(starts)) * self.size).astype(np.int64)][kept] for _ in range(PICKS)]
        where, of = np.concatenate(picks), np.tile(kept, PICKS)
        token = np.unique(self.token[kept], return_inverse=True)[1]
        different = PICKS * (int(token.max(initial=-1)) + 1)  # each pick has tables of its own
        token = (token + np.arange(PICKS)[:, None] * (different // PICKS)).ravel()
        logs = _Logs(len(token) * k)
        once = logs.sum(np.bincount(token, minlength=different) * k)

        def bits(kind: np.ndarray, keys: list[np.ndarray], margins: list[float]) -> list[float]:
            row = kind[of]
            outer = logs.sum(np.bincount(token * self.kinds + row, minlength=different * self.kinds) * k)
            column = row[:, None]
            return [
                logs.sum(np.bincount((key + column).ravel())) - (outer + margin - once)
                for key, margin in zip(keys, margins, strict=True)
            ]

        def prepared(chosen: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
            """For each layer the rows of a table with a row for each token and expert that occur together."""
            keys, margins = [], []
            for layer in range(layers):
                key = (token * experts)[:, None] + chosen[where, layer]
                counts = np.bincount(key.ravel(), minlength=1)
                keys.append((np.cumsum(counts > 0) - 1)[key] * self.kinds)
                margins.append(logs.sum(counts))
            return keys, margins

        own = prepared(data.experts)
        observed = np.array(bits(self.kind, *own))
        permuted = [self.permuted(rng, len(data.kind_of)) for _ in range(min(draws, COMPARED))]
        null = [bits(kind, *own) for kind in permuted]
        null += [bits(self.permuted(rng, len(data.kind_of)), *own) for _ in range(draws - len(permuted))]
        others = []
        for other in data.untrained:
            prepared_other = prepared(other)
            chance = np.mean([bits(kind, *prepared_other) for kind in permuted], axis=0)
            others.append(np.array(bits(self.kind, *prepared_other)) - chance)
        above = observed - np.mean(null[: len(permuted)], axis=0)  # by the same permutations as the others'

        first = slice(0, len(kept))  # of the picks one is enough to see how much documents differ

        def weighed(kind: np.ndarray, times: np.ndarray) -> np.ndarray:
            here = np.flatnonzero(times > 0)
            times = times[here]
            row, every = kind[kept[here]], np.repeat(times, k)
            outer = logs.sum(np.bincount(token[first][here] * self.kinds + row, times) * k)
            keys = (key[first][here] + row[:, None] for key in own[0])
            return np.array([logs.sum(np.bincount(key.ravel(), every, minlength=1)) - outer for key in keys])

        samples = []
        for weight in weights:
            times = weight[self.document[kept]]
            chance = np.mean([weighed(kind, times) for kind in permuted], axis=0)
            samples.append((weighed(self.kind, times) - chance) / (weight[self.document].sum() * k * np.log(2)))
        scale = PICKS * len(self.size) * k * np.log(2)
        return (
            np.maximum(observed / scale, 0),
            np.maximum(null, 0) / scale,
            above / scale,
            np.array(others) / scale,
            np.array(samples),
        )


def _of_kinds(counts: np.ndarray, kind_of: np.ndarray, kinds: int) -> np.ndarray:
    """(L,) bits, from counts by document."""
    return np.asarray(_permuted(counts, kind_of[None], kinds)[0])


def _permuted(counts: np.ndarray, labels: np.ndarray, kinds: int) -> np.ndarray:
    """(draws, L) bits. counts: (documents, L, E).  labels: (draws, documents), the kind of each document."""
    each = (labels[:, None] == np.arange(kinds)[:, None]).astype(np.float64)  # (draws, kinds, documents)
    return mutual_information(np.tensordot(each, counts, 1).swapaxes(1, 2))


def _around(name: str, observed: np.ndarray, samples: np.ndarray) -> dict[str, np.ndarray]:
    """A number (L,) and where 95 % of them would lie, by resamplings (resamples, L)."""
    low, high = normal_interval(observed, samples)
    return {name: observed, f"{name}_low": low, f"{name}_high": high}


def _null(name: str, observed: np.ndarray, others: np.ndarray, p: str | None = None) -> dict[str, np.ndarray]:
    """Mean, 97.5 % and p of others (draws, L), under the names a table gives them."""
    return dict(zip((name, f"{name}_high", p or f"p_{name}"), null(observed, others), strict=True))
