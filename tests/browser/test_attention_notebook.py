"""The attention notebook in a real JupyterLab: run all, then use what is live in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupyterlab
import pytest
from opened import Opened, checks, opened, whole

ROOT = Path(__file__).resolve().parents[2]
NAME = "02_attention.ipynb"
EXERCISES, PREDICTIONS, VIEWS, HEIGHT = 8, 5, 5, 30_000

pytestmark = [pytest.mark.browser, pytest.mark.real_model]


@pytest.fixture(scope="module")
def notebook(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The learner's version."""
    folder, scratch = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    yield from opened(chromium, ROOT / "notebooks" / NAME, folder, scratch, height=HEIGHT)


def test_run_all_has_no_error(notebook: Opened) -> None:
    whole(notebook, pictures=1)
    assert checks(notebook) == ["Not solved yet"] * EXERCISES
    page = notebook.page
    assert page.locator(".lk-exercise").count() == EXERCISES
    assert page.locator(".lk-predict:not(.lk-compare)").count() == PREDICTIONS
    assert page.locator(".lk-attention").count() == VIEWS
    assert page.locator(".lk-compare-words").all_inner_texts() == ["No guess was made."] * PREDICTIONS


def test_every_map_is_complete(notebook: Opened) -> None:
    for view in notebook.page.locator(".lk-attention").all():
        notebook.page.wait_for_function(
            "e => !e.innerText.includes('Computing')", arg=view.locator(".lk-att-progress").element_handle()
        )
        assert view.locator(".lk-att-maplegend").inner_text().startswith("Bar:")


def test_guesses_are_locked_and_shown_beside_the_results(notebook: Opened) -> None:
    """A number, a choice and a curve, by keyboard."""
    page = notebook.page
    asked = page.locator(".lk-predict:not(.lk-compare)")
    for number, text, beginning in ((0, "20", "measures = lk"), (1, "5", "loss = random_trace")):
        asked.nth(number).get_by_role("textbox").focus()
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        asked.nth(number).locator(".lk-predict-locked").wait_for()
        assert f"guess  {text}" in " ".join(notebook.run(notebook.place(beginning)).split("\n")) or text in (
            page.locator(".lk-compare").nth(number).inner_text()
        )
    for number in (2, 3):
        asked.nth(number).get_by_role("radio").first.focus()
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        asked.nth(number).locator(".lk-predict-locked").wait_for()
    curve = asked.nth(4)
    points = curve.get_by_role("slider")
    points.first.focus()
    for _ in range(points.count()):
        page.keyboard.press("PageUp")
        page.keyboard.press("ArrowRight")
    curve.get_by_role("button", name="Lock my guess").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("e => !e.querySelector('[role=slider]')", arg=curve.element_handle())
    notebook.run(notebook.place("frequencies = base"))
    assert page.locator(".lk-compare").nth(4).locator(".lk-curve-line").count() == 2
    guesses = json.loads(notebook.progress.read_text())["predictions"]
    assert guesses["attention.sink"]["guess"] == 20
    assert set(guesses) == {
        "attention.sink", "attention.copying_loss", "attention.knockout", "attention.patching", "attention.rotary_decay",
    }  # fmt: skip


def test_hints_unfold(notebook: Opened) -> None:
    for card in notebook.page.locator(".lk-exercise").all():
        card.get_by_role("button", name="Show a hint").click()
        assert card.locator(".lk-exercise-hint:visible").count() == 1


def test_a_head_is_opened_from_the_map_and_a_token_in_the_text(notebook: Opened) -> None:
    page = notebook.page
    view = page.locator(".lk-attention").nth(1)
    view.locator(".lk-att-mapgrid").focus()
    for key in ("Home", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    title = view.locator(".lk-att-title").first
    page.wait_for_function("e => e.innerText.includes('head 0')", arg=title.element_handle())
    view.locator(".lk-att-tokens .lk-tl-token").nth(5).click()
    foot = view.locator(".lk-att-textfoot")
    page.wait_for_function("e => e.innerText.includes('looks most at')", arg=foot.element_handle())
    view.get_by_label("Set the first token aside").check()
    notes = view.locator(".lk-att-reading").first
    page.wait_for_function("e => e.innerText.includes('set aside')", arg=notes.element_handle())


def test_a_head_is_taken_away_at_a_click(notebook: Opened) -> None:
    page = notebook.page
    view = page.locator(".lk-attention").nth(3)
    view.get_by_role("button", name="Ablate this head").click()
    effect = view.locator(".lk-att-ablation")
    page.wait_for_function("e => e.innerText.includes('nats a token')", arg=effect.element_handle(), timeout=60_000)
    assert effect.locator("tr").count() > 3


def test_the_panel_is_stopped_and_keeps_what_is_done(notebook: Opened) -> None:
    page = notebook.page
    notebook.run(notebook.place("ids = lk.attention.repeated(lab, length=50, seed=0)\n\n\ndef copying"))
    panel = page.locator(".lk-live").last
    stop = panel.get_by_role("button", name="Stop")
    stop.wait_for()
    page.wait_for_function(
        "e => !/\\b0 of 27/.test(e.innerText) && / of 27/.test(e.innerText)", arg=panel.element_handle()
    )
    stop.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("e => /stopped|finished/.test(e.innerText)", arg=panel.element_handle(), timeout=30_000)
    done = int(jupyterlab.evaluate(page, "print(len(panel.events))").strip())
    assert 0 < done <= 27
    assert jupyterlab.evaluate(page, "print(panel.state)").strip() in ("stopped", "finished")
