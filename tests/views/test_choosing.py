"""How a token was chosen, what a form forbade, as the token view gets it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from branching import chosen
from generations import STORY, generation, story
from pictured import words

from labkit.errors import BadInput
from labkit.generation.record import Sampling
from labkit.generation.speculation import Round, Speculation
from labkit.views.tokens_view import TokensView, tokens
from labkit.views.tokens_view.choosing import choice_of, drawn_choice


def test_a_step_has_each_stage_what_it_cut_and_all_others() -> None:
    run = story(sampling=Sampling(temperature=1.0, top_p=0.9, seed=1))
    found: Any = drawn_choice(chosen(run, 3), run.sampling)
    assert found["stages"] == [
        {"name": "the model alone", "kept": 1000, "cut": 0.0, "entropy": 1.9},
        {"name": "top-p 0.9", "kept": 2, "cut": 0.3, "entropy": 0.6},
    ]
    assert [each["by"] for each in found["tokens"]] == [-1, -1, 1, 1, 1, 1, 1, 1]
    assert [each["taken"] for each in found["tokens"]] == [True, *[False] * 7]
    np.testing.assert_allclose([each["shares"] for each in found["tokens"]][:3], [[0.5, 5 / 7], [0.2, 2 / 7], [0.1, 0]])
    assert found["others"]["count"] == 992
    np.testing.assert_allclose(found["others"]["shares"], [0.05, 0], atol=1e-12)


def test_a_step_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="There is no token 26"):
        choice_of(chosen, story(), 26)


def test_a_step_is_found_in_a_worker_once_and_a_failure_is_said() -> None:
    asked = []

    def find(run: Any, token: int) -> Any:
        asked.append(token)
        if token == 7:
            raise BadInput("This lab was closed.")
        return chosen(run, token)

    run = story()
    view = tokens(run, choose=find)
    view.choose(3)
    assert view.wait(10)
    assert view.choices["0:3"]["tokens"][0]["text"] == f" w{run.ids[3]}"
    view.choose(3)
    assert view.wait(10)
    view.choose(7)
    assert view.wait(10)
    assert asked == [3, 7]
    assert view.choice_status == {"state": "failed", "message": "This lab was closed."}
    view.close()


def test_a_text_without_its_lab_asks_nothing() -> None:
    view = tokens(story())
    view.choose(3)
    assert (view.can_choose, view.choices) == (False, {})


def test_another_text_forgets_the_steps_of_the_last() -> None:
    view = TokensView(story(), choose=chosen)
    view.choose(0)
    assert view.wait(10)
    longer = generation([("The", 0.6, {"A": 0.2})])
    view.update(longer)
    assert view.choices == {}


def formed(shares: list[float], **fields: object) -> Any:
    return story(forbidden=torch.tensor(shares), form_complete=True, **fields)


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


def test_what_a_draft_proposed_is_marked_and_counted_against_its_bound() -> None:
    rounds = (Round((1, 2, 3), 2, 3, 0.1, 0.2), Round((4, 5), 0, 1, 0.1, 0.2))
    view = tokens(generation(STORY[:5], speculation=Speculation("prompt look-up", rounds)))
    assert (view.facts["drafted"], view.facts["rounds"]) == ([1, 2], [1, 4])
    assert view.facts["foot"] == [
        "Drafted by prompt look-up: 2 of 5 proposed tokens accepted (40%) in 2 rounds: 2.00 tokens a pass of the model; had "
        "all been accepted, 3.50.",
        "Drafting took 0.20 s, verifying 0.40 s.",
    ]
    assert view.table["drafted"].tolist() == [False, True, True, False, False]
