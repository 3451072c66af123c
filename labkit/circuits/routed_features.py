"""What features of a sparse autoencoder tell about the experts of a mixture, beside what the token tells, and beside chance.

Labels that are many tell any number on few tokens, so nothing is told on the text it was learnt from: what goes with which expert
is counted on some documents, and how well that foretells the router's choice is measured on others, in bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.results import Result
from labkit.statistics import entropy, interval, mutual_information, null, resampled, split

if TYPE_CHECKING:
    import pandas as pd

    from labkit.moe import Routing
    from labkit.sae import SAE
    from labkit.trace.lab_like import TracingLab

DRAWS, SHUFFLES, UNTRAINED = 1_000, 20, 10
PRIOR = 2.0  # how many tokens' worth the load of the experts, or what the token tells, counts against what was seen
LEAST_DOCUMENTS = 4  # two to count on and two to measure on
MOST = 0.5  # of what there is to know about an expert: more than this, and a feature tells it


@dataclass(frozen=True, eq=False, repr=False)
class ExpertFeatures(Result):
    """What the strongest feature of a token tells about the expert it is sent to; `expert_features` tells the columns.

    experts: a row for each expert: expert, load (the share of tokens), bits (what there is to know: the entropy of whether a
        token is sent to it), and for the one feature, token and feature of an untrained autoencoder that tell most of it (chosen
        where it was counted, measured elsewhere): feature, feature_share, token, token_share, untrained, untrained_share;
        shares are of `bits`.
    told: for how many experts one feature tells more than half of that; told_by_token, told_by_untrained: one token, one
        feature of the untrained autoencoder.
    entropy: bits, of the expert: the most that can be told.  layer: of router and autoencoder.  tokens: measured on.
    documents: measured on.
    """

    experts: pd.DataFrame
    told: int
    told_by_token: int
    told_by_untrained: int
    entropy: float
    layer: int
    model: str
    sae: str
    tokens: int
    documents: int
    shuffles: int
    untrained_routers: int
    draws: int
    seed: int

    def _title(self) -> str:
        return (
            f"What tells the experts of layer {self.layer} of {self.model} apart: bits of {self.entropy:.2f}, on {self.tokens:,} "
            f"tokens of {self.documents} documents that nothing was counted on"
        )

    def _remarks(self) -> Sequence[str]:
        return (
            f"one feature tells more than half of what there is to know about {self.told} of {len(self.experts)} experts, one "
            f"token about {self.told_by_token}, one feature of an untrained autoencoder about {self.told_by_untrained}",
        )


def expert_features(
    lab: TracingLab,
    sae: SAE,
    texts: Mapping[str, Sequence[object]],
    *,
    shuffles: int = SHUFFLES,
    untrained: int = UNTRAINED,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> ExpertFeatures:
    """Do the features of an autoencoder tell the experts of the layer it reads apart?

    sae: of the residual stream that enters a layer with a router.  texts: kind -> documents; half of each kind are counted on,
        the other half measured on. An autoencoder trained on the first half alone is measured on text it has not seen:
        `counted_on` gives that half.
    Returns a row for each thing that may be known of a token, in its column `known`: "token" (its id), "feature" (the most
    active one), "untrained feature" (that of an untrained autoencoder of the same sizes), "token and feature", "token and
    untrained feature". An autoencoder that does not fix how many features are active stands beside an untrained topk one with as
    many as it has active on a token of these texts in the mean. Columns: information (bits that knowing it saves in
    telling an expert drawn among the token's k, on
    documents it was not counted on: a lower bound of their mutual information, below 0 where what was counted misleads), low
    and high (95 %, documents drawn again), share (of the experts' entropy), shuffled, shuffled_high and p_shuffled (`shuffles`
    times the same with tokens or features dealt anew: within the document; where the token is known, among the occurrences of
    the token), untrained_routers and p_untrained_routers (mean over, and against, `untrained` routers of random directions that
    choose from the same inputs; whatever a feature tells about them it tells of any direction). NaN without.
    A feature that tells much need not name a role: compare it with the token, which a router mostly follows.
    Raises Unavailable for a dense model and a layer without a router, BadInput for an autoencoder of another model and for too
    few documents.
    """
    import pandas as pd

    from labkit.moe import collect
    from labkit.sae.dictionary import checked_sae

    shuffles, untrained = checks.whole("shuffles", shuffles, 0), checks.whole("untrained", untrained, 0)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    checked_sae(sae).belongs(lab)
    routing = collect(lab, texts, untrained=untrained, seed=seed, progress=progress)
    if sae.layer not in routing.layers:
        raise Unavailable(
            f"Layer {sae.layer} of {lab.name}, which this autoencoder reads, has no router; train one for a layer out of "
            f"{checks.listed(routing.layers, 'or')}."
        )
    counted, measured = halves(routing.kind_of, seed)
    data = _Tokens.of(lab, sae, seed, texts, routing, counted)
    rng = np.random.default_rng(seed)
    weights = resampled(routing.kind_of[measured], draws, rng)
    rows = []
    for known, first, second in (
        ("token", None, data.token),
        ("feature", None, data.feature),
        ("untrained feature", None, data.untrained_feature),
        ("token and feature", data.token, data.feature),
        ("token and untrained feature", data.token, data.untrained_feature),
    ):
        bits = data.saved(data.experts, second, first)
        of_document = np.bincount(data.document[data.test], bits, minlength=len(routing.kind_of))[measured]
        tokens = np.bincount(data.document[data.test], minlength=len(routing.kind_of))[measured]
        low, high = interval(weights @ of_document / (weights @ tokens))
        groups = data.document if first is None else first
        dealt = [
            data.saved(data.experts, _dealt(second, groups, data.counted, rng), first).mean() for _ in range(shuffles)
        ]
        chance, chance_high, p = null(np.array(bits.mean()), np.array(dealt))
        others = np.array([data.saved(other, second, first).mean() for other in data.others])
        routers, _, p_routers = null(np.array(bits.mean()), others)
        rows.append(
            {
                "known": known,
                "information": float(bits.mean()),
                "low": float(low),
                "high": float(high),
                "share": float(bits.mean()) / data.entropy,
                "shuffled": float(chance),
                "shuffled_high": float(chance_high),
                "p_shuffled": float(p),
                "untrained_routers": float(routers),
                "p_untrained_routers": float(p_routers),
            }
        )
    experts = data.by_expert()
    told = {name: int((experts[f"{name}_share"] > MOST).sum()) for name in ("feature", "token", "untrained")}
    return ExpertFeatures(
        pd.DataFrame(rows),
        experts=experts,
        told=told["feature"],
        told_by_token=told["token"],
        told_by_untrained=told["untrained"],
        entropy=data.entropy,
        layer=sae.layer,
        model=lab.name,
        sae=sae.name,
        tokens=len(data.test),
        documents=len(measured),
        shuffles=shuffles,
        untrained_routers=untrained,
        draws=draws,
        seed=seed,
    )


def counted_on(texts: Mapping[str, Sequence[object]], *, seed: int = 0) -> dict[str, list[object]]:
    """The half of the documents that `expert_features` counts on, with the same seed: what an autoencoder may be trained on."""
    kind_of = np.repeat(np.arange(len(texts)), [len(of_kind) for of_kind in texts.values()])
    mine = set(halves(kind_of, checks.seed(seed))[0].tolist())
    starts = np.cumsum([0, *(len(of_kind) for of_kind in texts.values())])
    return {
        kind: [document for place, document in enumerate(of_kind) if start + place in mine]
        for (kind, of_kind), start in zip(texts.items(), starts, strict=False)
    }


def halves(kind_of: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents to count on and those to measure on. kind_of: (documents,)."""
    for kind in np.unique(kind_of):
        if (there := int((kind_of == kind).sum())) < LEAST_DOCUMENTS:
            raise BadInput(
                f"A kind of text has {there} document{'s' * (there != 1)}, too few to count on some and measure on others; "
                f"give {LEAST_DOCUMENTS} of each."
            )
    return split(kind_of, 0.5, np.random.default_rng(seed))


