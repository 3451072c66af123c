"""The split view in a real browser: tokens of hostile texts, two tokenizers side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fuzz
import pytest
import stand_in
import tokenizers_of_kinds
from generations import HOSTILE

import labkit as lk

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("dark", "width"), [(False, 1100), (True, 420)])
def test_two_tokenizers_side_by_side_say_what_each_token_is(
    open_page: Any, tmp_path: Path, dark: bool, width: int
) -> None:
    one = lk.tokens(fuzz.tiny_tokenizer(), "the é", name="pairs")
    two = lk.tokens(tokenizers_of_kinds.wordpiece(), "hi é", name="words")
    page = open_page(lk.views.tokens([one, two]).to_html(tmp_path / "split.html"), width=width, dark=dark)
    assert page.locator(".lk-split-text h2").all_inner_texts() == ["pairs", "words"]
    assert page.locator(".lk-split-text .lk-tl-token").count() == len(one) + len(two)
    page.locator(".lk-split-text").first.locator(".lk-tl-token").nth(3).hover()
    panel = page.locator(".lk-split-panel").inner_text()
    assert "<0xA9>" in panel
    assert "A9" in panel
    assert "it was there from the start" in panel
    page.locator(".lk-split-text").nth(1).locator(".lk-tl-token").nth(1).hover()
    panel = page.locator(".lk-split-panel").inner_text()
    assert "20 C3 A9" in panel
    assert "has not" in panel
    assert page.locator(".lk-split-text").nth(1).locator(".lk-split-lossy").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    boxes = [each.bounding_box() for each in page.locator(".lk-split-text").all()]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 800)


def test_the_shade_follows_the_list_and_the_keyboard_reaches_each_token(
    open_page: Any, tmp_path: Path, tiny_lab: lk.Lab
) -> None:
    found = lk.tokens(tiny_lab, "the cat sat on")
    view = lk.views.tokens(found)
    page = open_page(view.to_html(tmp_path / "loss.html"))
    stand_in.draw(page, view)
    shades = "[...document.querySelectorAll('.lk-tl-word')].map(word => word.style.getPropertyValue('--lk-deep'))"
    assert any(shade != "0%" for shade in page.evaluate(shades))
    page.get_by_label("Shade").select_option("borders")
    assert set(page.evaluate(shades)) == {"0%"}
    tokens = page.locator(".lk-split-list")
    for number in range(len(found)):
        tokens.press("ArrowRight")
        assert f"token {number} of {len(found)}" in page.locator(".lk-split-title").inner_text()


def test_hostile_texts_stay_texts(open_page: Any, tmp_path: Path) -> None:
    text = " ".join(word.encode("utf-8", "replace").decode() for word in HOSTILE if word)[:1500]
    found = lk.tokens(fuzz.tiny_tokenizer(), text, name="<script>window.broken=1</script>")
    assert b"".join(token.bytes for token in found) == text.encode()
    page = open_page(lk.views.tokens(found).to_html(tmp_path / "hostile.html"))
    assert page.evaluate("window.broken") is None
    assert page.locator("#labkit-view script, #labkit-view img, #labkit-view iframe, #labkit-view a").count() == 0
    assert page.locator(".lk-split-text .lk-tl-token").count() == len(found)
