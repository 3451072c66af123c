"""The attention view in a real Chromium: as an exported page, and as a widget on a stand-in for the notebook's model."""

from __future__ import annotations

import os
import re
import struct
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stand_in
import torch
from generations import HOSTILE, LONE_SURROGATES
from traces import patterned, previous_token, random_patterns, random_trace

from labkit.trace.record import LayerAttention, Trace
from labkit.views.attention_view import AttentionView, attention

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


def foot(page: Any, which: int = 0) -> str:
    return page.locator(".lk-att-foot").nth(which).inner_text()


def settle(page: Any) -> None:
    """Until what was asked to be drawn is drawn."""
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def pane(page: Any, which: int = 0) -> Any:
    return page.locator(".lk-att-grid").nth(which)


def spoken(page: Any, part: str) -> str:
    """What a screen reader is told by a part of the view."""
    until(page, f"document.querySelector('{part} > [aria-live]').textContent !== ''")
    return page.locator(f"{part} > [aria-live]").first.text_content()


def no_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def until(page: Any, condition: str) -> None:
    """Wait for an expression to hold. The page's own policy forbids playwright's way, which evaluates strings."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never came: {condition}")


def point(page: Any, row: int, column: int, n: int, which: int = 0) -> None:
    """The pointer to the middle of a cell."""
    pane(page, which).scroll_into_view_if_needed()
    box = pane(page, which).bounding_box()
    page.mouse.move(box["x"] + (column + 0.5) * box["width"] / n, box["y"] + (row + 0.5) * box["height"] / n)


def colour(page: Any, row: int, column: int, n: int) -> list[int]:
    """What is painted in a cell, RGBA, a little off its middle."""
    settle(page)
    return page.evaluate(
        """([row, column, n]) => {
            const canvas = document.querySelector('.lk-att-base');
            const cell = canvas.width / n;
            return [...canvas.getContext('2d').getImageData((column + 0.4) * cell, (row + 0.15) * cell, 1, 1).data];
        }""",
        [row, column, n],
    )


def lightness(rgba: list[int]) -> float:
    return 0.2126 * rgba[0] + 0.7152 * rgba[1] + 0.0722 * rgba[2]


def chosen() -> Trace:
    """Ten tokens; layer 1, head 3 looks one back, the others are of chance. Heads share keys in pairs."""
    patterns = random_patterns(10)
    patterns[1][3] = previous_token(10)
    words = ["The", " cat", " sat", " on", " the", " mat", " because", " it", " was", " tired"]
    return patterned(words, patterns, kv_heads=2)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1100, 420])
def test_the_pattern_is_painted_on_the_papers_side(open_page: Open, tmp_path: Path, dark: bool, width: int) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"), width=width, dark=dark)
    strong, weak, zero, masked = (colour(page, *cell, 10) for cell in [(7, 6), (7, 0), (7, 3), (3, 7)])
    assert zero[3] == masked[3] == 0, "what can't be seen, or is exactly zero, is the paper"
    assert strong[3] == weak[3] == 255
    assert (lightness(strong) > lightness(weak)) == dark
    paper = page.evaluate("getComputedStyle(document.querySelector('.lk-view')).backgroundColor")
    assert (paper == "rgb(21, 24, 27)") == dark
    no_sideways(page)
    assert page.locator(".lk-att-row").all_inner_texts()[7].split() == ["7", "·it"]
    assert [text.strip() for text in page.locator(".lk-att-column").all_inner_texts()][7] == "·it"
    assert pane(page).bounding_box()["width"] <= 300
    if width == 1100:
        assert pane(page).bounding_box()["y"] + 300 <= 800, "the head is seen without scrolling"


def test_colours_follow_a_change_of_theme(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    light = colour(page, 7, 6, 10)
    page.emulate_media(color_scheme="dark")
    until(page, "getComputedStyle(document.querySelector('.lk-view')).backgroundColor === 'rgb(21, 24, 27)'")
    page.wait_for_timeout(50)
    assert lightness(colour(page, 7, 6, 10)) > lightness(light) + 100
    page.evaluate("document.documentElement.setAttribute('theme', 'light')")
    page.wait_for_timeout(50)
    assert colour(page, 7, 6, 10) == light


def test_first_head_is_named_with_those_that_share_its_keys(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    assert page.get_by_label("Layer", exact=True).input_value() == "1"
    assert page.get_by_label("Head", exact=True).input_value() == "3"
    assert page.locator(".lk-att-shares").first.inner_text() == "shares keys with head 2"
    assert "Shown first because" in page.locator(".lk-att-notes").inner_text()
    assert "square root scale" in page.locator(".lk-att-legend").inner_text()
    rows = [row.inner_text().split() for row in page.locator(".lk-att-links tr").all()]
    assert rows[1] == ["·sat", "2", "·cat", "1", "0.9000"]


def test_pointing_reads_the_weight(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    point(page, 7, 6, 10)
    assert foot(page) == "“it” (7) looks at “because” (6): about 0.90"
    assert page.locator(".lk-att-row-chip").first.inner_text().split() == ["7", "·it"]
    assert page.locator(".lk-att-column-chip").first.inner_text().split() == ["6", "·because"]
    point(page, 0, 0, 10)
    assert foot(page) == "“The” (0) looks at itself: about 1.00"
    point(page, 7, 3, 10)
    assert foot(page) == "“it” (7) looks at “on” (3): exactly 0"
    point(page, 3, 7, 10)
    assert foot(page) == "“on” (3) can't look at “it” (7), which comes later."
    page.mouse.move(2, 2)
    assert foot(page).startswith("Point at a cell")
    assert not page.locator(".lk-att-row-chip").first.is_visible()


def test_every_cell_reads_its_own_weight(open_page: Open, tmp_path: Path) -> None:
    trace = random_trace(6)
    page = open_page(attention(trace, layer=0, head=1).to_html(tmp_path / "page.html"))
    weights = trace.attention(0, 1)
    for row in range(6):
        for column in range(row + 1):
            point(page, row, column, 6)
            said = foot(page).split(": ")[-1]
            if said != "under 0.0001":
                assert float(said.removeprefix("about ")) == pytest.approx(float(weights[row, column]), abs=0.006)
            else:
                assert weights[row, column] < 1e-4


def test_walk_with_the_keyboard_alone(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    focused = lambda: page.evaluate("document.activeElement.className")  # noqa: E731
    stops = []
    while "lk-att-grid" not in focused():
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
        assert len(stops) < 20
    assert stops == [
        *["SELECT"] * 4, "INPUT", *["lk-button"] * 2, *["SELECT"] * 2, "lk-att-mapgrid", *["lk-button"] * 4,
        "lk-att-grid",
    ], "map and pattern are one stop each"  # fmt: skip
    page.keyboard.press("ArrowDown")
    assert foot(page) == "“sat” (2) looks at “cat” (1): about 0.90", "it begins at the strongest link"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert foot(page) == "“on” (3) looks at “sat” (2): about 0.90"
    page.keyboard.press("End")
    assert foot(page) == "“on” (3) looks at itself: exactly 0"
    page.keyboard.press("ArrowRight")
    assert foot(page) == "“on” (3) looks at itself: exactly 0"
    page.keyboard.press("Home")
    assert foot(page) == "“on” (3) looks at “The” (0): about 0.099"
    assert spoken(page, ".lk-att-figure") == "on, token 3, looks at The, token 0: about 0.099"
    page.keyboard.press("Escape")
    assert foot(page).startswith("Point at a cell")
    assert "lk-att-grid" in focused()
    page.keyboard.press("Escape")
    assert focused() == "lk-att-mapgrid", "back to the map"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")


def test_a_click_stays(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    point(page, 5, 4, 10)
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(2, 2)
    assert foot(page) == "“mat” (5) looks at “the” (4): about 0.90"
    page.keyboard.press("ArrowUp")
    assert foot(page) == "“the” (4) looks at itself: exactly 0"


def test_another_head_in_a_file(open_page: Open, tmp_path: Path) -> None:
    trace = chosen()
    page = open_page(attention(trace).to_html(tmp_path / "page.html", heads=[(0, 0), (0, 2)]))
    assert page.locator("select").first.evaluate("s => [...s.options].map(o => o.value)") == ["0", "1"]
    assert (
        "Not in this file: heads 1, 3 of layer 0; heads 0 to 2 of layer 1."
        in page.locator(".lk-att-notes").inner_text()
    )
    point(page, 7, 6, 10)
    page.get_by_label("Layer", exact=True).select_option("0")
    assert page.get_by_label("Head", exact=True).evaluate("s => [...s.options].map(o => o.value)") == ["0", "2"]
    assert page.locator(".lk-att-shares").first.inner_text() == "shares keys with head 1"
    page.get_by_label("Head", exact=True).select_option("2")
    point(page, 7, 5, 10)
    said = foot(page)
    assert said.startswith("“it” (7) looks at “mat” (5): ")
    weight = float(trace.attention(0, 2)[7, 5])
    assert float(said.split()[-1]) == pytest.approx(weight, abs=0.006)
    first = page.locator(".lk-att-links td.lk-number").first.inner_text()
    others = trace.attention(0, 2).clone()
    others[:, 0] = 0
    others.fill_diagonal_(0)
    assert first == f"{float(others.max()):.4f}"
    assert "layer 0, head 2" in pane(page).get_attribute("aria-label")


def test_pickers_move_with_the_arrow_keys(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    page.get_by_label("Head", exact=True).press("ArrowUp")
    assert page.locator(".lk-att-shares").first.inner_text() == "shares keys with head 3"
    assert "layer 1, head 2" in pane(page).get_attribute("aria-label")


@pytest.mark.parametrize("width", [1100, 420])
def test_hostile_tokens_stay_text(open_page: Open, tmp_path: Path, width: int) -> None:
    tokens = [*HOSTILE, *LONE_SURROGATES]
    n = len(tokens)
    view = attention(patterned(tokens, {0: previous_token(n)[None]}))
    page = open_page(view.to_html(tmp_path / "hostile.html"), width=width)
    for row in range(n):
        point(page, row, row, n)
        point(page, row, max(0, row - 1), n)
        assert f"({row}) looks at" in foot(page)
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main svg, main script, main b, main textarea").count() == 0
    no_sideways(page)
    assert page.locator(".lk-att-tokens .lk-tl-token").count() == n
    i = tokens.index("\u202eesrever\u202c")
    point(page, i, i, n)
    assert foot(page) == f"“U+202EesreverU+202C” ({i}) looks at itself: exactly 0"
    left = page.evaluate("document.querySelector('.lk-att-grid').getBoundingClientRect().left")
    for box in [row.bounding_box() for row in page.locator(".lk-att-row").all()]:
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= left


def test_what_is_no_number_is_marked(open_page: Open, tmp_path: Path) -> None:
    patterns = random_patterns(10)
    patterns[0][0, 7] = torch.nan
    page = open_page(attention(patterned(["t"] * 10, patterns), layer=0, head=0).to_html(tmp_path / "nan.html"))
    assert colour(page, 7, 3, 10)[:3] == [213, 94, 0]
    assert colour(page, 6, 3, 10)[:3] != [213, 94, 0]
    point(page, 7, 3, 10)
    assert foot(page) == "“t” (7) looks at “t” (3): not a number"
    assert "1 of 10 tokens have weights that are not numbers (NaN)" in page.locator(".lk-att-notes").inner_text()


def test_rows_that_sum_to_less_than_one_are_said(open_page: Open, tmp_path: Path) -> None:
    patterns = {0: random_patterns(10)[0] * 0.6}
    page = open_page(attention(patterned(["t"] * 10, patterns)).to_html(tmp_path / "sink.html"))
    assert "Rows sum to less than 1, the lowest to 0.600" in page.locator(".lk-att-notes").inner_text()


def test_one_token(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(random_trace(1)).to_html(tmp_path / "one.html"))
    assert foot(page) == "One token can only look at itself."
    point(page, 0, 0, 1)
    assert foot(page) == "“The” (0) looks at itself: about 1.00"
    assert pane(page).bounding_box()["width"] == 30


@pytest.mark.parametrize("width", [1100, 420])
def test_many_tokens(open_page: Open, tmp_path: Path, width: int) -> None:
    patterns = {0: previous_token(1500)[None]}
    page = open_page(
        attention(patterned([f" w{i}" for i in range(1500)], patterns)).to_html(tmp_path / "n.html"), width=width
    )
    assert "each cell stands for 2 × 2 tokens" in page.locator(".lk-att-notes").inner_text()
    assert "a dot shows the highest weight of" in page.locator(".lk-att-reading").first.inner_text()
    box = pane(page).bounding_box()
    assert box["width"] <= 700
    assert 5 <= page.locator(".lk-att-row").count() <= 60
    pane(page).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("End")
    assert "look at themselves: highest about 0.90" in foot(page)
    point(page, 100, 30, 750)
    found = re.fullmatch(
        r"“w(\d+)·w(\d+)” \((\d+) to (\d+)\) look at “w(\d+)·w(\d+)” \((\d+) to (\d+)\): highest exactly 0", foot(page)
    )
    assert found is not None, foot(page)
    row, *_ = numbers = [int(number) for number in found.groups()]
    assert numbers[:4] == [row, row + 1] * 2
    assert row % 2 == 0
    assert abs(row - 200) <= 4
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_text_is_there_without_scripts(chromium: Any, tmp_path: Path) -> None:
    path = attention(chosen()).to_html(tmp_path / "static.html")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    body = page.locator("main").inner_text()
    context.close()
    assert "The strongest links" in body
    assert "' sat' (2)" in body


@pytest.mark.parametrize("width", [750, 845, 1000])
@pytest.mark.parametrize("two", [False, True])
def test_a_cell_beside_a_sidebar_has_room_for_the_map(open_page: Open, tmp_path: Path, width: int, two: bool) -> None:
    """As wide as an output of JupyterLab on a laptop's screen: the whole map stands beside the head."""
    view = attention(random_trace(60, layers=30, heads=9), head=2)
    view.beside = [0, 1, 1] if two else []
    page = open_page(view.to_html(tmp_path / "page.html"), width=1200)
    page.locator(".lk-attention").evaluate("(e, width) => { e.style.width = `${width}px`; }", width)
    page.wait_for_timeout(100)
    assert page.evaluate("document.querySelector('.lk-attention').clientWidth") == width
    parts = ", ".join(f".lk-att-{part}" for part in ("map", "mapbox", "figure", "plot", "side", "bar"))
    sticking_out = page.locator(f".lk-attention, {parts}").evaluate_all(
        "all => all.filter(e => e.offsetParent && e.scrollWidth > e.clientWidth).map(e => e.className)"
    )
    assert sticking_out == []
    cut = "(e => e.scrollHeight > e.clientHeight)(document.querySelector('.lk-att-mapbox'))"
    assert not page.evaluate(cut), "all layers are seen"
    map_, figure, side = (page.locator(f".lk-att-{part}").first.bounding_box() for part in ("map", "figure", "side"))
    assert map_["x"] + map_["width"] < min(figure["x"], side["x"])
    assert abs(figure["y"] - map_["y"]) < 1
    for which in range(1 + two):
        assert pane(page, which).bounding_box()["width"] >= 200