# counting -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The tokens that are looked at, N of them. experts: (N, k).  others: the same of untrained routers.

    token, feature, untrained_feature: (N,) whole numbers from 0.  active, untrained_active: (N, n) features, -1 for none.
    counted: (N,) bool, whether the document is counted on.  test: the places of the others.
    """

    document: np.ndarray
    token: np.ndarray
    feature: np.ndarray
    untrained_feature: np.ndarray
    active: np.ndarray
    untrained_active: np.ndarray
    experts: np.ndarray
    others: tuple[np.ndarray, ...]
    counted: np.ndarray
    test: np.ndarray
    n_experts: int
    n_features: int
    names: Mapping[int, str]
    ids: np.ndarray

    @classmethod
    def of(cls, lab: TracingLab, sae: SAE, seed: int, texts: object, routing: Routing, counted: np.ndarray) -> _Tokens:
        """What is read of the documents' tokens but the first, where the autoencoder is defined. seed: of the untrained one."""
        import torch

        from labkit.sae import untrained
        from labkit.sae.reading import residuals
        from labkit.trace.documents import documents_of

        documents, _, _ = documents_of(lab, texts)
        special = np.array(sorted(set(getattr(lab.tokenizer, "all_special_ids", None) or ())), dtype=np.int64)
        good, active, read = [], [], []
        for ids, x in zip(documents, residuals(lab, [d.tolist() for d in documents], sae.layer), strict=True):
            seen = torch.from_numpy(~np.isin(ids, special))  # as the routing has them
            good.append(sae.defined(x)[seen].numpy())
            active.append(sae.active(x)[1][seen].numpy())
            read.append(x[seen])
        kept = np.flatnonzero(np.concatenate(good))
        if not len(kept):
            raise BadInput("The autoencoder is defined at no token of these texts; give longer ones.")
        layer = routing.layers.index(sae.layer)
        chosen = _joined(active)[kept]
        mean = round(float((chosen >= 0).sum(1).mean()))
        random = untrained(sae, seed, k=None if sae.k is not None else min(max(mean, 1), len(sae)))
        by_chance = _joined([random.active(x)[1].numpy() for x in read])[kept]
        ids = routing.ids[kept]
        inside = np.isin(routing.document[kept], counted)
        others = () if routing.untrained is None else tuple(other[kept, layer] for other in routing.untrained)
        return cls(
            document=routing.document[kept],
            token=np.unique(ids, return_inverse=True)[1],
            feature=chosen[:, 0] + 1,  # 0 where none is active
            untrained_feature=by_chance[:, 0] + 1,
            active=chosen,
            untrained_active=by_chance,
            experts=routing.experts[kept, layer].astype(np.int64),
            others=tuple(other.astype(np.int64) for other in others),
            counted=inside,
            test=np.flatnonzero(~inside),
            n_experts=routing.n_experts,
            n_features=len(sae),
            names=routing.tokens,
            ids=ids,
        )

    @property
    def entropy(self) -> float:
        """Bits of the expert of a token, drawn among its k, over the documents that are measured on."""
        return float(entropy(np.bincount(self.experts[self.test].ravel(), minlength=self.n_experts).astype(float)))

    def saved(self, experts: np.ndarray, label: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
        """(test tokens,) bits that knowing a label, (N,), saves in telling an expert of the token; first: known as well.

        The probability of an expert given a label is its count beside a few tokens' worth of what is known without the label.
        """
        load = np.bincount(experts[self.counted].ravel(), minlength=self.n_experts) + 1.0
        chosen = experts[self.test]
        plain = before = (load / load.sum())[chosen]
        if first is not None:
            before = self._given(experts, first, before)
            label = np.unique(first * (int(label.max()) + 1) + label, return_inverse=True)[1]
        return np.asarray(np.log2(self._given(experts, label, before) / plain).mean(1))

    def _given(self, experts: np.ndarray, label: np.ndarray, before: np.ndarray) -> np.ndarray:
        """(test tokens, k) probability of the chosen experts given the label. before: the same without the label."""
        k = experts.shape[1]
        seen = _counts(label[self.counted], experts[self.counted], self.n_experts, int(label.max()) + 1) / k
        of, chosen = label[self.test], experts[self.test]
        times: np.ndarray = seen.sum(1)[of][:, None]
        return np.asarray((seen[of[:, None], chosen] + PRIOR * before) / (times + PRIOR))

    def by_expert(self) -> pd.DataFrame:
        """For each expert the one feature, and the one token, that tells most of whether a token is sent to it."""
        import pandas as pd

        sent = (self.experts[:, :, None] == np.arange(self.n_experts)).any(1)  # (N, experts)
        fit, test = np.flatnonzero(self.counted), self.test
        token = self.token[:, None]
        found = {
            "feature": self._best(self.active, self.n_features, sent, fit, test),
            "token": self._best(token, int(self.token.max()) + 1, sent, fit, test),
            "untrained": self._best(self.untrained_active, self.n_features, sent, fit, test),
        }
        share = sent[test].mean(0)
        bits = entropy(np.stack([share, 1 - share], -1))
        columns: dict[str, object] = {"expert": np.arange(self.n_experts), "load": share, "bits": bits}
        id_of = np.unique(self.ids)
        for name, (best, information) in found.items():
            columns[name] = [self.names.get(int(id_of[b]), "") for b in best] if name == "token" else best
            with np.errstate(invalid="ignore", divide="ignore"):
                columns[f"{name}_share"] = np.where(bits > 0, information / bits, math.nan)
        return pd.DataFrame(columns)

    def _best(
        self, active: np.ndarray, count: int, sent: np.ndarray, fit: np.ndarray, test: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(experts,) which label tells most about each expert where it is counted, and (experts,) bits of it elsewhere."""
        learnt = _both(active[fit], count, sent[fit])
        best = mutual_information(learnt).argmax(0)  # (experts,)
        there = _both(active[test], count, sent[test])[best, np.arange(self.n_experts)]
        return best, mutual_information(there)


def _joined(tables: Sequence[np.ndarray]) -> np.ndarray:
    """(N, n) of tables (rows, fewer than n or n), with -1 for what a row has not."""
    width = max(table.shape[1] for table in tables)
    return np.concatenate(
        [np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=-1) for table in tables]
    )


def _counts(label: np.ndarray, experts: np.ndarray, n_experts: int, labels: int) -> np.ndarray:
    """(labels, experts) how often a token of a label was sent to an expert. label: (n,).  experts: (n, k)."""
    key = (label * n_experts)[:, None] + experts
    return np.bincount(key.ravel(), minlength=labels * n_experts).reshape(labels, n_experts).astype(np.float64)


def _both(active: np.ndarray, count: int, sent: np.ndarray) -> np.ndarray:
    """(labels, experts, 2, 2) tokens by whether the label is there, and whether they are sent to the expert."""
    row, column = np.nonzero(active >= 0)
    label = active[row, column]
    n, experts = sent.shape
    both = np.zeros((count, experts))
    np.add.at(both, label, sent[row].astype(np.float64))
    there, of_expert = np.bincount(label, minlength=count)[:, None], sent.sum(0)[None]
    table = np.stack([both, there - both, of_expert - both, n - there - of_expert + both], -1)
    return table.reshape(count, experts, 2, 2)


def _dealt(label: np.ndarray, groups: np.ndarray, counted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The labels dealt anew within their group and their half of the documents."""
    group = groups * 2 + counted
    order, random = np.argsort(group, kind="stable"), np.lexsort((rng.random(len(group)), group))
    dealt = np.empty_like(label)
    dealt[order] = label[random]
    return dealt
