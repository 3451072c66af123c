"""The routes view in a real Chromium: as an exported page, and as a widget on a stand-in for the notebook's model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in
import torch
from generations import HOSTILE, LONE_SURROGATES
from routed import random_routed, routed

from labkit.errors import BadInput
from labkit.trace.record import Trace
from labkit.views.routes_view import RoutesView, routes

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
WORDS = ["The", " cat", " sat", " on", " the", " mat", ".", "\n"]


def settle(page: Any) -> None:
    """Until what was asked to be drawn is drawn, and the panel has followed."""
    page.wait_for_timeout(100)
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def chosen(first: list[list[int]], experts: int = 12) -> Trace:
    """Two layers; in each, token t goes first to first[layer][t], then to the expert after it."""
    logits = torch.zeros(len(first[0]), len(first), experts)
    for layer, row in enumerate(first):
        for token, expert in enumerate(row):
            logits[token, layer, expert] = 4.0
            logits[token, layer, (expert + 1) % experts] = 2.0
    return routed(WORDS[: len(first[0])], logits, k=2)


FIRST = [[0, 1, 2, 3, 0, 4, 5, 6], [7, 7, 8, 9, 7, 7, 10, 6]]


def page_of(open_page: Open, view: RoutesView, tmp_path: Path, **settings: Any) -> Any:
    return open_page(view.to_html(tmp_path / "page.html"), **settings)


def as_widget(open_page: Open, view: RoutesView, tmp_path: Path, **settings: Any) -> Any:
    page = open_page(view.to_html(tmp_path / "live.html"), **settings)
    stand_in.draw(page, view)
    settle(page)
    return page


def pump(page: Any, view: RoutesView) -> list[dict[str, Any]]:
    """Bring what the page asked for and set to the real view and its answers back, as a kernel would."""
    questions: list[dict[str, Any]] = []
    for _ in range(20):
        asked = stand_in.pump(page, view)
        settle(page)
        if not asked and not page.evaluate("window.asked.length + window.saved.length"):
            return questions
        questions += [question["args"] for question in asked if question["ask"] != "ping"]
    raise AssertionError("it never stops asking")


def foot(page: Any, which: int = 0) -> str:
    return page.locator(".lk-foot").nth(which).inner_text()


def numbers(page: Any, which: int = 0) -> list[str]:
    """The expert under each token."""
    return (
        page.locator(".lk-rt-text")
        .nth(which)
        .evaluate("l => [...l.querySelectorAll('.lk-tl-word')].map(w => w.dataset.expert)")
    )


def coloured(page: Any) -> list[int]:
    """The colour of each token, -1 for grey."""
    return page.locator(".lk-rt-text").first.evaluate(
        "l => [...l.querySelectorAll('.lk-tl-word')].map(w => Number(/lk-rt-c(-?\\d)/.exec(w.className)[1]))"
    )


def lit(page: Any, which: int = 0) -> list[int]:
    return (
        page.locator(".lk-rt-text")
        .nth(which)
        .evaluate("l => [...l.querySelectorAll('.lk-tl-lit')].map(t => Number(t.dataset.token))")
    )


def bar(page: Any, expert: int, which: int = 0) -> tuple[float, float]:
    """Where an expert's bar stands, when they stand by number."""
    box = page.locator(".lk-rt-loads .lk-columns").nth(which)
    box.scroll_into_view_if_needed()
    at, count = box.bounding_box(), box.locator(".lk-column").count()
    return at["x"] + (expert + 0.5) * at["width"] / count, at["y"] + at["height"] / 2


def cell(page: Any, layer: int, token: int, n: int) -> tuple[float, float]:
    grid = page.locator(".lk-rt-grid").first
    grid.scroll_into_view_if_needed()
    at = grid.bounding_box()
    return at["x"] + (token + 0.4) * at["width"] / n, at["y"] + (layer + 0.3) * at["height"] / 2


