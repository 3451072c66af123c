"""The recipe of the models to quantize, run at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_up_texts import write_documents
from safetensors.torch import load_file

from labkit.recipes import pretraining, squeeze, texts


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up documents, prepared; models that train in seconds; nothing is written into the assets."""
    for name, value in {
        "WIDTHS": {"wide": 24, "narrow": 8, "ternary": 24},
        "STEPS": 20,
        "WARM_UP": 4,
        "LENGTH": 16,
        "EACH": 1,
        "CHECKPOINTS": (10, 20),
        "LAST": {"wide": 20, "narrow": 20, "ternary": 20},
        "EARLY": 10,
        "GROUP": 4,
        "DOCUMENTS": 3,
        "DRAWS": 200,
        "SHIPPED": tmp_path / "shipped",
    }.items():
        monkeypatch.setattr(squeeze, name, value)
    write_documents(tmp_path)
    squeeze.prepare(tmp_path)
    return tmp_path


def test_a_run_taken_up_again_is_the_run_not_interrupted(work: Path) -> None:
    squeeze.train(work, "ternary", device="cpu")
    (work / "ternary").rename(work / "first")
    squeeze.train(work, "ternary", stop_after=10, device="cpu")
    assert pretraining.read(work / "ternary" / "record.jsonl")[-1]["step"] == 0
    squeeze.train(work, "ternary", device="cpu")
    first, again = (pretraining.finished(work / name, 20) for name in ("first", "ternary"))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name

    def without_times(name: str) -> list[dict]:
        lines = pretraining.read(work / name / "record.jsonl")
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert without_times("first") == without_times("ternary")
    losses = [line["loss"] for line in without_times("first") if "loss" in line]
    assert losses[-1] < losses[0] - 0.1


def test_what_is_trained_through_rounding_is_kept_rounded(work: Path) -> None:
    squeeze.train(work, "ternary", device="cpu")
    kept = load_file(work / "ternary" / "20.safetensors")
    matrices = {name: weight for name, weight in kept.items() if "layers" in name and weight.ndim == 2}
    assert len(matrices) == 4 * 7
    for weight in matrices.values():
        assert len(weight.unique()) == 3
    latent = pretraining.finished(work / "ternary", 20)
    hidden = latent["model.layers.0.mlp.up_proj.parametrizations.weight.original"]
    assert len(hidden.unique()) > 3
    scale = hidden.abs().mean()
    torch.testing.assert_close(
        kept["model.layers.0.mlp.up_proj.weight"], (hidden / scale).round().clamp(-1, 1) * scale, rtol=1e-5, atol=1e-8
    )


def test_the_gradient_passes_through_the_rounding() -> None:
    weight = torch.tensor([[0.9, -0.1], [2.0, -1.0]], requires_grad=True)
    rounded = squeeze.Ternary()(weight)
    torch.testing.assert_close(rounded, torch.tensor([[1.0, 0.0], [1.0, -1.0]]))
    (rounded * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_measuring_writes_what_each_format_costs_each_checkpoint(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in squeeze.WIDTHS:
        squeeze.train(work, name, device="cpu")
    squeeze.measure(work)
    table, ways = squeeze.pd.read_csv(work / "shipped/squeezed.csv"), squeeze.pd.read_csv(work / "shipped/ternary.csv")
    assert len(table) == 2 * 2 * len(squeeze.FORMATS)
    assert set(table["format"]) == set(squeeze.FORMATS)
    assert (table["low"] <= table["loss_change"]).all()
    assert (table["loss_change"] <= table["high"]).all()
    assert np.allclose(table["loss"] - table["original_loss"], table["loss_change"], atol=2e-5)
    assert (table.loc[table["step"] == squeeze.EARLY, ["growth", "growth_low", "growth_high"]] == 0).all(None)
    assert table["beyond_wide"].isna().eq(table["model"] == "wide").all()
    bits = table.groupby("format")["bits"].first()
    assert bits["int8"] > bits["int4"] > bits["int3"] > bits["int2"] > 2
    one = table.query("model == 'wide' and step == 20 and format == 'ternary'").iloc[0]
    after = ways.query("step == 20 and way == 'rounded after'").iloc[0]
    assert (one["loss"], one["loss_change"]) == (after["loss"], after["cost"])
    # nothing is measured twice
    monkeypatch.setattr(squeeze, "document_losses", None)
    squeeze.measure(work)


def test_the_loss_of_a_document_is_the_models_own() -> None:
    model = squeeze.build("narrow").eval()
    rows = [[0, 5, 9, 70], [0, 8], [0, 3, 3, 3, 3, 7]]
    sums = squeeze.document_losses(model, rows)
    for row, found in zip(rows, sums, strict=True):
        with torch.no_grad():
            own = model(input_ids=torch.tensor([row]), labels=torch.tensor([row])).loss.item()
        assert found / (len(row) - 1) == pytest.approx(own, rel=1e-4)


def test_the_loss_in_pieces_is_torchs_with_its_gradients() -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(300, 6, requires_grad=True), torch.randn(11, 6, requires_grad=True)
    targets = torch.randint(0, 11, (300,))
    loss = pretraining.mean_cross_entropy(rows, weight, targets)
    found = torch.autograd.grad(2 * loss, (rows, weight))
    plain = F.cross_entropy(rows @ weight.T, targets)
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(found, torch.autograd.grad(2 * plain, (rows, weight)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    rates = np.array([squeeze.learning_rate(step) for step in range(squeeze.STEPS)])
    steady = int(squeeze.STEADY * squeeze.STEPS)
    assert (np.diff(rates[: squeeze.WARM_UP]) > 0).all()
    assert rates[squeeze.WARM_UP : steady] == pytest.approx(squeeze.OPTIMIZING.learning_rate)
    assert (np.diff(rates[steady:]) < 0).all()
    assert rates[-1] < 0.01 * rates.max()


def test_all_models_read_the_same_and_nothing_twice_before_all_is_read(work: Path) -> None:
    ids = pretraining.load_ids(work)
    there = (len(ids["prose"]) - 1) // (squeeze.LENGTH - 1)
    seen = [
        tuple(pretraining.pieces(ids, step, length=squeeze.LENGTH, each=1, seed=0)[0].tolist()) for step in range(there)
    ]
    assert len(set(seen)) == there
    assert pretraining.pieces(ids, 3, length=16, each=2, seed=0).shape == (2 * len(texts.KINDS), 16)


def test_the_record_has_a_line_for_the_run(work: Path) -> None:
    squeeze.train(work, "narrow", stop_after=1, device="cpu")
    first = json.loads((work / "narrow" / "record.jsonl").read_text("utf-8").splitlines()[0])
    assert (first["steps"], first["model"], first["tokens_a_step"]) == (20, "narrow", 80)
