"""The recall task: sequences are what they say, models learn it, and its numbers stand beside chance."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import labkit as lk
from labkit.recipes import recall as recipe
from labkit.recurrent import recalling
from labkit.recurrent.recalling import UNASKED, RecallModel, RecallTask, recall, recall_events, recorded_recall

TASK = RecallTask(keys=8, values=8, pairs=(1, 2))


def test_sequences_ask_what_they_told() -> None:
    task = RecallTask(keys=20, values=10)
    ids, targets = task.sample(50, 6, torch.Generator().manual_seed(0))
    assert ids.shape == targets.shape == (50, 18)
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        told = dict(zip(row[0:12:2], row[1:12:2], strict=True))
        assert len(told) == 6, "no key stands twice"
        assert all(key < 20 <= value < 30 for key, value in told.items())
        assert wanted[:12] == [UNASKED] * 12
        assert [told[key] for key in row[12:]] == wanted[12:]
    assert any(row[12:] != row[0:12:2] for row in ids.tolist()), "asked in another order"
    guessed = torch.stack([ids[i, 1:12:2][torch.randint(6, (6,))] for i in range(50)])
    assert task.among_read(6) == pytest.approx((1 + 5 / 10) / 6)
    assert float((guessed == targets[:, 12:]).double().mean()) == pytest.approx(task.among_read(6), abs=0.08)


@pytest.mark.parametrize("kind", recalling.KINDS)
def test_models_step_by_step_and_bytes(kind: recalling.Kind) -> None:
    torch.manual_seed(0)
    model = RecallModel(kind, 16, d_model=16, d_state=4)
    ids = TASK.sample(3, 2, torch.Generator().manual_seed(1)).ids
    with torch.no_grad():
        states, outputs = model.start(3), []
        for column in ids.T:
            logits, states = model.step(column, states)
            outputs.append(logits)
        torch.testing.assert_close(torch.stack(outputs, 1), model(ids), atol=1e-5, rtol=1e-5)
    held = sum(part.numel() * 4 for state in states for part in state)
    assert model.state_bytes(6) * 3 == held
    assert (model.state_bytes(60) > model.state_bytes(6)) == (kind != "state space")


def test_they_learn_it() -> None:
    found = recall(["attention", "state space"], task=TASK, d_model=16, d_state=8, steps=100, sequences=200, seeds=1)
    table = found.table
    assert list(table["kind"]) == ["attention"] * 2 + ["state space"] * 2
    assert (table["accuracy"][table["pairs"] == 1] > 0.95).all()
    assert table["accuracy"][1] > TASK.among_read(2) + 0.1
    assert (table["untrained"] < 0.5).all()
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    assert (table["high"] - table["low"] > 0.005).all(), "never a width of nothing"
    assert found.task.chance == 1 / 8
    assert "any value" in repr(found)
    again = recall("attention", task=TASK, d_model=16, steps=100, sequences=200, seeds=1)
    assert again.table["accuracy"].tolist() == table["accuracy"].tolist()[:2]


def test_events_for_a_live_panel_and_the_stop() -> None:
    stop = threading.Event()
    events = recall_events(task=TASK, d_model=16, d_state=[2, 4], steps=20, sequences=20, stop=stop)
    seen = []
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            found: recalling.Recall = end.value
            break
        seen.append(event)
        if str(event["say"]).startswith("state space 2"):
            stop.set()
    assert set(found.table["kind"]) == {"attention", "state space"}
    assert found.trainings["state space", 2, 0].outcome == "stopped"
    assert {"attention, 1 pairs", "attention, 2 pairs"} <= {name for e in seen for name in e["values"]}  # type: ignore[attr-defined]
    assert all(0 <= e["done"] <= e["total"] == 5 * 20 for e in seen)  # type: ignore[operator]


def test_the_record_that_is_shipped_and_how_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = recorded_recall().table
    assert set(table["kind"]) == set(recalling.KINDS)
    assert set(table["pairs"]) == set(recipe.TASK.pairs)
    made = table[table["seed"] == 0].drop_duplicates(["kind", "d_model", "d_state"])
    assert len(made) == len(recipe.RUNS)
    wide = table[(table["kind"] == "state space") & (table["pairs"] == 16)].groupby("d_state")["accuracy"].mean()
    assert wide[64] > wide[8] + 0.2 > wide[2] + 0.2, "more state, more recall"
    assert (table[table["kind"] == "attention"]["accuracy"] > 0.95).all()
    for _, row in table.drop_duplicates(["kind", "d_model", "d_state"]).iterrows():
        kind, states = row["kind"], row["d_state"]
        model = RecallModel(kind, 128, d_model=row["d_model"], d_state=1 if kind == "attention" else int(states))
        assert model.state_bytes(3 * row["pairs"]) == row["state_bytes"]
    path = tmp_path / "recall.jsonl"
    monkeypatch.setattr(recipe, "TASK", TASK)
    monkeypatch.setattr(recipe, "SEEDS", (0,))
    recipe.run(path, [("attention", 16, 1)], steps=5)
    before = path.read_text()
    recipe.run(path, [("attention", 16, 1), ("state space", 16, 2)], steps=5)
    assert path.read_text().startswith(before), "what is there is not made again"
    monkeypatch.setattr(recalling, "RECORD", path)
    assert len(recorded_recall().table) == 4
    path.write_text("{}\n")
    with pytest.raises(lk.BadModelFile, match="install labkit again"):
        recorded_recall()


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": "transformer"},
        {"kinds": []},
        {"d_model": 18},
        {"d_state": 0},
        {"steps": 0},
        {"sequences": 0},
        {"seeds": []},
    ],
)
def test_what_cannot_be_used(wrong: dict[str, object]) -> None:
    with pytest.raises(lk.BadInput):
        recall(**({"task": TASK, "steps": 1} | wrong))  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput):
        RecallTask(keys=4, pairs=(5,))
    with pytest.raises(lk.BadInput):
        RecallTask(pairs=())
