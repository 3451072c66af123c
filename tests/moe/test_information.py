"""Information about kinds of text: exact where it can be computed by hand, and honest where there is none to be found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, Family, Tokens, build
from hypothesis import given, settings
from hypothesis import strategies as st
from routings import made, synthetic

import labkit as lk
from labkit.moe.mutual import Data, Pairs, information, roles
from labkit.moe.routing import Routing, collect
from labkit.statistics import entropy, mutual_information, p_value, resampled

FEW = {"least_documents": 1, "least_tokens": 1}


# slow and plain -------------------------------------------------------------------------------------------------------


def bits(pairs: Sequence[tuple[Hashable, Hashable]]) -> float:
    """Mutual information of (x, y) pairs of equal weight."""
    both, left, right = Counter(pairs), Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    n = len(pairs)
    return sum(c / n * math.log2(c * n / (left[x] * right[y])) for (x, y), c in both.items())


def choices(routing: Routing, layer: int) -> list[tuple[int, int, int, int]]:
    """(token id, document, kind, expert) of every choice."""
    return [
        (int(routing.ids[n]), int(routing.document[n]), int(routing.kind[n]), int(e))
        for n in range(len(routing))
        for e in routing.experts[n, layer]
    ]


def plain_given_token(rows: Sequence[tuple[int, int, int, int]]) -> float:
    total = 0.0
    for token in {r[0] for r in rows}:
        of = [(kind, expert) for t, _, kind, expert in rows if t == token]
        total += len(of) / len(rows) * bits(of)
    return total


def plain_by_token(routing: Routing, layer: int) -> float:
    rows = choices(routing, layer)
    table = np.zeros((len(routing.kinds), routing.n_experts))
    load = np.bincount([r[3] for r in rows], minlength=routing.n_experts) / len(routing)
    for n in range(len(routing)):
        elsewhere = [r[3] for r in rows if r[0] == routing.ids[n] and r[1] != routing.document[n]]
        counts = np.bincount(elsewhere, minlength=routing.n_experts) * routing.k / max(len(elsewhere), 1)
        table[routing.kind[n]] += counts if elsewhere else load
    p = table / table.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nansum(p * np.log2(p / (p.sum(1, keepdims=True) * p.sum(0)))))


@pytest.fixture(scope="module")
def routing() -> Routing:
    return synthetic(
        kinds=3, documents=5, length=15, vocabulary=20, layers=2, routers=3, by_token=1, by_kind=0.5, seed=4
    )


# the numbers ----------------------------------------------------------------------------------------------------------


def test_information_is_that_of_counted_pairs(routing: Routing) -> None:
    assert routing.untrained is not None
    table = information(routing, draws=10, **FEW)
    for layer in (0, 1):
        rows = choices(routing, layer)
        assert table["information"][layer] == pytest.approx(bits([(r[2], r[3]) for r in rows]), abs=1e-12)
        assert table["by_token"][layer] == pytest.approx(plain_by_token(routing, layer), abs=1e-12)
        others = [bits([(r[2], r[3]) for r in choices(replace(routing, experts=o), layer)]) for o in routing.untrained]
        assert table["untrained"][layer] == pytest.approx(np.mean(others))
        assert table["p_untrained"][layer] == pytest.approx(
            (1 + sum(o >= table["information"][layer] for o in others)) / 4
        )
    assert table.attrs["kind"] == pytest.approx(math.log2(3))
    assert table.attrs["token"] == pytest.approx(
        bits(list(zip(routing.kind.tolist(), routing.ids.tolist(), strict=True)))
    )
    shared = [len(set(routing.kind[routing.ids == t])) > 1 for t in routing.ids]
    assert table.attrs["shared"] == pytest.approx(np.mean(shared))


def test_given_token_is_that_of_counted_pairs() -> None:
    """Where no document repeats a token there is nothing to pick, and plain counting must agree."""
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.permutation(12)[:8] for _ in range(12)])
    document, kind_of = np.repeat(np.arange(12), 8), np.repeat(np.arange(3), 4)
    chosen = np.argsort(rng.random((len(ids), 2, 5)), -1)[..., :2]
    made_up = made(ids, document, kind_of, chosen, untrained=chosen[None, ::-1], experts=5)
    table = information(made_up, draws=5, **FEW)
    for layer in (0, 1):
        assert table["given_token"][layer] == pytest.approx(plain_given_token(choices(made_up, layer)), abs=1e-12)
    held = [(int(t), int(k)) for t, k in zip(ids, made_up.kind, strict=True)]
    in_token = sum(c / len(held) * math.log2(Counter(t for t, _ in held)[t] / c) for (t, _), c in Counter(held).items())
    assert table.attrs["kind_given_token"] == pytest.approx(in_token)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_mutual_information_against_plain_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 4, (3, 4)).astype(float)
    table[0, 0] += 1
    pairs = [(i, j) for i in range(3) for j in range(4) for _ in range(int(table[i, j]))]
    assert mutual_information(table) == pytest.approx(bits(pairs), abs=1e-12)
    assert mutual_information(table * 7) == pytest.approx(mutual_information(table), abs=1e-12)
    assert mutual_information(table) <= min(entropy(table.sum(0)), entropy(table.sum(1))) + 1e-12


def test_untrained_routers_are_held_against_the_model_by_what_is_above_chance(routing: Routing) -> None:
    """A router that is its own untrained router is neither above it nor below, whatever chance gives."""
    same = replace(routing, untrained=routing.experts[None])
    table = information(same, draws=4, **FEW)
    assert np.allclose(table["given_token_untrained"], table["given_token_above"])
    assert (table["p_given_token_untrained"] == 1).all()
    found = roles(same, draws=4, **FEW)
    assert np.allclose(found["untrained"], found["above"])
    assert (found["p_untrained"] == 1).all()


def test_the_same_seed_gives_the_same_table(routing: Routing) -> None:
    assert information(routing, draws=10, seed=3, **FEW).equals(information(routing, draws=10, seed=3, **FEW))
    assert not information(routing, draws=10, seed=3, **FEW).equals(information(routing, draws=10, seed=4, **FEW))


# routers whose answer is known ----------------------------------------------------------------------------------------


def test_a_router_that_follows_the_kind_knows_all_of_it() -> None:
    base = synthetic(k=1, routers=9, experts=8, seed=0)
    follows = replace(base, experts=base.kind[:, None, None].astype(np.uint8))
    row = information(follows, draws=99).iloc[0]
    attrs = information(follows, draws=1).attrs
    assert row["information"] == pytest.approx(attrs["kind"], abs=1e-9)
    assert attrs["kind"] == pytest.approx(math.log2(3), abs=1e-9)
    assert row["p_untrained"] == pytest.approx(1 / 10)
    assert row["p_shuffled"] == pytest.approx(1 / 100)
    assert row["given_token"] == pytest.approx(attrs["kind_given_token"], abs=1e-9)
    assert row["p_given_token"] == pytest.approx(1 / 100)
    assert row["p_given_token_untrained"] == pytest.approx(1 / 10)


def test_a_router_that_follows_the_token_alone_says_nothing_more_than_the_token() -> None:
    base = synthetic(k=1, documents=20, seed=1)
    follows = replace(base, experts=(base.ids % 5)[:, None, None].astype(np.uint8))
    row = information(follows, draws=40).iloc[0]
    assert row["information"] > 3 * row["shuffled"], "it looks specialised, for kinds differ in their tokens"
    assert row["p_shuffled"] < 0.05
    assert row["given_token"] == pytest.approx(0, abs=1e-12)
    assert row["p_given_token"] == 1
    assert row["by_token"] == pytest.approx(row["information"], rel=0.02)


def test_what_the_expert_says_beyond_the_token_is_measured_in_bits() -> None:
    """Twelve equally frequent tokens in every document: I(kind; expert | token) follows from the probabilities."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(12, 1, 6)) + 0.8 * rng.normal(size=(12, 3, 6))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    truth = np.mean([mutual_information(table / 3) for table in p])
    found = []
    for _ in range(12):
        document, ids = np.repeat(np.arange(60), 12), np.tile(np.arange(12), 60)
        kind_of = np.repeat(np.arange(3), 20)
        chosen = np.argmax(logits[ids, kind_of[document]] + rng.gumbel(size=(720, 6)), -1)[:, None, None]
        found.append(information(made(ids, document, kind_of, chosen, experts=6), draws=20).iloc[0])
    above = np.array([f["given_token_above"] for f in found])
    assert truth > 0.1
    assert above.mean() == pytest.approx(truth, rel=0.15)
    assert all(f["p_given_token"] < 0.06 for f in found)


