"""Load, balance, specialisation, vocabulary, co-activation and saturation against plain counting, and their chance levels."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routings import made, synthetic

import labkit as lk
from labkit.moe.lexicon import vocabulary
from labkit.moe.measures import (
    balance,
    coactivation,
    even_counts,
    joint_inclusion,
    load,
    overlap,
    saturation,
    specialisation,
)
from labkit.moe.mutual import information
from labkit.moe.routing import Routing
from labkit.statistics import mutual_information

FEW = {"least_documents": 1, "least_tokens": 1}


@pytest.fixture(scope="module")
def routing() -> Routing:
    return synthetic(layers=2, routers=4, by_token=1, by_kind=0.5, by_document=0.5, seed=3)


# load and balance -----------------------------------------------------------------------------------------------------


def test_load_is_counted(routing: Routing) -> None:
    table = load(routing, draws=50)
    for row in table.sample(8, random_state=0).itertuples():
        assert row.load == pytest.approx((routing.experts[:, row.layer] == row.expert).sum() / (len(routing) * 2))
    assert np.allclose(table.groupby("layer")["load"].sum(), 1)
    assert (table["low"] <= table["load"]).mean() > 0.9
    assert (table["high"] >= table["load"]).mean() > 0.9
    assert set(table["uniform"]) == {1 / 8}
    assert table.equals(load(routing, draws=50)), "the same seed gives the same table"


def test_load_stands_beside_the_crowd_of_untrained_experts(routing: Routing) -> None:
    assert routing.untrained is not None
    table = load(routing, draws=5).set_index("layer")
    shares = [np.bincount(o[:, 1].ravel(), minlength=8) / o[:, 1].size for o in routing.untrained]
    for name, percent in (("untrained_low", 2.5), ("untrained_high", 97.5)):
        assert set(table.loc[1, name]) == {np.percentile(shares, percent)}
        assert load(replace(routing, untrained=None), draws=5)[name].isna().all()


@pytest.mark.parametrize("by_document", [0.0, 0.7])
def test_the_interval_of_the_largest_violation_covers_it(by_document: float) -> None:
    rng = np.random.default_rng(0)
    taste = np.array([1.0, 0.5, 0, 0, -0.5])

    def chosen(documents: int) -> np.ndarray:
        own = taste + by_document * rng.normal(size=(documents, 5))
        return np.argmax(np.repeat(own, 40, 0) + rng.gumbel(size=(documents * 40, 5)), 1)

    many = np.bincount(chosen(5_000), minlength=5)
    truth = many.max() / many.mean() - 1
    hits, inside = [], []
    for seed in range(80):
        found = made(np.zeros(1_200), np.arange(1_200) // 40, np.zeros(30), chosen(30)[:, None, None], experts=5)
        row = balance(found, draws=100, seed=seed).iloc[0]
        hits.append(row["max_violation_low"] <= truth <= row["max_violation_high"])
        inside.append(row["max_violation_low"] < row["max_violation"] < row["max_violation_high"])
    assert np.mean(hits) > 0.85
    assert all(inside)


def test_intervals_are_those_of_documents_and_not_of_tokens() -> None:
    """Copying every token of a document changes nothing that is known."""
    once = synthetic(by_document=1, seed=1)
    again = np.repeat(np.arange(len(once)), 4)
    fourfold = made(once.ids[again], once.document[again], once.kind_of, once.experts[again], experts=8)
    for measure in (load, lambda r, draws: specialisation(r, draws=draws, **FEW)):
        one, four = measure(once, draws=200), measure(fourfold, draws=200)
        assert np.allclose(one[["low", "high"]], four[["low", "high"]])


def test_balance_of_an_even_and_of_a_lopsided_choice() -> None:
    n = 400
    even = np.stack([np.arange(n) % 4, (np.arange(n) + 1) % 4], 1)
    lopsided = np.stack([np.zeros(n, int), 1 + (np.arange(n) % 2)], 1)
    chosen = np.stack([even, lopsided], 1)
    table = balance(made(np.zeros(n), np.arange(n) // 40, np.zeros(10), chosen, experts=4), draws=200).set_index(
        "layer"
    )
    assert table["entropy"].tolist() == pytest.approx([2, 1.5])
    assert table["entropy_share"].tolist() == pytest.approx([1, 0.75])
    assert table["max_violation"].tolist() == pytest.approx([0, 1])
    assert table["never_chosen"].tolist() == [0, 1]
    assert table["untrained_entropy"].isna().all()
    assert 0 < table["even_max_violation"][0] < 0.2, "random choice is not quite even"


def test_balance_of_untrained_routers_is_their_mean(routing: Routing) -> None:
    assert routing.untrained is not None
    table = balance(routing, draws=20)
    each = [balance(replace(routing, experts=o, untrained=None), draws=20) for o in routing.untrained]
    for name in ("entropy", "max_violation", "never_chosen"):
        assert np.allclose(table[f"untrained_{name}"], np.mean([e[name] for e in each], 0))


def test_random_choice_is_that_of_sets_drawn_one_by_one() -> None:
    rng = np.random.default_rng(0)
    ours = even_counts(50, 6, 3, 4_000, rng)
    assert (ours.sum(1) == 150).all()
    plain = np.stack(
        [np.bincount(np.argsort(rng.random((50, 6)), 1)[:, :3].ravel(), minlength=6) for _ in range(4_000)]
    )
    assert ours.mean(0) == pytest.approx(np.full(6, 25), abs=0.3)
    assert ours.var(0) == pytest.approx(plain.var(0), rel=0.15)
    assert ours.max(1).mean() == pytest.approx(plain.max(1).mean(), rel=0.01)


# specialisation -------------------------------------------------------------------------------------------------------


def test_specialisation_is_counted(routing: Routing) -> None:
    table = specialisation(routing, draws=50, **FEW)
    for row in table.sample(10, random_state=0).itertuples():
        of = routing.kind == routing.kinds.index(row.kind)
        chose = (routing.experts[of, row.layer] == row.expert).any(-1)
        assert row.share == pytest.approx(chose.mean())
        assert row.tokens == of.sum()
    assert np.allclose(table.groupby(["layer", "kind"])["share"].sum(), 2)
    assert set(table["uniform"]) == {2 / 8}


def test_untrained_experts_are_told_as_one_crowd(routing: Routing) -> None:
    assert routing.untrained is not None
    table = specialisation(routing, draws=50, **FEW).set_index(["layer", "kind"])
    of = routing.kind == 1
    shares = np.array([[(o[of, 1] == expert).any(-1).mean() for expert in range(8)] for o in routing.untrained])
    row = table.loc[(1, "kind1")].iloc[0]
    assert row.untrained_low == pytest.approx(np.percentile(shares, 2.5))
    assert row.untrained_high == pytest.approx(np.percentile(shares, 97.5))
    assert row.untrained_largest == pytest.approx(np.percentile(shares.max(1), 95))


def test_by_token_is_where_tokens_went_elsewhere(routing: Routing) -> None:
    """The table that information's by_token is the bits of, a row of it counted by hand."""
    table = specialisation(routing, draws=5, **FEW)
    of_kind = np.bincount(routing.kind)
    bits = information(routing, draws=5, **FEW)["by_token"]
    for layer in (0, 1):
        shares = table[table["layer"] == layer]["by_token"].to_numpy().reshape(3, 8)
        assert shares.sum(1) == pytest.approx([2, 2, 2])
        assert mutual_information(shares * of_kind[:, None]) == pytest.approx(bits[layer])
    plain = np.zeros(8)
    for n in np.flatnonzero(routing.kind == 2):
        others = (routing.ids == routing.ids[n]) & (routing.document != routing.document[n])
        assert others.any()
        plain += np.bincount(routing.experts[others, 0].ravel(), minlength=8) / others.sum()
    found = table[(table["layer"] == 0) & (table["kind"] == "kind2")]["by_token"]
    assert found.tolist() == pytest.approx((plain / of_kind[2]).tolist())


