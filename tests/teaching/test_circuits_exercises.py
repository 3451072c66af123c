"""The solutions of notebook 08's exercises beside labkit's own measures, on a tiny model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.teaching.exercises import find

CLEAN, CORRUPTED = [5, 17, 33, 8, 91, 42], [5, 18, 33, 8, 91, 42]


def solution(name: str) -> Any:
    return find(f"circuits.{name}").reference


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 3] - logits[-1, 4]


def test_the_lens_by_hand_is_labkits(tiny_lab: lk.Lab) -> None:
    model = tiny_lab.model
    model.get_submodule("model.norm").variance_epsilon = 1e-5  # as the default model has it
    trace = tiny_lab.trace(CLEAN, keep=("residual", "logits"))
    norm, head = model.get_submodule("model.norm"), model.get_submodule("lm_head")
    for layer in range(trace.layers + 1):
        ours = solution("lens")(trace.residual(layer), norm.weight.detach(), head.weight.detach())
        torch.testing.assert_close(ours, lk.lens_logits(tiny_lab, trace, [layer])[0], atol=1e-3, rtol=1e-3)


def test_gradient_times_difference_is_labkits_attribution(tiny_lab: lk.Lab) -> None:
    clean = tiny_lab.trace(CLEAN, keep="head_output")
    corrupted = tiny_lab.trace(CORRUPTED, keep="head_output", gradients=metric)
    library = lk.circuits.attribution(tiny_lab, CLEAN, CORRUPTED, metric, at="head")
    for layer in range(clean.layers):
        rise = solution("attribution")(
            clean.head_output(layer), corrupted.head_output(layer), corrupted.gradient("head_output", layer)
        )
        mine = library.table[library.table["layer"] == layer]["effect"].to_numpy()
        assert np.allclose(rise.numpy() / (library.clean - library.corrupted), mine, atol=1e-4)


def test_effect_and_strongest_are_those_of_patching(tiny_lab: lk.Lab) -> None:
    exact = lk.patching(tiny_lab, CLEAN, CORRUPTED, metric, at="head", progress=False)
    for row in exact.table.itertuples():
        assert solution("effect")(row.value, exact.clean, exact.corrupted) == pytest.approx(row.effect)
    table = exact.table.pivot(index="layer", columns="head", values="effect")
    pairs = solution("strongest")(torch.tensor(table.to_numpy()), 3).tolist()
    ranked = exact.table.assign(size=exact.table["effect"].abs()).sort_values("size", ascending=False)
    assert pairs == ranked[["layer", "head"]].head(3).to_numpy().tolist()


def test_steps_of_the_probe_reach_what_a_library_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(80, 3, generator=draw)
    labels = (x @ torch.tensor([1.0, -2.0, 0.5]) + torch.randn(80, generator=draw) > 0).float()
    weight, bias = torch.zeros(3), torch.tensor(0.0)
    for _ in range(4_000):
        weight, bias = solution("probe_step")(x, labels, weight, bias, 1.0)
    fitted = LogisticRegression(C=1e6, tol=1e-8, max_iter=1_000).fit(x.numpy(), labels.numpy())
    assert weight.numpy() == pytest.approx(fitted.coef_[0], abs=1e-2)
    assert float(bias) == pytest.approx(float(fitted.intercept_[0]), abs=1e-2)


def test_what_is_taken_out_cannot_be_read() -> None:
    for x, direction in (case.inputs for case in find("circuits.take_out").cases()):
        left = solution("take_out")(x, direction)
        assert (left @ direction).abs().max() < 1e-4
        assert torch.allclose(solution("take_out")(left, direction), left, atol=1e-5)
