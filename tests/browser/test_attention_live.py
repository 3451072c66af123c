"""The attention view in a real JupyterLab and a real Notebook 7: every level, keys alone, a reload, bytes on the wire."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import jupyterlab
import nbformat
import pytest
from conftest import local

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
FRONT_ENDS = ("lab", "notebook")
AXE = Path(os.environ.get("LABKIT_AXE", ""))
MB = 1_000_000

pytestmark = [pytest.mark.browser, pytest.mark.real_model]

START = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
import torch
import labkit as lk
from generations import HOSTILE, LONE_SURROGATES
from traces import patterned, random_trace
from labkit.trace.record import LayerAttention, Trace

def drawn(tokens, layers=2, heads=4, kv_heads=2):
    \"\"\"A trace of random queries and keys: long, and yet made at once.\"\"\"
    luck = torch.Generator().manual_seed(0)
    made = {{
        layer: LayerAttention(
            query=3 * torch.randn(heads, tokens, 16, generator=luck),
            key=torch.randn(kv_heads, tokens, 16, generator=luck),
            scaling=0.25,
        )
        for layer in range(layers)
    }}
    return Trace(
        tokens=[f" w{{i}}" for i in range(tokens)], ids=list(range(tokens)), model="random", family="llama",
        layers=layers, heads=heads, kv_heads=kv_heads, keep=("attention",), reasons={{}}, _attention=made,
    )
"""
# What each cell is called here, and its source.
CELLS = {
    "start": START,
    "model": "lab = lk.load()\n"
    "trace = lab.trace('The cat sat on the mat. The cat sat on the')\n"
    "lk.views.attention(trace, ablate=lk.attention.ablation(lab, trace))",
    "middle": "middle = drawn(1024, layers=3)\nlk.views.attention(middle, layer=1, head=2)",
    "long": "long = drawn(4096)\nlk.views.attention(long, layer=1, head=1)",
    "hostile": "hostile = HOSTILE + LONE_SURROGATES\n"
    "lk.views.attention(patterned(hostile, {0: random_trace(len(hostile), layers=1).attention(0)}))",
    "nan": "broken = random_trace(20, layers=1).attention(0).clone()\nbroken[1, 7] = torch.nan\n"
    "lk.views.attention(patterned([f' w{i}' for i in range(20)], {0: broken}), layer=0, head=1)",
    "one": "lk.views.attention(random_trace(1))",
    "compare": "other = lab.trace('The dog sat on the mat. The dog sat on the')\n"
    "lk.views.attention(trace, compare=other, names=('cat', 'dog'))",
}
PLACES = {name: place for place, name in enumerate(CELLS)}


@dataclass
class Desk:
    """A notebook that has been run, in one of the front ends."""

    page: Any
    front_end: str
    cells: list[dict[str, Any]]
    left: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def view(self, name: str) -> Any:
        """The view below a cell."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(PLACES[name]).locator(".lk-attention")


def write(path: Path, cells: list[str]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


def front_ends_own(error: Any) -> bool:
    """Whether an error arose in Notebook 7's or JupyterLab's own code alone; a widget's module comes from a blob."""
    stack = str(error.stack)
    return "blob:" not in stack and "anywidget" not in stack and "/static/" in stack


def watched(page: Any, desk_left: list[str], desk_errors: list[str]) -> None:
    page.on("request", lambda r: None if local(r.url) or r.url.startswith("attachment:") else desk_left.append(r.url))
    page.on("pageerror", lambda error: None if front_ends_own(error) else desk_errors.append(f"{error}\n{error.stack}"))
    page.on("dialog", lambda dialog: (desk_errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))


