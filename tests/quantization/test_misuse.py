"""What is easily done wrong is refused with its remedy, or comes out right."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import fuzz
import pytest
import torch

import labkit as lk
from labkit.quantization import (
    accuracy,
    accuracy_change,
    by_format,
    cache_damage,
    contents,
    damage,
    formats,
    matrices,
    mix,
    on_grid,
    quantize,
    sensitivity,
    sizes,
    speed,
    write_gguf,
)
from labkit.quantization import mixing as mixing_module

TEXTS = [f"the cat number {n} sat on the mat because it was tired of the dog and the tree" for n in range(30)]
OTHERS = ["a dog ran after it, where the tree was up", "because the other dog and its mat were there, nobody sat"]
PROJECTION = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def small(lab: lk.Lab) -> lk.Lab:
    return quantize(lab, "int8", progress=False)


# written into a packed weight -----------------------------------------------------------------------------------------


def test_an_adapter_merged_into_a_packed_model_is_refused_and_works_beside_it(lab: lk.Lab) -> None:
    peft = pytest.importorskip("peft")
    made = quantize(lab, "int8", progress=False)
    torch.manual_seed(0)
    with_adapter = peft.get_peft_model(made.model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        beside = with_adapter(ids).logits
        with with_adapter.disable_adapter():
            assert not torch.allclose(with_adapter(ids).logits, beside)
    for safe in (False, True):
        with pytest.raises(lk.Unavailable, match="packed in few bits"):
            with_adapter.merge_and_unload(safe_merge=safe)


def test_every_way_to_write_into_a_packed_weight_is_refused_and_reading_is_plain(small: lk.Lab) -> None:
    module = small.model.get_submodule(PROJECTION)
    before = module.weight.clone()
    assert type(before) is torch.Tensor
    assert type(module.weight @ before.T) is torch.Tensor
    assert type(module.weight.float().sum()) is torch.Tensor

    def iadd() -> None:
        weight = module.weight
        weight += 1

    ways = [
        lambda: module.weight.add_(1),
        lambda: module.weight.data.add_(1),
        lambda: module.weight.detach().T.mul_(2),
        lambda: module.weight.view(-1).__setitem__(0, 3.0),
        lambda: module.weight.copy_(before),
        lambda: setattr(module.weight, "data", before),
        lambda: torch.nn.init.zeros_(module.weight),
        lambda: torch.add(before, 1, out=module.weight),
        iadd,
    ]
    for number, way in enumerate(ways):
        with pytest.raises(lk.Unavailable, match="packed in few bits"), torch.no_grad():
            way()
        assert torch.equal(module.weight, before), number
    with pytest.raises((AttributeError, KeyError)):
        module.weight = torch.nn.Parameter(before)
    before += module.weight  # a plain tensor may be changed
    copied = copy.deepcopy(module.weight)
    assert torch.equal(copied, module.weight)


# values that are lost -------------------------------------------------------------------------------------------------


def test_groups_too_small_for_their_scale_are_told() -> None:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    with torch.no_grad():
        lab.model.get_submodule(PROJECTION).weight[:3] = 1e-7
        lab.model.get_submodule(PROJECTION).weight[4] = 0.0  # nothing to lose
    made = quantize(lab, "int4", group_size=16, progress=False)
    told = contents(made).table.set_index("module").loc[f"{PROJECTION}.weight", "why"]
    assert told.startswith("6 of 64 groups became 0")
    assert any("6 of 64 groups became 0" in note for note in made.notes)
    kept = formats.of("int4", group_size=16, scale_dtype=torch.float32)
    exact = quantize(lab, kept, progress=False)
    assert not any("became 0" in note for note in exact.notes)
    assert (matrices(exact)[PROJECTION].weight[:3] != 0).all()


# what hangs on a model ------------------------------------------------------------------------------------------------


def test_hooks_of_ones_own_stay_with_the_original_and_a_lock_is_no_hindrance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    seen: list[int] = []
    lock = threading.Lock()
    layer = lab.model.get_submodule("model.layers.0")

    def hook(*_: object) -> None:
        with lock:  # of which no copy can be made
            seen.append(1)

    layer.register_forward_hook(hook)
    layer.lock = lock  # type: ignore[assignment]
    made = quantize(lab, "int8", progress=False)
    assert "1 hook of your own stays with the original" in capsys.readouterr().err
    seen.clear()  # the original was looked at
    made.trace("the cat")
    assert not seen
    lab.trace("the cat")
    assert seen
    assert damage(lab, made, TEXTS[:5], progress=False).kl > 0


# precision ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", ["gptq", "awq", "hqq"])
def test_a_default_dtype_of_float64_changes_nothing(lab: lk.Lab, method: str) -> None:
    text = None if method == "hqq" else TEXTS
    odd = quantize(lab, "int4", method=method, calibration=text, progress=False)
    torch.set_default_dtype(torch.float32)
    plain = quantize(lab, "int4", method=method, calibration=text, progress=False)
    for name, each in matrices(plain).items():
        assert torch.equal(matrices(odd)[name].weight, each.weight), name


# arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, 3])
def test_what_is_no_lab_is_refused(wrong: Any, lab: lk.Lab, tmp_path: Any) -> None:
    for call in (
        lambda: quantize(wrong),
        lambda: damage(wrong, lab),
        lambda: damage(lab, wrong),
        lambda: sensitivity(wrong),
        lambda: mix(wrong, budget_bytes=1),
        lambda: by_format(wrong),
        lambda: by_format(lab, TEXTS, [wrong]),
        lambda: cache_damage(wrong),
        lambda: accuracy(wrong),
        lambda: accuracy_change(lab, wrong),
        lambda: contents(wrong),
        lambda: matrices(wrong),
        lambda: on_grid(wrong),
        lambda: speed([wrong]),
        lambda: write_gguf(wrong, tmp_path / "x.gguf"),
        lambda: lk.quantization.matrix(wrong, "x"),
        lambda: lk.quantization.activations(wrong, "x", TEXTS),
    ):
        with pytest.raises(lk.BadInput, match=r"Lab"):
            call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda lab: quantize(lab, None), "format=None can't be used"),
        (lambda lab: quantize(lab, 3), "format=3 can't be used"),
        (lambda lab: quantize(lab, modules=3), "modules=3 can't be used"),
        (lambda lab: quantize(lab, head="foo"), "head='foo'"),
        (lambda lab: quantize(lab, symmetric=1), "symmetric=1"),
        (lambda lab: quantize(lab, progress="yes"), "progress='yes'"),
        (lambda lab: quantize(lab, seed=2**70), "to 9,223,372,036,854,775,807"),
        (lambda lab: sensitivity(lab, TEXTS, bits=7), r"bits=7 .* from 2 to 6, or 8"),
        (lambda lab: sensitivity(lab, TEXTS, format=None), "format=None"),
        (lambda lab: sensitivity(lab, TEXTS, progress="yes"), "progress='yes'"),
        (lambda lab: mix(lab, budget_bytes="8GB"), "budget_bytes='8GB'"),
        (lambda lab: mix(lab, budget_bytes=10**9, formats=3), "formats=3"),
        (lambda lab: mix(lab, budget_bytes=10**9, formats=("int4", "foo")), "formats='foo'"),
        (lambda lab: by_format(lab, TEXTS, formats=3), "formats=3"),
        (lambda lab: by_format(lab, TEXTS, method=3), "method=3"),
        (lambda lab: damage(lab, lab, {}), "^Texts are given by kind"),
        (lambda lab: damage(lab, lab, TEXTS, progress=1), "progress=1"),
        (lambda lab: cache_damage(lab, TEXTS, bits=(4, 4)), r"bits=\(4, 4\)"),
        (lambda lab: sizes("llama-2-7b", head="foo"), "head='foo'"),
        (lambda lab: speed(3), "models=3"),
        (lambda lab: write_gguf(lab, None), "path=None"),
        (lambda lab: lk.quantization.activations(lab, "x", TEXTS), "lists them"),
    ],
)
def test_wrong_arguments_are_told_by_their_own_names(lab: lk.Lab, call: Any, said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        call(lab)


def test_one_format_by_itself_is_a_list_of_one(lab: lk.Lab) -> None:
    assert by_format(lab, TEXTS[:3], "int4", progress=False)["format"].tolist() == ["int4"]


def test_a_budget_that_nothing_fits_is_refused_before_anything_is_measured(
    lab: lk.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = mix(lab, budget_bytes=10**9, texts=TEXTS[:2], measured_on=OTHERS, progress=False)
    assert (
        mixing_module.smallest_mix(lab, [formats.of(name) for name in mixing_module.FORMATS], False)
        == there.smallest_bytes
    )
    monkeypatch.setattr(mixing_module, "alone", lambda *_a, **_k: pytest.fail("it was measured"))
    for wrong in (there.smallest_bytes - 1, "8GB"):
        with pytest.raises(lk.BadInput, match="budget_bytes"):
            mix(lab, budget_bytes=wrong, texts=TEXTS[:2], measured_on=OTHERS, progress=False)  # type: ignore[arg-type]
