"""The token-to-token matrices of recurrent layers: exact, drawn by the attention view, and refused where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import Tokens
from transformers import AutoConfig, AutoModelForCausalLM

import labkit as lk
from labkit.recurrent import matrices
from labkit.recurrent.matrices import hidden_attention

IDS = [5, 17, 3, 88, 41, 9, 60, 22, 31, 7, 13]
SMALL = {"hidden_size": 32, "vocab_size": 100, "num_hidden_layers": 2}
MIXED = SMALL | {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
MORE: dict[str, dict[str, object]] = {
    "mamba": SMALL | {"state_size": 4},
    "mamba2": SMALL | {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "rwkv": SMALL | {"context_length": 64},
    "jamba": MIXED
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "olmo_hybrid": MIXED
    | {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    "llama": MIXED,
}


def build(name: str) -> lk.Lab:
    torch.manual_seed(0)
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **MORE[name], **ends)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return lk.Lab(model, Tokens(), name=f"tiny {name}")


@pytest.mark.parametrize(("name", "count"), [("mamba", 64), ("mamba2", 4), ("rwkv", 32), ("jamba", 64)])
def test_the_matrix_times_the_inputs_is_the_output(name: str, count: int) -> None:
    lab = build(name)
    hidden = hidden_attention(lab, IDS)
    assert list(hidden.layers) == ([0] if name == "jamba" else [0, 1])
    layer = hidden[0]
    weights = layer.weights()
    assert weights.shape == (count, len(IDS), len(IDS))
    assert not bool(weights.triu(1).any())
    got = weights @ layer.values
    got = got if layer.gate is None else layer.gate * got
    assert (got - layer.outputs).abs().max() <= 1e-5 * layer.outputs.abs().max()
    assert layer.outputs.abs().max() > 1e-2
    assert torch.equal(layer.weights(-1), weights[-1])
    assert torch.equal(layer.weights([3, 1]), weights[[3, 1]])
    if name == "rwkv":
        torch.testing.assert_close(weights.sum(-1), torch.ones(count, len(IDS)))


def test_it_reaches_what_the_whole_layer_puts_out() -> None:
    lab = build("mamba")
    layer, mixer = hidden_attention(lab, IDS)[1], lab.model.backbone.layers[1].mixer
    mixed = layer.gate * (layer.weights() @ layer.values)
    with torch.no_grad():
        residual = lab.trace(IDS, keep="residual")
        expected = residual.residual(2) - residual.residual(1)
        torch.testing.assert_close(mixer.out_proj(mixed[..., 0].T), expected, atol=1e-5, rtol=1e-5)


def test_the_weight_of_a_token_is_what_a_change_of_it_does() -> None:
    """Another way to the same number: derivatives of the layer's own scan."""
    lab = build("mamba")
    layer = hidden_attention(lab, IDS)[0]
    steps = layer._steps
    given = dict(steps.given) | {"z": None}
    x = steps.x.detach().clone().requires_grad_()
    y = type(steps)(given | {"hidden_states": x})
    state, outputs = y.start, []
    for t in range(y.tokens):
        state = y.after(state, t)
        outputs.append(y.read(state, state, t))
    out = y.returned(outputs, state)
    out = out[0] if isinstance(out, tuple) else out
    (gradient,) = torch.autograd.grad(out[0, 7, 9], x)
    torch.testing.assert_close(gradient[0, 7], layer.weights(7)[9], atol=1e-6, rtol=1e-4)


def test_the_attention_view_draws_it(tmp_path: Path) -> None:
    lab = build("mamba")
    hidden = hidden_attention(lab, IDS, heads=4)
    trace = hidden.trace
    assert (trace.heads, trace.layers) == (4, 2)
    by_hand = hidden[1].weights().abs()
    by_hand = (by_hand / by_hand.sum(-1, keepdim=True)).unflatten(0, (4, 16)).mean(1)
    torch.testing.assert_close(trace.attention(1), by_hand, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(trace.attention(0).sum(-1), torch.ones(4, len(IDS)))
    view = lk.views.attention(trace, layer=1, head=2)
    view.to_html(tmp_path / "hidden.html")
    assert (tmp_path / "hidden.html").stat().st_size > 10_000
    view.close()
    assert "hidden attention" in trace.notes[-1]
    same = lk.Trace.load(trace.save(tmp_path / "t.safetensors"))
    assert torch.equal(same.attention(1), trace.attention(1))
    assert hidden_attention(build("mamba2"), IDS).trace.heads == 4


def test_what_has_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lk.Unavailable, match="every layer of llama is attention"):
        hidden_attention(build("llama"), IDS)
    with pytest.raises(lk.Unavailable, match="gated delta rule"):
        hidden_attention(build("olmo_hybrid"), IDS)
    jamba = build("jamba")
    with pytest.raises(lk.Unavailable, match="Layer 1 of tiny jamba has no recurrent state; layers 0 have"):
        hidden_attention(jamba, IDS, 1)
    with pytest.raises(lk.BadInput, match="one text"):
        hidden_attention(jamba, [IDS, IDS[:4]])
    with pytest.raises(lk.BadInput, match="Lab"):
        hidden_attention(jamba.model, IDS)  # type: ignore[arg-type]
    for wrong in ({"layers": 9}, {"layers": []}, {"heads": 0}, {"heads": 65}):
        with pytest.raises(lk.BadInput):
            hidden_attention(jamba, IDS, **wrong)  # type: ignore[arg-type]
    hidden = hidden_attention(jamba, IDS)
    with pytest.raises(lk.BadInput, match="layers 0 were looked at"):
        hidden[1]
    with pytest.raises(lk.BadInput, match="no matrix 64"):
        hidden[0].weights(64)
    monkeypatch.setattr(matrices, "free_bytes", lambda _device: 1_000)
    with pytest.raises(lk.NotEnoughMemory, match="name fewer layers"):
        hidden_attention(jamba, IDS)


def test_an_edited_state_has_no_matrix() -> None:
    lab = build("mamba")
    with lab.edit(lk.patch("state[0] @ 3", 0.0)):
        with pytest.raises(lk.Unavailable, match="state of layer 0 is edited"):
            hidden_attention(lab, IDS)
        hidden_attention(lab, IDS, 1)
    with lab.edit(lk.patch("residual[0] @ 3", 0.0)):
        found = hidden_attention(lab, IDS)[0]
    assert found.layer == 0
    hidden_attention(lab, IDS)
