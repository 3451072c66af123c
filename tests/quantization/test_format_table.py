"""Formats side by side: true bytes and damage, each once."""

from __future__ import annotations

import pytest

import labkit as lk


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.load("labkit-dense", dtype="float32", device="cpu")


def test_each_row_is_that_format_measured_alone(lab: lk.Lab) -> None:
    texts = lk.quantization.texts(1)
    ready = lk.quantization.quantize(lab, "int4", group_size=16, progress=False)
    found = lk.quantization.by_format(lab, texts, ("int8", "int2", ready), progress=False)
    assert found["format"].tolist() == ["int8", "int2", "int4"]
    assert found["size_bytes"].iloc[2] == lk.quantization.contents(ready).size_bytes < found.original_bytes
    alone = lk.quantization.damage(lab, ready, texts, progress=False)
    assert found["kl"].iloc[2] == pytest.approx(alone.kl, rel=1e-9)
    assert found["kl"].iloc[0] < found["kl"].iloc[2] < found["kl"].iloc[1]
    assert found.original_perplexity == pytest.approx(alone.original_perplexity)
    assert "the original" in repr(found)


def test_a_setting_that_is_refused_is_refused_here(lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="format"):
        lk.quantization.by_format(lab, formats=("int44",), progress=False)
    with pytest.raises(lk.BadInput, match="no format to compare"):
        lk.quantization.by_format(lab, formats=(), progress=False)


def test_texts_that_were_calibrated_on_are_refused(lab: lk.Lab) -> None:
    with pytest.raises(
        lk.BadInput, match=r"5 of the texts to measure on \(prose 0, .*\) stand also in those to calibrate on"
    ):
        lk.quantization.by_format(
            lab,
            lk.quantization.texts(1),
            ("int4",),
            method="gptq",
            calibration=lk.quantization.texts(2),
            progress=False,
        )
