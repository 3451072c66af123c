"""The chat panel: turns, settings as they were when a reply was asked for, branches that the conversation goes on from."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from branching import ROOT, branch
from generations import HOSTILE, generation, of_tokens

import labkit.views
from labkit.errors import BadInput
from labkit.views.base import View
from labkit.views.chat_view import ChatView


class Model:
    """Stands in for a lab: replies with the text of three tokens, and keeps what it was asked with."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[dict[str, str]], dict[str, Any]]] = []
        self.fail = False

    def generate(self, messages: list[dict[str, str]], **settings: Any) -> Any:
        if self.fail:
            raise BadInput("This lab was closed.")
        settings.pop("on_token")(generation(ROOT[:1], finish_reason="running"))
        settings.pop("stop_event")
        self.asked.append((messages, settings))
        return generation(ROOT)


def said(view: ChatView, text: str) -> ChatView:
    view.say(text)
    assert view.wait(10)
    return view


def test_what_was_said_and_replied_is_the_next_prompt() -> None:
    model = Model()
    view = ChatView(model.generate, system="Be brief.", temperature=0.5, top_p=0.9, seed=3)
    said(said(view, "Hi"), "More")
    assert view.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The cat sat"},
        {"role": "user", "content": "More"}, {"role": "assistant", "content": "The cat sat"},
    ]  # fmt: skip
    assert model.asked[1][0] == view.messages[:-1]
    assert model.asked[1][1] == {"max_new_tokens": 256, "temperature": 0.5, "top_p": 0.9, "seed": 3}
    assert view.talk["state"] == "done"
    assert view.table["role"].tolist() == ["user", "assistant"] * 2
    assert "assistant: The cat sat" in view._static_text()
    view.temperature = 0
    said(view, "Again")
    assert model.asked[2][1] == {"max_new_tokens": 256, "temperature": 0, "top_p": None, "seed": None}
    view.clear()
    assert (view.turns, view.nodes, view.chosen) == ([], [], -1)
    view.close()


def test_the_conversation_goes_on_from_the_branch_on_show() -> None:
    model = Model()
    view = said(ChatView(model.generate, branch=branch), "Hi")
    assert (view.chosen, view.facts["n"]) == (1, 3)
    view.branch(1, " dog")
    assert view.wait(10)
    assert [turn["text"] for turn in view.turns] == ["Hi", "The dog on"]
    assert view.turns[1]["texts"] == 2
    said(view, "And?")
    assert model.asked[-1][0][1] == {"role": "assistant", "content": "The dog on"}
    assert (view.chosen, len(view.nodes)) == (3, 1)
    view.chosen = 1
    assert (len(view.nodes), view.shown) == (2, 1)
    view.shown = 0
    assert view.turns[1]["text"] == "The cat sat"
    view.close()


def test_another_reply_hangs_beside_the_last() -> None:
    view = said(ChatView(Model().generate), "Hi")
    view.again()
    assert view.wait(10)
    assert (len(view.turns), view.turns[1]["texts"], view.shown) == (2, 2, 1)
    assert [node["parent"] for node in view.nodes] == [-1, 0]
    view.close()


def test_a_failure_gives_back_what_was_said() -> None:
    model = Model()
    view = ChatView(model.generate)
    model.fail = True
    said(view, "Hi")
    assert (view.turns, view.unsent, view.talk["message"]) == ([], "Hi", "This lab was closed.")
    model.fail = False
    said(view, "Hi")
    assert (len(view.turns), view.unsent) == (2, "")
    view.close()


def test_a_stopped_reply_is_kept_and_nothing_is_said_meanwhile() -> None:
    begun = threading.Event()

    def slow(_messages: object, *, stop_event: threading.Event, **_settings: object) -> Any:
        begun.set()
        assert stop_event.wait(10)
        return generation(ROOT[:2], finish_reason="stopped")

    view = ChatView(slow)
    view.say("Hi")
    assert begun.wait(10)
    for act in (lambda: view.say("more"), view.again):
        with pytest.raises(BadInput):
            act()
    view.stop()
    assert view.wait(10)
    assert view.turns[1]["text"] == "The cat"
    assert "stopped" in str(view.turns[1]["note"])
    view.close()


def test_a_reply_is_traced_once_and_what_is_none_is_refused() -> None:
    opened = []

    class Opened(View):
        pass

    def trace(run: Any) -> View:
        opened.append(run.text)
        return Opened()

    view = said(ChatView(Model().generate, trace=trace), "Hi")
    view.trace(1)
    assert view.wait(10)
    assert opened == ["The cat sat"]
    assert view.opened == view.traces[0].model_id
    with pytest.raises(BadInput, match="Turn 0 is no reply"):
        view.trace(0)
    with pytest.raises(BadInput, match="nothing to reply to"):
        view.say(" ")
    with pytest.raises(BadInput, match="temperature=3"):
        view.temperature = 3
    with pytest.raises(BadInput, match="has no generate"):
        labkit.views.chat(SimpleNamespace())
    view.close()


def test_hostile_replies_are_written_as_text(tmp_path) -> None:
    view = said(ChatView(lambda _messages, **_settings: of_tokens(HOSTILE), system=HOSTILE[0]), HOSTILE[1])
    page = view.to_html(tmp_path / "chat.html").read_text("utf-8")
    assert page.count("<script") == 2
    assert "<img" not in page
    view.close()


def test_a_lab_replies_branches_and_is_traced(tiny_lab) -> None:
    view = labkit.views.chat(tiny_lab, temperature=0, max_new_tokens=5)
    view.say("the cat")
    assert view.wait(60)
    (reply,) = view.replies
    assert len(reply.ids) <= 5
    other = next(id_ for id_ in reply.top_ids[0].tolist() if id_ != reply.ids[0])
    view.branch(0, other)
    assert view.wait(60)
    assert view.replies[0].ids[0] == other
    view.trace(1)
    assert view.wait(60)
    assert type(view.traces[0]).__name__ == "AttentionView"
    view.close()
