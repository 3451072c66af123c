"""Predictions without a front end: locked once, kept, shown beside the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictured import words

import labkit as lk
from labkit.teaching.prediction.words import curve_words, number_text, number_words


def curve(**more: Any) -> Any:
    settings = {"x": (1, 2, 4), "low": 1, "high": 1000, "log": True, "unit": "MiB", **more}
    return lk.predict("attention.curve", "How does it grow?", "curve", **settings)


def test_a_guess_is_locked_once_and_found_again(progress_file: Path) -> None:
    first = lk.predict("attention.share", "How much?", unit="%", low=0, high=100)
    assert (first.guess, first.locked) == (None, False)
    assert not progress_file.exists()
    first.lock(40)
    assert (first.guess, first.locked, first.kept) == (40, True, True)
    first.lock(40)
    with pytest.raises(lk.BadInput, match=r'lk\.progress\(clear="attention\.share"\)'):
        first.lock(41)
    assert json.loads(progress_file.read_text())["predictions"]["attention.share"] == {"kind": "number", "guess": 40}
    again = lk.predict("attention.share", "How much?", unit="%", low=0, high=100)
    assert again.guess == 40
    lk.progress(clear="attention.share")
    assert (first.guess, again.guess) == (None, None)
    again.lock(50)
    assert again.guess == 50


def test_a_front_end_can_neither_change_nor_break_a_guess() -> None:
    asked = lk.predict("attention.share", "How much?", low=0, high=100)
    for bad in ({"value": 101}, {"value": "12"}, {"value": None}, {"other": 1}, {"value": float("nan")}):
        asked.locked_guess = bad
        assert asked.guess is None
    asked.locked_guess = {"value": 12.5, "more": 1}
    assert asked.locked_guess == {"value": 12.5}
    asked.locked_guess = {"value": 13}
    asked.locked_guess = {}
    assert asked.guess == 12.5


def test_a_stored_guess_that_no_longer_fits_is_left_aside() -> None:
    lk.predict("attention.c", "Which?", "choice", choices=("a", "b")).lock("a")
    assert lk.predict("attention.c", "Which?", "choice", choices=("c", "d")).guess is None
    changed = lk.predict("attention.c", "How many?")
    assert changed.guess is None
    changed.lock(3)
    assert lk.predict("attention.c", "How many?").guess == 3


def test_no_guess_is_said() -> None:
    asked = lk.predict("attention.share", "How much?", unit="%")
    shown = asked.show(torch.tensor(87.5))
    assert shown._static_text() == "Result: 87.5 %\nNo guess was made."
    assert repr(shown) == "Comparison('attention.share', 'No guess was made.')"
    assert asked.guess is None


def test_guess_and_result_side_by_side() -> None:
    asked = lk.predict("attention.share", "How much?", unit="%")
    asked.lock(40)
    assert (
        asked.show(np.float64(87.5))._static_text() == "Guess:  40 %\nResult: 87.5 %\n47.5 percentage points too low."
    )
    which = lk.predict("attention.which", "Which?", "choice", choices=("a", "b"))
    which.lock("a")
    assert which.show("a").words == "As you said."
    assert which.show("b").words == "It came out otherwise."
    line = curve()
    line.lock((2, 4, 8))
    shown = line.show(torch.tensor([2.0, 8.0, 2048.0]))
    assert shown.words == "Off by a factor of 8 on average, most at 4: you drew 8 MiB, it was 2,048 MiB."
    assert {"guess", "result", shown.words} <= set(words(shown._image())), "both curves, and how far apart they are"
    assert shown._static_html().startswith("<img")


@pytest.mark.parametrize(
    ("guess", "result", "unit", "words"),
    [
        (5, 5, "", "Exactly right."),
        (100, 100.5, "", "Right to within 1 %."),
        (105, 100, "", "Close: 5 % too high."),
        (66, 100, "", "34 % too low."),
        (40, 87.5, "", "Too low by a factor of 2.2."),
        (1e6, 1, "", "Too high by a factor of 1,000,000."),
        (-1, 2, "nats", "Too low by 3 nats."),
        (0, 0.5, "", "Too low by 0.5."),
        (88, 87.5, "%", "Close: 0.5 percentage points too high."),
    ],
)
def test_how_far_off_in_words(guess: float, result: float, unit: str, words: str) -> None:
    assert number_words(guess, result, unit) == words


def test_curves_in_words_and_numbers_in_text() -> None:
    assert curve_words([1, 2], [1, 2], [1, 2]) == "Exactly right at every point."
    assert curve_words([1, 2], [0.5, 1], [0.5, 2]) == "Off by 0.5 on average, most at 2: you drew 1, it was 2."
    assert [number_text(v) for v in (12345, 0.00012, 1234.5, -3, 2.0)] == ["12,345", "0.00012", "1,234", "−3", "2"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "essay"}, "number, choice and curve"),
        ({"kind": "choice", "choices": ("a",)}, "at least two"),
        ({"kind": "choice", "choices": ("a", "a")}, "two different"),
        ({"kind": "curve", "x": (1,)}, "2 to 16 points"),
        ({"kind": "curve", "x": (1, 4, 4)}, "are to rise"),
        ({"kind": "curve", "x": (4, 2, 1)}, "are to rise"),
        ({"kind": "curve", "x": (1, 2), "low": 0, "high": 1, "log": True}, "no zero"),
        ({"low": 3, "high": 1}, "below"),
        ({"low": float("nan")}, "finite"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        lk.predict("attention.bad", "What?", **settings)
    with pytest.raises(lk.BadInput, match="not empty"):
        lk.predict("", "What?")


def test_guesses_and_results_that_do_not_fit_are_refused() -> None:
    with pytest.raises(lk.BadInput, match="one for each x"):
        curve().lock([1, 2])
    with pytest.raises(lk.BadInput, match="from 1 to 1000"):
        curve().lock([1, 2, 4000])
    with pytest.raises(lk.BadInput, match="above 0"):
        curve().show([0, 1, 2])
    with pytest.raises(lk.BadInput, match="one of the choices: a; b"):
        lk.predict("attention.w", "Which?", "choice", choices=("a", "b")).lock("c")
    for bad in ("many", None, True, float("inf"), 10**400, [1, 2], torch.zeros(2)):
        with pytest.raises(lk.BadInput):
            lk.predict("attention.n", "How many?").lock(bad)


def test_hostile_text_is_escaped() -> None:
    text = "<img src=x onerror=alert(1)>\u202e\ud800"
    asked = lk.predict(f"x.{text}", text, "choice", choices=(text, "b"), unit=text)
    asked.lock(text)
    for view in (asked, asked.show(text)):
        assert "<img" not in view._static_html()
        assert "\u202e" not in view._static_html() + repr(view)
        view._repr_mimebundle_()
    assert lk.predict(f"x.{text}", text, "choice", choices=(text, "b")).locked
    assert "<img" not in lk.progress()._repr_html_()