# nothing to be found: p must be uniform -------------------------------------------------------------------------------


def assert_uniform(ps: Sequence[float], steps: int) -> None:
    """Kolmogorov and Smirnov's distance to the uniform distribution over 1/steps, ..., 1, at the level of 1 %."""
    at = np.arange(1, steps + 1) / steps
    distance = np.abs((np.asarray(ps)[:, None] <= at + 1e-9).mean(0) - at).max()
    assert distance < 1.63 / math.sqrt(len(ps)), f"{distance:.3f} from uniform: {np.sort(ps).round(2)}"


def test_p_untrained_is_uniform_when_the_subject_is_untrained() -> None:
    """Routers of random directions in a real, if tiny, model: one of ten is called the model's own, fifty times over."""
    family = FAMILIES["qwen3_moe"]
    lab = lk.Lab(build(Family(family.model_type, family.fields | {"num_experts": 8})), Tokens(), name="tiny")
    rng = np.random.default_rng(0)
    use = rng.dirichlet(np.full(90, 0.3), size=2)
    texts = {f"kind{i}": [(rng.choice(90, 20, p=use[i]) + 3).tolist() for _ in range(8)] for i in range(2)}
    routing = collect(lab, texts, untrained=500, progress=False)
    assert routing.untrained is not None
    ps, given_ps, token_ps = [], [], []
    for start in range(0, 500, 10):
        subject, *others = routing.untrained[start : start + 10]
        made_up = replace(routing, experts=subject[:, :1], untrained=np.stack(others)[:, :, :1], layers=(0,))
        row = information(made_up, draws=1, **FEW).iloc[0]
        ps.append(row["p_untrained"])
        given_ps.append(row["p_given_token_untrained"])
        token_ps.append(roles(made_up, "token", draws=1, **FEW)["p_untrained"][0])
    assert_uniform(ps, 10)
    assert_uniform(token_ps, 10)
    assert_uniform(given_ps, 10)


