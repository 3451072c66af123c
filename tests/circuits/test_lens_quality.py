"""Lenses compared on held-out text: figures against a plain count, the null cases, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.circuits.jacobian_lens import JacobianLens

DRAW = np.random.default_rng(5)
TEXTS = {
    "a": [DRAW.integers(3, 60, 34 + k).tolist() for k in range(4)],
    "b": [DRAW.integers(3, 60, 40).tolist() for k in range(3)],
}
QUICK: dict[str, Any] = {"positions": 5, "ahead": 4, "draws": 200, "progress": False}


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    family = FAMILIES["llama3"]
    return lk.Lab(
        build(dataclasses.replace(family, fields={**family.fields, "num_hidden_layers": 3})), Tokens(), name="tiny"
    )


@pytest.fixture(scope="module")
def identity(lab: lk.Lab) -> JacobianLens:
    return JacobianLens({i: torch.eye(lab.config.hidden_size) for i in (1, 2)}, 1, "tiny", 3)


def test_the_figures_are_those_counted_by_hand(lab: lk.Lab, identity: JacobianLens) -> None:
    found = lk.circuits.lens_quality(lab, TEXTS, lens=identity, **QUICK)
    wanted, predictions = [], []
    for ids in [*TEXTS["a"], *TEXTS["b"]]:
        trace = lab.trace(ids, keep=("residual", "logits"))
        read = lk.lens_logits(lab, trace, 2).double().log_softmax(-1)
        final = trace.logits.double().log_softmax(-1)
        chosen = np.unique(np.linspace(16, len(ids) - 1 - 4 - 1, 5).astype(int)).tolist()
        rows, later_rows = [], []
        for t in chosen:
            kl = float((final[t].exp() * (final[t] - read[t])).sum())
            order = read[t].argsort(descending=True).tolist()
            later = [np.log10(1 + order.index(i)) for i in ids[t + 2 : t + 6] if i != ids[t + 1]]
            rows.append((kl, np.log10(1 + order.index(ids[t + 1]))))
            later_rows += later
        wanted.append((*np.mean(rows, 0), np.mean(later_rows)))
        predictions.append((final[chosen].exp().mean(0), float(-(final[chosen].exp() * final[chosen]).sum(-1).mean())))
    row = found.table[(found.table["way"] == "logit") & (found.table["layer"] == 2)].iloc[0]
    assert row[["kl", "next", "later"]].tolist() == pytest.approx(np.mean(wanted, 0).tolist(), abs=1e-4)
    assert bool((row[["kl_low", "next_low"]].to_numpy() < row[["kl", "next"]].to_numpy()).all())
    assert bool((row[["kl_high", "next_high"]].to_numpy() > row[["kl", "next"]].to_numpy()).all())
    prior = []
    for number, (own, entropy) in enumerate(predictions):
        rest = torch.stack([p for other, (p, _) in enumerate(predictions) if other != number]).mean(0)
        prior.append(-entropy - float((own * rest.log()).sum()))
    assert found.table[found.table["way"] == "unigram"]["kl"].item() == pytest.approx(np.mean(prior), abs=1e-4)
    assert (found.documents, found.positions, found.ahead, found.prompts) == (7, 5, 4, 1)


def test_the_identity_differs_from_the_logit_lens_in_nothing(lab: lk.Lab, identity: JacobianLens) -> None:
    found = lk.circuits.lens_quality(lab, TEXTS, lens=identity, **QUICK)
    logit = found.differences[found.differences["against"].isin(["logit", "other layer"])]
    assert bool((logit[["difference", "low", "high"]] == 0).all(None))
    shuffled = found.differences[found.differences["against"] == "shuffled"]
    assert bool((shuffled["difference"] != 0).all())
    assert "7 documents" in repr(found)


def test_it_is_the_same_each_time_and_can_be_of_some_layers(lab: lk.Lab, identity: JacobianLens) -> None:
    once, again = (lk.circuits.lens_quality(lab, TEXTS, lens=identity, layers=[2], **QUICK) for _ in range(2))
    assert once.table.equals(again.table)
    assert sorted(once.table["layer"].dropna().unique()) == [2]


def test_a_document_that_stands_there_twice_counts_once(lab: lk.Lab, identity: JacobianLens) -> None:
    once = lk.circuits.lens_quality(lab, TEXTS, lens=identity, layers=[2], **QUICK)
    twice = lk.circuits.lens_quality(
        lab, {kind: [*of, of[0]] for kind, of in TEXTS.items()}, lens=identity, layers=[2], **QUICK
    )
    assert once.table.equals(twice.table)
    assert twice.documents == once.documents
    assert f"{len(TEXTS)} texts stood there before and were left out" in str(twice)


def test_what_cannot_be_compared_is_refused(lab: lk.Lab, identity: JacobianLens) -> None:
    few = {"a": TEXTS["a"][:2], "b": [[4, 5, 6 + i] for i in range(4)]}
    with pytest.raises(lk.BadInput, match="2 of 6 documents have 22 tokens or more, too few"):
        lk.circuits.lens_quality(lab, few, lens=identity, **QUICK)
    with pytest.raises(lk.BadInput, match="no matrix for layer 0"):
        lk.circuits.lens_quality(lab, TEXTS, lens=identity, layers=[0], **QUICK)
    with pytest.raises(lk.BadInput, match="layers is empty"):
        lk.circuits.lens_quality(lab, TEXTS, lens=identity, layers=[], **QUICK)
    with pytest.raises(lk.Unavailable, match="ships no Jacobian lens for tiny"):
        lk.circuits.lens_quality(lab, TEXTS, **QUICK)
    with pytest.raises(lk.BadInput):
        lk.circuits.lens_quality(lab, [], lens=identity, **QUICK)
