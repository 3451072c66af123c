"""Quantization by other libraries: what they compute, what they really quantized, and what is said where they did nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_gguf_export import lab_of, logits

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.quantization import backends, contents, quantize
from labkit.quantization.torch_products import Int4Product, Int8Product

TORCHAO = Path(__file__).resolve().parents[2] / ".venv" / "torchao"


def with_weights(lab: lk.Lab, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of a lab whose matrices are exchanged for a while."""
    modules = dict(lab.model.named_modules())
    before = {name: modules[name].weight.data for name in weights}
    for name, weight in weights.items():
        modules[name].weight.data = weight
    found = logits(lab)
    for name, weight in before.items():
        modules[name].weight.data = weight
    return found


def linear_maps(lab: lk.Lab) -> dict[str, Any]:
    return {name: m for name, m in lab.model.named_modules() if name.endswith("_proj")}


def unchanged(lab: lk.Lab, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in lab.model.state_dict().items())


# torch's own products --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [32, 64])
def test_torch_int4_has_values_within_half_a_step(group_size: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 128)
    product = Int4Product(weight, None, group_size)
    groups = weight.view(48, -1, group_size)
    step = (groups.amax(2) - groups.amin(2)) / 15
    # half a step, and what bfloat16 loses of the zero point and of the value
    lost = step / 2 + 2**-7 * groups.abs().amax(2)
    assert ((product.weight.float().view_as(groups) - groups).abs() <= lost[..., None]).all()
    assert product.weight.float().view_as(groups)[0, 0].unique().numel() <= 16
    assert (
        sum(t.numel() * t.element_size() for t in product.packed_tensors) == 48 * 128 // 2 + 48 * 128 // group_size * 4
    )
    x = torch.randn(3, 5, 128).bfloat16()
    wanted = x.float() @ product.weight.float().T
    assert torch.allclose(product(x).float(), wanted, rtol=0.02, atol=0.1)


def test_torch_int8_has_a_scale_for_each_output() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 64) * torch.logspace(-2, 2, 20)[:, None]
    product = Int8Product(weight, torch.arange(20.0))
    scale = product.scale.float()[:, None]
    assert torch.equal(product.weight, (product.packed_weight.float() * scale).bfloat16())
    # half a step; the scale, rounded to bfloat16, may cut the largest by 2^-9 of it
    assert ((product.packed_weight.float() * scale - weight).abs() <= scale / 2 + weight.abs() * 2**-8).all()
    zero = Int8Product(torch.zeros(16, 32), None)
    assert torch.equal(zero(torch.ones(1, 32).bfloat16()), torch.zeros(1, 16).bfloat16())
    x = torch.zeros(1, 64).bfloat16()
    assert torch.equal(product(x)[0].float(), torch.arange(20.0)), "the bias is added"


@pytest.mark.parametrize(("format", "settings"), [("int4", {"group_size": 32}), ("int8", {})])
def test_a_lab_of_torch_products(format: str, settings: dict[str, int]) -> None:
    lab = lab_of("llama")
    before = {name: value.clone() for name, value in lab.model.state_dict().items()}
    small = quantize(lab, format, backend="torch", progress=False, **settings)
    found = contents(small)
    assert set(found.table.loc[found.table["quantized"].astype(bool), "matrix"]) >= {"q_proj", "down_proj"}
    assert found.warnings == ()
    assert small.dtype == torch.bfloat16
    assert any("bfloat16" in note for note in small.notes)
    plain = lk.Lab(lab_of("llama").model.to(torch.bfloat16), lab.tokenizer)
    wanted = with_weights(plain, {name: m.weight for name, m in linear_maps(small).items()}).float()
    assert torch.allclose(logits(small).float(), wanted, atol=0.05 * wanted.abs().max())
    in_layers = found.table[found.table["module"].str.contains("_proj")]
    assert in_layers["bits_per_weight"].max() < (9 if format == "int8" else 5.1)
    assert small.generate("the cat", max_new_tokens=3, chat=False).ids
    assert unchanged(lab, before)


