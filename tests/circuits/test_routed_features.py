"""What features tell about experts: all of it where they are the experts' own, nothing where they have no part in it."""

from __future__ import annotations

import dataclasses

import hand_mixture
import numpy as np
import pytest
import torch
from planted import mirror

import labkit as lk
from labkit.circuits import counted_on, expert_features
from labkit.circuits.routed_features import _Tokens
from labkit.sae.dictionary import Gate
from labkit.sae.quality import untrained

WORDS = hand_mixture.WORDS


def texts(count: int = 12) -> dict[str, list[list[int]]]:
    return {kind: hand_mixture.documents(kind, count, seed=number) for number, kind in enumerate(hand_mixture.CYCLES)}


def of_experts(layer: int = 1) -> lk.sae.SAE:
    """A feature for each expert of the mixture, active on the tokens it carries."""
    rows = torch.zeros(5, 2 * WORDS)
    for expert, tokens in hand_mixture.CARRIES.items():
        rows[expert, list(tokens)] = 1.0
    rows[4, 0] = 1.0
    return lk.sae.SAE(
        name="by hand",
        model=None,
        layer=layer,
        architecture="topk",
        encoder=rows.T.contiguous(),
        encoder_bias=torch.zeros(5),
        decoder=rows / rows.norm(dim=1, keepdim=True),
        decoder_bias=torch.zeros(2 * WORDS),
        k=1,
    )


def test_features_that_are_the_experts_tell_all() -> None:
    lab = hand_mixture.hand_lab()
    found = expert_features(lab, of_experts(), texts(), shuffles=19, untrained=5, draws=50, progress=False)
    rows = found.set_index("known")
    assert rows.loc["feature", "share"] > 0.98
    assert rows.loc["feature", "low"] <= rows.loc["feature", "information"] <= rows.loc["feature", "high"]
    assert rows.loc["feature", "p_shuffled"] == 1 / 20
    assert rows.loc["feature", "shuffled_high"] < 0.5 * rows.loc["feature", "information"]
    assert rows.loc["untrained feature", "share"] < rows.loc["feature", "share"]
    assert rows.loc["token", "share"] > 0.95, "each token has its expert"
    assert rows.loc["token and feature", "information"] == pytest.approx(rows.loc["token", "information"], abs=0.06)
    assert found.told == 4
    assert found.experts["feature"].tolist()[:4] == [0, 1, 2, 3]
    assert np.isnan(found.experts["feature_share"][4]), "of an expert that is never chosen there is nothing to tell"
    assert "about 4 of 5 experts" in repr(found)


def of_kind(kind: str) -> lk.sae.SAE:
    """The same features, kept in another way: largest alike, since they are read alike."""
    features = len(of_experts())
    if kind == "gated":
        nothing = torch.zeros(features)
        return dataclasses.replace(of_experts(), architecture=kind, k=None, gate=Gate(nothing, nothing, nothing))
    threshold = torch.full((features,), 0.01) if kind == "jumprelu" else None
    return dataclasses.replace(of_experts(), architecture=kind, k=None, threshold=threshold)


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "gated"])
def test_features_of_every_kind_tell_what_those_of_topk_do(kind: str) -> None:
    lab, sae = hand_mixture.hand_lab(), of_kind(kind)
    settings = {"shuffles": 3, "untrained": 2, "draws": 20, "progress": False}
    plain, found = (expert_features(lab, one, texts(), **settings).set_index("known") for one in (of_experts(), sae))  # type: ignore[arg-type]
    assert found.loc["feature", "information"] == pytest.approx(plain.loc["feature", "information"])
    assert found.loc["token", "information"] == plain.loc["token", "information"]
    assert found.loc["untrained feature", "share"] < found.loc["feature", "share"]
    beside = untrained(sae, k=2)
    assert (beside.architecture, beside.k, beside.gate, beside.threshold) == ("topk", 2, None, None)
    x = lab.trace(texts()["a" if "a" in texts() else next(iter(texts()))][0], keep="residual").residual(1)
    assert int((beside.encode(x) != 0).sum(1).max()) <= 2
    with pytest.raises(lk.BadInput, match="so give k"):
        untrained(sae)


def test_a_constant_label_tells_nothing() -> None:
    everywhere, rng = np.zeros(1_000, np.int64), np.random.default_rng(0)
    data = made(rng.integers(0, 4, (1_000, 1)), everywhere)
    assert data.saved(data.experts, everywhere).mean() == pytest.approx(0.0, abs=0.02)


def made(experts: np.ndarray, label: np.ndarray) -> _Tokens:
    n = len(experts)
    counted = np.arange(n) < n // 2
    return _Tokens(
        document=np.arange(n) // 10,
        token=label,
        feature=label,
        untrained_feature=label,
        active=label[:, None],
        untrained_active=label[:, None],
        experts=experts,
        others=(),
        counted=counted,
        test=np.flatnonzero(~counted),
        n_experts=4,
        n_features=int(label.max()) + 1,
        names={},
        ids=label,
    )


def test_what_is_saved_is_the_information_by_hand() -> None:
    """Labels that tell the expert in three of four cases: log2(4) less the entropy of (3/4, 1/12, 1/12, 1/12)."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 4, 40_000)
    experts = np.where(rng.random(40_000) < 0.75, label, (label + rng.integers(1, 4, 40_000)) % 4)[:, None]
    data = made(experts, label)
    expected = 2 + 0.75 * np.log2(0.75) + 0.25 * np.log2(1 / 12)
    assert data.saved(experts, label).mean() == pytest.approx(expected, abs=0.02)
    assert data.saved(experts, label, first=label).mean() == pytest.approx(expected, abs=0.02), "twice tells no more"
    assert data.entropy == pytest.approx(2.0, abs=0.01)


def test_many_labels_of_chance_tell_nothing_beyond_zero() -> None:
    """Where nothing is to be told, rare labels that were counted can only mislead: over 20 seeds none is above 0."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        data = made(rng.integers(0, 4, (2_000, 1)), rng.integers(0, 300, 2_000))
        assert data.saved(data.experts, data.feature).mean() < 0.01
        shares = data.by_expert()["feature_share"]
        assert (shares < 0.02).all()


def test_the_half_that_is_counted_on_is_the_one_given_to_training() -> None:
    given = {"a": list(range(7)), "b": list(range(10, 16))}
    half = counted_on(given, seed=3)
    assert set(half) == {"a", "b"}
    assert len(half["a"]) in (3, 4)
    assert len(half["b"]) == 3
    assert counted_on(given, seed=3) == half != counted_on(given, seed=4)


def test_what_cannot_be_told_is_refused(tiny_lab: lk.Lab) -> None:
    lab = hand_mixture.hand_lab()
    with pytest.raises(lk.BadInput, match="too few to count on some and measure on others; give 4"):
        expert_features(lab, of_experts(), texts(3), progress=False)
    with pytest.raises(lk.Unavailable, match="has no routes to collect"):
        expert_features(tiny_lab, mirror(int(tiny_lab.config.hidden_size)), {"a": [[5, 6, 7]] * 4}, progress=False)
    with pytest.raises(lk.BadInput, match="shuffles=-1"):
        expert_features(lab, of_experts(), texts(), shuffles=-1)
