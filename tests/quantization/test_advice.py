"""Which format for a model: bytes as they come out, the evidence, and words with numbers."""

from __future__ import annotations

import json

import pytest
import torch

import labkit as lk
from labkit.quantization import advice as module
from labkit.quantization import advise, contents, damage, formats, quantize

TEXTS = [[3 + (i * i + 5 * i) % 90 for i in range(n)] for n in (40, 25)]
FORMATS = ("int8", "q4_0", "nf4", "int3")


def test_bytes_are_those_of_the_model_that_quantize_makes_and_damage_is_measured(tiny_lab: lk.Lab) -> None:
    whole = contents(tiny_lab).size_bytes
    found = advise(tiny_lab, budget_bytes=whole, tokens=64, formats=FORMATS, texts=TEXTS, progress=False)
    cache = tiny_lab.memory(tokens=64).kv_cache_bytes
    for row in found.itertuples():
        assert row.cache_bytes == cache
        assert row.total_bytes == row.weight_bytes + cache
        assert row.fits == (row.total_bytes <= whole)
        if row.format == "float32":
            assert row.weight_bytes == whole
            continue
        small = quantize(tiny_lab, row.format, progress=False)
        assert row.weight_bytes == contents(small).size_bytes
        assert row.kl == pytest.approx(damage(tiny_lab, small, TEXTS, progress=False).kl)
        assert "on this model" in row.evidence
    assert not found[found["format"] == "float32"]["fits"].iloc[0]
    assert found.best == "int8"
    assert found.on_grid is False
    assert any("Take int8" in sentence for sentence in found.sentences)
    assert "Take int8" in repr(found)


def test_what_fits_as_it_is_and_what_fits_not_at_all_are_told(tiny_lab: lk.Lab) -> None:
    plenty = advise(tiny_lab, budget_bytes=10**9, tokens=64, formats=("int4",), texts=TEXTS, progress=False)
    assert plenty.best == ""
    assert "fits as it is" in plenty.sentences[0]
    tight = advise("Qwen/Qwen3-8B", budget_bytes=6 * 2**30, tokens=8192)
    assert tight.best == "int2"
    assert any("smaller one in more bits" in sentence for sentence in tight.sentences)
    nothing = advise(tiny_lab, budget_bytes=1000, tokens=64, formats=("int4",), texts=TEXTS, progress=False)
    assert nothing.best is None
    assert f"{nothing['total_bytes'].min():,}" in nothing.sentences[0]


def test_a_model_on_a_grid_is_said_to_be(tiny_lab: lk.Lab) -> None:
    from labkit.quantization import matrices

    with torch.no_grad():
        for matrix in matrices(tiny_lab).values():
            if matrix.part == "layer":
                matrix.module.weight.copy_(formats.of("q4_0").pack(matrix.weight).unpack())
    found = advise(tiny_lab, budget_bytes=10**6, tokens=8, formats=("q4_0",), texts=TEXTS, progress=False)
    assert found.on_grid is True
    assert any("grid of 4 bits already" in sentence for sentence in found.sentences)


def test_a_name_is_counted_exactly_and_its_costs_are_said_to_be_another_models() -> None:
    found = advise("Qwen/Qwen3-0.6B", budget_bytes=10**9, tokens=2048)
    counted = lk.memory("Qwen/Qwen3-0.6B", tokens=2048)
    plain = found[found["format"] == "bfloat16"].iloc[0]
    assert plain["weight_bytes"] == counted.weight_bytes
    assert plain["cache_bytes"] == counted.kv_cache_bytes
    layers = counted.parts["attention"] + counted.parts["mlp"]
    four = found[found["format"] == "q4_0"].iloc[0]
    assert four["weight_bytes"] == counted.weight_bytes - 2 * layers + layers // 32 * 18
    assert four["bits_per_weight"] == 4.5
    assert found.best not in (None, "")
    record = {row["format"]: row for row in json.loads(module.MEASURED.read_text("utf-8"))[::-1]}
    assert four["kl"] == record["q4_0"]["kl"]
    assert {"q4_k", "q6_k"}.isdisjoint(record)  # of rows of 192 they leave most as they are
    assert found[found["format"] == "q4_k"]["evidence"].iloc[0] == "not measured"
    assert any("are those of labkit-dense" in sentence for sentence in found.sentences)
    assert any(
        sentence.startswith("Not measured, and taken last") and "q4_k" in sentence for sentence in found.sentences
    )


def test_evidence_is_of_the_same_groups_and_symmetry_and_not_of_the_name_alone() -> None:
    four = formats.of("int4", group_size=32, symmetric=False)
    odd = formats.of("int4", group_size=256)
    found = advise("Qwen/Qwen3-0.6B", budget_bytes=6 * 10**8, tokens=2048, formats=("int4", four, odd))
    rows = found.table.set_index("format")
    plain, asymmetric, unknown = (rows.loc[formats.label(each)] for each in (formats.of("int4"), four, odd))
    assert len({plain["kl"], asymmetric["kl"]}) == 2
    assert asymmetric["kl"] < plain["kl"]  # by the record: smaller groups with a zero point
    assert unknown["kl"] != unknown["kl"]
    assert unknown["evidence"] == "not measured"
    best = advise("Qwen/Qwen3-0.6B", budget_bytes=10**9, tokens=1024, formats=(four,)).best
    assert best == four  # as quantize takes it


def test_the_threshold_is_read_off_the_record() -> None:
    rows = json.loads(module.MEASURED.read_text("utf-8"))
    below = max(row["kl"] for row in rows if row["top1"] > 0.8)
    above = min(row["kl"] for row in rows if row["top1"] < 0.8)
    assert below < module.much() < above
    assert all(row["kl_low"] < row["kl"] < row["kl_high"] for row in rows)
    assert all(row["documents"] >= 100 for row in rows)


def test_a_format_for_the_head_is_counted_and_measured(tiny_lab: lk.Lab) -> None:
    found = advise(tiny_lab, budget_bytes=10**9, tokens=8, formats=("int4",), head="int8", texts=TEXTS, progress=False)
    small = quantize(tiny_lab, "int4", head="int8", progress=False)
    row = found.table.set_index("format").loc["int4"]
    assert row["weight_bytes"] == contents(small).size_bytes
    assert row["kl"] == pytest.approx(damage(tiny_lab, small, TEXTS, progress=False).kl)
    named = advise("Qwen/Qwen3-0.6B", budget_bytes=10**9, formats=("int4",), head="q8_0")
    plain = advise("Qwen/Qwen3-0.6B", budget_bytes=10**9, formats=("int4",))
    assert named["weight_bytes"].min() < plain["weight_bytes"].min()
    assert (named.table.set_index("format").loc["int4", "evidence"]) == "not measured"
    assert any("Embedding and head stay in bfloat16" in sentence for sentence in plain.sentences)


@pytest.mark.parametrize("name", ["int4", "nf4", "ternary", "q6_k", "int8"])
@pytest.mark.parametrize("rows", [7, 512, 1024, 1300])
def test_bytes_counted_on_some_rows_are_those_of_all(name: str, rows: int) -> None:
    shape = torch.Size((rows, 256))
    exact = formats.of(name).pack(torch.zeros(shape)).size_bytes
    assert module.packed_bytes(formats.of(name), shape) == pytest.approx(exact, abs=4)


def test_what_can_not_be_advised_on_is_refused(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.ModelNotFound):
        advise("no such model", budget_bytes=10**9)
    with pytest.raises(lk.Unavailable, match="quantized"):
        advise(quantize(tiny_lab, "int8", progress=False), budget_bytes=10**9)
    for wrong in ({"budget_bytes": 0}, {"tokens": 0}, {"formats": ()}, {"formats": ("int99",)}):
        with pytest.raises(lk.BadInput):
            advise(tiny_lab, **({"budget_bytes": 10**9} | wrong))  # type: ignore[arg-type]
