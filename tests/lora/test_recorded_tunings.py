"""The tunings that were run once: whole, each of the recipe's own settings, and told by experiment."""

from __future__ import annotations

import pandas as pd
import pytest

import labkit as lk
from labkit.lora.records import recorded
from labkit.models import shipped
from labkit.recipes import lora as recipe


def test_every_record_is_a_setting_of_the_recipe() -> None:
    table = recorded()
    wanted = {name: {setting.key for setting in each.settings} for name, each in recipe.experiments().items()}
    for row in table.to_dict("records"):
        fields = {name: row[name] for name in recipe.Setting.__dataclass_fields__}
        fields["neftune"] = None if pd.isna(fields["neftune"]) else fields["neftune"]
        assert recipe.Setting(**fields).key in wanted[row["experiment"]]
    assert not table.duplicated(["experiment", *recipe.Setting.__dataclass_fields__]).any()


def test_what_was_measured_is_there_and_possible() -> None:
    table = recorded()
    assert table[["right", "held_out", "held_out_untuned", "forgetting", "kl", "loss"]].notna().all(axis=None)
    assert table["right"].between(table["right_low"], table["right_high"]).all()
    assert (table["kl"] >= 0).all()
    assert (table["held_out"] < table["held_out_untuned"]).all(), (
        "a tuning that learns nothing is a mistake in its setting"
    )


def test_one_experiment_is_chosen() -> None:
    assert set(recorded("neftune")["experiment"]) == {"neftune"}
    with pytest.raises(lk.LabError, match="neftune"):
        recorded("neftun")


def test_the_card_says_how_many_there_are() -> None:
    folder = shipped.ASSETS / "labkit-lora"
    count = len(recorded().drop_duplicates(list(recipe.Setting.__dataclass_fields__)))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"`runs.csv` has {count} runs" in card
    assert "{{" not in card
