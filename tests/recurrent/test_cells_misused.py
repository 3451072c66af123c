"""Cells of sizes that can't be, and of layers that compute otherwise though their weights would fit."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import labkit as lk
from labkit import recurrent


def mixer(family: str, **more: object) -> torch.nn.Module:
    sizes = {"hidden_size": 32, "vocab_size": 50, "num_hidden_layers": 1, "state_size": 4}
    if family == "mamba2":
        sizes |= {"num_heads": 4, "head_dim": 16, "n_groups": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes | more)).eval()
    found: torch.nn.Module = model.backbone.layers[0].mixer
    return found


def test_a_cell_is_not_made_of_what_computes_otherwise() -> None:
    own = mixer("mamba")
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        assert torch.allclose(recurrent.Mamba.of(own)(x), own(x), atol=1e-5)
    # FalconMamba's weights have the same names and shapes, and it normalises B, C and the time steps besides
    with pytest.raises(lk.BadInput, match="FalconMambaMixer computes otherwise"):
        recurrent.Mamba.of(mixer("falcon_mamba"))
    with pytest.raises(lk.BadInput, match="gelu"):
        recurrent.Mamba.of(mixer("mamba", hidden_act="gelu"))
    with pytest.raises(lk.BadInput, match="biases"):
        recurrent.Mamba.of(mixer("mamba", use_bias=True))
    with pytest.raises(lk.BadInput, match="no limit"):
        recurrent.Mamba2.of(mixer("mamba2", time_step_limit=(0.0, 0.1)))
    for cell in (recurrent.Mamba, recurrent.Mamba2, recurrent.RWKVTime, recurrent.MLSTM):
        with pytest.raises(lk.BadInput, match="Linear computes otherwise"):
            cell.of(torch.nn.Linear(2, 2))


def test_sizes_that_can_not_be_are_refused() -> None:
    for cell in (recurrent.Mamba, recurrent.Mamba2, recurrent.RWKVTime, recurrent.MLSTM, recurrent.Attention):
        for size in (0, -4):
            with pytest.raises(lk.BadInput):
                cell(size)
    for cell in (recurrent.Mamba2, recurrent.MLSTM, recurrent.Attention, recurrent.Hybrid):
        with pytest.raises(lk.BadInput, match="heads=5"):
            cell(16, heads=5)
    for pairs in (-1, 4, "48"):
        with pytest.raises(lk.BadInput, match="pairs"):
            recurrent.RecallTask(pairs=pairs)  # type: ignore[arg-type]
