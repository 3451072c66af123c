"""Sophia: the paper's update, computed by hand, and an estimate whose mean is the Gauss-Newton diagonal."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from labkit.lora.sophia import Sophia, gauss_newton_bartlett


def test_the_update_is_the_papers_on_a_quadratic() -> None:
    """L = ½ Σ a θ²: the gradient is a θ, and the Hessian's diagonal a; one direction curves downwards."""
    a = np.array([0.01, 1.0, 30.0, 4000.0, -2.0])
    start = np.array([3.0, -2.0, 0.5, 0.1, 0.2])
    eta, beta1, beta2, gamma, decay, every = 0.05, 0.96, 0.99, 0.05, 0.1, 10
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = Sophia([weight], eta, gamma=gamma, weight_decay=decay)
    theta, m, h = start.copy(), np.zeros(5), np.zeros(5)
    for t in range(35):
        m = beta1 * m + (1 - beta1) * a * theta
        if t % every == 0:
            h = beta2 * h + (1 - beta2) * a
        theta = theta - eta * decay * theta
        theta = theta - eta * np.clip(m / np.maximum(gamma * h, 1e-12), -1, 1)
        assert optimizer.wants_estimate == (t % every == 0)
        if optimizer.wants_estimate:
            optimizer.estimate([torch.tensor(a)])
        weight.grad = torch.tensor(a) * weight.detach()
        optimizer.step()
        np.testing.assert_allclose(weight.detach().numpy(), theta, rtol=1e-9, atol=1e-12)


def test_a_step_is_no_longer_than_the_learning_rate() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = Sophia([weight], 0.1)
    weight.grad = torch.tensor([1e-6, -1e6, 0.0])
    optimizer.step()  # no curvature is known yet: by the sign
    assert weight.tolist() == pytest.approx([-0.1, 0.1, 0.0])


def test_flat_and_steep_directions_come_down_together() -> None:
    a = torch.tensor([1e-2, 1.0, 1e2], dtype=torch.float64)
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = Sophia([weight], 0.02, every=1)
    for _ in range(300):
        optimizer.estimate([a])
        weight.grad = a * weight.detach()
        optimizer.step()
    assert float(weight.detach().abs().max()) < 0.05


def test_it_goes_on_from_what_was_kept() -> None:
    def steps(optimizer: Sophia, weight: torch.nn.Parameter, begin: int, end: int) -> None:
        for t in range(begin, end):
            if optimizer.wants_estimate:
                optimizer.estimate([torch.full((2,), 3.0 + t)])
            weight.grad = (weight.detach() - 0.2) * (1 + t % 3)
            optimizer.step()

    one = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    straight = Sophia([one], 1e-2)
    steps(straight, one, 0, 13)
    other = torch.nn.Parameter(one.detach().clone())
    resumed = Sophia([other], 1e-2)
    resumed.load_state_dict(straight.state_dict())
    steps(straight, one, 13, 25)
    steps(resumed, other, 13, 25)
    assert torch.equal(one, other)


def test_the_estimate_has_the_gauss_newton_diagonal_as_its_mean() -> None:
    """Logits W x at each token: the matrix is Σ x xᵀ ⊗ (diag p − p pᵀ) / N over the N tokens that carry loss."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    unused = torch.nn.Parameter(torch.zeros(2))
    labels = torch.tensor([[-100, -100, 1, 2], [-100, 0, 4, -100]])
    tokens = x[:, :-1][labels[:, 1:] != -100]
    p = (tokens @ weight.detach().T).softmax(-1)
    right = ((p * (1 - p)).T @ tokens.square()) / len(tokens)

    def model(inputs: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=inputs @ weight.T)

    generator, draws, total = torch.Generator().manual_seed(1), 3000, torch.zeros(5, 3, dtype=torch.float64)
    for _ in range(draws):
        found, none = gauss_newton_bartlett(model, {"inputs": x, "labels": labels}, [weight, unused], generator)
        total += found
        assert not none.any()
    torch.testing.assert_close(total / draws, right, rtol=0.15, atol=0.01)
