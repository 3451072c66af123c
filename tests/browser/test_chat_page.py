"""The chat panel in a real Chromium: said, streamed, branched, traced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in
from branching import ROOT, branch
from generations import HOSTILE, generation, of_tokens

from labkit.views.chat_view import ChatView

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
Violations = Callable[[Any], list[Any]]


def panel(**given: Any) -> ChatView:
    return ChatView(lambda _messages, **_settings: generation(ROOT), branch=branch, name="tiny-model", **given)


def test_a_reply_is_asked_for_branched_and_traced(open_page: Open, tmp_path: Path) -> None:
    view = panel(trace=lambda run: panel())
    page = open_page(view.to_html(tmp_path / "chat.html"))
    stand_in.draw(page, view)
    assert not page.locator(".lk-chat-behind").is_visible()
    page.get_by_label("Say something").fill("Hi")
    page.get_by_label("Say something").press("Enter")
    stand_in.tell(page, view)
    assert page.locator(".lk-chat-turn .lk-prose").all_inner_texts() == ["Hi", "The cat sat"]
    assert page.get_by_label("Say something").input_value() == ""
    # its tokens are there at once; a click on an alternative branches the reply
    page.locator(".lk-list .lk-tl-token").nth(1).click()
    page.get_by_role("button", name="Branch here with dog").click()
    stand_in.tell(page, view)
    assert page.locator(".lk-chat-turn .lk-prose").last.inner_text() == "The dog on"
    assert page.get_by_role("treeitem").count() == 2
    page.get_by_role("button", name="Trace this reply").click()
    stand_in.tell(page, view)
    page.get_by_text("This page can't show it here: run chat.traces[-1]").wait_for()
    page.get_by_role("button", name="Tokens and branches").click()
    stand_in.tell(page, view)
    assert not page.locator(".lk-chat-behind").is_visible()
    view.close()


def test_settings_are_told_and_a_reply_under_way_is_seen_and_stopped(open_page: Open, tmp_path: Path) -> None:
    view = panel()
    page = open_page(view.to_html(tmp_path / "chat.html"))
    stand_in.draw(page, view)
    page.get_by_label("Temperature").press("Home")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("System prompt").blur()
    stand_in.tell(page, view)
    assert (view.temperature, view.system) == (0, "Be brief.")
    assert page.get_by_label("Top-p").is_disabled()
    assert page.get_by_text("0.00 (greedy)").is_visible()
    running = {"state": "running", "message": "", "draft": "The <b>cat", "turn": None}
    turns = [{"role": "user", "text": "Hi", "note": "", "texts": 0}]
    stand_in.receive(page, [{"turns": turns, "talk": running}, {}])
    assert page.locator(".lk-chat-turn .lk-prose").last.inner_text() == "The <b>cat"
    assert page.get_by_role("button", name="Send").is_disabled()
    page.locator(".lk-chat-entry").get_by_role("button", name="Stop").click()
    assert page.evaluate("window.asked.at(-1).ask") == "stop"
    stand_in.receive(page, [{"turns": [], "unsent": "Hi", "talk": {"state": "failed", "message": "closed"}}, {}])
    assert page.get_by_label("Say something").input_value() == "Hi"
    view.close()


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (420, True)])
def test_the_file_is_read_without_a_kernel_and_hostile_text_stays_text(
    open_page: Open, tmp_path: Path, width: int, dark: bool
) -> None:
    view = ChatView(lambda _messages, **_settings: of_tokens(HOSTILE), name=HOSTILE[1])
    view.say("".join(HOSTILE))
    assert view.wait(10)
    page = open_page(view.to_html(tmp_path / "chat.html"), width=width, dark=dark)
    assert page.locator(".lk-chat-turn").count() == 2
    assert page.locator(".lk-list .lk-tl-token").count() == len(HOSTILE)
    assert not page.get_by_label("Say something").is_visible()
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main svg, main script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long token widens the page"
    view.close()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_in_a_conversation(
    open_page: Open, violations: Violations, tmp_path: Path, dark: bool
) -> None:
    view = panel(trace=lambda run: panel())
    view.say("Hi")
    assert view.wait(10)
    page = open_page(view.to_html(tmp_path / "axe.html"), dark=dark)
    stand_in.draw(page, view)
    assert violations(page) == []
    view.close()
