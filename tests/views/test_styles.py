"""Style sheets: no rule of a view reaches another view, or the notebook around it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import labkit

VIEWS = Path(labkit.__file__).parent / "views"
KIT = VIEWS / "kit"
SHEETS = sorted(path for path in VIEWS.rglob("*.css"))

Rule = tuple[str, list["Rule"]]  # a selector or at-rule, and what stands within it


def rules(css: str) -> list[Rule]:
    """The rules of a sheet, nested as they stand; declarations left out."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    stack: list[list[Rule]] = [[]]
    begun = ""
    for character in css:
        if character == "{":
            inner: list[Rule] = []
            stack[-1].append((" ".join(begun.split()), inner))
            stack.append(inner)
            begun = ""
        elif character == "}":
            stack.pop()
            begun = ""
        else:
            begun = "" if character == ";" else begun + character
    assert len(stack) == 1, "a brace is left open"
    return stack[0]


def unscoped(found: list[Rule], root: str) -> list[str]:
    """The selectors that may match outside the view's root, and names that all of a page share."""
    bad = []
    for name, inner in found:
        if name.startswith(("@media", "@container", "@supports")):
            bad += unscoped(inner, root)
        elif name.startswith("@keyframes"):
            bad += [] if name.split()[1].startswith(root.rpartition(".")[2]) else [name]
        elif name.startswith("@"):
            bad.append(name)
        else:
            bad += [each for each in parts(name) if not within(each, root)]
    return bad


def parts(selector: str) -> list[str]:
    """The selectors of a list, those in brackets left together."""
    return [each.strip() for each in re.split(r",(?![^(]*\))", selector)]


def within(selector: str, root: str) -> bool:
    wide = f".lk-page main:has(.{root.rpartition('.')[2]})"  # an exported page that is as wide as its one view
    return selector == wide or re.match(rf"{re.escape(root)}(?![\w-])", selector) is not None


def root_of(path: Path) -> str:
    """The class under which a sheet stands: .lk-view.lk-NAME, as its first rule for one says."""
    named = re.search(r"\.lk-view(\.lk-[\w-]+)? \{", path.read_text("utf-8"))
    assert named, f"{path.name}: no rule stands under .lk-view.lk-NAME"
    return named[0].removesuffix(" {")


@pytest.mark.parametrize("path", [p for p in SHEETS if p.name != "theme.css"], ids=lambda p: p.name)
def test_every_rule_stands_under_the_view_s_root(path: Path) -> None:
    root = root_of(path)
    assert root == ".lk-view" if path.parent == KIT else root != ".lk-view"
    assert unscoped(rules(path.read_text("utf-8")), root) == []


def test_no_two_views_share_a_root() -> None:
    roots = [root_of(path) for path in SHEETS if path.parent != KIT]
    assert len(roots) == len(set(roots))


def test_the_theme_is_for_views_and_their_pages_alone() -> None:
    for selector in [each for name, inner in rules((KIT / "theme.css").read_text("utf-8")) for each in parts(name)]:
        assert selector == "@media print" or ".lk-view" in selector or ".lk-page" in selector


@pytest.mark.parametrize(
    ("css", "bad"),
    [
        (".lk-view.lk-a { color: red; .x { color: blue; } }", []),
        (".lk-view.lk-a .x, .lk-view.lk-a:hover { color: red; }", []),
        (".x { color: red; }", [".x"]),
        (".lk-view.lk-a .x, p { color: red; }", ["p"]),
        (".lk-view.lk-a :is(p, h2) { color: red; }", []),
        (".lk-view.lk-abc { color: red; }", [".lk-view.lk-abc"]),
        ("@media print { .x { color: red; } .lk-view.lk-a { .y { color: red; } } }", [".x"]),
        ("@container (max-width: 9px) { p { color: red; } }", ["p"]),
        ("@font-face { font-family: x; }", ["@font-face"]),
        ("@keyframes turn { from { top: 0; } } @keyframes lk-a-turn { from { top: 0; } }", ["@keyframes turn"]),
        ("/* } */ .lk-view.lk-a { content: 'x'; } body { margin: 0; }", ["body"]),
    ],
)
def test_a_rule_that_could_reach_another_view_is_found(css: str, bad: list[str]) -> None:
    assert unscoped(rules(css), ".lk-view.lk-a") == bad
