"""labkit.lora.cost: what a tuning takes is what a real one has, tensor by tensor."""

from __future__ import annotations

from typing import Any

import fuzz
import pytest
import torch

import labkit as lk
from labkit.lora import costs
from labkit.lora.finetuning import finetune
from labkit.lora.tuning import Tuning
from labkit.models.memory import named_config

DATA = [{"prompt": f"the cat {w}", "completion": f"{w} ran"} for w in ("sat", "tree", "dog", "mat")]


def parts(cost: Any) -> dict[str, int]:
    return dict(zip(cost.table["part"], cost.table["bytes"], strict=True))


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    ("rank", "targets", "trainable"),
    [
        (8, ("q_proj", "v_proj"), 32 * 2 * 8 * (4096 + 4096)),  # 4,194,304: Hu et al.'s usual setting
        (16, ("q_proj", "v_proj"), 32 * 2 * 16 * (4096 + 4096)),
        (8, "all-linear", 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008))),
    ],
)
def test_llama_2_7b_is_counted_exactly(rank: int, targets: Any, trainable: int) -> None:
    found = lk.lora.cost("llama-2-7b", rank=rank, targets=targets, dtype="bfloat16", tokens=16, batch=1)
    assert found.parameters == 6_738_415_616
    assert found.trainable == trainable
    assert found.share == trainable / (6_738_415_616 + trainable)
    there = parts(found)
    assert there["weights"] == 2 * 6_738_415_616
    assert there["adapter"] == there["gradients"] == 4 * trainable
    matrices = 32 * 2 * (2 if targets != "all-linear" else 7)
    assert there["optimizer"] == 8 * trainable + 4 * matrices


def test_full_tuning_of_llama_2_7b_takes_sixteen_bytes_a_weight() -> None:
    found = lk.lora.cost("llama-2-7b", method="full", tokens=8, batch=1)
    there = parts(found)
    assert found.share == 1
    assert there["weights"] + there["gradients"] + there["optimizer"] == 16 * 6_738_415_616 + 4 * 291
    assert found.extra_bytes == found.total_bytes


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "full"])
@pytest.mark.parametrize("schedule", ["linear", "schedule_free"])
def test_a_real_run_has_what_was_counted(
    method: str, schedule: str, tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuning, "_ended", lambda _self: None)  # which lets go of the optimiser
    options: dict[str, Any] = {"rank": 4, "targets": ("q_proj", "down_proj"), "method": method, "schedule": schedule}
    run = finetune(tiny_lab, DATA, **options, steps=2, batch=2, prompt=False, general=False).wait()
    found = lk.lora.cost(tiny_lab, **options, batch=2, tokens=12)
    there = parts(found)
    tuning = run._tuning
    trained = list(tuning._weights().values())
    assert found.trainable == sum(weight.numel() for weight in trained)
    assert there["gradients"] == size(trained)
    assert there.get("adapter", 0) == (0 if method == "full" else size(trained))
    optimizer = tuning._trainer.optimizer.optimizer
    state = [value for each in optimizer.state.values() for value in each.values() if isinstance(value, torch.Tensor)]
    assert there["optimizer"] == size(state)
    shared = {weight.data_ptr() for weight in tiny_lab.model.parameters()}
    own = [w for name, w in tuning.model.named_parameters() if w.data_ptr() not in shared and "lora" not in name]
    assert there.get("residual", 0) == (0 if method != "pissa" else size(own))
    assert there["weights"] == size(tiny_lab.model.parameters())


def test_qlora_counts_what_bitsandbytes_keeps(tiny_lab: lk.Lab) -> None:
    pytest.importorskip("bitsandbytes")
    from labkit.models.memory import model_memory

    small = lk.quantization.quantize(tiny_lab, "nf4", backend="bitsandbytes", progress=False)
    found = lk.lora.cost(tiny_lab, method="qlora", rank=4)
    buffers = model_memory(tiny_lab.model).weight_bytes - size(tiny_lab.model.parameters())
    assert parts(found)["weights"] == model_memory(small.model).weight_bytes - buffers


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_quantized_lab_has_the_weights_it_has(tiny_lab: lk.Lab, method: str) -> None:
    from labkit.models.memory import model_memory

    small = lk.quantization.quantize(tiny_lab, "int8", progress=False)
    found, plain = (lk.lora.cost(lab, method=method, rank=4) for lab in (small, tiny_lab))
    assert parts(found)["weights"] == model_memory(small.model).weight_bytes
    assert found.extra_bytes == found.total_bytes - parts(found)["weights"]
    assert found.trainable == plain.trainable


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_activations_are_those_that_autograd_keeps(method: str, attention: str) -> None:
    def model(real: bool) -> Any:
        if real:
            made: Any = fuzz.tiny_model()
            made.set_attn_implementation(attention)
        else:
            made = costs._skeleton(named_config(fuzz.tiny_model())[1], torch.float32)
            made.set_attn_implementation(attention)
        return made if method == "full" else costs._adapted(made, method, 4, ["q_proj", "v_proj"], 0.1)

    counted = costs.fake_saved_bytes(model(False), 3, 10)
    assert counted == costs.saved_bytes(model(True), 3, 10)
    if attention == "sdpa":
        found = lk.lora.cost(fuzz.tiny_model().config, method=method, rank=4, batch=3, tokens=10)
        assert parts(found)["activations"] == counted[1]


def test_activations_grow_with_the_batch() -> None:
    few, many = (lk.lora.cost("smollm2-135m", batch=batch, tokens=32) for batch in (1, 4))
    assert parts(many)["activations"] > 3.5 * parts(few)["activations"]
    assert "activations" in repr(few)
    assert "921,600 of 134,515,008 weights trained (0.680%)" in repr(few)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 0}, "rank=0"),
        ({"targets": ("q_prj",)}, "did you mean 'q_proj'"),
        ({"rank": 5000}, "width of q_proj"),
        ({"method": "lor"}, "did you mean 'lora'"),
        ({"dtype": "int8"}, "dtype="),
    ],
)
def test_what_cannot_be_counted_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(lk.BadInput, match=sentence):
        lk.lora.cost("smollm2-135m", **options)


def test_too_little_memory_is_said_before_with_what_would_fit(
    tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = lk.lora.cost(tiny_lab, rank=4, targets="all-linear", batch=1, tokens=30).extra_bytes
    monkeypatch.setattr(costs, "free_bytes", lambda _device: need + 50_000)
    options: dict[str, Any] = {"rank": 4, "steps": 1, "prompt": False, "general": False}
    with pytest.raises(lk.NotEnoughMemory, match=r"batch=\d+ would fit"):
        finetune(tiny_lab, DATA, **options, batch=64)
    with pytest.raises(lk.NotEnoughMemory, match=r"method='lora', rank=4 would fit"):
        finetune(tiny_lab, DATA, **options, batch=1, method="full")
    monkeypatch.setattr(costs, "free_bytes", lambda _device: 1_000)
    with pytest.raises(lk.NotEnoughMemory, match="smaller model"):
        finetune(tiny_lab, DATA, **options)
