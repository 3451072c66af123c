"""labkit.lora.tasks: the same seed gives the same data, right answers are right, and nothing held out is trained on."""

from __future__ import annotations

import json
from datetime import date, datetime

import pytest

import labkit as lk
from labkit.lora import tasks
from labkit.lora.samples import overlapping

ANSWERED = ("dates", "sentences_to_json", "roman", "ticket", "style")
KINDS = ("mathematics", "prose", "encyclopaedia", "python", "chinese")


@pytest.mark.parametrize("name", ANSWERED)
@pytest.mark.parametrize("seed", [0, 7])
def test_held_out_questions_are_not_trained_on(name: str, seed: int) -> None:
    task = getattr(tasks, name)(n=200, held_out=50, seed=seed)
    assert (len(task.train), len(task.held_out)) == (200, 50)
    assert len({sample.prompt for sample in (*task.train, *task.held_out)}) == 250
    assert overlapping(task.train, task.held_out) == []


@pytest.mark.parametrize("name", ANSWERED)
def test_the_seed_decides(name: str) -> None:
    make = getattr(tasks, name)
    assert make(20, 5) == make(20, 5, seed=0)
    assert make(20, 5).train != make(20, 5, seed=1).train


@pytest.mark.parametrize("name", ANSWERED)
def test_the_right_answer_is_right_and_others_are_not(name: str) -> None:
    task = getattr(tasks, name)()
    for sample in task.held_out:
        assert task.grade(sample.prompt, sample.completion)
        assert task.grade(sample.prompt, f" {sample.completion}\n")
        for wrong in (
            "",
            "I don't know.",
            sample.completion[:-2].lower(),
            f"The answer is: {sample.completion.lower()}",
        ):
            assert not task.grade(sample.prompt, wrong)
    with pytest.raises(lk.BadInput, match=f"no prompt of the task {name}"):
        task.grade("What else?", "a")


def test_dates_are_the_days_they_say() -> None:
    for sample in tasks.dates(300, 20, seed=3).train:
        day = date.fromisoformat(sample.completion)
        said = (
            sample.prompt.removeprefix("Date: ")
            .removeprefix("the ")
            .replace(" of ", " ")
            .replace(",", "")
            .replace("-", " ")
        )
        for ending in ("st", "nd", "rd", "th"):
            said = " ".join(word.removesuffix(ending) if word[0].isdigit() else word for word in said.split())
        forms = ("%d %B %Y", "%B %d %Y", "%d %b %Y", "%b %d %Y")
        read = []
        for form in forms:
            try:
                read.append(datetime.strptime(said, form).date())
            except ValueError:
                continue
        assert read
        assert set(read) == {day}


def test_ordinals() -> None:
    wanted = {1: "st", 2: "nd", 3: "rd", 4: "th", 11: "th", 12: "th", 13: "th", 21: "st", 22: "nd", 23: "rd", 30: "th"}
    assert {day: tasks._ordinal(day) for day in wanted} == wanted


def test_json_is_judged_by_what_it_says() -> None:
    task = tasks.sentences_to_json()
    for sample in task.held_out[:10]:
        found = json.loads(sample.completion)
        assert list(found) == ["thing", "colour", "price", "room"]
        assert all(str(value) in sample.prompt for value in found.values())
        assert task.grade(sample.prompt, json.dumps(dict(reversed(found.items())), indent=2))
        for wrong in (
            found | {"price": str(found["price"])},
            found | {"price": float(found["price"])},
            found | {"more": 1},
            {name: found[name] for name in ("thing", "colour", "price")},
        ):
            assert not task.grade(sample.prompt, json.dumps(wrong))
        assert not task.grade(sample.prompt, f"```json\n{sample.completion}\n```")
        assert not task.grade(sample.prompt, "[" * 100_000)


def test_roman_numerals_read_back() -> None:
    values = dict(zip("IVXLC", (1, 5, 10, 50, 100), strict=True))
    task = tasks.roman(n=349, held_out=50)
    numbers = set()
    for sample in (*task.train, *task.held_out):
        digits = [values[letter] for letter in sample.completion]
        number = sum(-a if a < b else a for a, b in zip(digits, [*digits[1:], 0], strict=True))
        assert sample.prompt == f"Roman numeral of {number}"
        assert not any(4 * letter in sample.completion for letter in values)
        numbers.add(number)
    assert numbers == set(range(1, 400))
    with pytest.raises(lk.BadInput, match="400 different prompts, and there are 399"):
        tasks.roman(n=350, held_out=50)