@pytest.mark.parametrize("by_document", [0.0, 0.7])
def test_p_given_token_is_uniform_when_the_expert_follows_the_token_and_the_document(by_document: float) -> None:
    rows = [
        information(synthetic(by_token=1, by_document=by_document, documents=14, seed=s), draws=39, seed=s).iloc[0]
        for s in range(100)
    ]
    assert_uniform([r["p_given_token"] for r in rows], 40)
    above = np.array([r["given_token_above"] for r in rows])
    assert abs(above.mean()) < 3 * above.std() / math.sqrt(len(above)), "about 0 bits above its null"
    assert np.mean([r["p_shuffled"] <= 0.05 for r in rows]) > (0.9 if not by_document else 0.3), (
        "all this while kind and expert go together, through the token"
    )


def test_p_shuffled_is_uniform_when_documents_differ_and_kinds_do_not() -> None:
    rows = []
    for seed in range(100):
        base = synthetic(by_document=1, seed=seed)
        rng = np.random.default_rng(seed)
        plain = replace(base, ids=rng.integers(0, 30, len(base)))  # kinds of the same words
        rows.append(information(plain, draws=39, seed=seed).iloc[0])
    assert_uniform([r["p_shuffled"] for r in rows], 40)


def test_the_interval_covers_the_truth_and_one_that_took_tokens_for_independent_would_not() -> None:
    rng = np.random.default_rng(1)
    taste = 0.5 * rng.normal(size=(3, 8))

    def shares(documents: int) -> np.ndarray:
        logits = np.repeat(taste, documents, 0) + 0.7 * rng.normal(size=(3 * documents, 8))
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    truth = float(mutual_information(shares(20_000).reshape(3, -1, 8).mean(1)))
    covered, tokenwise = [], []
    for seed in range(80):
        p = shares(20)
        chosen = (rng.random((60, 40, 1)) > p.cumsum(-1)[:, None]).sum(-1).ravel().clip(0, 7)[:, None, None]
        document, kind_of = np.repeat(np.arange(60), 40), np.repeat(np.arange(3), 20)
        data = made(np.zeros(2_400), document, kind_of, chosen, experts=8)
        each = made(np.zeros(2_400), np.arange(2_400), kind_of[document], chosen, experts=8)
        for one, into in ((data, covered), (each, tokenwise)):
            row = information(one, draws=60, seed=seed, **FEW).iloc[0] if one is data or seed < 25 else None
            if row is not None:
                into.append(row["low"] <= truth <= row["high"])
    assert np.mean(covered) > 0.88
    assert np.mean(tokenwise) < 0.75


