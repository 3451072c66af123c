"""Damage on text: against numbers computed independently in float64, at its null, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import fuzz
import numpy as np
import pytest
import torch

import labkit as lk
from labkit.quantization import comparing, damage
from labkit.quantization.intervals import noise_remark
from labkit.quantization.text_damage import rerun_noise
from labkit.trace import running
from labkit.trace.documents import Documents

TEXTS = {
    "cats": [
        "the cat sat on the mat because it was tired",
        "the cat ran up the tree",
        "the other cat and the cat",
        "it was the cat",
        "where the cat was, it was tired and the mat was on the tree",
    ],
    "dogs": [
        "the dog ran after the cat",
        "where the tree was, the other dog was tired and sat",
        "the dog and the other dog ran up and after it",
        "because the dog was tired",
        "the mat the dog sat on, the other cat sat on",
    ],
}


def changed(lab: lk.Lab, by: float = 0.0, seed: int = 0) -> lk.Lab:
    """A copy of a lab, its weights moved by noise of so many of their standard deviations."""
    model = copy.deepcopy(lab.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2 and by:
                parameter += by * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return lk.Lab(model, lab.tokenizer, name=f"changed by {by}")


def by_hand(original: lk.Lab, small: lk.Lab, texts: list[str]) -> dict[str, np.ndarray]:
    """Every number a token, one text at a time, in numpy's float64."""
    found: dict[str, list[float]] = {name: [] for name in ("first", "second", "kl", "same", "right")}
    for text in texts:
        ids = original.tokenizer(text).input_ids
        special = set(original.tokenizer.all_special_ids)
        both = [lab.trace(ids, keep="logits").logits.double().numpy() for lab in (original, small)]
        logs = [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in both]
        for t, token in enumerate(ids[1:]):
            if token in special:
                continue
            a, b = logs[0][t], logs[1][t]
            found["first"].append(-a[token])
            found["second"].append(-b[token])
            found["kl"].append(float((np.exp(a) * (a - b)).sum()))
            found["same"].append(a.argmax() == b.argmax())
            found["right"].append(np.exp(b[token]) - np.exp(a[token]))
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def test_every_number_is_that_of_an_independent_computation(tiny_lab: lk.Lab) -> None:
    small = changed(tiny_lab, 0.5)
    found = damage(tiny_lab, small, TEXTS, progress=False)
    for kind, texts in {**TEXTS, "all": [t for some in TEXTS.values() for t in some]}.items():
        row = found[found["kind"] == kind].iloc[0]
        right = by_hand(tiny_lab, small, texts)
        assert row["tokens"] == len(right["kl"])
        assert row["documents"] == len(texts)
        expected = {
            "original_perplexity": np.exp(right["first"].mean()),
            "perplexity": np.exp(right["second"].mean()),
            "loss_change": (right["second"] - right["first"]).mean(),
            "kl": right["kl"].mean(),
            "kl_999": np.percentile(right["kl"], 99.9),
            "top1": right["same"].mean(),
            "right_change": right["right"].mean(),
            "right_rms": np.sqrt((right["right"] ** 2).mean()),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4), (kind, name)
        for name in ("perplexity", "loss_change", "kl", "top1"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert found.kl == found.table["kl"].iloc[-1] > 1e-3
    assert found.top1 < 1
    assert found.kl_interval[0] < found.kl < found.kl_interval[1]
    assert 0 < found.perplexity_error < found.perplexity
    assert "KL" in repr(found)


def test_intervals_draw_whole_documents_and_hold_both_models_together(tiny_lab: lk.Lab) -> None:
    small = changed(tiny_lab, 0.1)
    found = damage(tiny_lab, small, TEXTS, draws=400, progress=False)
    texts = [t for some in TEXTS.values() for t in some]
    each = [by_hand(tiny_lab, small, [text]) for text in texts]
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        drawn = [*rng.integers(0, 5, 5), *(5 + rng.integers(0, 5, 5))]
        kl = np.concatenate([each[d]["kl"] for d in drawn])
        means.append(kl.mean())
    low, high = np.percentile(means, (2.5, 97.5))
    assert found.kl_interval == pytest.approx((low, high), rel=0.06)
    # both read the same drawn texts, so the difference is far surer than either perplexity
    width = np.log(found.perplexity_interval[1]) - np.log(found.perplexity_interval[0])
    assert found.loss_interval[1] - found.loss_interval[0] < 0.5 * width


def test_an_unquantized_copy_has_lost_exactly_nothing_and_more_noise_loses_more(tiny_lab: lk.Lab) -> None:
    smalls = [changed(tiny_lab, by) for by in (0.0, 0.01, 0.1, 1.0)]
    found = damage(tiny_lab, smalls, TEXTS, prompts=2, new_tokens=5, progress=False)
    exact = found[0]
    assert exact.kl == exact.kl_999 == exact.loss_change == exact.right_rms == 0.0
    assert exact.top1 == 1.0
    assert exact.diverged_at == (5, 5)
    assert exact.diverged == 5.0
    kls = [one.kl for one in found]
    assert kls == sorted(kls)
    assert len(set(kls)) == 4
    assert all(0 < one.noise < 1e-9 for one in found)
    assert found[1].kl > found[1].noise


def test_several_models_cost_one_run_of_the_original(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    smalls = [changed(tiny_lab, by) for by in (0.1, 0.3)]
    alone = [damage(tiny_lab, small, TEXTS, progress=False) for small in smalls]
    runs: list[Any] = []
    real = running.forward
    monkeypatch.setattr(running, "forward", lambda model, *a, **k: runs.append(model) or real(model, *a, **k))
    monkeypatch.setattr("labkit.quantization.text_damage.rerun_noise", lambda *_: 0.0)
    together = damage(tiny_lab, smalls, TEXTS, progress=False)
    assert [runs.count(lab.model) for lab in (tiny_lab, *smalls)] == [runs.count(tiny_lab.model)] * 3
    assert [one.kl for one in together] == [one.kl for one in alone]


def test_texts_diverge_where_greedy_continuations_differ(tiny_lab: lk.Lab) -> None:
    small = changed(tiny_lab, 0.3)
    texts = [[3 + (7 * i + j) % 90 for i in range(20)] for j in range(4)]
    found = damage(tiny_lab, small, texts, prompts=4, new_tokens=12, progress=False)
    for ids, at in zip(texts, found.diverged_at, strict=True):
        ours, theirs = (lab.generate(ids[:16], max_new_tokens=12, temperature=0).ids[:at] for lab in (tiny_lab, small))
        assert list(ours) == list(theirs)
    assert any(at < 12 for at in found.diverged_at)
    assert found.diverged == np.median(found.diverged_at)


def test_documents_are_taken_in_turn_until_there_are_tokens_enough(tiny_lab: lk.Lab) -> None:
    texts = {"a": [[5] * 11, [6] * 11, [7] * 11], "b": [[8] * 6, [9] * 6]}
    assert [len(ids) for ids in Documents(tiny_lab, texts, most=15).ids] == [11, 6]
    assert [int(ids[0]) for ids in Documents(tiny_lab, texts, most=25).ids] == [5, 6, 8]
    assert len(Documents(tiny_lab, texts, most=1).ids) == 1
    assert len(Documents(tiny_lab, texts).ids) == 5
    found = damage(tiny_lab, tiny_lab, texts, tokens=25, progress=False)
    assert (found.tokens, found.documents) == (25, 3)
    row = found[found["kind"] == "b"].iloc[0]
    assert row["documents"] == 1
    assert np.isnan(row["kl_low"])  # one document can't be drawn again


def test_too_few_documents_of_a_kind_have_no_interval_and_a_remark_says_so(tiny_lab: lk.Lab) -> None:
    small = changed(tiny_lab, 0.1)
    few = damage(tiny_lab, small, {"cats": TEXTS["cats"], "dogs": TEXTS["dogs"][:4]}, progress=False)
    rows = few.table.set_index("kind")
    assert rows["kl_low"].isna().to_dict() == {"cats": False, "dogs": True, "all": True}
    assert np.isnan([*few.kl_interval, *few.top1_interval, *few.loss_interval, few.perplexity_error]).all()
    assert "4 of dogs" in repr(few)
    assert "nan" not in few._title()
    assert "fewer than" not in repr(damage(tiny_lab, small, TEXTS, progress=False))


def test_running_again_differs_though_rows_have_one_length(tiny_lab: lk.Lab) -> None:
    """In one pass rows of one length give the same numbers as alone, so the null has to have other padding."""
    same = Documents(tiny_lab, [[3 + (i * i + j) % 90 for i in range(40)] for j in range(4)])
    assert 0 < rerun_noise(same, tiny_lab) < 1e-9
    full = Documents(tiny_lab, [[3 + (i * i + j) % 90 for i in range(tiny_lab.context or 0)] for j in range(4)])
    assert 0 <= rerun_noise(full, tiny_lab) < 1e-9  # no room for padding
    assert "exactly 0" in noise_remark(0.0)
    assert "exactly" not in noise_remark(1e-14)


def test_the_quick_divergence_is_that_of_float64(tiny_lab: lk.Lab) -> None:
    documents = Documents(tiny_lab, TEXTS)
    logits = documents.run(tiny_lab, 0).all_logits
    reference = comparing.Reference(documents, 0, logits)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    for by in (1e-4, 1e-2, 1.0, 50.0):
        other = logits + by * noise + 3.0  # a constant changes no probability
        group, wanted = documents.batches[0]
        right = np.zeros(len(documents.ids))
        for row, d in enumerate(group):
            chosen = wanted[row, 1:]
            right[d] = comparing.divergence(logits[row, :-1][chosen], other[row, :-1][chosen]).sum()
        assert reference.kl(other) == pytest.approx(right, rel=2e-3, abs=1e-12)
    assert not reference.kl(logits).any()
    masked = logits.clone()
    masked[..., 5] = -torch.inf
    assert np.isinf(reference.kl(masked)[documents.batches[0][0]]).all()
    assert not comparing.Reference(documents, 0, masked).kl(masked).any()


def test_what_can_not_be_compared_is_refused(tiny_lab: lk.Lab) -> None:
    other = lk.Lab(tiny_lab.model, fuzz.tiny_tokenizer(), name="other words")
    other.tokenizer.add_tokens(["novel"])
    with pytest.raises(lk.BadInput, match="different vocabularies"):
        damage(tiny_lab, other, TEXTS, progress=False)
    broken = changed(tiny_lab)
    with torch.no_grad():
        broken.model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(lk.Unavailable, match="NaN"):
        damage(tiny_lab, broken, TEXTS, progress=False)
    with pytest.raises(lk.BadInput, match="list is empty"):
        damage(tiny_lab, [], TEXTS, progress=False)
    with pytest.raises(lk.BadInput, match="takes Labs"):
        damage(tiny_lab, tiny_lab.model, TEXTS, progress=False)  # type: ignore[call-overload]
    with pytest.raises(lk.BadInput, match="prompts=9"):
        damage(tiny_lab, tiny_lab, [[5] * 20] * 3, prompts=9, progress=False)
    with pytest.raises(lk.BadInput, match="context"):
        damage(tiny_lab, tiny_lab, [[5] * 20] * 3, prompts=1, new_tokens=500, progress=False)
    for wrong in ({"tokens": 0}, {"draws": 0}, {"seed": -1}, {"prompts": -1}):
        with pytest.raises(lk.BadInput):
            damage(tiny_lab, tiny_lab, TEXTS, progress=False, **wrong)  # type: ignore[call-overload]
