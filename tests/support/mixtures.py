"""Mixtures of experts by hand: a layer's output, token by token and expert by expert, from the weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import silu


@dataclass(frozen=True)
class Seen:
    """hidden: (tokens, d) that entered a mixture; output: (tokens, d) that left it."""

    hidden: torch.Tensor
    output: torch.Tensor


class Blocks(dict[int, Seen]):
    """While inside, what entered and left the latest pass's mixtures, by layer."""

    def __init__(self, lab: Any) -> None:
        super().__init__()
        self.blocks = {i: layer.router.block for i, layer in enumerate(lab.anatomy.layers) if layer.router is not None}

    def __enter__(self) -> Blocks:
        self.handles = [block.register_forward_hook(self._keep(i)) for i, block in self.blocks.items()]
        return self

    def __exit__(self, *details: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, layer: int) -> Any:
        def hook(_block: nn.Module, args: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            width = args[0].shape[-1]
            self[layer] = Seen(args[0].reshape(-1, width).clone(), output.reshape(-1, width).clone())

        return hook


class Numbers(NamedTuple):
    chosen: int
    there: int


def chosen_and_there(lab: Any) -> Numbers:
    """How many experts are chosen for a token and how many there are, as the configuration says."""
    config = getattr(lab.config, "ffn_config", lab.config)
    chosen = getattr(config, "moe_top_k", None) or config.num_experts_per_tok
    names = ("moe_num_experts", "n_routed_experts", "num_local_experts", "num_experts")
    return Numbers(chosen, next(getattr(config, name) for name in names if hasattr(config, name)))


def mixture(
    lab: Any, block: Any, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor, *, family: str = ""
) -> torch.Tensor:
    """(N, d): the sum over each token's experts (N, k) of weight · expert(hidden), and what is shared by all tokens."""
    family = family or lab.family
    rows = []
    with torch.no_grad():
        for state, chosen, of in zip(hidden, experts.tolist(), weights, strict=True):
            outputs = [weight * _expert(family, block, e, state) for e, weight in zip(chosen, of, strict=True)]
            rows.append(torch.stack(outputs).sum(0))
        together = torch.stack(rows)
        if family == "qwen2_moe":
            together = together + block.shared_expert_gate(hidden).sigmoid() * block.shared_expert(hidden)
        if family.startswith(("deepseek", "glm4_moe")):
            together = together + block.shared_experts(hidden)
        return together + block.bias if family == "jetmoe" else together


def _expert(family: str, block: Any, expert: int, state: torch.Tensor) -> torch.Tensor:
    """(d): one expert's output for one token."""
    if family == "jetmoe":
        gate, up = (block.input_linear.weight[expert] @ state).chunk(2)
        return block.output_linear.weight[expert] @ (silu(gate) * up)
    experts = block.experts
    if family == "dbrx":
        wide = (experts.num_experts, experts.ffn_hidden_size, experts.hidden_size)
        w1, v1, w2 = (getattr(experts.mlp, name).view(wide)[expert] for name in ("w1", "v1", "w2"))
        return (silu(w1 @ state) * (v1 @ state)) @ w2
    if family == "gpt_oss":
        both = state @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
        gate, up = both[::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
        return ((up + 1) * gate * (1.702 * gate).sigmoid()) @ experts.down_proj[expert] + experts.down_proj_bias[expert]
    gate, up = (experts.gate_up_proj[expert] @ state).chunk(2)
    return experts.down_proj[expert] @ (silu(gate) * up)