# as a widget: its own render(), on a model that answers as a kernel does ------------------------------------------------


def as_widget(open_page: Open, view: AttentionView, path: Path, *, without_map: bool = False, **settings: Any) -> Any:
    page = open_page(view.to_html(path, heads=[]), **settings)
    values, raw = stand_in.state(view)
    if without_map:
        raw = {name: "" if name.startswith("map_") else value for name, value in raw.items()}
    stand_in.draw(page, view, [values, raw])
    settle(page)
    return page


def pump(page: Any, view: AttentionView) -> list[dict[str, Any]]:
    """Bring what the page asked for to the real view and its answers back, as a kernel would; returns the questions."""
    questions: list[dict[str, Any]] = []
    for _ in range(20):
        asked = page.evaluate("window.asked.splice(0)")
        saved = page.evaluate("window.saved.splice(0)")
        if not asked and not saved:
            return questions
        questions += asked
        answers: list[Any] = []
        view.send = lambda answer, buffers=None, into=answers: into.append((answer, buffers or []))  # type: ignore[misc]
        for content in asked:
            view._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        for changes in saved:
            view._handle_msg({"content": {"data": {"method": "update", "state": changes}}, "buffers": []})
        for answer, buffers in answers:
            stand_in.answer(page, answer, buffers)
        if saved:
            stand_in.receive(page, stand_in.state(view))
        settle(page)
    raise AssertionError("it never stops asking")


