"""The quantization view: its numbers are those of `matrix` and `quantize`, controls change them, the latest request wins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import fuzz
import numpy as np
import pytest
import torch

import labkit as lk
from labkit.quantization import contents, matrix, quantize
from labkit.views.kit.running_text import split
from labkit.views.quantization_view import QuantizationView
from labkit.views.quantization_view.error_map import error_map

SECONDS = 60
Q_PROJ = "model.layers.1.self_attn.q_proj"
CALIBRATION = lk.quantization.texts(3)


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


@pytest.fixture
def view(lab: lk.Lab) -> Iterator[QuantizationView]:
    made = lk.views.quantization(lab, prompt="a b", tokens=6)
    assert made.wait(SECONDS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def calibrated(lab: lk.Lab) -> Iterator[QuantizationView]:
    made = lk.views.quantization(lab, prompt="a b", tokens=2, calibration=CALIBRATION)
    assert made.wait(SECONDS)
    yield made
    made.close()


def test_the_numbers_are_those_of_the_matrix(view: QuantizationView, lab: lk.Lab) -> None:
    found = matrix(lab, Q_PROJ, "int4")
    assert view.pane["name"] == Q_PROJ
    assert view.pane["bits"] == found.bits_per_weight
    assert view.pane["bytes"] == found.size_bytes
    assert view.pane["weight_error"] == pytest.approx(found.weight_error)
    assert view.pane["output_error"] is None
    drawn = found.unpacked.reshape(-1, view.pane["size"])[view.pane["group"]]
    assert view.pane["used"] == len(drawn.unique()) <= view.pane["choices"] == 15
    assert np.frombuffer(view.counts, "<u4").sum() == found.weight.numel()
    cells = np.frombuffer(view.cells, [("place", "<u4"), ("weight", "<f4"), ("value", "<f4")])
    assert cells["place"].tolist() == list(range(32 * 32))
    np.testing.assert_array_equal(cells["weight"], found.weight.numpy().ravel())
    np.testing.assert_array_equal(cells["value"], found.unpacked.numpy().ravel())


def test_each_control_changes_what_is_shown(view: QuantizationView) -> None:
    seen = [view.pane["weight_error"]]
    settings = [("format", "int3"), ("group", "16"), ("symmetric", False), ("method", "hqq"), ("layer", 0)]
    for name, value in [*settings, ("matrix", "down_proj")]:
        setattr(view, name, value)
        assert view.wait(SECONDS)
        seen.append(view.pane["weight_error"])
    assert len(set(seen)) == len(seen)
    assert seen[1] > seen[0]
    assert seen[2] < seen[1]
    assert view.pane["name"] == "model.layers.0.mlp.down_proj"
    assert "int3, groups of 16, by half-quadratic" in view.texts["described"]
    before = view.levels
    view.drawn_group = 0 if view.pane["group"] else 1
    assert view.wait(SECONDS)
    assert view.levels != before


def test_the_texts_are_those_of_both_models(view: QuantizationView, lab: lk.Lab) -> None:
    view.format = "int2"
    assert view.wait(SECONDS)
    small = quantize(lab, "int2", progress=False)
    for side, model in (("original", lab), ("quantized", small)):
        assert view.texts[side]["texts"] == split(model.generate("a b", max_new_tokens=6, chat=False).tokens).texts
        assert view.texts[side]["bytes"] == contents(model).size_bytes
    one, other = (view.texts[side]["texts"] for side in ("original", "quantized"))
    assert one != other, "or there is nothing to be marked"
    assert one[: view.texts["parted"]] == other[: view.texts["parted"]]
    assert view.texts["parted"] in view.texts["quantized"]["differ"] + view.texts["original"]["differ"]


def test_what_does_not_go_together_gives_way_to_what_was_chosen_last(view: QuantizationView) -> None:
    assert dict(view.choices["methods"]).keys() == {"rtn", "hqq"}, "without text, what needs some is not offered"
    view.method = "hqq"
    assert view.symmetric is False
    view.symmetric = True
    assert view.method == "rtn"
    view.group = "16"
    view.format = "ternary"
    assert view.group == "own"
    assert not view.choices["symmetries"]
    view.format = "q4_0"
    assert view.wait(SECONDS)
    assert [value for value, _ in view.choices["groups"]] == ["own"]
    assert view.matrix_status["state"] == "done"


def test_a_format_that_the_rows_can_not_have_says_so_and_shows_nothing_old(view: QuantizationView) -> None:
    view.format = "q4_k"
    assert view.wait(SECONDS)
    assert view.matrix_status["state"] == view.text_status["state"] == "failed"
    assert "groups of 256" in view.matrix_status["message"]
    assert view.pane == {}
    assert view.texts["quantized"] is None
    assert view.texts["original"]["done"]
    assert view.table.empty
    view.format = "int8"
    assert view.wait(SECONDS)
    assert view.texts["quantized"]["done"]


def test_with_text_there_are_all_methods_and_the_error_of_the_outputs(
    calibrated: QuantizationView, lab: lk.Lab
) -> None:
    by_rounding = calibrated.pane["output_error"]
    assert by_rounding == pytest.approx(matrix(lab, Q_PROJ, calibration=CALIBRATION).output_error)
    assert dict(calibrated.choices["methods"]).keys() == {"rtn", "gptq", "awq", "hqq"}
    calibrated.method = "gptq"
    assert calibrated.wait(SECONDS)
    assert calibrated.pane["output_error"] < by_rounding
    assert "GPTQ" in calibrated.texts["described"]
    assert calibrated.text_status["state"] == "done"


def test_the_latest_request_wins_and_a_stop_ends_the_quantizing(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.quantization import trials

    begun, release, made = threading.Event(), threading.Event(), []
    real = trials.quantize

    def slow(given: lk.Lab, format: str, **how: Any) -> lk.Lab:
        begun.set()
        assert release.wait(SECONDS)
        small = real(given, format, **how)
        made.append(format)
        return small

    monkeypatch.setattr(trials, "quantize", slow)
    view = lk.views.quantization(lab, prompt="a b", tokens=2)
    assert begun.wait(SECONDS)
    view.format = "int8"
    release.set()
    assert view.wait(SECONDS)
    assert made == ["int8"], "the first was given up at its first matrix"
    assert "int8" in view.texts["described"]
    begun.clear()
    release.clear()
    view.format = "int2"
    assert begun.wait(SECONDS)
    view.stop()
    release.set()
    assert view.wait(SECONDS)
    assert view.text_status["state"] == "stopped"
    assert view.texts["quantized"] is None
    view.again()
    assert view.wait(SECONDS)
    assert view.texts["quantized"]["done"]
    view.close()


def test_the_original_stays_as_it_was(lab: lk.Lab) -> None:
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    view = lk.views.quantization(lab, prompt="a b", tokens=2, format="int2")
    assert view.wait(SECONDS)
    view.close()
    for name, tensor in lab.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_map_keeps_the_largest_error_of_each_block() -> None:
    weight = np.zeros((5, 300), np.float32)
    value = weight.copy()
    value[3, 299], value[3, 298], value[0, 1] = -3.0, 2.0, 1.0
    found = error_map(weight, value)
    assert (found.down, found.across, found.block) == (5, 100, (1, 3))
    assert found.errors[3, 99] == 3.0
    assert found.places[3, 99] == 3 * 300 + 299
    assert found.values[0, 0] == 1.0
    assert found.errors.min() == 0.0, "what lies outside of the matrix is no error"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": " "}, "nothing to go on from"),
        ({"format": "int9"}, "int9"),
        ({"method": "gptq"}, "calibration="),
        ({"method": "hqq", "format": "nf4"}, "can't be used with nf4"),
        ({"layer": 7}, "layer"),
        ({"matrix": "q_prj"}, "q_proj"),
        ({"format": "nf4", "symmetric": True}, "symmetric"),
        ({"tokens": 0}, "tokens"),
    ],
)
def test_what_can_not_be_used_is_refused(lab: lk.Lab, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(lk.BadInput, match=words):
        lk.views.quantization(lab, **settings)


def test_a_quantized_lab_and_a_wrong_choice_are_refused(view: QuantizationView, lab: lk.Lab) -> None:
    with pytest.raises(lk.Unavailable, match="quantized already"):
        lk.views.quantization(quantize(lab, "int8", progress=False))
    for name, value in (("layer", 9), ("matrix", "x"), ("group", "1"), ("method", "gptq"), ("format", "int9")):
        with pytest.raises(lk.BadInput):
            setattr(view, name, value)
