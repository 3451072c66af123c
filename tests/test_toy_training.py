"""The small trainings of lessons: the optimiser's arithmetic, bounds, and nothing left behind."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labkit.errors import BadInput
from labkit.toy_training import learning_rate_at, train, train_events

Pair = tuple[torch.Tensor, torch.Tensor]


def _line(generator: torch.Generator) -> Pair:
    x = torch.randn(16, 3, generator=generator)
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def _module() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def test_it_is_adamw_by_hand() -> None:
    one, other = _module(), _module()
    done = train(one, _line, lambda b: F.mse_loss(one(b[0]), b[1]), steps=7, learning_rate=0.01, seed=3, clip=0.5)
    draw = torch.Generator().manual_seed(3)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in other.parameters()]
    for step in range(1, 8):
        x, y = _line(draw)
        loss = F.mse_loss(other(x), y)
        gradients = torch.autograd.grad(loss, list(other.parameters()))
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))  # type: ignore[arg-type]
        scale = min(1.0, 0.5 / (float(norm) + 1e-6))
        rate = 0.01 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 1) / 6))) if step > 1 else 0.01
        assert done.table["loss"][step - 1] == pytest.approx(loss.item(), rel=1e-5)
        assert done.table["gradient_norm"][step - 1] == pytest.approx(float(norm), rel=1e-5)
        assert done.table["learning_rate"][step - 1] == pytest.approx(rate)
        with torch.no_grad():
            for p, g, (m, v) in zip(other.parameters(), gradients, moments, strict=True):
                m.mul_(0.9).add_(g * scale, alpha=0.1)
                v.mul_(0.95).add_((g * scale) ** 2, alpha=0.05)
                p.mul_(1 - rate * (0.1 if p.ndim > 1 else 0.0))
                p.sub_(rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8))
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)
    assert (done.outcome, done.steps) == ("finished", 7)


def test_the_schedule_ends_at_a_tenth() -> None:
    rates = [learning_rate_at(step, 100, 1.0, "cosine", 10) for step in range(1, 101)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate_at(100, 100, 1.0, "constant", 0) == 1.0


def test_it_learns_is_evaluated_and_seeded() -> None:
    held_out = _line(torch.Generator().manual_seed(99))

    def once(seed: int) -> tuple[nn.Linear, list[float]]:
        module = _module()
        module.eval()
        done = train(
            module,
            _line,
            lambda b: F.mse_loss(module(b[0]), b[1]),
            steps=60,
            learning_rate=0.1,
            seed=seed,
            evaluate=lambda: {"held_out": F.mse_loss(module(held_out[0]), held_out[1]).item()},
            every=20,
        )
        assert not module.training
        assert all(p.grad is None for p in module.parameters())
        seen = done.table.dropna(subset=["held_out"])
        assert list(seen["step"]) == [0, 20, 40, 60]
        assert math.isnan(done.table["loss"][0])
        return module, list(seen["held_out"])

    (one, first), (two, again), (three, _) = once(0), once(0), once(1)
    assert first == again
    assert first[-1] < first[0] / 20
    assert torch.equal(one.weight, two.weight)
    assert not torch.equal(one.weight, three.weight)


def test_events_leave_the_caller_s_torch_alone_and_a_stop_token_ends_them() -> None:
    module, stop = _module(), threading.Event()
    with torch.no_grad():
        events = train_events(module, _line, lambda b: F.mse_loss(module(b[0]), b[1]), steps=50, stop=stop)
        for event in events:
            assert not torch.is_grad_enabled()
            assert event["total"] == 50
            if event["done"] == 5:
                stop.set()
                break
        with pytest.raises(StopIteration) as end:
            next(events)
    assert end.value.value.outcome == "stopped"
    assert end.value.value.steps == 5


def test_time_divergence_and_interrupts_end_it() -> None:
    module = _module()
    loss = lambda b: F.mse_loss(module(b[0]), b[1])  # noqa: E731
    assert train(module, _line, loss, steps=10_000, seconds=1e-9).steps == 1
    before = module.weight.detach().clone()
    gone = train(module, _line, lambda b: loss(b) * math.inf, steps=5)
    assert (gone.outcome, gone.steps) == ("diverged", 0)
    assert torch.equal(module.weight, before)
    calls = 0

    def interrupted(b: Pair) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return loss(b)

    cut = train(module, _line, interrupted, steps=5)
    assert (cut.outcome, cut.steps, len(cut)) == ("stopped", 2, 2)
    assert "stopped after 2 of 5" in repr(cut)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0}, {"schedule": "linear"}, {"seconds": -1}])
def test_numbers_that_cannot_be_used(wrong: dict[str, object]) -> None:
    module = _module()
    with pytest.raises(BadInput):
        train(module, _line, lambda b: module(b[0]).sum(), **({"steps": 3} | wrong))  # type: ignore[arg-type]


def test_losses_that_are_none_are_refused() -> None:
    module = nn.Linear(3, 1)
    of = lambda b: module(b[0])  # noqa: E731
    for loss in (of, lambda b: 1.0, lambda b: torch.tensor(1.0), lambda b: of(b).mean().detach()):
        with pytest.raises(BadInput, match="no scalar tensor"):
            train(module, _line, loss, steps=2)  # type: ignore[arg-type]
    for other in (nn.Identity(), nn.Linear(3, 1).requires_grad_(False), 5):
        with pytest.raises(BadInput, match="module"):
            train(other, _line, lambda b: of(b).mean(), steps=2)  # type: ignore[arg-type]
    assert module.training