def test_as_many_stand_out_by_chance_as_untrained_routers_have() -> None:
    """Each untrained router in turn as if it were the model: counted from the tables that gives."""
    routing = synthetic(layers=2, routers=8, by_token=1, by_kind=1, seed=0)
    assert routing.untrained is not None
    table = specialisation(routing, draws=100, **FEW)
    instead = [
        specialisation(replace(routing, experts=o, untrained=np.delete(routing.untrained, i, axis=0)), draws=100, **FEW)
        for i, o in enumerate(routing.untrained[:6])
    ]

    def standing_out(frame: Any, rule: str) -> np.ndarray:
        out = frame[frame["low"] > frame[rule]].drop_duplicates(["layer", "expert"])
        return np.array([(out["layer"] == layer).sum() for layer in (0, 1)])

    for rule in ("untrained_high", "untrained_largest"):
        found, chance = standing_out(table, rule), np.mean([standing_out(f, rule) for f in instead], axis=0)
        assert table.attrs["stand_out"][rule] == {"found": found.sum(), "by_chance": pytest.approx(chance.sum())}
        for layer in (0, 1):
            told = table.attrs["stand_out_by_layer"][layer][rule]
            assert told == {"found": found[layer], "by_chance": pytest.approx(chance[layer])}
    assert table.attrs["standins"] == 6
    assert table.attrs["stand_out"]["untrained_high"]["by_chance"] > 0


