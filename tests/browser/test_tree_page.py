"""Branching, and the tree of branches, in a real Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in
from branching import ROOT, branch
from generations import HOSTILE, generation, of_tokens

from labkit.views.tree_view import Node, TreeView

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
Violations = Callable[[Any], list[Any]]


def grown() -> TreeView:
    """Three texts: the first, one that took another second token, and one of that with another first token."""
    view = TreeView([Node(generation(ROOT))], branch=branch)
    view.branch(1, " dog")
    assert view.wait(10)
    view.branch(0, "A", of=1)
    assert view.wait(10)
    return view


def text(page: Any) -> str:
    return page.locator(".lk-list").inner_text()


def test_a_click_on_an_alternative_branches_the_text_there(open_page: Open, tmp_path: Path) -> None:
    view = TreeView([Node(generation(ROOT))], branch=branch)
    page = open_page(view.to_html(tmp_path / "tree.html"))
    assert page.locator(".lk-bar-button").count() == 0, "a file can't write"
    stand_in.draw(page, view)
    page.locator(".lk-list .lk-tl-token").nth(1).click()
    page.get_by_role("button", name="Branch here with dog").click()
    stand_in.tell(page, view)
    assert text(page) == "The dog on"
    assert page.get_by_role("treeitem").count() == 2
    assert page.get_by_role("treeitem", selected=True).inner_text().startswith("“·dog”")
    assert "5 tokens taken from the cache, which saved about 120 ms" in page.locator(".lk-tree-pane").inner_text()
    # with the keyboard alone: back to the first text, hold its last token, branch
    page.get_by_role("tree").focus()
    page.keyboard.press("ArrowUp")
    stand_in.tell(page, view)
    assert text(page) == "The cat sat"
    page.locator(".lk-list").focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    stand_in.tell(page, view)
    assert text(page) == "The cat ran on"
    view.close()


@pytest.mark.parametrize("width", [420, 860, 1250])
def test_a_token_s_facts_stand_beside_its_alternatives_or_below_them(
    open_page: Open, tmp_path: Path, width: int
) -> None:
    page = open_page(TreeView([Node(generation(ROOT))], branch=branch).to_html(tmp_path / "tree.html"), width=width)
    rows, facts = (page.locator(part).first.bounding_box() for part in (".lk-panel .lk-bars", ".lk-panel dl"))
    assert facts["x"] >= rows["x"] + rows["width"] or facts["y"] >= rows["y"] + rows["height"]
    number = page.locator(".lk-panel .lk-bar-number").first.bounding_box()
    assert number["x"] + number["width"] <= rows["x"] + rows["width"], "the row is not wider than its place"


def test_a_branch_is_named_and_set_beside_another(open_page: Open, tmp_path: Path) -> None:
    view = grown()
    page = open_page(view.to_html(tmp_path / "tree.html"))
    stand_in.draw(page, view)
    page.get_by_label("Name").fill("bold")
    page.get_by_label("Name").press("Enter")
    stand_in.tell(page, view)
    assert page.get_by_role("treeitem", name="bold").count() == 1
    page.get_by_label("Beside it").select_option("0")
    stand_in.tell(page, view)
    assert page.get_by_text("They part at the first token.").is_visible()
    assert page.locator(".lk-tree-one h2").inner_text() == "bold"
    assert page.locator(".lk-tree-two mark").count() == 3
    page.get_by_role("button", name="Save").click()
    with page.expect_download() as got:
        stand_in.pump(page, view)
    assert list(json.loads(Path(got.value.path()).read_text("utf-8"))["paths"]) == ["text", "branch 1", "bold"]
    view.close()


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (420, True)])
def test_the_file_is_walked_without_a_kernel(open_page: Open, tmp_path: Path, width: int, dark: bool) -> None:
    view = grown()
    view.shown = 0
    page = open_page(view.to_html(tmp_path / "tree.html"), width=width, dark=dark)
    view.close()
    page.get_by_role("tree").focus()
    read = [text(page)]
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "Home"):
        page.keyboard.press(key)
        read.append(text(page))
    assert read == ["The cat sat", "The dog on", "A on", "The dog on", "The cat sat"]
    levels = page.evaluate("[...document.querySelectorAll('[role=treeitem]')].map(e => e.ariaLevel)")
    assert levels == ["1", "2", "3"]
    page.locator(".lk-list .lk-tl-token").nth(1).hover()
    assert page.locator(".lk-panel-title .lk-label").inner_text() == "·cat"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for control in (page.get_by_label("Name"), page.get_by_role("button", name="Save")):
        assert not control.is_visible()


def test_hostile_branches_stay_text(open_page: Open, tmp_path: Path) -> None:
    run = of_tokens(HOSTILE[:20])
    nodes = [Node(run), *(Node(run, 0, i, name) for i, name in enumerate(HOSTILE[:20]))]
    view = TreeView(nodes)
    view.compared = 1
    page = open_page(view.to_html(tmp_path / "hostile.html"), width=420)
    assert page.get_by_role("treeitem").count() == 21
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main svg, main script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long token widens the page"
    view.close()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_in_a_tree(open_page: Open, violations: Violations, tmp_path: Path, dark: bool) -> None:
    view = grown()
    view.compared = 0
    page = open_page(view.to_html(tmp_path / "axe.html"), dark=dark)
    stand_in.draw(page, view)
    page.locator(".lk-list .lk-tl-token").nth(1).click()
    assert violations(page) == []
    view.close()
