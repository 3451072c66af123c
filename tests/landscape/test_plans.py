"""lk.plan: bytes as they really are, accelerate's own map, times by hand, and changes that do make it fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.utils import get_balanced_memory, infer_auto_device_map
from accelerate.utils.modeling import check_device_map
from transformers import AutoConfig, AutoModelForCausalLM

import labkit as lk
from labkit.attention.peak import LiveBytes
from labkit.landscape import footprints, placing, structures
from labkit.landscape.structures import structure
from labkit.models import published
from labkit.models.memory import ConfigKey, cache_bytes, fingerprint, named_config, skeleton
from labkit.quantization.cached import Scheme
from labkit.quantization.inventory import contents
from labkit.quantization.quantizing import quantize

SMALL = {
    "vocab_size": 500,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def parts(plan: lk.landscape.Plan) -> dict[str, int]:
    return dict(zip(plan.table["part"], plan.table["bytes"], strict=True))


@pytest.mark.parametrize("name", ["llama-2-70b", "falcon-7b", "mixtral-8x7b", "gpt2", "mamba-130m"])
def test_weights_and_cache_are_those_that_memory_counts(name: str) -> None:
    counted = lk.memory(name, tokens=700, batch=3)
    found = parts(lk.plan(name, hardware="64xH100-80GB", tokens=700, batch=3))
    assert found["weights"] == counted.weight_bytes
    assert found.get("KV cache", found.get("state")) == counted.kv_cache_bytes


@pytest.mark.parametrize("name", ["llama-2-7b", "mixtral-8x7b", "qwen3-0.6b"])
@pytest.mark.parametrize("precision", ["int8", "int4", "nf4"])
def test_quantized_weights_are_those_that_sizes_counts(name: str, precision: str) -> None:
    exact = lk.quantization.sizes(name, precision).table["size_bytes"].iloc[0]
    found = parts(lk.plan(name, hardware="8xH100-80GB", precision=precision, tokens=10))
    assert found[f"weights in {precision}"] + found["weights in 16 bits"] == exact


def test_quantized_weights_are_those_of_a_model_that_is_quantized(tiny_lab: lk.Lab) -> None:
    tiny_lab.model.to(torch.bfloat16)
    small = quantize(tiny_lab, "int4", progress=False)
    found = parts(lk.plan(tiny_lab, hardware="T4", precision="int4", tokens=10))
    assert sum(size for part, size in found.items() if "weights" in part) == contents(small).size_bytes


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_quantized_cache_takes_its_scales_too(bits: int) -> None:
    config = named_config("llama-3.1-8b")[1]
    each = Scheme(bits).bytes_per_token(config.num_key_value_heads, 128, 128, torch.bfloat16)
    plan = lk.plan("llama-3.1-8b", hardware="H100", cache_precision=f"int{bits}", tokens=100, batch=2)
    assert parts(plan)["KV cache"] == 2 * 100 * 32 * each


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 8, "intermediate_size": 1376}),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("phi3", {}),
        ("gpt2", {"n_embd": 128, "n_layer": 4, "n_head": 8}),
    ],
)
def test_working_memory_is_the_peak_of_a_pass(family: str, fields: dict[str, int]) -> None:
    config = AutoConfig.for_model(family, **(SMALL | fields if family != "gpt2" else {"vocab_size": 500} | fields))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    batch, tokens = 2, 256
    live = LiveBytes()
    with torch.no_grad(), live:
        output = model(torch.zeros((batch, tokens), dtype=torch.long), use_cache=True, logits_to_keep=1)
    peak = live.peak - cache_bytes(output.past_key_values)
    assert footprints.working_bytes(structure(config)[1], "bfloat16", tokens, batch) == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("name", ["llama-2-70b", "gpt2", "mixtral-8x7b", "falcon-7b"])
def test_the_map_is_the_one_accelerate_makes_of_the_skeleton(name: str) -> None:
    _, described = structure(name)
    whole = list(described.whole)
    sizes = {weight.name: 2 * weight.elements for weight in described.weights}
    bare = footprints.Footprint(sizes, 0, sum(sizes.values()), None, 0)
    room = int(1.2 * bare.weight_bytes / 3)
    found = placing.device_map(described, bare, 3, room)
    model = skeleton(named_config(name)[1])
    even = get_balanced_memory(model, dict.fromkeys(range(3), room), no_split_module_classes=whole)
    layer = max(size for path, size in placing.units(described, bare) if path in described.layers)
    # what accelerate would keep free on the first card is given back, as far as the card then holds what it is given
    spares = (placing.largest(described, bare), layer)
    theirs = [infer_auto_device_map(model, even | {0: even[0] + s}, no_split_module_classes=whole) for s in spares]
    assert found in theirs
    assert max(placing.on_cards(described, bare, found, 3)) <= room
    assert {0, 1} <= set(found.values()) <= {0, 1, 2}
    check_device_map(model, found)


def test_llama_70b_at_4_bits_lies_on_four_cards_within_their_memory() -> None:
    asked: dict[str, Any] = {"hardware": "4xA100-80GB", "precision": "int4", "tokens": 4096, "batch": 8}
    plan = lk.plan("meta-llama/Llama-2-70b-hf", **asked)
    assert plan.fits
    assert plan.bottleneck == "bandwidth"
    assert plan.device_map is not None
    _, described = structure("llama-2-70b")
    footprint = footprints.footprint(described, precision="int4", cache_precision="bfloat16", tokens=4096, batch=8)
    held = [footprint.working] * 4
    for path, size in placing.units(described, footprint):
        held[next(d for place, d in plan.device_map.items() if path == place or path.startswith(f"{place}."))] += size
    assert max(held) <= plan.hardware.device.usable_bytes
    assert sum(held) == plan.total_bytes
    assert "model.layers.79" in plan.device_map


def test_a_token_and_a_prompt_take_what_the_roofline_says() -> None:
    plan = lk.plan(
        "llama-2-7b", hardware="H100", tokens=1000, batch=4, bandwidth_utilisation=0.5, compute_utilisation=0.25
    )
    parameters, embedding = 6_738_415_616, 32_000 * 4096
    cache = 4 * 1000 * 2 * 32 * 4096 * 2
    read = 2 * (parameters - embedding) + 4 * 4096 * 2  # four rows of the embedding
    assert plan.token_seconds == pytest.approx((read + cache) / (0.5 * 3350e9))
    products = 2 * (parameters - embedding - 65 * 4096)
    pairs = 32 * 4 * 4096
    point = plan.points.set_index("phase").loc["token"]
    assert point["flops"] == 4 * (products + pairs * 1000)
    assert point["intensity"] == pytest.approx(point["flops"] / (read + cache))
    head = 2 * embedding
    prompt = 4 * (1000 * (products - head) + head + pairs * 1000 * 1001 // 2)
    assert plan.prefill_seconds == pytest.approx(prompt / (0.25 * 989.4e12))
    assert plan.tokens_per_second == pytest.approx(4 / plan.token_seconds)


def test_of_a_mixture_only_the_experts_that_are_wanted_are_read() -> None:
    _, described = structure("mixtral-8x7b")
    sizes = {weight.name: 2 * weight.elements for weight in described.weights}
    bare = footprints.Footprint(sizes, 0, sum(sizes.values()), None, 0)
    from labkit.landscape.rooflines import read_bytes

    experts = 2 * sum(w.elements for w in described.weights if w.which == "experts")
    rest = sum(sizes.values()) - experts - 2 * 32000 * 4096
    for tokens, share in ((1, 0.25), (2, 1 - 0.75**2), (1000, 1.0)):
        row = 2 * 4096 * tokens
        assert read_bytes(described, bare, tokens) == pytest.approx(rest + share * experts + row)


def test_many_sequences_are_bound_by_compute_and_a_slow_link_by_the_interconnect() -> None:
    busy = lk.plan("llama-3.1-8b", hardware="8xH100", tokens=128, batch=1024, split="tensor", bandwidth_utilisation=1.0)
    slow = lk.plan(
        "llama-2-70b",
        hardware="8xRTX4090-24GB",
        precision="int4",
        tokens=512,
        batch=64,
        split="tensor",
        compute_utilisation=1.0,
    )
    assert slow.points.set_index("phase").loc["prefill", "bound"] == "interconnect"
    assert busy.points.set_index("phase").loc["prefill", "bound"] != "bandwidth"
    assert slow.device_map is None
    assert slow.fits
    one = lk.plan("llama-2-70b", hardware="8xA100-80GB", tokens=512)
    spread = lk.plan("llama-2-70b", hardware="8xA100-80GB", tokens=512, split="tensor")
    assert one.token_seconds is not None
    assert spread.token_seconds is not None
    assert one.token_seconds / 8 < spread.token_seconds < one.token_seconds


def test_layers_are_spread_only_over_cards_that_the_heads_divide_by() -> None:
    for name, cards in (("gpt2", 8), ("falcon-7b", 8), ("mixtral-8x7b", 7)):
        with pytest.raises(lk.BadInput, match="heads can't be dealt"):
            lk.plan(name, hardware=f"{cards}xH100-80GB", split="tensor")
        assert lk.plan(name, hardware=f"{cards}xH100-80GB", tokens=512).fits
    way = lk.landscape.Training(tensor=8)
    with pytest.raises(lk.BadInput, match="71 heads"):
        lk.plan("falcon-7b", hardware="8xH100-80GB", use="training", batch=8, training=way)
    # eight heads of keys and values on 16 cards: each stands on two; a latent of all heads on every one
    asked = {"tokens": 4096, "batch": 4, "split": "tensor"}
    for name, cards, copies in (("llama-2-70b", 8, 1), ("llama-2-70b", 16, 2), ("deepseek-v3", 32, 32)):
        one = lk.memory(name, tokens=4096, batch=4).kv_cache_bytes
        found = lk.plan(name, hardware=f"{cards}xH100-80GB", **asked)
        assert one is not None
        assert parts(found)["KV cache"] == copies * one
        assert any("cards, as there are fewer" in said for said in found.assumptions) == (copies > 1)


def test_what_would_be_left_out_of_a_plan_is_refused() -> None:
    for name in ("M4Max-128GB", "iPhone14Pro-6GB"):  # of which no bytes a second are known to fetch layers with
        with pytest.raises(lk.BadInput, match="one memory"):
            lk.plan("llama-2-7b", hardware=name, host_bytes=2**40)
    for precision, head in (("int4", "float32"), ("bfloat16", "float32"), ("float32", "float16")):
        with pytest.raises(lk.BadInput, match="head="):
            lk.plan("gpt2", hardware="T4", precision=precision, head=head)
    assert lk.plan("gpt2", hardware="T4", precision="int4", head="float16", tokens=64).fits


def test_cards_without_a_link_say_so_and_this_machine_is_not_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    over = lk.plan("llama-2-7b", hardware="2xRTX4090-24GB", tokens=512).assumptions
    assert not any("gives 0 GB/s" in said for said in over)
    device = lk.landscape.hardware("A100-80GB").device
    monkeypatch.setattr("labkit.landscape.here.this_machine", lambda: lk.landscape.Hardware(device, 2))
    assert lk.landscape.hardware("2xthis").count == 2
    assert lk.landscape.hardware("1xthis").count == 1
    with pytest.raises(lk.BadInput, match="has 2 devices"):
        lk.landscape.hardware("4xthis")


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("llama-2-70b", {"hardware": "2xA100-80GB", "tokens": 4096, "batch": 8}),
        ("llama-2-70b", {"hardware": "RTX4090-24GB", "tokens": 4096}),
        ("llama-2-7b", {"hardware": "T4", "tokens": 4096, "batch": 8, "precision": "int4"}),
        ("llama-2-7b", {"hardware": "L4", "tokens": 4096, "batch": 5}),
        ("falcon-180b", {"hardware": "4xA100-80GB", "tokens": 2048}),
        ("mistral-7b", {"hardware": "iPhone14Pro-6GB", "tokens": 8192}),
    ],
)
def test_the_change_advised_makes_it_fit(name: str, asked: dict[str, Any]) -> None:
    plan = lk.plan(name, **asked)
    assert not plan.fits
    assert plan.bottleneck == "memory"
    assert plan.device_map is None
    assert plan.token_seconds is None
    if plan.change is None:
        assert "Nothing" in plan.advice[0]
    else:
        assert lk.plan(name, **{**asked, **plan.change}).fits
        assert str(next(iter(plan.change.values()))) in plan.advice[0].replace(",", "")


def test_what_no_card_has_room_for_goes_to_the_host_and_is_told() -> None:
    asked: dict[str, Any] = {"hardware": "RTX4090-24GB", "tokens": 512}
    plan = lk.plan("llama-2-13b", host_bytes=64 * 2**30, **asked)
    assert plan.device_map is not None
    assert set(plan.device_map.values()) == {0, "cpu"}
    assert not plan.fits
    assert plan.offloaded_bytes > 2 * 2**30
    assert "host's memory" in plan.advice[0]
    assert plan.token_seconds is not None
    assert plan.token_seconds > plan.offloaded_bytes / 31.5e9
    assert plan.points.set_index("phase").loc["token", "bound"] == "interconnect"


def test_hardware_is_found_by_its_names_and_others_near() -> None:
    for name in ("4xA100-80GB", "4 x a100 80gb", "4×A100-SXM-80GB", "4*NVIDIA A100"):
        found = lk.landscape.hardware(name)
        assert (found.count, found.device.name) == (4, "A100-80GB")
    assert lk.landscape.hardware("1xRTX4090-24GB").name == "RTX4090-24GB"
    assert lk.landscape.hardware("H100-80GB").device.bandwidth == 3350e9
    with pytest.raises(lk.BadInput, match="did you mean RTX4090-24GB"):
        lk.landscape.hardware("RTX4091")
    for wrong in ("", "0xH100", "999999999xH100", None, 3, "Cray-1"):
        with pytest.raises(lk.BadInput):
            lk.landscape.hardware(wrong)  # type: ignore[arg-type]


def test_every_device_has_its_source_and_its_figures_are_of_one_scale() -> None:
    table = lk.landscape.devices()
    assert table["source"].str.len().min() > 10
    assert table["name"].is_unique
    assert table["bandwidth"].between(1e10, 1e13).all()
    assert table["float32"].dropna().between(1e12, 1e15).all()
    assert table["confirmed"].sum() >= 14
    assert {"phone", "laptop", "consumer", "data centre"} <= set(table["kind"])
    both = table[["float32", "bfloat16"]].dropna()
    assert (both["bfloat16"] >= both["float32"]).all()  # dense: with sparsity int8 would be more than twice bfloat16
    dense = table.table[table["vendor"] != "any"].dropna(subset=["bfloat16", "float8"])
    assert (dense["float8"] / dense["bfloat16"]).between(1.9, 2.1).all()


def test_the_machine_at_hand_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.landscape import here

    monkeypatch.setattr(here, "SECONDS", 0.01)
    here.this_machine.cache_clear()
    found = lk.plan("smollm2-135m", hardware="this", tokens=128, precision="float32")
    machine = found.hardware
    assert machine.device.bandwidth > 1e8
    assert machine.device.operations["float32"] > 1e8
    monkeypatch.setattr(here, "_best", lambda *_: 1 / 0)
    assert lk.landscape.hardware("this") == machine
    here.this_machine.cache_clear()


def test_what_was_counted_beforehand_is_what_is_counted_now() -> None:
    recorded = structures._recorded()
    for name in ("gemma-2-2b", "qwen2.5-0.5b", "mamba-130m"):
        _, config = named_config(name)
        key = ConfigKey(fingerprint(config), config)
        assert structures._counted(key, skeleton(config)) == structures._count(key, skeleton(config))
    there = {name for row in recorded.values() for name in row["names"]}  # type: ignore[attr-defined]
    assert set(published.names()) == there, "run labkit.landscape.structures.record()"


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"tokens": -1}, "tokens=-1"),
        ({"tokens": 0}, "tokens=0"),
        ({"batch": 0}, "batch=0"),
        ({"precision": "int7"}, "int8"),
        ({"cache_precision": "int3"}, "cache_precision"),
        ({"split": "rows"}, "split"),
        ({"use": "cooking"}, "use"),
        ({"bandwidth_utilisation": 1.5}, "bandwidth_utilisation"),
        ({"compute_utilisation": 0}, "compute_utilisation"),
        ({"hardware": "A1000-80GB"}, "A100-80GB"),
        ({"host_bytes": -1}, "host_bytes"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_what_can_not_be_planned_is_refused(asked: dict[str, Any], match: str) -> None:
    with pytest.raises(lk.BadInput, match=match):
        lk.plan("gpt2", **{"hardware": "H100", **asked})


def test_names_and_configurations_that_are_none_are_refused() -> None:
    with pytest.raises(lk.ModelNotFound, match="llama-2-70b"):
        lk.plan("llama-2-71b", hardware="H100")
    with pytest.raises(lk.BadInput, match="model_type"):
        lk.plan({"hidden_size": 8}, hardware="H100")
    with pytest.raises(lk.BadInput):
        lk.plan({"model_type": "llama", **SMALL, "num_attention_heads": 7}, hardware="H100")
    plan = lk.plan({"model_type": "llama", **SMALL}, hardware="H100", tokens=5000)
    assert any("2,048 positions" in each for each in plan.assumptions)
