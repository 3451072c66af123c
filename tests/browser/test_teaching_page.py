"""Exercise cards and predictions in a real Chromium, by keyboard and by pointer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in

import labkit as lk
from labkit.teaching.exercises import all_exercises

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


@pytest.fixture(autouse=True)
def progress_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_PROGRESS", str(tmp_path / "progress.json"))


def number() -> Any:
    return lk.predict("attention.share", "How much of the cache is saved?", unit="%", low=0, high=100)


def choice() -> Any:
    return lk.predict("attention.which", "What does the head look at?", "choice", choices=("the first", "the last"))


def curve() -> Any:
    return lk.predict(
        "attention.curve", "How does the memory grow?", "curve",
        x=(512, 1024, 2048, 4096), low=1, high=1000, log=True, x_label="tokens", y_label="memory", unit="MiB",
    )  # fmt: skip


def focused(page: Any) -> str:
    return page.evaluate("document.activeElement.className")


def test_a_card_by_keyboard_alone(open_page: Open, tmp_path: Path) -> None:
    page = open_page(lk.exercise("attention.rotate").to_html(tmp_path / "card.html"))
    exercise = all_exercises()["attention.rotate"]
    assert page.locator(".lk-exercise-state").inner_text() == "not tried yet"
    assert page.locator(".lk-dot-on").count() == exercise.importance
    assert "base ** (-2 * i / d)" in page.locator(".lk-exercise-task").inner_text()
    hints, solution = page.locator(".lk-exercise-hint:visible"), page.locator(".lk-exercise-solution")
    button = page.locator(".lk-exercise button")
    for shown in range(2):
        assert (hints.count(), solution.is_visible()) == (shown, False)
        assert "solution" not in button.inner_text()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") == "BUTTON"
        page.keyboard.press("Enter")
        assert hints.count() == shown + 1
        assert "lk-exercise-hint" in focused(page), "what unfolded is read"
    assert button.inner_text() == "Show the solution"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert solution.is_visible()
    assert not button.is_visible()
    assert page.locator(".lk-exercise-solution code").inner_text() == exercise.solution


def test_a_card_follows_the_kernel(open_page: Open, tmp_path: Path) -> None:
    card = lk.exercise("attention.causal_mask")
    lk.check("attention.causal_mask", lambda T: None)
    page = open_page(card.to_html(tmp_path / "tried.html"))
    state = page.locator(".lk-exercise-state")
    assert state.inner_text() == "tried, not solved yet"
    stand_in.draw(page, card)
    assert state.inner_text() == "tried, not solved yet"
    page.locator(".lk-exercise button").click()
    assert page.evaluate("window.saved") == [{"opened": 1}]
    lk.check("attention.causal_mask", all_exercises()["attention.causal_mask"].reference)
    stand_in.receive(page, [{"state": card.state}, {}])
    assert state.inner_text() == "solved"
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0


def test_a_number_is_locked_by_keyboard(open_page: Open, tmp_path: Path) -> None:
    page = open_page(number().to_html(tmp_path / "number.html"))
    lock = page.get_by_role("button", name="Lock my guess")
    assert lock.is_disabled()
    page.keyboard.press("Tab")
    page.keyboard.type("many")
    assert "Write a number" in page.locator(".lk-predict-note").inner_text()
    page.keyboard.press("Enter")
    assert lock.is_disabled()
    page.keyboard.press("Control+a")
    page.keyboard.type("400")
    assert page.locator(".lk-predict-note").inner_text() == "At most 100 is asked for."
    page.keyboard.press("Backspace")
    assert lock.is_enabled()
    page.keyboard.press("Enter")
    assert page.locator(".lk-predict-locked").inner_text() == "Your guess 40 %"
    assert page.locator(".lk-predict input").count() == 0
    assert not lock.is_visible()


def test_a_choice_is_locked_by_keyboard_and_pointer(open_page: Open, tmp_path: Path) -> None:
    path = choice().to_html(tmp_path / "choice.html")
    page = open_page(path)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".lk-predict-locked").inner_text() == "Your guess the last"
    page = open_page(path)
    page.get_by_label("the first").check()
    page.get_by_role("button", name="Lock my guess").click()
    assert page.locator(".lk-predict-locked").inner_text() == "Your guess the first"


def test_a_curve_is_sketched_by_keyboard(open_page: Open, tmp_path: Path) -> None:
    page = open_page(curve().to_html(tmp_path / "curve.html"))
    lock = page.get_by_role("button", name="Lock my guess")
    points = page.get_by_role("slider")
    assert [p.get_attribute("aria-label") for p in points.all()][:2] == [
        "memory at tokens 512",
        "memory at tokens 1,024",
    ]
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert points.nth(0).get_attribute("aria-valuetext") == "1 MiB"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("PageUp")
    assert page.locator(".lk-predict-note").inner_text() == "3 of 4 points set"
    assert lock.is_disabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert [p.get_attribute("aria-valuetext") for p in points.all()] == ["1 MiB", "31.6 MiB", "63.1 MiB", "1,000 MiB"]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert points.count() == 0
    label = page.locator(".lk-curve svg").get_attribute("aria-label")
    assert label == "Your guess: 512: 1, 1,024: 31.6, 2,048: 63.1, 4,096: 1,000"


def test_a_curve_is_drawn_with_one_stroke(open_page: Open, tmp_path: Path) -> None:
    page = open_page(curve().to_html(tmp_path / "curve.html"))
    box = page.locator(".lk-curve svg").bounding_box()
    at = lambda x, y: (box["x"] + x / 600 * box["width"], box["y"] + y / 290 * box["height"])  # noqa: E731
    page.mouse.move(*at(62, 244))
    page.mouse.down()
    page.mouse.move(*at(578, 30))  # one jump: the points between are passed
    page.mouse.up()
    page.mouse.move(*at(62, 30))
    values = [p.get_attribute("aria-valuetext") for p in page.get_by_role("slider").all()]
    assert values == ["1 MiB", "10 MiB", "100 MiB", "1,000 MiB"]
    page.get_by_role("button", name="Lock my guess").click()
    assert page.get_by_role("slider").count() == 0


def test_a_guess_goes_to_the_kernel_and_its_silence_is_told(open_page: Open, tmp_path: Path) -> None:
    asked = number()
    page = open_page(asked.to_html(tmp_path / "kernel.html"))
    page.clock.install()
    note = page.locator(".lk-predict-note")
    stand_in.draw(page, asked)
    page.get_by_role("textbox").fill("40")
    page.get_by_role("button", name="Lock my guess").click()
    assert page.evaluate("window.saved") == [{"locked_guess": {"value": 40}}]
    (ping,) = page.evaluate("window.asked")
    assert ping["ask"] == "ping"
    assert note.inner_text() == "Locked. Run on to see what comes out."
    page.clock.run_for(4100)
    assert note.inner_text().startswith("The kernel has not taken it yet")
    stand_in.receive(page, [{"kept": True}, {}])  # busy with a cell, it came to it later
    assert note.inner_text() == "Locked. Run on to see what comes out."
    stand_in.receive(page, [{"locked_guess": {}, "kept": False}, {}])  # lk.progress(clear=...)
    assert page.get_by_role("textbox").count() == 1
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0


def test_guess_and_result_in_one_picture(open_page: Open, tmp_path: Path) -> None:
    asked = curve()
    page = open_page(asked.show([2, 8, 32, 4000]).to_html(tmp_path / "none.html"))
    assert page.locator(".lk-curve-line").count() == 1
    assert page.locator(".lk-compare-words").inner_text() == "No guess was made."
    asked.lock([2, 4, 8, 16])
    page = open_page(asked.show([2, 8, 32, 4000]).to_html(tmp_path / "both.html"))
    assert page.locator(".lk-curve-line").count() == 2
    top = page.evaluate("Math.min(...[...document.querySelectorAll('.lk-curve-mark')].map(m => m.getBBox().y))")
    assert top >= 20, "a result above the range asked for is still in the picture"
    assert "most at 4,096" in page.locator(".lk-compare-words").inner_text()


@pytest.mark.parametrize("width", [1100, 360])
def test_nothing_scrolls_sideways_and_hostile_text_stays_text(open_page: Open, tmp_path: Path, width: int) -> None:
    text = "<img src=x onerror=window.broken=1>\u202e</script>" + "x" * 300
    asked = lk.predict("x.y", text, "choice", choices=(text, "b"), unit=text)
    page = open_page(asked.to_html(tmp_path / "hostile.html"), width=width)
    page.get_by_role("radio").first.check()
    page.get_by_role("button", name="Lock my guess").click()
    assert text[:30] in page.locator(".lk-predict-locked").inner_text()
    for view in (asked, lk.exercise("attention.copying_heads"), curve(), curve().show([1, 2, 3, 4])):
        page = open_page(view.to_html(tmp_path / "wide.html"), width=width)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("window.broken") is None
        assert page.locator("main img").count() == 0


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    "which", ["card", "unfolded", "number", "choice", "curve", "locked", "compared", "compared_curve"]
)
def test_axe_finds_nothing(open_page: Open, tmp_path: Path, which: str, dark: bool) -> None:
    card = lk.exercise("attention.attention_head")
    locked, drawn = number(), curve()
    if which == "unfolded":
        card.hint(), card.hint(), card.solution()
        lk.check("attention.attention_head", all_exercises()["attention.attention_head"].reference)
    if which in {"locked", "compared", "compared_curve"}:
        locked.lock(3)
        drawn.lock([1, 2, 3, 4])
    views = {
        "card": card, "unfolded": card, "number": locked, "choice": choice(), "curve": drawn, "locked": locked,
        "compared": locked.show(87.5), "compared_curve": drawn.show([1, 4, 16, 64]),
    }  # fmt: skip
    page = open_page(views[which].to_html(tmp_path / "axe.html"), dark=dark)
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []


def test_the_sheet_that_another_view_brings_changes_nothing(open_page: Open, tmp_path: Path) -> None:
    """In a notebook each kind of view puts the kit's sheet into the page again, behind the sheets that are there."""
    kit = (Path(lk.views.__file__).parent / "kit" / "kit.css").read_text(encoding="utf-8")
    for widget, part in ((number(), ".lk-predict-question"), (lk.exercise("attention.rotate"), ".lk-exercise-facts")):
        page = open_page(widget.to_html(tmp_path / f"{part}.html"))
        margin = f"getComputedStyle(document.querySelector('{part}')).marginBottom"
        before = page.evaluate(margin)
        page.add_style_tag(content=kit)
        assert page.evaluate(margin) == before != "0px"
