"""ΔW by layer against dense arithmetic in numpy, its nulls against draws, and intruder dimensions that were put there."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from adapted import METHODS, adapter_of, lab_of, peft_of

import labkit as lk
from labkit.lora.low_rank import dense_weight


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lab_of()


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "embedding"])
def test_numbers_are_those_of_the_dense_change(method: str, lab: lk.Lab) -> None:
    adapter = adapter_of(lab, **METHODS[method])
    found = lk.lora.updates(adapter)
    assert list(found["name"]) == list(adapter.low_ranks)
    for row in found.table.itertuples():
        weight = dense_weight(lab.model.get_submodule(row.name)).double()
        delta = adapter.low_ranks[row.name].delta(weight).numpy()
        s = np.linalg.svd(delta, compute_uv=False)
        mine = found.singular_values[row.name]
        np.testing.assert_allclose(mine, s[: len(mine)], rtol=1e-8, atol=1e-12)
        assert s[len(mine) :].max(initial=0) < 1e-9
        p = s[s > 1e-9] / s[s > 1e-9].sum()
        assert row.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
        assert row.norm == pytest.approx(np.linalg.norm(delta))
        assert row.relative == pytest.approx(np.linalg.norm(delta) / float(weight.norm()))
        assert row.spectral == pytest.approx(s[0])
        assert row.stable_rank == pytest.approx((s**2).sum() / s[0] ** 2)
        u, _, vh = np.linalg.svd(delta)
        k = min(8, int((s > 1e-9).sum()))
        inside = np.linalg.norm(u[:, :k].T @ weight.numpy() @ vh[:k].T) / float(weight.norm())
        assert row.alignment == pytest.approx(inside, rel=1e-6)


def test_layers_and_matrices_are_named(lab: lk.Lab) -> None:
    adapter = adapter_of(lab, target_modules=["q_proj", "down_proj", "lm_head"])
    found = lk.lora.updates(adapter)
    assert set(found["matrix"]) == {"q_proj", "down_proj", "lm_head"}
    assert found.table.loc[found["matrix"] == "lm_head", "layer"].isna().all()
    some = lk.lora.updates(adapter, matrices="q_*", layers=[1])
    assert [(int(row.layer), row.matrix) for row in some.table.itertuples()] == [(1, "q_proj")]
    name = found["name"][0]
    assert list(lk.lora.updates(adapter, matrices=name)["name"]) == [name], "by the whole path, too"
    layers = found.by_layer()
    of_first = found.table[found["layer"] == 0]
    assert layers["norm"][0] == pytest.approx(np.sqrt((of_first["norm"] ** 2).sum()))
    assert layers["share"].sum() == pytest.approx(1)
    with pytest.raises(lk.BadInput, match="q_proj"):
        lk.lora.updates(adapter, matrices="k_proj")


def test_random_directions_are_the_null() -> None:
    """A change along W's own strongest directions lies far above the null, a random one on it."""
    lab = lab_of(hidden_size=64, num_hidden_layers=1)
    adapter = adapter_of(lab, target_modules=["q_proj"])
    name = next(iter(adapter.low_ranks))
    with torch.no_grad():
        weight = lab.model.get_submodule(name).weight
        u, s, vh = torch.linalg.svd(weight)
        weight.copy_((u * s**6 / s[0] ** 5) @ vh)
        prefix = f"base_model.model.{name}.lora_"
        adapter.tensors[f"{prefix}A.weight"].copy_(vh[:4])
        adapter.tensors[f"{prefix}B.weight"].copy_(u[:, :4])
    along = lk.lora.updates(adapter, draws=200)
    assert along["alignment"][0] > 3 * along["null_alignment_high"][0]
    assert along["null_alignment"][0] == pytest.approx(4 / 64, rel=0.15)  # k / √(mn) of ‖W‖
    torch.manual_seed(3)
    for end in ("A", "B"):
        adapter.tensors[f"{prefix}{end}.weight"].normal_()
    random = lk.lora.updates(adapter, draws=200)
    assert random["alignment"][0] < 1.5 * random["null_alignment_high"][0]
    assert random["effective_rank"][0] == pytest.approx(random["null_effective_rank"][0], rel=0.15)


