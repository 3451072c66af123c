"""The state of recurrent layers: seen, changed and patched, and equal to what transformers' own cache holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from families import Tokens
from transformers import AutoConfig, AutoModelForCausalLM

import labkit as lk
from labkit.trace import capture, recurrences

IDS = [5, 17, 3, 88, 41, 9, 60, 22, 31, 7, 13]
SMALL = {"hidden_size": 32, "vocab_size": 100, "num_hidden_layers": 2}
MIXED = SMALL | {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
SSD = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8}
DELTA = {"layer_types": ["linear_attention", "full_attention"]} | {
    f"linear_{what}": n
    for what, n in (("num_key_heads", 2), ("num_value_heads", 4), ("key_head_dim", 4), ("value_head_dim", 8))
}
FAMILIES: dict[str, dict[str, object]] = {
    "mamba": SMALL | {"state_size": 4},
    "falcon_mamba": SMALL | {"state_size": 4},
    "mamba2": SMALL | {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "rwkv": SMALL | {"context_length": 64},
    "jamba": MIXED
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "falcon_h1": MIXED | SSD | {"head_dim": 8, "mamba_d_ssm": 64},
    "bamba": MIXED | SSD | {"attn_layer_indices": [1]},
    "qwen3_next": MIXED | DELTA | {"head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1},
}
SHAPES = {
    "mamba": (64, 4),
    "falcon_mamba": (64, 4),
    "mamba2": (4, 16, 8),
    "rwkv": (32, 3),
    "jamba": (64, 4),
    "falcon_h1": (4, 16, 8),
    "bamba": (4, 16, 8),
    "qwen3_next": (4, 4, 8),
}


def build(name: str, **more: object) -> lk.Lab:
    torch.manual_seed(0)
    given = FAMILIES.get(name, {}) | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | more
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **given)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return lk.Lab(model, Tokens(), name=f"tiny {name}")


@pytest.fixture(scope="module")
def labs() -> dict[str, lk.Lab]:
    return {}


@pytest.fixture
def lab(labs: dict[str, lk.Lab], request: pytest.FixtureRequest) -> lk.Lab:
    name = str(getattr(request, "param", "mamba"))
    return labs.setdefault(name, build(name))


def cached(lab: lk.Lab, ids: list[int], layer: int) -> torch.Tensor:
    """What transformers' own cache holds after these tokens."""
    with torch.no_grad():
        out = lab.model(torch.tensor([ids]), use_cache=True)
    if lab.family == "rwkv":
        return torch.stack([part[0, :, layer] for part in out.state[2:]], -1)
    cache = getattr(out, "past_key_values", None) or out.cache_params
    found: torch.Tensor = cache.layers[layer].recurrent_states[0][0]
    return found


@pytest.mark.parametrize("lab", list(FAMILIES), indirect=True)
def test_it_is_what_the_cache_holds_after_each_token(lab: lk.Lab) -> None:
    assert lab.support()["state"] is None
    plain = lab.trace(IDS, keep="logits")
    trace = lab.trace(IDS, keep=("state", "logits"))
    assert torch.equal(trace.logits, plain.logits), "looking changes nothing, to the bit"
    assert trace.layers_with("state") == ([0, 1] if lab.anatomy.layers[1].recurrence else [0])
    for layer in trace.layers_with("state"):
        assert trace.state(layer).shape == (len(IDS), *SHAPES[lab.family])
        for n in (1, 2, 7, len(IDS)):
            expected = cached(lab, IDS[:n], layer)
            scale = expected.abs().max()
            assert (trace.state(layer)[n - 1] - expected).abs().max() <= 1e-5 * scale
    with pytest.raises((lk.Unavailable, lk.BadInput)):
        trace.state(5)


