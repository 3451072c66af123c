"""The cells against transformers' own layers, and each of their forms against the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from labkit.recurrent.cells import MLSTM, Attention, Hybrid, Mamba, Mamba2, RWKVTime, scan, scan_in_turn, state_bytes

SMALL = {"hidden_size": 32, "vocab_size": 50, "num_hidden_layers": 2}
MORE: dict[str, dict[str, object]] = {
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "rwkv": {"context_length": 64, "attention_hidden_size": 48},
    "xlstm": {"num_heads": 4, "qk_dim_factor": 1.0, "num_blocks": 2},
}
CELLS: dict[str, type[Mamba | Mamba2 | RWKVTime | MLSTM]] = {
    "mamba": Mamba,
    "mamba2": Mamba2,
    "rwkv": RWKVTime,
    "xlstm": MLSTM,
}


def layer(kind: str) -> nn.Module:
    """A layer of a tiny random model, its weights far from where they begin."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **MORE[kind])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    if kind == "xlstm":
        block: nn.Module = model.backbone.blocks[1].mlstm_layer
        return block
    found: nn.Module = model.rwkv.blocks[1].attention if kind == "rwkv" else model.backbone.layers[1].mixer
    return found


def walked(cell: Mamba | Mamba2 | RWKVTime | MLSTM | Attention | Hybrid, x: torch.Tensor) -> torch.Tensor:
    state, outputs = cell.start(len(x)), []
    for t in range(x.shape[1]):
        y, state = cell.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("kind", list(CELLS))
def test_cells_are_transformers_layers(kind: str) -> None:
    theirs = layer(kind)
    cell = CELLS[kind].of(theirs)
    x = torch.randn(3, 19, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(x)
        expected = expected[0] if isinstance(expected, tuple) else expected
        assert expected.abs().max() > 1
        for got in (cell(x), cell(x, in_turn=True), walked(cell, x)):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", list(CELLS))
def test_new_cells_learn_and_look_at_no_later_token(kind: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[kind](32)
    x = torch.randn(1, 9, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(cell(x)[0, 4].sum(), x)
    assert bool(gradient[0, :5].any(-1).all())
    assert not bool(gradient[0, 5:].any())
    cell(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in cell.parameters())


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_the_scan_in_rounds_is_the_scan_in_turn(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    decay, write = (torch.rand(2, length, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(scan(decay, write), scan_in_turn(decay, write), atol=1e-12, rtol=1e-12)


def test_attention_step_by_step_and_what_states_take() -> None:
    torch.manual_seed(0)
    cell, x = Attention(32, heads=4, width=4), torch.randn(2, 9, 32)
    for each in (cell, Hybrid(32)):
        torch.testing.assert_close(walked(each, x), each(x), atol=1e-5, rtol=1e-5)
    state = cell.start()
    assert state_bytes(state) == 32 * 3 * 4  # the convolution's inputs alone
    for t in range(1, 4):
        _, state = cell.step(x[:1, t], state)
        assert state_bytes(state) == 32 * 3 * 4 + t * 2 * 32 * 4
    mamba = Mamba(32, d_state=8)
    start = mamba.start()
    assert state_bytes(start) == state_bytes(mamba.step(x[:1, 0], start)[1]) == 4 * 64 * (8 + 3)
