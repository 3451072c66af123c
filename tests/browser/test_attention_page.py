"""The attention view in a real Chromium: as an exported page, and as a widget on a stand-in for the notebook's model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from generations import HOSTILE, LONE_SURROGATES
from traces import patterned, previous_token, random_patterns, random_trace

from labkit.trace.record import Trace
from labkit.views.attention_view import AttentionView, attention

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


def foot(page: Any) -> str:
    return page.locator(".lk-att-foot").inner_text()


def until(page: Any, condition: str) -> None:
    """Wait for an expression to hold. The page's own policy forbids playwright's way, which evaluates strings."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never came: {condition}")


def point(page: Any, row: int, column: int, n: int) -> None:
    """The pointer to the middle of a cell."""
    box = page.locator(".lk-att-grid").bounding_box()
    page.mouse.move(box["x"] + (column + 0.5) * box["width"] / n, box["y"] + (row + 0.5) * box["height"] / n)


def colour(page: Any, row: int, column: int, n: int) -> list[int]:
    """What is painted in a cell, RGBA, a little off its middle."""
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
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    assert page.locator(".lk-att-row").all_inner_texts()[7].split() == ["7", "·it"]
    assert [text.strip() for text in page.locator(".lk-att-column").all_inner_texts()][7] == "·it"
    assert page.locator(".lk-att-grid").bounding_box()["width"] <= 300
    if width == 1100:
        assert page.evaluate("document.documentElement.scrollHeight") <= 800


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
    assert page.locator(".lk-att-shares").inner_text() == "shares keys with head 2"
    assert "Shown first because" in page.locator(".lk-att-notes").inner_text()
    assert "square-root scale" in page.locator(".lk-att-legend").inner_text()
    rows = [row.inner_text().split() for row in page.locator(".lk-att-links tr").all()]
    assert rows[1] == ["·sat", "2", "·cat", "1", "0.9000"]