@pytest.mark.parametrize("lab", ["mamba", "mamba2", "rwkv", "qwen3_next"], indirect=True)
def test_a_change_goes_on_from_there(lab: lk.Lab) -> None:
    keep = ("state", "logits")
    plain = lab.trace(IDS, keep=keep)
    with lab.edit(lk.patch("state[0] @ 4", plain.state(0)[4] * 1.0)):
        same = lab.trace(IDS, keep=keep)
    assert torch.allclose(same.logits, plain.logits, atol=1e-4), "its own value changes nothing"
    other = lab.trace([7, 7, 9, 1, 2, *IDS[5:]], keep=keep)
    with lab.edit(lk.patch("state[0] @ 4", other.state(0)[4])):
        moved = lab.trace(IDS, keep=keep)
    assert torch.equal(moved.state(0)[4], other.state(0)[4]), "a trace inside an edit shows what was put there"
    assert torch.allclose(moved.logits[:4], plain.logits[:4], atol=1e-4)
    assert (moved.logits[5:] - plain.logits[5:]).abs().max() > 1e-3
    first = 4 if lab.family != "rwkv" else 5  # which reads at a token what was there before it
    gap = (moved.logits - plain.logits).abs().amax(1)
    assert gap[first] > 1e-4
    assert lab.family != "rwkv" or gap[4] < 1e-4
    assert torch.equal(lab.trace(IDS, keep="logits").logits, plain.logits), "and nothing is left"


def test_a_forgotten_past_is_a_text_that_begins_here(lab: lk.Lab) -> None:
    """All states set to nothing at a token leave the convolution alone: with the same last inputs the rest is the same."""
    one, other = [1, 2, 3, 4, *IDS], [9, 8, 7, 6, *IDS]
    at = 4 + 6  # the convolutions of two layers look three tokens back each
    with lab.edit(lk.patch(f"state[*] @ 0:{at}", 0.0)):
        a, b = lab.trace(one, keep="logits"), lab.trace(other, keep="logits")
    assert torch.allclose(a.logits[at:], b.logits[at:], atol=1e-5)
    assert not torch.allclose(
        lab.trace(one, keep="logits").logits[at:], lab.trace(other, keep="logits").logits[at:], atol=1e-4
    )


def test_functions_are_called_token_by_token(lab: lk.Lab) -> None:
    seen = []

    def look(state: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(state.shape))
        return state * 2

    with lab.edit(lk.patch("state[1] @ 2:5", look)):
        trace = lab.trace(IDS, keep="state")
    assert seen == [(1, 64, 4)] * 3
    decay_free = lab.trace(IDS, keep="state").state(1)
    assert torch.allclose(trace.state(1)[2], 2 * decay_free[2], atol=1e-5)


def test_texts_of_a_list_and_while_generating(lab: lk.Lab) -> None:
    alone = lab.trace(IDS[:5], keep="state")
    _, short = lab.trace([IDS, IDS[:5]], keep="state")
    assert torch.allclose(short.state(1), alone.state(1), atol=1e-5)
    free = lab.generate(IDS, max_new_tokens=6)
    with lab.edit(lk.patch("state[*]", 5.0)):
        forgetful = lab.generate(IDS, max_new_tokens=6)
        again = lab.trace([*forgetful.prompt_ids, *forgetful.ids], keep="logits").logits
    expected = again[len(IDS) - 1 : -1].argmax(-1).tolist()
    assert forgetful.ids == expected, "the step of one token is edited as the whole pass is"
    assert free.ids != forgetful.ids


@pytest.mark.parametrize("lab", ["mamba", "mamba2", "falcon_h1"], indirect=True)
def test_patching_brings_back_what_the_state_carries(lab: lk.Lab) -> None:
    clean, corrupted = [1, 2, *IDS], [9, 2, *IDS]
    word = int(
        (lab.trace(clean, keep="logits").logits[-1] - lab.trace(corrupted, keep="logits").logits[-1]).abs().argmax()
    )
    found = lk.patching(lab, clean, corrupted, lambda logits: logits[-1, word], at="state", progress=False)
    table = found.table
    assert set(table["layer"]) == {0, 1}
    run = table[(table["layer"] == 0) & (table["position"] == 6)].iloc[0]
    source = lab.trace(clean, keep="state")
    with lab.edit(lk.patch("state[0] @ 6", source.state(0)[6])):
        by_hand = float(lab.trace(corrupted, keep="logits").logits[-1, word])
    assert run["value"] == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("lab", ["mamba", "rwkv"], indirect=True)
