"""The explorer in a real Chromium: controls ask the kernel for another plan, the bar, the roofline and the words follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in

import labkit as lk
from labkit.views.explorer_view import ExplorerView

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


@pytest.fixture
def explorer() -> Iterator[ExplorerView]:
    view = lk.views.explorer("llama-2-7b", hardware="RTX4090-24GB", precision="bfloat16", tokens=2048, batch=1)
    yield view
    view.close()


def widget(open_page: Open, view: ExplorerView, tmp_path: Path, **settings: Any) -> Any:
    page = open_page(view.to_html(tmp_path / "page.html"), **settings)
    stand_in.draw(page, view)
    page.locator(".lk-explorer-roofline circle").first.wait_for()
    return page


def follow(page: Any, view: ExplorerView) -> None:
    stand_in.tell(page, view)
    assert view.wait(20)
    stand_in.receive(page, stand_in.state(view))


def test_what_is_chosen_is_planned_and_drawn(open_page: Open, explorer: ExplorerView, tmp_path: Path) -> None:
    page = widget(open_page, explorer, tmp_path)
    assert page.get_by_text("It fits.").count() == 1
    assert page.locator(".lk-explorer-bytes rect").count() == len(explorer.plan.table)
    page.get_by_label("Model").select_option("llama-2-70b")
    follow(page, explorer)
    assert explorer.plan.model == "llama-2-70b"
    page.get_by_text("It does not fit.").wait_for()
    page.get_by_text("cheapest change").first.wait_for()
    page.get_by_label("Weights").select_option("int4")
    follow(page, explorer)
    page.get_by_label("Cards").select_option("4")
    follow(page, explorer)
    page.get_by_text("It fits.").wait_for()
    assert (explorer.plan.hardware.name, explorer.plan.precision) == ("4xRTX4090-24GB", "int4")
    assert page.locator(".lk-explorer-parts tr").count() == 1 + len(explorer.plan.table)


def test_sliders_are_moved_by_keys_and_the_point_moves(open_page: Open, explorer: ExplorerView, tmp_path: Path) -> None:
    page = widget(open_page, explorer, tmp_path)
    token = page.locator(".lk-explorer-roofline circle").nth(1)
    before = float(token.get_attribute("cx"))
    page.get_by_label("Sequences").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    follow(page, explorer)
    assert explorer.settings["batch"] == 8
    page.wait_for_function(
        f"Number(document.querySelectorAll('.lk-explorer-roofline circle')[1].getAttribute('cx')) > {before}"
    )
    assert "operations a byte" in page.locator(".lk-explorer-roofline").get_attribute("aria-label")


def test_the_file_shows_what_was_chosen_and_fits_a_narrow_page(
    open_page: Open, explorer: ExplorerView, tmp_path: Path
) -> None:
    page = open_page(explorer.to_html(tmp_path / "file.html"), width=420)
    assert page.locator(".lk-explorer-bar").is_hidden()
    assert page.get_by_text("It fits.").count() == 1
    assert page.locator(".lk-explorer-roofline circle").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_the_widget_can_be_read_by_all(
    open_page: Open, explorer: ExplorerView, tmp_path: Path, violations: Callable[[Any], list[Any]], dark: bool
) -> None:
    assert violations(widget(open_page, explorer, tmp_path, dark=dark)) == []
