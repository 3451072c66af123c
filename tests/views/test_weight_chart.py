"""The histogram of a matrix with the grid of its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.views.weight_chart import histogram


@pytest.fixture
def tiny(tiny_lab: lk.Lab) -> lk.Lab:
    with torch.no_grad():
        weight = tiny_lab.model.get_submodule("model.layers.0.self_attn.q_proj").weight
        weight[0, 0] = 50 * weight.std()
    return tiny_lab


def made(lab: lk.Lab, **settings: object) -> lk.quantization.Reconstruction:
    return lk.quantization.matrix(lab, "model.layers.0.self_attn.q_proj", "int4", **settings)


def test_all_weights_are_counted_and_the_lines_are_the_groups_values(tiny: lk.Lab) -> None:
    reconstruction = made(tiny, group_size=16)
    found = histogram(reconstruction, group=3)
    assert found.counts.sum() == reconstruction.weight.numel()
    assert len(found.levels) == 15
    assert set(np.round(found.values, 7)) <= set(np.round(found.levels, 7)), "what became of a weight is on the grid"
    assert found.weights == pytest.approx(reconstruction.weight.reshape(-1, 16)[3].numpy())


def test_the_grid_of_scaled_columns_is_in_the_scale_of_the_weights(tiny: lk.Lab) -> None:
    texts = [f"{animal} number {n} sat on the mat" for n in range(60) for animal in ("the cat", "a dog")]
    scaled = made(tiny, group_size=16, method="awq", calibration=texts)
    assert scaled.scale is not None
    assert (scaled.scale != 1).any()
    plain = made(tiny, group_size=16)
    assert scaled.size_bytes == plain.size_bytes + 2 * scaled.weight.shape[1]
    assert scaled.bits_per_weight == 8 * scaled.size_bytes / scaled.weight.numel()
    found = histogram(scaled, group=5)
    assert set(np.round(found.values, 6)) <= set(np.round(found.levels, 6)), "what became of a weight is on the grid"
    assert found.choices == 15 < len(found.levels) <= 15 * 16
    assert "15 for each" in lk.views.grid(scaled, group=5).figure.layout.title.text


def test_a_k_quant_has_as_many_values_for_a_weight_as_it_has_codes() -> None:
    dense = lk.load("labkit-dense", dtype="float32", device="cpu")
    found = histogram(lk.quantization.matrix(dense, "model.layers.0.mlp.down_proj", "q4_k"), group=3)
    assert found.choices == 16 < len(found.levels) <= 8 * 16
    assert set(np.round(found.values, 6)) <= set(np.round(found.levels, 6))


def test_an_outlier_is_marked(tiny: lk.Lab, tmp_path: Path) -> None:
    chart = lk.views.grid(made(tiny, group_size="tensor"))
    assert "standard deviations" in chart.figure.layout.annotations[0].text
    assert "1 weight lies beyond" in chart.figure.layout.title.text
    chart.to_svg(tmp_path / "chart.svg")
    assert "standard deviations" in (tmp_path / "chart.svg").read_text("utf-8")


def test_many_values_are_told_by_their_ends(tiny: lk.Lab) -> None:
    chart = lk.views.grid(lk.quantization.matrix(tiny, "model.layers.0.self_attn.q_proj", "int8"))
    assert any("255 values of the grid (its ends)" in (trace.name or "") for trace in chart.figure.data)


def test_what_is_no_reconstruction_and_no_group(tiny: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match=r"lk\.quantization\.matrix"):
        lk.views.grid(torch.zeros(3))
    with pytest.raises(lk.BadInput, match="There is no group"):
        lk.views.grid(made(tiny, group_size=16), group=10_000)
