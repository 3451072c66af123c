"""The lens that comes with labkit, on the default model: it opens, it reads, and what it reads matters."""

from __future__ import annotations

import pytest

import labkit as lk
from labkit.circuits.lens_files import shipped_lens

TEXT = "The capital of France is the city of"


def test_it_is_told_by_its_models_weights() -> None:
    """A fingerprint, so that another model of that name is refused, and no note that its model can't be verified."""
    found = shipped_lens("smollm2-135m-instruct")
    assert found is not None
    assert found.base is not None
    assert (found.base.ends is None, found.base.layers is None) == (False, False)
    assert found.notes == ()


@pytest.mark.real_model
def test_a_country_swapped_in_the_lens_changes_the_capital_and_a_random_change_does_not(default_lab: lk.Lab) -> None:
    lab = default_lab
    paris, rome = (lab.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in (" Paris", " Rome"))

    def probabilities() -> tuple[float, float]:
        likely = lab.trace(TEXT, chat=False, keep="logits").logits[-1].softmax(-1)
        return float(likely[paris]), float(likely[rome])

    reading = lk.lens(lab, lab.trace(TEXT, chat=False, keep=("residual", "logits")))
    assert reading.lens is not None
    assert reading.layers == tuple(range(1, 31))
    assert reading.top(30, -1, 1)[0].id == paris
    before = probabilities()
    with lab.edit(lk.swap(reading, " France", " Italy", layers=8)):
        swapped = probabilities()
    with lab.edit(lk.swap(reading, " France", " Italy", layers=8, random=0)):
        random = probabilities()
    assert before[0] > 0.8
    assert swapped[1] > 0.3 > swapped[0]
    assert random[0] > 0.7


@pytest.mark.real_model
def test_it_is_nearer_to_the_models_prediction_than_the_logit_lens(default_lab: lk.Lab) -> None:
    trace = default_lab.trace(lk.moe.texts(1, characters=200)["prose"][0], keep=("residual", "logits"))
    for layer in (10, 25, 29):
        found = {
            kind: lk.lens(default_lab, trace, kind).rows(layer).table["kl"].mean() for kind in ("jacobian", "logit")
        }
        assert found["jacobian"] < found["logit"]