def test_torch_says_which_shapes_it_leaves() -> None:
    lab = lab_of("llama", intermediate_size=80)
    small = quantize(lab, "int4", group_size=32, backend="torch", progress=False)
    table = contents(small).table.set_index("module")
    assert "80" in table.loc["model.layers.0.mlp.down_proj.weight", "why"]
    assert not table.loc["model.layers.0.mlp.down_proj.weight", "quantized"]
    assert table.loc["model.layers.0.mlp.up_proj.weight", "quantized"]
    assert Int8Product.why_not(torch.zeros(16, 40)) is not None, "rows of 40 would be read beyond their end"


def test_a_cpu_without_fast_products_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    small = quantize(lab_of("llama"), "int8", backend="torch", progress=False)
    assert any("slower than the unquantized model" in note for note in small.notes)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert "ATEN_CPU_CAPABILITY" in str(backends.slow_here())


# bitsandbytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["nf4", "nf4_single"])
def test_bitsandbytes_nf4_has_the_values_of_our_own(format: str) -> None:
    pytest.importorskip("bitsandbytes", reason="needs: pip install bitsandbytes")
    lab = lab_of(
        "qwen2", intermediate_size=128
    )  # whole blocks of 64 in each row: bitsandbytes cuts without regard to rows
    before = {name: value.clone() for name, value in lab.model.state_dict().items()}
    theirs, ours = (quantize(lab, format, backend=b, progress=False) for b in ("bitsandbytes", "labkit"))
    assert torch.allclose(logits(theirs), logits(ours), atol=5e-3)  # the mean of the scales, summed in another order
    found = contents(theirs)
    in_layers = found.table[found.table["module"].str.contains("_proj.weight")]
    assert in_layers["quantized"].all()
    assert in_layers["type"].str.startswith("nf4").all()
    assert in_layers["weights"].sum() == sum(m.weight.numel() for m in linear_maps(lab).values())
    assert (in_layers["bytes"] >= in_layers["weights"] / 2).all()
    assert in_layers["bits_per_weight"].max() < 10  # tiny matrices carry their tables of values with them
    assert "q_proj.bias" in " ".join(found.table["module"])
    assert unchanged(lab, before)


def test_bitsandbytes_int8_says_its_lines_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("bitsandbytes", reason="needs: pip install bitsandbytes")
    lab = lab_of("llama")
    small = quantize(lab, "int8", backend="bitsandbytes", progress=False)
    with caplog.at_level("DEBUG"):
        found = logits(small)
    assert not [record for record in caplog.records if "MatMul8bitLt" in record.getMessage()]
    apart = (found - logits(lab)).abs().max() / logits(lab).abs().max()
    assert 0 < apart < 0.1
    assert contents(small).table.set_index("module").loc["model.layers.0.self_attn.q_proj.weight", "type"] == "int8"


def test_fused_experts_that_stay_as_they_are_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes", reason="needs: pip install bitsandbytes")
    lab = lab_of("qwen3_moe")
    small = quantize(lab, "nf4", backend="bitsandbytes", progress=False)
    said = capsys.readouterr().err
    assert "not quantized" in said
    assert "gate_up_proj" in said
    assert any("not quantized" in note for note in small.notes)
    found = contents(small)
    share = found.table.groupby("quantized")["weights"].sum()
    assert found.share_quantized == pytest.approx(share[True] / share.sum())
    why = found.table.set_index("module").loc["model.layers.0.mlp.experts.down_proj", "why"]
    assert "nn.Linear" in why
    # a model all of whose layers were quantized says nothing
    quantize(lab_of("llama"), "nf4", backend="bitsandbytes", progress=False)
    assert "not quantized" not in capsys.readouterr().err


def test_a_quantization_on_loading_that_did_little_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    for family, loud in (("qwen3_moe", True), ("llama", False)):
        made = lab_of(family)
        made.model.save_pretrained(tmp_path / family)
        made.tokenizer.save_pretrained(tmp_path / family)
        lab = lk.load(tmp_path / family, quantization=how, fresh=True)
        assert any("did nothing to" in note for note in lab.notes) is loud
        assert ("experts.gate_up_proj" in capsys.readouterr().err) is loud
        assert any("not quantized" in warning for warning in contents(lab).warnings) is loud


# torchao ---------------------------------------------------------------------------------------------------------------


