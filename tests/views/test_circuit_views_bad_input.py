"""What the views of the circuits room are given by mistake: a sentence each."""

from __future__ import annotations

from typing import Any

import pytest
from families import FAMILIES, Tokens, build

import labkit as lk

CLEAN, CORRUPTED = [5, 17, 33, 8], [5, 17, 34, 8]


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="tiny")


@pytest.mark.parametrize(
    "wrong", [{"kind": None}, {"kind": []}, {"prompt": 5}, {"prompt": [5, 6]}, {"layers": "x"}, {"layers": [99]}]
)
def test_a_lens_that_writes_says_what_it_can_not_use(lab: lk.Lab, wrong: dict[str, Any]) -> None:
    with pytest.raises(lk.BadInput):
        lk.views.lens(lab, **({"prompt": "t5 t6 "} | wrong))


def test_one_layer_is_taken_as_a_list_of_one(lab: lk.Lab) -> None:
    seen: list[set[int]] = []
    lk.circuits.generate_with_lens(
        lab, CLEAN, lambda column: seen.append(set(column.layers)), kind="logit", layers=1, max_new_tokens=2
    )
    assert seen == [{1}, {1}]
    assert lk.views.lens(lab, prompt="t5 t6 ", layers=1)._layers == [1, 2]
    with pytest.raises(lk.BadInput, match="layers"):
        lk.circuits.generate_with_lens(lab, CLEAN, print, kind="logit", layers="x")


@pytest.mark.parametrize("texts", [5, "a text"])
def test_texts_for_examples_are_a_list(lab: lk.Lab, texts: Any) -> None:
    found = lk.circuits.find(
        lab, [(CLEAN, CORRUPTED)], lambda logits: logits[-1, 7] - logits[-1, 9], "attribution", progress=False
    )
    with pytest.raises(lk.BadInput, match="texts"):
        lk.views.circuit(found, lab, texts=texts, faithfulness=False)