@pytest.mark.parametrize("by_document", [0.0, 0.7])
def test_intervals_above_chance_are_as_wide_as_other_documents_differ(by_document: float) -> None:
    """Texts drawn again and again from one population: the numbers' own spread, and how often intervals hold their mean."""
    rng = np.random.default_rng(0)
    use = rng.dirichlet(np.ones(40), size=3).cumsum(-1)
    token, kind = rng.normal(size=(40, 8)), 0.8 * rng.normal(size=(3, 8))
    kind_of, document = np.repeat(np.arange(3), 15), np.repeat(np.arange(45), 60)
    found: dict[str, list[tuple[float, float, float]]] = {"given": [], "token": [], "kind": [], "position": []}
    for seed in range(60):
        of = kind_of[document]
        ids = np.minimum((rng.random(len(document))[:, None] > use[of]).sum(-1), 39)
        logits = rng.gumbel(size=(len(ids), 8)) + token[ids] + kind[of]
        logits += by_document * rng.normal(size=(45, 8))[document]
        text = made(ids, document, kind_of, np.argsort(-logits, -1)[:, None, :2], experts=8)
        row = information(text, draws=30, seed=seed).iloc[0]
        found["given"].append((row["given_token_above_low"], row["given_token_above"], row["given_token_above_high"]))
        for role in roles(text, draws=30, seed=seed).itertuples():
            found[str(role.by)].append((role.low, role.above, role.high))  # type: ignore[arg-type]
    for name, of_name in found.items():
        low, number, high = np.array(of_name).T
        assert np.mean((low <= number.mean()) & (number.mean() <= high)) > 0.86, name
        width = np.mean(high - low) / 3.92 / number.std()
        assert width < (1.6 if name != "position" else 3), f"{name}: {width}"


def test_intervals_are_those_of_documents_and_not_of_tokens() -> None:
    """Alike documents give none, whatever their tokens do: all that is resampled is the same."""
    one = synthetic(kinds=1, documents=1, length=200, by_token=1, seed=0)
    copies = 12
    same = made(
        np.tile(one.ids, 2 * copies), np.repeat(np.arange(2 * copies), 200), np.repeat([0, 1], copies),
        np.tile(one.experts, (2 * copies, 1, 1)), experts=8,
    )  # fmt: skip
    for row in (r for r in roles(same, "kind", draws=20).itertuples()):
        assert row.low == pytest.approx(row.above, abs=1e-9)
        assert row.high == pytest.approx(row.above, abs=1e-9)


def test_how_many_resamplings_there_were_is_told(routing: Routing) -> None:
    for table in (information(routing, draws=3, **FEW), roles(routing, draws=3, **FEW)):
        assert table.attrs["resamples"] == 3
    assert information(routing, draws=1, **FEW)["given_token_above_low"].isna().all()
    assert roles(routing, draws=1, **FEW)["low"].isna().all()


# permuting ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_permuting_given_the_token_keeps_each_tokens_kinds(seed: int) -> None:
    routing = synthetic(documents=4, length=10, vocabulary=8, seed=seed)
    pairs = Pairs.of_data(Data.of(routing, [0, 1, 2]))
    kinds = pairs.permuted(np.random.default_rng(seed), 12)
    for token in np.unique(pairs.token):
        of = pairs.token == token
        assert sorted(kinds[of]) == sorted(pairs.kind[of])


