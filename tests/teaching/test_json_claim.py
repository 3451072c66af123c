"""What is computed for the claims about generation: what counts as valid, and the sentence that comes of a run."""

from __future__ import annotations

import json
import re

import pytest
from schema_instances import validator

import labkit as lk
from labkit.teaching.claims import generated

GOOD = {"name": "Ana", "age": 31, "town": "Lima", "job": "nurse"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"age": "31"},
        {"age": 31.5},
        {"age": True},
        {"age": 200},
        {"job": "king"},
        {"name": 3},
        {"town": "x" * 21},
        {"more": 1},
    ],
)
def test_valid_is_what_jsonschema_says(change: dict[str, object]) -> None:
    value = GOOD | change
    assert generated.is_valid(json.dumps(value)) == validator(generated.SCHEMA).is_valid(value)
    assert generated.is_valid(json.dumps(value)) == (not change)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", json.dumps(GOOD)[:-1], "Sure: " + json.dumps(GOOD), "[" * 100_000]
)
def test_what_is_no_such_json(text: str) -> None:
    assert not generated.is_valid(text)


def test_people_are_the_same_for_the_same_seed() -> None:
    people = generated.people(20)
    assert people == generated.people(20)
    assert people != generated.people(20, seed=1)
    assert len(set(people)) > 15
    assert "works as an artist" in generated.Person("Ana", 31, "Lima", "artist").prompt


def test_the_sentence_counts_what_was_generated(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never writes JSON by itself; with the mask its answers are valid wherever they were not cut."""
    tiny_lab.model.config.max_position_embeddings = 1024
    monkeypatch.setattr(generated, "TOKENS", 150)
    value, sentence = generated.json_for_free(tiny_lab, prompts=4)
    valid, n, plain = re.match(r"(\d+) of (\d+) .*? and (\d+) of 4", sentence).groups()  # type: ignore[union-attr]
    cut = int(re.search(r"(\d+) with and \d without", sentence)[1])  # type: ignore[index]
    assert (int(n), int(plain)) == (4, 0)
    assert int(valid) == 4 - cut == round(4 * value)
    assert int(valid) > 0
    assert "took away more than half" in sentence
