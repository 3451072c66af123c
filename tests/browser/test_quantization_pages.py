"""The quantization view and the mix view in a real Chromium: every control changes numbers and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import pytest
import stand_in

import labkit as lk
from labkit.views.mix_view import MixView
from labkit.views.quantization_view import QuantizationView

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
SECONDS = 60
HOSTILE = "<img src=x onerror=alert(1)>"
AXE = os.environ.get("LABKIT_AXE", "")


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def quantized(lab: lk.Lab) -> QuantizationView:
    view = lk.views.quantization(lab, prompt=HOSTILE, tokens=6)
    assert view.wait(SECONDS)
    return view


@pytest.fixture(scope="module")
def mixed(lab: lk.Lab) -> MixView:
    rows = {kind: [[3 + (a + 7 * i * i) % 90 for i in range(20)]] for kind, a in (("one", 0), ("two", 9))}
    others = {kind: [[i + 1 for i in row] for row in some] for kind, some in rows.items()}
    size = lk.quantization.contents(lab).size_bytes
    found = lk.quantization.mix(
        lab,
        budget_bytes=size,
        texts=rows,
        measured_on=others,
        formats=("int8", "int4", "int2"),
        draws=20,
        progress=False,
    )
    return lk.views.mix(found)


def settle(page: Any) -> None:
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def pump(page: Any, view: Any) -> None:
    stand_in.pump(page, view)
    assert view.wait(SECONDS)
    stand_in.receive(page, stand_in.state(view))
    settle(page)


def pictures(page: Any) -> list[str]:
    """The histogram's shapes and the map's pixels."""
    found: list[str] = page.evaluate(
        "[document.querySelector('.lk-quant-svg').innerHTML, document.querySelector('.lk-quant-canvas').toDataURL()]"
    )
    return found


def no_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_each_control_changes_the_numbers_and_the_pictures(
    open_page: Open, tmp_path: Path, quantized: QuantizationView
) -> None:
    view = quantized
    page = open_page(view.to_html(tmp_path / "view.html"))
    stand_in.draw(page, view)
    settle(page)
    numbers = page.locator(".lk-quant-numbers")
    marked = []
    assert "4.500 bits per weight" in numbers.inner_text()
    for name, value in (
        ("Format", "int2"),
        ("Weights that share a grid", "16"),
        ("Grid", "false"),
        ("Method", "hqq"),
        ("Layer", "0"),
        ("Matrix", "down_proj"),
    ):
        said, seen = numbers.inner_text(), pictures(page)
        page.get_by_label(name, exact=True).select_option(value)
        pump(page, view)
        assert numbers.inner_text() != said, name
        marked.append(page.locator(".lk-quant-quantized mark").count())
        assert all(now != before for now, before in zip(pictures(page), seen, strict=True)), name
    assert "by half-quadratic" in page.locator(".lk-quant").inner_text()
    assert max(marked) > 0, "tokens that the original's text does not have"
    page.locator(".lk-quant-map").hover()
    said = page.locator(".lk-quant-foot").inner_text()
    assert "became" in said
    page.locator(".lk-quant-map").focus()
    page.keyboard.press("Home")
    assert page.locator(".lk-quant-foot").inner_text() != said
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    pump(page, view)
    assert view.pane["group"] == view.drawn_group >= 0
    assert f"the grid of group {view.drawn_group}" in page.locator(".lk-quant-said").inner_text()
    page.get_by_label("Going on, greedily, from").fill("b a")
    page.get_by_label("Going on, greedily, from").blur()
    pump(page, view)
    assert view.texts["prompt"] == "b a"
    page.get_by_label("Format", exact=True).select_option("q4_k")
    pump(page, view)
    assert "groups of 256" in page.locator(".lk-failed").first.inner_text()
    assert not page.locator(".lk-quant-map").is_visible()
    page.get_by_label("Format", exact=True).select_option("int4")
    pump(page, view)
    view.prompt = HOSTILE
    assert view.wait(SECONDS)


def test_the_budget_slider_changes_the_bits_live_and_in_a_file(open_page: Open, tmp_path: Path, mixed: MixView) -> None:
    page = open_page(mixed.to_html(tmp_path / "mix.html"))
    for live in (False, True):
        if live:
            stand_in.draw(page, mixed)
        settle(page)
        slider = page.get_by_role("slider", name="Budget")
        shown = []
        for key in ("End", "Home"):
            slider.focus()
            page.keyboard.press(key)
            if live:
                pump(page, mixed)
            settle(page)
            bits = page.locator(".lk-mix-cells td").all_inner_texts()
            circle = page.locator("circle.lk-mix-now").get_attribute("cx")
            shown.append((bits, circle, page.locator(".lk-mix-facts").inner_text()))
        (most, *_), (least, *_) = shown
        assert all(float(a) > float(b) for a, b in zip(most, least, strict=True)), "every matrix got fewer bits"
        assert all(a != b for a, b in zip(*shown, strict=True))
    page.locator(".lk-mix-cells td").first.hover()
    assert "layer 0, q_proj: int2" in page.locator(".lk-mix-foot").inner_text()
    assert page.get_by_text("Measured on other texts", exact=True).count() == 1


@pytest.mark.parametrize("which", ["quantization", "mix"])
@pytest.mark.parametrize("dark", [False, True])
def test_a_file_fits_a_phone_and_runs_nothing_of_the_text(
    open_page: Open, tmp_path: Path, quantized: QuantizationView, mixed: MixView, which: str, dark: bool
) -> None:
    view = quantized if which == "quantization" else mixed
    page = open_page(view.to_html(tmp_path / "small.html"), width=400, dark=dark)
    settle(page)
    no_sideways(page)
    assert page.locator("#labkit-view img").count() == 0
    if which == "quantization":
        assert HOSTILE in page.locator(".lk-quant-prompt").inner_text()
        assert not page.get_by_label("Format", exact=True).is_visible()
    if AXE:
        page.add_script_tag(path=AXE)
        assert page.evaluate("axe.run().then(r => r.violations.map(v => v.id))") == []


@pytest.mark.parametrize(("which", "picture"), [("quantization", ".lk-quant-svg"), ("mix", ".lk-mix-svg")])
def test_it_is_drawn_anew_when_the_theme_changed_while_it_was_hidden(
    which: str, picture: str, open_page: Open, tmp_path: Path, quantized: QuantizationView, mixed: MixView
) -> None:
    """A notebook hides what is scrolled out of sight; pictures drawn without room would stay empty."""
    view = quantized if which == "quantization" else mixed
    page = open_page(view.to_html(tmp_path / "view.html"))
    settle(page)
    before = page.locator(picture).bounding_box()
    page.evaluate("document.querySelector('.lk-view').parentElement.style.display = 'none'")
    settle(page)
    page.emulate_media(color_scheme="dark")
    settle(page)
    page.evaluate("document.querySelector('.lk-view').parentElement.style.display = ''")
    settle(page)
    assert page.locator(picture).bounding_box() == before
    assert page.locator(f"{picture} path").count() > 0