def painted(page: Any, layer: int, token: int, n: int, layers: int = 2) -> list[int]:
    """The colour of a cell of the strip, near its upper left."""
    settle(page)
    return page.evaluate(
        """([layer, token, n, layers]) => {
            const c = document.querySelector('.lk-rt-grid canvas');
            const [x, y] = [(token + 0.12) * c.width / n, (layer + 0.15) * c.height / layers];
            return [...c.getContext('2d').getImageData(x, y, 1, 1).data];
        }""",
        [layer, token, n, layers],
    )


def no_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_the_text_has_the_experts_of_the_layer_on_show(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, routes(chosen(FIRST), layer=0), tmp_path)
    assert numbers(page) == [str(e) for e in FIRST[0]]
    assert page.locator(".lk-rt-text").evaluate("l => l.textContent") == "".join(WORDS), "copied, it is the text alone"
    after = "w => getComputedStyle(w, '::after').content"
    assert '"3"' in page.locator(".lk-tl-word").nth(3).evaluate(after)
    same = coloured(page)
    assert same[0] == same[4] >= 0
    assert len({c for c in same if c >= 0}) == 7
    page.get_by_label("Layer", exact=True).select_option("1")
    assert numbers(page) == [str(e) for e in FIRST[1]]
    assert coloured(page)[0] == 0, "the most chosen has the first colour"
    page.get_by_label("Expert numbers under the tokens").uncheck()
    assert page.locator(".lk-tl-word").nth(3).evaluate(after) in ("none", "normal")


def test_at_most_eight_have_a_colour_and_the_others_a_number(open_page: Open, tmp_path: Path) -> None:
    tokens = 12
    view = routes(routed([f" w{i}" for i in range(tokens)], 9 * torch.eye(tokens)[:, None].repeat(1, 2, 1), k=1))
    page = page_of(open_page, view, tmp_path)
    assert sorted(coloured(page)) == [-1] * 4 + list(range(8))
    assert numbers(page) == [str(i) for i in range(tokens)]
    assert "the other 4" in page.locator(".lk-rt-legend").inner_text()
    grey = coloured(page).index(-1)
    page.mouse.click(*bar(page, grey))
    assert coloured(page)[grey] == 7, "it takes the colour of the least chosen"
    assert sorted(coloured(page)) == [-1] * 4 + list(range(8))
    page.get_by_role("button", name="Colour the most chosen again").click()
    assert coloured(page)[grey] == -1
    assert not page.get_by_role("button", name="Colour the most chosen again").is_visible()


def test_pointing_at_a_token_shows_its_path_and_probabilities(open_page: Open, tmp_path: Path) -> None:
    trace = chosen(FIRST)
    page = page_of(open_page, routes(trace, layer=1), tmp_path)
    page.locator(".lk-tl-word").nth(2).hover()
    settle(page)
    weights = trace.routes.weights[2, 1].tolist()
    assert foot(page) == f"“sat” (token 2) goes in layer 1 to expert 8 (weight about {weights[0]:.2g}) and to 9."
    rows = [row.inner_text().split() for row in page.locator(".lk-rt-path li").all()]
    assert [[part for part in row if part.isdigit()] for row in rows] == [["0", "2", "3"], ["1", "8", "9"]]
    widths = [
        chip.bounding_box()["width"] for chip in page.locator(".lk-rt-path li").nth(1).locator(".lk-rt-chip").all()
    ]
    assert widths[0] / sum(widths) == pytest.approx(weights[0], abs=0.03)
    table = [row.inner_text().split("\t") for row in page.locator(".lk-rt-chosen tr").all()]
    p = trace.routes.logits[2, 1].softmax(-1)
    assert table[1] == ["8", f"about {weights[0]:.2g}", f"about {float(p[8]):.2g}"]
    bars = page.locator(".lk-rt-probability .lk-column-fill").evaluate_all(
        "f => f.map(x => x.getBoundingClientRect().height)"
    )
    assert bars[8] / bars[9] == pytest.approx(float(p[8] / p[9]), rel=0.05)
    assert page.locator(".lk-rt-probability .lk-column-marked").count() == 2
    page.mouse.move(2, 2)
    settle(page)
    assert "an example" in page.locator(".lk-rt-token-panel h2").first.inner_text()