def test_who_stands_out_is_found_beyond_chance_and_no_chance_is_told_without_routers() -> None:
    routing = synthetic(routers=5, by_token=0.5, seed=0)
    sharp = replace(routing, experts=np.stack([routing.kind, routing.kind + 3], -1)[:, None].astype(np.uint8))
    told = specialisation(sharp, draws=50).attrs["stand_out"]["untrained_largest"]
    assert told["found"] == 6
    assert told["by_chance"] < 1
    for untrained in (None, routing.untrained[:1] if routing.untrained is not None else None):
        told = specialisation(replace(sharp, untrained=untrained), draws=50).attrs["stand_out"]["untrained_high"]
        assert np.isnan(told["by_chance"])
        assert np.isnan(told["found"]) == (untrained is None)


def test_documents_without_a_counted_token_are_not_counted() -> None:
    base = synthetic(documents=11, seed=0)
    table = specialisation(replace(base, kind_of=np.append(base.kind_of, [0, 0])), draws=5).set_index("kind")
    assert table["documents"].unique().tolist() == [11]
    assert table["share"].notna().all()


def test_a_kind_with_too_little_text_gets_words_instead_of_numbers() -> None:
    few = synthetic(documents=4, length=20, seed=0)
    table = specialisation(few)
    assert table["share"].isna().all()
    assert table["low"].isna().all()
    assert set(table["note"]) == {
        f"4 documents with 80 tokens of kind{i} are too few; give 10 with 200" for i in range(3)
    }
    assert specialisation(few, least_documents=4, least_tokens=80)["share"].notna().all()
    single = specialisation(synthetic(documents=1, length=7, kinds=1))
    assert single["note"][0] == "1 document with 7 tokens of kind0 is too few; give 10 with 200"


def test_the_interval_covers_what_documents_of_the_kind_show_and_tokens_would_not() -> None:
    """95 % intervals, thirty documents that each like experts of their own: counted over many samples."""
    rng = np.random.default_rng(0)
    taste = rng.normal(size=6)
    population = np.exp(taste + 0.8 * rng.normal(size=(20_000, 6)))
    truth = (population / population.sum(1, keepdims=True)).mean(0)
    hits, naive = [], []
    for _ in range(60):
        logits = taste + 0.8 * rng.normal(size=(30, 6))
        document = np.repeat(np.arange(30), 50)
        chosen = np.argmax(logits[document] + rng.gumbel(size=(1_500, 6)), 1)[:, None, None]
        table = specialisation(made(np.zeros(1_500), document, np.zeros(30), chosen, experts=6), draws=200)
        hits.append((table["low"] <= truth) & (truth <= table["high"]))
        width = 1.96 * np.sqrt(table["share"] * (1 - table["share"]) / 1_500)
        naive.append((table["share"] - truth).abs() <= width)
    assert np.mean(hits) > 0.87
    assert np.mean(naive) < 0.75, "these documents would not need resampling"


# vocabulary -----------------------------------------------------------------------------------------------------------


def test_vocabulary_is_counted(routing: Routing) -> None:
    found = vocabulary(routing, top=3, least=30, least_documents=2, draws=20)
    counts = np.bincount(routing.ids)
    for row in found.tokens.sample(8, random_state=0).itertuples():
        of = routing.ids == row.id
        assert row.share == pytest.approx((routing.experts[of, row.layer] == row.expert).any(-1).mean())
        assert row.occurrences == of.sum() >= 30
        assert row.documents == len(set(routing.document[of]))
    frequent = np.flatnonzero(counts >= 30)
    for row in found.layers.itertuples():
        best = [
            max((routing.experts[routing.ids == t, row.layer] == e).any(-1).mean() for e in range(8)) for t in frequent
        ]
        assert row.specialisation == pytest.approx(np.mean(best))
        assert row.types == len(frequent)
        assert row.low < row.specialisation < row.high
    ranks = found.tokens.groupby(["layer", "expert"])["share"]
    assert all(share.is_monotonic_decreasing for _, share in ranks)