def test_a_full_tuning_beside_its_base(lab: lk.Lab) -> None:
    adapter = adapter_of(lab)
    merged = adapter.merge(progress=False)
    found, expected = lk.lora.updates(merged, lab), lk.lora.updates(adapter)
    assert list(found["name"]) == list(expected["name"])
    np.testing.assert_allclose(found["norm"], expected["norm"], rtol=1e-4)
    with pytest.raises(lk.BadInput, match="base="):
        lk.lora.updates(merged)
    with pytest.raises(lk.BadInput, match="nothing changed"):
        lk.lora.updates(lab, lab_of())
    with pytest.raises(lk.BadInput, match="names or shapes"):
        lk.lora.updates(lab_of(num_hidden_layers=1), lab)


def test_a_change_outside_of_the_layers_is_named(lab: lk.Lab) -> None:
    head = adapter_of(lab, target_modules=["lm_head"]).merge(progress=False)
    for look in (lk.lora.updates, lk.lora.intruders):
        with pytest.raises(lk.BadInput, match=r"No matrix of the layers .* lm_head\.weight did"):
            look(head, lab)
    both = adapter_of(lab, target_modules=["lm_head", "q_proj"]).merge(progress=False)
    found = lk.lora.updates(both, lab)
    assert set(found["matrix"]) == {"q_proj"}
    assert found.outside == ("lm_head.weight",)
    assert "lm_head.weight" in repr(found)
    assert not lk.lora.updates(adapter_of(lab)).outside


def test_an_adapter_that_changes_nothing_has_layers_without_nan(lab: lk.Lab) -> None:
    adapter = adapter_of(lab)
    for name, value in adapter.tensors.items():
        if "lora_B" in name and "layers.0" in name:
            value.zero_()
    layers = lk.lora.updates(adapter).by_layer()
    assert layers.loc[0, ["norm", "relative", "share"]].tolist() == [0, 0, 0]
    assert layers["share"][1] == 1
    layers = lk.lora.updates(0.0 * adapter).by_layer()
    assert (layers[["norm", "relative", "share"]] == 0).all(axis=None)


def test_intruder_dimensions_are_found_where_they_were_put() -> None:
    lab = lab_of(hidden_size=64, num_hidden_layers=1)
    adapter = adapter_of(lab, target_modules=["q_proj"], r=2)
    name = next(iter(adapter.low_ranks))
    weight = lab.model.get_submodule(name).weight.detach()
    u, s, vh = torch.linalg.svd(weight)
    prefix = f"base_model.model.{name}.lora_"
    torch.manual_seed(0)
    random = torch.linalg.qr(torch.randn(64, 2)).Q
    adapter.tensors[f"{prefix}A.weight"].copy_(torch.linalg.qr(torch.randn(64, 2)).Q.T)
    adapter.tensors[f"{prefix}B.weight"].copy_(random * 3 * s[0])
    found = lk.lora.intruders(adapter)
    assert found.found == 2
    assert found.null_low_rank == 2
    along = torch.stack([u[:, 3], u[:, 5]], 1)  # directions that W has already are none
    adapter.tensors[f"{prefix}A.weight"].copy_(torch.stack([vh[3], vh[5]]))
    adapter.tensors[f"{prefix}B.weight"].copy_(along * 3 * s[0])
    again = lk.lora.intruders(adapter)
    assert again.found == 0
    assert again["least_cosine"][0] > 0.99
    assert again.null_low_rank == 2
    assert "intruder dimensions" in repr(again)


def test_intruders_are_peft_s() -> None:
    """peft counts them too, as it takes them away; on a change of moderate size, so that some are and some are not."""
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    lab = lab_of(hidden_size=64)
    tuned = peft_of(lab, size=0.2, target_modules=["q_proj", "v_proj", "down_proj"])
    adapter = lk.lora.taken(tuned, lab)
    lines: list[str] = []
    reduce_intruder_dimension(tuned, top_k=10, threshold_epsilon=0.6, logging_sink=lines.append)
    theirs = [int(match[1]) if (match := re.search(r"Intruders: (\d+)", line)) else 0 for line in lines[:-1]]
    mine = lk.lora.intruders(adapter, threshold=0.6)["intruders"].tolist()
    assert mine == theirs
    assert 0 < sum(mine) < 10 * len(mine)