def test_the_loads_are_drawn_to_scale_with_chance_behind(open_page: Open, tmp_path: Path) -> None:
    trace = chosen(FIRST)
    view = routes(trace, layer=1)
    page = page_of(open_page, view, tmp_path)
    load = torch.bincount(trace.routes.experts[:, 1].ravel(), minlength=12) / 16
    heights = page.locator(".lk-rt-loads .lk-column-fill").evaluate_all(
        "f => f.map(x => x.getBoundingClientRect().height)"
    )
    field = page.locator(".lk-rt-loads .lk-chart-field").bounding_box()
    top = heights[7] / float(load[7])
    for expert in range(12):
        assert heights[expert] == pytest.approx(float(load[expert]) * top, abs=0.6)
    base = field["y"] + field["height"] - 1
    line = page.locator(".lk-rt-loads .lk-chart-field > .lk-chart-line").bounding_box()
    assert base - line["y"] == pytest.approx(top / 12, abs=2)
    low, high = view.facts["bands"][0]
    band = page.locator(".lk-rt-loads .lk-chart-field > .lk-chart-band").bounding_box()
    assert base - band["y"] == pytest.approx(high * top, abs=2)
    assert band["height"] == pytest.approx((high - low) * top, abs=2)
    key = page.locator(".lk-rt-key").inner_text()
    assert "uniform 8.3 %" in key
    assert f"{100 * low:g} % to {100 * high:.1f} % in 95 % of cases" in key
    page.get_by_label("Loads").select_option("most")
    names = page.locator(".lk-rt-loads .lk-chart-names span").all_inner_texts()
    assert names[:2] == ["7", "8"]


def test_pointing_at_a_bar_lights_its_tokens_and_a_click_holds_it(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, routes(chosen(FIRST), layer=0), tmp_path)
    full = painted(page, 0, 1, 8)
    page.mouse.move(*bar(page, 3))
    assert lit(page) == [2, 3], "token 2 has it second"
    assert foot(page).startswith("Expert 3 takes 2 of 8 tokens in layer 0, 1 of them first: 12.5 % of the choices")
    assert painted(page, 0, 1, 8) != full, "the others are dimmed in the strip, too"
    page.mouse.move(2, 2)
    assert lit(page) == []
    assert painted(page, 0, 1, 8) == full
    page.mouse.click(*bar(page, 3))
    page.mouse.move(2, 2)
    assert lit(page) == [2, 3]
    page.keyboard.press("Escape")
    assert lit(page) == []


def test_the_strip_has_every_layer_and_a_click_chooses_one(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, routes(chosen(FIRST), layer=0), tmp_path)
    assert painted(page, 1, 0, 8) == painted(page, 1, 4, 8) == [0, 0x72, 0xB2, 255], "the most chosen of layer 1"
    assert painted(page, 1, 0, 8) != painted(page, 1, 3, 8)
    page.mouse.move(*cell(page, 1, 3, 8))
    settle(page)
    assert foot(page).startswith("“on” (token 3) goes in layer 1 to expert 9")
    assert numbers(page) == [str(e) for e in FIRST[0]], "pointing does not change the layer"
    page.mouse.click(*cell(page, 1, 3, 8))
    settle(page)
    assert numbers(page) == [str(e) for e in FIRST[1]]
    assert page.get_by_label("Layer", exact=True).input_value() == "1"
    page.mouse.move(2, 2)
    settle(page)
    assert foot(page).startswith("“on” (token 3)"), "it is held"
    page.locator(".lk-rt-rows span").first.click()
    assert page.get_by_label("Layer", exact=True).input_value() == "0"