def test_torchao_int8_has_values_within_half_a_step() -> None:
    if not TORCHAO.is_dir():
        pytest.skip("torchao stands beside the environment, since it writes lines at every import: make test brings it")
    code = """
import torch
from test_gguf_export import lab_of, logits
from labkit.quantization import contents, quantize
lab = lab_of("qwen2")
theirs = quantize(lab, "int8", backend="torchao", progress=False)
weight = lab.model.model.layers[0].self_attn.q_proj.weight
packed = theirs.model.model.layers[0].self_attn.q_proj.weight
step = (weight.amax(1) - weight.amin(1)).maximum(2 * weight.abs().amax(1)) / 255
assert ((packed.dequantize() - weight).abs() <= 0.51 * step[:, None]).all()
apart = (logits(theirs) - logits(lab)).abs().max() / logits(lab).abs().max()
assert 0 < apart < 0.1, apart
found = contents(theirs).table.set_index("module").loc["model.layers.0.self_attn.q_proj.weight"]
assert found["quantized"] and found["weights"] == 64 * 64 and found["bytes"] < 1.2 * 64 * 64, found
print("equal")
"""
    root = Path(__file__).resolve().parents[2]
    path = [str(TORCHAO), str(Path(__file__).parent), str(root / "tests" / "support"), str(root)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]


# what can't be ---------------------------------------------------------------------------------------------------------


def test_a_missing_package_is_one_sentence_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    for backend, format in (("bitsandbytes", "nf4"), ("torchao", "int8")):
        with pytest.raises(Unavailable, match=f"pip install {backend}"):
            quantize(lab_of("llama"), format, backend=backend, progress=False)
    with pytest.raises(Unavailable, match="device='cpu'"):
        backends.check_there(backends.asked("torch", "int8", None), torch.device("cuda"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"format": "nf4", "backend": "torch"}, "backend='bitsandbytes'"),
        ({"format": "int2", "backend": "torch"}, "backend='labkit'"),
        ({"format": "int4", "backend": "torch", "group_size": 48}, "32, 64, 128 or 256"),
        ({"format": "int8", "backend": "torch", "group_size": 64}, "group_size"),
        ({"format": "int8", "backend": "torch", "head": "int8"}, "head"),
        ({"format": "int8", "backend": "torch", "symmetric": True}, "symmetric"),
        ({"format": "int4", "backend": "torch", "group_size": 256}, "rows of"),
        ({"format": "int8", "backend": "torhc"}, "torch"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], reason: str) -> None:
    format = settings.pop("format")
    with pytest.raises(BadInput, match=reason):
        quantize(lab_of("llama"), format, progress=False, **settings)


def test_what_is_quantized_already_is_refused() -> None:
    small = quantize(lab_of("llama"), "int8", backend="torch", progress=False)
    with pytest.raises(Unavailable, match="quantized already"):
        quantize(small, "int4", progress=False)


def test_counting_bytes_changes_nothing_of_a_bitsandbytes_model(tmp_path: Path) -> None:
    # on CPUs with bfloat16 products its own state_dict() turns packed weights back, and wrongly
    pytest.importorskip("bitsandbytes", reason="needs: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    made = lab_of("llama")
    made.model.to(torch.bfloat16).save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    for double in (False, True):
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        lab = lk.load(tmp_path, quantization=how, dtype="bfloat16", fresh=True)
        before = logits(lab)
        assert contents(lab).size_bytes == lab.memory().weight_bytes
        assert torch.equal(logits(lab), before)


def test_damaged_weights_are_refused_and_what_was_made_is_not_saved_as_it_is(tiny_lab: lk.Lab, tmp_path: Path) -> None:
    """Other libraries take NaN without a word, and a folder of their codes would be read as weights."""
    small = quantize(tiny_lab, "int8", backend="torch", progress=False)
    with pytest.raises(lk.Unavailable, match="can't be saved with save_pretrained"):
        small.model.save_pretrained(tmp_path / "folder")
    name = "model.layers.0.self_attn.q_proj"
    with torch.no_grad():
        tiny_lab.model.get_submodule(name).weight[0, 0] = float("nan")
    with pytest.raises(lk.BadInput, match=f"{name} holds NaN"):
        quantize(tiny_lab, "int8", backend="torch", progress=False)
