"""Sophia, an optimiser that divides by an estimate of the curvature and clips (Liu et al. 2023, arXiv:2305.14342)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

__all__ = ["Sophia", "gauss_newton_bartlett"]


class Sophia(torch.optim.Optimizer):
    """The paper's algorithm 3. With gradient g, and every `every` steps an estimate ĥ of the Hessian's diagonal:

    m ← β1 m + (1 − β1) g;  h ← β2 h + (1 − β2) ĥ;  θ ← θ − η λ θ;  θ ← θ − η clip(m / max(γ h, ε), 1)

    lr: η.  betas: β1 and β2.  gamma: γ, 0.05 for the Gauss-Newton-Bartlett estimate and 0.01 for Hutchinson's.
    weight_decay: λ.  No number moves by more than η in a step: where the curvature is small or below 0, it moves by its sign.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        betas: tuple[float, float] = (0.96, 0.99),
        gamma: float = 0.05,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        every: int = 10,
    ) -> None:
        super().__init__(
            parameters,
            {
                "lr": lr,
                "betas": betas,
                "gamma": gamma,
                "eps": eps,
                "weight_decay": weight_decay,
                "every": every,
                "steps": 0,
            },
        )

    @property
    def trained(self) -> list[nn.Parameter]:
        """What it updates, in the order in which `estimate` takes the curvature."""
        return [weight for group in self.param_groups for weight in group["params"]]

    @property
    def wants_estimate(self) -> bool:
        """Whether the step to come is one of those that begin with an estimate: the first, and every tenth from there."""
        group = self.param_groups[0]
        return bool(group["steps"] % group["every"] == 0)

    @torch.no_grad()
    def estimate(self, diagonal: Sequence[torch.Tensor]) -> None:
        """Take an estimate of the Hessian's diagonal into account, a tensor for each of `trained`."""
        found = iter(diagonal)
        for group in self.param_groups:
            for weight in group["params"]:
                self._state(weight)["h"].lerp_(next(found).to(weight), 1 - group["betas"][1])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self._state(weight)
                state["m"].lerp_(weight.grad, 1 - group["betas"][0])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                scale = (group["gamma"] * state["h"]).clamp_(min=group["eps"])
                weight.sub_(group["lr"] * (state["m"] / scale).clamp_(-1, 1))
            group["steps"] += 1
        return loss

    def _state(self, weight: nn.Parameter) -> dict[str, torch.Tensor]:
        state = cast("dict[str, torch.Tensor]", self.state[weight])
        if not state:
            state["m"], state["h"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return state


def gauss_newton_bartlett(
    model: Callable[..., Any],
    inputs: Mapping[str, torch.Tensor],
    trained: Sequence[nn.Parameter],
    generator: torch.Generator,
) -> list[torch.Tensor]:
    """An estimate of the diagonal of the Gauss-Newton matrix of a batch's mean loss, for each of some parameters.

    The paper's algorithm 2: labels are drawn from the model's own distribution at the N tokens that carry loss, and with g the
    gradient of the mean loss on those, N · g² has the diagonal as its mean. Costs a pass forward and back.
    inputs: of the model, with labels (batch, T), -100 where there is no loss.
    """
    rest = {name: value for name, value in inputs.items() if name != "labels"}
    counted = inputs["labels"][:, 1:] != -100
    logits = model(**rest, use_cache=False).logits[:, :-1][counted].float()  # (N, vocabulary)
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).squeeze(1)
    loss = torch.nn.functional.cross_entropy(logits, drawn)
    gradients = torch.autograd.grad(loss, list(trained), allow_unused=True)
    count = int(counted.sum())
    return [
        torch.zeros_like(weight) if gradient is None else count * gradient.square()
        for weight, gradient in zip(trained, gradients, strict=True)
    ]
