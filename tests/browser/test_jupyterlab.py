"""The first notebook in a real JupyterLab: run all, then use what is live in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupyterlab
import nbformat
import pytest
from conftest import local

ROOT = Path(__file__).resolve().parents[2]
NAME = "01_first_look.ipynb"

pytestmark = [pytest.mark.browser, pytest.mark.real_model]


@dataclass
class Opened:
    """A notebook after Run All. left: requests that left the machine. progress: the learner's file."""

    page: Any
    cells: list[dict[str, Any]]
    progress: Path
    left: list[str] = field(default_factory=list)

    def place(self, beginning: str) -> int:
        """Which cell begins with this."""
        (found,) = [i for i, cell in enumerate(self.cells) if cell["source"].startswith(beginning)]
        return found

    def output(self, place: int) -> str:
        """A cell's outputs as text, now."""
        outputs = self.page.evaluate(jupyterlab.CELLS)[place]["outputs"]
        return "\n".join(o["text"] if "text" in o else o.get("data", {}).get("text/plain", "") for o in outputs)

    def run(self, place: int) -> str:
        """Run one cell; what came out."""
        count = f"{jupyterlab.CONTENT}.model.cells.get(i).executionCount"
        before = self.page.evaluate(f"i => {count}", place)
        jupyterlab.run_cell(self.page, place)
        changed = f"([i, before]) => {count} !== null && {count} !== before"
        self.page.wait_for_function(changed, arg=[place, before])
        jupyterlab.wait_for_kernel(self.page)
        return self.output(place)

    def write(self, place: int, source: str) -> None:
        """Type into a cell, through the model that the editor shows."""
        self.page.evaluate(
            f"([i, text]) => {jupyterlab.CONTENT}.model.cells.get(i).sharedModel.setSource(text)", [place, source]
        )


def opened(chromium: Any, source: Path, folder: Path, scratch: Path) -> Iterator[Opened]:
    """Run all of a notebook. The page is tall, so that no cell is left undrawn."""
    shutil.copy(source, folder)
    progress = scratch / "progress.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_PROGRESS", str(progress))
        patch.setenv(
            "OMP_NUM_THREADS", "1"
        )  # on a busy machine, threads that wait for one another are ten times slower
        with jupyterlab.server(folder, scratch) as address:
            context = chromium.new_context(viewport={"width": 1200, "height": 18500})
            page = context.new_page()
            left: list[str] = []
            page.on(
                "request", lambda r: None if local(r.url) or r.url.startswith("attachment:") else left.append(r.url)
            )
            jupyterlab.open_notebook(page, address, NAME)
            yield Opened(page, jupyterlab.run_all(page), progress, left)
            context.close()


@pytest.fixture(scope="module")
def notebook(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The learner's version."""
    folder, scratch = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    yield from opened(chromium, ROOT / "notebooks" / NAME, folder, scratch)


def whole(notebook: Opened) -> None:
    """Every cell ran, once and in order, without an error; every picture is there; nothing was fetched."""
    assert jupyterlab.errors(notebook.cells) == []
    code = [cell for cell in notebook.cells if cell["type"] == "code"]
    assert [cell["count"] for cell in code] == list(range(1, len(code) + 1))
    assert notebook.page.locator(".jp-RenderedHTMLCommon img").count() >= 2
    broken = "() => [...document.querySelectorAll('.jp-RenderedMarkdown img')].filter(i => !i.naturalWidth).length"
    assert notebook.page.evaluate(broken) == 0
    assert notebook.left == []


def checks(notebook: Opened) -> list[str]:
    """What the checks said, the first line of each."""
    found = [i for i, cell in enumerate(notebook.cells) if "lk.check(" in cell["source"] and cell["type"] == "code"]
    return [notebook.output(i).splitlines()[0].split(":")[0] for i in found]


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
    tokens = view.locator(".lk-token")
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
    status, stop = view.locator(".lk-sampling-status").first, view.get_by_role("button", name="Stop")
    _settled(page, view)
    jupyterlab.evaluate(page, "panel._max_new_tokens = 400; print()")  # long enough that the click comes in time
    view.get_by_role("button", name="Another sample").click()
    page.wait_for_function("e => !e.disabled", arg=stop.element_handle())
    page.wait_for_function("e => e.innerText.length > 0", arg=view.locator(".lk-sampling-draft").element_handle())
    stop.click()
    page.wait_for_function("e => e.innerText.includes('stopped')", arg=status.element_handle(), timeout=20_000)
    assert 0 < view.locator(".lk-token").count() < 400
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