def test_the_keyboard_alone(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, routes(chosen(FIRST), layer=0), tmp_path)
    stops = []
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
        if "lk-rt-path" in stops[-1]:
            break
    assert [stop.split()[-1] for stop in stops] == [
        "SELECT",
        "SELECT",
        "INPUT",
        "lk-rt-text",
        "lk-rt-grid",
        "lk-columns",
        "lk-rt-path",
    ]
    text = page.locator(".lk-rt-text")
    text.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    settle(page)
    assert foot(page).startswith("“sat” (token 2) goes in layer 1 to expert 8")
    active = page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).dataset.token"
    )
    assert active == "2"
    assert text.locator("[aria-selected=true]").count() == 1
    page.wait_for_timeout(450)
    said = page.locator(".lk-rt-pane > [aria-live]").text_content()
    assert said.startswith("sat, token 2, layer 1: expert 8, weight about ")
    assert said.endswith("; held")
    page.keyboard.press("Escape")
    assert text.locator("[aria-selected=true]").count() == 0
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")
    page.locator(".lk-rt-grid").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    settle(page)
    assert foot(page).startswith("“↵” (token 7) goes in layer 0 to expert 6")
    bars = page.locator(".lk-rt-loads .lk-columns")
    bars.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert lit(page) == [2, 3]
    page.keyboard.press("Enter")
    page.wait_for_timeout(450)
    assert (
        page.locator(".lk-rt-pane > [aria-live]").text_content().startswith("expert 3: 12.5 % of the choices, 2 tokens")
    )
    page.keyboard.press("Escape")
    assert lit(page) == []


def test_one_text_traced_twice_marks_what_changed(open_page: Open, tmp_path: Path) -> None:
    after = [FIRST[0], [7, 7, 8, 2, 7, 7, 10, 5]]
    page = page_of(open_page, routes(chosen(FIRST), chosen(after), layer=1), tmp_path, width=1200)
    assert "In layer 1, 2 of 8 tokens choose other experts (underlined twice), 2 of them another first one." in (
        page.locator(".lk-rt-difference").inner_text()
    )
    assert page.locator(".lk-rt-text .lk-rt-changed2").count() == 4
    assert page.locator(".lk-rt-counts").first.locator("span").all_inner_texts() == ["0", "2"]
    assert "“on” token 3" in page.locator(".lk-rt-token-panel h2").first.inner_text(), "the example is one that changed"
    page.locator(".lk-rt-text").first.locator(".lk-tl-word").nth(7).hover()
    settle(page)
    assert foot(page, 1).startswith("“↵” (token 7) goes in layer 1 to expert 5"), "the other trace follows"
    page.mouse.move(*bar(page, 8))
    assert lit(page, 0) == lit(page, 1) == [0, 1, 2, 4, 5]
    page.get_by_label("Layer", exact=True).select_option("0")
    assert "every token chooses the same experts" in page.locator(".lk-rt-difference").inner_text()
    left, right = (page.locator(".lk-rt-pane").nth(i).bounding_box() for i in range(2))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    no_sideways(page)


def test_two_prompts_go_their_own_ways(open_page: Open, tmp_path: Path) -> None:
    view = routes(random_routed(14), random_routed(40, seed=3), names=("<b>one", "two"))
    page = page_of(open_page, view, tmp_path, width=420)
    assert page.locator(".lk-rt-name").all_inner_texts() == ["<b>one 14 tokens", "two 40 tokens"]
    assert not page.locator(".lk-rt-difference").is_visible()
    before = foot(page, 1)
    page.locator(".lk-rt-text").first.locator(".lk-tl-word").nth(7).hover()
    settle(page)
    assert foot(page, 1) == before
    first, second = (page.locator(".lk-rt-pane").nth(i).bounding_box() for i in range(2))
    assert second["y"] >= first["y"] + first["height"]
    no_sideways(page)


# with a kernel ------------------------------------------------------------------------------------------------------


def test_the_kernel_is_asked_for_exact_numbers_once(open_page: Open, tmp_path: Path) -> None:
    trace = chosen(FIRST)
    view = routes(trace, layer=1)
    page = as_widget(open_page, view, tmp_path)
    pump(page, view)
    page.locator(".lk-tl-word").nth(2).hover()
    settle(page)
    (question,) = pump(page, view)
    assert (question["layer"], question["token"]) == (1, 2)
    weight, p = float(trace.routes.weights[2, 1, 0]), float(trace.routes.logits[2, 1].softmax(-1)[8])
    assert f"(weight {weight:.4f})" in foot(page)
    assert page.locator(".lk-rt-chosen tr").nth(1).inner_text().split() == ["8", f"{weight:.4f}", f"{p:.4f}"]
    page.locator(".lk-tl-word").nth(3).hover()
    page.locator(".lk-tl-word").nth(2).hover()
    settle(page)
    assert [q["token"] for q in pump(page, view)] in ([], [3])


