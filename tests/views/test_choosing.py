"""How a token was chosen, what a form forbade, as the token view gets it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from generations import generation, story
from pictured import words

from labkit.errors import BadInput
from labkit.views.tokens_view import TokensView, tokens
from labkit.views.tokens_view.choosing import Stage, choice_of, drawn_choice

CUT = -np.inf
MODEL = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
COOLED = np.array([0.7, 0.2, 0.06, 0.02, 0.02])
LEFT = np.array([7 / 9, 2 / 9, 0, 0, 0])


def stages() -> list[Stage]:
    with np.errstate(divide="ignore"):
        return [
            Stage("the model", np.log(MODEL)),
            Stage("temperature 0.7", np.log(COOLED)),
            Stage("top-p 0.9", np.log(LEFT)),
        ]


def lab(find: Any = lambda _generation, _token: stages()) -> Any:
    return SimpleNamespace(choices=find, token_text=lambda id_: f"<b>{id_}</b>")


def test_a_step_has_each_stage_what_it_cut_and_its_entropy() -> None:
    found: Any = drawn_choice(stages(), taken=1, text_of=str)
    model, cooled, left = found["stages"]
    assert [each["kept"] for each in found["stages"]] == [5, 5, 2]
    assert (model["cut"], cooled["cut"], left["cut"]) == (0, 0, pytest.approx(0.1))
    assert model["entropy"] == pytest.approx(-(MODEL * np.log(MODEL)).sum())
    assert left["entropy"] == pytest.approx(-(7 / 9) * math.log(7 / 9) - (2 / 9) * math.log(2 / 9))
    assert [each["by"] for each in found["tokens"]] == [-1, -1, 2, 2, 2]
    assert [each["taken"] for each in found["tokens"]] == [False, True, False, False, False]
    np.testing.assert_allclose([each["shares"] for each in found["tokens"]], np.stack([MODEL, COOLED, LEFT]).T)
    assert found["others"] == {"count": 0, "shares": [0, 0, 0]}


def test_the_taken_token_is_listed_however_rare_and_others_are_summed() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 1000)
    logs = logits - np.log(np.exp(logits).sum())
    rare = int(logs.argmin())
    found: Any = drawn_choice([Stage("the model", logs)], taken=rare, text_of=str)
    assert len(found["tokens"]) == 8
    assert found["tokens"][-1]["id"] == rare
    listed = sum(each["shares"][0] for each in found["tokens"])
    assert found["others"]["count"] == 992
    assert found["others"]["shares"][0] == pytest.approx(1 - listed, abs=1e-12)


def test_stages_of_two_vocabularies_are_refused() -> None:
    with pytest.raises(BadInput, match="one row of log-probabilities"):
        drawn_choice([Stage("a", np.zeros(3)), Stage("b", np.zeros(4))], 0, str)
    with pytest.raises(BadInput, match="There is no token 26"):
        choice_of(lab(), story(), 26)


def test_a_step_is_found_in_a_worker_once_and_a_failure_is_said() -> None:
    asked = []

    def find(_generation: object, token: int) -> list[Stage]:
        asked.append(token)
        if token == 7:
            raise BadInput("This lab was closed.")
        return stages()

    run = story()
    run.ids[3] = 1
    view = tokens(run, choose=lab(find))
    view.choose(3)
    assert view.wait(10)
    assert view.choices["0:3"]["tokens"][1]["text"] == "<b>1</b>"
    view.choose(3)
    assert view.wait(10)
    view.choose(7)
    assert view.wait(10)
    assert asked == [3, 7]
    assert view.choice_status == {"state": "failed", "message": "This lab was closed."}
    view.close()


def test_another_text_forgets_the_steps_of_the_last() -> None:
    run = story()
    run.ids[0] = 0
    view = TokensView(run, choose=lab())
    view.choose(0)
    assert view.wait(10)
    longer = generation([("The", 0.6, {"A": 0.2})])
    view.update(longer)
    assert view.choices == {}


def formed(shares: list[float], **fields: object) -> Any:
    run = story(**fields)
    for name, value in (("forbidden", torch.tensor(shares)), ("form_complete", True)):
        object.__setattr__(run, name, value)
    return run


def test_what_a_form_forbade_is_sent_said_and_pictured() -> None:
    shares = [0.0] * 24 + [0.5, 0.75]
    view = tokens(formed(shares))
    assert np.frombuffer(view.forbidden, "<f4").tolist() == shares
    assert view.facts["foot"] == [
        "The form forbade 4.8% of the model's probability on average, and more than half of it at 1 of 26 tokens.",
        "The text satisfies the form.",
    ]
    assert view.table["forbidden"].tolist() == shares
    assert "The text satisfies the form." in words(view._image())
    plain = tokens(story())
    assert (plain.forbidden, plain.facts["foot"], "forbidden" in plain.table) == (b"", [], False)
