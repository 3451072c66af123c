"""The live panel in a real Chromium: as an exported page, as a widget on a stand-in model, and in a JupyterLab."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupyterlab
import nbformat
import playwright.sync_api
import pytest
import stand_in
from conftest import local
from generations import HOSTILE

from labkit.views.live_panel import Event, LivePanel, live

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
SECONDS = 10.0


def until(page: Any, condition: str) -> None:
    """Wait for an expression to hold. The page's own policy forbids playwright's way, which evaluates strings."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never came: {condition}")


def finished(*events: Event | dict[str, Any], **settings: Any) -> LivePanel:
    panel = live(lambda _stop: iter(events), **settings)
    assert panel.wait(SECONDS)
    return panel


def curves(n: int = 40, **settings: Any) -> LivePanel:
    events = [
        Event(done=i, total=n, say=f"step {i}", values={"train": 3 / i, "held out": 4 / i**0.5})
        for i in range(1, n + 1)
    ]
    return finished(*events, **({"title": "Learning", "unit": "nats", "x": "step", "y": "loss"} | settings))


def words(page: Any, selector: str) -> str:
    return page.locator(selector).inner_text()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1100, 420])
def test_a_file_shows_how_it_went(open_page: Open, tmp_path: Path, dark: bool, width: int) -> None:
    page = open_page(curves().to_html(tmp_path / "page.html"), width=width, dark=dark)
    assert words(page, ".lk-work-title") == "Learning"
    assert words(page, ".lk-work-progress").startswith("finished: 40 of 40 · 0.")
    assert words(page, ".lk-work-values").split() == ["train", "0.075", "nats", "held", "out", "0.6325", "nats"]
    bar = page.get_by_role("progressbar", name="Progress of Learning")
    assert [bar.get_attribute(f"aria-value{name}") for name in ("min", "now", "max", "text")] == [
        "0",
        "40",
        "40",
        "40 of 40",
    ]
    assert page.get_by_role("button").count() == 0, "a file has nothing to stop"
    chart = page.get_by_role("img")
    assert (
        chart.get_attribute("aria-label")
        == "Line chart of loss in nats against step: latest train 0.075, held out 0.6325"
    )
    assert page.locator("path.lk-plot-line").count() == 4, "two lines, and their keys"
    assert page.locator(".lk-plot-label").all_text_contents() == ["train", "held out"]
    colours = {
        page.locator(".lk-live-chart path.lk-plot-line").nth(i).evaluate("e => getComputedStyle(e).stroke")
        for i in (0, 1)
    }
    assert colours == ({"rgb(86, 180, 233)", "rgb(240, 149, 63)"} if dark else {"rgb(0, 114, 178)", "rgb(213, 94, 0)"})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    inside = """() => {
        const box = document.querySelector('.lk-live-chart').getBoundingClientRect();
        return [...document.querySelectorAll('.lk-live-chart text')].every(e => {
            const own = e.getBoundingClientRect();
            return own.left >= box.left - 1 && own.right <= box.right + 1 && own.bottom <= box.bottom + 1;
        });
    }"""
    assert page.evaluate(inside), "a label is cut"


def test_bars_stand_on_zero(open_page: Open, tmp_path: Path) -> None:
    panel = finished(*({"at": i, "values": {"change": (i - 3) / 10}} for i in range(7)), chart="bars", y="change")
    page = open_page(panel.to_html(tmp_path / "page.html"))
    drawn = page.locator(".lk-plot-bars").get_attribute("d")
    assert drawn.count("z") == 7
    zero = float(page.locator(".lk-plot-zero").get_attribute("y1"))
    assert {float(bar.split()[1].split("V")[0]) for bar in drawn.split("M")[1:]} == {zero}
    tips = [float(bar.split("V")[1].split("h")[0]) for bar in drawn.split("M")[1:]]
    assert tips == sorted(tips, reverse=True)
    assert tips[0] > zero > tips[-1]


def test_gaps_are_gaps_and_said(open_page: Open, tmp_path: Path) -> None:
    values = [1.0, 2.0, math.nan, 2.0, 1.0, math.inf, 1.5]
    page = open_page(finished(*({"values": {"loss": v}} for v in values)).to_html(tmp_path / "page.html"))
    drawn = page.locator(".lk-live-chart path.lk-plot-line").get_attribute("d")
    assert drawn.count("M") == 3
    assert drawn.endswith("h0"), "a value alone is a dot"
    assert "NaN" not in drawn
    assert words(page, ".lk-live-notes") == "Of 7 values of loss, 1 not a number and 1 infinite: gaps."


def test_nothing_to_draw_is_said(open_page: Open, tmp_path: Path) -> None:
    page = open_page(finished({"values": {"loss": math.nan}}).to_html(tmp_path / "page.html"))
    assert words(page, ".lk-live-chart") == "No values to draw"
    assert words(page, ".lk-work-values").split() == ["loss", "not", "a", "number"]


def test_one_value_and_very_large_ones(open_page: Open, tmp_path: Path) -> None:
    for values in ([0.0], [5.0], [1e300, -1e300], [1e-300, 2e-300]):
        page = open_page(finished(*({"values": {"v": v}} for v in values)).to_html(tmp_path / "page.html"))
        assert "NaN" not in page.locator(".lk-live-chart").inner_html()
        assert page.locator(".lk-plot-tick").count() >= 2


def test_hostile_text_stays_text(open_page: Open, tmp_path: Path) -> None:
    panel = finished(*(Event(say=text, values={text: 1.0}) for text in HOSTILE), title=HOSTILE[0], unit="<b>m", x="<i>")
    page = open_page(panel.to_html(tmp_path / "hostile.html"), width=420)
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main script, main b, main i, main textarea").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_text_is_there_without_scripts(chromium: Any, tmp_path: Path) -> None:
    path = curves().to_html(tmp_path / "static.html")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    body = page.locator("main").inner_text()
    context.close()
    assert "Learning\nfinished: 40 of 40" in body
    assert "held out" in body


# as a widget: its own render(), on a model that answers as a kernel does ------------------------------------------------


class Stepwise:
    """A panel whose work goes on when told to."""

    def __init__(self, total: int = 270, *, start: bool = True) -> None:
        self.let, self.made = threading.Semaphore(0), threading.Semaphore(0)
        self.total = total
        self.panel = live(self._work, title="All heads", unit="nats", x="head", y="loss", start=start)

    def _work(self, stop: threading.Event) -> Iterator[Event]:
        for i in range(self.total):
            while not self.let.acquire(timeout=0.01):
                if stop.is_set():
                    return
            yield Event(done=i + 1, total=self.total, say=f"head {i}", values={"loss": 1 / (i + 1)}, at=i)
            self.made.release()

    def go(self, steps: int) -> None:
        for _ in range(steps):
            self.let.release()
            assert self.made.acquire(timeout=SECONDS)
        self.panel._draw()


@pytest.fixture
def steps() -> Iterator[Stepwise]:
    made = Stepwise()
    yield made
    made.panel.close()


def as_widget(open_page: Open, panel: LivePanel, path: Path, **settings: Any) -> Any:
    page = open_page(panel.to_html(path), **settings)
    stand_in.draw(page, panel)
    return page


def asked(page: Any) -> list[str]:
    """The kinds of the messages that the view sent."""
    return [content["ask"] for content in page.evaluate("window.asked")]


def receive(page: Any, panel: LivePanel) -> None:
    stand_in.receive(page, stand_in.state(panel))


