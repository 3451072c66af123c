"""The recipe of the shipped mixture, run at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_texts import write_documents

from labkit.recipes import moe, texts


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few made-up documents of each kind, prepared; models of a size that trains in seconds."""
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    monkeypatch.setattr(moe, "SHAPE", moe.SHAPE | small | {"vocab_size": 320, "intermediate_size": 32})
    monkeypatch.setattr(moe, "VOCABULARY", 320)
    monkeypatch.setattr(moe, "EXPERTS", {"fine": (4, 2, 16), "coarse": (2, 1, 32)})
    monkeypatch.setattr(moe, "PIECES", ((0.8, 16, 2), (1.0, 32, 1)))
    monkeypatch.setattr(moe, "STEPS", 20)
    monkeypatch.setattr(moe, "WARM_UP", 4)
    monkeypatch.setattr(moe, "CHECKPOINTS", (0, 10, 20))
    write_documents(tmp_path)
    moe.prepare(tmp_path)
    return tmp_path


def test_a_run_taken_up_again_is_the_run_not_interrupted(work: Path) -> None:
    moe.train(work, "fine", device="cpu")
    whole = torch.load(work / "fine" / "state.pt", weights_only=True)
    record = (work / "fine" / "record.jsonl").read_text("utf-8")
    (work / "fine").rename(work / "first")
    moe.train(work, "fine", stop_after=10, device="cpu")
    assert torch.load(work / "fine" / "state.pt", weights_only=True)["step"] == 10
    moe.train(work, "fine", device="cpu")
    again = torch.load(work / "fine" / "state.pt", weights_only=True)
    for name, value in whole["model"].items():
        assert torch.equal(value, again["model"][name]), name

    def without_times(text: str) -> list[dict]:
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]

    assert without_times(record) == without_times((work / "fine" / "record.jsonl").read_text("utf-8"))


def test_training_learns_and_records(work: Path) -> None:
    for name in ("fine", "coarse", "dense"):
        moe.train(work, name, device="cpu")
        lines = [json.loads(line) for line in (work / name / "record.jsonl").read_text("utf-8").splitlines()]
        measured = [line for line in lines if "held_out" in line]
        assert [line["step"] for line in measured] == [0, 10, 20]
        assert set(measured[0]["held_out"]) == set(texts.KINDS)
        assert np.mean(list(measured[-1]["held_out"].values())) < np.mean(list(measured[0]["held_out"].values()))
        assert ("max_violation" in measured[0]) == (name != "dense")


def test_the_models_have_as_many_parameters_at_work() -> None:
    fine, coarse, dense = (sum(p.numel() for p in moe.build(n).parameters()) for n in ("fine", "coarse", "dense"))
    routers = moe.SHAPE["num_hidden_layers"] * moe.SHAPE["hidden_size"]
    assert fine - coarse == routers * (moe.EXPERTS["fine"][0] - moe.EXPERTS["coarse"][0])
    for name, whole in (("fine", fine), ("coarse", coarse)):
        experts, chosen, width = moe.EXPERTS[name]
        resting = (experts - chosen) * 3 * width * routers
        assert whole - resting - routers * experts == dense


def test_a_step_reads_as_much_of_every_kind_and_each_piece_once_before_any_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moe, "STEPS", 100)
    monkeypatch.setattr(moe, "PIECES", ((0.8, 16, 2), (1.0, 32, 1)))
    ids = {kind: (np.arange(601) + 1_000 * i).astype(np.uint16) for i, kind in enumerate(texts.KINDS)}
    rows = moe.batch(ids, 3)
    assert rows.shape == (10, 16)
    assert (rows[:, 0] == 0).all()
    assert [int(row[1]) // 1_000 for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(rows, moe.batch(ids, 3))
    seen = torch.cat([moe.batch(ids, step)[:2, 1] for step in range(20)]).tolist()  # 40 pieces of 15 tokens
    assert len(set(seen)) == 40
    assert moe.batch(ids, 80).shape == (5, 32)


def test_balancing_loss_is_one_when_even_and_all_experts_when_one_takes_everything() -> None:
    even = torch.zeros(8, 4)
    assert moe.balancing_loss(even, torch.tensor([[0, 1], [2, 3]] * 4)).item() == pytest.approx(1)
    one = torch.full((8, 4), -50.0)
    one[:, 2] = 50.0
    assert moe.balancing_loss(one, torch.full((8, 1), 2)).item() == pytest.approx(4)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    rates = [moe.learning_rate(step) for step in range(moe.STEPS)]
    assert max(rates) == pytest.approx(moe.OPTIMIZING.learning_rate, rel=0.02)
    assert rates.index(max(rates)) in (moe.WARM_UP - 1, moe.WARM_UP)
    assert rates[-1] < 0.01 * moe.OPTIMIZING.learning_rate


def test_held_out_documents_are_in_no_training_text(work: Path) -> None:
    for kind in texts.KINDS:
        documents = [texts.Document(title=str(i), source="", text=f"text {i}") for i in range(300)]
        training, held_out = texts.split(documents, kind)
        assert len(held_out) == texts.HELD_OUT[kind]
        assert not {d["title"] for d in training} & {d["title"] for d in held_out}
        for passage, document in zip(
            texts.passages(work / "texts", kind), texts.load(work / "texts", "held_out", kind), strict=True
        ):
            assert passage["text"] in document["text"]
