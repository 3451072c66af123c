"""Distributed alignment search on a model whose causal graph is known, with what chance and an untrained model give beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from adding_model import ADDING, WIDTH, adding_lab

import labkit as lk
from labkit.circuits import Alignment, das

SUMS = "ABCDEFG"
RNG = np.random.default_rng(0)
NUMBERS = [tuple(map(int, np.unravel_index(n, (4, 4, 4, 4)))) for n in RNG.permutation(256)[:100]]
PAIRS = [(f"{a}{b}=", f"{c}{d}=") for a, b, c, d in NUMBERS]
FIRST = [SUMS[c + b] for _, b, c, _ in NUMBERS]  # what the base says with the source's first number
SECOND = [SUMS[a + d] for a, _, _, d in NUMBERS]
QUICK: dict[str, Any] = {"directions": 4, "steps": 60, "shuffles": 0, "untrained": 0, "progress": False}


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return adding_lab()


@pytest.fixture(scope="module")
def first(lab: lk.Lab) -> Alignment:
    return das(lab, PAIRS, FIRST, ADDING, **(QUICK | {"shuffles": 2, "untrained": 1}))


def test_a_number_is_found_where_it_is_kept_and_beats_all_that_stands_beside(first: Alignment) -> None:
    accuracy = first.table.set_index("swapped")["accuracy"]
    assert accuracy["learned"] == 1.0
    others = ["random directions", "whole state", "nothing", "answers dealt anew", "untrained model"]
    assert list(accuracy.index) == ["learned", *others]
    assert (first.table["high"][1:] < first.table["low"][0]).all()
    assert (first.table["pairs"] == 25).all()
    assert (first.trained_on, first.answers, first.position) == (75, 7, -1)
    torch.testing.assert_close(first.basis.T @ first.basis, torch.eye(4), atol=1e-5, rtol=0)


def test_its_directions_are_those_in_which_the_heads_wrote_the_number(first: Alignment, lab: lk.Lab) -> None:
    """States behind "=" that differ in the first number alone, against those that differ in the second alone."""

    def state(text: str) -> torch.Tensor:
        return lab.trace(text, keep="residual").residual(ADDING)[-1]

    for texts, inside in ((("03=", "13="), True), (("20=", "30="), True), (("30=", "31="), False)):
        moved = state(texts[0]) - state(texts[1])
        share = float((moved @ first.basis).norm() / moved.norm())
        assert (share > 0.7) if inside else (share < 0.4)


def test_the_second_number_is_elsewhere_and_at_its_own_position_neither(lab: lk.Lab, first: Alignment) -> None:
    second = das(lab, PAIRS, SECOND, ADDING, **(QUICK | {"steps": 100}))
    assert second["accuracy"][0] == 1.0
    overlap = float((second.basis.T @ first.basis).square().sum()) / 4
    assert overlap < 0.3
    nowhere = das(lab, PAIRS, FIRST, ADDING, position=1, **QUICK)
    rows = nowhere.table.set_index("swapped")["accuracy"]
    assert rows["learned"] == rows["nothing"] < 0.5
    at_the_token = das(lab, PAIRS, FIRST, 0, position=0, **QUICK).table.set_index("swapped")["accuracy"]
    assert at_the_token["whole state"] == 1.0, "nothing but the number is there"


def test_an_interchange_gives_any_text_the_number_of_another(first: Alignment, lab: lk.Lab) -> None:
    for a, b, c in ((0, 1, 3), (2, 3, 0), (3, 0, 1)):
        with lab.edit(first.interchange(lab, f"{c}0=")):
            said = lab.trace(f"{a}{b}=").logits[-1].argmax()
        assert SUMS[c + b] == lab.tokenizer.decode([int(said)])
    other = adding_lab()
    with torch.no_grad():
        other.model.transformer.h[1].mlp.c_fc.weight.mul_(2)
    for refused in (
        lambda: first.interchange(other, "30="),
        lambda: other.edit(first.interchange(lab, "30=")).__enter__(),
    ):
        with pytest.raises(lk.BadInput, match="learned in adder, and adder has other weights"):
            refused()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in other.model.modules())


def test_training_touches_no_weight_and_leaves_no_hook(lab: lk.Lab, first: Alignment) -> None:
    assert all(weight.grad is None for weight in lab.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lab.model.modules())
    again = das(lab, PAIRS, FIRST, ADDING, **QUICK)
    assert torch.equal(again.basis, first.basis)
    assert again.table.equals(first.table[:4])


def test_every_row_is_judged_by_pairs_that_no_training_saw(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.circuits import aligning

    learnt, judged = [], []
    trained, accuracy = aligning._Run.trained, aligning._Run.accuracy

    def training(self: Any, pairs: np.ndarray, *given: Any) -> Any:
        learnt.append(set(pairs.tolist()))
        return trained(self, pairs, *given)

    def judging(self: Any, pairs: np.ndarray, *given: Any) -> float:
        judged.append(set(pairs.tolist()))
        return accuracy(self, pairs, *given)

    monkeypatch.setattr(aligning._Run, "trained", training)
    monkeypatch.setattr(aligning._Run, "accuracy", judging)
    das(lab, PAIRS, FIRST, ADDING, **(QUICK | {"steps": 1, "shuffles": 1, "untrained": 1}))
    assert (len(learnt), len(judged)) == (3, 10)
    assert all(each == learnt[0] for each in learnt)
    assert all(each == set(range(100)) - learnt[0] for each in judged)


def test_texts_of_other_lengths_are_swapped_together_as_alone(lab: lk.Lab) -> None:
    from labkit.circuits import aligning

    bases, sources = [[0, 1, 9], [2, 3, 1, 0, 9], [1, 9]], [[3, 9], [0, 2, 9], [2, 2, 1, 9]]
    task = aligning._Task(bases, sources, [4, 5, 6], np.array([0, 1, 2]), -1)
    run = aligning._Run(lab, task, aligning._Settings("residual", ADDING, 4, 1, 3, 0.1))
    basis = aligning._start(WIDTH, 4, 0).float()

    def logits(pairs: list[int]) -> dict[int, torch.Tensor]:
        groups = run._logits(np.array(pairs), basis, grad=False)
        return {int(n): row for numbers, rows in groups for n, row in zip(numbers, rows, strict=True)}

    together = logits([0, 1, 2])
    for n in range(3):
        torch.testing.assert_close(together[n], logits([n])[n], atol=1e-5, rtol=1e-5)


def test_random_directions_are_drawn_several_times_and_a_pair_counts_once(lab: lk.Lab) -> None:
    settings: dict[str, Any] = {"directions": 52, "steps": 1, "shuffles": 0, "untrained": 0, "progress": False}
    once, twice = (das(lab, PAIRS + more, FIRST + own, ADDING, **settings)
                   for more, own in (([], []), (PAIRS[:2], FIRST[:2])))  # fmt: skip
    rows = once.table.set_index("swapped")
    assert rows.loc["random directions", "low"] < rows.loc["random directions", "high"], "of five draws"
    assert once.table.equals(twice.table)
    assert twice.notes == ("2 pairs stood there before and were left out",)


def test_an_untrained_model_is_like_it_and_has_other_weights(lab: lk.Lab) -> None:
    from labkit.trace.building import untrained_lab

    one, same, other = untrained_lab(lab, 0), untrained_lab(lab, 0), untrained_lab(lab, 1)
    state = torch.random.get_rng_state()
    shapes = {name: tuple(p.shape) for name, p in lab.model.named_parameters()}
    assert {name: tuple(p.shape) for name, p in one.model.named_parameters()} == shapes
    weights = [each.model.transformer.h[1].mlp.c_fc.weight for each in (one, same, other, lab)]  # type: ignore[union-attr]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not one.model.training


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": PAIRS[:10] * 4, "answers": FIRST[:10] * 4}, "10 different pairs are too few .* give 20"),
        (
            {"pairs": [*PAIRS, PAIRS[3]], "answers": [*FIRST, "ABCDEFG"[FIRST[3] == "A"]]},
            "Pair 100 .* with another answer",
        ),
        ({"pairs": [], "answers": []}, "no pair to learn from"),
        ({"answers": FIRST[:-1]}, "100 pairs and 99 answers"),
        ({"answers": ["A"] * 100}, "All pairs have the same answer"),
        ({"answers": [99] * 100}, "no token 99"),
        ({"pairs": [*PAIRS[:-1], "30="]}, r"Pair 99 is '30='; give \(base, source\)"),
        ({"layer": 5}, "There is no layer 5"),
        ({"at": "queries"}, "at='queries' can't be used"),
        ({"position": 7}, "none at position 7"),
        ({"directions": WIDTH + 1}, "directions=105"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"shuffles": -1}, "shuffles=-1"),
    ],
)
def test_bad_input(lab: lk.Lab, change: dict[str, Any], said: str) -> None:
    given = {"pairs": PAIRS, "answers": FIRST, "layer": ADDING, **QUICK} | change
    with pytest.raises(lk.BadInput, match=said):
        das(lab, **given)