def test_it_grows_and_stops_by_keyboard(open_page: Open, tmp_path: Path, steps: Stepwise) -> None:
    page = as_widget(open_page, steps.panel, tmp_path / "live.html")
    assert asked(page) == ["hello"], "a page loaded anew asks how far it is"
    assert words(page, ".lk-live-chart") == "No values yet"
    steps.go(34)
    receive(page, steps.panel)
    until(page, "document.querySelector('.lk-work-progress').textContent.startsWith('34 of 270 · ')")
    assert words(page, ".lk-work-say") == "head 33"
    assert page.get_by_role("progressbar").get_attribute("aria-valuenow") == "34"
    assert page.locator(".lk-live-chart path.lk-plot-line").get_attribute("d").count("L") == 33
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Stop"
    page.keyboard.press("Enter")
    assert asked(page) == ["hello", "stop"]
    stand_in.pump(page, steps.panel)
    assert steps.panel.wait(SECONDS)
    receive(page, steps.panel)
    until(page, "document.querySelector('.lk-work-button').disabled")
    assert words(page, ".lk-work-progress").startswith("stopped after 34 of 270; what was done is kept · ")
    assert page.locator("[aria-live=polite]").text_content() == "stopped after 34 of 270; what was done is kept"
    assert page.evaluate("document.activeElement.className").startswith("lk-view lk-live"), "the focus is not lost"


def test_the_clock_goes_on_between_messages_and_ends(open_page: Open, tmp_path: Path, steps: Stepwise) -> None:
    steps.go(1)
    page = as_widget(open_page, steps.panel, tmp_path / "live.html")
    before = words(page, ".lk-work-progress")
    page.wait_for_timeout(1300)
    assert words(page, ".lk-work-progress") != before
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0
    still = words(page, ".lk-work-progress")
    page.wait_for_timeout(1300)
    assert words(page, ".lk-work-progress") == still, "a view that is gone ticks no more"


def test_a_start_button_where_nothing_was_started(open_page: Open, tmp_path: Path) -> None:
    steps = Stepwise(start=False)
    page = as_widget(open_page, steps.panel, tmp_path / "live.html")
    assert words(page, ".lk-work-progress") == "not started"
    page.get_by_role("button", name="Start").click()
    assert asked(page) == ["hello", "start"]
    stand_in.pump(page, steps.panel)
    steps.go(1)
    receive(page, steps.panel)
    until(page, "document.querySelector('.lk-work-button').textContent === 'Stop'")
    steps.panel.close()


def test_no_answer_is_said(open_page: Open, tmp_path: Path, steps: Stepwise) -> None:
    page = as_widget(open_page, steps.panel, tmp_path / "live.html")
    page.get_by_role("button", name="Stop").click()
    assert not page.locator(".lk-work-warning").is_visible()
    page.wait_for_timeout(4200)
    assert "No answer from the kernel" in words(page, ".lk-work-warning")
    assert asked(page)[:3] == ["hello", "stop", "stop"], "it may have been lost on the way, and is asked again"
    steps.go(1)
    receive(page, steps.panel)
    page.wait_for_timeout(300)
    assert "No answer" in words(page, ".lk-work-warning"), "work that goes on is no answer to Stop"
    steps.panel.stop()
    for _ in range(100):  # until the worker has said so
        if steps.panel.status["stopping"] or steps.panel.state != "running":
            break
        time.sleep(0.05)
    receive(page, steps.panel)
    until(page, "document.querySelector('.lk-work-warning').hidden")
    many = len(asked(page))
    page.wait_for_timeout(1500)
    assert len(asked(page)) == many


