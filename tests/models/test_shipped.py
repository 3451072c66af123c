"""The models that come with labkit: opened without a network, and only as they were shipped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

import labkit as lk
from labkit.models import resolve, shipped
from labkit.workshop.inventory import inventory


@pytest.fixture(scope="module")
def moe() -> lk.Lab:
    return lk.load("labkit-moe", dtype="float32", device="cpu")


def test_it_opens_by_name_and_alias_and_is_the_same_lab(moe: lk.Lab) -> None:
    assert moe.family == "qwen3_moe"
    assert moe.licence == "Apache-2.0"
    assert lk.load("moe", dtype="float32", device="cpu") is moe
    assert lk.load("LABKIT-MOE", dtype="float32", device="cpu") is moe
    assert moe.support()["routes"] is None


def test_it_writes_and_is_traced_at_its_stated_length(moe: lk.Lab) -> None:
    assert len(moe.generate("The State of the", max_new_tokens=8).ids) == 8
    trace = moe.trace([0] + [5 + i % 200 for i in range(1023)], keep=("routes", "logits"))
    assert trace.routes.experts.shape == (1024, 6, 4)
    assert torch.isfinite(trace.loss[1:]).all()


def test_every_shipped_model_is_intact_and_named_in_the_inventory() -> None:
    rows = {row.name: row for row in inventory()}
    for name, model in shipped.MODELS.items():
        assert shipped.problems(model) == []
        assert rows[name].state == "intact"
        parameters = sum(p.numel() for p in lk.load(name).model.parameters())
        assert parameters == model.parameters


def test_what_is_shipped_is_small_and_holds_no_more_than_it_should() -> None:
    sizes = {name: model.bytes_on_disk for name, model in shipped.MODELS.items()}
    assert sizes["labkit-moe"] <= 25e6
    assert sum(sizes.values()) <= 40e6
    sums = json.loads((shipped.MODELS["labkit-moe"].path / "SHA256.json").read_text("utf-8"))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(sums)


def test_a_changed_or_missing_file_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shipped.MODELS["labkit-moe"]
    shutil.copytree(model.path, tmp_path / "labkit-moe")
    config = tmp_path / "labkit-moe" / "config.json"
    config.write_text(config.read_text("utf-8").replace("4", "5", 1), "utf-8")
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    with pytest.raises(lk.BadModelFile, match=r"config\.json is not what was shipped\); install labkit again"):
        resolve.resolve("labkit-moe")
    config.unlink()
    with pytest.raises(lk.BadModelFile, match="missing"):
        shipped.checked(dataclasses.replace(model))


def test_a_misspelt_name_leads_to_it() -> None:
    with pytest.raises(lk.ModelNotFound, match="did you mean labkit-moe"):
        lk.load("labkit-mo")
