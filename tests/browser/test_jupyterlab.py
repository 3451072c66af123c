"""The first notebook in a real JupyterLab: run all, then use what is live in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupyterlab
import pytest
from conftest import local

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.browser, pytest.mark.real_model]


@pytest.fixture(scope="module")
def notebook(
    chromium: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, list[dict[str, Any]], list[str]]]:
    """(page, cells after Run All, requests that left the machine). The page is tall, so that no cell is left undrawn."""
    folder, scratch = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    shutil.copy(ROOT / "notebooks" / "01_first_look.ipynb", folder)
    with jupyterlab.server(folder, scratch) as address:
        context = chromium.new_context(viewport={"width": 1200, "height": 9000})
        page = context.new_page()
        left: list[str] = []
        page.on("request", lambda r: None if local(r.url) or r.url.startswith("attachment:") else left.append(r.url))
        jupyterlab.open_notebook(page, address, "01_first_look.ipynb")
        cells = jupyterlab.run_all(page)
        yield page, cells, left
        context.close()


def test_run_all_has_no_error(notebook: tuple[Any, list[dict[str, Any]], list[str]]) -> None:
    page, cells, left = notebook
    assert jupyterlab.errors(cells) == []
    code = [cell for cell in cells if cell["type"] == "code"]
    assert [cell["count"] for cell in code] == list(range(1, len(code) + 1))
    assert page.locator(".jp-RenderedHTMLCommon img").count() >= 2
    broken = "() => [...document.querySelectorAll('.jp-RenderedMarkdown img')].filter(i => !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert left == []


def test_the_token_view_answers_to_the_pointer(notebook: tuple[Any, list[dict[str, Any]], list[str]]) -> None:
    page, _, _ = notebook
    view = page.locator(".lk-tokens-view").first
    tokens = view.locator(".lk-token")
    assert tokens.count() >= 60
    panel = view.locator(".lk-panel")
    tokens.nth(tokens.count() - 3).hover()
    first = panel.inner_text()
    tokens.nth(tokens.count() - 9).hover()
    page.wait_for_function("([e, t]) => e.innerText !== t", arg=[panel.element_handle(), first])
    assert "%" in panel.inner_text()


def test_the_keyboard_stays_in_the_view(notebook: tuple[Any, list[dict[str, Any]], list[str]]) -> None:
    """JupyterLab's own arrow keys move between cells and fold headings; inside a view they must not."""
    page, _, _ = notebook
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


def test_the_slider_changes_text_and_picture(notebook: tuple[Any, list[dict[str, Any]], list[str]]) -> None:
    page, _, _ = notebook
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


def _settled(page: Any, view: Any) -> None:
    """Wait until the sample on show is finished: the Stop button is at rest."""
    stop = view.get_by_role("button", name="Stop")
    page.wait_for_function("e => e.disabled", arg=stop.element_handle(), timeout=90_000)


def test_the_plotly_chart_is_drawn(notebook: tuple[Any, list[dict[str, Any]], list[str]]) -> None:
    page, _, _ = notebook
    assert page.locator(".js-plotly-plot .bars path").count() >= 7
