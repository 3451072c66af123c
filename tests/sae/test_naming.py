"""A name is put to the test: what a right one, an empty one and a broad one score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from dictionaries import make_lab
from planted import detectors, rows
from scipy.stats import hypergeom

import labkit as lk
from labkit.errors import BadInput
from labkit.sae import SAE, Quiz, check_name, quiz

TEXTS = rows(30, 40, tokens=range(3, 23))  # 20 tokens, each about 58 times


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return make_lab()


@pytest.fixture(scope="module")
def sae(lab: lk.Lab) -> SAE:
    return detectors(lab)


def is_nine(tokens: Sequence[str], i: int) -> bool:
    return tokens[i] == "t9 "


def fires(texts: Sequence[Sequence[int]], token: int = 9) -> np.ndarray:
    return np.concatenate([np.array(row[1:]) == token for row in texts])


# scores ----------------------------------------------------------------------------------------------------------------


def test_a_perfect_rule(lab: lk.Lab, sae: SAE) -> None:
    found = check_name(lab, sae[9], is_nine, TEXTS)
    assert (found.recall, found.precision, found.balanced) == (1, 1, 1)
    assert (found.low, found.high) == (1, 1)
    assert found.firings == fires(TEXTS).sum()
    assert found.tokens == 30 * 39
    # other features fire elsewhere: of their firings the rule says none, and about 1/19 of their silence
    assert 0.46 < found.others_mean <= found.others_highest < 0.5
    assert "balanced accuracy 1.00 (1.00 to 1.00), by chance 0.50" in str(found)


def test_rules_that_say_always_or_never_are_chance(lab: lk.Lab, sae: SAE) -> None:
    always = check_name(lab, sae[9], lambda _, __: True, TEXTS)
    assert (always.recall, always.balanced, always.low, always.high) == (1, 0.5, 0.5, 0.5)
    assert always.precision == pytest.approx(fires(TEXTS).mean())
    assert always.others_mean == always.others_highest == 0.5
    never = check_name(lab, sae[9], lambda _, __: False, TEXTS)
    assert (never.recall, never.precision, never.balanced) == (0, 0, 0.5)


def test_a_rule_half_right_by_hand(lab: lk.Lab, sae: SAE) -> None:
    def some(tokens: Sequence[str], i: int) -> bool:
        """Every second position of token 9, and all of token 10."""
        return tokens[i] == "t10 " or (tokens[i] == "t9 " and i % 2 == 0)

    found = check_name(lab, sae[9], some, TEXTS)
    said = np.concatenate([[some([f"t{t} " for t in row], i) for i in range(1, len(row))] for row in TEXTS])
    does = fires(TEXTS)
    assert found.recall == pytest.approx((said & does).sum() / does.sum())
    assert found.precision == pytest.approx((said & does).sum() / said.sum())
    assert found.balanced == pytest.approx((found.recall + (~said & ~does).sum() / (~does).sum()) / 2)
    assert found.low < found.balanced < found.high
    assert 0.02 < found.high - found.low < 0.3
    # token 10's feature is among the others, and the same rule finds it better than the one it is a name of
    assert found.others_highest == pytest.approx(
        (1 + (~said & ~fires(TEXTS, 10)).sum() / (~fires(TEXTS, 10)).sum()) / 2, rel=1e-6
    )


def test_four_texts_have_no_interval_and_the_sentence_says_so(lab: lk.Lab, sae: SAE) -> None:
    found = check_name(lab, sae[9], is_nine, TEXTS[:4] * 3, others=0)
    assert found.texts == 12
    few = check_name(lab, sae[9], is_nine, rows(4, 120, tokens=range(3, 23)), others=0)
    assert few.texts == 4
    assert math.isnan(few.low)
    assert math.isnan(few.high)
    assert few.balanced == 1
    assert "balanced accuracy 1.00 (no interval from so few texts)" in str(few)
    assert str(few).endswith("no other feature fires about as often")
    assert "nan" not in str(few)


def test_a_single_text_is_not_read_letter_by_letter(lab: lk.Lab, sae: SAE) -> None:
    for ask in (lambda: check_name(lab, sae[9], is_nine, TEXTS[0]), lambda: quiz(lab, sae[9], "a text")):
        with pytest.raises(BadInput, match="are to be a list of texts"):
            ask()


def test_the_interval_is_narrower_with_more_texts(lab: lk.Lab, sae: SAE) -> None:
    def often(tokens: Sequence[str], i: int) -> bool:
        return tokens[i] == "t9 " and i % 3 > 0

    few = check_name(lab, sae[9], often, TEXTS[:10])
    many = check_name(lab, sae[9], often, rows(160, 40, seed=5, tokens=range(3, 23)))
    assert few.low <= few.balanced <= few.high
    assert many.low <= many.balanced <= many.high
    assert many.high - many.low < 0.6 * (few.high - few.low)  # a quarter would be half as wide


def test_the_first_token_does_not_count(lab: lk.Lab, sae: SAE) -> None:
    found = check_name(lab, sae[9], is_nine, [[9, *row] for row in TEXTS])
    assert found.firings == sum(row.count(9) for row in TEXTS)
    assert found.balanced == 1


def test_the_rule_is_given_the_whole_text_and_the_place(lab: lk.Lab, sae: SAE) -> None:
    seen = []

    def rule(tokens: Sequence[str], i: int) -> bool:
        seen.append((len(tokens), tokens[i]))
        return i > 0 and tokens[i - 1] == "t4 "

    check_name(lab, sae[9], rule, TEXTS)
    assert {length for length, _ in seen} == {40}
    assert [token for _, token in seen] == [f"t{t} " for row in TEXTS for t in row]


def test_others_are_of_similar_density(lab: lk.Lab, sae: SAE) -> None:
    """Token 50 is seen half as often again or less: with few others there, what they score is not a number."""
    texts = [[*row, 50, 50, 50, 50, 50, 50, 50] for row in TEXTS]  # 210 times; the others about 58
    found = check_name(lab, sae[50], lambda tokens, i: tokens[i] == "t50 ", texts)
    assert found.balanced == 1
    assert math.isnan(found.others_mean)
    assert math.isnan(found.others_highest)
    none = check_name(lab, sae[9], is_nine, TEXTS, others=0)
    assert math.isnan(none.others_mean)


def test_it_is_by_seed(lab: lk.Lab, sae: SAE) -> None:
    def odd(tokens: Sequence[str], i: int) -> bool:
        return tokens[i] == "t9 " and i % 2 == 1

    one, same, other = (check_name(lab, sae[9], odd, TEXTS, others=5, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert (one.low, one.others_mean) != (other.low, other.others_mean)
    assert one.balanced == other.balanced


def test_too_few_firings_are_refused(lab: lk.Lab, sae: SAE) -> None:
    texts = [[3, 9, 4, 9, 4]] * 4 + [[3, 9, 4]]
    with pytest.raises(BadInput, match=r"fires on 9 of these 18 tokens, too few to say anything; .* fires on 10"):
        check_name(lab, sae[9], is_nine, texts)
    assert check_name(lab, sae[9], is_nine, [*texts, [3, 9, 4]]).firings == 10


# the quiz --------------------------------------------------------------------------------------------------------------


def test_half_of_a_quiz_are_places_where_the_feature_fires(lab: lk.Lab, sae: SAE) -> None:
    made = quiz(lab, sae[9], TEXTS, n=20)
    assert len(made.items) == len(made.fires) == 20
    assert sum(made.fires) == 10
    for item, does in zip(made.items, made.fires, strict=True):
        assert (item[-1] == "t9 ") == does
        assert 2 <= len(item) <= 17
    written = {tuple(f"t{t} " for t in row) for row in TEXTS}
    for item in made.items:  # what stands before the place, and as much of it as there is
        found = [(row, i) for row in written for i in range(1, 40) if row[max(0, i - 16) : i + 1] == item]
        assert found
    assert len(set(made.items)) == 20  # no place twice


def test_a_quiz_shows_its_places_and_not_its_answers(lab: lk.Lab, sae: SAE) -> None:
    made = quiz(lab, sae[9], TEXTS, n=4)
    asked, *places = repr(made).splitlines()
    assert "On 2 of these 4 it does" in asked
    assert [line.endswith(f"[{item[-1]}]") for line, item in zip(places, made.items, strict=True)] == [True] * 4
    assert "True" not in repr(made)


def test_the_order_is_random_and_by_seed(lab: lk.Lab, sae: SAE) -> None:
    one, same, other = (quiz(lab, sae[9], TEXTS, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    orders = [quiz(lab, sae[9], TEXTS[:6], n=6, seed=seed).fires for seed in range(40)]
    assert len(set(orders)) > 10  # of 20 there are
    firsts = np.mean([order[0] for order in orders])
    assert 0.2 < firsts < 0.8


@pytest.mark.parametrize("n", [2, 10, 13])
def test_the_score_is_beside_as_many_yeses_dealt_at_random(n: int) -> None:
    """Not beside a coin: who knows that half of the places fire says yes to half, and a coin would not."""
    answers = Quiz(tuple(("a",) for _ in range(n)), tuple(i % 2 == 0 for i in range(n)))
    for right in range(n + 1):
        given = [answer if i < right else not answer for i, answer in enumerate(answers.fires)]
        share, chance = answers.score(given)
        assert share == right / n
        hits = sum(a and f for a, f in zip(given, answers.fires, strict=True))
        assert chance == pytest.approx(hypergeom.sf(hits - 1, n, sum(answers.fires), sum(given)))
    assert answers.score([True] * n)[1] == 1  # who always says yes has told nothing
    assert answers.score([int(a) for a in answers.fires])[0] == 1  # 1 and 0 are answers


def test_what_makes_no_quiz_is_refused(lab: lk.Lab, sae: SAE) -> None:
    for n in (0, 1, 3, -2):
        with pytest.raises(BadInput, match="even number of places"):
            quiz(lab, sae[9], TEXTS, n=n)
    with pytest.raises(BadInput, match="fires on 1 tokens of these texts; a quiz of 4 needs 2"):
        quiz(lab, sae[9], [[3, 9, 4, 5, 6]], n=4)
    always = replace(sae, encoder_bias=torch.full((100,), 1e6))
    with pytest.raises(BadInput, match="is silent on 0 tokens of these texts; a quiz of 4 needs 2"):
        quiz(lab, always[9], TEXTS, n=4)
    made = quiz(lab, sae[9], TEXTS, n=4)
    with pytest.raises(BadInput, match="There are 4 places and 3 answers; give one for each"):
        made.score([True, False, True])
