"""The mask view: what carries loss is what the mask says, for each sample and each packed row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tuned import DATA, hand_mask

import labkit as lk
from labkit.views.mask_view import DRAWN_TOKENS, HELD_ROWS


def looks(view: Any) -> list[list[int]]:
    return [sample["looks"] for sample in view.shown["samples"]]


def test_loss_and_ends_are_those_of_the_mask() -> None:
    found = hand_mask()
    view = lk.views.mask(found, sample=3)
    each = found.samples[3]
    assert looks(view) == [[0] * 9 + [1] * (each.trained - 1) + [2]]
    (sample,) = view.shown["samples"]
    assert sample["pieces"]["texts"] == list(each.tokens)
    assert (sample["ids"], sample["sample"], sample["trained"]) == (list(each.ids), 3, each.trained)
    view.row = 5
    assert view.shown["samples"][0]["trained"] == found.samples[5].trained
    assert view.table["loss"].tolist() == list(found.samples[5].learns)
    assert view.table["ends"].sum() == 1


@pytest.mark.parametrize("packing", [False, True])
def test_a_real_mask_is_shown_as_it_is(tiny_lab: lk.Lab, packing: bool) -> None:
    found = lk.lora.mask(tiny_lab, DATA, packing=packing)
    view = lk.views.mask(found, sample=5)
    table = view.table
    for i, rows in table.groupby("sample"):
        each = found.samples[int(str(i))]
        assert rows["loss"].tolist() == list(each.learns)
        assert rows["id"].tolist() == list(each.ids)
        assert tiny_lab.tokenizer.convert_ids_to_tokens(rows.loc[rows["ends"], "id"].tolist()) == ["<|im_end|>"]
    assert 5 in set(table["sample"])
    assert set(table["sample"]) == ({5} if not packing else set(found.rows[view.row]))
    assert view.facts["trained"] == found.trained


def test_an_end_token_without_loss_is_no_end() -> None:
    """The prompt's own turn ends with the same token, which nobody learns."""
    view = lk.views.mask(hand_mask())
    tokens = view.shown["samples"][0]["pieces"]["texts"]
    assert [i for i, token in enumerate(tokens) if token == "</s>"] == [7, len(tokens) - 1]
    assert looks(view)[0][7] == 0


def test_packed_rows_hold_their_samples() -> None:
    found = hand_mask(packing=True)
    view = lk.views.mask(found, sample=7)
    assert view.row == 2
    assert [sample["sample"] for sample in view.shown["samples"]] == [6, 7, 8]
    assert view.facts["rows"] == 4
    assert view.table["sample"].tolist() == [i for i in (6, 7, 8) for _ in found.samples[i].ids]


def test_the_overview_holds_all_tokens() -> None:
    for count in (5, 1_000):
        found = hand_mask(count)
        bars = np.frombuffer(lk.views.mask(found).bars, "<f4").reshape(-1, 3)
        assert bars[0, 0] == 0
        assert len(bars) == min(count, 160)
        rows = np.diff([*bars[:, 0], count])
        assert (bars[:, 1] * rows).sum() == pytest.approx(found.tokens, rel=1e-4)
        assert (bars[:, 2] * rows).sum() == pytest.approx(found.trained, rel=1e-4)


def test_a_file_holds_the_row_on_show_and_the_first_ones() -> None:
    view = lk.views.mask(hand_mask(500), sample=400)
    held = [row["row"] for row in view._export_state()["held"]]
    assert held == [*range(HELD_ROWS), 400]


def test_long_samples_are_cut_and_it_is_said() -> None:
    found = hand_mask(2)
    long = found.samples[0]
    long.tokens, long.ids, long.learns = long.tokens * 400, long.ids * 400, long.learns * 400
    view = lk.views.mask(found)
    assert len(looks(view)[0]) == DRAWN_TOKENS
    assert view.shown["more"] == len(long.ids) - DRAWN_TOKENS
    assert len(view.table) == len(long.ids)


def test_problems_are_said() -> None:
    found = hand_mask()
    found.problems = tuple(f"Sample {i} carries no loss." for i in range(5))
    view = lk.views.mask(found)
    assert (len(view.facts["problems"]), view.facts["more"]) == (3, 2)
    assert "Not to be trained on: Sample 0 carries no loss." in view._static_text()
    assert "and 2 problems more" in view._static_text()


def test_what_is_no_mask_and_no_row_is_refused() -> None:
    with pytest.raises(lk.BadInput, match=r"lk\.lora\.mask"):
        lk.views.mask([1, 2])  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match="sample"):
        lk.views.mask(hand_mask(3), sample=3)
    view = lk.views.mask(hand_mask(3))
    for row in (-1, 3):
        with pytest.raises(lk.BadInput, match="no row"):
            view.row = row
    assert view.row == 0
