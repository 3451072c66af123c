"""Where parts are most active: peaks, windows and medians against the activations themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.circuits.active_parts import AFTER, BEFORE, MOST_TEXTS, MOST_TOKENS, part_of


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="tiny")


def texts(count: int = 6, length: int = 24) -> list[list[int]]:
    draw = np.random.default_rng(0)
    return [draw.integers(3, 60, length).tolist() for _ in range(count)]


def test_the_strongest_token_of_each_text_is_found(lab: lk.Lab) -> None:
    given = texts()
    parts = [("head", 1, 0), ("mlp", 0, None), ("neuron", 1, 5)]
    found = lk.circuits.part_examples(lab, parts, given, k=3)
    assert list(found) == parts
    values = {part: [] for part in parts}
    for ids in given:
        trace = lab.trace(ids, keep=("head_output", "mlp_output", "mlp_neurons"))
        weight = lab.anatomy.layers[1].output_projection.weight
        output = trace.head_output(1)[0]
        values[parts[0]].append((output @ weight[:, : output.shape[-1]].T).norm(dim=-1).detach().numpy())
        values[parts[1]].append(trace.mlp_output(0).norm(dim=-1).numpy())
        values[parts[2]].append(trace.mlp_neurons(1)[:, 5].numpy())
    for part, one in found.items():
        own = values[part]
        heights = [float(np.abs(row[1:]).max()) for row in own]  # without the first token
        order = np.argsort(heights)[::-1][:3]
        assert [each.text for each in one.top] == order.tolist()
        for each in one.top:
            row = own[each.text]
            assert each.position == int(np.abs(row[1:]).argmax()) + 1
            assert each.value == pytest.approx(float(row[each.position]), abs=1e-5)
            assert each.start == max(0, each.position - BEFORE)
            stop = min(len(row), each.position + AFTER + 1)
            assert each.values == pytest.approx(row[each.start : stop].tolist(), abs=1e-5)
            assert len(each.tokens) == stop - each.start
        assert one.median == pytest.approx(float(np.median(np.abs(np.concatenate([row[1:] for row in own])))), abs=1e-5)
        assert one.tokens == 6 * 23


def test_it_is_bounded_and_can_be_ended(lab: lk.Lab) -> None:
    read: list[int] = []

    def going(done: int, total: int) -> bool:
        read.append(total)
        return done < 2

    many = texts(MOST_TEXTS + 6, 4) + texts(3, 4)  # some of them twice
    found = lk.circuits.part_examples(lab, [("mlp", 0, None)], many, k=9, going=going)
    assert set(read) == {MOST_TEXTS}
    assert len(found["mlp", 0, None].top) == 2, "what was read before it was ended counts"
    long = lk.circuits.part_examples(lab, [("mlp", 0, None)], texts(1, MOST_TOKENS + 40))
    assert long["mlp", 0, None].tokens == MOST_TOKENS - 1


def test_what_is_not_there_is_left_out_or_refused(lab: lk.Lab) -> None:
    missing: list[Any] = [("neuron", 0, 99_999), ("mlp", 99, None), ("head", 0, 99)]
    assert list(lk.circuits.part_examples(lab, [*missing, ("head", 0, 0)], texts(1))) == [("head", 0, 0)]
    odd: list[Any] = [
        ("feature", 0, 3),
        ("head", 1, None),
        ("mlp", 1, 2),
        ("neuron", -1, 2),
        ("neuron", 0, -1),
        "head 0.1",
    ]
    for part in odd:
        with pytest.raises(lk.BadInput, match=r"is no part; give \(kind, layer, index\)"):
            lk.circuits.part_examples(lab, [part], texts(1))
    with pytest.raises(lk.BadInput, match="no text"):
        lk.circuits.part_examples(lab, [("mlp", 0, None)], [])
    with pytest.raises(lk.BadInput, match="list of texts"):
        lk.circuits.part_examples(lab, [("mlp", 0, None)], "a text")


def test_a_node_without_an_activation_of_its_own_is_no_part() -> None:
    node = lk.circuits.CircuitNode
    assert part_of(node("head 1.0 @3", "head", 1, 0, 3, 0.5)) == ("head", 1, 0)
    assert part_of(node("mlp 1", "mlp", 1, None, None, 0.5)) == ("mlp", 1, None)
    for odd in (node("mlp 1.2", "mlp", 1, 2, None, 0.5), node("head 1", "head", 1, None, None, 0.5)):
        assert part_of(odd) is None
