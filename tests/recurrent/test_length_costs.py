"""Bytes and times by length: measured on real caches, beside what the configuration says."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.recurrent import lengths
from labkit.recurrent.lengths import comparable_models, length_costs


@pytest.fixture(scope="module")
def models() -> dict[str, object]:
    return dict(comparable_models(64))


def test_three_models_are_as_large(models: dict[str, torch.nn.Module]) -> None:
    sizes = [sum(p.numel() for p in model.parameters()) for model in models.values()]
    assert max(sizes) / min(sizes) < 1.01
    assert {m.config.model_type for m in models.values()} == {"llama", "mamba2", "granitemoehybrid"}


def test_what_they_keep_is_what_is_computed(models: dict[str, torch.nn.Module]) -> None:
    found = length_costs(models, (8, 40), new_tokens=3, repeats=1)  # type: ignore[arg-type]
    table = found.table.set_index(["model", "tokens"])
    assert (table["state_bytes"] == table["computed_bytes"]).all()
    bytes_kept = table["state_bytes"]
    assert bytes_kept["attention", 40] == 5 * bytes_kept["attention", 8] == 40 * 4 * 2 * 64 * 4
    assert bytes_kept["state space", 40] == bytes_kept["state space", 8]
    grown = bytes_kept["hybrid", 40] - bytes_kept["hybrid", 8]
    assert grown == 32 * 2 * 2 * 64 * 4, "two layers of four keep keys and values"
    assert (table[["read_seconds", "step_seconds"]] > 0).all(axis=None)
    assert "medians of 1 runs" in repr(found)


def test_labs_and_what_cannot_be_used(models: dict[str, torch.nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3")
    found = length_costs({"a lab": lab}, 8, new_tokens=2, repeats=1)
    assert found.table["model"].tolist() == ["a lab"]
    with pytest.raises(lk.BadInput, match="The context of a lab holds"):
        length_costs({"a lab": lab}, 10**6)
    for wrong in ({"models": {}}, {"models": lab}, {"models": {"x": 3}}, {"tokens": []}, {"tokens": 0}, {"repeats": 0}):
        with pytest.raises(lk.BadInput):
            length_costs(**({"models": models, "tokens": 8} | wrong))  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match="multiple of 64"):
        comparable_models(100)
    monkeypatch.setattr(lengths, "free_bytes", lambda _device: 100_000)
    with pytest.raises(lk.NotEnoughMemory, match="give shorter ones"):
        length_costs(models, 4_000)  # type: ignore[arg-type]
