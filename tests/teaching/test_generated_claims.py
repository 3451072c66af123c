"""What is computed for the claims about generating: on tiny models, where it takes a second."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import labkit as lk
from labkit.generation.batches import Repeats
from labkit.teaching.claims import generated_batches, speculated


def test_temperature_0_counts_answers(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated_batches, "PROMPTS", ("abc", "the cat"))
    monkeypatch.setattr(generated_batches, "BESIDE", ("a", "hello there"))
    found = generated_batches.measured(tiny_lab, tokens=6)
    value, sentence = generated_batches.told({"float32": found})
    assert value == 1
    assert "each of 2 prompts written 10 times greedily" in sentence
    assert sentence.endswith("different answers 1, 1 in float32")


def test_temperature_0_tells_the_margin() -> None:
    nan = float("nan")
    rows = [("alone", 1, 0, None, nan, nan), ("alone again", 1, 0, None, nan, nan), ("2 at once", 2, 1, 7, 0.02, 0.03)]
    table = pd.DataFrame(rows, columns=["run", "texts", "answer", "at", "margin", "other_margin"]).astype(
        {"at": "Int64"}
    )
    value, sentence = generated_batches.told({"bfloat16": [Repeats(table, "m", "bfloat16", 2, 0.02)]})
    assert value == 2
    assert "2 in bfloat16 (they part from token 7 on, where the margin of the logits was at most 0.03)" in sentence
    assert sentence.endswith("run alone again each came out the same")


def test_spec_decoding_compares_texts_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lk.load("labkit-dense", dtype="float32", device="cpu")
    monkeypatch.setattr(speculated, "PROMPTS", {"plain text": "Once upon a time", "again": "one two one two one"})
    gains, sentences, same = speculated.written(lab, tokens=12, rounds=1)
    assert same
    assert set(gains) == {"plain text", "again"}
    assert all("drafted tokens accepted" in sentence for sentence in sentences)
    assert speculated.samples_alike(lab, samples=150) > speculated.SURE


def test_samples_that_differ_would_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.generation import speculating

    lab = lk.load("labkit-dense", dtype="float32", device="cpu")

    def accepts_all(_self: Any, _scores: Any, drafted: int, _chances: Any) -> tuple[int, bool]:
        return drafted, True

    monkeypatch.setattr(speculating._Draw, "judged", accepts_all)
    assert speculated.samples_alike(lab, samples=150) < speculated.SURE
