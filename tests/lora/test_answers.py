"""labkit.lora.exact_match and gain: right answers are counted, with what no skill gives beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import labkit as lk
from labkit.lora import tasks
from labkit.statistics import paired_difference, wilson

TASK = tasks.dates(30, 20)


@dataclass
class Answering:
    """A lab that answers as a function does."""

    answer: Callable[[str], str]
    name: str = "answering"
    tokenizer: Any = None
    ended: bool = True
    template: Any = None

    def turn(self) -> None: ...

    def generate(self, prompts: list[str], **settings: Any) -> list[Any]:
        assert settings == {"max_new_tokens": 32, "chat": None, "template": self.template, "alternatives": 1}
        reason = "end" if self.ended else "length"
        return [SimpleNamespace(text=self.answer(prompt), finish_reason=reason) for prompt in prompts]


def measured(answer: Callable[[str], str], task: tasks.Task = TASK, **more: Any) -> Any:
    return lk.lora.exact_match(Answering(answer), task, **more)  # type: ignore[arg-type]


def half(prompt: str) -> str:
    place = [sample.prompt for sample in TASK.held_out].index(prompt)
    return TASK.wanted(prompt) if place % 2 else "2000-01-01"


def test_right_answers_are_counted_with_their_interval() -> None:
    for answer, hits in ((TASK.wanted, 20), (half, 10), (lambda _: "no", 0)):
        found = measured(answer)
        assert found.share == hits / 20
        assert (found.low, found.high) == wilson(hits, 20)
        assert int(found["right"].sum()) == hits
        assert found.others == 0
        assert found.constant == 0
    assert "100% of 20 held-out answers of dates right" in repr(measured(TASK.wanted))
    assert "answers of other items" in repr(found)
    assert "nothing of the task is shown here" in repr(found)
    assert "nothing of the task" not in repr(measured(TASK.wanted))


def test_the_template_is_that_of_the_tuning() -> None:
    template = {"enable_thinking": False}
    lab: Any = Answering(TASK.wanted, template=template)
    assert lk.lora.exact_match(lab, TASK, template=template).share == 1


def test_what_no_skill_gives() -> None:
    task = tasks.Task(
        "coin",
        tuple(tasks.Sample("prompt", prompt=f"t{i}", completion="a" if i < 7 else "b") for i in range(10)),
        tuple(tasks.Sample("prompt", prompt=f"h{i}", completion="a" if i < 12 else "b") for i in range(16)),
        "right is the exact text",
        _grader=tasks._exact,
    )
    found = measured(task.wanted, task)
    assert found.share == 1
    assert found.constant_answer == "a"
    assert found.constant == 12 / 16
    same = (12 * 11 + 4 * 3) / (16 * 15)
    assert found.others == pytest.approx(same)
    assert same < found.others_high <= 1
    always = measured(lambda _: "a", task)
    assert always.share == always.others == 12 / 16
    assert "nothing of the task is shown here" in repr(always)
    assert measured(task.wanted, task, seed=1, draws=50).others == found.others


def test_no_item_gets_its_own_answer_by_chance() -> None:
    from labkit.lora.answers import _of_others

    mean, high = _of_others(np.eye(6, dtype=bool), 200, np.random.default_rng(0))
    assert (mean, high) == (0, 0)
    assert np.isnan(_of_others(np.eye(1, dtype=bool), 5, np.random.default_rng(0))).all()


def test_a_gain_is_that_of_pairs() -> None:
    before, after = measured(half), measured(TASK.wanted)
    found = lk.lora.gain(before, after)
    assert (found.difference, found.won, found.lost) == (0.5, 10, 0)
    assert (found.difference, found.low, found.high) == paired_difference(10, 10, 0, 0)
    assert found.p == pytest.approx(2 / 2**10)
    assert found["is_right"].all()
    back = lk.lora.gain(after, before)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    nothing = lk.lora.gain(before, before)
    assert (nothing.difference, nothing.p) == (0, 1)
    assert nothing.low < 0 < nothing.high
    assert "No difference is within the interval" in repr(nothing)


def test_other_items_can_t_be_paired() -> None:
    before = measured(half)
    with pytest.raises(lk.BadInput, match="not of the same items"):
        lk.lora.gain(before, measured(TASK.wanted, items=5))
    with pytest.raises(lk.BadInput, match="after="):
        lk.lora.gain(before, 0.5)  # type: ignore[arg-type]


def test_answers_that_were_cut_are_told() -> None:
    lab = Answering(TASK.wanted, ended=False)
    assert "100% of the answers did not end" in repr(lk.lora.exact_match(lab, TASK))  # type: ignore[arg-type]


def test_bad_arguments(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.Unavailable, match="no right answers"):
        lk.lora.exact_match(tiny_lab, tasks.domain())
    with pytest.raises(lk.BadInput, match="task="):
        lk.lora.exact_match(tiny_lab, "dates")  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match="items=21"):
        lk.lora.exact_match(tiny_lab, TASK, items=21)
    with pytest.raises(lk.BadInput, match="takes a Lab"):
        lk.lora.exact_match(tiny_lab.model, TASK)  # type: ignore[arg-type]


def test_a_model_s_own_answers(tiny_lab: lk.Lab) -> None:
    found = lk.lora.exact_match(tiny_lab, TASK, items=3, max_new_tokens=4)
    prompts = [sample.prompt for sample in TASK.held_out[:3]]
    assert found["answer"].tolist() == [tiny_lab.generate(prompt, max_new_tokens=4).text for prompt in prompts]
    assert found.share == 0
