"""Personas: a direction between two system prompts, judged by the persona's own words, beside random pushes and their cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.circuits import Persona, persona

WORDS = ("mat", "tree", "dog", "cat", "other", "where")
QUESTIONS = [f"the {one} and the {other}" for one in WORDS for other in WORDS[:2]]
ASKED, NO_LIKELIER = (
    "ran",
    "cat cat cat",
)  # what the model then says is likelier behind the first, and not behind the second
GENERAL = ["the cat sat on the mat", "the dog ran up the tree", "where the other dog sat"]
QUICK: dict[str, Any] = {"layer": 1, "tokens": 4, "random": 4, "strengths": (1.0, 4.0)}


def found(lab: lk.Lab, **change: Any) -> Persona:
    given = {"questions": QUESTIONS, "system": ASKED, "texts": GENERAL, **QUICK} | change
    return persona(lab, given.pop("questions"), given.pop("system"), given.pop("texts"), **given)


def asked(question: str, system: str | None = None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": question}]


def test_the_words_are_the_personas_and_the_likelihoods_those_of_a_trace(tiny_lab: lk.Lab) -> None:
    result = found(tiny_lab)
    assert len(result.answers) == result.questions == 6
    likelihoods: dict[str, list[float]] = {"asked": [], "not": [], "pushed": []}
    push = lk.patch("residual[1] @ 1:", lambda x: x + 4 * result.direction.vector)
    for question, answer in result.answers.items():
        made = tiny_lab.generate(asked(question, ASKED), max_new_tokens=4)
        assert made.text == answer
        for name, prompt, edits in (
            ("asked", made.prompt_ids, ()),
            ("not", tiny_lab.generate(asked(question), max_new_tokens=1).prompt_ids, ()),
            ("pushed", tiny_lab.generate(asked(question), max_new_tokens=1).prompt_ids, (push,)),
        ):
            with tiny_lab.edit(*edits):
                loss = tiny_lab.trace([*prompt, *made.ids]).loss[-len(made.ids) :]
            likelihoods[name].append(-float(loss.mean()))
    assert result.asked == pytest.approx(np.mean(likelihoods["asked"]), abs=1e-4)
    assert result.unasked == pytest.approx(np.mean(likelihoods["not"]), abs=1e-4)
    row = result.table.iloc[1]
    assert row["likelihood"] == pytest.approx(np.mean(likelihoods["pushed"]), abs=1e-4)
    assert row["change"] == pytest.approx(row["likelihood"] - result.unasked, abs=1e-6)
    assert row["share"] == pytest.approx(row["change"] / (result.asked - result.unasked), rel=1e-3)
    assert row["random_low"] <= row["random_high"]
    assert row["kl"] == pytest.approx(lk.circuits.edit_cost(tiny_lab, push, GENERAL).kl, rel=1e-4)
    vector = result.direction.vector
    drawn = torch.randn(4, len(vector), generator=torch.Generator().manual_seed(0))
    costs = []
    for one in 4 * vector.norm() * drawn / drawn.norm(dim=1, keepdim=True):
        aside = lk.patch("residual[1] @ 1:", lambda x, one=one: x + one)
        costs.append(lk.circuits.edit_cost(tiny_lab, aside, GENERAL).kl)
    assert row["random_kl"] == pytest.approx(np.mean(costs), rel=1e-3)
    assert result.table["p"].between(1 / 5, 1).all()
    assert "its own words" in str(result)


def test_the_direction_was_not_found_on_what_judges_it(tiny_lab: lk.Lab) -> None:
    result = found(tiny_lab)
    others = [question for question in QUESTIONS if question not in result.answers]
    by_hand = lk.circuits.difference_of_means(
        tiny_lab,
        [asked(question, ASKED) for question in others],
        [asked(question) for question in others],
        1,
        chat=True,
        pairs=True,
    )
    torch.testing.assert_close(result.direction.vector, by_hand.vector, atol=1e-5, rtol=1e-4)
    assert result.direction.positive == 6


def test_no_share_is_claimed_of_a_persona_that_makes_its_words_no_likelier(tiny_lab: lk.Lab) -> None:
    assert found(tiny_lab)["share"].notna().all()
    result = found(tiny_lab, system=NO_LIKELIER)
    assert result.asked < result.unasked
    assert result["share"].isna().all()
    assert result["change"].notna().all()


def test_another_system_prompt_beside_it_is_heeded(tiny_lab: lk.Lab) -> None:
    plain, beside = found(tiny_lab), found(tiny_lab, other="dog dog")
    assert plain.asked == pytest.approx(beside.asked)
    assert abs(plain.unasked - beside.unasked) > 1e-4
    assert not torch.allclose(plain.direction.vector, beside.direction.vector, atol=1e-4)


def test_a_question_that_occurs_twice_counts_once(tiny_lab: lk.Lab) -> None:
    once, twice = found(tiny_lab), found(tiny_lab, questions=[*QUESTIONS, QUESTIONS[0]])
    assert once.table.equals(twice.table)
    assert twice.notes == ("1 text stood there before and was left out",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"questions": QUESTIONS[:5] * 3}, "5 different questions are too few .* give 10"),
        ({"system": " "}, "asks for no persona"),
        ({"system": ["cat", "dog"]}, "asks for no persona"),
        ({"layer": 9}, "no layer 9"),
        ({"random": 0}, "random=0"),
        ({"tokens": 0}, "tokens=0"),
        ({"strengths": ()}, "no strength"),
    ],
)
def test_bad_input(tiny_lab: lk.Lab, change: dict[str, Any], said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        found(tiny_lab, **change)