def test_permuting_given_the_token_reaches_every_order_equally() -> None:
    routing = made(np.zeros(6), np.arange(6), np.array([0, 0, 1, 1, 2, 2]), np.zeros((6, 1, 1)), experts=2)
    pairs = Pairs.of_data(Data.of(routing, [0, 1, 2]))
    rng = np.random.default_rng(0)
    drawn = np.stack([pairs.permuted(rng, 6) for _ in range(6_000)])
    assert (drawn == np.arange(3)[:, None, None]).mean(1) == pytest.approx(np.full((3, 6), 1 / 3), abs=0.02)
    assert (drawn[:, 0] == drawn[:, 1]).mean() == pytest.approx(1 / 5, abs=0.02)


def test_a_sample_holds_as_many_documents_of_each_kind_as_there_are() -> None:
    kind_of = np.array([0, 1, 0, 1, 1, 2])
    weights = resampled(kind_of, 500, np.random.default_rng(0))
    for kind, count in ((0, 2), (1, 3), (2, 1)):
        assert (weights[:, kind_of == kind].sum(1) == count).all()
    assert weights.mean(0) == pytest.approx(np.ones(6), abs=0.1)
    assert weights[:, 0].std() > 0.5


def test_p_value_counts_ties_against_the_claim() -> None:
    others = np.array([[0.1], [0.2], [0.3]])
    assert p_value(np.array([0.3]), others) == pytest.approx([0.5])
    assert p_value(np.array([0.4]), others) == pytest.approx([0.25])
    assert np.isnan(p_value(np.array([np.nan]), others)).all()


# too little, and one kind ---------------------------------------------------------------------------------------------


def test_a_kind_with_too_few_documents_is_left_out_and_that_is_said() -> None:
    base = synthetic(documents=12, seed=0)
    few = np.flatnonzero((base.kind < 2) | (base.document < 24 + 3))
    cut = replace(base, ids=base.ids[few], document=base.document[few], experts=base.experts[few], loss=base.loss[few])
    table = information(cut, draws=5)
    assert table["note"][0] == "3 documents with 180 tokens of kind2 are too few; give 10 with 200"
    assert table.kinds == ("kind0", "kind1")
    assert table.attrs["kind"] == pytest.approx(1)
    two = np.flatnonzero(base.kind < 2)
    alone = made(base.ids[two], base.document[two], base.kind_of[:24], base.experts[two], experts=8)
    assert table["information"][0] == pytest.approx(information(alone, draws=5)["information"][0])


def test_one_kind_has_nothing_to_be_told_from() -> None:
    table = information(synthetic(kinds=1), draws=5)
    assert table["information"].isna().all()
    assert "nothing to be told from" in table["note"][0]
    table = information(synthetic(documents=3), draws=5)
    assert table["information"].isna().all()
    assert "too few" in table["note"][0]


def test_without_untrained_routers_their_columns_are_empty(routing: Routing) -> None:
    table = information(replace(routing, untrained=None), draws=5, **FEW)
    assert table[["untrained", "p_untrained", "given_token_untrained"]].isna().all(axis=None)
    assert table["information"].notna().all()


