"""The choice at a step against filters written out in numpy, and against what the run recorded."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, UNUSUAL, Tokens, build

import labkit as lk
from labkit.errors import BadInput, LabClosed, Unavailable
from labkit.generation.choices import distribution

PROMPT = [5, 17, 33]
EACH: list[dict[str, Any]] = [
    {"repetition_penalty": 1.4},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 9},
    {"temperature": 1.0, "top_p": 0.6},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 0.8},
]


def lab_of(family: str = "llama3") -> lk.Lab:
    return lk.Lab(build((FAMILIES | UNUSUAL)[family]), Tokens(), name=family)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    top = scores.max()
    found: np.ndarray = scores - top - np.log(np.exp(scores - top).sum())
    return found


def filtered(logits: np.ndarray, text: list[int], settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Log-probabilities after each filter, in float64, one after the other as they are defined."""
    scores, found = logits.astype(np.float64), {}
    if (penalty := settings.get("repetition_penalty")) is not None:
        for id_ in set(text):
            scores[id_] = scores[id_] / penalty if scores[id_] > 0 else scores[id_] * penalty
        found["repetition_penalty"] = log_softmax(scores)
    if (temperature := settings.get("temperature", 0)) == 0:
        only = np.full(len(scores), -np.inf)
        only[scores.argmax()] = 0
        return found | {"greedy": only}
    if temperature != 1:
        scores = scores / temperature
        found["temperature"] = log_softmax(scores)
    if (k := settings.get("top_k")) is not None:
        scores = np.where(np.argsort(np.argsort(-scores)) < k, scores, -np.inf)
        found["top_k"] = log_softmax(scores)
    if (p := settings.get("top_p")) is not None:
        chances = np.exp(log_softmax(scores))
        order = np.argsort(-chances)
        count = int(np.searchsorted(np.cumsum(chances[order]), p)) + 1  # the fewest that reach p
        kept = np.zeros(len(scores), dtype=bool)
        kept[order[:count]] = True
        scores = np.where(kept, scores, -np.inf)
        found["top_p"] = log_softmax(scores)
    if (least := settings.get("min_p")) is not None:
        chances = np.exp(log_softmax(scores))
        scores = np.where(chances >= least * chances.max(), scores, -np.inf)
        found["min_p"] = log_softmax(scores)
    return found


@pytest.mark.parametrize("settings", EACH)
def test_each_stage_is_the_filter_written_out(settings: dict[str, Any]) -> None:
    lab = lab_of()
    gen = lab.generate(PROMPT, max_new_tokens=8, seed=3, **settings)
    for step in (0, 5):
        text = gen.prompt_ids + gen.ids[:step]
        logits = lab.next_logits(text).numpy()
        wanted = filtered(logits, text, settings)
        found = gen.distribution(step, k=100)
        assert list(found.columns)[4:-3] == list(wanted)
        assert list(found.stages["stage"]) == ["model", *wanted]
        assert found["logprob"].tolist() == sorted(found["logprob"], reverse=True)
        by_id = found.table.set_index("id")
        own = log_softmax(logits.astype(np.float64))
        assert len(by_id) == 100
        assert np.allclose(by_id["logprob"].sort_index(), own, atol=1e-4)
        before = own
        for number, (name, logprobs) in enumerate(wanted.items(), 1):
            got = by_id[name].sort_index().to_numpy()
            assert ((got == -np.inf) == (logprobs == -np.inf)).all(), name
            left = logprobs > -np.inf
            assert np.allclose(got[left], logprobs[left], atol=1e-4), name
            row = found.stages.iloc[number]
            assert row["tokens"] == left.sum()
            gone = ~left & (before > -np.inf)
            assert row["cut"] == pytest.approx(np.exp(before[gone]).sum(), abs=1e-5)
            assert row["own_cut"] == pytest.approx(np.exp(own[gone]).sum(), abs=1e-5)
            assert row["entropy"] == pytest.approx(-(np.exp(logprobs[left]) * logprobs[left]).sum(), abs=1e-4)
            before = logprobs
        first = [next((n for n, after in wanted.items() if after[id_] == -np.inf), "") for id_ in found["id"]]
        assert found["cut_by"].tolist() == first


@pytest.mark.parametrize("family", ["llama3", "mamba", "llama_both_ways"])
def test_it_is_what_the_run_recorded(family: str) -> None:
    lab = lab_of(family)
    gen = lab.generate(PROMPT, max_new_tokens=6, temperature=1.2, top_k=40, seed=2)
    for step in range(len(gen.ids)):
        found = gen.distribution(step, k=3)
        taken = found[found["taken"]].table.iloc[0]
        assert (taken["id"], found.id, taken["rank"]) == (gen.ids[step], gen.ids[step], gen.ranks[step])
        assert taken["logprob"] == pytest.approx(gen.logprobs[step].item(), abs=1e-4)
        assert taken["sampled_logprob"] == pytest.approx(gen.sampled_logprobs[step].item(), abs=1e-4)
        assert found["id"].tolist()[:3] == gen.top_ids[step, :3].tolist()
        assert found.note == ""
        assert found.reused == (len(PROMPT) + step - 1 if family == "llama3" else 0)


def test_a_form_comes_first(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate(
        "the cat", chat=False, max_new_tokens=8, form=r"[a-z ]{3,30}", temperature=1.0, top_k=5, seed=1
    )
    assert gen.forbidden is not None
    for step in (0, 3):
        found = gen.distribution(step)
        stages = found.stages.set_index("stage")
        assert list(stages.index) == ["model", "form", "top_k"]
        assert stages.loc["form", "own_cut"] == pytest.approx(gen.forbidden[step].item(), abs=1e-5)
        assert stages.loc["top_k", "tokens"] == 5
        taken = found[found["taken"]].table.iloc[0]
        assert taken["sampled_logprob"] == pytest.approx(gen.sampled_logprobs[step].item(), abs=1e-4)


def test_what_it_says_and_refuses() -> None:
    lab = lab_of()
    gen = lab.generate(PROMPT, max_new_tokens=4, alternatives=100)
    assert "greedy: 1 token left" in repr(gen.distribution(1))
    for step in (4, 1.5):
        with pytest.raises(BadInput, match="steps 0 to 3"):
            gen.distribution(step)  # type: ignore[arg-type]
    with torch.no_grad():
        next(lab.model.parameters()).data.mul_(-1)
    assert "no longer computes" in gen.distribution(2).note
    saved = pickle.loads(pickle.dumps(gen))
    with pytest.raises(Unavailable, match=r"distribution\(lab, generation, step\)"):
        saved.distribution(0)
    assert distribution(lab, saved, 0).id == gen.ids[0]
    lab.close()
    with pytest.raises(LabClosed):
        gen.distribution(0)