def test_the_kernel_is_asked_for_exact_weights_once(open_page: Open, tmp_path: Path) -> None:
    view = attention(chosen())
    page = as_widget(open_page, view, tmp_path / "live.html")
    box = pane(page).bounding_box()
    y = box["y"] + 7.5 * box["height"] / 10
    page.mouse.move(box["x"] + 5, y)
    page.mouse.move(box["x"] + 6.5 * box["width"] / 10, y, steps=6)
    assert foot(page).endswith("about 0.90")
    until(page, "window.asked.length > 0")
    page.wait_for_timeout(150)
    asked = [each["args"] for each in page.evaluate("window.asked") if each["ask"] == "exact"]
    assert asked[-1] == {"trace": 0, "layer": 1, "head": 3, "row": 7, "column": 6, "pool": 1, "aside": False}
    assert len(asked) <= 3, "a pointer on its way asks for nothing"
    pump(page, view)
    assert foot(page) == "“it” (7) looks at “because” (6): 0.9000"
    point(page, 7, 5, 10)
    point(page, 7, 6, 10)
    page.wait_for_timeout(150)
    assert foot(page).endswith("0.9000")
    asked = page.evaluate("window.asked")
    assert not [a for a in asked if a["ask"] == "exact" and a["args"]["column"] == 6], "it is known already"


def test_a_head_is_asked_for_and_drawn_when_it_comes(open_page: Open, tmp_path: Path) -> None:
    view = attention(chosen())
    page = as_widget(open_page, view, tmp_path / "live.html")
    page.get_by_label("Layer", exact=True).select_option("0")
    assert page.evaluate("window.saved") == [{"layer": 0}]
    before = colour(page, 7, 6, 10)
    until(page, "document.querySelector('.lk-att-bar .lk-status').textContent === 'computing layer 0 · head 3 …'")
    assert colour(page, 7, 6, 10) == before, "what is shown stays until the other is here"
    view.layer = 0
    stand_in.receive(page, stand_in.state(view))
    assert page.locator(".lk-att-bar .lk-status").inner_text() == ""
    assert colour(page, 7, 6, 10) != before
    view.show(1, 0)  # from Python
    stand_in.receive(page, stand_in.state(view))
    assert (
        page.get_by_label("Layer", exact=True).input_value(),
        page.get_by_label("Head", exact=True).input_value(),
    ) == ("1", "0")
    assert "layer 1, head 0" in pane(page).get_attribute("aria-label")
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0


def test_pooled_cells_name_the_pair_behind_them(open_page: Open, tmp_path: Path) -> None:
    view = attention(patterned([f" w{i}" for i in range(1500)], {0: previous_token(1500)[None]}))
    page = as_widget(open_page, view, tmp_path / "live.html")
    pane(page).focus()
    page.keyboard.press("ArrowDown")
    until(page, "window.asked.some((each) => each.ask === 'exact')")
    pump(page, view)
    assert foot(page) == "Highest in this cell: “w2” (2) looks at “w1” (1): 0.9000"


# the map --------------------------------------------------------------------------------------------------------------

PITCH, ROW, GROUP = 24, 28, 5  # of the map in pixels: a column, a row, the gap between heads that share keys


