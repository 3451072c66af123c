"""The solutions of notebook 03's exercises beside transformers' processors and caches, torch's attention, and exact sums."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    DynamicCache,
    PrefixConstrainedLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

import labkit as lk
from labkit.teaching.exercises import find


def solution(name: str) -> Any:
    return find(f"generation.{name}").reference


def inputs(name: str) -> list[tuple[Any, ...]]:
    return [case.inputs for case in find(f"generation.{name}").cases()]


def test_each_temperature_is_transformers_own() -> None:
    for logits, temperatures in inputs("with_temperature"):
        found = solution("with_temperature")(logits, temperatures)
        for row, temperature, got in zip(logits, temperatures.tolist(), found, strict=True):
            if temperature == 0:
                assert got.tolist() == [float(i == row.argmax()) for i in range(len(row))]
                continue
            scores = TemperatureLogitsWarper(temperature)(torch.zeros(1, 1, dtype=torch.long), row[None])  # type: ignore[arg-type]
            torch.testing.assert_close(got, scores.softmax(-1)[0])


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.8, 0.95, 0.999, 1.0])
def test_top_p_is_transformers_own(p: float) -> None:
    warper = TopPLogitsWarper(p)
    some = [case[0] for case in inputs("top_p")]
    if p < 1:  # a sum of 500 probabilities in float32 may come to 1 before the last of them
        some.append(3 * torch.randn(4, 500, generator=torch.Generator().manual_seed(0)))
    for logits in some:
        theirs = warper(torch.zeros(len(logits), 1, dtype=torch.long), logits)  # type: ignore[arg-type]
        assert torch.equal(solution("top_p")(logits, p), theirs)


def test_with_a_cache_are_the_last_rows_without() -> None:
    for query, key, value, keys, values in inputs("with_cache"):
        n, T = len(query), len(keys)
        all_keys, all_values = torch.cat([keys, key]), torch.cat([values, value])
        queries = torch.cat([torch.randn(T, query.shape[1]), query])
        whole = torch.nn.functional.scaled_dot_product_attention(queries, all_keys, all_values, is_causal=True)
        output, new_keys, new_values = solution("with_cache")(query, key, value, keys, values)
        torch.testing.assert_close(output, whole[-n:])
        assert torch.equal(new_keys, all_keys)
        assert torch.equal(new_values, all_values)


@torch.no_grad()
def test_a_branch_is_the_cache_that_the_model_itself_makes(tiny_lab: lk.Lab) -> None:
    text = torch.tensor([[5, 6, 7, 8, 9, 10]])
    other, at = 11, 3
    branched = text[:, : at + 1].clone()
    branched[0, at] = other
    trunk, alone = DynamicCache(), DynamicCache()
    tiny_lab.model(text, past_key_values=trunk)
    tiny_lab.model(branched, past_key_values=alone)
    for ours, theirs in zip(trunk.layers, alone.layers, strict=True):
        assert isinstance(ours.keys, torch.Tensor)
        assert isinstance(ours.values, torch.Tensor)
        assert isinstance(theirs.keys, torch.Tensor)
        assert isinstance(theirs.values, torch.Tensor)
        keys, values = solution("branch")(
            ours.keys[0], ours.values[0], at, theirs.keys[0, :, at], theirs.values[0, :, at]
        )
        torch.testing.assert_close(keys, theirs.keys[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(values, theirs.values[0], atol=1e-6, rtol=0)


def test_a_branch_that_overwrites_the_text_is_told_so() -> None:
    def in_place(keys: Any, values: Any, at: int, key: Any, value: Any) -> Any:
        keys[:, at], values[:, at] = key, value
        return keys[:, : at + 1], values[:, : at + 1]

    result = lk.check("generation.branch", in_place)
    assert result.passed is False
    assert "the text's own cache was overwritten" in result.message


def test_a_choice_allows_what_every_whole_answer_allows() -> None:
    """By trying all answers: a token is allowed where some answer followed by its end begins like this."""
    for logits, options, so_far, end in inputs("masked_choice"):
        whole = [[*option, end] for option in options]

        def allowed(_: int, ids: Any, whole: Any = whole, logits: Any = logits) -> list[int]:
            given = ids.tolist()
            return [id for id in range(len(logits)) if any(w[: len(given) + 1] == [*given, id] for w in whole)]

        constrained = PrefixConstrainedLogitsProcessor(allowed, 1)
        theirs = constrained(torch.tensor([so_far], dtype=torch.long), logits[None])  # type: ignore[arg-type]
        assert torch.equal(solution("masked_choice")(logits, options, so_far, end), theirs[0])


def test_what_is_accepted_or_drawn_afterwards_comes_as_from_the_large_model() -> None:
    """Summed over every draft, and over u on a fine grid: nothing is drawn at random."""
    us = (torch.arange(4000) + 0.5) / 4000
    for p, q, _, _ in inputs("accept"):
        comes = torch.zeros_like(p)
        for drafted in range(len(p)):
            answers = [solution("accept")(p, q, drafted, float(u)) for u in us[:: 1 if len(p) < 5 else 4]]
            rate = sum(accepted for accepted, _ in answers) / len(answers)
            comes[drafted] += q[drafted] * rate
            comes += q[drafted] * (1 - rate) * answers[0][1]
        torch.testing.assert_close(comes, p, atol=1e-3, rtol=0)


# Written as a learner might, apart from the solutions that mistakes are recognised by.
def greedy_by_equality(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    best = (z == z.max(-1, keepdim=True).values).float()
    return torch.where(t[:, None] == 0, best, (z / t[:, None]).softmax(-1).nan_to_num())


def next_of_each(z: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    masked = torch.full_like(z, float("-inf"))
    for option in options:
        if len(option) > len(so_far) and all(a == b for a, b in zip(option, so_far, strict=False)):
            masked[option[len(so_far)]] = z[option[len(so_far)]]
    return masked


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("with_temperature", greedy_by_equality, "places differ"),
        ("with_temperature", lambda z, t: (z / t).softmax(-1), "NaN in"),
        ("top_p", lambda z, p: z.masked_fill(z.softmax(-1) < 1 - p, -torch.inf), "Infinity in"),
        ("top_p", lambda z, p: z, "-inf expected"),
        ("with_cache", lambda q, k, v, ks, vs: (q @ ks.T).softmax(-1) @ vs, "output, keys, values"),
        ("masked_choice", next_of_each, "A complete answer has to end"),
        ("masked_choice", lambda z, o, s, e: z, "-inf expected"),
        ("accept", lambda p, q, d, u: (p[d] > u * q[d], (p - q).relu()), "divide it by its sum"),
        ("accept", lambda p, q, d, u: (p[d] / q[d], p), "True or False is wanted"),
        ("accept", lambda p, q, d, u: (not bool(u * q[d] < p[d]), p), "True expected, False there"),
        ("branch", lambda ks, vs, at, k, v: (ks[:, : at + 1], vs[:, : at + 1]), "places differ"),
    ],
)
def test_what_a_learner_might_write_gets_a_helpful_answer(name: str, answer: Any, said: str) -> None:
    result = lk.check(f"generation.{name}", answer)
    assert result.passed is False
    assert said in result.message


def test_a_bool_may_come_from_torch_or_numpy() -> None:
    for kind in (lambda x: torch.tensor(x), np.bool_, bool):

        def answer(*case: Any, kind: Any = kind) -> Any:
            accepted, residual = solution("accept")(*case)
            return kind(accepted), residual

        assert lk.check("generation.accept", answer).passed is True
    assert lk.check("generation.accept", lambda *case: (int(solution("accept")(*case)[0]), case[0])).passed is False


def test_beside_infinity_no_number_is_near_enough() -> None:
    from labkit.teaching import compare

    inf = float("inf")
    for expected, got in itertools.permutations([-inf, 0.0, inf], 2):
        said = compare.difference(torch.tensor([1.0, expected]), torch.tensor([1.0, got]), tolerance=1e-5)
        assert said is not None
    assert compare.difference(torch.tensor([-inf, inf]), torch.tensor([-inf, inf]), tolerance=1e-5) is None
