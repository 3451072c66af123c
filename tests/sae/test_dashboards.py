"""What a dashboard says of a feature, against the corpus and the weights themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dictionaries import folder, make_lab
from planted import detectors, rows

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.sae import Feature, Index, dashboard, nearest, promoted
from labkit.sae.indexing import EDGES, SPREAD, TOP

NEVER = 50  # a token that no text has
TEXTS = {"low": rows(20, 60, tokens=range(3, 30)), "high": rows(10, 60, seed=1, tokens=range(20, 50))}


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return make_lab()


@pytest.fixture(scope="module")
def found(lab: lk.Lab) -> Index:
    return lk.sae.index(lab, detectors(lab), TEXTS)


# the corpus ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [5, 25, 45])
def test_the_figures_of_a_feature_are_those_of_its_token(lab: lk.Lab, found: Index, token: int) -> None:
    board = dashboard(lab, detectors(lab)[token], of=found, k=3)
    counts = {kind: sum(row[1:].count(token) for row in texts) for kind, texts in TEXTS.items()}
    tokens = {kind: sum(len(row) - 1 for row in texts) for kind, texts in TEXTS.items()}
    everything, total = sum(counts.values()), sum(tokens.values())
    assert board.tokens == total
    assert board.density == pytest.approx(everything / total)
    assert board.largest == pytest.approx(2, rel=1e-4)
    assert not board.dead
    for kind, (of_feature, of_corpus) in board.kinds.items():
        assert of_feature == pytest.approx(counts[kind] / everything, rel=1e-4)
        assert of_corpus == pytest.approx(tokens[kind] / total)
    assert board.edges == EDGES
    assert len(board.counts) == len(EDGES) - 1
    assert sum(board.counts) == everything
    assert len(board.promoted) == len(board.suppressed) == len(board.nearest) == 3


def test_examples_show_the_feature_where_it_is(lab: lk.Lab, found: Index) -> None:
    examples = dashboard(lab, detectors(lab)[25], of=found).examples
    assert len(examples) == TOP  # all have the same activation: nothing is drawn from lower down
    for example in examples:
        assert len(example.tokens) == len(example.activations) == 24
        assert example.tokens[example.peak] == "t25 "
        assert example.activation == pytest.approx(2, rel=1e-4)
        # the feature is at work on its token and nowhere else; but at the first of a text nothing is said
        for place, (token, value) in enumerate(zip(example.tokens, example.activations.tolist(), strict=True)):
            assert value == pytest.approx(2 if token == "t25 " else 0, rel=1e-2) or place == 0
        assert example.kind in TEXTS
        assert example.top


def test_examples_from_lower_down_are_no_top_ones(lab: lk.Lab, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path))
    found = lk.sae.index(lab, sae, TEXTS)
    feature = int(found.counts.argmax())
    board = dashboard(lab, sae[feature], of=found)
    tops = [example.activation for example in board.examples if example.top]
    others = [example.activation for example in board.examples if not example.top]
    assert len(tops) == TOP
    assert 0 < len(others) <= SPREAD
    assert max(others) < min(tops)
    assert max(tops) == pytest.approx(board.largest)
    for example in board.examples:
        assert example.activation == pytest.approx(float(example.activations.max()))


def test_a_feature_at_work_nowhere_is_dead(lab: lk.Lab, found: Index) -> None:
    board = dashboard(lab, detectors(lab)[NEVER], of=found)
    assert board.dead
    assert board.density == board.largest == sum(board.counts) == 0
    assert board.examples == ()
    assert [share for share, _ in board.kinds.values()] == [0, 0]
    assert len(board.promoted) == 8  # what it promotes is known all the same


def test_a_dashboard_is_read_where_it_is_shown(lab: lk.Lab, found: Index) -> None:
    board = dashboard(lab, detectors(lab)[25], of=found, k=3)
    shown = repr(board)
    assert shown.startswith("Feature 25 of ")
    assert f"{board.density:.3%} of {board.tokens:,} tokens; highest activation 2.0" in shown
    assert shown.count("[t25 ]") == len(board.examples)
    assert repr(board.promoted[0][0]) in shown
    assert f"{board.nearest[0][0]} ({board.nearest[0][1]:.2f})" in shown
    assert f"{board.chance_cosine:.2f}" in shown
    assert max(map(len, shown.splitlines())) < 300
    assert "active on none of" in repr(dashboard(lab, detectors(lab)[NEVER], of=found))


def test_an_index_of_another_is_refused(lab: lk.Lab, found: Index, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path))
    with pytest.raises(BadInput, match=r"index is of 100 features and .* has 80; make it again"):
        dashboard(lab, sae[3], of=found)
    with pytest.raises(BadInput, match="came without an index"):
        dashboard(lab, sae[3])


# what it promotes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama2", "gpt2"])
def test_promoted_is_the_unembedding_of_the_normed_direction(family: str, tmp_path: Path) -> None:
    """By hand, with the norm's own formula; GPT-2's has a mean to take away and a bias that no direction brings."""
    lab = make_lab(family)
    model = lab.model
    with torch.no_grad():
        norm = model.model.norm if family == "llama2" else model.transformer.ln_f
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(32, generator=torch.Generator().manual_seed(5)))
    sae = lk.sae.load(folder(tmp_path))
    up, down, _ = promoted(lab, sae[7], 5)
    x = sae[7].direction.double()
    if family == "gpt2":
        x = x - x.mean()
    normed = x / x.square().mean().sqrt() * norm.weight.double()
    logits = model.lm_head.weight.double() @ normed
    scores = (logits - logits.mean()) / logits.std()
    order = scores.argsort(descending=True).tolist()
    assert [token for token, _ in up] == [f"t{i} " for i in order[:5]]
    assert [token for token, _ in down] == [f"t{i} " for i in order[::-1][:5]]
    np.testing.assert_allclose([s for _, s in up], scores[order[:5]].detach().numpy(), rtol=1e-3)
    np.testing.assert_allclose([s for _, s in down], scores[order[::-1][:5]].detach().numpy(), rtol=1e-3)


def test_a_bias_of_the_unembedding_is_brought_by_no_direction(tmp_path: Path) -> None:
    lab = make_lab()
    sae = lk.sae.load(folder(tmp_path))
    before = promoted(lab, sae[7])
    lab.model.lm_head.bias = torch.nn.Parameter(100 * torch.randn(100, generator=torch.Generator().manual_seed(1)))
    up, down, chance = promoted(lab, sae[7])
    assert [token for token, _ in up] == [token for token, _ in before[0]]
    assert [token for token, _ in down] == [token for token, _ in before[1]]
    assert chance == pytest.approx(before[2], rel=1e-3)


def test_a_random_direction_promotes_as_much_as_chance_says(lab: lk.Lab) -> None:
    """The mean over many random directions: that of the 20 behind chance_promotion strays by about 2 % of it."""
    draw = torch.Generator().manual_seed(123)
    sae = replace(detectors(lab), decoder=torch.randn(100, 32, generator=draw))
    strongest = [promoted(lab, sae[i], 1)[0][0][1] for i in range(100)]
    _, _, chance = promoted(lab, sae[0])
    assert np.mean(strongest) == pytest.approx(chance, rel=0.1)
    assert 2 < chance < 3  # of 100 roughly normal numbers the largest is about 2.5


def test_the_strength_of_a_direction_does_not_matter(lab: lk.Lab) -> None:
    sae = detectors(lab)
    longer = replace(sae, decoder=1000 * sae.decoder)
    assert [t for t, _ in promoted(lab, sae[9])[0]] == [t for t, _ in promoted(lab, longer[9])[0]]


def test_a_dashboard_stands_where_the_way_to_the_logits_is_not_found(
    lab: lk.Lab, found: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = replace(lab.anatomy, unembedding=None)
    monkeypatch.setattr(lk.Lab, "anatomy", without)
    with pytest.raises(Unavailable, match="to the logits of llama2 is not found"):
        promoted(lab, detectors(lab)[9])
    board = dashboard(lab, detectors(lab)[9], of=found)
    assert (board.promoted, board.suppressed) == ((), ())
    assert math.isnan(board.chance_promotion)
    assert board.examples


def test_a_feature_without_a_direction_promotes_nothing_more_than_others(lab: lk.Lab) -> None:
    whole = detectors(lab)
    decoder = whole.decoder.clone()
    decoder[7] = 0
    up, down, chance = promoted(lab, replace(whole, decoder=decoder)[7])
    assert all(change == 0 for _, change in (*up, *down))
    assert math.isfinite(chance)


# neighbours ------------------------------------------------------------------------------------------------------------


def test_the_nearest_are_those_of_a_loop(lab: lk.Lab, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path))  # rows of many lengths
    for index in (0, 41, 79):
        own = sae[index].direction

        def cosine(other: Feature, own: torch.Tensor = own) -> float:
            return float(torch.nn.functional.cosine_similarity(own, other.direction, dim=0))

        wanted = sorted(((f.index, cosine(f)) for f in sae if f.index != index), key=lambda pair: -pair[1])
        found = nearest(sae[index], 6)
        assert [i for i, _ in found] == [i for i, _ in wanted[:6]]
        np.testing.assert_allclose([c for _, c in found], [c for _, c in wanted[:6]], rtol=1e-5)
    assert len(nearest(sae[0], 1_000)) == 79


def test_a_row_of_zeros_is_nobodys_neighbour(lab: lk.Lab) -> None:
    """It has no direction: its cosine with all is 0, not NaN, which would come first."""
    sae = detectors(lab)
    decoder = sae.decoder.clone()
    decoder[[0, 40, 99]] = 0.0
    gaps = replace(sae, decoder=decoder)
    for index in (5, 41, 98):
        found = nearest(gaps[index], 99)
        assert len(found) == 99
        assert not any(math.isnan(cosine) for _, cosine in found)
        assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
        assert all(cosine == 0 for i, cosine in found if i in (0, 40, 99))
        others = [i for i, _ in nearest(sae[index], 99) if i not in (0, 40, 99)]
        assert [i for i, _ in found if i not in (0, 40, 99)] == others
        above = [i for i, cosine in found if cosine > 0]
        assert len(above) > 10
        assert not {0, 40, 99} & set(above)
        assert [i for i, _ in nearest(gaps[index], len(above))] == above
    own = nearest(gaps[40], 5)
    assert len(own) == 5
    assert [cosine for _, cosine in own] == [0.0] * 5
    assert 40 not in [i for i, _ in own]


@pytest.mark.parametrize(("what", "shown"), [(3, "3"), ("x", "'x'"), (None, "a NoneType"), ("sae", "a SAE")])
def test_what_is_no_feature_is_refused(lab: lk.Lab, found: Index, what: Any, shown: str) -> None:
    wrong = detectors(lab) if what == "sae" else what
    for call in (
        lambda: dashboard(lab, wrong),
        lambda: dashboard(lab, wrong, of=found),
        lambda: promoted(lab, wrong),
        lambda: nearest(wrong),
        lambda: lk.sae.check_name(lab, wrong, lambda _, __: True, TEXTS["low"]),
        lambda: lk.sae.quiz(lab, wrong, TEXTS["low"]),
        lambda: lk.clamp(wrong, 1.0),
    ):
        with pytest.raises(BadInput, match=rf"This takes a feature, such as sae\[1234\], and {shown} is none"):
            call()


def test_the_chance_cosine_is_that_of_random_rows(lab: lk.Lab, found: Index) -> None:
    """What the nearest of a hundred random directions reaches in 32 dimensions, in the mean."""
    draw = torch.Generator().manual_seed(9)
    random = replace(detectors(lab), decoder=torch.randn(100, 32, generator=draw))
    reached = np.mean([nearest(random[i], 1)[0][1] for i in range(100)])
    found = replace(found, of="")  # of whichever hundred features
    board = dashboard(lab, random[0], of=found)
    assert board.chance_cosine == pytest.approx(reached, rel=0.1)
    again = dashboard(lab, random[1], of=found)
    assert again.chance_cosine == board.chance_cosine