def test_vocabulary_of_a_router_that_follows_the_token_and_of_one_that_follows_nothing() -> None:
    base = synthetic(documents=20, seed=0)
    follows = replace(base, experts=np.stack([base.ids % 8, (base.ids + 1) % 8], 1)[:, None].astype(np.uint8))
    table = vocabulary(follows, draws=10).layers
    assert table["specialisation"][0] == pytest.approx(1)
    nothing = vocabulary(base, draws=40).layers.iloc[0]
    assert nothing.low <= nothing.even <= nothing.high
    assert nothing.specialisation > 0.3 > 2 / 8, "above k/E, for the largest of several shares is taken"


def test_vocabulary_needs_frequent_tokens(routing: Routing) -> None:
    with pytest.raises(lk.BadInput, match="No token occurs 100000 times"):
        vocabulary(routing, least=100_000)


# co-activation --------------------------------------------------------------------------------------------------------


def test_coactivation_is_counted(routing: Routing) -> None:
    found = coactivation(routing, top=4, draws=50)
    sets = [set(row) for row in routing.experts[:, 1].tolist()]
    for i, j in ((0, 1), (5, 2)):
        both, alone = sum({i, j} <= s for s in sets), sum(i in s for s in sets)
        assert found.given[1, i, j] == pytest.approx(both / alone)
    assert np.allclose(np.nansum(found.given, 2), 1), "k - 1 others are chosen with each"
    assert np.allclose(np.nansum(found.independent, 2), 1)
    strongest = found.pairs[found.pairs["layer"] == 1].iloc[0]
    assert strongest.together == sum({strongest["first"], strongest["second"]} <= s for s in sets)
    assert strongest.ratio == pytest.approx(strongest.given / strongest.independent)
    assert strongest.low <= strongest.ratio <= strongest.high
    assert strongest.ratio == pytest.approx(np.nanmax(found.given[1] / found.independent[1]))