def test_pointing_reads_the_weight(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    point(page, 7, 6, 10)
    assert foot(page) == '"it" (7) looks at "because" (6): about 0.90'
    assert page.locator(".lk-att-row-chip").inner_text().split() == ["7", "·it"]
    assert page.locator(".lk-att-column-chip").inner_text().split() == ["6", "·because"]
    point(page, 0, 0, 10)
    assert foot(page) == '"The" (0) looks at itself: about 1.00'
    point(page, 7, 3, 10)
    assert foot(page) == '"it" (7) looks at "on" (3): exactly 0'
    point(page, 3, 7, 10)
    assert foot(page) == '"on" (3) can\'t look at "it" (7), which comes later.'
    page.mouse.move(2, 2)
    assert foot(page).startswith("Point at a cell")
    assert not page.locator(".lk-att-row-chip").is_visible()


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
    for _ in range(3):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.tagName"))
    assert stops == ["SELECT", "SELECT", "DIV"], "the pattern is one tab stop"
    page.keyboard.press("ArrowDown")
    assert foot(page) == '"sat" (2) looks at "cat" (1): about 0.90', "it begins at the strongest link"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert foot(page) == '"on" (3) looks at "sat" (2): about 0.90'
    page.keyboard.press("End")
    assert foot(page) == '"on" (3) looks at itself: exactly 0'
    page.keyboard.press("ArrowRight")
    assert foot(page) == '"on" (3) looks at itself: exactly 0'
    page.keyboard.press("Home")
    assert foot(page) == '"on" (3) looks at "The" (0): about 0.099'
    until(page, "document.querySelector('[aria-live]').textContent !== ''")
    assert page.locator("[aria-live]").text_content() == "on, token 3, looks at The, token 0: about 0.099"
    page.keyboard.press("Escape")
    assert foot(page).startswith("Point at a cell")
    assert "lk-att-grid" in focused()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("Tab")
    for _ in range(4):
        page.keyboard.press("Tab")
    assert "lk-att-grid" not in focused(), "nothing holds the focus"


def test_a_click_stays(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    point(page, 5, 4, 10)
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(2, 2)
    assert foot(page) == '"mat" (5) looks at "the" (4): about 0.90'
    page.keyboard.press("ArrowUp")
    assert foot(page) == '"the" (4) looks at itself: exactly 0'


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
    assert page.locator(".lk-att-shares").inner_text() == "shares keys with head 1"
    page.get_by_label("Head", exact=True).select_option("2")
    point(page, 7, 5, 10)
    said = foot(page)
    assert said.startswith('"it" (7) looks at "mat" (5): ')
    weight = float(trace.attention(0, 2)[7, 5])
    assert float(said.split()[-1]) == pytest.approx(weight, abs=0.006)
    first = page.locator(".lk-att-links .lk-att-weight").first.inner_text()
    others = trace.attention(0, 2).clone()
    others[:, 0] = 0
    others.fill_diagonal_(0)
    assert first == f"{float(others.max()):.4f}"
    assert "layer 0, head 2" in page.locator(".lk-att-grid").get_attribute("aria-label")


def test_pickers_move_with_the_arrow_keys(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(chosen()).to_html(tmp_path / "page.html"))
    page.get_by_label("Head", exact=True).press("ArrowUp")
    assert page.locator(".lk-att-shares").inner_text() == "shares keys with head 3"
    assert "layer 1, head 2" in page.locator(".lk-att-grid").get_attribute("aria-label")


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
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long token widens the page"
    i = tokens.index("\u202eesrever\u202c")
    point(page, i, i, n)
    assert foot(page) == f'"U+202EesreverU+202C" ({i}) looks at itself: exactly 0'
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
    assert foot(page) == '"t" (7) looks at "t" (3): not a number'
    assert "1 of 10 tokens have weights that are not numbers (NaN)" in page.locator(".lk-att-notes").inner_text()


def test_rows_that_sum_to_less_than_one_are_said(open_page: Open, tmp_path: Path) -> None:
    patterns = {0: random_patterns(10)[0] * 0.6}
    page = open_page(attention(patterned(["t"] * 10, patterns)).to_html(tmp_path / "sink.html"))
    assert "Rows sum to less than 1, the lowest to 0.600" in page.locator(".lk-att-notes").inner_text()


def test_one_token(open_page: Open, tmp_path: Path) -> None:
    page = open_page(attention(random_trace(1)).to_html(tmp_path / "one.html"))
    assert foot(page) == "One token can only look at itself."
    point(page, 0, 0, 1)
    assert foot(page) == '"The" (0) looks at itself: about 1.00'
    assert page.locator(".lk-att-grid").bounding_box()["width"] == 30


@pytest.mark.parametrize("width", [1100, 420])
def test_many_tokens(open_page: Open, tmp_path: Path, width: int) -> None:
    patterns = {0: previous_token(1500)[None]}
    page = open_page(
        attention(patterned([f" w{i}" for i in range(1500)], patterns)).to_html(tmp_path / "n.html"), width=width
    )
    assert "Each cell stands for 2 × 2 tokens" in page.locator(".lk-att-notes").inner_text()
    assert "a dot shows the highest weight of" in page.locator(".lk-att-reading").inner_text()
    box = page.locator(".lk-att-grid").bounding_box()
    assert box["width"] <= 700
    assert 5 <= page.locator(".lk-att-row").count() <= 60
    page.locator(".lk-att-grid").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("End")
    assert "look at themselves: highest about 0.90" in foot(page)
    point(page, 100, 30, 750)
    assert foot(page).startswith("tokens ")
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


# as a widget: its own render(), on a model that answers as a kernel does ------------------------------------------------

STAND_IN = """
([state, bytes]) => {
    const values = new Map(Object.entries(state));
    values.set("cells", new DataView(Uint8Array.from(bytes).buffer));
    const held = [];
    const model = {
        get: (name) => values.get(name),
        set(name, value) {
            if (values.get(name) === value) return;
            values.set(name, value);
            for (const [event, callback] of [...held]) if (event === `change:${name}`) callback();
        },
        save_changes() { window.saved.push([values.get("layer"), values.get("head")]); },
        send(content) { window.asked.push(content); },
        on: (event, callback) => held.push([event, callback]),
        off(event, callback) {
            const i = held.findIndex(([e, c]) => e === event && c === callback);
            if (i >= 0) held.splice(i, 1);
        },
    };
    window.saved = [];
    window.asked = [];
    window.held = held;
    window.answer = (content) => { for (const [event, callback] of [...held]) if (event === "msg:custom") callback(content); };
    window.receive = (state, bytes) => {
        values.set("cells", new DataView(Uint8Array.from(bytes).buffer));
        for (const [name, value] of Object.entries(state)) model.set(name, value);
    };
    const el = document.createElement("div");
    document.getElementById("labkit-view").replaceChildren(el);
    window.done = window.labkit.render({ model, el });
}
"""


def state(view: AttentionView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in ("layer", "head", "summary", "labels", "facts", "version")}


def as_widget(open_page: Open, view: AttentionView, path: Path) -> Any:
    page = open_page(view.to_html(path))
    module = str(view._esm).replace("export default", "window.labkit =")
    page.add_script_tag(content=f"{{{module}}}")
    page.evaluate(STAND_IN, [state(view), list(view.cells)])
    return page


def test_the_kernel_is_asked_for_exact_weights_once(open_page: Open, tmp_path: Path) -> None:
    view = attention(chosen())
    page = as_widget(open_page, view, tmp_path / "live.html")
    for column in range(6):
        point(page, 7, column, 10)
    point(page, 7, 6, 10)
    assert foot(page).endswith("about 0.90")
    until(page, "window.asked.length > 0")
    page.wait_for_timeout(150)
    asked = page.evaluate("window.asked")
    assert asked[-1] == {"type": "exact", "layer": 1, "head": 3, "row": 7, "column": 6}
    assert len(asked) <= 3, "a pointer on its way asks for nothing"
    answers: list[dict[str, Any]] = []
    view.send = lambda answer, buffers=None: answers.append(answer)  # type: ignore[method-assign]
    view._on_message(view, asked[-1], [])
    page.evaluate("a => window.answer(a)", answers[0])
    assert foot(page) == '"it" (7) looks at "because" (6): 0.9000'
    count = len(asked)
    point(page, 7, 5, 10)
    point(page, 7, 6, 10)
    page.wait_for_timeout(150)
    assert foot(page).endswith("0.9000")
    assert len([a for a in page.evaluate("window.asked")[count:] if a["column"] == 6]) == 0, "it is known already"


def test_a_head_is_asked_for_and_drawn_when_it_comes(open_page: Open, tmp_path: Path) -> None:
    view = attention(chosen())
    page = as_widget(open_page, view, tmp_path / "live.html")
    page.get_by_label("Layer", exact=True).select_option("0")
    assert page.evaluate("window.saved") == [[0, 3]]
    before = colour(page, 7, 6, 10)
    until(page, "document.querySelector('.lk-att-status').textContent === 'computing layer 0 · head 3 …'")
    assert colour(page, 7, 6, 10) == before, "what is shown stays until the other is here"
    view.layer = 0
    page.evaluate("([s, b]) => window.receive(s, b)", [state(view), list(view.cells)])
    assert page.locator(".lk-att-status").inner_text() == ""
    assert colour(page, 7, 6, 10) != before
    view.show(1, 0)  # from Python
    page.evaluate("([s, b]) => window.receive(s, b)", [state(view), list(view.cells)])
    assert (
        page.get_by_label("Layer", exact=True).input_value(),
        page.get_by_label("Head", exact=True).input_value(),
    ) == ("1", "0")
    assert "layer 1, head 0" in page.locator(".lk-att-grid").get_attribute("aria-label")
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0


def test_pooled_cells_name_the_pair_behind_them(open_page: Open, tmp_path: Path) -> None:
    view = attention(patterned([f" w{i}" for i in range(1500)], {0: previous_token(1500)[None]}))
    page = as_widget(open_page, view, tmp_path / "live.html")
    page.locator(".lk-att-grid").focus()
    page.keyboard.press("ArrowDown")
    until(page, "window.asked.length === 1")
    answers: list[dict[str, Any]] = []
    view.send = lambda answer, buffers=None: answers.append(answer)  # type: ignore[method-assign]
    view._on_message(view, page.evaluate("window.asked[0]"), [])
    page.evaluate("a => window.answer(a)", answers[0])
    assert foot(page) == 'Highest in this cell: "w2" (2) looks at "w1" (1): 0.9000'


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["ten", "hostile", "one", "many", "grouped"])
def test_axe_finds_nothing(open_page: Open, tmp_path: Path, which: str, dark: bool) -> None:
    traces: dict[str, Callable[[], Trace]] = {
        "ten": chosen,
        "hostile": lambda: patterned(HOSTILE, {0: previous_token(len(HOSTILE))[None]}),
        "one": lambda: random_trace(1),
        "many": lambda: random_trace(300, layers=1, heads=2),
        "grouped": lambda: random_trace(12, heads=4, kv_heads=1),
    }
    page = open_page(attention(traces[which]()).to_html(tmp_path / "axe.html"), dark=dark)
    if which == "ten":
        point(page, 7, 6, 10)
    page.locator(".lk-att-grid").focus()
    page.keyboard.press("ArrowDown")
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []
