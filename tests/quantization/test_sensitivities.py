"""What each matrix costs alone: against models quantized one matrix at a time, and its nulls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.quantization import contents, damage, matrices, quantize, sensitivity
from labkit.quantization import sensitivities as module
from labkit.trace import resuming, running

TEXTS = {
    kind: [[3 + (start + 7 * i * i + i) % 90 for i in range(n)] for n in (30, 21)]
    for start, kind in enumerate(("one", "two"))
}
MANY = {kind: [rows[0][i:] for i in range(5)] for kind, rows in TEXTS.items()}


def weights_of(lab: lk.Lab) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in lab.model.state_dict().items()}


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt2"])
def test_each_row_is_the_damage_of_that_matrix_alone(family: str) -> None:
    lab = lk.Lab(build(FAMILIES[family]), Tokens(), name=family)
    before = weights_of(lab)
    found = sensitivity(lab, TEXTS, bits=2, progress=False)
    assert found.complete
    names = [name for name, each in matrices(lab).items() if each.part == "layer"]
    assert found["name"].tolist() == names
    for name in names[:: max(1, len(names) // 4)]:
        small = quantize(lab, {name: "int2"}, progress=False)
        row = found[found["name"] == name].iloc[0]
        assert row["kl"] == pytest.approx(damage(lab, small, TEXTS, progress=False).kl, rel=1e-3)
        there = contents(small)
        assert row["bytes"] == there[there["quantized"]]["bytes"].sum()
        assert row["saved_bytes"] == contents(lab).size_bytes - there.size_bytes
        change = matrices(small)[name].weight - matrices(lab)[name].weight
        assert row["weight_error"] == pytest.approx(float(change.norm() / matrices(lab)[name].weight.norm()), rel=1e-5)
        assert np.isnan(row["kl_low"])  # two documents of a kind
    after = weights_of(lab)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert ((found["noise"] > 0) & (found["noise"] < 1e-9)).all()
    assert found.noise < 1e-9 < found["kl"].max()


def test_embedding_and_head_have_rows_when_asked_and_count_once_when_tied(tiny_lab: lk.Lab) -> None:
    found = sensitivity(tiny_lab, TEXTS, head=True, progress=False)
    ends = found[found["layer"].isna()]
    parts = [each.part for each in matrices(tiny_lab).values() if each.part != "layer"]
    tied = any(each.tied for each in matrices(tiny_lab).values())
    assert len(ends) == (1 if tied else len(parts))
    for row in ends.itertuples():
        small = quantize(tiny_lab, {row.name: "int4"}, progress=False)
        assert row.kl == pytest.approx(damage(tiny_lab, small, TEXTS, progress=False).kl, rel=1e-3)


def test_what_is_kept_of_the_layers_before_changes_nothing(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = sensitivity(tiny_lab, TEXTS, bits=3, progress=False)
    monkeypatch.setattr(resuming, "STORED_BYTES", 0)
    monkeypatch.setattr(module, "REFERENCE_BYTES", 0)  # a round for each batch
    whole = sensitivity(tiny_lab, TEXTS, bits=3, progress=False)
    assert np.allclose(stored["kl"], whole["kl"], rtol=1e-3)


def test_several_formats_stand_one_after_the_other_and_layers_are_ranked(tiny_lab: lk.Lab) -> None:
    found = sensitivity(tiny_lab, MANY, format=("int4", "int2"), progress=False)
    assert ((found["kl_low"] < found["kl"]) & (found["kl"] < found["kl_high"])).all()
    four, two = (found[found["format"] == name] for name in ("int4", "int2"))
    assert two["kl"].sum() > four["kl"].sum() > 0
    assert len(four) == len(two)
    assert found.heat.shape == (2, 7)
    assert found.heat.to_numpy().sum() == pytest.approx(four["kl"].sum())
    layers = found.layers[found.layers["format"] == "int4"]
    assert sorted(layers["rank"]) == [1, 2]
    assert layers["kl"].sum() == pytest.approx(four["kl"].sum())
    assert "hurts most" in repr(found)
    ranks = four[["weight_error", "kl"]].rank()
    assert found.error_correlation == pytest.approx(np.corrcoef(ranks["weight_error"], ranks["kl"])[0, 1])
    assert 0 <= found.error_p <= 1


def test_a_layer_that_is_special_is_found() -> None:
    family = FAMILIES["qwen3"]
    lab = lk.Lab(build(type(family)(family.model_type, family.fields | {"num_hidden_layers": 6})), Tokens(), name="six")
    with torch.no_grad():  # all other layers add next to nothing
        for index, layer in enumerate(lab.model.model.layers):
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight *= 1.0 if index == 3 else 1e-4
    layers = sensitivity(lab, TEXTS, bits=3, progress=False).layers
    top = layers.sort_values("rank").iloc[0]
    assert top["layer"] == 3
    assert top["z"] > 3
    assert (layers["z"].drop(top.name) < 3).all()


def test_an_interrupt_before_anything_is_done_is_one(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_sums", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(tiny_lab, TEXTS, progress=False)


def test_an_interrupt_keeps_what_is_done_and_leaves_the_model_as_it_was(
    tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = weights_of(tiny_lab), []
    real = module._sums

    def sums(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "_sums", sums)
    found = sensitivity(tiny_lab, TEXTS, progress=False)
    assert not found.complete
    assert len(found) == 4
    assert "interrupted" in repr(found)
    after = weights_of(tiny_lab)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert tiny_lab._turns._owner is None
    assert not any("forward" in vars(part) for part in tiny_lab.model.modules())


def test_what_can_not_be_measured_is_refused(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="not both"):
        sensitivity(tiny_lab, TEXTS, bits=3, format="nf4")
    with pytest.raises(lk.BadInput, match="bits=9"):
        sensitivity(tiny_lab, TEXTS, bits=9)
    with pytest.raises(lk.BadInput, match="each format once"):
        sensitivity(tiny_lab, TEXTS, format=("int4", "int4"))
    with pytest.raises(lk.Unavailable, match="quantized"):
        sensitivity(quantize(tiny_lab, "int8", progress=False), TEXTS)
    assert running.answers_in_lists(tiny_lab.model).padded
