"""Swapping two concepts in a lens's space: on hand-made directions, beside random ones, and as an edit of a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.circuits.jacobian_lens import JacobianLens

IDS = [(7 * i * i + 3 * i + 1) % 60 + 3 for i in range(12)]
A, B = 7, 11


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    family = FAMILIES["llama3"]
    return lk.Lab(
        build(dataclasses.replace(family, fields={**family.fields, "num_hidden_layers": 3})), Tokens(), name="tiny"
    )


@pytest.fixture(scope="module")
def reading(lab: lk.Lab) -> Any:
    width = lab.config.hidden_size
    draw = torch.Generator().manual_seed(3)
    matrices = {i: torch.eye(width) + 0.3 * torch.randn(width, width, generator=draw) for i in (1, 2)}
    return lk.lens(lab, _trace(lab), lens=JacobianLens(matrices, 1, lab.name, 3))


def _trace(lab: lk.Lab) -> lk.Trace:
    return lab.trace(IDS, keep=("residual", "logits"))


def _plane(lab: lk.Lab, reading: Any, layer: int) -> torch.Tensor:
    """(d_model, 2) float64: J_l^T · gain · W_U of the two tokens, written out."""
    rows = lab.model.lm_head.weight.detach()[[A, B]].double() * lab.model.model.norm.weight.detach().double()
    return (rows @ reading.lens.jacobian(layer).double()).T


def _coordinates(plane: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return torch.linalg.lstsq(plane, states.double().T).solution.T


def test_the_two_coordinates_change_places_and_nothing_else(lab: lk.Lab, reading: Any) -> None:
    plane = _plane(lab, reading, 2)
    before = _trace(lab).residual(2)
    with lab.edit(lk.swap(reading, A, B, layers=2)):
        after = _trace(lab).residual(2)
    old, new = _coordinates(plane, before), _coordinates(plane, after)
    assert (old[:, 0] - old[:, 1]).abs().min() > 1e-3
    torch.testing.assert_close(new[1:], old[1:].flip(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after[0], before[0], atol=0, rtol=0)  # the first token is left alone
    left = (after - before).double() - (new - old) @ plane.T
    assert left.abs().max() < 1e-5


def test_on_directions_made_by_hand() -> None:
    """Two orthogonal directions of the unembedding: the state's shares of them change places, to the number."""
    family = FAMILIES["llama3"]
    lab = lk.Lab(
        build(dataclasses.replace(family, fields={**family.fields, "num_hidden_layers": 2})), Tokens(), name="hand"
    )
    width = lab.config.hidden_size
    with torch.no_grad():
        lab.model.model.norm.weight.fill_(1.0)
        lab.model.lm_head.weight[A] = 2 * torch.eye(width)[0]
        lab.model.lm_head.weight[B] = 2 * torch.eye(width)[1]
    lens = JacobianLens({1: torch.eye(width)}, 1, lab.name, 2)
    trace = _trace(lab)
    edit = lk.swap(lk.lens(lab, trace, lens=lens), A, B, layers=1, tokens="3")
    with lab.edit(edit):
        after = _trace(lab).residual(1)[3]
    expected = trace.residual(1)[3].clone()
    expected[[0, 1]] = expected[[1, 0]]
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-6)


def test_twice_is_nothing_and_double_strength_goes_twice_as_far(lab: lk.Lab, reading: Any) -> None:
    before = _trace(lab)
    once, twice = lk.swap(reading, A, B, layers=1), lk.swap(reading, A, B, layers=1, strength=2)
    with lab.edit(once, once):
        torch.testing.assert_close(_trace(lab).logits, before.logits, atol=1e-4, rtol=1e-4)
    with lab.edit(once):
        moved = _trace(lab).residual(1) - before.residual(1)
    with lab.edit(twice):
        torch.testing.assert_close(_trace(lab).residual(1) - before.residual(1), 2 * moved, atol=1e-5, rtol=1e-4)


