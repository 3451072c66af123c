"""Quantized labs: they run and are traced as any, take fewer bytes, and leave the original alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import families
import pytest
import torch

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.quantization import formats
from labkit.quantization.layers import PackedLinear
from labkit.trace import building

KEEP = ("attention", "residual", "head_output", "mlp_neurons", "logits")
IDS = [5, 17, 3, 42, 8]
ALL = {**families.FAMILIES, **families.UNUSUAL}


def lab_of(name: str) -> lk.Lab:
    return lk.Lab(families.build(ALL[name]), families.Tokens(), name=name)  # type: ignore[arg-type]


def stored_bytes(model: torch.nn.Module) -> int:
    """Of all parameters and buffers that are kept, each storage once."""
    tensors = {t.data_ptr(): t for t in model.state_dict().values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.mark.parametrize("family", sorted(set(ALL) - {"bert"}))
def test_every_family_is_quantized_and_can_do_what_it_could(family: str) -> None:
    lab = lab_of(family)
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    small = lk.quantization.quantize(lab, "int8", head="int8", progress=False)
    assert type(small) is lk.Lab
    assert all(torch.equal(tensor, before[name]) for name, tensor in lab.model.state_dict().items())
    ours = {t.untyped_storage().data_ptr() for t in [*lab.model.parameters(), *lab.model.buffers()]}
    theirs = {t.untyped_storage().data_ptr() for t in [*small.model.parameters(), *small.model.buffers()]}
    assert not ours & theirs
    had = {name for name, reason in lab.support().items() if reason is None}
    assert {name for name, reason in small.support().items() if reason is None} == had
    keep = tuple(name for name in KEEP if name in had)
    original, trace = lab.trace(IDS, keep=keep), small.trace(IDS, keep=keep)
    off = float((trace.logits - original.logits).norm() / original.logits.norm())
    assert 0 < off < 0.25
    assert small.generate([1, 2, 3], max_new_tokens=3).ids
    contents = lk.quantization.contents(small)
    assert contents.size_bytes == small.memory().weight_bytes == stored_bytes(small.model)
    assert small.memory().weight_bytes < (0.75 if family == "dbrx" else 0.5) * lab.memory().weight_bytes
    assert small.memory().parameters == lab.memory().parameters


@pytest.mark.parametrize("family", ["llama3", "gpt2", "mixtral", "gpt_oss"])
def test_the_quantized_model_computes_with_the_values_of_the_grid(family: str) -> None:
    lab = lab_of(family)
    small = lk.quantization.quantize(lab, "int4", progress=False)
    by_hand = copy.deepcopy(lab.model)
    there = lk.quantization.matrices(lk.Lab(by_hand, lab.tokenizer))
    for matrix in there.values():
        if matrix.part == "layer":
            size = next(size for size in (64, 32, 48, 24) if matrix.shape[-1] % size == 0)
            packed = formats.of("int4", group_size=size).pack(matrix.weight)
            with torch.no_grad():
                matrix.weight.copy_(packed.unpack())
    expected = lk.Lab(by_hand, lab.tokenizer).trace(IDS, keep="logits").logits
    torch.testing.assert_close(small.trace(IDS, keep="logits").logits, expected, rtol=1e-5, atol=1e-5)
    packed_matrices = lk.quantization.matrices(small)
    assert {name: each.shape for name, each in packed_matrices.items()} == {n: e.shape for n, e in there.items()}
    assert all(torch.equal(packed_matrices[name].weight, there[name].weight) for name in there)


def test_packed_weights_are_read_moved_converted_copied_and_pickled() -> None:
    small = lk.quantization.quantize(lab_of("mixtral"), "int4", progress=False)
    module = small.model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(module, PackedLinear)
    assert isinstance(module, torch.nn.Linear)
    assert module.weight.shape == (32, 32)
    assert module.packed["weight"].format.name == "int4"
    logits = small.trace(IDS, keep="logits").logits
    for again in (copy.deepcopy(small.model), pickle.loads(pickle.dumps(small.model))):
        assert torch.equal(lk.Lab(again, small.tokenizer).trace(IDS, keep="logits").logits, logits)
    values = module.weight
    half = copy.deepcopy(small.model).to(torch.bfloat16)
    converted = half.get_submodule("model.layers.0.self_attn.q_proj")
    assert converted.weight.dtype is torch.bfloat16
    assert torch.equal(converted.weight, values.to(torch.bfloat16))  # scales keep the precision they are stored in
    assert torch.equal(half.float().get_submodule("model.layers.0.self_attn.q_proj").weight, values)
    with pytest.raises(Unavailable, match="can't be saved"):
        small.model.save_pretrained("anywhere")


def test_derivatives_and_edits_work_on_a_quantized_model() -> None:
    small = lk.quantization.quantize(lab_of("llama3"), "int4", progress=False)
    trace = small.trace(IDS, keep=("residual",), gradients=lambda logits: logits[-1, 3])
    assert float(trace.gradient("residual", 0).norm()) > 0
    plain = small.trace(IDS, keep="logits").logits
    with small.edit(lk.ablate_head(0, 1)):
        assert not torch.equal(small.trace(IDS, keep="logits").logits, plain)
    assert torch.equal(small.trace(IDS, keep="logits").logits, plain)


def test_edits_that_are_on_stay_with_the_original() -> None:
    lab = lab_of("llama3")
    plain = lk.quantization.quantize(lab, "int8", progress=False).trace(IDS, keep="logits").logits
    with lab.edit(lk.ablate_head(0, 1)):
        inside = lk.quantization.quantize(lab, "int8", progress=False)
    assert torch.equal(inside.trace(IDS, keep="logits").logits, plain)


def test_tied_heads_stay_tied_and_count_once() -> None:
    lab = lab_of("gpt2")
    left = lk.quantization.quantize(lab, "int8", progress=False)
    assert left.model.lm_head.weight is left.model.transformer.wte.weight
    both = lk.quantization.quantize(lab, "int8", head="int4", progress=False)
    assert both.model.lm_head.packed_weight("weight") is both.model.transformer.wte.packed_weight("weight")
    table = lk.quantization.contents(both).table.set_index("module")
    assert table.loc["lm_head.weight", "bytes"] == 0
    assert "tied to transformer.wte" in table.loc["lm_head.weight", "why"]
    assert table.loc["transformer.wte.weight", "type"] == "int4, groups of 32"
    there = lk.quantization.matrices(both)
    assert there["lm_head"].tied
    assert there["transformer.wte"].tied
    assert there["lm_head"].part == "head"


def test_rows_that_groups_dont_divide_fall_back_and_it_is_said() -> None:
    lab = lab_of("llama3")  # rows of 32, and of 48 in down_proj
    reduced = lk.quantization.quantize(lab, "int4", progress=False)
    types = lk.quantization.contents(reduced).table.groupby("matrix")["type"].first()
    assert types["q_proj"] == "int4, groups of 32"
    assert types["down_proj"] == "int4, groups of 48"
    kept = lk.quantization.quantize(lab, "int4", group_size=32, progress=False)
    contents = lk.quantization.contents(kept)
    rows = contents.table[contents.table["matrix"] == "down_proj"]
    assert set(rows["type"]) == {"float32"}
    assert all("rows of 48" in why for why in rows["why"])
    assert any("down_proj (2 matrices)" in note and "not quantized" in note for note in kept.notes)
    assert "WARNING" in repr(contents)
    assert "down_proj" in contents.warnings[0]
    assert kept.memory().weight_bytes > reduced.memory().weight_bytes


def test_a_table_of_formats_and_patterns() -> None:
    lab = lab_of("llama3")
    table = {"*.mlp.*": "int3", "model.layers.1.*": "int8", "o_proj": None}
    mixed = lk.quantization.quantize(lab, table, progress=False)
    types = lk.quantization.contents(mixed).table.set_index("module")["type"]
    assert types["model.layers.0.mlp.up_proj.weight"] == "int3, groups of 32"
    assert types["model.layers.1.mlp.up_proj.weight"] == "int8, by channel"
    assert (
        types["model.layers.1.self_attn.o_proj.weight"] == types["model.layers.0.self_attn.q_proj.weight"] == "float32"
    )
    some = lk.quantization.quantize(lab, "int4", modules=["q_proj", "model.layers.0.mlp.*"], progress=False)
    quantized = lk.quantization.contents(some).table.query("quantized")["module"]
    assert len(quantized) == 2 + 3


def test_experts_are_really_quantized() -> None:
    lab = lk.load("labkit-moe")
    small = lk.quantization.quantize(lab, "int4", progress=False)
    contents = lk.quantization.contents(small)
    experts = contents.table[contents.table["matrix"].str.startswith("experts.")]
    assert len(experts)
    assert experts["quantized"].all()
    assert experts["bits_per_weight"].max() < 5
    assert contents.share_quantized > 0.75
    assert not contents.warnings
    assert contents.size_bytes == small.memory().weight_bytes == stored_bytes(small.model)
    trace = small.trace("The quick brown fox", keep=("routes", "logits"))
    assert trace.routes.experts.shape[1] == len(trace.routes.layers)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"format": "int44"}, "did you mean 'int4'"),
    ({"format": "int4", "method": "gtpq"}, "method='gtpq' can't be used"),
    ({"format": "int4", "calibration": ["a"]}, "uses no text"),
    ({"format": "int4", "group_size": 7}, "rows of 32 can't be cut into int4's groups of 7"),
    ({"format": "int4", "group_size": 1}, "group_size=1"),
    ({"format": "int4", "modules": ["q_prj"]}, "did you mean 'q_proj'"),
    ({"format": {"q_prj": "int4"}}, "did you mean 'q_proj'"),
    ({"format": {"q_proj": "int4"}, "modules": ["q_proj"]}, "none beside a table"),
    ({"format": {}}, "Nothing of llama3 would be quantized"),
    ({"format": "int4", "modules": []}, "at least one matrix"),
    ({"format": "int4", "backend": "nothing"}, "backend='nothing'"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_settings_that_cant_be_used_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        lk.quantization.quantize(lab_of("llama3"), progress=False, **arguments)


def test_models_that_cant_be_quantized_are_refused() -> None:
    lab = lab_of("llama3")
    small = lk.quantization.quantize(lab, "int8", progress=False)
    with pytest.raises(Unavailable, match="is quantized already"):
        lk.quantization.quantize(small, "int4")
    assert building.is_quantized(small.model)
    assert not building.is_quantized(lab.model)
    away = families.build(ALL["llama3"])
    meta = lk.Lab(away, lab.tokenizer, name="away")
    _ = meta.anatomy  # known before a part was taken away
    away.model.layers[1].mlp.up_proj.to("meta")
    with pytest.raises(Unavailable, match=r"spread over several devices|meta device"):
        lk.quantization.quantize(meta, "int8")
    with torch.no_grad():
        lab.model.model.layers[1].mlp.up_proj.weight[3, 4] = float("inf")
    with pytest.raises(BadInput, match=r"layers\.1\.mlp\.up_proj holds NaN or infinite"):
        lk.quantization.quantize(lab, "int8", progress=False)
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(families.build(ALL["llama3"]), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(Unavailable, match="merge it"):
        lk.quantization.quantize(lk.Lab(model, lab.tokenizer), "int8")


def test_the_card_tells_what_is_stored() -> None:
    small = lk.quantization.quantize(lab_of("llama3"), "int4", progress=False)
    card = repr(small)
    assert "stored as" in card
    assert "uint8" in card
    assert "quantized to int4, groups of 32, by rounding to nearest" in card


@pytest.mark.parametrize("name", formats.NAMES)
def test_every_format_is_counted_as_it_is_stored(name: str) -> None:
    config = families.Family("llama", families.SMALL | {"hidden_size": 256, "intermediate_size": 256})
    lab = lk.Lab(families.build(config), families.Tokens(), name="wide")  # type: ignore[arg-type]
    small = lk.quantization.quantize(lab, name, progress=False)
    memory, contents = small.memory(), lk.quantization.contents(small)
    assert contents.size_bytes == memory.weight_bytes == stored_bytes(small.model)
    assert memory.parameters == lab.memory().parameters
    rows = contents.table[contents.table["layer"].notna() & (contents.table["matrix"] != "")]
    assert rows["quantized"].all()
    assert rows["bits_per_weight"].max() < 8.6
    assert rows["type"].str.startswith(f"{name}, ").all()
    original, trace = lab.trace(IDS, keep="logits").logits, small.trace(IDS, keep="logits").logits
    assert 0 < float((trace - original).norm() / original.norm()) < 1.5


def test_an_adapter_is_trained_on_packed_weights() -> None:
    peft = pytest.importorskip("peft")
    small = lk.quantization.quantize(lab_of("llama3"), "int4", progress=False)
    packed = small.model.model.layers[0].self_attn.q_proj.packed["weight"].stored["codes"].clone()
    model = peft.get_peft_model(small.model, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    ids = torch.tensor([IDS])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(5):
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    inner = model.get_base_model().model.layers[0].self_attn.q_proj.base_layer
    assert torch.equal(inner.packed["weight"].stored["codes"], packed)


def test_a_compiled_wrapper_is_seen_through() -> None:
    lab = lab_of("llama3")
    wrapped = lk.Lab(torch.compile(lab.model), lab.tokenizer, name="wrapped")  # type: ignore[arg-type]
    assert list(lk.quantization.matrices(wrapped)) == list(lk.quantization.matrices(lab))
    small = lk.quantization.quantize(wrapped, "int8", progress=False)
    plain = lk.quantization.quantize(lab, "int8", progress=False)
    assert torch.equal(small.trace(IDS, keep="logits").logits, plain.trace(IDS, keep="logits").logits)
