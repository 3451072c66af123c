"""The lens view in a real browser: cells, two lenses, keys, and a text that grows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import stand_in
from generations import HOSTILE
from lenses_by_hand import HandLens

import labkit as lk
from labkit.views.lens_view import LensView
from labkit.views.lens_view.cells import Column, columns_of

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
TOKENS = ["When", " Mary", " and", " John", " went", " to"]


def distribution(page: Any, place: int = 0) -> str:
    return str(page.locator(".lk-lens-distribution").nth(place).inner_text())


def test_cells_are_gone_through_and_show_their_distribution(open_page: Open, tmp_path: Path) -> None:
    one, two = HandLens(TOKENS), HandLens(TOKENS, kind="jacobian", first=1)
    view = lk.views.lens([one, two])
    page = open_page(view.to_html(tmp_path / "lens.html"))
    view.close()
    grid = page.get_by_role("application").first
    grid.focus()
    page.keyboard.press("End")  # at first the last token's output
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".lk-lens-panel h2").inner_text() == "5 layers passed, after “·went” (4)"
    token, _, probability = one.top(5, 4, 1)[0]
    first = distribution(page).splitlines()
    assert first[0] == "logit"
    assert first[1].strip() == token.replace(" ", "·")
    assert f"{100 * probability:.1f} %" in first[2]
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    assert "This lens does not read here." in distribution(page, 1)
    page.get_by_label("Beside it").select_option("")
    assert page.locator(".lk-lens-pane:visible").count() == 1
    page.get_by_label("Colour", exact=True).select_option("divergence")
    page.keyboard.press("Escape")
    box = grid.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    assert page.locator(".lk-lens-panel h2").inner_text() == "0 layers passed, after “When” (0)"


def test_a_text_grows_and_is_stopped(open_page: Open, tmp_path: Path) -> None:
    lens = HandLens(TOKENS)
    columns = columns_of({"logit": lens}, 3)
    columns = [*columns[:3], *(Column(c.token, c.cells, written=True) for c in columns[3:])]
    on = threading.Event()

    def write(prompt: str, take: Callable[[Sequence[Column]], None], stop: threading.Event) -> str:
        take(columns[:4])
        on.set()
        stop.wait(20)
        take(columns)
        return f"stopped after {prompt!r}"

    view = LensView(["logit"], lens.layers, model="tiny", k=3, write=write, prompt="When <b>")
    assert on.wait(10)
    page = open_page(view.to_html(tmp_path / "live.html"))
    assert not page.get_by_label("Prompt").is_visible(), "a file can't write"
    stand_in.draw(page, view)
    assert page.get_by_label("Prompt").input_value() == "When <b>"
    assert "4 tokens, the last 1 written by the model" in page.locator(".lk-muted").first.inner_text()
    page.get_by_role("button", name="Stop").click()
    stand_in.tell(page, view)
    assert "6 tokens, the last 3 written by the model" in page.locator(".lk-muted").first.inner_text()
    assert page.locator(".lk-sheet-columns bdi:visible").count() == 6
    assert page.get_by_text("stopped after 'When <b>'").is_visible()
    assert page.get_by_role("button", name="Write").is_visible()
    view.close()


def hostile() -> LensView:
    one = HandLens(HOSTILE, words=HOSTILE, model=HOSTILE[0])
    two = HandLens(HOSTILE, words=HOSTILE, kind=HOSTILE[1])
    view = lk.views.lens([one, two], title=HOSTILE[0])
    view.held = [3, 5]
    return view


def test_hostile_tokens_stay_text(open_page: Open, tmp_path: Path) -> None:
    view = hostile()
    page = open_page(view.to_html(tmp_path / "hostile.html"), width=420)
    view.close()
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long token widens the page"


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_in_a_lens(
    open_page: Open, violations: Callable[[Any], list[Any]], tmp_path: Path, dark: bool
) -> None:
    view = hostile()
    page = open_page(view.to_html(tmp_path / "axe.html"), width=420, dark=dark)
    stand_in.draw(page, view)
    assert violations(page) == []
    view.close()