def test_what_is_set_by_hand_reaches_python_and_back(open_page: Open, tmp_path: Path) -> None:
    view = routes(chosen(FIRST), layer=0)
    page = as_widget(open_page, view, tmp_path)
    page.mouse.click(*bar(page, 9))
    page.locator(".lk-tl-word").nth(5).click()
    page.get_by_label("Layer", exact=True).select_option("1")
    page.get_by_label("Loads").select_option("most")
    pump(page, view)
    assert (view.layer, view.order, view.held) == (1, "most", [0, 5])
    assert view.picked == {"0": [9]}
    view.layer = 0
    stand_in.receive(page, stand_in.state(view))
    assert numbers(page) == [str(e) for e in FIRST[0]]
    again = as_widget(open_page, view, tmp_path)  # the page was loaded anew
    assert foot(again).startswith("“mat” (token 5)")
    assert again.locator(".lk-tl-held").count() == 1
    assert again.get_by_label("Loads").input_value() == "most"
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0


def words(text: str) -> Trace:
    if "bad" in text:
        raise BadInput("No <b>bad</b> words, please.")
    tokens = [f" {word}" for word in text.split()]
    return routed(tokens, torch.randn(len(tokens), 2, 12, generator=torch.Generator().manual_seed(len(text))))


def test_typing_another_text(open_page: Open, tmp_path: Path) -> None:
    view = routes(chosen(FIRST), take=words, layer=1)
    page = as_widget(open_page, view, tmp_path)
    box = page.get_by_label("Your text")
    assert box.input_value() == "".join(WORDS)
    assert view.wait(10)
    box.fill("four words are here")
    pump(page, view)
    assert view.typed == "four words are here"
    assert view.wait(10)
    stand_in.receive(page, stand_in.state(view))
    settle(page)
    assert page.locator(".lk-rt-text").evaluate("l => l.textContent") == " four words are here"
    assert "4 tokens" in page.locator(".lk-trace-head").inner_text()
    assert box.input_value() == "four words are here"
    box.fill("bad")
    pump(page, view)
    assert view.wait(10)
    stand_in.receive(page, stand_in.state(view))
    assert page.locator(".lk-status").inner_text() == "No <b>bad</b> words, please."
    assert page.locator(".lk-tl-token").count() == 4, "what was there stands"
    view.close()


def test_a_kernel_that_does_not_answer_is_told(open_page: Open, tmp_path: Path) -> None:
    view = routes(chosen(FIRST), take=words)
    page = as_widget(open_page, view, tmp_path)
    page.get_by_label("Your text").fill("hello")
    page.wait_for_timeout(4200)
    assert page.locator(".lk-status").inner_text().startswith("No answer from the kernel")
    view.close()


def test_a_file_has_no_box_and_says_what_it_lacks(open_page: Open, tmp_path: Path) -> None:
    view = routes(random_routed(300, layers=24, experts=256, k=8), take=words, layer=3)
    page = page_of(open_page, view, tmp_path)
    assert not page.get_by_label("Your text").is_visible()
    assert "holds the router probabilities of the first 244 tokens" in page.locator(".lk-rt-notes").inner_text()
    page.locator(".lk-tl-token").nth(260).click()
    settle(page)
    assert "first 244 tokens only" in page.locator(".lk-rt-probability").inner_text()
    assert not page.locator(".lk-rt-probability .lk-columns").is_visible()
    assert "about" in page.locator(".lk-rt-chosen td").nth(1).inner_text()
    page.locator(".lk-tl-token").nth(10).click()
    settle(page)
    assert page.locator(".lk-rt-probability .lk-columns").is_visible()


