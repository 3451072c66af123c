"""The steering view in a real Chromium: as an exported page, and as a widget on a stand-in for the notebook's model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in
from generations import HOSTILE, LONE_SURROGATES
from steered import FEATURES, PLAIN, PROMPT, SECONDS, STORMY, Writer

from labkit.errors import Unavailable
from labkit.views.steering_view import Steered, SteeringView, steering

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
BROKE = "The model broke: the same token 12 times in a row."


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def view(writer: Writer) -> Iterator[SteeringView]:
    made = steering(writer, FEATURES, prompt=PROMPT)
    assert made.wait(SECONDS)
    yield made
    made.close()
    assert made.wait(SECONDS)


def settle(page: Any) -> None:
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def page_of(open_page: Open, view: SteeringView, tmp_path: Path, **settings: Any) -> Any:
    return open_page(view.to_html(tmp_path / "page.html"), **settings)


def as_widget(open_page: Open, view: SteeringView, tmp_path: Path, **settings: Any) -> Any:
    page = page_of(open_page, view, tmp_path, **settings)
    stand_in.draw(page, view)
    return page


def receive(page: Any, view: SteeringView) -> None:
    stand_in.receive(page, stand_in.state(view))
    settle(page)


def pump(page: Any, view: SteeringView, *, wait: bool = True) -> None:
    """Bring what the page set and asked for to the real view and its answers back, as a kernel would."""
    stand_in.pump(page, view)
    if wait:
        assert view.wait(SECONDS)
    receive(page, view)


def text(page: Any, which: str) -> str:
    return page.locator(f".lk-steer-{which} .lk-prose").text_content()


def underlined(page: Any, which: str) -> str:
    return "".join(page.locator(f".lk-steer-{which} mark").all_text_contents())


def words(page: Any, selector: str) -> str:
    return page.locator(selector).inner_text()


def no_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def slider(page: Any, name: str = "storms") -> Any:
    return page.get_by_role("slider", name=name, exact=True)


def exact(page: Any, name: str = "storms") -> Any:
    return page.get_by_role("spinbutton", name=f"{name}: exact strength")


# as a widget --------------------------------------------------------------------------------------------------------


def test_a_slider_moved_by_keys_writes_the_steered_text(
    open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer
) -> None:
    page = as_widget(open_page, view, tmp_path)
    assert text(page, "unsteered") == "".join(PLAIN)
    assert not page.locator(".lk-steer-steered .lk-prose").is_visible()
    assert "All strengths are 0: move a slider" in words(page, ".lk-steer-steered .lk-steer-empty")
    assert slider(page).get_attribute("aria-valuetext") == "0, off"
    slider(page).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert exact(page).input_value() == "1.25", "a step is a 20th of its highest activation"
    page.keyboard.press("End")
    pump(page, view)
    assert view.strengths == {1234: 25.0, "calm": 0.0}
    assert slider(page).get_attribute("aria-valuetext") == "+25, +2 × its highest"
    assert text(page, "steered") == "".join(STORMY)
    assert underlined(page, "steered") == "".join(STORMY[3:])
    assert underlined(page, "unsteered") == "".join(PLAIN[3:])
    assert words(page, ".lk-steer-parted") == (
        "They part after 3 tokens (underlined from there): “·on” unsteered, “·in” steered."
    )
    assert words(page, ".lk-steer-steered .lk-steer-of") == "storms +25"
    assert words(page, ".lk-status") == "steered text: 9 tokens"
    assert [s for _, s in writer.calls] == [{1234: 0.0, "calm": 0.0}, {1234: 25.0, "calm": 0.0}]
    page.keyboard.press("Home")
    pump(page, view)
    assert view.strengths[1234] == -25


def test_every_position_of_a_slider_is_a_strength_that_python_takes(
    open_page: Open, tmp_path: Path, writer: Writer
) -> None:
    features = [("a", "a", 13.70833), ("b", "b", 1e-7), ("c", "c", 7e9), ("d", "d", 1 / 3)]
    view = steering(writer, features, prompt=PROMPT, limit=2.5)
    page = as_widget(open_page, view, tmp_path)
    moved = page.evaluate(
        """() => [...document.querySelectorAll('.lk-rail')].map((s) => Array.from({ length: 81 }, (_, i) => {
            s.value = String(i - 40);
            s.dispatchEvent(new Event('input'));
            const typed = s.closest('.lk-rail-row').querySelector('input[type=number]');
            return Number(s.value) === i - 40 ? Number(typed.value) : null;
        }))"""
    )
    for row, (key, _, typical) in zip(moved, features, strict=True):
        assert row == pytest.approx([2.5 * typical * i / 40 for i in range(-40, 41)], rel=1e-3)
        assert row[40] == 0
        view.strengths = {key: row[0]}
        view.strengths = {key: row[-1]}
    view.close()


def test_the_exact_number_can_be_typed(open_page: Open, tmp_path: Path, view: SteeringView) -> None:
    page = as_widget(open_page, view, tmp_path)
    exact(page).fill("-3.14159")
    page.keyboard.press("Enter")
    pump(page, view)
    assert view.strengths[1234] == -3.14159
    assert slider(page).input_value() == "-5"
    assert exact(page).input_value() == "-3.14159"
    assert words(page, ".lk-rail-beside >> nth=0") == "−0.251 × its highest"
    exact(page).fill("26")
    page.keyboard.press("Enter")
    assert words(page, ".lk-rail-hint >> nth=0") == "Give a number from −25 to +25."
    assert exact(page).get_attribute("aria-invalid") == "true"
    assert page.evaluate("window.saved.length") == 0
    exact(page).fill("")
    page.keyboard.press("Enter")
    assert page.evaluate("window.saved.length") == 0
    slider(page).press("ArrowLeft")
    assert not page.locator(".lk-rail-hint").first.is_visible()
    assert exact(page).get_attribute("aria-invalid") == "false"
    pump(page, view)
    assert view.strengths[1234] == -3.75


def test_back_to_0_for_one_and_for_all(open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer) -> None:
    view.strengths = {1234: 5, "calm": 2}
    assert view.wait(SECONDS)
    page = as_widget(open_page, view, tmp_path)
    page.get_by_role("button", name="Back to 0: storms").press("Enter")
    assert page.evaluate("document.activeElement.type") == "range", "the focus is not lost"
    pump(page, view)
    assert view.strengths == {1234: 0.0, "calm": 2.0}
    assert page.get_by_role("button", name="Back to 0: storms").is_disabled()
    page.get_by_role("button", name="All back to 0").press("Enter")
    assert page.evaluate("document.activeElement.type") == "range"
    calls = len(writer.calls)
    pump(page, view)
    assert view.strengths == {1234: 0.0, "calm": 0.0}
    assert len(writer.calls) == calls, "nothing is written anew"
    assert not page.locator(".lk-steer-steered .lk-prose").is_visible()
    assert page.get_by_role("button", name="All back to 0").is_disabled()


def test_a_text_streams_and_stops(open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer) -> None:
    page = as_widget(open_page, view, tmp_path)
    writer.hold = True
    slider(page).press("ArrowRight")
    pump(page, view, wait=False)
    assert words(page, ".lk-status") == "waiting …"
    assert page.locator(".lk-steer-panes").get_attribute("aria-busy") == "true"
    for _ in range(4):
        writer.let.release()
    for _ in range(100):
        if view.steered is not None and len(view.steered.tokens) == 4:
            break
        page.wait_for_timeout(30)
    view._publish()
    view._pushed.say("running", "writing the steered text … 4 tokens")  # a picture now, not a tenth of a second later
    receive(page, view)
    assert text(page, "steered") == "".join(STORMY[:4])
    assert words(page, ".lk-status") == "writing the steered text … 4 tokens"
    assert "not known yet" in words(page, ".lk-steer-steered .lk-steer-said")
    heard = page.locator(".lk-spoken[role=status]")
    assert heard.text_content() == "writing the steered text"
    page.wait_for_timeout(1100)
    assert words(page, ".lk-steer-bar .lk-muted >> nth=-1").endswith(" s")
    page.get_by_role("button", name="Stop").press("Enter")
    pump(page, view)
    assert words(page, ".lk-status") == "stopped after 4 tokens"
    assert heard.text_content() == "stopped after 4 tokens"
    assert words(page, ".lk-steer-steered .lk-steer-empty") == "Stopped here."
    writer.hold = False
    page.get_by_role("button", name="Write again").press("Enter")
    pump(page, view)
    assert text(page, "steered") == "".join(STORMY)
    assert page.get_by_role("button", name="Stop").is_disabled()
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0


def test_what_is_selected_stays_while_the_other_text_grows(
    open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer
) -> None:
    page = as_widget(open_page, view, tmp_path)
    page.locator(".lk-steer-unsteered .lk-paired-token").nth(1).evaluate("e => getSelection().selectAllChildren(e)")
    assert page.evaluate("getSelection().toString()") == " cat"
    writer.stormy = PLAIN[:3]
    slider(page).evaluate("s => { s.value = '8'; s.dispatchEvent(new Event('input')); }")
    pump(page, view)
    assert text(page, "steered") == "".join(PLAIN[:3])
    assert "They part after 3 tokens (underlined from there): “·on” unsteered, the end steered." in words(
        page, ".lk-steer-parted"
    )
    writer.stormy = PLAIN
    slider(page).evaluate("s => { s.value = '9'; s.dispatchEvent(new Event('input')); }")
    pump(page, view)
    assert words(page, ".lk-steer-parted") == "Both texts are the same: 7 tokens."


def test_the_prompt_can_be_typed_over(open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer) -> None:
    page = as_widget(open_page, view, tmp_path)
    box = page.get_by_label("Prompt")
    assert box.input_value() == PROMPT
    writer.plain = (" Other", " words")
    box.fill("There")
    assert page.evaluate("window.saved.length") == 0, "somebody who types on is waited for"
    page.wait_for_timeout(900)
    pump(page, view)
    assert writer.calls[-1][0] == "There"
    assert text(page, "unsteered") == " Other words"
    box.fill("")
    box.blur()
    pump(page, view)
    assert words(page, ".lk-status") == "The prompt is empty; write something that the model can go on from."
    assert text(page, "unsteered") == " Other words"


def test_an_error_is_its_sentence_and_the_old_text_stays(
    open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer
) -> None:
    view.strengths = {1234: 5}
    assert view.wait(SECONDS)
    page = as_widget(open_page, view, tmp_path)
    writer.error = Unavailable("The <b>model</b> has left; load it again.")
    slider(page).press("End")
    pump(page, view)
    assert words(page, ".lk-status") == "The <b>model</b> has left; load it again."
    assert text(page, "steered") == "".join(STORMY)
    assert words(page, ".lk-steer-steered .lk-steer-of") == "storms +5 · from before", (
        "it says what it was written with"
    )
    assert page.locator(".lk-steer-steered.lk-steer-old").count() == 1
    assert slider(page).input_value() == "40"


def test_the_bars_stand_on_one_scale(open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer) -> None:
    writer.note = BROKE
    view.strengths = {1234: 5}
    assert view.wait(SECONDS)
    page = as_widget(open_page, view, tmp_path)
    tracks = [page.locator(f".lk-steer-{which} .lk-track").bounding_box() for which in ("unsteered", "steered")]
    fills = [page.locator(f".lk-steer-{which} .lk-track-fill").bounding_box() for which in ("unsteered", "steered")]
    assert tracks[0]["y"] == tracks[1]["y"]
    assert tracks[0]["width"] == pytest.approx(tracks[1]["width"], abs=0.1)
    assert [f["width"] / t["width"] for f, t in zip(fills, tracks, strict=True)] == pytest.approx([0.5, 3.25 / 4], 0.02)
    mark = page.locator(".lk-steer-steered .lk-track-mark").bounding_box()
    assert mark["x"] + 1 == pytest.approx(tracks[1]["x"] + tracks[1]["width"] / 2, abs=1.5)
    assert words(page, ".lk-steer-steered .lk-steer-said") == (
        "Mean loss 3.250 nats per token, 1.250 more than unsteered"
    )
    assert page.locator(".lk-steer-loss .lk-steer-ends").all_inner_texts() == ["0\n4", "0\n4"]
    assert words(page, ".lk-steer-steered .lk-steer-note") == BROKE
    assert not page.locator(".lk-steer-unsteered .lk-steer-note").is_visible()


def test_a_kernel_that_does_not_answer_is_told(open_page: Open, tmp_path: Path, view: SteeringView) -> None:
    page = as_widget(open_page, view, tmp_path)
    slider(page).press("ArrowRight")
    page.wait_for_timeout(4200)
    assert words(page, ".lk-status").startswith("No answer from the kernel")
    pump(page, view)
    assert words(page, ".lk-status") == "steered text: 9 tokens"


def test_a_page_loaded_anew_is_where_it_was(open_page: Open, tmp_path: Path, view: SteeringView) -> None:
    view.strengths = {"calm": -3}
    assert view.wait(SECONDS)
    page = as_widget(open_page, view, tmp_path)
    assert slider(page, "quiet seas").input_value() == "-15"
    assert exact(page, "quiet seas").input_value() == "-3"
    view.strengths = {}
    assert view.wait(SECONDS)
    receive(page, view)
    assert slider(page, "quiet seas").input_value() == "0"


def test_the_keyboard_alone_reaches_everything(open_page: Open, tmp_path: Path, view: SteeringView) -> None:
    view.strengths = {1234: 5, "calm": 2}
    assert view.wait(SECONDS)
    page = as_widget(open_page, view, tmp_path)
    stops = []
    for _ in range(8):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.type + ' ' + (document.activeElement.textContent || '')"))
    row = ["range ", "number ", "button Back to 0"]
    assert stops == ["textarea ", *row, *row, "button All back to 0"]


# as a file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1100, 420])
def test_a_file_shows_the_last_state(
    open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer, dark: bool, width: int
) -> None:
    writer.note = BROKE
    view.strengths = {1234: 13.75, "calm": -3}
    assert view.wait(SECONDS)
    page = page_of(open_page, view, tmp_path, width=width, dark=dark)
    assert page.get_by_role("slider").count() == page.get_by_role("button").count() == 0
    assert not page.get_by_label("Prompt").is_visible()
    assert words(page, ".lk-steer-absent") == (
        "The sliders need the notebook that wrote the texts; this file shows them as they were."
    )
    assert words(page, ".lk-steer-prompt") == f"Going on from {PROMPT}"
    assert (text(page, "unsteered"), text(page, "steered")) == ("".join(PLAIN), "".join(STORMY))
    assert words(page, ".lk-steer-steered .lk-steer-of") == (
        "storms +13.75 (+1.1 × its highest), quiet seas −3 (−0.75 × its highest)"
    )
    assert words(page, ".lk-steer-note >> nth=1") == BROKE
    paper = page.evaluate("getComputedStyle(document.querySelector('.lk-view')).backgroundColor")
    assert (paper == "rgb(21, 24, 27)") == dark
    left, right = (page.locator(f".lk-steer-{which}").bounding_box() for which in ("unsteered", "steered"))
    if width == 420:
        assert right["y"] >= left["y"] + left["height"], "stacked"
    else:
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
    no_sideways(page)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1100, 420])
def test_the_widget_fits(open_page: Open, tmp_path: Path, writer: Writer, dark: bool, width: int) -> None:
    labels = ["storms", "words for being cold, and for what is done against it in winter", "x" * 90, "a", "b", "c"]
    view = steering(
        writer,
        [(10**9 + i, label, 10.0**i) for i, label in enumerate(labels)],
        prompt=PROMPT * 30,
        unit="residual norms",
    )
    view.strengths = {10**9: 1}
    assert view.wait(SECONDS)
    page = as_widget(open_page, view, tmp_path, width=width, dark=dark)
    no_sideways(page)
    assert page.evaluate(
        """() => [...document.querySelectorAll('.lk-rail-row')].every((row) => {
            const box = row.getBoundingClientRect();
            return [...row.querySelectorAll('*')].every((e) => e.hidden || e.getBoundingClientRect().right <= box.right + 1);
        })"""
    ), "a part of a row sticks out"
    view.close()


def test_a_file_of_a_text_under_way_says_so(
    open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer
) -> None:
    writer.hold, writer.made = True, threading.Semaphore(0)
    view.strengths = {1234: 4}
    for _ in range(4):
        writer.let.release()
        assert writer.made.acquire(timeout=SECONDS)
    page = page_of(open_page, view, tmp_path)
    assert words(page, ".lk-steer-steered .lk-steer-empty") == "When this file was written, the text was not finished."


def test_a_file_of_nothing_yet_says_so(open_page: Open, tmp_path: Path, writer: Writer) -> None:
    view = steering(writer, FEATURES, prompt=PROMPT)
    view.stop()
    assert view.wait(SECONDS)
    page = page_of(open_page, view, tmp_path)
    assert words(page, ".lk-steer-unsteered .lk-steer-empty") == "Nothing was written."
    assert "All strengths were 0" in words(page, ".lk-steer-steered .lk-steer-empty")
    view.close()


def test_text_is_there_without_scripts(chromium: Any, tmp_path: Path, view: SteeringView) -> None:
    view.strengths = {1234: 5}
    assert view.wait(SECONDS)
    path = view.to_html(tmp_path / "static.html")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    body = page.locator("main").inner_text()
    context.close()
    assert "".join(STORMY).strip() in body
    assert "steered: storms +5" in body


def hostile(empty: bool = False) -> SteeringView:
    tokens = () if empty else (*HOSTILE, *LONE_SURROGATES)

    def run(_prompt: str, strengths: dict[Any, float], _stop: Any) -> Iterator[Steered]:
        pushed = any(strengths.values())
        yield Steered(tokens if pushed else tokens[::-1], float("inf") if pushed else None, True, HOSTILE[1] * pushed)

    features = [
        (text or "empty", text, 3.0) for text in (HOSTILE[0], HOSTILE[1], "\u202eesrever", "x" * 10_000, "עברית", "")
    ]
    view = steering(run, features, prompt="<b>" + "".join(HOSTILE[:20]), unit="<i>")
    view.strengths = {HOSTILE[0]: 1, "x" * 10_000: -2}
    assert view.wait(SECONDS)
    return view


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("width", [1100, 420])
def test_hostile_texts_stay_text(open_page: Open, tmp_path: Path, width: int, live: bool) -> None:
    view = hostile()
    page = (as_widget if live else page_of)(open_page, view, tmp_path, width=width)
    settle(page)
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main svg, main script, main i, main .lk-prose b").count() == 0
    assert page.locator(".lk-steer-steered .lk-paired-token").count() == len(HOSTILE) + len(LONE_SURROGATES)
    assert "Mean loss infinite" in words(page, ".lk-steer-steered .lk-steer-said")
    assert "Mean loss not known" in words(page, ".lk-steer-unsteered .lk-steer-said")
    no_sideways(page)
    view.close()


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["live", "zero", "hint", "failed", "file", "empty", "hostile", "narrow"])
def test_axe_finds_nothing(
    open_page: Open, tmp_path: Path, view: SteeringView, writer: Writer, which: str, dark: bool
) -> None:
    writer.note = BROKE
    shown = hostile(which == "empty") if which in ("hostile", "empty") else view
    if shown is view and which != "zero":
        view.strengths = {1234: 5, "calm": -8}
        assert view.wait(SECONDS)
    opened = page_of if which in ("file", "empty") else as_widget
    page = opened(open_page, shown, tmp_path, dark=dark, width=420 if which == "narrow" else 1100)
    if which == "hint":
        exact(page).fill("99")
        page.keyboard.press("Enter")
    elif which == "failed":
        writer.error = Unavailable("The model has left; load it again.")
        slider(page).press("End")
        pump(page, view)
    settle(page)
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []
    if shown is not view:
        shown.close()
