"""How tokens were chosen, and what a form forbade, in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_in
import torch
from branching import chosen
from generations import HOSTILE, STORY, generation, of_tokens, story

from labkit.generation.speculation import Round, Speculation
from labkit.views.tokens_view import tokens

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
Violations = Callable[[Any], list[Any]]


def formed(run: Any) -> Any:
    """With a form that forbade three quarters of the model's probability at the third token."""
    shares = torch.zeros(len(run.ids))
    shares[2], shares[4] = 0.75, 0.25
    allowed = torch.ones(run.top_ids.shape, dtype=torch.bool)
    allowed[2, 0] = False
    return replace(run, forbidden=shares, top_allowed=allowed, form_complete=True)


@pytest.mark.parametrize("dark", [False, True])
def test_what_the_form_forbade_is_a_strip_and_a_sign(open_page: Open, tmp_path: Path, dark: bool) -> None:
    page = open_page(tokens(formed(story())).to_html(tmp_path / "form.html"), width=420, dark=dark)
    shares = page.evaluate(
        "[...document.querySelectorAll('.lk-list .lk-tl-word')].slice(0, 5).map(w => w.style.getPropertyValue('--lk-share'))"
    )
    assert shares == ["0%", "0%", "75%", "0%", "25%"]
    sign = "i => getComputedStyle(document.querySelectorAll('.lk-list .lk-tl-token')[i], '::after').content"
    assert [page.evaluate(sign, i) for i in (2, 4)] == ['"!"', "none"]
    page.locator(".lk-list .lk-tl-token").nth(2).hover()
    assert "75.0 %, an override" in page.locator(".lk-facts").inner_text()
    assert page.locator(".lk-bar-cut").inner_text().split("\n")[-1].endswith("cut by form")
    assert page.get_by_text("The text satisfies the form.").is_visible()
    text = page.evaluate(
        "(() => { const s = getSelection(); s.selectAllChildren(document.querySelector('.lk-list')); return s.toString(); })()"
    )
    assert text == story().text, "signs are no part of the text"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_plain_text_has_no_strip(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tokens(story()).to_html(tmp_path / "plain.html"))
    assert page.locator(".lk-forbidden:visible, .lk-overridden:visible, .lk-drafted:visible").count() == 0


def test_drafted_tokens_have_a_line_of_their_own_and_rounds_a_bar(open_page: Open, tmp_path: Path) -> None:
    rounds = (Round((1, 2, 3), 2, 3, 0.1, 0.2), Round((4, 5), 0, 1, 0.1, 0.2))
    run = generation(STORY[:5], speculation=Speculation("prompt look-up", rounds))
    page = open_page(tokens(run).to_html(tmp_path / "drafted.html"))
    style = "[...document.querySelectorAll('.lk-list .lk-tl-word')].map(w => getComputedStyle(w).borderBottomStyle)"
    assert page.evaluate(style) == ["none", "dashed", "dashed", "none", "none"]
    begun = "[...document.querySelectorAll('.lk-list .lk-tl-token')].map(t => getComputedStyle(t, '::before').content)"
    assert [mark != "none" for mark in page.evaluate(begun)] == [False, True, False, False, True]
    assert "2 of 5 proposed tokens accepted (40%)" in page.locator(".lk-tokens-foot").inner_text()
    page.locator(".lk-list .lk-tl-token").nth(1).hover()
    assert "yes, and accepted" in page.locator(".lk-facts").inner_text()


def test_a_step_is_asked_for_and_shows_what_was_cut(open_page: Open, tmp_path: Path) -> None:
    run = story()
    view = tokens(run, choose=chosen)
    page = open_page(view.to_html(tmp_path / "step.html"))
    stand_in.draw(page, view)
    page.locator(".lk-list .lk-tl-token").nth(3).hover()
    height = page.locator(".lk-panel").bounding_box()["height"]
    stand_in.tell(page, view)
    cut = page.locator(".lk-bar-cut")
    assert cut.count() == 6
    assert cut.first.locator(".lk-bar-note").inner_text() == "cut by top-p"
    struck = cut.first.locator(".lk-label").evaluate("e => getComputedStyle(e).textDecorationLine")
    assert struck == "line-through"
    assert page.locator(".lk-choice-table tr").nth(2).locator("td").nth(1).inner_text() == "2"
    assert page.locator(".lk-bar-taken .lk-label").inner_text() == f"·w{run.ids[3]}"
    page.get_by_label("Chances after").select_option("the model alone")
    assert cut.count() == 0
    assert page.locator(".lk-panel").bounding_box()["height"] - height < 10, "the panel jumps"
    # the file keeps what was looked at
    page = open_page(view.to_html(tmp_path / "kept.html"))
    page.locator(".lk-list .lk-tl-token").nth(3).hover()
    assert page.locator(".lk-bar-cut").count() == 6
    view.close()


def test_hostile_tokens_of_a_step_stay_text(open_page: Open, tmp_path: Path) -> None:
    run = formed(of_tokens(HOSTILE))
    view = tokens(run, choose=lambda run, token: chosen(run, token, lambda id_: HOSTILE[id_ % len(HOSTILE)]))
    for token in (0, 1, 16):
        view.choose(token)
        assert view.wait(10)
    page = open_page(view.to_html(tmp_path / "hostile.html"), width=420)
    for token in (0, 1, 16):
        page.locator(".lk-list .lk-tl-token").nth(token).hover()
        assert page.locator(".lk-choice-table").count() == 1
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main svg, main script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long token widens the page"
    view.close()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_in_a_step(open_page: Open, violations: Violations, tmp_path: Path, dark: bool) -> None:
    run = formed(story())
    view = tokens(run, choose=chosen)
    view.choose(2)
    assert view.wait(10)
    page = open_page(view.to_html(tmp_path / "axe.html"), dark=dark)
    page.locator(".lk-list .lk-tl-token").nth(2).click()
    assert violations(page) == []
