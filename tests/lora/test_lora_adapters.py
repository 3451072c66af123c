"""Adapters on and off: what peft computes, at any scale, several at once, and the base as it was afterwards."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import torch
from adapted import FAMILY, IDS, METHODS, adapter_of, lab_of, logits, peft_of

import labkit as lk
from labkit.lora.low_rank import dense_weight
from labkit.trace.turns import end_changes


def state(lab: lk.Lab) -> dict[str, Any]:
    model = lab.model
    return {
        "objects": {name: id(value) for name, value in model.named_parameters(remove_duplicate=False)},
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "classes": [type(m) for m in model.modules()],
        "grad": [p.requires_grad for p in model.parameters()],
        "logits": logits(model),
    }


def assert_as_it_was(lab: lk.Lab, before: dict[str, Any]) -> None:
    after = state(lab)
    for key in ("objects", "hooks", "classes", "grad"):
        assert after[key] == before[key], key
    assert torch.equal(after["logits"], before["logits"])
    assert all(torch.equal(value, before["values"][name]) for name, value in after["values"].items())


@pytest.mark.parametrize("method", METHODS)
def test_on_is_what_peft_computes_and_off_is_the_base(method: str) -> None:
    lab = lab_of(FAMILY.get(method, "llama3"))
    before = state(lab)
    tuned = peft_of(lab, **METHODS[method])
    adapter = lk.lora.taken(tuned, lab, method)
    expected = logits(tuned)
    assert float((expected - before["logits"]).abs().max()) > 0.1
    with adapter.on() as there:
        assert there is lab
        found = logits(lab.model)
        assert torch.equal(lab.trace(IDS, keep="logits").logits, found)
    exact = 0.0 if method in ("lora", "rslora", "all linear", "embedding", "saved modules") else 1e-5
    assert float((found - expected).abs().max()) <= exact * float(expected.abs().max())
    assert_as_it_was(lab, before)


def test_conv1d() -> None:
    lab = lab_of("gpt2")
    before = state(lab)
    tuned = peft_of(lab, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    with lk.lora.taken(tuned, lab).on():
        torch.testing.assert_close(logits(lab.model), logits(tuned), rtol=1e-5, atol=1e-5)
    assert_as_it_was(lab, before)


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "saved modules"])
@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.3, 1.7])
def test_a_scale_multiplies_the_change_of_each_weight(method: str, scale: float) -> None:
    lab = lab_of()
    before = state(lab)
    adapter = adapter_of(lab, **METHODS[method])
    by_hand = lab_of()
    with torch.no_grad():
        for name, low_rank in adapter.low_ranks.items():
            weight = by_hand.model.get_submodule(name).weight
            weight.add_(scale * low_rank.delta(dense_weight(lab.model.get_submodule(name))).float())
        for name, value in adapter.replaced.items():
            module, _, parameter = name.rpartition(".")
            own = by_hand.model.get_submodule(module)._parameters[parameter]
            assert own is not None
            own.add_(scale * (value - own))
    with adapter.on(scale):
        found = logits(lab.model)
    if scale == 0:
        assert torch.equal(found, before["logits"])
    torch.testing.assert_close(found, logits(by_hand.model), rtol=1e-4, atol=1e-5)
    assert_as_it_was(lab, before)


@pytest.mark.parametrize("method", ["lora", "dora", "saved modules"])
def test_several_at_once_add_up_in_any_order(method: str) -> None:
    lab = lab_of()
    before = state(lab)
    a, b = adapter_of(lab, seed=1, **METHODS[method]), adapter_of(lab, seed=2, **METHODS[method])
    with a.on(0.5), b.on(0.5):
        one = logits(lab.model)
        with a.on(-0.5):
            only_b = logits(lab.model)
        assert torch.equal(logits(lab.model), one)
    with b.on(0.5):
        torch.testing.assert_close(only_b, logits(lab.model), rtol=1e-5, atol=1e-5)
        with a.on(0.5):
            torch.testing.assert_close(logits(lab.model), one, rtol=1e-5, atol=1e-5)
    assert float((one - only_b).abs().max()) > 0.01
    assert_as_it_was(lab, before)


def test_a_failure_inside_leaves_the_base_as_it_was() -> None:
    lab = lab_of()
    before = state(lab)
    adapter = adapter_of(lab, **METHODS["saved modules"])
    with pytest.raises(KeyboardInterrupt), adapter.on(), lab.edit(lk.ablate_head(1, 0)):
        raise KeyboardInterrupt
    assert_as_it_was(lab, before)
    opened = adapter.on()
    opened.__enter__()
    assert end_changes()[0] == 1
    assert_as_it_was(lab, before)
    opened.__exit__(None, None, None)
    assert_as_it_was(lab, before)


def test_where_putting_on_fails_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.lora.low_rank import LowRank
    from labkit.trace import adding

    lab = lab_of()
    before = state(lab)
    adapter = adapter_of(lab, **METHODS["saved modules"])

    def fail(*_: object) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(adding._Value, "_changed", fail)
    with pytest.raises(RuntimeError, match="no more memory"), adapter.on():
        pass
    monkeypatch.undo()
    assert_as_it_was(lab, before)
    monkeypatch.setattr(LowRank, "term", fail)
    with pytest.raises(RuntimeError, match="no more memory"), adapter.on():
        pass
    assert_as_it_was(lab, before)


def test_another_thread_waits() -> None:
    lab = lab_of()
    adapter = adapter_of(lab)
    base = logits(lab.model)
    seen: list[torch.Tensor] = []
    started = threading.Event()

    def run() -> None:
        started.set()
        seen.append(lab.trace(IDS, keep="logits").logits)

    thread = threading.Thread(target=run)
    with adapter.on():
        thread.start()
        started.wait(5)
        thread.join(0.3)
        assert thread.is_alive()
        assert not torch.equal(lab.trace(IDS, keep="logits").logits, base)
    thread.join(10)
    assert torch.equal(seen[0], base)


# what sees an adapter ---------------------------------------------------------------------------------------------------


def test_generation_with_a_cache_is_peft_s() -> None:
    lab = lab_of()
    tuned = peft_of(lab, target_modules="all-linear")
    ids = torch.tensor([IDS])
    own = tuned.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    adapter = lk.lora.taken(tuned, lab)
    plain = lab.generate(IDS, max_new_tokens=12, chat=False).ids
    with adapter.on():
        assert lab.generate(IDS, max_new_tokens=12, chat=False).ids == own[0, len(IDS) :].tolist()
        assert "".join(lab.stream(IDS, max_new_tokens=12, chat=False)) == lab.last_generation.text
    assert lab.generate(IDS, max_new_tokens=12, chat=False).ids == plain
    assert plain != own[0, len(IDS) :].tolist()


def test_traces_and_damage_see_what_a_merged_model_has() -> None:
    lab = lab_of()
    adapter = adapter_of(lab, target_modules="all-linear")
    merged = adapter.merge(progress=False)
    anatomy = lab.anatomy
    keep = ("attention", "logits", "residual", "mlp_output", "mlp_neurons", "head_output")
    with adapter.on():
        assert lab.anatomy is anatomy
        mine, theirs = lab.trace(IDS, keep=keep), merged.trace(IDS, keep=keep)
        harm = lk.quantization.damage(lab, merged, {"texts": [IDS, IDS[::-1]]}, progress=False)
    for layer in range(2):
        torch.testing.assert_close(mine.attention(layer, 0), theirs.attention(layer, 0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.mlp_neurons(layer), theirs.mlp_neurons(layer), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.mlp_output(layer), theirs.mlp_output(layer), rtol=1e-4, atol=1e-4)
    assert harm.kl < 1e-7
    assert lk.quantization.damage(lab, merged, {"texts": [IDS, IDS[::-1]]}, progress=False).kl > 1e-3


@pytest.mark.parametrize("edit_first", [True, False])
def test_an_edit_has_the_last_word(edit_first: bool) -> None:
    lab = lab_of()
    adapter = adapter_of(lab, target_modules=["down_proj", "o_proj"])
    edit = lk.patch("mlp_output[1]", 0.0)
    first, second = (lab.edit(edit), adapter.on()) if edit_first else (adapter.on(), lab.edit(edit))
    with first, second:
        trace = lab.trace(IDS, keep=("mlp_output", "logits"))
    assert not trace.mlp_output(1).any()
    with lab.edit(edit):
        assert not torch.equal(lab.trace(IDS, keep="logits").logits, trace.logits)


def test_gradients_pass_through() -> None:
    lab = lab_of()
    adapter = adapter_of(lab, target_modules="all-linear")
    merged = adapter.merge(progress=False)
    with adapter.on():
        mine = lab.trace(IDS, keep="residual", gradients=lambda scores: scores[-1, 3])
    theirs = merged.trace(IDS, keep="residual", gradients=lambda scores: scores[-1, 3])
    torch.testing.assert_close(mine.gradient("residual", 0), theirs.gradient("residual", 0), rtol=1e-3, atol=1e-4)
    assert all(parameter.grad is None for parameter in lab.model.parameters())


def test_what_is_made_of_the_weights_is_refused_while_it_is_on(tmp_path: Any) -> None:
    lab = lab_of()
    adapter = adapter_of(lab)
    with adapter.on():
        for make in (
            lambda: lk.quantization.quantize(lab, "int8", progress=False),
            lambda: lk.moe.upcycle(lab, 2, 1),
            lambda: lk.quantization.write_gguf(lab, tmp_path / "a.gguf"),
            lambda: adapter.merge(progress=False),
        ):
            with pytest.raises(lk.Unavailable, match="adapter on"):
                make()
    lk.moe.upcycle(lab, 2, 1)


# packed bases -----------------------------------------------------------------------------------------------------------


def bitsandbytes_or_skip() -> None:
    pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("kind", ["int4", "nf4", "bitsandbytes nf4", "bitsandbytes int8"])
def test_packed_bases(kind: str) -> None:
    lab = lab_of(hidden_size=64, intermediate_size=64)
    if "bitsandbytes" in kind:
        bitsandbytes_or_skip()
        packed = lk.quantization.quantize(lab, kind.split()[1], backend="bitsandbytes", progress=False)
    else:
        packed = lk.quantization.quantize(lab, kind, progress=False)
    of_float = adapter_of(lab, target_modules="all-linear")
    adapter = of_float.for_lab(packed)
    assert "layers here are quantized" in repr(adapter)
    base = logits(packed.model)
    with adapter.on():
        found = logits(packed.model)
    assert torch.equal(logits(packed.model), base)
    with pytest.raises(lk.Unavailable, match="dtype='float32'"):
        adapter.merge(progress=False)
    if kind == "bitsandbytes int8":  # which rounds activations too
        return
    merged = adapter.merge(dtype="float32", progress=False)
    assert not any(hasattr(module, "packed_weight") for module in merged.model.modules())
    assert any("float copy" in note for note in merged.notes)
    scale = float(found.abs().max())
    assert float((logits(merged.model) - found).abs().max()) < 1e-5 * scale
    assert float((found - base).abs().max()) > 0.1
    assert torch.equal(logits(packed.model), base)


def test_dora_on_a_packed_base_uses_its_own_weights() -> None:
    lab = lab_of()
    packed = lk.quantization.quantize(lab, "int4", progress=False)
    adapter = adapter_of(lab, use_dora=True).for_lab(packed)
    merged = adapter.merge(dtype="float32", progress=False)
    with adapter.on():
        torch.testing.assert_close(logits(packed.model), logits(merged.model), rtol=1e-4, atol=1e-5)


def test_dora_sees_that_the_base_was_changed() -> None:
    lab = lab_of()
    adapter = adapter_of(lab, use_dora=True)
    with adapter.on(0.5):
        first = logits(lab.model)
    with torch.no_grad():
        lab.model.model.layers[0].self_attn.q_proj.weight.mul_(1.5)
        lab.model.model.layers[0].self_attn.v_proj.weight.data[:, 1].mul_(3)  # a write that leaves no mark
    with adapter.on(0.5):
        second = logits(lab.model)
    fresh = dataclasses.replace(adapter, tensors=dict(adapter.tensors))
    with fresh.on(0.5):
        assert torch.equal(logits(lab.model), second)
    assert not torch.equal(first, second)


def test_dora_sees_that_a_packed_base_was_packed_again() -> None:
    lab = lab_of()
    packed = lk.quantization.quantize(lab, "int4", progress=False)
    adapter = adapter_of(lab, use_dora=True).for_lab(packed)
    with adapter.on():
        logits(packed.model)
    module = packed.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.mul_(3)
    with adapter.on():
        second = logits(packed.model)
    fresh = dataclasses.replace(adapter, tensors=dict(adapter.tensors))
    with fresh.on():
        assert torch.equal(logits(packed.model), second)


@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_an_adapter_is_taken_and_checked_by_the_base_s_own_weights(method: str) -> None:
    lab = lab_of(tie_word_embeddings=method == "lora")
    tuned = peft_of(lab, **METHODS[method])
    expected = lk.lora.taken(tuned, lab)
    other = adapter_of(lab, modules_to_save=["norm", "q_proj", "embed_tokens"], target_modules=["v_proj"])
    with other.on():
        found = lk.lora.taken(tuned, lab)
        assert found.for_lab(lab).notes == ()
        assert not torch.equal(lab.model.model.norm.weight, lab_of().model.model.norm.weight)
    assert found.base == expected.base
    assert all(torch.equal(value, expected.tensors[name]) for name, value in found.tensors.items())


# refusals ---------------------------------------------------------------------------------------------------------------


def test_other_models_are_refused() -> None:
    lab = lab_of()
    adapter = adapter_of(lab)
    with pytest.raises(lk.BadInput, match="another embedding"):
        adapter.for_lab(lab_of(seed=5))
    with pytest.raises(lk.BadInput, match="other names or shapes"):
        adapter.for_lab(lab_of(num_hidden_layers=1))
    for bad in (float("nan"), "1", None, True):
        with pytest.raises(lk.BadInput), adapter.on(bad):  # type: ignore[arg-type]
            pass
    lab.close()
    with pytest.raises(lk.LabClosed), adapter.on():
        pass


def test_other_kinds_of_adapters_are_refused() -> None:
    import peft

    lab = lab_of()
    config = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    with pytest.raises(lk.BadInput, match="IA3"):
        lk.lora.taken(peft.get_peft_model(lab_of().model, config), lab)
    with pytest.raises(lk.Unavailable, match="peft's own layers"):
        adapter_of(lab).for_lab(lk.Lab(peft_of(lab), lab.tokenizer, name="wrapped"))


def test_a_base_changed_by_more_than_the_rank_is_refused() -> None:
    lab = lab_of()
    tuned = peft_of(lab, init_lora_weights="pissa")
    with torch.no_grad():
        weight = tuned.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
        weight.add_(torch.randn_like(weight) * 0.01)
    with pytest.raises(lk.BadInput, match="more than its rank"):
        lk.lora.taken(tuned, lab)
