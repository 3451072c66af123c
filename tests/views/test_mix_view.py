"""The mix view: what is drawn for a budget is what `solve` gives, live and in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fuzz
import numpy as np
import pytest

import labkit as lk
from labkit.models.memory import human_bytes
from labkit.quantization import Mix, contents
from labkit.quantization.intervals import with_interval
from labkit.views.mix_view import MixView

SECONDS = 30


def documents(start: int) -> dict[str, list[list[int]]]:
    return {
        kind: [[3 + (start + shift + 7 * i * i + i) % 90 for i in range(24)]]
        for shift, kind in enumerate(("one", "two"))
    }


@pytest.fixture(scope="module")
def found() -> Mix[lk.Lab]:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    whole = contents(lab).size_bytes
    return lk.quantization.mix(
        lab,
        budget_bytes=whole,
        texts=documents(0),
        measured_on=documents(40),
        formats=("int8", "int4", "int2"),
        head=True,
        draws=20,
        progress=False,
    )


@pytest.fixture
def view(found: Mix[lk.Lab]) -> Iterator[MixView]:
    made = lk.views.mix(found)
    yield made
    made.close()


def test_another_budget_is_solved_anew(view: MixView, found: Mix[lk.Lab]) -> None:
    before = view.shown
    budget = (found.smallest_bytes + found.largest_bytes) // 2
    view.budget = budget
    assert view.wait(SECONDS)
    solved = found.solve(budget)
    assert view.shown != before
    assert view.shown["size"] == solved.size_bytes == view.mix.size_bytes
    assert view.shown["predicted"] == solved.predicted_kl
    formats = [view.options["formats"][place] for place in view.shown["chosen"]]
    assert formats == list(solved.table["format"])
    assert view.table.equals(solved.table)
    assert view.status["state"] == "done"


def test_formats_rise_and_each_cell_has_its_own_numbers(view: MixView, found: Mix[lk.Lab]) -> None:
    assert view.options["formats"] == ["int2", "int4", "int8"]
    assert view.options["rows"] == ["0", "1", "ends"]
    options = found.options.set_index(["name", "format"])
    for name, cell in zip(found.table["name"], view.options["cells"], strict=True):
        for format, given in zip(view.options["formats"], cell["in"], strict=True):
            row = options.loc[(name, format)]
            assert given == [row["bits_per_weight"], row["bytes"], row["kl"]]


def test_a_file_has_the_mixes_of_the_curve(view: MixView, found: Mix[lk.Lab]) -> None:
    state: dict[str, Any] = view._export_state()
    budgets = list(found.curve["budget_bytes"])
    assert state["curve"]["budgets"] == budgets
    assert state["curve"]["predicted"] == pytest.approx(list(found.curve["predicted_kl"]))
    chosen = np.frombuffer(state["chosen"], np.uint8).reshape(len(budgets), -1)
    for place in (0, len(budgets) // 2, len(budgets) - 1):
        names = [view.options["formats"][i] for i in chosen[place]]
        assert names == list(found.solve(budgets[place]).table["format"])


def test_uniform_bits_and_what_was_measured_stand_beside_it(view: MixView, found: Mix[lk.Lab]) -> None:
    assert found.measured is not None
    assert [row["what"] for row in view.measured] == list(found.measured["what"])
    assert [row["mix_kl"] for row in view.uniform] == list(found.uniform["mix_kl"])
    assert "uniform int4" in view._static_text()
    lines = view._static_text().splitlines()
    for row in found.measured.to_dict("records"):
        kl = with_interval(row["kl"], row["kl_low"], row["kl_high"])
        assert f"{row['what']}, {human_bytes(row['size_bytes'])}, {kl}" in lines
    solved = lk.views.mix(found.solve(found.smallest_bytes))
    assert solved.measured == []
    assert solved.budget == found.smallest_bytes
    solved.close()


def test_what_is_no_mix_and_no_budget_is_refused(view: MixView, found: Mix[lk.Lab]) -> None:
    with pytest.raises(lk.BadInput, match=r"lk\.quantization\.mix"):
        lk.views.mix(found.table)
    for budget in (found.smallest_bytes - 1, found.largest_bytes + 1):
        with pytest.raises(lk.BadInput, match="out of reach"):
            view.budget = budget
