"""The exported token and temperature views in a real Chromium."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stand_in
from generations import HOSTILE, LONE_SURROGATES, STORY, generation, long, of_tokens, story

from labkit.views.base import clean
from labkit.views.sampling_view import temperature
from labkit.views.sampling_view.distribution import probabilities
from labkit.views.tokens_view import tokens

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


def shown(page: Any) -> str:
    return page.locator(".lk-panel-title .lk-label").inner_text()


def list_text(page: Any) -> str:
    """The generated text as it stands in the page: all of it but what is drawn beside it."""
    return page.evaluate(
        "[...document.querySelectorAll('.lk-tl-token')].filter(t => !t.querySelector('.lk-tl-sign'))"
        ".map(t => t.textContent).join('')"
    )


def luminance(page: Any, selector: str, name: str) -> float:
    """Relative luminance of a computed colour, through a canvas (it may be written in any colour space)."""
    red, green, blue = page.evaluate(
        """([selector, name]) => {
            const context = document.createElement('canvas').getContext('2d');
            context.fillStyle = getComputedStyle(document.querySelector(selector))[name];
            context.fillRect(0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
        }""",
        [selector, name],
    )
    linear = [c / 12.92 if (c := v / 255) <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(page: Any, selector: str, name: str) -> float:
    paper = luminance(page, ".lk-view", "backgroundColor")
    ink = luminance(page, selector, name)
    return (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1100, 420])
def test_page_shows_text_and_follows_the_preferred_scheme(
    open_page: Open, tmp_path: Path, dark: bool, width: int
) -> None:
    page = open_page(tokens(story()).to_html(tmp_path / "story.html"), width=width, dark=dark)
    assert list_text(page) == story().text
    assert (luminance(page, ".lk-view", "backgroundColor") < 0.2) == dark
    assert contrast(page, ".lk-list", "color") >= 7
    assert contrast(page, ".lk-prompt", "color") >= 4.5
    assert contrast(page, ".lk-key", "color") >= 4.5
    assert contrast(page, ".lk-key .lk-key-item:nth-of-type(6) .lk-stroke", "textDecorationColor") >= 3
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_strokes_grow_as_probability_falls(open_page: Open, tmp_path: Path) -> None:
    sure = [(f" t{i}", p, {" other": 0.001}) for i, p in enumerate([0.95, 0.7, 0.3, 0.1, 0.03])]
    page = open_page(tokens(generation(sure)).to_html(tmp_path / "strokes.html"))
    widths = page.evaluate(
        "[...document.querySelectorAll('.lk-key .lk-stroke')].slice(0, 5)"
        ".map(sample => parseFloat(getComputedStyle(sample).textDecorationThickness))"
    )
    assert widths == sorted(set(widths))
    deep = "(selector) => [...document.querySelectorAll(selector)].map(e => e.style.getPropertyValue('--lk-deep'))"
    assert page.evaluate(deep, ".lk-tl-token .lk-tl-word") == page.evaluate(deep, ".lk-key .lk-stroke")[:5]


def test_panel_gives_the_numbers_of_the_token_pointed_at(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tokens(story()).to_html(tmp_path / "story.html"))
    before = page.locator(".lk-panel").bounding_box()
    page.locator(".lk-tl-token").nth(2).hover()
    assert shown(page) == "·looks"
    rows = [" ".join(row.inner_text().split()) for row in page.locator(".lk-bar").all()]
    assert rows == [
        "·is 41.0 %", "·appears 30.0 %", "·looks 13.0 % taken", "·seems 4.0 %", "·turns 2.0 %", "all other tokens 10.0 %",
    ]  # fmt: skip
    facts = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert facts["Log-probability"] == "−2.040 nats"
    assert facts["Rank"] == "3rd choice"
    assert facts["Entropy"] == f"{float(story().entropies[2]):.3f} nats"
    assert facts["When drawn"] == f"{float(story().sampled_logprobs[2].exp()) * 100:.1f} %"
    assert page.locator(".lk-panel").bounding_box() == before, "the panel moved or changed its size"


def test_taken_token_outside_the_shown_alternatives_has_its_own_bar(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tokens(story(), alternatives=2).to_html(tmp_path / "story.html"))
    page.locator(".lk-tl-token").nth(2).hover()
    rows = [" ".join(row.inner_text().split()) for row in page.locator(".lk-bar").all()]
    assert rows == ["·is 41.0 %", "·appears 30.0 %", "·looks 13.0 % taken, 3rd", "all other tokens 16.0 %"]


def test_walk_with_the_keyboard_alone(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tokens(story()).to_html(tmp_path / "story.html"))
    active = lambda: page.evaluate(  # noqa: E731
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))?.dataset.token ?? null"
    )
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "listbox"
    page.keyboard.press("Home")
    assert (active(), shown(page)) == ("0", "The")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert (active(), shown(page)) == ("2", "·looks")
    page.keyboard.press("ArrowLeft")
    assert active() == "1"
    label = page.evaluate("document.querySelector('.lk-tl-here').getAttribute('aria-label')")
    assert "sky, probability" in label
    assert "88.0 %" in label
    page.keyboard.press("End")
    assert (active(), shown(page)) == (str(len(STORY) - 1), "<|im_end|>")
    page.keyboard.press("ArrowRight")
    assert active() == str(len(STORY) - 1)
    page.keyboard.press("ArrowUp")
    assert int(active()) < len(STORY) - 1
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.locator(".lk-tl-held").inner_text() == "The"
    page.locator(".lk-tl-token").nth(5).hover()
    assert shown(page) == "The", "a held token must stay while the pointer passes over others"
    page.keyboard.press("Escape")
    assert page.locator(".lk-tl-held").count() == 0
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")
    stops = page.evaluate(
        "[...document.querySelectorAll('.lk-view *')].filter(e => e.tabIndex >= 0 && e.offsetParent).length"
    )
    assert stops == 1, "the tokens are one tab stop"


def test_click_holds_and_lets_go(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tokens(story()).to_html(tmp_path / "story.html"))
    page.locator(".lk-tl-token").nth(3).click()
    page.locator(".lk-tl-token").nth(7).hover()
    assert shown(page) == "·blue"
    page.locator(".lk-tl-token").nth(3).click()
    page.locator(".lk-tl-token").nth(7).hover()
    assert shown(page) == "·scattered"


def test_selected_text_is_the_text(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tokens(story()).to_html(tmp_path / "story.html"))
    text = page.evaluate(
        "(() => { const s = getSelection(); s.selectAllChildren(document.querySelector('.lk-list')); return s.toString(); })()"
    )
    assert text == story().text


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_tokens_stay_text(open_page: Open, tmp_path: Path, dark: bool) -> None:
    hostile = [*HOSTILE, *LONE_SURROGATES]
    run = of_tokens(hostile, prompt_tokens=hostile, model="<b>model</b></script>")
    page = open_page(tokens(run).to_html(tmp_path / "hostile.html"), dark=dark, width=420)
    assert page.evaluate("window.broken") is None
    assert page.locator("img, svg, textarea, main script, main b").count() == 0
    assert page.locator(".lk-tl-token").count() == len(hostile)
    # A text node keeps a carriage return and a NUL, so the page's text is compared character by character.
    assert list_text(page) == clean("".join(hostile))
    labels = page.evaluate("[...document.querySelectorAll('.lk-list .lk-code')].map(c => c.dataset.mark)")
    for name in (
        "U+0000",
        "U+0007",
        "U+202E",
        "U+202C",
        "U+2066",
        "U+200B ×3",
        "U+FEFF",
        "U+2028",
        "U+00A0",
        "U+E0041",
    ):
        assert name in labels
    isolated = page.evaluate(
        "[...document.querySelectorAll('.lk-code')].every(c => getComputedStyle(c).unicodeBidi.startsWith('isolate'))"
    )
    assert isolated
    for i in range(len(hostile)):  # every panel is drawn too
        page.evaluate(
            "i => document.querySelectorAll('.lk-tl-token')[i].dispatchEvent(new PointerEvent('pointermove', {bubbles: true}))",
            i,
        )
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long token widens the page"


def test_an_override_reverses_nothing_after_it(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tokens(of_tokens(["a", "\u202e", "b", "c", " end"])).to_html(tmp_path / "bidi.html"))
    left = page.evaluate("[...document.querySelectorAll('.lk-tl-token')].map(t => t.getBoundingClientRect().left)")
    assert left == sorted(left)


@pytest.mark.parametrize("n", [0, 1, 12, 2000])
def test_any_number_of_tokens(open_page: Open, tmp_path: Path, n: int) -> None:
    page = open_page(tokens(long(n) if n else generation([], finish_reason="context")).to_html(tmp_path / "n.html"))
    assert page.locator(".lk-tl-token").count() == n
    assert page.locator(".lk-scroll").is_visible() == (n > 0)
    if n == 0:
        assert "the prompt fills the model's context" in page.locator(".lk-note").inner_text()
        assert not page.locator(".lk-panel").is_visible()
    else:
        assert list_text(page) == long(n).text
        page.locator(".lk-list").focus()
        page.keyboard.press("End")
        assert page.locator(".lk-panel-place").first.inner_text().startswith(f"token {n - 1},")
    if n == 12:
        assert page.evaluate("document.documentElement.scrollHeight") <= 800


def test_long_prompt_is_folded_and_unfolds(open_page: Open, tmp_path: Path) -> None:
    prompt = [f" word{i}" for i in range(100)]
    page = open_page(tokens(story(prompt_tokens=prompt)).to_html(tmp_path / "prompt.html"))
    assert "word76" in page.locator(".lk-prompt").inner_text()
    assert "word75" not in page.locator(".lk-prompt").inner_text()
    page.get_by_role("button", name="show all 100 tokens").click()
    assert page.locator(".lk-prompt").inner_text() == "".join(prompt)
    page.get_by_role("button", name="fold").click()
    assert "word75" not in page.locator(".lk-prompt").inner_text()


def test_text_is_there_without_scripts(chromium: Any, tmp_path: Path) -> None:
    path = tokens(of_tokens(HOSTILE)).to_html(tmp_path / "static.html")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    body = page.locator("main").inner_text()
    context.close()
    assert "<script>window.broken = 1</script>" in body
    assert "⟨U+202E⟩" in body


def test_growing_text_keeps_nodes_scroll_and_focus(open_page: Open, tmp_path: Path) -> None:
    """The widget's own render(), on a model that changes as a notebook's does."""
    from labkit.views.tokens_view import TokensView

    view = TokensView(long(400))
    page = open_page(view.to_html(tmp_path / "grow.html"))
    stand_in.draw(page, view)
    page.evaluate("window.nodes = [...document.querySelectorAll('.lk-tl-token')]")
    page.locator(".lk-list").focus()
    page.evaluate("document.querySelector('.lk-scroll').scrollTop = 120")
    view.update(long(500))
    stand_in.receive(page, stand_in.state(view))
    assert page.locator(".lk-tl-token").count() == 500
    kept = "[...document.querySelectorAll('.lk-tl-token')].slice(0, 400).every((node, i) => node === window.nodes[i])"
    assert page.evaluate(f"window.nodes.length === 400 && {kept}")
    assert page.evaluate("document.activeElement === document.querySelector('.lk-list')")
    assert page.evaluate("document.querySelector('.lk-scroll').scrollTop") == 120
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0


def france() -> np.ndarray:
    logits = np.random.default_rng(0).normal(0, 1.5, 5000).astype(np.float32)
    logits[:3] = 11.0, 10.0, 9.0
    return logits


def sampler(token_text: Callable[[int], str]) -> Any:
    """Stands in for a lab."""
    return SimpleNamespace(
        generate=lambda *_args, **_kwargs: story(),
        next_logits=lambda *_args, **_kwargs: france(),
        token_text=token_text,
    )


def test_temperature_page_slides_through_exact_distributions(open_page: Open, tmp_path: Path) -> None:
    view = temperature(sampler(lambda i: "</script>" if i == 1 else f" t{i}"), "The capital of France is")
    assert view.wait(10)
    page = open_page(view.to_html(tmp_path / "temperature.html"))
    view.close()
    slider = page.get_by_label("Temperature")
    bars = page.locator(".lk-sampling-bars .lk-bar")
    for steps, expected in ((0, 0.7), (3, 0.85)):
        for _ in range(steps):
            slider.press("ArrowRight")
        exact = probabilities(france().astype(float), expected)
        assert bars.nth(0).locator(".lk-bar-number").inner_text() == f"{exact[0] * 100:.1f} %"
        assert page.locator(".lk-sampling output").inner_text() == f"{expected:.2f}"
    slider.press("Home")
    assert bars.nth(0).locator(".lk-bar-number").inner_text() == "100 %"
    assert bars.nth(12).inner_text().split("\n")[0].startswith("4,988 others")
    assert "(greedy)" in page.locator(".lk-sampling output").inner_text()
    assert bars.nth(1).locator(".lk-label").inner_text() == "</script>"
    mark = page.evaluate("document.querySelector('.lk-sampling-bars .lk-track-mark').style.insetInlineStart")
    assert float(mark[:-1]) == pytest.approx(probabilities(france().astype(float), 1)[0] * 100, rel=1e-4)
    assert list_text(page) == story().text


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["story", "empty", "hostile", "temperature", "folded"])
def test_axe_finds_nothing(open_page: Open, tmp_path: Path, which: str, dark: bool) -> None:
    if which == "temperature":
        view: Any = temperature(sampler(lambda i: f" t{i}"), "So")
        view.wait(10)
    else:
        runs = {
            "story": story,
            "empty": lambda: generation([], finish_reason="stopped"),
            "hostile": lambda: of_tokens(HOSTILE),
            "folded": lambda: story(prompt_tokens=[" word"] * 100),
        }
        view = tokens(runs[which]())
    page = open_page(view.to_html(tmp_path / "axe.html"), dark=dark)
    if which == "story":
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []
