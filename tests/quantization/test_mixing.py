"""A mix of bits: the best there is, within its bytes, and measured on other texts than it was found on."""

from __future__ import annotations

import itertools
import json

import fuzz
import numpy as np
import pytest

import labkit as lk
from labkit.quantization import Mix, contents, damage, formats, matrices, mix, quantize
from labkit.quantization import mixing as module


def documents(start: int, lengths: tuple[int, ...] = (30, 21)) -> dict[str, list[list[int]]]:
    return {
        kind: [[3 + (start + shift + 7 * i * i + i) % 90 for i in range(n)] for n in lengths]
        for shift, kind in enumerate(("one", "two"))
    }


FOUND_ON, MEASURED_ON = documents(0), documents(40, (30, 21, 12, 25, 9))


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def found(lab: lk.Lab) -> Mix[lk.Lab]:
    whole = contents(lab).size_bytes
    return mix(lab, budget_bytes=whole, texts=FOUND_ON, measured_on=MEASURED_ON, progress=False)


def test_the_choice_is_the_best_of_all(found: Mix[lk.Lab]) -> None:
    """Every combination of formats of the five first matrices, tried one by one."""
    choices = module.Choices(found._choices.rows[:5], found._choices.tokens, found._choices.rest_bytes)
    every = [
        (choices.size(chosen), choices.predicted(chosen))
        for chosen in itertools.product(*(range(len(options)) for options in choices.rows))
    ]
    for budget in np.linspace(choices.smallest, choices.largest, 23).astype(int).tolist():
        chosen = choices.solve(budget)
        assert choices.size(chosen) <= budget
        assert choices.predicted(chosen) == pytest.approx(min(kl for size, kl in every if size <= budget), rel=1e-9)


def test_where_bytes_are_rounded_to_steps_it_is_still_no_worse_than_one_format(
    found: Mix[lk.Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in large models, whose bytes don't fit into the table of the search one by one."""
    monkeypatch.setattr(module, "MOST_STEPS", 40)
    choices = module.Choices(found._choices.rows, found._choices.tokens, found._choices.rest_bytes)
    for one in choices.alike():
        chosen = choices.solve(choices.size(one))
        assert choices.size(chosen) <= choices.size(one)
        assert choices.predicted(chosen) <= choices.predicted(one)


def test_its_bytes_are_those_of_the_model_it_makes_and_its_config_is_json(lab: lk.Lab, found: Mix[lk.Lab]) -> None:
    middle = found.solve((found.smallest_bytes + found.largest_bytes) // 2)
    assert set(middle["format"]) > {"int4"} or len(set(middle["format"])) > 1
    small = middle.lab()
    assert contents(small).size_bytes == middle.size_bytes <= middle.budget_bytes
    again = quantize(lab, json.loads(json.dumps(middle.config())), progress=False)
    assert damage(small, again, MEASURED_ON, progress=False).kl == 0.0
    assert contents(again).size_bytes == middle.size_bytes
    assert middle.measured is None
    assert middle.predicted_kl == pytest.approx(middle["kl"].sum())


def test_more_bytes_never_cost_more_and_a_mix_is_no_worse_than_uniform_bits(found: Mix[lk.Lab]) -> None:
    curve = found.curve["predicted_kl"].to_numpy()
    assert (np.diff(curve) <= 1e-12).all()
    assert curve[0] > 10 * curve[-1]
    assert (found.uniform["mix_kl"] <= found.uniform["predicted_kl"] + 1e-12).all()
    assert found.uniform["format"].tolist() == list(module.FORMATS)
    assert found.solve(found.smallest_bytes).size_bytes == found.smallest_bytes
    assert set(found.solve(found.smallest_bytes)["format"]) == {"int2"}
    assert found.solve(10**12).predicted_kl == pytest.approx(curve[-1])


def test_the_mixes_are_measured_on_the_other_texts(lab: lk.Lab, found: Mix[lk.Lab]) -> None:
    assert found.measured is not None
    rows = found.measured.set_index("what")
    small = quantize(lab, "int3", progress=False)
    assert rows.loc["uniform int3", "kl"] == pytest.approx(damage(lab, small, MEASURED_ON, progress=False).kl, rel=1e-6)
    assert rows.loc["uniform int3", "size_bytes"] == contents(small).size_bytes
    assert rows.loc["mix", "kl"] == pytest.approx(damage(lab, found.lab(), MEASURED_ON, progress=False).kl, rel=1e-6)
    assert "random mix" in rows.index
    assert (rows["kl_low"] <= rows["kl"]).all()
    assert (rows["kl"] <= rows["kl_high"]).all()
    assert (rows["kl_low"] < rows["kl_high"]).all()
    assert "measured" in repr(found)


def test_one_mix_in_several_rows_is_measured_once(
    lab: lk.Lab, found: Mix[lk.Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int, ...]] = []
    real = module._divergence
    monkeypatch.setattr(module, "_divergence", lambda *args: measured.append(tuple(args[3])) or real(*args))
    budget = int(found.uniform.set_index("format").loc["int4", "size_bytes"])
    again = mix(lab, budget_bytes=budget, texts=FOUND_ON, measured_on=MEASURED_ON, progress=False)
    assert again.measured is not None
    assert len(measured) == len(set(measured)) < len(again.measured) + module.RANDOM - 1
    rows = again.measured.set_index("what")
    if "mix as large as uniform int4" in rows.index:
        assert rows.loc["mix as large as uniform int4", "kl"] == rows.loc["mix", "kl"]


def test_the_same_text_on_both_sides_is_refused(lab: lk.Lab) -> None:
    both = {"one": FOUND_ON["one"][:1], "three": MEASURED_ON["two"]}
    with pytest.raises(lk.BadInput, match="1 of the documents to measure on"):
        mix(lab, budget_bytes=10**9, texts=FOUND_ON, measured_on=both, progress=False)
    for one in ({"texts": FOUND_ON}, {"measured_on": FOUND_ON}):
        with pytest.raises(lk.BadInput, match="different ones"):
            mix(lab, budget_bytes=10**9, progress=False, **one)  # type: ignore[arg-type]


def test_a_budget_below_the_smallest_mix_is_refused_with_the_number(lab: lk.Lab, found: Mix[lk.Lab]) -> None:
    with pytest.raises(lk.BadInput, match=f"takes {found.smallest_bytes:,} bytes"):
        found.solve(found.smallest_bytes - 1)
    with pytest.raises(lk.BadInput, match="budget_bytes"):
        found.solve("much")  # type: ignore[arg-type]
    with pytest.raises(lk.Unavailable, match="quantized"):
        mix(quantize(lab, "int8", progress=False), budget_bytes=10**9)


def test_head_and_formats_of_ones_own_can_be_in_the_mix(lab: lk.Lab) -> None:
    own = formats.of("int4", group_size=16, symmetric=False)
    found = mix(
        lab, budget_bytes=10**9, texts=FOUND_ON, measured_on=MEASURED_ON, formats=(own,), head=True, progress=False
    )
    ends = [name for name, each in matrices(lab).items() if each.part != "layer"]
    assert set(found["name"]) & set(ends)
    assert found.size_bytes == contents(found.lab()).size_bytes
    assert set(found.config().values()) == {own}


def test_a_random_mix_stays_within_the_budget(found: Mix[lk.Lab]) -> None:
    choices, rng = found._choices, np.random.default_rng(0)
    budget = (choices.smallest + choices.largest) // 2
    for _ in range(20):
        assert choices.smallest < choices.size(choices.at_random(budget, rng)) <= budget