def test_the_order_of_documents_changes_nothing(routing: Routing) -> None:
    """Tokens of documents mixed with each other, as nobody collects them, are put in order."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(routing))
    mixed = replace(
        routing,
        ids=routing.ids[order],
        document=routing.document[order],
        experts=routing.experts[order],
        untrained=None,
    )
    one, other = (information(r, draws=2, **FEW) for r in (routing, mixed))
    assert np.allclose(one["information"], other["information"])
    assert np.allclose(one["by_token"], other["by_token"])


# roles ----------------------------------------------------------------------------------------------------------------


def rows_of(routing: Routing, draws: int = 40) -> dict[str, Any]:
    table = roles(routing, draws=draws)
    return {row.by: row for row in table[table["layer"] == 0].itertuples()}


def test_roles_tell_token_kind_and_position_apart() -> None:
    base = synthetic(k=1, documents=10, length=64, experts=8, seed=0)
    rng = np.random.default_rng(0)
    base = replace(base, ids=rng.integers(0, 8, len(base)))  # the same words in every kind
    place = np.arange(len(base)) % 64 // 8
    for name, follows, most in (
        ("token", base.ids, 3),
        ("kind", base.kind, math.log2(3)),
        ("position", place, 3),
    ):
        found = rows_of(replace(base, experts=follows[:, None, None].astype(np.uint8)))
        assert found[name].information == pytest.approx(most, abs=0.01)
        assert found[name].share > 0.85
        assert found[name].p_shuffled == pytest.approx(1 / 41)
        for other in {"token", "kind", "position"} - {name}:
            assert found[other].share < 0.02
            assert found[other].p_shuffled > 1 / 41


def test_roles_are_counted(routing: Routing) -> None:
    table = roles(routing, draws=5, **FEW).set_index(["layer", "by"])
    for layer in (0, 1):
        rows = choices(routing, layer)
        place = np.repeat(np.arange(len(routing)) % 15 * 8 // 15, 2)
        for by, values in (("token", [r[0] for r in rows]), ("kind", [r[2] for r in rows]), ("position", place)):
            plain = bits([(int(v), r[3]) for v, r in zip(values, rows, strict=True)])
            assert table.loc[(layer, by), "information"] == pytest.approx(plain, abs=1e-12)


def test_neighbours_that_go_together_are_no_position() -> None:
    """Experts that come in runs, anywhere in a document: permuting single tokens would call that a role."""
    ps = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        runs = np.repeat(rng.integers(0, 4, (10, 8)), 8, axis=1)
        runs = np.stack([np.roll(row, rng.integers(64)) for row in runs]).ravel()
        routing = made(np.zeros(640), np.repeat(np.arange(10), 64), np.zeros(10), runs[:, None, None], experts=4)
        ps.append(roles(routing, "position", draws=19)["p_shuffled"][0])
    assert_uniform(ps, 20)


def test_roles_say_where_there_is_too_little() -> None:
    tiny = synthetic(kinds=2, documents=1, length=7, seed=0)
    table = roles(tiny, draws=5)
    assert table["note"][0] == (
        "1 document with 7 tokens of kind0 is too few; give 10 with 200; "
        "1 document with 7 tokens of kind1 is too few; give 10 with 200"
    )
    assert table.drop(columns=["layer", "by", "note"]).isna().all(axis=None)
    assert table["by"].tolist() == ["token", "kind", "position"]
    alone = roles(synthetic(kinds=1), draws=5).set_index("by")
    assert alone.loc["kind"].drop(["layer", "note"]).isna().all()
    assert "nothing to be told from" in alone["note"]["kind"]
    assert alone["information"][["token", "position"]].notna().all()
    assert alone["note"]["token"] == ""


def test_roles_leave_out_a_kind_with_too_few_documents() -> None:
    base = synthetic(documents=12, seed=0)
    keep = np.flatnonzero((base.kind < 2) | (base.document < 24 + 3))
    cut = replace(base, ids=base.ids[keep], document=base.document[keep], experts=base.experts[keep])
    two = np.flatnonzero(base.kind < 2)
    alone = made(base.ids[two], base.document[two], base.kind_of[:24], base.experts[two], experts=8)
    one, other = roles(cut, draws=5), roles(alone, draws=5)
    assert one["information"].tolist() == pytest.approx(other["information"].tolist())
    assert set(one["note"]) == {"3 documents with 180 tokens of kind2 are too few; give 10 with 200"}


@pytest.mark.parametrize("measure", [information, roles])
def test_seeds_that_cannot_be_used(measure: Any) -> None:
    with pytest.raises(lk.BadInput, match="seed=-1"):
        measure(synthetic(), seed=-1)


def test_what_roles_are_not_known() -> None:
    with pytest.raises(lk.BadInput, match="token, kind, position"):
        roles(synthetic(), "colour")
    with pytest.raises(lk.BadInput, match=r"lk\.moe\.collect"):
        information("prose")  # type: ignore[arg-type]
