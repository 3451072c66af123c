"""The circuit view in a real browser: moved, pointed at, named, knocked out, saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in
from circuits_by_hand import TOKENS, found, random_circuit
from generations import HOSTILE
from induction_model import LETTERS, induction_lab

import labkit as lk

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
PICTURE = ".lk-circuit-picture"
INK = """() => {
    const canvas = document.querySelector('.lk-circuit-canvas');
    const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let inked = 0;
    for (let i = 3; i < bytes.length; i += 4) inked += bytes[i] > 0;
    return inked;
}"""


def shown(page: Any) -> str:
    return str(page.locator(PICTURE).get_attribute("aria-description"))


def test_the_file_is_gone_through_with_keys_and_keeps_what_was_noted(open_page: Open, tmp_path: Path) -> None:
    view = lk.views.circuit(found(random_circuit()), size=8)
    first = view.table.id[0]
    view.name(first, "mover <b>")
    view.group(view.table.id[:3].tolist(), "copying")
    page = open_page(view.to_html(tmp_path / "circuit.html"))
    view.close()
    assert page.get_by_text("faithfulness 0.710 · completeness 0.400 · random 0.050").is_visible()
    assert page.get_by_text("8 of 40 parts").is_visible()
    assert "faithfulness: what is left of the answer with these alone" in page.locator(".lk-circuit-size").inner_text()
    assert "3 parts, effects together" in page.locator(".lk-circuit-groups").inner_text()
    assert page.evaluate(INK) > 500
    before = shown(page)
    page.get_by_role("slider", name="Size").press("ArrowRight")
    assert page.get_by_text("9 of 40 parts").is_visible()
    assert page.get_by_text("faithfulness 0.710 at 8, 0.875 at 16").is_visible()
    assert shown(page) != before
    # keys alone: to a part, pinned, on to another, let go
    page.locator(PICTURE).focus()
    titles = []
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
        page.keyboard.press(key)
        titles.append(page.locator(".lk-circuit-panel h2").inner_text())
    assert titles[1] == titles[3] != titles[2]
    assert page.get_by_role("button", name="Unpin").is_visible()
    page.keyboard.press("Escape")
    assert titles[1] not in page.locator(".lk-circuit-panel h2").inner_text()
    # a group leads to its first part, which has the name that was given
    page.get_by_role("button", name="copying", exact=True).click()
    assert page.locator(".lk-circuit-panel h2").inner_text().startswith("mover <b>")
    assert page.get_by_role("button", name="Knock out").is_disabled()
    assert page.get_by_text("Knocking out needs the notebook's kernel.").is_visible()
    # an edge leads to its other end
    page.locator(".lk-circuit-edges .lk-circuit-go").first.click()
    assert not page.locator(".lk-circuit-panel h2").inner_text().startswith("mover <b>")


def test_a_part_is_named_grouped_and_knocked_out_live(open_page: Open, tmp_path: Path) -> None:
    view = lk.views.circuit(random_circuit(), knock_out=lambda nodes: 2.5 - len(nodes))
    page = open_page(view.to_html(tmp_path / "circuit.html"))
    stand_in.draw(page, view)
    page.locator(PICTURE).focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    page.get_by_label("Name").fill("mine")
    page.get_by_label("Name").press("Enter")
    page.get_by_label("Group", exact=True).fill("ours")
    page.get_by_label("Group", exact=True).press("Enter")
    page.get_by_role("button", name="Knock out").click()
    stand_in.tell(page, view)
    part = view.focus
    assert (view.names, view.groups, view.knocked) == ({part: "mine"}, {part: "ours"}, [part])
    assert "2.5000 → 1.5000 (−1.00 logits)" in page.locator(".lk-circuit-outcome").inner_text()
    page.locator(PICTURE).focus()
    page.keyboard.press("Delete")
    stand_in.tell(page, view)
    assert view.knocked == []
    assert not page.locator(".lk-circuit-removal").is_visible()
    # a folded group is knocked out as a whole
    other = next(id for id in view.table.id if id != part)
    view.group([part, other], "ours")
    view.fold("ours")
    view.focus = "group ours"
    stand_in.draw(page, view)
    page.locator(PICTURE).focus()
    page.keyboard.press("Delete")
    stand_in.tell(page, view)
    assert set(view.knocked) == {part, other}
    assert "2.5000 → 0.5000" in page.locator(".lk-circuit-outcome").inner_text()
    page.keyboard.press("Delete")
    stand_in.tell(page, view)
    assert view.knocked == []
    view.close()


def test_a_group_is_folded_into_one_part_and_unfolded(open_page: Open, tmp_path: Path) -> None:
    view = lk.views.circuit(found(random_circuit()), size=8)
    ids, sums = view.table.id[:3].tolist(), view.table.effect[:3].sum()
    view.group(ids, "ours <b>")
    view.focus = ids[0]
    page = open_page(view.to_html(tmp_path / "folded.html"))
    view.close()
    title = page.locator(".lk-circuit-panel h2")
    before = int(shown(page).split()[0])
    page.locator(PICTURE).focus()
    page.keyboard.press("f")
    assert title.inner_text() == "Group “ours <b>”"
    assert int(shown(page).split()[0]) == before - 2
    assert page.locator(".lk-circuit-numbers").inner_text().replace("\n", " ").startswith(f"Effect {sums:+.3g}"[:9])
    assert page.locator(".lk-circuit-edges").first.inner_text().count("layer") == 3, "its parts are listed"
    assert page.get_by_text("group, folded").is_visible()
    # arrows lead away from it and back to it
    page.keyboard.press("ArrowDown")
    assert not title.inner_text().startswith("Group")
    page.keyboard.press("ArrowUp")
    # and with the button it is taken apart
    page.locator(".lk-circuit-groups").get_by_role("button", name="Unfold").click()
    assert int(shown(page).split()[0]) == before
    assert page.evaluate("window.broken") is None


def test_examples_come_from_the_kernel_and_stay_in_the_file(open_page: Open, tmp_path: Path) -> None:
    lab = induction_lab()
    ids = [[LETTERS.index(c) for c in text] for text in ("abcdeab", "ghijklgh", "zyxwvzy")]
    metric = LETTERS.index("c")
    pairs = [(ids[0], [LETTERS.index(c) for c in "abcdeae"])]
    circuit = lk.circuits.find(lab, pairs, lambda logits: logits[-1, metric])
    view = lk.views.circuit(circuit, lab, faithfulness=False, texts=ids)
    assert view.wait(30)
    view.focus = "head 1.2"
    page = open_page(view.to_html(tmp_path / "examples.html"))
    passages = page.locator(".lk-circuit-passages .lk-tl-passage")
    assert passages.count() == 3
    assert "first tokens are left out" in page.locator(".lk-circuit-examples").inner_text()
    passages.first.locator(".lk-tl-word").nth(2).hover()
    assert page.locator(".lk-circuit-examples > p").last.inner_text().startswith("“")
    stand_in.draw(page, view)
    stand_in.pump(page, view)
    passages.first.wait_for()
    assert passages.count() == 3
    assert "token" in passages.first.inner_text()
    view.close()
    lab.close()


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_tokens_stay_text_in_a_narrow_cell(open_page: Open, tmp_path: Path, dark: bool) -> None:
    graph = random_circuit(HOSTILE, model=HOSTILE[1], metric="".join(HOSTILE))
    view = lk.views.circuit(graph, size=40)
    view.name(view.table.id[0], HOSTILE[0])
    view.group(view.table.id[:2].tolist(), HOSTILE[1])
    view.focus = view.table.id[0]
    page = open_page(view.to_html(tmp_path / "hostile.html"), width=420, dark=dark)
    view.close()
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long token widens the page"


def test_five_hundred_parts_of_sixty_four_tokens_are_drawn(open_page: Open, tmp_path: Path) -> None:
    tokens = [TOKENS[i % len(TOKENS)] for i in range(64)]
    view = lk.views.circuit(random_circuit(tokens, layers=30, heads=9, parts=500, edges=2000), size=500)
    page = open_page(view.to_html(tmp_path / "large.html"))
    view.close()
    assert page.locator(".lk-sheet-columns bdi").count() == 64
    assert int(shown(page).split()[0]) > 500
    page.locator(PICTURE).focus()
    page.keyboard.press("End")
    scrolled = page.evaluate("(() => { const s = document.querySelector('.lk-sheet'); return s.scrollTop; })()")
    assert scrolled > 100, "what is in focus is brought into sight"


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_in_a_circuit(
    open_page: Open, violations: Callable[[Any], list[Any]], tmp_path: Path, dark: bool
) -> None:
    view = lk.views.circuit(found(random_circuit()), knock_out=lambda nodes: 2.5 - len(nodes))
    view.knock_out(view.table.id[0])
    assert view.wait(10)
    view.group(view.table.id[:2].tolist(), "ours")
    view.focus = view.table.id[0]
    page = open_page(view.to_html(tmp_path / "axe.html"), dark=dark)
    stand_in.draw(page, view)
    assert violations(page) == []
    view.close()


def test_what_there_is_none_of_is_not_counted_and_the_focus_is_drawn_around_all(
    open_page: Open, tmp_path: Path
) -> None:
    view = lk.views.circuit(random_circuit(edges=0), size=8)
    page = open_page(view.to_html(tmp_path / "parts.html"))
    view.close()
    assert "edge" not in page.locator("#labkit-view").inner_text()
    picture = page.locator(PICTURE)
    picture.focus()
    page.keyboard.press("End")
    assert "edge" not in page.locator(".lk-foot").first.inner_text()
    ring = "(element) => getComputedStyle(element).outlineStyle"
    assert picture.evaluate(ring) == "none"
    assert page.locator(".lk-sheet").evaluate(ring) == "solid", "a large picture's own edges are out of sight"
