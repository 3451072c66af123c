"""The KV cache in few bits: one pass gives what decoding step by step with such a cache gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.quantization import cache_damage, quantized_cache
from labkit.quantization.cached import Scheme, decoding_with
from labkit.trace import running

TEXTS = {"one": [[3 + (i * i + 5 * i) % 90 for i in range(n)] for n in (40, 25, 33, 28, 36)]}
SMALL: dict[str, Any] = {"group": 4, "residual": 3}


def lab_of(name: str) -> lk.Lab:
    return lk.Lab(build(FAMILIES[name]), Tokens(), name=name)


def test_a_grid_lies_along_channels_or_tokens_and_whole_groups_alone_are_quantized() -> None:
    tensor = torch.randn((2, 3, 10, 8), generator=torch.Generator().manual_seed(0))
    for axis, along in (("channel", -2), ("token", -1)):
        new = Scheme(2, group=4).quantized(tensor, axis)  # type: ignore[arg-type]
        assert torch.equal(new[..., 8:, :], tensor[..., 8:, :])
        assert not torch.equal(new[..., :8, :], tensor[..., :8, :])
        for group in new[..., :8, :].split(4, dim=along):
            counts = [len(row.unique()) for row in group.movedim(along, -1).reshape(-1, 4)]
            assert max(counts) <= 4
            spans = group.amax(along) - group.amin(along)
            assert (spans > 0).all()
    outlier = tensor.clone()
    outlier[..., 0] += 50.0  # one channel is large in every token
    error = {
        axis: float((Scheme(4, group=4).quantized(outlier, axis) - outlier)[..., 1:].norm())  # type: ignore[arg-type]
        for axis in ("channel", "token")
    }
    assert error["channel"] < 0.5 * error["token"]
    assert Scheme(None).quantized(tensor, "token") is tensor


def test_the_newest_tokens_stay_as_they_are() -> None:
    scheme = Scheme(4, **SMALL)
    lengths = torch.arange(1, 16)
    assert scheme.cut(lengths).tolist() == [(n - 3) // 4 * 4 if n >= 3 else 0 for n in lengths.tolist()]


@pytest.mark.parametrize("name", ["qwen3", "mistral", "gpt2", "gemma2", "gpt_oss", "qwen3_moe"])
def test_unquantized_the_way_of_both_changes_nothing(name: str) -> None:
    lab = lab_of(name)
    rows = [TEXTS["one"][1], TEXTS["one"][0]]
    plain = running.forward(lab.model, rows).all_logits
    with decoding_with(lab, Scheme(None, **SMALL)):
        both = running.forward(lab.model, rows).all_logits
    with decoding_with(lab, Scheme(2, **SMALL)):
        few = running.forward(lab.model, rows).all_logits
    for row, ids in enumerate(rows):
        assert torch.allclose(both[row, : len(ids)], plain[row, : len(ids)], atol=1e-5)
        assert torch.allclose(few[row, :6], plain[row, :6], atol=1e-5)  # nothing is quantized before the seventh token
        assert not torch.allclose(few[row, 8 : len(ids)], plain[row, 8 : len(ids)], atol=1e-3)
    assert torch.equal(running.forward(lab.model, rows).all_logits, plain)  # nothing is left of it


@pytest.mark.parametrize("name", ["qwen3", "llama2", "gpt2"])
@pytest.mark.parametrize("ways", [("channel", "token"), ("token", "channel")])
def test_one_pass_gives_what_decoding_step_by_step_gives(name: str, ways: tuple[str, str]) -> None:
    lab = lab_of(name)
    keys, values = ways
    prompt = TEXTS["one"][0][:3]
    with lab.edit(*quantized_cache(2, keys=keys, values=values, **SMALL)):  # type: ignore[arg-type]
        made = lab.generate(prompt, max_new_tokens=24, temperature=0)
    ids = [*prompt, *made.ids]
    with decoding_with(lab, Scheme(2, keys, values, **SMALL)):  # type: ignore[arg-type]
        logits = running.forward(lab.model, [ids]).all_logits[0]
    plain = running.forward(lab.model, [ids]).all_logits[0]
    at = torch.arange(len(prompt) - 1, len(ids) - 1)
    chosen = torch.tensor(made.ids)
    given = logits.log_softmax(-1)[at, chosen]
    assert torch.allclose(given, torch.tensor(np.array(made.logprobs), dtype=given.dtype), atol=1e-4)
    assert not torch.allclose(given, plain.log_softmax(-1)[at, chosen], atol=1e-2)


def test_more_bits_cost_less_and_the_bytes_are_counted() -> None:
    lab = lab_of("qwen3")
    found = cache_damage(lab, TEXTS, bits=(8, 4, 2), progress=False, **SMALL)
    whole = found[(found["length_from"] == 1) & (found["length_to"] == 40)]
    assert len(whole) == 6
    for _, of_way in whole.groupby("way"):
        assert of_way.sort_values("bits")["kl"].is_monotonic_decreasing
        assert (of_way["tokens"] == found.tokens).all()
    assert found.noise < 1e-9 < whole["kl"].min()
    config, layers = lab.config, len(lab.anatomy.layers)
    numbers = 2 * layers * config.num_key_value_heads * config.head_dim
    assert found.original_bytes == 4 * numbers
    four = whole[whole["bits"] == 4]["bytes_per_token"].iloc[0]
    # half a byte each, and for each four of them a scale in 16 bits and a zero point in 4
    assert four == numbers / 2 + numbers / 4 * 2.5
    assert (whole["kl_low"] <= whole["kl"]).all()
    assert "noise" in repr(found)
    one = cache_damage(lab, TEXTS, bits=2, other_way=False, progress=False, **SMALL)
    same = whole[(whole["bits"] == 2) & (whole["way"] == "keys by channel, values by token")]
    assert one["kl"].iloc[-1] == same["kl"].iloc[0]


def test_rows_are_of_the_lengths_they_name() -> None:
    lab = lab_of("qwen3")
    texts = [[3 + (i * i + 5 * i) % 90 for i in range(100)]] * 2
    found = cache_damage(lab, texts, bits=2, other_way=False, group=16, residual=48, progress=False)
    assert found[["length_from", "length_to"]].to_numpy().tolist() == [[1, 64], [65, 100], [1, 100]]
    assert found["tokens"].tolist() == [128, 70, 198]
    assert found["kl"][2] == pytest.approx((found["kl"][0] * 128 + found["kl"][1] * 70) / 198)
    long = cache_damage(lab, texts, bits=2, other_way=False, group=16, residual=70, progress=False)
    assert long["kl"][0] < 1e-9 < long["kl"][1]  # nothing is quantized in the first 64 tokens


def test_what_can_not_be_quantized_is_refused() -> None:
    lab = lab_of("qwen3")
    with pytest.raises(lk.BadInput, match="longest of these documents has 40"):
        cache_damage(lab, TEXTS, group=32, residual=32)
    for wrong in (
        {"bits": 0},
        {"bits": 9},
        {"bits": ()},
        {"keys": "head"},
        {"group": 1},
        {"residual": -1},
        {"draws": 0},
    ):
        with pytest.raises(lk.BadInput):
            cache_damage(lab, TEXTS, **(SMALL | wrong))
    with pytest.raises(lk.BadInput, match="bits=12"):
        quantized_cache(12)
    windowed = lab_of("mistral")
    with pytest.raises(lk.Unavailable, match="window of 8"), windowed.edit(*quantized_cache(4)):
        pass
    with pytest.raises(lk.Unavailable, match="cache of"):
        cache_damage(lab_of("mamba"), TEXTS, **SMALL)