def test_several_layers_do_not_undo_each_other(lab: lk.Lab, reading: Any) -> None:
    plane = _plane(lab, reading, 1)
    larger = _coordinates(plane, _trace(lab).residual(1))
    larger = larger[:, 0] > larger[:, 1]
    with lab.edit(lk.swap(reading, A, B, layers=(1, 2))):
        after = _trace(lab)
    for layer in (1, 2):
        found = _coordinates(_plane(lab, reading, layer), after.residual(layer))
        assert bool((found[1:, 0] <= found[1:, 1] + 1e-5).all())
    untouched = ~larger
    untouched[0] = True
    torch.testing.assert_close(after.residual(1)[untouched], _trace(lab).residual(1)[untouched], atol=1e-6, rtol=1e-6)


def test_random_directions_move_the_stream_by_as_much_elsewhere(lab: lk.Lab, reading: Any) -> None:
    before = _trace(lab).residual(2)
    moved = []
    for seed in (None, 0, 0, 1):
        with lab.edit(lk.swap(reading, A, B, layers=2, random=seed)):
            moved.append(_trace(lab).residual(2) - before)
    sizes = [one.norm(dim=-1) for one in moved]
    for size in sizes[1:]:
        torch.testing.assert_close(size, sizes[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(moved[1], moved[2])
    for one in (moved[1], moved[3]):
        cosine = torch.nn.functional.cosine_similarity(one[1:], moved[0][1:], dim=-1)
        assert cosine.abs().mean() < 0.6
    plane = _plane(lab, reading, 2)
    assert not torch.allclose(_coordinates(plane, moved[1]), torch.zeros(1).double(), atol=1e-3)


def test_it_holds_while_generating_and_nothing_is_left(lab: lk.Lab, reading: Any) -> None:
    plain = lab.generate(IDS, max_new_tokens=4).ids
    with lab.edit(lk.swap(reading, A, B, layers=(1, 2), strength=3)):
        made = lab.generate(IDS, max_new_tokens=4)
        again = lab.trace([*IDS, *made.ids[:-1]], keep="logits").logits[len(IDS) - 1 :]
    assert made.ids == again.argmax(-1).tolist()
    assert made.ids != plain
    assert lab.generate(IDS, max_new_tokens=4).ids == plain


def test_the_logit_lens_swaps_too(lab: lk.Lab) -> None:
    read = lk.lens(lab, _trace(lab), kind="logit")
    rows = lab.model.lm_head.weight.detach()[[A, B]].double() * lab.model.model.norm.weight.detach().double()
    before = _trace(lab).residual(0)
    with lab.edit(lk.swap(read, A, B, layers=0, tokens="0:")):
        after = _trace(lab).residual(0)
    torch.testing.assert_close(_coordinates(rows.T, after), _coordinates(rows.T, before).flip(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": A}, "are the same token"),
        ({"source": 10**6}, "no token 1000000"),
        ({"layers": 0}, "no matrix for layer 0"),
        ({"layers": 9}, "no layer 9"),
        ({"layers": []}, "layers is empty"),
        ({"strength": float("nan")}, "strength"),
        ({"where": "some"}, "where='some'"),
        ({"tokens": "x"}, "x"),
        ({"random": -1}, "random=-1"),
    ],
)
def test_what_cannot_be_swapped_is_refused(reading: Any, change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"source": A, "target": B, "layers": 1} | change
    with pytest.raises(lk.BadInput, match=said):
        lk.swap(reading, given.pop("source"), given.pop("target"), **given)


def test_parallel_directions_and_other_models_are_refused(lab: lk.Lab, reading: Any) -> None:
    width = lab.config.hidden_size
    flat = JacobianLens({i: torch.ones(width, width) for i in (1, 2)}, 1, lab.name, 3)
    with pytest.raises(lk.BadInput, match="have one direction"):
        lk.swap(lk.lens(lab, _trace(lab), lens=flat), A, B, layers=1)
    other = lk.Lab(lab.model, Tokens(), name="another")
    with pytest.raises(lk.BadInput, match="was fitted on tiny"), other.edit(lk.swap(reading, A, B, layers=1)):
        pass
    with pytest.raises(lk.BadInput, match=r"takes a lens from lk\.lens"):
        lk.swap(reading.lens, A, B)
