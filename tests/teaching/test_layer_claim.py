"""The claim about one layer: layers left out, rounded and patched, against the same done by hand on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.teaching.claims import layers
from labkit.trace.documents import Documents

TEXTS = {"one": [[5, 6, 7, 8, 9], [11, 6, 3, 20]], "two": [[8, 9, 10, 30, 31, 4]]}


@pytest.fixture
def documents(tiny_lab: lk.Lab) -> Documents:
    return Documents(tiny_lab, TEXTS)


def test_a_layer_left_out_is_one_whose_projections_are_zero(tiny_lab: lk.Lab, documents: Documents) -> None:
    found = layers.left_out(tiny_lab, documents)
    base = documents.losses(tiny_lab)
    for number, sums in enumerate(found):
        layer = tiny_lab.model.get_submodule(f"model.layers.{number}")
        weights = [layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight]
        kept = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight in weights:
                weight.zero_()
            expected = documents.losses(tiny_lab) - base
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)
        assert np.allclose(sums, expected, atol=1e-5)
    assert np.array_equal(documents.losses(tiny_lab), base), "nothing is left of it"


def test_the_first_token_left_as_it_is_changes_less(tiny_lab: lk.Lab, documents: Documents) -> None:
    everywhere, later = layers.left_out(tiny_lab, documents), layers.left_out(tiny_lab, documents, "1:")
    nowhere = [np.abs(everywhere - later).max(), np.abs(later).max()]
    assert min(nowhere) > 1e-4


def test_patching_a_layer_hands_over_what_it_added(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "ENDINGS", ("a", "b"))
    one, other = [5, 6, 7, 8], [5, 9, 7, 8]
    singular, plural = (tiny_lab.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in "ab")
    assert singular != plural
    found = layers.patched_in(tiny_lab, [(one, other)])  # type: ignore[list-item] # ids do as well as text
    model, decoder = tiny_lab.model, tiny_lab.model.get_submodule("model.layers")
    added: list[torch.Tensor] = []
    with torch.no_grad():
        handles = [each.register_forward_hook(lambda _m, a, o: added.append(o - a[0])) for each in decoder]
        logits = [model(torch.tensor([ids])).logits[0, -1] for ids in (other, one)]
        for handle in handles:
            handle.remove()
        values = [float(row[plural] - row[singular]) for row in logits]
        for number, layer in enumerate(decoder):
            handle = layer.register_forward_hook(lambda _m, a, _o, n=number: a[0] + added[n])
            row = model(torch.tensor([one])).logits[0, -1]
            handle.remove()
            moved = (float(row[plural] - row[singular]) - values[1]) / (values[0] - values[1])
            assert found[number, 0] == pytest.approx(moved, abs=1e-3)


def test_ranks_count_from_the_most_costly() -> None:
    costs = np.arange(30.0)[:, None] + np.zeros((1, 4))
    weights = np.ones((10, 4))
    assert layers._rank(costs, weights) == "rank 19 of 30 (19 to 19)"  # layer 11: 18 cost more
    assert layers._rank(-costs, weights) == "rank 12 of 30 (12 to 12)"