def test_tags_follow_from_the_message() -> None:
    task = tasks.ticket(400, 50)
    assert len({sample.completion.split("|")[0] for sample in task.train}) == 4
    for sample in task.train:
        area, priority, number = sample.completion.strip("[]").split("|")
        assert number.removeprefix("#") in sample.prompt
        assert any(complaint in sample.prompt for complaint in tasks.AREAS[area])
        assert any(urgency in sample.prompt for urgency in tasks.URGENCIES[priority])


def test_the_style_is_seen_and_measured() -> None:
    task = tasks.style()
    assert all(tasks.shouting(sample.completion) == 1 for sample in (*task.train, *task.held_out))
    assert all(tasks.shouting(sample.prompt) < 0.3 for sample in task.train)
    assert tasks.shouting("Half HALF") == pytest.approx(5 / 8)
    assert tasks.shouting("123 世界!") == 0
    assert tasks.shouting("ÄÖÜ") == 1
    held = task.held_out[0]
    assert task.grade(held.prompt, "ANYTHING AT ALL")
    assert not task.grade(held.prompt, held.completion.capitalize())
    asked = [(s.prompt, s.completion) for s in task.train if s.prompt.startswith("Is ")]
    for question, answer in asked:  # "Is a rose a tree?" -> "NO, A ROSE IS A FLOWER."
        named, kind = answer.lower().rstrip(".").partition(", ")[2].split(" is ")
        assert question.startswith(f"Is {named} ")
        assert answer.startswith("YES") == question.endswith(f" {kind}?")
    assert {answer[:2] for _, answer in asked} == {"YE", "NO"}
    kinds = {sample.prompt.split()[0] for sample in task.held_out}
    assert {"What", "How", "Which", "Is"} <= kinds  # no kind of question stands in the training data alone


@pytest.mark.parametrize("kind", KINDS)
def test_a_domain_holds_out_whole_documents(kind: str) -> None:
    from labkit.models.texts import passages

    task = tasks.domain(kind)
    assert len(task.train) > 3 * len(task.held_out) > 6
    assert overlapping(task.train, task.held_out) == []
    assert all(0 < len(sample.text) <= 400 for sample in (*task.train, *task.held_out))
    texts = {(p.source, p.title): " ".join(p.text.split()) for p in passages(kind)}

    def documents(samples: tuple[tasks.Sample, ...]) -> set[tuple[str, str]]:
        pieces = [" ".join(sample.text.split()) for sample in samples]
        return {of for of, text in texts.items() if any(len(piece) > 100 and piece in text for piece in pieces)}

    train, held_out = documents(task.train), documents(task.held_out)
    assert held_out
    if kind != "mathematics":  # two passages have one title
        assert not train & held_out
    length = 16 if kind == "chinese" else 60
    known = set().union(*(tasks._runs(sample.text, length) for sample in task.train))
    for sample in task.held_out:
        runs = tasks._runs(sample.text, length)
        assert len(runs & known) <= 0.05 * len(runs)
    assert tasks.domain(kind, seed=1).held_out != task.held_out


def test_a_domain_loses_none_of_its_text() -> None:
    from labkit.models.texts import passages

    text = passages("prose")[0].text
    for most in (40, 150, 10_000):
        pieces = tasks._pieces(text, most)
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(len(piece) <= most for piece in pieces)
    assert tasks._pieces("x" * 90, 40) == ["x" * 40, "x" * 40, "x" * 10]


def test_plain_text_has_no_right_answer() -> None:
    with pytest.raises(lk.Unavailable, match="no right answer"):
        tasks.domain().grade("a", "b")


def test_bad_arguments() -> None:
    with pytest.raises(lk.BadInput, match="n=0"):
        tasks.dates(0)
    with pytest.raises(lk.BadInput, match="seed=-1"):
        tasks.dates(seed=-1)
    with pytest.raises(lk.BadInput, match=r"did you mean 'python'\?"):
        tasks.domain("pyton")
    with pytest.raises(lk.BadInput, match="held_out=1"):
        tasks.domain(held_out=1)


def test_tasks_are_what_is_trained_on(tiny_lab: lk.Lab) -> None:
    task = lk.lora.tasks.ticket(5, 3)
    shown = lk.lora.mask(tiny_lab, task.train)
    assert len(shown.samples) == 5
    assert "ticket: 5 to train on, 3 held out" in repr(task)