# every size and text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [400, 800, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_twelve_tokens_fill_no_screen(open_page: Open, tmp_path: Path, width: int, dark: bool) -> None:
    page = page_of(open_page, routes(random_routed(12)), tmp_path, width=width, dark=dark)
    no_sideways(page)
    height = page.locator(".lk-view").bounding_box()["height"]
    assert height < {400: 1500, 800: 850, 1200: 700}[width]
    paper = page.evaluate("getComputedStyle(document.querySelector('.lk-view')).backgroundColor")
    assert (paper == "rgb(21, 24, 27)") == dark
    assert (painted(page, 3, 0, 12, 6)[:3] == [0x3F, 0x9B, 0xD8]) == dark


def test_colours_follow_a_change_of_theme(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, routes(chosen(FIRST), layer=1), tmp_path)
    assert painted(page, 1, 0, 8)[:3] == [0x00, 0x72, 0xB2]
    page.emulate_media(color_scheme="dark")
    assert painted(page, 1, 0, 8)[:3] == [0x3F, 0x9B, 0xD8]
    page.emulate_media(media="print", color_scheme="dark")
    assert painted(page, 1, 0, 8)[:3] == [0x00, 0x72, 0xB2], "paper is light"


@pytest.mark.parametrize("width", [1100, 420])
def test_hostile_tokens_stay_text(open_page: Open, tmp_path: Path, width: int) -> None:
    tokens = [*HOSTILE, *LONE_SURROGATES]
    page = page_of(
        open_page,
        routes(routed(tokens, torch.randn(len(tokens), 3, 8), model="<script>window.broken=9</script>")),
        tmp_path,
        width=width,
    )
    page.locator(".lk-rt-text").focus()
    for _ in range(len(tokens)):
        page.keyboard.press("ArrowRight")
    settle(page)
    assert page.locator(".lk-tl-token").count() == len(tokens)
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main svg, main script, main b, main textarea:visible").count() == 0
    no_sideways(page)


def test_a_thousand_tokens_are_quick_enough_to_point_at(open_page: Open, tmp_path: Path) -> None:
    """No timing: what is done for a move of the pointer does not grow with the text."""
    page = page_of(open_page, routes(random_routed(1024)), tmp_path)
    assert page.locator(".lk-tl-token").count() == 1024
    assert "scroll it sideways" in page.locator(".lk-rt-left h2").inner_text()
    changes = page.evaluate(
        """async () => {
            let count = 0;
            const watch = new MutationObserver((all) => (count += all.length));
            watch.observe(document.querySelector('.lk-rt-text'), { subtree: true, attributes: true, childList: true });
            document.querySelectorAll('.lk-tl-token')[500].dispatchEvent(new PointerEvent('pointermove', { bubbles: true }));
            document.querySelectorAll('.lk-tl-token')[501].dispatchEvent(new PointerEvent('pointermove', { bubbles: true }));
            await new Promise(requestAnimationFrame);
            watch.disconnect();
            return count;
        }"""
    )
    assert 0 < changes < 20
    no_sideways(page)


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["twelve", "hostile", "one", "many", "large", "two", "same", "typed"])
def test_axe_finds_nothing(open_page: Open, tmp_path: Path, which: str, dark: bool) -> None:
    views: dict[str, Callable[[], RoutesView]] = {
        "twelve": lambda: routes(random_routed(12)),
        "hostile": lambda: routes(routed(HOSTILE, torch.randn(len(HOSTILE), 2, 8))),
        "one": lambda: routes(random_routed(1)),
        "many": lambda: routes(random_routed(300)),
        "large": lambda: routes(random_routed(30, layers=24, experts=256, k=8)),
        "two": lambda: routes(random_routed(12), random_routed(9, seed=2)),
        "same": lambda: routes(random_routed(40), random_routed(40, spread=1.5)),
        "typed": lambda: routes(chosen(FIRST), take=words),
    }
    view = views[which]()
    opened = as_widget if which == "typed" else page_of
    page = opened(open_page, view, tmp_path, dark=dark, width=420 if which in ("many", "two") else 1100)
    page.locator(".lk-rt-text").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    if which in ("same", "twelve"):
        page.mouse.click(*bar(page, 3))
    settle(page)
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []
