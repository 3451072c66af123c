"""The first notebook in a real JupyterLab: run all, then use what is live in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupyterlab
import nbformat
import pytest
from opened import Opened, checks, opened, whole

ROOT = Path(__file__).resolve().parents[2]
NAME = "01_first_look.ipynb"

pytestmark = [pytest.mark.browser, pytest.mark.real_model]


@pytest.fixture(scope="module")
def notebook(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The learner's version."""
    folder, scratch = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    yield from opened(chromium, ROOT / "notebooks" / NAME, folder, scratch)


def test_run_all_has_no_error(notebook: Opened) -> None:
    whole(notebook)
    assert checks(notebook) == ["Not solved yet"] * 4
    page = notebook.page
    assert page.locator(".lk-exercise").count() == 4
    assert page.locator(".lk-predict:not(.lk-compare)").count() == 3
    assert page.locator(".lk-compare-words").all_inner_texts() == ["No guess was made."] * 3


def test_a_guess_is_locked_by_keyboard_and_shown_beside_the_result(notebook: Opened) -> None:
    page = notebook.page
    asked = page.locator(".lk-predict:not(.lk-compare)").first
    asked.get_by_role("textbox").focus()
    page.keyboard.type("45 %")
    page.keyboard.press("Enter")
    asked.locator(".lk-predict-locked").wait_for()
    assert asked.locator("strong").inner_text() == "45 %"
    assert jupyterlab.evaluate(page, "print(sure.guess)").strip() == "45"
    notebook.run(notebook.place("sure.show("))
    compared = page.locator(".lk-compare").first
    page.wait_for_function("e => !e.innerText.includes('No guess')", arg=compared.element_handle())
    assert "15 percentage points too low" in page.locator(".lk-compare-words").first.inner_text()
    above, below = (compared.locator(tag).first.bounding_box() for tag in ("dt", "dd"))
    assert above["y"] + above["height"] <= below["y"] + 1, "JupyterLab's own style lays the words over the number"
    assert json.loads(notebook.progress.read_text())["predictions"]["first_look.sure"]["guess"] == 45


def test_a_curve_is_sketched_by_keyboard(notebook: Opened) -> None:
    page = notebook.page
    asked = page.locator(".lk-predict:not(.lk-compare)").nth(1)
    points = asked.get_by_role("slider")
    assert points.count() == 7
    points.first.focus()
    for _ in range(7):
        page.keyboard.press("PageUp")
        page.keyboard.press("ArrowRight")
    asked.get_by_role("button", name="Lock my guess").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("e => !e.querySelector('[role=slider]')", arg=asked.element_handle())
    assert jupyterlab.evaluate(page, "print(peak.guess)").strip() == str([0.6] * 7)
    notebook.run(notebook.place("peak.show("))
    words = page.locator(".lk-compare-words").nth(1)
    page.wait_for_function("e => e.isConnected && e.innerText.includes('on average')", arg=words.element_handle())
    assert page.locator(".lk-compare").nth(1).locator(".lk-curve-line").count() == 2


def test_a_choice_is_made_by_keyboard(notebook: Opened) -> None:
    page = notebook.page
    asked = page.locator(".lk-predict:not(.lk-compare)").nth(2)
    asked.get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    asked.locator(".lk-predict-locked").wait_for()
    assert "As you said." in notebook.run(notebook.place("first = next("))
    assert jupyterlab.evaluate(page, "print(apart.guess)").strip() == "from 1.5 on"


def test_a_hint_unfolds(notebook: Opened) -> None:
    page = notebook.page
    card = page.locator(".lk-exercise").first
    assert card.locator(".lk-exercise-hint:visible").count() == 0
    card.get_by_role("button", name="Show a hint").focus()
    page.keyboard.press("Enter")
    assert card.locator(".lk-exercise-hint:visible").count() == 1
    assert card.get_by_role("button").inner_text() == "Show the next hint"
    assert not card.locator(".lk-exercise-solution").is_visible()


def test_an_answer_is_typed_run_and_checked(notebook: Opened) -> None:
    """Wrong first, then right: the check says which, and the card follows."""
    page = notebook.page
    stub, check = notebook.place("def surprise("), notebook.place('checked = lk.check("first_look.surprise"')
    state = page.locator(".lk-exercise").first.locator(".lk-exercise-state")
    assert state.inner_text() == "not tried yet"
    notebook.write(stub, notebook.cells[stub]["source"].replace("return ...", "return probabilities.log().sum(), 1"))
    notebook.run(stub)
    assert notebook.run(check).startswith("Not yet:")
    page.wait_for_function("e => e.innerText === 'tried, not solved yet'", arg=state.element_handle())

    solved = nbformat.read(ROOT / "notebooks" / "solved" / NAME, as_version=4)
    (answer,) = [cell.source for cell in solved.cells if cell.source.startswith("def surprise(")]
    notebook.write(stub, answer)
    notebook.run(stub)
    assert notebook.run(check).startswith("Right: all 5 cases agree")
    page.wait_for_function("e => e.innerText === 'solved'", arg=state.element_handle())
    by_library, by_learner = (line.split()[-1] for line in notebook.run(check + 1).splitlines())
    assert float(by_library) == float(by_learner) > 1, (
        "the answer's perplexity by the library and by the learner's function"
    )


def test_the_token_view_answers_to_the_pointer(notebook: Opened) -> None:
    page = notebook.page
    view = page.locator(".lk-tokens-view").first
    tokens = view.locator(".lk-tl-token")
    assert tokens.count() >= 60
    panel = view.locator(".lk-panel")
    tokens.nth(tokens.count() - 3).hover()
    first = panel.inner_text()
    tokens.nth(tokens.count() - 9).hover()
    page.wait_for_function("([e, t]) => e.innerText !== t", arg=[panel.element_handle(), first])
    assert "%" in panel.inner_text()


def test_the_keyboard_stays_in_the_view(notebook: Opened) -> None:
    """JupyterLab's own arrow keys move between cells and fold headings; inside a view they must not."""
    page = notebook.page
    view = page.locator(".lk-tokens-view").first
    panel = view.locator(".lk-panel")
    view.locator(".lk-list").focus()
    page.keyboard.press("Home")
    seen = {panel.inner_text()}
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(50)
        seen.add(panel.inner_text())
    assert len(seen) == 4
    assert view.evaluate("e => e.contains(document.activeElement)")


def test_the_slider_changes_text_and_picture(notebook: Opened) -> None:
    page = notebook.page
    view = page.locator(".lk-sampling").first
    slider = view.locator("input[type=range]")
    bars = view.locator(".lk-sampling-bars").first
    text = view.locator(".lk-list").first
    _settled(page, view)
    before = (bars.inner_text(), text.inner_text())
    slider.focus()
    for _ in range(8):  # fast keys coalesce; only where it ends counts
        page.keyboard.press("ArrowRight")
    page.wait_for_function("([e, t]) => e.innerText !== t", arg=[bars.element_handle(), before[0]], timeout=10_000)
    page.wait_for_function("([e, t]) => e.innerText !== t", arg=[text.element_handle(), before[1]], timeout=60_000)
    _settled(page, view)
    assert float(slider.input_value()) > 0.7


def test_a_sample_is_stopped(notebook: Opened) -> None:
    page = notebook.page
    view = page.locator(".lk-sampling").first
    status, stop = view.locator(".lk-status").first, view.get_by_role("button", name="Stop")
    _settled(page, view)
    jupyterlab.evaluate(page, "panel._max_new_tokens = 400; print()")  # long enough that the click comes in time
    view.get_by_role("button", name="Another sample").click()
    page.wait_for_function("e => !e.disabled", arg=stop.element_handle())
    page.wait_for_function("e => e.innerText.length > 0", arg=view.locator(".lk-sampling-draft").element_handle())
    stop.click()
    page.wait_for_function("e => e.innerText.includes('stopped')", arg=status.element_handle(), timeout=20_000)
    assert 0 < view.locator(".lk-tl-token").count() < 400
    assert jupyterlab.evaluate(page, "print(len(panel.generation.ids) < 400)").strip() == "True"


def _settled(page: Any, view: Any) -> None:
    """Wait until the sample on show is finished: the Stop button is at rest."""
    stop = view.get_by_role("button", name="Stop")
    page.wait_for_function("e => e.disabled", arg=stop.element_handle(), timeout=90_000)


def test_the_plotly_chart_is_drawn(notebook: Opened) -> None:
    page = notebook.page
    assert page.locator(".js-plotly-plot .bars path").count() >= 7


def test_the_solved_version_runs_and_every_check_says_right(
    chromium: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, scratch = tmp_path_factory.mktemp("solved"), tmp_path_factory.mktemp("jupyter-solved")
    for solved in opened(chromium, ROOT / "notebooks" / "solved" / NAME, folder, scratch):
        whole(solved)
        assert checks(solved) == ["Right"] * 4
        exercises = json.loads(solved.progress.read_text())["exercises"]
        assert [each["solved"] for each in exercises.values()] == [True] * 4
        states = solved.page.locator(".lk-exercise-state")
        assert states.all_inner_texts() == ["solved"] * 4