def on_map(page: Any, layer: int, head: int) -> tuple[float, float]:
    """The middle of a thumbnail of `chosen()`, in which heads share keys in pairs."""
    page.locator(".lk-att-mapgrid").scroll_into_view_if_needed()
    box = page.locator(".lk-att-mapgrid").bounding_box()
    return box["x"] + head * PITCH + head // 2 * GROUP + 10.5, box["y"] + layer * ROW + 10.5


def map_colour(page: Any, x: float, y: float) -> list[int]:
    settle(page)
    return page.evaluate(
        "([x, y]) => [...document.querySelector('.lk-att-mapcanvas').getContext('2d').getImageData(x, y, 1, 1).data]",
        [x, y],
    )


def frames(page: Any) -> list[tuple[int, int]]:
    """Which heads of `chosen()` have a strong frame: the shown one, that beside, the one under the keyboard."""
    settle(page)
    return [
        (layer, head)
        for layer in range(2)
        for head in range(4)
        if page.evaluate(
            "([x, y]) => document.querySelector('.lk-att-mapover').getContext('2d').getImageData(x, y, 1, 1).data[3]",
            [2 + head * PITCH + head // 2 * GROUP + 21, 2 + layer * ROW + 12],
        )
        > 100
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_map_shows_every_head_on_the_papers_side(open_page: Open, tmp_path: Path, dark: bool) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"), dark=dark)
    x = 3 * PITCH + GROUP
    strong = map_colour(page, x + 21 * 6.5 / 10, ROW + 21 * 7.5 / 10)
    zero = map_colour(page, x + 21 * 2.5 / 10, ROW + 21 * 7.5 / 10)
    masked = map_colour(page, x + 16, ROW + 4)
    assert zero == masked, "what is exactly zero is the wash"
    assert (lightness(strong) > lightness(zero) + 50) if dark else (lightness(strong) < lightness(zero) - 50)
    assert frames(page) == [(1, 3)]
    bar = map_colour(page, x + 10, ROW + 22 + 1)
    assert bar == ([86, 180, 233, 255] if dark else [0, 114, 178, 255]), "the highest has a full bar"
    assert map_colour(page, 3 * PITCH + GROUP + 18, 23) != bar
    said = page.locator(".lk-att-maplegend").inner_text()
    assert said.startswith("Bar: previous token, up to 90 %. Looking evenly at everything would give ")
    assert "Heads that share keys and values stand together." in page.locator(".lk-att-mapnotes").inner_text()
    assert page.locator(".lk-att-progress").inner_text() == ""


def test_pointing_at_the_map_names_the_head_and_a_click_opens_it(open_page: Open, tmp_path: Path) -> None:
    trace = chosen()
    page = open_page(attention(trace).to_html(tmp_path / "page.html"))
    assert not page.locator(".lk-att-peek").is_visible()
    for layer in range(2):
        for head in range(4):
            page.mouse.move(*on_map(page, layer, head))
            said = page.locator(".lk-att-peek p").inner_text()
            weights = trace.attention(layer, head)
            previous = float(weights[range(2, 10), range(1, 9)].mean())
            assert said.startswith(
                f"layer {layer} · head {head} · previous token {100 * previous:.{int(previous < 0.0995)}f} %"
            )
            assert f"{round(100 * float(weights[2:, 0].mean()))} % on the first token" in said
    page.mouse.move(2, 2)
    assert not page.locator(".lk-att-peek").is_visible()
    page.mouse.click(*on_map(page, 0, 2))
    assert "layer 0, head 2" in pane(page).get_attribute("aria-label")
    assert page.get_by_label("Layer", exact=True).input_value() == "0"
    page.mouse.move(2, 2)
    page.evaluate("document.activeElement.blur()")
    assert (0, 2) in frames(page)


def test_the_map_with_the_keyboard_alone(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    page.locator(".lk-att-mapgrid").focus()
    page.keyboard.press("ArrowUp")
    assert page.locator(".lk-att-peek p").inner_text().startswith("layer 0 · head 3 · ")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert "layer 0, head 2" in pane(page).get_attribute("aria-label")
    assert page.evaluate("document.activeElement.className").startswith("lk-att-grid"), "Enter opens the head"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "lk-att-mapgrid", "and Escape leads back"
    assert spoken(page, ".lk-att-map").startswith("layer 0 · head 2 · previous token")
    page.keyboard.press("Space")
    assert page.locator(".lk-att-peek p").inner_text().endswith(" · marked")
    assert page.get_by_role("button", name="Marked", exact=True).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Space")
    assert page.get_by_role("button", name="Mark", exact=True).get_attribute("aria-pressed") == "false"
    page.keyboard.press("Home")
    page.keyboard.press("Shift+Enter")
    assert pane(page, 1).is_visible()
    assert "layer 0, head 0" in pane(page, 1).get_attribute("aria-label")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")


def test_heads_in_order_of_a_measure(open_page: Open, tmp_path: Path) -> None:
    patterns = random_patterns(10)
    patterns[1][2] = previous_token(10)
    patterns[0][1] = torch.nan
    trace = patterned(["t"] * 10, patterns)
    page = open_page(attention(trace, layer=0, head=0).to_html(tmp_path / "page.html"))
    page.get_by_label("Order").select_option("highest")
    grid = page.locator(".lk-att-mapgrid")
    grid.focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    assert page.locator(".lk-att-peek p").inner_text().startswith("layer 1 · head 2 · previous token 90 %")
    page.keyboard.press("Space")
    assert page.locator(".lk-att-peek p").inner_text().endswith(" · marked")
    page.keyboard.press("Space")
    page.keyboard.press("PageDown")
    page.keyboard.press("End")
    last = page.locator(".lk-att-peek p").inner_text()
    assert last == "layer 0 · head 1 · previous token not defined here", "what has no number is last"
    names = page.get_by_label("Bars").evaluate("s => [...s.options].map(o => o.value)")
    assert "induction" not in names, "no token comes twice"
    page.get_by_label("Bars").select_option("own")
    assert page.locator(".lk-att-maplegend").inner_text().startswith("Bar: own token, up to ")
    page.keyboard.press("Tab")
    grid.focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    own = {
        (layer, head): float(trace.attention(layer, head).diagonal()[2:].mean())
        for layer in range(2)
        for head in range(4)
        if (layer, head) != (0, 1)
    }
    layer, head = max(own, key=own.__getitem__)
    assert page.locator(".lk-att-peek p").inner_text().startswith(f"layer {layer} · head {head} · own token ")


def test_heads_that_a_file_does_not_hold_stand_back(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html", heads=[(0, 0)]))
    assert "Pale heads are not in this file." in page.locator(".lk-att-mapnotes").inner_text()
    page.mouse.move(*on_map(page, 0, 1))
    assert page.locator(".lk-att-peek p").inner_text().endswith("not in this file")
    page.mouse.click(*on_map(page, 0, 1))
    assert page.locator(".lk-att-bar .lk-status").inner_text() == "Layer 0 · head 1 is not in this file."
    assert "layer 1, head 3" in pane(page).get_attribute("aria-label")


# the head, zoomed -----------------------------------------------------------------------------------------------------


def worded(n: int, window: int | None = None) -> Trace:
    """Every token looks at the one before it; each has a name of its own."""
    if window is None:
        return patterned([f" word{i}" for i in range(n)], {0: previous_token(n)[None]})
    generator = torch.Generator().manual_seed(0)
    operands = {name: torch.randn(1, n, 8, generator=generator) for name in ("query", "key")}
    distance = torch.arange(n)[:, None] - torch.arange(n)[None]
    mask = (distance >= 0) & (distance < window)
    return Trace(
        [f" word{i}" for i in range(n)], list(range(n)), "tiny-model", "mistral", 1, 1, 1, ("attention",), {},
        _attention={0: LayerAttention(**operands, mask=mask)},
    )  # fmt: skip


def span(page: Any) -> tuple[int, int]:
    """The first and the last row that has a label."""
    settle(page)
    rows = [int(text.split()[0]) for text in page.locator(".lk-att-figure >> nth=0 >> .lk-att-row").all_inner_texts()]
    return rows[0], rows[-1]


def test_zooming_and_panning(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(worded(256)).to_html(tmp_path / "page.html"))
    assert span(page)[0] == 0
    assert span(page)[1] > 230
    overview = page.locator(".lk-att-overview").first
    assert not overview.is_visible()
    page.get_by_role("button", name="Zoom in").click()
    first, last = span(page)
    assert overview.is_visible()
    assert 30 < first < 60
    assert 190 < last < 220
    page.get_by_role("button", name="Zoom out").click()
    settle(page)
    assert not overview.is_visible()
    pane(page).focus()
    for key in ("+", "+", "="):
        page.keyboard.press(key)
    narrow = span(page)
    assert narrow[1] - narrow[0] < 70
    page.keyboard.press("-")
    assert span(page)[1] - span(page)[0] > narrow[1] - narrow[0]
    page.keyboard.press("0")
    assert span(page)[1] > 230
    box = pane(page).bounding_box()
    at = (box["x"] + 0.3 * box["width"], box["y"] + 0.75 * box["height"])
    page.mouse.move(*at)
    row = foot(page)
    assert "word192" in row or "word191" in row
    page.keyboard.down("Control")
    for _ in range(4):
        page.mouse.wheel(0, -60)
    page.keyboard.up("Control")
    first, last = span(page)
    assert first < 192 < last
    assert last - first < 40
    assert 0.6 < (192 - first) / (last - first) < 0.9, "what is under the pointer stays there"
    page.mouse.move(at[0] + 1, at[1])
    assert re.match(r"“word19[0-3]”", foot(page))
    page.mouse.down()
    page.mouse.move(at[0], at[1] - 150, steps=5)
    page.mouse.up()
    assert span(page)[0] > first, "the picture follows the pointer"
    assert foot(page).startswith("“word19") or foot(page).startswith("“word20") or foot(page).startswith("Point")
    page.mouse.move(2, 2)
    pane(page).focus()
    page.keyboard.press("Escape")
    assert span(page)[1] > 230, "Escape shows the whole again"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "lk-att-mapgrid", "and then leaves for the map"
    pane(page).dblclick(position={"x": box["width"] * 0.5, "y": box["height"] * 0.5})
    assert span(page)[1] - span(page)[0] < 110
    page.mouse.wheel(0, 60)
    page.wait_for_timeout(50)
    assert span(page)[1] - span(page)[0] < 110, "a plain wheel scrolls the page"


@pytest.mark.parametrize("width", [1100, 420])
def test_labels_stay_readable_when_zoomed(open_page: Open, tmp_path: Path, width: int) -> None:
    page = open_page(attention(worded(256)).to_html(tmp_path / "page.html"), width=width)
    pane(page).focus()
    for _ in range(9):
        settle(page)
        for kind in ("row", "column", "upright"):
            boxes = sorted(
                page.evaluate(
                    """(kind) => [...document.querySelectorAll(`.lk-att-${kind}`)].map((e) => {
                        const b = e.getBoundingClientRect(); return [b.top, b.left, b.bottom, b.right, e.textContent];
                    })""",
                    kind,
                )
            )
            for i, (top, left, bottom, right, text) in enumerate(boxes):
                assert "word" in text
                for other in boxes[i + 1 :]:
                    over = min(bottom, other[2]) - max(top, other[0]), min(right, other[3]) - max(left, other[1])
                    assert min(over) < 4, f"{text} lies over {other[4]}"  # lines of 13 px, 11 px apart
        assert page.locator(".lk-att-row").count() >= 5
        no_sideways(page)
        page.keyboard.press("+")
    first, last = span(page)
    assert last - first <= 6, "every token has its label in the end"
    assert page.locator(".lk-att-row").count() >= 5
    for key in ("ArrowDown", "PageDown", "PageDown", "PageDown", "Home"):
        page.keyboard.press(key)
    settle(page)
    assert page.locator(".lk-att-upright").count() >= 3, "far from the diagonal names stand below"


def test_a_held_cell_is_still_one_after_zooming(open_page: Open, tmp_path: Path) -> None:
    """Cells of other sizes: the words and the exact answer are of the cell that is drawn."""
    view = attention(worded(1500))
    page = as_widget(open_page, view, tmp_path / "live.html")
    pane(page).focus()
    page.keyboard.press("ArrowDown")
    for _ in range(6):
        page.keyboard.press("+")
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(150)
    pump(page, view)
    found = re.fullmatch(r"“word(\d+)” \((\d+)\) looks at “word(\d+)” \(\d+\): (.*)", foot(page))
    assert found is not None, foot(page)
    if int(found[2]) % 2 == 0:
        page.keyboard.press("ArrowDown")
    page.keyboard.press("0")
    page.wait_for_timeout(150)
    asked = pump(page, view)
    settle(page)
    exact = [each["args"] for each in asked if each["ask"] == "exact"]
    assert all(isinstance(each[name], int) for each in exact for name in ("row", "column"))
    assert foot(page).startswith("Highest in this cell: ")


def test_what_a_window_forbids_is_hatched(open_page: Open, tmp_path: Path) -> None:
    hatched = """(box) => {
        const [x, y, w, h] = box, canvas = document.querySelector('.lk-att-base');
        const n = canvas.width;
        const data = canvas.getContext('2d').getImageData(x * n, y * n, w * n, h * n).data;
        let count = 0;
        for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
        return count / (data.length / 4);
    }"""
    page = open_page(attention(worded(64, window=16)).to_html(tmp_path / "window.html"))
    settle(page)
    assert 0.05 < page.evaluate(hatched, [0, 0.75, 0.25, 0.2]) < 0.6
    assert page.evaluate(hatched, [0.7, 0.05, 0.25, 0.2]) == 0, "what comes later is the paper"
    assert "This layer looks back at most 16 tokens" in page.locator(".lk-att-notes").inner_text()
    point(page, 60, 10, 64)
    assert foot(page) == "“word60” (60) can't look at “word10” (10): this layer looks back at most 16 tokens."
    point(page, 60, 45, 64)
    assert ": about " in foot(page) or "under" in foot(page)
    free = open_page(attention(worded(64)).to_html(tmp_path / "free.html"))
    settle(free)
    assert free.evaluate(hatched, [0.1, 0.75, 0.25, 0.2]) == 0
    view = attention(worded(1500, window=100))
    live = as_widget(open_page, view, tmp_path / "live.html")
    for _ in range(4):
        live.get_by_role("button", name="Zoom in").first.click()
    live.wait_for_timeout(150)
    assert [each for each in pump(live, view) if each["ask"] == "tile"]
    assert 0.05 < live.evaluate(hatched, [0, 0.85, 0.15, 0.14]) < 0.6, "also under tiles"


def test_scales(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    shades = {}
    for scale in ("sqrt", "linear", "log"):
        page.get_by_label("Colours").select_option(scale)
        shades[scale] = lightness(colour(page, 7, 0, 10)), lightness(colour(page, 7, 6, 10))
        assert scale != "log" or "≤ 0.0001" in page.locator(".lk-scale-marks").inner_text()
    assert shades["linear"][0] > shades["sqrt"][0] > shades["log"][0], "a faint weight"
    point(page, 7, 0, 10)
    assert foot(page).endswith("about 0.099"), "the weight is the same on every scale"
    other = open_page(attention(chosen(), scale="log").to_html(tmp_path / "log.html"))
    assert lightness(colour(other, 7, 0, 10)) == shades["log"][0]


def test_the_first_token_set_aside_in_a_file(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    point(page, 7, 6, 10)
    assert foot(page).endswith("about 0.90")
    page.get_by_label("Set the first token aside").check()
    until(page, "document.querySelector('.lk-att-reading').innerText.includes('The first token is set aside')")
    point(page, 7, 6, 10)
    assert foot(page).endswith("about 1.00")
    point(page, 7, 0, 10)
    assert foot(page).endswith("exactly 0")
    assert "The thumbnails show all weights, the first token's too." in page.locator(".lk-att-mapnotes").inner_text()
    made = open_page(attention(chosen(), aside=True).to_html(tmp_path / "aside.html"))
    assert made.get_by_label("Set the first token aside").is_checked()
    assert made.locator(".lk-att-progress").inner_text() == ""
    for _ in range(50):  # the map is painted a frame or two after the words are there
        strong = map_colour(made, 3 * PITCH + GROUP + 21 * 6.5 / 10, ROW + 21 * 7.5 / 10)
        if lightness(strong) < 150:
            break
    assert lightness(strong) < 150, "the map is there"
    point(made, 7, 6, 10)
    assert foot(made).endswith("about 1.00")


# pictures to keep -----------------------------------------------------------------------------------------------------


def kept(page: Any, kind: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.get_by_role(
            "button", name=f"Save this head as an {kind}" if kind == "SVG" else f"Save this head as a {kind}"
        ).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


@pytest.mark.parametrize("which", ["ten", "hostile", "many"])
def test_pictures_of_a_head(open_page: Open, tmp_path: Path, which: str) -> None:
    tokens = [*HOSTILE, *LONE_SURROGATES]
    trace = {
        "ten": chosen,
        "hostile": lambda: patterned(tokens, {0: previous_token(len(tokens))[None]}),
        "many": lambda: worded(120),
    }[which]()
    page = open_page(attention(trace).to_html(tmp_path / "page.html"))
    name, svg = kept(page, "SVG")
    assert re.fullmatch(r"attention-layer-\d-head-\d\.svg", name)
    root = xml.etree.ElementTree.fromstring(svg)
    tags = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in root.iter()}
    assert tags <= {"svg", "title", "rect", "text", "g", "path", "tspan", "image"}
    assert not any(name.startswith("on") or ("href" in name and not value.startswith("data:image/png;base64,"))
                   for element in root.iter() for name, value in element.attrib.items())  # fmt: skip
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(trace.model in text for text in texts)
    if which == "ten":
        assert "7 ·it" in texts
        fills = [e.attrib["fill"] for e in root.iter("{http://www.w3.org/2000/svg}rect")]
        red, green, blue, _ = colour(page, 7, 6, 10)
        assert fills.count(f"#{red:02x}{green:02x}{blue:02x}") == 8
    if which == "hostile":
        assert any("<script>window" in text for text in texts)
    assert ("image" in tags) == (which == "many")
    name, png = kept(page, "PNG")
    assert name.endswith(".png")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (2 * int(root.attrib["width"]), 2 * int(root.attrib["height"]))
    assert len(png) > 3_000


# the text -------------------------------------------------------------------------------------------------------------


def shades_of_text(page: Any) -> list[str]:
    settle(page)
    page.wait_for_timeout(20)
    return page.evaluate(
        "[...document.querySelectorAll('.lk-att-tokens .lk-tl-word')].map((e) => e.style.backgroundColor)"
    )


def textfoot(page: Any) -> str:
    page.wait_for_timeout(20)
    return page.locator(".lk-att-textfoot").inner_text()


def test_the_text_shows_where_a_token_looks_and_who_looks_at_it(open_page: Open, tmp_path: Path) -> None:
    trace = chosen()
    page = open_page(attention(trace).to_html(tmp_path / "page.html"))
    token = page.locator(".lk-att-tokens .lk-tl-token")
    token.nth(7).hover()
    assert textfoot(page) == "“it” (7) looks most at “because” (6): 0.90, “The” (0): 0.099"
    shades = shades_of_text(page)
    assert [i for i, shade in enumerate(shades) if shade] == [0, 6]
    red, green, blue, _ = colour(page, 7, 6, 10)
    assert shades[6] == f"rgb({red}, {green}, {blue})"
    page.get_by_label("Shade").select_option("into")
    token.nth(7).hover()
    assert textfoot(page) == "“it” (7) is looked at most by “was” (8): 0.90"
    page.get_by_label("Shade").select_option("from")
    token.nth(4).click()
    page.mouse.move(2, 2)
    assert textfoot(page).startswith("“the” (4) looks most at “on” (3): 0.90"), "a click holds"
    scope = page.get_by_label("Heads", exact=True)
    scope.select_option("layer")
    mean = trace.attention(1)[:, 4].mean(0)
    best = int(mean.argmax())
    said = re.fullmatch(r"“the” \(4\) looks most at (“\w+” \((\d)\)|itself): ([\d.]+).*", textfoot(page))
    assert said is not None
    assert int(said[2] or 4) == best
    assert float(said[3]) == pytest.approx(float(mean[best]), abs=0.008)
    assert "marked" not in scope.evaluate("s => [...s.options].map(o => o.value)")
    page.get_by_role("button", name="Mark", exact=True).click()
    scope.select_option("marked")
    assert textfoot(page).startswith("“the” (4) looks most at “on” (3): 0.90")
    assert scope.evaluate("s => s.selectedOptions[0].textContent") == "the marked heads, mean of 1"


def test_the_text_with_the_keyboard_and_linked_with_the_head(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    page.locator(".lk-att-tokens").focus()
    page.keyboard.press("End")
    assert textfoot(page).startswith("“tired” (9) looks most at “was” (8): 0.90")
    assert page.locator(".lk-att-tokens").get_attribute("aria-activedescendant") == page.locator(
        ".lk-att-tokens .lk-tl-token"
    ).nth(9).get_attribute("id")
    assert spoken(page, ".lk-att-text") == "tired, token 9, looks at was: about 0.90; The: about 0.099"
    assert page.locator(".lk-att-row-chip").first.inner_text().split() == ["9", "·tired"], "the head shows the row"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert textfoot(page) == "Point at a token, or move with the arrow keys."
    point(page, 5, 4, 10)
    assert textfoot(page).startswith("“mat” (5) looks most at “the” (4)"), "and the text follows the head"


def test_a_file_says_which_lines_it_does_not_hold(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html", heads=[]))
    page.get_by_label("Heads", exact=True).select_option("layer")
    page.locator(".lk-att-tokens .lk-tl-token").nth(4).hover()
    assert textfoot(page) == "This file does not hold all of these heads."


# side by side ---------------------------------------------------------------------------------------------------------


def compared() -> AttentionView:
    other = random_patterns(10, seed=5)
    trace = chosen()
    return attention(trace, compare=patterned(trace.tokens, other, kv_heads=2), names=("plain", "without <b>3.1</b>"))


@pytest.mark.parametrize("width", [1400, 1100, 420])
def test_two_traces_side_by_side_or_one_under_the_other(open_page: Open, tmp_path: Path, width: int) -> None:
    view = compared()
    page = open_page(view.to_html(tmp_path / "page.html"), width=width)
    settle(page)
    titles = [page.locator(".lk-att-figure .lk-att-title").nth(i).inner_text() for i in range(2)]
    assert titles[0].startswith("plain: layer 1 · head 3")
    assert titles[1].startswith("without <b>3.1</b>: layer 1 · head 3")
    boxes = [page.locator(".lk-att-figure").nth(i).bounding_box() for i in range(2)]
    if width == 420:
        assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    else:
        assert boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]
        assert abs(boxes[1]["y"] - boxes[0]["y"]) < 1
    no_sideways(page)
    point(page, 7, 6, 10)
    assert foot(page, 0).endswith("about 0.90")
    weight = float(view._traces[1].attention(1, 3)[7, 6])
    said = foot(page, 1)
    assert said.startswith("“it” (7) looks at “because” (6): ")
    assert "under" in said or float(said.split()[-1]) == pytest.approx(weight, abs=0.006), "the same cell on both sides"
    assert page.locator("main b").count() == 0
    assert page.get_by_label("Bars").input_value() == "change"


def test_another_head_beside(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    assert not pane(page, 1).is_visible()
    page.get_by_label("Beside it").select_option("0")
    page.get_by_label("Layer beside").select_option("0")
    page.get_by_label("Head beside").select_option("2")
    assert pane(page, 1).is_visible()
    assert "layer 0, head 2" in pane(page, 1).get_attribute("aria-label")
    assert "layer 1, head 3" in pane(page, 0).get_attribute("aria-label")
    page.get_by_label("Layer", exact=True).select_option("0")
    assert "layer 0, head 2" in pane(page, 1).get_attribute("aria-label"), "it stays"
    page.get_by_label("Beside it").select_option("")
    assert not pane(page, 1).is_visible()
    no_sideways(page)


def test_in_a_file_only_what_it_holds_can_be_put_beside(open_page: Open, tmp_path: Path) -> None:
    view = compared()
    view.beside = []
    page = open_page(view.to_html(tmp_path / "page.html", heads=[(0, 1)]))
    page.get_by_label("Beside it").select_option("1")
    settle(page)
    assert "layer 0, head 1" in pane(page, 1).get_attribute("aria-label"), "the one head it holds of that trace"
    assert page.get_by_label("Head beside").input_value() == "1"


# with a kernel --------------------------------------------------------------------------------------------------------


def test_a_long_text_is_drawn_in_tiles_when_zoomed(open_page: Open, tmp_path: Path) -> None:
    n = 4096
    view = attention(worded(n))
    page = as_widget(open_page, view, tmp_path / "live.html")
    assert "A cell is 4 × 4 tokens" in page.locator(".lk-att-reading").first.inner_text()
    assert not [each for each in page.evaluate("window.asked") if each["ask"] == "tile"]
    units = set()
    for _ in range(8):
        page.get_by_role("button", name="Zoom in").click()
        page.wait_for_timeout(130)
        tiles = [each["args"] for each in pump(page, view) if each["ask"] == "tile"]
        assert len(tiles) <= 16
        units |= {each["pool"] for each in tiles}
    assert units == {1, 2}
    assert "A cell is" not in page.locator(".lk-att-reading").first.inner_text()
    first, last = span(page)
    assert 1900 < first < last < 2200
    box = pane(page).bounding_box()
    middle = page.evaluate(
        """() => {  // along the middle row, the one cell that is looked at strongly
            const canvas = document.querySelector('.lk-att-base');
            const data = canvas.getContext('2d').getImageData(0, canvas.width / 2, canvas.width, 1).data;
            return [...Array(canvas.width).keys()].filter((i) => data[4 * i + 3] > 0).length / canvas.width;
        }"""
    )
    assert 0 < middle < 0.1, "single tokens, not blocks of four"
    page.mouse.move(box["x"] + box["width"] / 2 - 1, box["y"] + box["height"] / 2 + 1)
    page.wait_for_timeout(150)
    pump(page, view)
    said = foot(page).replace(",", "")
    assert re.fullmatch(r"“word(\d+)” \(\1\) looks at (?:“word(\d+)” \(\2\)|itself): (0.9000|exactly 0)", said), said
    no_sideways(page)


def test_a_long_text_in_a_file_says_what_it_can(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(worded(4096)).to_html(tmp_path / "page.html"))
    assert "each cell stands for 4 × 4 tokens" in page.locator(".lk-att-notes").inner_text()
    for _ in range(8):
        page.get_by_role("button", name="Zoom in").click()
    settle(page)
    point(page, 5, 4, 10)
    settle(page)
    assert re.search(r"about|exactly 0|under", foot(page))
    page.get_by_label("Set the first token aside").check()
    assert "can't be set aside" in page.locator(".lk-att-notes").inner_text()


def test_the_map_says_how_far_it_is(open_page: Open, tmp_path: Path) -> None:
    view = attention(random_trace(20, layers=12), layer=0, head=0)
    page = as_widget(open_page, view, tmp_path / "live.html", without_map=True)
    progress = page.locator(".lk-att-progress")
    assert {each["ask"] for each in page.evaluate("window.asked")} == {"start"}
    assert progress.inner_text() == "Computing the map: 0 of 12 layers …"
    assert pane(page).is_visible()
    _, raw = stand_in.state(view)
    stand_in.receive(page, [{}, {name: raw[name] for name in ("map_0", "map_3")}])
    settle(page)
    assert progress.inner_text() == "Computing the map: 4 of 12 layers …"
    stand_in.receive(page, [{}, raw])
    settle(page)
    assert progress.inner_text() == ""
    status = {"state": "failed", "message": "The map could not be computed: <i>"}
    stand_in.receive(page, [{"map_status": status}, {}])
    settle(page)
    assert progress.inner_text() == "The map could not be computed: <i>"


def ablated() -> AttentionView:
    said = ((" mat", 0.6, 0.1), ("<b>", 0.1, 0.5))
    effect = SimpleNamespace(loss_before=2.0, loss_after=2.75, next=said)
    return attention(chosen(), ablate=lambda heads: effect)


def test_taking_heads_away(open_page: Open, tmp_path: Path) -> None:
    view = ablated()
    page = as_widget(open_page, view, tmp_path / "live.html")
    assert page.locator(".lk-att-outcome").inner_text() == "Nothing has been taken away yet."
    page.get_by_role("button", name="Ablate this head").click()
    asked = [each["args"] for each in page.evaluate("window.asked") if each["ask"] == "ablate"]
    assert asked == [{"heads": [[1, 3]]}]
    stand_in.receive(page, [{"effect_status": {"state": "running", "heads": [[1, 3]]}}, {}])
    settle(page)
    assert page.locator(".lk-att-ablation .lk-status").inner_text() == "computing without layer 1 · head 3 …"
    asked_now = len(page.evaluate("window.asked"))
    page.get_by_role("button", name="Ablate this head").click(force=True)
    assert len(page.evaluate("window.asked")) == asked_now, "one at a time"
    assert page.get_by_role("button", name="Ablate this head").get_attribute("aria-disabled") == "true"
    pump(page, view)
    assert view.wait(10)
    stand_in.receive(page, stand_in.state(view))
    said = page.locator(".lk-att-outcome").inner_text()
    assert "Without layer 1 · head 3. The loss of this text rises by 0.750: 2.000 before, 2.750 after" in said
    rows = [row.inner_text().split() for row in page.locator(".lk-att-effect tr").all()]
    assert rows[1:] == [["·mat", "60.0", "%", "10.0", "%"], ["<b>", "10.0", "%", "50.0", "%"]]
    assert page.get_by_role("button", name="Ablate this head").get_attribute("aria-disabled") == "false"
    page.locator(".lk-att-mapgrid").focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    page.get_by_role("button", name="Ablate the 2 marked").click()
    asked = [each for each in page.evaluate("window.asked") if each["ask"] == "ablate"]
    assert asked[-1]["args"] == {"heads": [[1, 3], [1, 2]]}
    stand_in.answer(page, {"answer": asked[-1]["id"], "refused": "There is no <head>."}, [])
    settle(page)
    assert page.locator(".lk-att-ablation .lk-status").inner_text() == "There is no <head>."
    failed = {"state": "failed", "heads": [], "message": "It could not be computed: <i>no"}
    stand_in.receive(page, [{"effect_status": failed}, {}])
    settle(page)
    assert page.locator(".lk-att-outcome").inner_text() == "It could not be computed: <i>no"
    view.effect, view.effect_status = {}, {"state": "idle"}
    plain = open_page(view.to_html(tmp_path / "file.html"))
    assert not plain.locator(".lk-att-ablation").is_visible(), "a file can't compute it"


def test_the_first_token_set_aside_by_the_kernel(open_page: Open, tmp_path: Path) -> None:
    view = attention(chosen())
    page = as_widget(open_page, view, tmp_path / "live.html")
    page.get_by_label("Set the first token aside").check()
    pump(page, view)
    assert view.aside
    assert view.wait(10)
    stand_in.receive(page, stand_in.state(view))
    settle(page)
    assert page.locator(".lk-att-progress").inner_text() == ""
    point(page, 7, 6, 10)
    page.wait_for_timeout(120)
    pump(page, view)
    assert foot(page).endswith("1.0000")


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["ten", "hostile", "one", "many", "grouped", "compared", "narrow", "ablated"])
def test_axe_finds_nothing(open_page: Open, tmp_path: Path, which: str, dark: bool) -> None:
    views: dict[str, Callable[[], AttentionView]] = {
        "ten": lambda: attention(chosen()),
        "hostile": lambda: attention(patterned(HOSTILE, {0: previous_token(len(HOSTILE))[None]})),
        "one": lambda: attention(random_trace(1)),
        "many": lambda: attention(random_trace(300, layers=1, heads=2)),
        "grouped": lambda: attention(random_trace(12, heads=4, kv_heads=1)),
        "compared": compared,
        "narrow": compared,
        "ablated": ablated,
    }
    view = views[which]()
    if which == "ablated":
        view.ablate()
        assert view.wait(10)
        page = as_widget(open_page, view, tmp_path / "axe.html", dark=dark)
    else:
        width = 420 if which in ("narrow", "many") else 1100
        page = open_page(view.to_html(tmp_path / "axe.html"), dark=dark, width=width)
    if which in ("ten", "compared", "narrow"):
        page.locator(".lk-att-tokens .lk-tl-token").nth(7).click()
        point(page, 7, 6, 10)
    pane(page).focus()
    page.keyboard.press("ArrowDown")
    if which in ("many", "ten"):
        for _ in range(4):
            page.keyboard.press("+")
    settle(page)
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []
