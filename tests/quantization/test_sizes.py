"""What a model takes in each format, counted before anything is loaded."""

from __future__ import annotations

import pytest
import torch

import labkit as lk
from labkit.quantization import formats
from labkit.quantization.counting import packed_bytes


@pytest.mark.parametrize("name", ["int8", "int4", "nf4", "q4_0", "q6_k", "ternary"])
@pytest.mark.parametrize("shape", [(1280, 256), (1000, 768), (3, 256, 1536), (4000, 512)])
def test_a_large_matrix_follows_from_smaller_ones(name: str, shape: tuple[int, ...]) -> None:
    format = formats.of(name)
    assert packed_bytes(format, shape) == format.pack(torch.randn(shape)).size_bytes


def test_llama_at_four_bits_by_hand() -> None:
    """LLaMA 2 7B in groups of 128 with a scale of 16 bits: head, embedding and norms stay."""
    found = lk.quantization.sizes("llama-2-7b", "int4", group_size=128)
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    ends = 2 * 32000 * 4096
    norms = (2 * 32 + 1) * 4096
    size = layers * (4 + 16 / 128) / 8 + 2 * (ends + norms)
    row = found.table.iloc[0]
    assert found.parameters == layers + ends + norms
    assert row["size_bytes"] == size
    assert row["saved"] == pytest.approx(1 - size / (2 * found.parameters))
    assert row["bits_per_weight"] == 4.125
    assert row["bytes_per_token"] == size - ends, "the embedding is looked up, not read"


@pytest.mark.parametrize(("name", "head"), [("labkit-dense", None), ("labkit-moe", None), ("labkit-dense", "int8")])
def test_it_is_what_a_quantized_lab_takes(name: str, head: str | None) -> None:
    lab = lk.load(name, dtype="bfloat16", device="cpu")
    quantized = lk.quantization.quantize(lab, "int4", head=head, progress=False)
    counted = lk.quantization.sizes(lab.model, "int4", head=head)
    assert counted.table.iloc[0]["size_bytes"] == lk.quantization.contents(quantized).size_bytes


def test_of_a_mixture_a_token_reads_the_experts_it_goes_to() -> None:
    row = lk.quantization.sizes("mixtral-8x7b", "int4").table.iloc[0]
    assert 0.25 < row["bytes_per_token"] / row["size_bytes"] < 0.3


def test_what_does_not_fit_is_said() -> None:
    found = lk.quantization.sizes("smollm2-135m", "q4_k")
    assert any("rows of 576 can't be cut into q4_k's groups of 256" in note for note in found.notes)
    assert found.table.iloc[0]["quantized"] < 0.5


def test_no_format() -> None:
    with pytest.raises(lk.BadInput, match="format"):
        lk.quantization.sizes("llama-2-7b", [])