def test_derivatives_are_those_of_small_changes(lab: lk.Lab) -> None:
    trace = lab.trace(IDS, keep="state", gradients=lambda logits: logits[-1, 42])
    gradient, state = trace.gradient("state", 1), trace.state(1)
    assert gradient.shape == state.shape
    assert not any(p.grad is not None for p in lab.model.parameters())
    generator = torch.Generator().manual_seed(1)
    way = torch.randn(state.shape[1:], generator=generator)
    if lab.family == "rwkv":
        way[:, 2] = 0
    values = []
    for step in (-1e-2, 1e-2):
        with lab.edit(lk.patch("state[1] @ 5", lambda given, step=step: given + step * way)):
            values.append(float(lab.trace(IDS, keep="logits").logits[-1, 42]))
    assert (values[1] - values[0]) / 2e-2 == pytest.approx(float((gradient[5] * way).sum()), rel=0.03, abs=2e-4)


def test_it_is_saved(lab: lk.Lab, tmp_path: Path) -> None:
    trace = lab.trace(IDS, keep="state")
    trace.save(tmp_path / "t.safetensors")
    opened = lk.Trace.load(tmp_path / "t.safetensors")
    assert torch.equal(opened.state(1), trace.state(1))


def test_what_has_none_says_so(labs: dict[str, lk.Lab]) -> None:
    attention = build("llama", **(MIXED | {"max_position_embeddings": 64}))
    assert "every layer of llama is attention" in str(attention.support()["state"])
    with pytest.raises(lk.Unavailable, match="state can't be had from tiny llama"):
        attention.trace(IDS, keep="state")
    with (
        pytest.raises(lk.Unavailable, match="every layer of llama is attention"),
        attention.edit(lk.patch("state[0]", 0)),
    ):
        pass
    hybrid = labs.setdefault("jamba", build("jamba"))
    trace = hybrid.trace(IDS, keep="state")
    with pytest.raises(lk.Unavailable):
        trace.state(1)
    with (
        pytest.raises(lk.Unavailable, match="layer 1 of this jamba has no state"),
        hybrid.edit(lk.patch("state[1]", 0)),
    ):
        pass
    assert "recurrence that labkit knows" in str(
        build("lfm2", **(MIXED | {"layer_types": ["conv"] * 2})).support()["state"]
    )


def test_another_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = build("mamba")
    file = sys.modules[type(lab.model.backbone.layers[0].mixer).__module__]
    scan = file.mamba_selective_scan
    monkeypatch.setattr(file, "mamba_selective_scan", lambda *a, **k: scan(*a, **k) * 1.01)
    assert "otherwise than labkit knows" in str(lab.support()["state"])


def test_values_that_do_not_fit(lab: lk.Lab) -> None:
    for value, match in (
        (torch.zeros(3), "does not fit a state"),
        (torch.zeros(2, 63, 4), "does not fit"),
    ):
        with pytest.raises(lk.BadInput, match=match), lab.edit(lk.patch("state[0] @ 0:2", value)):
            lab.trace(IDS, keep="logits")
    with pytest.raises(lk.BadInput, match="has a layer and no head"), lab.edit(lk.patch("state[0, 1]", 0.0)):
        pass
    with pytest.raises(lk.BadInput, match="returned"), lab.edit(lk.patch("state[0]", lambda s: s[0])):
        lab.trace(IDS, keep="logits")


def test_more_than_memory_holds_is_said_before(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "free_bytes", lambda _device: 2 * 2 * 64 * 4 * 4 * 12)  # of twelve tokens, as needed
    lab.trace(IDS[:9], keep="state")
    with pytest.raises(lk.NotEnoughMemory, match="give up to 9 tokens"):
        lab.trace(IDS, keep="state")
    lab.trace(IDS, keep="logits")


def test_nothing_is_left_behind_after_an_error(lab: lk.Lab) -> None:
    file = sys.modules[type(lab.model.backbone.layers[0].mixer).__module__]
    before = file.mamba_selective_scan

    def broken(_state: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lab.edit(lk.patch("state[0] @ 3", broken)):
        lab.trace(IDS, keep="logits")
    assert file.mamba_selective_scan is before
    assert not recurrences._listeners
    assert not recurrences._replaced


def test_other_models_of_the_family_are_left_alone(lab: lk.Lab) -> None:
    other = build("mamba")
    with torch.no_grad():
        other.model.lm_head.weight.mul_(2)
    plain = other.trace(IDS, keep="logits").logits
    with lab.edit(lk.patch("state[*]", 0.0)):
        assert torch.equal(other.trace(IDS, keep="logits").logits, plain)
