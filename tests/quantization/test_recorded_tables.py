"""The tables of the small models that labkit trained to quantize, and one point of each computed again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import labkit as lk
from labkit.models import shipped
from labkit.quantization import damage, quantize, recorded_squeeze, recorded_ternary
from labkit.recipes import squeeze


@pytest.fixture(scope="module")
def late() -> lk.Lab:
    return lk.load("labkit-squeeze", dtype="float32", device="cpu")


def mean_change(found: lk.quantization.Damage) -> float:
    """Nats a token, each kind counting the same, as in the tables."""
    table = found.table
    return float(table.loc[table["kind"].isin(squeeze.texts.KINDS), "loss_change"].mean())


def test_each_table_has_every_checkpoint_and_intervals_that_hold_their_value() -> None:
    table = recorded_squeeze(None)
    assert set(table["model"]) == set(squeeze.LAST) - {"ternary"}
    for name, rows in table.groupby("model"):
        steps = [step for step in squeeze.CHECKPOINTS if step <= squeeze.LAST[str(name)]]
        assert sorted(rows["step"].unique()) == steps
        assert len(rows) == len(steps) * len(squeeze.FORMATS)
    assert ((table["low"] <= table["loss_change"]) & (table["loss_change"] <= table["high"])).all()
    assert (table["tokens"] == table["step"] * 2_560).all()
    assert set(recorded_squeeze()["model"]) == {"wide"}
    assert len(recorded_squeeze("narrow")) == len(table[table["model"] == "narrow"])
    ways = recorded_ternary()
    assert set(ways["way"]) == set(squeeze.WAYS)
    assert (ways.loc[ways["way"] == "full precision", "cost"] == 0).all()
    with pytest.raises(lk.BadInput, match="model='wider' can't be used"):
        recorded_squeeze("wider")


@pytest.mark.parametrize(
    ("name", "step"), [("labkit-squeeze-early", squeeze.EARLY), ("labkit-squeeze", squeeze.LAST["wide"])]
)
def test_a_point_computed_now_is_the_one_recorded(name: str, step: int) -> None:
    lab = lk.load(name, dtype="float32", device="cpu")
    kinds = lk.quantization.texts(20, characters=350)
    assert kinds == squeeze.passages()
    formats = {"int3": {"group_size": squeeze.GROUP, "symmetric": False}, "ternary": {}}
    smalls = [quantize(lab, how, progress=False, **settings) for how, settings in formats.items()]  # type: ignore[arg-type]
    found = damage(lab, smalls, kinds, tokens=None, draws=10, progress=False)
    recorded = recorded_squeeze().query("step == @step").set_index("format")
    for how, now in zip(formats, found, strict=True):
        # what is shipped is in half precision, what was measured was not
        assert mean_change(now) == pytest.approx(recorded.loc[how, "loss_change"], rel=0.05, abs=0.002), how


def test_the_ternary_one_has_three_values_and_the_recorded_loss(late: lk.Lab) -> None:
    lab = lk.load("labkit-ternary", dtype="float32", device="cpu")
    for module in lk.quantization.matrices(lab).values():
        if module.part == "layer":
            assert len(module.weight.unique()) == 3
    found = damage(late, lab, squeeze.passages(), tokens=None, draws=10, progress=False)
    recorded = recorded_ternary().query("step == @squeeze.LAST['ternary']").set_index("way")
    assert mean_change(found) == pytest.approx(recorded.loc["trained through", "cost"], abs=0.005)


def test_the_card_has_the_figures_of_the_tables() -> None:
    assert (shipped.MODELS["labkit-squeeze"].path / "README.md").read_text("utf-8") == squeeze.card()


def test_they_share_a_tokenizer_and_notice_when_it_is_damaged(late: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shipped.MODELS["labkit-squeeze"]
    assert not (model.path / "tokenizer.json").exists()
    text = "The State of the Union"
    assert late.tokenizer(text)["input_ids"] == lk.load("labkit-dense").tokenizer(text)["input_ids"]
    real = shipped.problems
    monkeypatch.setattr(
        shipped, "problems", lambda one: ["tokenizer.json is missing"] if one.name == "labkit-dense" else real(one)
    )
    with pytest.raises(lk.BadModelFile, match=r"labkit-dense, whose tokenizer it has: tokenizer\.json is missing"):
        shipped.checked(model)


def test_a_table_that_cant_be_read_is_refused(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.quantization.recorded.ASSETS", tmp_path)
    for read in (recorded_squeeze, recorded_ternary):
        with pytest.raises(
            lk.BadModelFile, match=r"\.csv, which comes with labkit, can't be read; install labkit again"
        ):
            read()


def test_what_is_claimed_of_them_stands_in_the_tables() -> None:
    """Rounding costs more the longer the training and the fewer the bits; training through it saves most of the cost."""
    steady = recorded_squeeze().query("step <= 2400").set_index(["step", "format"])
    first, last = squeeze.EARLY, squeeze.LAST["wide"]
    for how in ("int3", "int2", "ternary"):
        assert steady.loc[(last, how), "growth_low"] > 0, how
        assert steady.loc[(last, how), "loss_change"] > steady.loc[(first, how), "loss_change"]
    ordered = steady.loc[last].loc[["int8", "int4", "int3", "int2"], "loss_change"]
    assert np.all(np.diff(ordered) > 0)
    ways = recorded_ternary().set_index(["step", "way"])
    assert ways.loc[(last, "trained through"), "cost_high"] < ways.loc[(last, "rounded after"), "cost_low"]
    assert isinstance(ways, pd.DataFrame)