def test_nobody_knows_how_far(open_page: Open, tmp_path: Path) -> None:
    page = open_page(finished(Event(say="looking")).to_html(tmp_path / "page.html"))
    bar = page.get_by_role("progressbar")
    assert bar.get_attribute("aria-valuenow") is None
    assert bar.get_attribute("aria-valuetext") == "finished"


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["file", "many", "running", "failed", "untitled"])
def test_axe_finds_nothing(open_page: Open, tmp_path: Path, steps: Stepwise, which: str, dark: bool) -> None:
    path = tmp_path / "axe.html"
    if which == "file":
        page = open_page(curves().to_html(path), dark=dark)
    elif which == "many":
        many = finished(*(Event(done=i, values={f"name {k}": k + i for k in range(14)}) for i in range(5)), unit="s")
        page = open_page(many.to_html(path), dark=dark)
    elif which == "untitled":
        page = open_page(finished(Event(say="done")).to_html(path), dark=dark)
    elif which == "failed":
        panel = live(lambda _stop: iter([{"done": 1, "total": 2}, 3]), title="Fails")
        panel._worker.wait(SECONDS)
        page = as_widget(open_page, panel, path, dark=dark)
    else:
        steps.go(5)
        page = as_widget(open_page, steps.panel, path, dark=dark)
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []


# in a JupyterLab --------------------------------------------------------------------------------------------------------

CELL = """
import time

import labkit as lk


def work(stop):
    for i in range(2000):
        if stop.is_set():
            return i
        time.sleep(0.02)
        yield {"done": i + 1, "total": 2000, "say": f"head {i}", "values": {"loss": 1 / (i + 1), "held out": 2.5, "n" * 60: 3}}


panel = lk.views.live(work, title="All heads", x="head", y="loss", unit="nats")
panel
"""


def test_stop_and_reload_in_jupyterlab(chromium: Any, tmp_path: Path) -> None:
    """Twice if need be: after a reload on a busy machine the first message to the kernel is lost now and then."""
    try:
        stop_and_reload(chromium, tmp_path / "first")
    except playwright.sync_api.TimeoutError:
        stop_and_reload(chromium, tmp_path / "second")


def stop_and_reload(chromium: Any, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir(parents=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell("")])
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, folder / "live.ipynb")
    with jupyterlab.server(folder, tmp_path / "jupyter") as address:
        context = chromium.new_context(viewport={"width": 1200, "height": 1400})
        page = context.new_page()
        left: list[str] = []
        page.on("request", lambda r: None if local(r.url) else left.append(r.url))
        jupyterlab.open_notebook(page, address, "live.ipynb")
        jupyterlab.run_all(page)
        view = page.locator(".lk-live")
        line = ".lk-work-progress"
        page.wait_for_function(f"() => /^\\d+ of 2,000/.test(document.querySelector('{line}')?.textContent ?? '')")
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        page.wait_for_timeout(500)
        page.reload()
        page.wait_for_function(
            f"() => /^\\d+ of 2,000/.test(document.querySelector('{line}')?.textContent ?? '')", timeout=60_000
        )
        before = words(page, line)
        page.wait_for_function(
            "([s, t]) => document.querySelector(s).textContent.split(' ')[0] !== t.split(' ')[0]", arg=[line, before]
        )
        # JupyterLab has its own looks for dt and dd
        lines = view.locator(".lk-work-value dt, .lk-work-value dd").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().height / parseFloat(getComputedStyle(e).lineHeight))"
        )
        assert len(lines) == 6
        assert max(lines) < 1.5, "a name stands beside its sample, and its value on the same line"
        view.evaluate("e => { e.style.width = '300px'; }")
        assert view.evaluate("e => e.scrollWidth <= e.clientWidth"), "a long name is broken where there is no room"
        # a key, not the mouse: JupyterLab may still be moving the cell that just grew, and a click then meets nothing
        stopped = f"() => document.querySelector('{line}').textContent.startsWith('stopped after')"
        for attempt in range(
            6
        ):  # on a busy machine the panel may have to say that no answer came; then again, as one would
            view.get_by_role("button", name="Stop").press("Enter")
            try:
                page.wait_for_function(stopped, timeout=10_000)
                break
            except playwright.sync_api.TimeoutError:
                if attempt == 5:
                    raise
        said = words(page, line).split(" · ")[0]
        assert said.endswith("of 2,000; what was done is kept")
        cells = page.evaluate(jupyterlab.CELLS)
        assert jupyterlab.errors(cells) == []
        assert left == []
        context.close()
