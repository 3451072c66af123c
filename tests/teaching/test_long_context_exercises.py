"""The solutions of notebook 10's exercises beside transformers' own positions and layers, and other ways to compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from labkit.teaching.exercises import find


def solution(name: str) -> Any:
    return find(f"long_context.{name}").reference


def inputs(name: str) -> list[tuple[Any, ...]]:
    return [case.inputs for case in find(f"long_context.{name}").cases()]


def frequencies(kind: str, factor: float) -> torch.Tensor:
    """transformers' own, of a head of 64 numbers trained on 2,048 tokens."""
    rope = {"rope_type": kind, "rope_theta": 10_000.0, "factor": factor, "original_max_position_embeddings": 2048}
    if kind == "default":
        return 10_000.0 ** (-torch.arange(32) / 32)
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=int(2048 * factor), rope_parameters=rope
    )
    found, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return found


def test_one_changed_line_is_the_librarys_linear_scaling() -> None:
    positions = torch.arange(100).float()
    ours = solution("angles")(positions, frequencies("default", 1.0), 4.0)
    torch.testing.assert_close(ours, torch.outer(positions, frequencies("linear", 4.0)), atol=1e-4, rtol=1e-5)


def test_yarn_is_the_librarys() -> None:
    base = frequencies("default", 1.0)
    turns = 2048 * base / (2 * torch.pi)
    low, high = int((turns >= 32).sum()) - 1, int((turns > 1).sum())  # fast pairs turn 32 times, slow ones not once
    torch.testing.assert_close(solution("yarn")(base, low, high, 4.0), frequencies("yarn", 4.0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("heads", [1, 2, 8, 16])
def test_alibi_gives_the_pattern_of_the_librarys(heads: int) -> None:
    """BLOOM counts from the text's beginning; a row's constant is lost in the softmax."""
    theirs = build_alibi_tensor(torch.ones(1, 7), heads, torch.float32).reshape(heads, 1, 7).expand(heads, 7, 7)
    scores = torch.randn(heads, 7, 7, generator=torch.Generator().manual_seed(0))
    ahead = torch.ones(7, 7).triu(1).bool()
    wanted = torch.softmax((scores + theirs).masked_fill(ahead, -torch.inf), dim=-1)
    torch.testing.assert_close(torch.softmax(scores + solution("alibi")(heads, 7), dim=-1), wanted)


def test_a_window_never_shows_more_than_its_size_and_the_sinks() -> None:
    for T, size, sinks in inputs("window"):
        seen = solution("window")(T, size, sinks)
        assert int(seen.sum(dim=1).max()) <= size + sinks
        assert not seen.triu(1).any()
        assert bool(seen.diagonal().all())


def test_the_hidden_matrix_times_the_inputs_is_the_scan() -> None:
    for x, decay, write, read in inputs("scan"):
        matrix = solution("hidden_attention")(decay, write, read)
        torch.testing.assert_close(matrix @ x, solution("scan")(x, decay, write, read), atol=1e-4, rtol=1e-4)


def test_the_scan_is_one_channel_of_a_mamba_layer() -> None:
    """What transformers' slow path computes, written out over all channels at once."""
    T, channels, n = 9, 3, 4
    generator = torch.Generator().manual_seed(1)
    step = torch.rand(T, channels, generator=generator)
    A = -torch.rand(channels, n, generator=generator)
    B, C, x = (torch.randn(T, size, generator=generator) for size in (n, n, channels))
    decay, write = torch.exp(step[:, :, None] * A), step[:, :, None] * B[:, None]
    state, wanted = torch.zeros(channels, n), []
    for t in range(T):
        state = decay[t] * state + write[t] * x[t][:, None]
        wanted.append(state @ C[t])
    for channel in range(channels):
        ours = solution("scan")(x[:, channel], decay[:, channel], write[:, channel], C)
        torch.testing.assert_close(ours, torch.stack(wanted)[:, channel], atol=1e-5, rtol=1e-5)