@pytest.fixture(scope="module", params=FRONT_ENDS)
def desk(request: pytest.FixtureRequest, chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The notebook after Run All. The page is tall, so that no cell is left undrawn."""
    folder, scratch = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    write(folder / "views.ipynb", list(CELLS.values()))
    with jupyterlab.server(folder, scratch, request.param) as address:
        context = chromium.new_context(viewport={"width": 1500, "height": 9000})
        page = context.new_page()
        left: list[str] = []
        errors: list[str] = []
        watched(page, left, errors)
        jupyterlab.open_notebook(page, address, "views.ipynb", front_end=request.param)
        page.wait_for_function(
            "count => document.querySelectorAll('.jp-Notebook .jp-Cell').length === count", arg=len(CELLS)
        )
        yield Desk(page, request.param, jupyterlab.run_all(page), left, errors)
        context.close()


def filled(page: Any, view: Any) -> None:
    """Wait until the map is whole: the words of its progress are gone."""
    view.locator(".lk-att-title").first.wait_for()
    page.wait_for_function(
        "e => e.textContent === ''", arg=view.locator(".lk-att-progress").element_handle(), timeout=90_000
    )


def said(view: Any) -> str:
    return str(view.locator(".lk-att-foot").first.inner_text())


def title(view: Any, pane: int = 0) -> str:
    text = view.locator(".lk-att-figure").nth(pane).locator(".lk-att-title").inner_text()
    return str(re.search(r"layer \d+ · head \d+", text)[0])  # type: ignore[index]


def wait_for_foot(page: Any, view: Any, pattern: str) -> str:
    page.wait_for_function(
        "([e, p]) => new RegExp(p).test(e.innerText)",
        arg=[view.locator(".lk-att-foot").first.element_handle(), pattern],
        timeout=20_000,
    )
    return said(view)


def on_head(view: Any, row: int, column: int, tokens: int) -> dict[str, float]:
    """Where a cell of the whole pattern is, within the canvas."""
    side = view.locator(".lk-att-grid").first.bounding_box()["width"]
    return {"x": (column + 0.5) * side / tokens, "y": (row + 0.5) * side / tokens}


def shades(view: Any, selector: str) -> int:
    """How many different colours a canvas shows."""
    counted = """e => { const {width, height} = e; if (!width) return 0;
      return new Set(new Uint32Array(e.getContext('2d').getImageData(0, 0, width, height).data.buffer)).size; }"""
    return int(view.locator(selector).first.evaluate(counted))


# every cell ----------------------------------------------------------------------------------------------------------


def test_run_all_has_no_error_and_nothing_leaves(desk: Desk) -> None:
    assert jupyterlab.errors(desk.cells) == []
    assert [cell["count"] for cell in desk.cells] == list(range(1, len(CELLS) + 1))
    assert desk.left == []
    assert desk.errors == []


@pytest.mark.parametrize("name", [name for name in CELLS if name != "start"])
def test_the_map_fills_and_the_head_is_painted(desk: Desk, name: str) -> None:
    view = desk.view(name)
    assert view.count() == 1
    filled(desk.page, view)
    few = 1 if name == "one" else 6
    assert shades(view, ".lk-att-mapcanvas") >= few
    assert shades(view, ".lk-att-base") >= few
    assert view.evaluate("e => e.scrollWidth <= e.clientWidth"), "nothing sticks out to the side"


def test_hostile_tokens_stay_text(desk: Desk) -> None:
    view = desk.view("hostile")
    tokens = view.locator(".lk-att-tokens .lk-tl-token")
    assert tokens.count() == int(jupyterlab.evaluate(desk.page, "print(len(hostile))"))
    assert desk.page.evaluate("() => window.broken") is None
    assert view.locator("script, img, svg, style, textarea").count() == 0
    assert max(len(text) for text in tokens.all_inner_texts()) < 200


def test_cells_that_are_no_numbers_are_told(desk: Desk) -> None:
    view = desk.view("nan")
    assert "not numbers" in view.locator(".lk-att-notes").inner_text()
    view.locator(".lk-att-grid").first.hover(position=on_head(view, 7, 3, 20))
    assert "not a number" in wait_for_foot(desk.page, view, "looks at")


def test_one_token_looks_at_itself(desk: Desk) -> None:
    assert "1 token" in desk.view("one").locator(".lk-trace-head").inner_text()


def test_two_traces_stand_side_by_side(desk: Desk) -> None:
    view = desk.view("compare")
    panes = view.locator(".lk-att-figure:visible")
    assert panes.count() == 2
    assert title(view, 0) == title(view, 1)
    names = view.locator(".lk-att-figure .lk-att-title").all_inner_texts()
    assert names[0].startswith("cat:")
    assert names[1].startswith("dog:")
    left, right = (panes.nth(i).bounding_box() for i in (0, 1))
    assert left["x"] + left["width"] <= right["x"]
    assert abs(left["y"] - right["y"]) < 2


# what the kernel answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "column"), [(10, 4), (7, 0), (9, 9)])
def test_the_weight_under_the_pointer_is_the_trace_s_own(desk: Desk, row: int, column: int) -> None:
    view = desk.view("model")
    view.scroll_into_view_if_needed()
    layer, head = map(int, re.findall(r"\d+", title(view)))
    tokens, weight = json.loads(
        jupyterlab.evaluate(
            desk.page,
            f"import json; print(json.dumps([len(trace), trace.attention({layer}, {head})[{row}, {column}].item()]))",
        )
    )
    view.locator(".lk-att-grid").first.hover(position=on_head(view, row, column, tokens))
    shown = wait_for_foot(desk.page, view, r"looks at .*: (\d\.\d{4}|exactly 0|.*10)")
    if weight >= 0.00005:
        assert f"{weight:.4f}" in shown
    assert f"({row})" in shown
    desk.page.mouse.move(1, 1)


def test_a_click_on_a_thumbnail_opens_it(desk: Desk) -> None:
    view = desk.view("middle")
    view.scroll_into_view_if_needed()
    field = view.locator(".lk-att-mapgrid")
    opened = set()
    for x, y in ((0.1, 0.1), (0.6, 0.5), (0.9, 0.9)):
        box = field.bounding_box()
        before = title(view)
        field.hover(position={"x": x * box["width"], "y": y * box["height"]})
        named = re.search(r"layer \d+ · head \d+", view.locator(".lk-att-peek").inner_text())
        if named is None or named[0] == before:
            continue
        field.click(position={"x": x * box["width"], "y": y * box["height"]})
        desk.page.wait_for_function(
            "([e, t]) => e.innerText.includes(t)",
            arg=[view.locator(".lk-att-figure .lk-att-title").first.element_handle(), named[0]],
        )
        opened.add(named[0])
    assert len(opened) >= 2


def test_ablation_shows_before_and_after(desk: Desk) -> None:
    view = desk.view("model")
    view.get_by_role("button", name="Ablate this head").click()
    view.locator(".lk-att-next").wait_for(timeout=60_000)
    assert title(view) in view.locator(".lk-att-outcome strong").first.inner_text().replace("Without ", "")
    assert "before" in view.locator(".lk-att-ablation").inner_text()
    rows = view.locator(".lk-att-next tr").count() - 1
    assert rows >= 5
    layer, head = map(int, re.findall(r"\d+", title(view)))
    effect = json.loads(
        jupyterlab.evaluate(
            desk.page,
            "import json\n"
            f"effect = lk.attention.ablation(lab, trace)([({layer}, {head})])\n"
            "print(json.dumps([effect.loss_before, effect.loss_after]))",
        )
    )
    words = view.locator(".lk-att-outcome").inner_text()
    for loss in effect:
        assert f"{loss:.3f}" in words


SAMPLE = """e => { window.seenFrames = []; const began = performance.now();
  const hash = () => { const d = new Uint32Array(e.getContext('2d').getImageData(0, 0, e.width, e.height).data.buffer);
    let h = 0; for (let i = 0; i < d.length; i += 7) h = (h * 31 + d[i]) | 0; return h; };
  const look = () => { const now = hash(); if (window.seenFrames.at(-1) !== now) window.seenFrames.push(now);
    if (performance.now() - began < 3500) requestAnimationFrame(look); else window.seenFrames.done = true; };
  look(); }"""


def test_a_long_text_is_read_in_tiles(desk: Desk) -> None:
    view = desk.view("long")
    view.scroll_into_view_if_needed()
    grid, reading = view.locator(".lk-att-grid").first, view.locator(".lk-att-reading").first
    assert re.search(r"A cell is (\d+) × \1 tokens", reading.inner_text())
    grid.focus()
    for _ in range(12):
        desk.page.keyboard.press("+")
        desk.page.wait_for_timeout(200)
        if "A cell is" not in reading.inner_text():
            break
    assert "A cell is" not in reading.inner_text()
    desk.page.wait_for_timeout(1500)
    view.locator(".lk-att-base").first.evaluate(SAMPLE)
    desk.page.keyboard.press("+")
    desk.page.keyboard.press("-")
    desk.page.wait_for_timeout(300)
    box = grid.bounding_box()  # to a part whose tiles have not been asked for
    overview = view.locator(".lk-att-overview").first
    overview.click(position={"x": 30, "y": 80})
    desk.page.wait_for_function("() => window.seenFrames.done", timeout=20_000)
    frames = desk.page.evaluate("() => [...window.seenFrames]")
    assert len(frames) >= 3, "drawn from the pooled whole first, from the tiles when they came"
    grid.hover(position={"x": box["width"] * 0.4, "y": box["height"] * 0.6})
    shown = wait_for_foot(desk.page, view, r"looks at .*: (\d\.\d{4}|exactly 0|.*10)")
    found = re.search(r"“w(\d+)” \(([\d,]+)\) looks at (?:“w(\d+)” \(([\d,]+)\)|itself): (\S+)", shown)
    assert found, shown
    query = int(found[1])
    key = query if found[3] is None else int(found[3])
    assert query == int(found[2].replace(",", ""))
    layer, head = map(int, re.findall(r"\d+", title(view)))
    weight = float(
        jupyterlab.evaluate(desk.page, f"print(long.attention({layer}, {head}, rows=[{query}])[0, {key}].item())")
    )
    if weight >= 0.00005:
        assert f"{weight:.4f}" == found[5]
    desk.page.mouse.move(1, 1)
    grid.focus()
    desk.page.keyboard.press("0")


# keys alone ----------------------------------------------------------------------------------------------------------


def tab_to(page: Any, selector: str, *, most: int = 40, back: bool = False) -> None:
    """Press Tab until the focus is on what the selector names."""
    for _ in range(most):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    pytest.fail(f"{selector} was not reached with Tab")


def test_keys_alone_from_the_map_to_the_head_to_the_text_and_back(desk: Desk) -> None:
    page, view = desk.page, desk.view("model")
    page.evaluate(
        f"i => {{ {jupyterlab.CONTENT}.activeCellIndex = i; {jupyterlab.CONTENT}.mode = 'command'; }}", PLACES["model"]
    )
    view.locator("select:visible").first.focus()
    view.locator("select:visible").first.press("Tab")
    before = jupyterlab.place(page)
    assert before["mode"] == "command"

    tab_to(page, ".lk-att-mapgrid")
    was = title(view)
    page.keyboard.press("Home")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    named = re.search(r"layer \d+ · head \d+", view.locator(".lk-att-peek").inner_text())
    assert named is not None
    assert named[0] != was
    page.keyboard.press("Enter")
    page.wait_for_function(
        "([e, t]) => e.innerText.includes(t)",
        arg=[view.locator(".lk-att-figure .lk-att-title").first.element_handle(), named[0]],
    )
    assert page.evaluate("() => document.activeElement.matches('.lk-att-grid')")
    page.keyboard.press("Escape")  # back to the map
    page.keyboard.press(" ")
    page.wait_for_function(
        "e => e.innerText === 'Marked'", arg=view.get_by_role("button", name="Mark").first.element_handle()
    )
    page.keyboard.press(" ")

    tab_to(page, ".lk-att-grid")
    page.keyboard.press("End")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    first = wait_for_foot(page, view, r"looks at .*: (\d\.\d{4}|exactly 0|.*10)")
    page.keyboard.press("ArrowUp")
    assert wait_for_foot(page, view, r"looks at .*: (\d\.\d{4}|exactly 0|.*10)") != first
    for key in ("+", "+", "0", "+"):
        page.keyboard.press(key)

    tab_to(page, ".lk-att-tokens")
    page.keyboard.press("End")
    for key in ("ArrowLeft", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    foot = view.locator(".lk-att-textfoot")
    page.wait_for_function("e => e.innerText.includes('looks most at')", arg=foot.element_handle())
    page.keyboard.press("Escape")

    tab_to(page, ".lk-att-grid", back=True)
    for _ in range(4):  # lets the cell go, shows the whole, leaves
        if page.evaluate("() => document.activeElement.matches('.lk-att-mapgrid')"):
            break
        page.keyboard.press("Escape")
    assert page.evaluate("() => document.activeElement.matches('.lk-att-mapgrid')")
    assert jupyterlab.place(page) == before, "the notebook's own keys must not have acted"


# looks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [True, False])
def test_the_view_follows_the_theme(desk: Desk, dark: bool) -> None:
    jupyterlab.set_theme(desk.page, dark=dark)
    brightness = """e => { const d = e.getContext('2d').getImageData(0, 0, e.width, e.height).data; const found = {};
      for (let i = 0; i < d.length; i += 4) { if (d[i + 3] < 255) continue;
        const key = d[i] + d[i + 1] + d[i + 2]; found[key] = (found[key] ?? 0) + 1; }
      return Number(Object.entries(found).sort((a, b) => b[1] - a[1])[0][0]) / 3; }"""
    for name in ("model", "compare"):
        canvas = desk.view(name).locator(".lk-att-base").first
        canvas.scroll_into_view_if_needed()
        desk.page.wait_for_timeout(300)
        paper = desk.view(name).evaluate(
            """e => { const b = document.createElement('canvas').getContext('2d');
            b.fillStyle = getComputedStyle(e).backgroundColor; b.fillRect(0, 0, 1, 1);
            const [r, g, x] = b.getImageData(0, 0, 1, 1).data; return (r + g + x) / 3; }"""
        )
        assert (paper < 128) == dark
        assert (canvas.evaluate(brightness) < 128) == dark, "most of a pattern is near the paper"


@pytest.mark.skipif(not AXE.is_file(), reason="LABKIT_AXE names no axe.min.js to check accessibility with")
@pytest.mark.parametrize("dark", [True, False])
def test_axe_finds_nothing_serious(desk: Desk, dark: bool) -> None:
    jupyterlab.set_theme(desk.page, dark=dark)
    desk.page.wait_for_timeout(500)
    if not desk.page.evaluate("() => Boolean(window.axe)"):
        # JupyterLab's module loader would take it for one of its own
        desk.page.evaluate(
            "source => { (0, eval)(`{ let define, module, exports; ${source} }`); }", AXE.read_text("utf-8")
        )
    found = desk.page.evaluate(
        """() => axe.run('.lk-attention', {resultTypes: ['violations']}).then(r => r.violations
        .filter(v => ['serious', 'critical'].includes(v.impact))
        .map(v => [v.id, v.nodes.length, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))]))"""
    )
    assert found == []


# bytes and seconds ---------------------------------------------------------------------------------------------------

TEXTS = f"""
from pathlib import Path
import labkit as lk
lab = lk.load()
ids = lab.tokenizer(Path({str(ROOT / "docs" / "architecture.md")!r}).read_text(encoding="utf-8"))["input_ids"]
assert len(ids) >= 1024
traces = {{n: lab.trace(ids[:n], keep="attention") for n in (64, 256, 1024)}}
"""
MOST_BYTES = {64: 0.3 * MB, 256: 1.5 * MB, 1024: 2.0 * MB}
MOST_BYTES_OF_A_HEAD = 1.1 * MB

# From the moment a cell is run: when its head has been painted, and when its map is whole. In milliseconds.
CLOCK = """index => { const began = performance.now(); window.clock = {};
  const cell = () => document.querySelectorAll('.jp-Notebook .jp-Cell')[index];
  const look = () => {
    const base = cell()?.querySelector('.lk-att-base');
    const drawn = base && base.width > 8 && base.getContext('2d').getImageData(3, 3, 1, 1).data[3] > 0;
    if (drawn) window.clock.head ??= performance.now() - began;
    if (drawn && cell().querySelector('.lk-att-progress').textContent === '') window.clock.map = performance.now() - began;
    else requestAnimationFrame(look);
  }; look(); }"""
# From a press of the button to the frame after the other head was drawn.
SWITCH = """index => { const view = document.querySelectorAll('.jp-Notebook .jp-Cell')[index].querySelector('.lk-attention');
  const title = view.querySelector('.lk-att-figure .lk-att-title'); window.switches ??= [];
  view.querySelector('.lk-att-mapgrid').addEventListener('pointerdown', () => {
    const [began, before] = [performance.now(), title.textContent];
    const look = () => {
      if (title.textContent === before) requestAnimationFrame(look);
      else requestAnimationFrame(() => requestAnimationFrame(() => window.switches.push(performance.now() - began)));
    }; look(); }, { capture: true }); }"""
FRAMES = """() => { window.frames_ = []; const began = performance.now();
  const look = (now) => { window.frames_.push(now); if (performance.now() - began < 2000) requestAnimationFrame(look);
    else window.frames_.done = true; }; requestAnimationFrame(look); }"""


@pytest.fixture(scope="module")
def measured(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[int]]]:
    """(page, sizes of the frames its web sockets received) of a JupyterLab where traces of the default model wait."""
    folder, scratch = tmp_path_factory.mktemp("measured"), tmp_path_factory.mktemp("jupyter")
    write(folder / "bytes.ipynb", [TEXTS, *(f"lk.views.attention(traces[{n}])" for n in MOST_BYTES)])
    with jupyterlab.server(folder, scratch) as address:
        context = chromium.new_context(viewport={"width": 1300, "height": 1100})
        page = context.new_page()
        frames: list[int] = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda data: frames.append(len(data))))
        jupyterlab.open_notebook(page, address, "bytes.ipynb")
        jupyterlab.run_cell(page, 0)
        page.wait_for_function(
            f"() => {jupyterlab.CONTENT}.model.cells.get(0).executionCount !== null", timeout=180_000
        )
        jupyterlab.wait_for_kernel(page)
        yield page, frames
        context.close()


@pytest.mark.parametrize(("place", "tokens"), list(enumerate(MOST_BYTES, 1)))
def test_bytes_of_the_whole_view(
    measured: tuple[Any, list[int]], place: int, tokens: int, record_property: Any
) -> None:
    """Everything that reaches the browser until the map is whole: state, messages, script, style, what the cell saves."""
    page, frames = measured
    page.wait_for_timeout(500)
    frames.clear()
    page.evaluate(CLOCK, place)
    jupyterlab.run_cell(page, place)
    page.wait_for_function("() => window.clock.map", timeout=120_000)
    page.wait_for_timeout(1000)
    clock = page.evaluate("() => window.clock")
    assert shades(page.locator(".jp-Notebook .jp-Cell").nth(place), ".lk-att-mapcanvas") > 20, (
        "the thumbnails are there"
    )
    told(record_property, tokens, bytes=sum(frames), first_paint_ms=clock["head"], map_ms=clock["map"])
    assert sum(frames) <= MOST_BYTES[tokens]
    assert sum(frames) > tokens * (tokens + 1) / 2, "the head itself must be among what was counted"


def test_bytes_of_a_head_and_the_time_from_one_to_the_next(
    measured: tuple[Any, list[int]], record_property: Any
) -> None:
    page, frames = measured
    place = len(MOST_BYTES)
    view = page.locator(".jp-Notebook .jp-Cell").nth(place).locator(".lk-attention")
    field = view.locator(".lk-att-mapgrid")
    page.evaluate(SWITCH, place)
    box = field.bounding_box()
    sizes = []
    for k in range(6):
        before = title(view)
        frames.clear()
        field.click(position={"x": box["width"] * (0.15 + 0.13 * k), "y": 40 + 25 * k})
        page.wait_for_function("count => window.switches.length === count", arg=k + 1)
        page.wait_for_timeout(400)
        assert title(view) != before
        sizes.append(sum(frames))
    switches = page.evaluate("() => window.switches")
    told(record_property, 1024, head_bytes=max(sizes), switch_ms=sorted(switches))
    assert max(sizes) <= MOST_BYTES_OF_A_HEAD
    assert min(sizes) > 1024 * 1025 / 2


def test_frames_while_panning(measured: tuple[Any, list[int]], record_property: Any) -> None:
    """How many it is depends on the machine; that the pattern follows the pointer does not."""
    page, _ = measured
    view = page.locator(".jp-Notebook .jp-Cell").nth(len(MOST_BYTES)).locator(".lk-attention")
    grid = view.locator(".lk-att-grid").first
    grid.scroll_into_view_if_needed()
    for _ in range(4):
        view.get_by_role("button", name="Zoom in").first.click()
    page.wait_for_timeout(300)
    before = view.locator(".lk-att-base").first.evaluate("e => e.toDataURL()")
    box = grid.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(FRAMES)
    moves, end = 0, time.monotonic() + 2
    while time.monotonic() < end:
        moves += 1
        page.mouse.move(x + 60 * ((moves % 20) / 10 - 1), y - moves % 130)
    page.wait_for_function("() => window.frames_.done")
    page.mouse.move(x - 90, y - 90)
    page.mouse.up()
    times = page.evaluate("() => [...window.frames_]")
    gaps = sorted(b - a for a, b in pairwise(times))
    told(
        record_property,
        1024,
        frames_a_second=1000 * len(gaps) / (times[-1] - times[0]),
        longest_gaps_ms=gaps[-3:],
        median_gap_ms=gaps[len(gaps) // 2],
        moves=moves,
    )
    page.wait_for_timeout(300)
    assert view.locator(".lk-att-base").first.evaluate("e => e.toDataURL()") != before


def told(record_property: Any, tokens: int, **figures: Any) -> None:
    """Print figures (pytest -s shows them) and keep them in a report."""
    for name, value in figures.items():
        shown = [round(v, 1) for v in value] if isinstance(value, list) else round(value, 1)
        record_property(f"{tokens} tokens: {name}", shown)
        print(
            f"attention view, {tokens:,} tokens: {name} {shown:,}"
            if not isinstance(shown, list)
            else f"{tokens}: {name} {shown}"
        )


# the same page again -------------------------------------------------------------------------------------------------


def test_a_reloaded_page_has_the_view_back_without_running_a_cell(desk: Desk) -> None:
    """Last of all: the page is another afterwards."""
    page, view = desk.page, desk.view("model")
    field = view.locator(".lk-att-mapgrid")
    box = field.bounding_box()
    field.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.3})
    field.click(position={"x": box["width"] * 0.7, "y": box["height"] * 0.6}, modifiers=["Shift"])
    view.locator(".lk-att-figure").nth(1).wait_for(state="visible")
    page.wait_for_timeout(500)
    shown, beside = title(view, 0), title(view, 1)
    assert shown != beside
    view.get_by_role("button", name="Ablate this head").click()
    page.wait_for_function(
        "([e, t]) => e.innerText.includes(t)",
        arg=[view.locator(".lk-att-outcome").element_handle(), shown],
        timeout=60_000,
    )
    effect = view.locator(".lk-att-ablation").inner_text()
    jupyterlab.save(page)
    page.reload()
    jupyterlab.wait_for_kernel(page)
    view.locator(".lk-att-next").wait_for(timeout=60_000)
    filled(page, view)
    assert (title(view, 0), title(view, 1)) == (shown, beside)
    assert view.locator(".lk-att-ablation").inner_text() == effect
    assert shades(view, ".lk-att-mapcanvas") >= 6
    assert shades(view, ".lk-att-base") >= 6
    for name in ("long", "compare"):
        filled(page, desk.view(name))
        assert shades(desk.view(name), ".lk-att-base") >= 6
    counts = [cell["count"] for cell in page.evaluate(jupyterlab.CELLS)]
    assert counts == list(range(1, len(CELLS) + 1)), "no cell was run"
    view.locator(".lk-att-grid").first.hover(
        position=on_head(view, 9, 4, int(jupyterlab.evaluate(page, "print(len(trace))")))
    )
    assert re.search(r"looks at", wait_for_foot(page, view, r"looks at .*: (\d\.\d{4}|exactly 0|.*10)")), (
        "the kernel answers"
    )
    assert desk.left == []
    assert desk.errors == []