def test_a_pair_that_goes_together_is_found() -> None:
    rng = np.random.default_rng(0)
    chosen = np.argsort(rng.random((2_000, 1, 6)), -1)[..., :2]
    others = np.array([0, 1, 3, 4])[np.argsort(rng.random((2_000, 1, 4)), -1)[..., :2]]
    kept = np.where(rng.random((2_000, 1, 1)) < 1 / 3, [2, 5], others)  # the loads stay even
    chosen = np.where(rng.random((2_000, 1, 1)) < 0.3, kept, chosen)
    found = coactivation(made(np.zeros(2_000), np.arange(2_000) // 50, np.zeros(40), chosen, experts=6), draws=50)
    first = found.pairs.iloc[0]
    assert {first["first"], first["second"]} == {2, 5}
    assert first.low > 1.5


def test_independent_choice_has_no_pairs() -> None:
    rng = np.random.default_rng(1)
    chosen = np.argsort(np.log([4, 3, 2, 1, 1, 1]) + rng.gumbel(size=(40_000, 1, 6)), -1)[..., -2:]
    found = coactivation(made(np.zeros(40_000), np.arange(40_000) // 50, np.zeros(800), chosen, experts=6), draws=20)
    # taking the largest of perturbed weights one after the other is close to, not quite, conditional Bernoulli
    assert found.pairs["ratio"].max() < 1.25


def test_one_expert_has_no_company() -> None:
    with pytest.raises(lk.BadInput, match="none are chosen together"):
        coactivation(synthetic(k=1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.05, 5), min_size=3, max_size=7), st.data())
def test_joint_inclusion_is_that_of_all_sets(odds: list[float], data: Any) -> None:
    k = data.draw(st.integers(2, len(odds) - 1))
    sets = list(itertools.combinations(range(len(odds)), k))
    weights = np.array([np.prod([odds[e] for e in s]) for s in sets])
    weights /= weights.sum()
    member = np.array([[e in s for e in range(len(odds))] for s in sets], float)
    found = joint_inclusion(weights @ member, k)
    expected = np.einsum("s,si,sj->ij", weights, member, member)
    np.fill_diagonal(expected, 0)
    assert np.allclose(found, expected, atol=1e-7)


def test_joint_inclusion_at_its_edges() -> None:
    assert np.allclose(joint_inclusion(np.array([1.0, 0.5, 0.5, 0.0]), 2)[0], [0, 0.5, 0.5, 0], atol=1e-6)
    assert np.allclose(joint_inclusion(np.ones(3), 3), 1 - np.eye(3))
    large = joint_inclusion(np.full(256, 8 / 256), 8)
    assert np.allclose(large.sum(1), 7 * 8 / 256)


# saturation -----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_overlap_is_that_of_sets(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (np.argsort(rng.random((7, 2, 5)), -1)[..., :k].astype(np.uint8) for _ in range(2))
    plain = [[len(set(first[n, i]) & set(second[n, i])) / k for i in range(2)] for n in range(7)]
    assert np.allclose(overlap(first, second), plain)


def test_saturation_rises_to_one_from_what_chance_gives() -> None:
    rng = np.random.default_rng(0)
    steps = {s: np.argsort(rng.random((3_000, 2, 8)), -1)[..., :2].astype(np.uint8) for s in (0, 10)}
    steps[20] = np.where(rng.random((3_000, 1, 1)) < 0.5, steps[10], steps[0])
    others = np.stack([np.argsort(rng.random((3_000, 2, 8)), -1)[..., :2] for _ in range(3)])
    table = saturation(
        steps, steps[10], document=np.repeat(np.arange(60), 50), untrained=others, n_experts=8, draws=100
    ).set_index(["step", "layer"])
    assert table.loc[10]["share"].tolist() == [1, 1]
    assert table.loc[0]["share"].tolist() == pytest.approx([0.25] * 2, abs=0.02)
    assert table.loc[20]["share"].tolist() == pytest.approx([0.625] * 2, abs=0.02)
    assert set(table["uniform"]) == {0.25}
    assert table["same_loads"].tolist() == pytest.approx([0.25] * 6, abs=0.01)
    assert table["unrelated"].tolist() == pytest.approx([0.25] * 6, abs=0.02)
    assert ((table["low"] <= table["share"]) & (table["share"] <= table["high"])).all()


def test_saturation_of_lopsided_choices_is_beside_what_their_loads_share() -> None:
    rng = np.random.default_rng(0)
    bias = np.array([4.0, 2, 0, 0, 0, 0])
    one, other = (np.argsort(-(bias + rng.gumbel(size=(5_000, 1, 6))), -1)[..., :2] for _ in range(2))
    table = saturation({0: one, 1: other})
    assert table["share"][0] == pytest.approx(table["same_loads"][0], abs=0.02)
    assert table["share"][0] > 2 * table["uniform"][0]
    assert table["low"].isna().all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({},), "each step"),
        (({0: np.zeros((3, 1, 2)), 1: np.zeros((4, 1, 2))},), "of one shape"),
        (({0: np.zeros(3)},), "of one shape"),
    ],
)
def test_saturation_of_what_is_no_choice(arguments: Any, words: str) -> None:
    with pytest.raises(lk.BadInput, match=words):
        saturation(*arguments)
    with pytest.raises(lk.BadInput, match="routers"):
        saturation({0: np.zeros((3, 1, 2), int)}, untrained=np.zeros((2, 4, 1, 2), int))
    with pytest.raises(lk.BadInput, match="give one each"):
        saturation({0: np.zeros((3, 1, 2), int)}, document=np.zeros(2, int))
    ones = np.ones((3, 1, 1), int)
    with pytest.raises(lk.BadInput, match="Expert 1 occurs"):
        saturation({0: ones}, n_experts=1)
    with pytest.raises(lk.BadInput, match="n_experts=0"):
        saturation({0: ones}, n_experts=0)
    for odd in (ones - 2, ones / 2, ones[:0]):
        with pytest.raises(lk.BadInput, match="whole and from 0"):
            saturation({0: odd})
    with pytest.raises(lk.BadInput, match="seed=-1"):
        saturation({0: ones}, seed=-1)


@pytest.mark.parametrize("measure", [load, balance, specialisation, coactivation, vocabulary])
def test_measures_take_a_routing(measure: Any) -> None:
    with pytest.raises(lk.BadInput, match=r"lk\.moe\.collect"):
        measure({"prose": []})
    with pytest.raises(lk.BadInput, match="draws=0"):
        measure(synthetic(), draws=0)
    with pytest.raises(lk.BadInput, match="seed=-1"):
        measure(synthetic(), seed=-1)
