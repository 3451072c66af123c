"""The views of a tuning in a real Chromium: the loss mask, the training as it runs, the sliders of adapters; and in a JupyterLab
a training that is watched, stopped, and whose adapter is used."""

from __future__ import annotations

import os
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
from tuned import BASE, SECONDS, TUNED, AdapterWriter, HandRun, hand_mask, until

import labkit as lk
from labkit.views.adapter_view import AdapterView
from labkit.views.mask_view import MaskView
from labkit.views.training_view import TrainingView

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


@pytest.fixture
def writer() -> AdapterWriter:
    return AdapterWriter()


@pytest.fixture
def blended(writer: AdapterWriter) -> Iterator[AdapterView]:
    view = AdapterView(writer, ["dates", "style"], "3 May 2025", values=[1.0, 0.0], limits=(-1.0, 2.0))
    assert view.wait(SECONDS)
    yield view
    view.close()


def settle(page: Any) -> None:
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def as_widget(open_page: Open, view: Any, tmp_path: Path, **settings: Any) -> Any:
    page = open_page(view.to_html(tmp_path / "page.html"), **settings)
    stand_in.draw(page, view)
    settle(page)
    return page


def receive(page: Any, view: Any) -> None:
    stand_in.receive(page, stand_in.state(view))
    settle(page)


def pump(page: Any, view: Any) -> None:
    stand_in.pump(page, view)
    assert view.wait(SECONDS)
    receive(page, view)


def words(page: Any, selector: str) -> str:
    said: str = page.locator(selector).inner_text()
    return said


def no_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


# the mask ---------------------------------------------------------------------------------------------------------------


def marked(page: Any, name: str) -> list[str]:
    found: list[str] = page.locator(f".lk-mask-text .lk-mask-{name}").all_text_contents()
    return found


def test_each_token_shows_whether_it_is_learnt(open_page: Open, tmp_path: Path) -> None:
    found = hand_mask(40)
    view = lk.views.mask(found, sample=3)
    page = as_widget(open_page, view, tmp_path)
    each = found.samples[3]
    assert marked(page, "learnt") == list(each.tokens[9:])
    assert marked(page, "ending") == ["</s>"]
    assert marked(page, "read") == list(each.tokens[:9])
    assert words(page, ".lk-mask-about") == "8 of 17 tokens carry loss (47.1 %)"
    page.locator(".lk-mask-text .lk-tl-word").nth(10).hover()
    assert (
        words(page, ".lk-foot") == "“is” · token 10 of sample 3 · id 110 · carries loss: the model learns to write it"
    )
    page.locator(".lk-mask-text .lk-tl-word").nth(7).hover()
    assert words(page, ".lk-foot").endswith("carries no loss: the model only reads it")
    styles = page.locator(".lk-mask-text .lk-tl-word").evaluate_all(
        "all => all.map(e => getComputedStyle(e).borderBottomWidth)"
    )
    assert styles == ["0px"] * 9 + ["2px"] * 8, "not by colour alone"


def test_samples_are_gone_through(open_page: Open, tmp_path: Path) -> None:
    view = lk.views.mask(hand_mask(40))
    page = as_widget(open_page, view, tmp_path)
    page.get_by_role("button", name="The next sample").click()
    pump(page, view)
    assert view.row == 1
    page.get_by_label("Sample", exact=True).fill("17")
    page.get_by_label("Sample", exact=True).press("Enter")
    pump(page, view)
    assert view.row == 17
    assert " 17" in "".join(marked(page, "learnt"))
    page.get_by_label("Sample", exact=True).fill("40")
    page.get_by_label("Sample", exact=True).press("Enter")
    pump(page, view)
    assert (view.row, words(page, ".lk-status")) == (17, "Give a whole number from 0 to 39.")
    overview = page.locator(".lk-mask-overview")
    overview.focus()
    page.keyboard.press("End")
    assert "sample 39: 20 tokens, 11 of them with loss" not in words(page, ".lk-mask-hint")
    assert words(page, ".lk-mask-hint").startswith("sample 39:")
    page.keyboard.press("Enter")
    pump(page, view)
    assert view.row == 39
    assert page.get_by_role("button", name="The next sample").is_disabled()


def test_a_file_goes_through_what_it_holds(open_page: Open, tmp_path: Path) -> None:
    view = lk.views.mask(hand_mask(500, packing=True), sample=400)
    page = open_page(view.to_html(tmp_path / "mask.html"))
    assert page.locator(".lk-tl-passage").count() == 3, "three samples in the row"
    assert words(page, ".lk-tl-passage-head >> nth=1").startswith("sample 400: ")
    page.get_by_role("button", name="The row before").click()
    assert words(page, ".lk-tl-passage-head >> nth=0").startswith("sample 177: "), "the last of those it holds"
    page.get_by_label("Row", exact=True).fill("2")
    page.get_by_label("Row", exact=True).press("Enter")
    assert words(page, ".lk-tl-passage-head >> nth=2").startswith("sample 8: ")


# the training -----------------------------------------------------------------------------------------------------------


def lengths(page: Any) -> list[int]:
    """How many points each line of the charts has."""
    found: list[int] = page.locator(".lk-train-picture path.lk-plot-line").evaluate_all(
        "all => all.map(e => (e.getAttribute('d').match(/[ML]/g) ?? []).length)"
    )
    return found


def test_the_curves_grow_and_stop_stops(open_page: Open, tmp_path: Path) -> None:
    run = HandRun(60)
    view = lk.views.training(run)
    page = as_widget(open_page, view, tmp_path)
    assert lengths(page) == [1, 1, 1], "what is known before the first step"
    grown = []
    for steps in (5, 5):
        run.step(steps)
        until(lambda: view.status["done"] == run.rows[-1]["step"])
        receive(page, view)
        grown.append(lengths(page))
    assert grown == [[5, 2, 2, 2, 5, 5], [10, 3, 3, 3, 10, 10]]
    assert words(page, ".lk-work-progress") == "10 of 60 · 10 s · about 50 s left"
    values = page.locator(".lk-work-value").all_inner_texts()
    assert [value.replace("\n", " ") for value in values][:2] == ["loss 0.6325 nats", "held-out loss 0.958 nats"]
    chart = page.get_by_role("img").nth(1).get_attribute("aria-label")
    assert "forgetting from 0 at step 0 to 0.0100 at step 10" in chart
    assert "KL from 0 at step 0 to 0.300 at step 10" in page.get_by_role("img").nth(2).get_attribute("aria-label")
    assert page.locator(".lk-train-picture").nth(1).locator(".lk-plot-zero").count() == 1, "the adapter off, as a line"
    assert words(page, ".lk-train-sample >> nth=0").split() == ["step", "10", "answer", "10:", "2025-05-00"]
    page.get_by_role("button", name="Stop").click()
    pump(page, view)
    assert run.stops == 1
    assert words(page, ".lk-work-progress").startswith(
        "stopped after 10 of 60 steps; the adapter holds what was learnt"
    )
    assert page.get_by_role("button", name="Stop").is_disabled()


def test_a_loss_that_breaks_is_a_gap(open_page: Open, tmp_path: Path) -> None:
    run = HandRun(8)
    for loss in (2.0, 1.0, float("nan"), 1.0, 0.5, float("inf"), 0.5, 0.25):
        run.step(1, loss=loss)
    page = open_page(lk.views.training(run).to_html(tmp_path / "page.html"))
    drawn = page.locator(".lk-train-picture path.lk-plot-line").first.get_attribute("d")
    assert drawn.count("M") == 3
    assert "NaN" not in page.locator(".lk-train-charts").inner_html()
    assert "Of 8 values of the loss, 2 are no finite number" in words(page, ".lk-train")
    assert page.get_by_role("button").count() == 0, "a file has nothing to stop"


# adapters ---------------------------------------------------------------------------------------------------------------


def texts_of(page: Any, which: str) -> str:
    found: str = page.locator(f".lk-adapt-{which} .lk-adapt-text").text_content()
    return found


def other(page: Any, which: str) -> list[str]:
    found: list[str] = page.locator(f".lk-adapt-{which} .lk-adapt-other").all_text_contents()
    return found


def test_a_slider_writes_another_text(
    open_page: Open, tmp_path: Path, blended: AdapterView, writer: AdapterWriter
) -> None:
    page = as_widget(open_page, blended, tmp_path)
    assert (texts_of(page, "base"), texts_of(page, "tuned")) == ("".join(BASE), "".join(TUNED))
    assert other(page, "tuned") == list(TUNED)
    assert words(page, ".lk-adapt-differ") == "5 tokens of 5 with the adapters are not in the base's text."
    deep = page.locator(".lk-adapt-tuned .lk-tl-word").evaluate_all(
        "all => all.map(e => e.style.getPropertyValue('--lk-deep'))"
    )
    assert deep == ["0%", "13%", "25%", "38%", "50%"]
    page.locator(".lk-adapt-tuned .lk-tl-word").nth(3).hover()
    assert words(page, ".lk-foot") == "“5” · token 3 · KL to the base 1.500 nats · the other text does not have it"
    slider = page.get_by_role("slider", name="dates", exact=True)
    assert slider.get_attribute("aria-valuetext") == "1, as trained"
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "−1, taken away"
    pump(page, blended)
    assert blended.scales == {"dates": -1.0, "style": 0.0}
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    pump(page, blended)
    assert blended.scales["dates"] == 1.95
    assert writer.calls[-1] == ("3 May 2025", (1.95, 0.0))
    page.get_by_role("button", name="0: dates").click()
    pump(page, blended)
    assert not any(blended.values)
    assert "All scales are 0" in words(page, ".lk-adapt-tuned")
    page.get_by_role("button", name="1: style").click()
    pump(page, blended)
    assert blended.scales == {"dates": 0.0, "style": 1.0}
    page.get_by_role("spinbutton", name="style: exact scale").fill("0.125")
    page.keyboard.press("Enter")
    pump(page, blended)
    assert words(page, ".lk-adapt-of >> nth=1").startswith("dates 0, style 0.125")
    page.get_by_label("Prompt").fill("another")
    page.get_by_label("Prompt").blur()
    pump(page, blended)
    assert writer.calls[-2:] == [("another", (0.0, 0.0)), ("another", (0.0, 0.125))]


def test_an_error_of_the_text_is_said(
    open_page: Open, tmp_path: Path, blended: AdapterView, writer: AdapterWriter
) -> None:
    page = as_widget(open_page, blended, tmp_path)
    writer.error = lk.Unavailable("This lab was closed; load it again.")
    page.get_by_role("button", name="0: dates").click()
    page.get_by_role("button", name="1: style").click()
    pump(page, blended)
    assert words(page, ".lk-status") == "This lab was closed; load it again."
    writer.error = None
    page.get_by_role("button", name="Write again").click()
    pump(page, blended)
    assert texts_of(page, "tuned") == "".join(TUNED)


# all three --------------------------------------------------------------------------------------------------------------


def views(hostile: bool = False) -> dict[str, Callable[[], MaskView | TrainingView | AdapterView]]:
    evil = HOSTILE[0] if hostile else "dates"

    def a_run() -> TrainingView:
        run = HandRun(20, title=evil, prompt=evil)
        run.step(20)
        run.samples += [(20, text) for text in HOSTILE] if hostile else []
        return lk.views.training(run)

    def an_adapter() -> AdapterView:
        writer = AdapterWriter(tuned=HOSTILE if hostile else TUNED)
        view = AdapterView(writer, [evil, "style"], evil, values=[1.0, 0.5], limits=(-1.0, 2.0))
        assert view.wait(SECONDS)
        return view

    return {
        "mask": lambda: lk.views.mask(hand_mask(hostile=evil)),
        "packed": lambda: lk.views.mask(hand_mask(packing=True, hostile=evil)),
        "training": a_run,
        "adapter": an_adapter,
    }


@pytest.mark.parametrize("which", list(views()))
@pytest.mark.parametrize("dark", [False, True])
def test_hostile_text_stays_text_and_a_phone_has_room(open_page: Open, tmp_path: Path, which: str, dark: bool) -> None:
    view = views(hostile=True)[which]()
    page = open_page(view.to_html(tmp_path / "hostile.html"), width=400, dark=dark)
    for live in (False, True):
        if live:
            stand_in.draw(page, view)
        settle(page)
        assert page.evaluate("window.broken") is None
        assert page.locator("main img, main script, main b, main i").count() == 0
        no_sideways(page)


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", list(views()))
def test_axe_finds_nothing(open_page: Open, tmp_path: Path, which: str, dark: bool) -> None:
    page = as_widget(open_page, views()[which](), tmp_path, dark=dark)
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []


# in a JupyterLab --------------------------------------------------------------------------------------------------------

MAKE = """
import sys
sys.path.insert(0, {support!r})
import fuzz
import labkit as lk
from tuned import DATA, HELD_OUT
lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
lk.views.mask(lk.lora.mask(lab, DATA))
"""
TRAIN = """
run = lk.lora.finetune(lab, DATA, rank=4, learning_rate=0.02, batch=2, steps=100_000, held_out=HELD_OUT, new_tokens=4,
                       measure_every=20)
lk.views.training(run)
"""
AGAIN = """
again = lk.lora.finetune(lab, DATA, rank=2, batch=4, steps=8, general=False, prompt=False)
lk.views.training(again)
"""
WAIT = "again.wait()"
USE = 'run.stop(); blend = lk.views.adapter(lab, run.adapter, "the cat", tokens=8); blend'


def test_a_training_is_watched_stopped_and_its_adapter_used(chromium: Any, tmp_path: Path) -> None:
    """Twice if need be: after a reload on a busy machine the first message to the kernel is lost now and then."""
    try:
        train_and_use(chromium, tmp_path / "first")
    except playwright.sync_api.TimeoutError:
        train_and_use(chromium, tmp_path / "second")


def train_and_use(chromium: Any, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir(parents=True)
    support = str(Path(stand_in.__file__).parent)
    cells = [nbformat.v4.new_code_cell(source) for source in (MAKE.format(support=support), TRAIN, USE, AGAIN, WAIT)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, folder / "lora.ipynb")
    with jupyterlab.server(folder, tmp_path / "jupyter") as address:
        context = chromium.new_context(viewport={"width": 1200, "height": 2600})
        page = context.new_page()
        left: list[str] = []
        page.on("request", lambda r: None if local(r.url) else left.append(r.url))
        jupyterlab.open_notebook(page, address, "lora.ipynb")
        for cell in (0, 1):
            jupyterlab.run_cell(page, cell)
            page.wait_for_function(f"i => {jupyterlab.CONTENT}.model.cells.get(i).executionCount !== null", arg=cell)
            jupyterlab.wait_for_kernel(page)
        assert page.locator(".lk-mask .lk-mask-learnt").count() > 2
        drawn = "document.querySelector('.lk-train-picture path.lk-plot-line')?.getAttribute('d')"
        points = f"() => ({drawn}?.match(/[ML]/g) ?? []).length"
        page.wait_for_function(f"({points})() > 3", timeout=60_000)
        before = page.evaluate(points)
        page.wait_for_function(f"n => ({points})() > n", arg=before)
        jupyterlab.save(page)
        page.wait_for_timeout(500)
        page.reload()
        page.wait_for_function(f"n => ({points})() > n", arg=before, timeout=60_000)
        line = ".lk-train .lk-work-progress"
        for attempt in range(
            6
        ):  # on a busy machine the view may have to say that no answer came; then again, as one would
            page.locator(".lk-train").get_by_role("button", name="Stop").press("Enter")
            try:
                stopped = f"() => document.querySelector('{line}').textContent.startsWith('stopped after')"
                page.wait_for_function(stopped, timeout=10_000)
                break
            except playwright.sync_api.TimeoutError:
                if attempt == 5:
                    raise
        assert "the adapter holds what was learnt" in words(page, line)
        jupyterlab.run_cell(page, 2)
        tuned = page.locator(".lk-adapt-tuned")
        page.wait_for_function("e => e.innerText.includes('KL')", arg=tuned.element_handle(timeout=60_000))
        assert jupyterlab.evaluate(page, "print(run.state, blend.tuned.done, max(blend.tuned.kl) > 0)").split() == [
            "stopped",
            "True",
            "True",
        ]
        page.get_by_role("button", name="0: ").first.press("Enter")
        page.wait_for_function(
            "e => e.innerText.includes('All scales are 0')", arg=tuned.element_handle(), timeout=30_000
        )
        for cell in (3, 4):  # at once, as Run All does
            jupyterlab.run_cell(page, cell)
        page.wait_for_function(f"() => {jupyterlab.CONTENT}.model.cells.get(4).executionCount !== null")
        jupyterlab.wait_for_kernel(page)
        ended = "() => document.querySelectorAll('.lk-train .lk-work-progress')[1]?.textContent.startsWith('finished: 8 of 8')"
        page.wait_for_function(ended, timeout=30_000)
        page.wait_for_timeout(500)
        jupyterlab.save(page)
        page.wait_for_timeout(1_000)
        saved = nbformat.read(folder / "lora.ipynb", as_version=4)
        kept = saved.cells[3].outputs[-1].data["text/html"]
        assert "finished: 8 of 8 steps" in kept, "the saved notebook has the picture with the last curves"
        assert "data:image/svg+xml" in kept
        assert jupyterlab.errors(page.evaluate(jupyterlab.CELLS)) == []
        assert left == []
        context.close()
