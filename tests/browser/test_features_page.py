"""The features view in a real Chromium: as an exported page, and as a widget on a stand-in for the notebook's model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in
from featured import dashboard, dictionary, example, featured, random_featured
from generations import HOSTILE, LONE_SURROGATES

from labkit.errors import BadInput
from labkit.sae.dashboards import Dashboard
from labkit.sae.reading import Features
from labkit.views.features_view import FeaturesView, features

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
SAE = dictionary()
STORY = ["<s>", "The", " cat", " sat", " on", " the", " mat", ".", "\n"]
AT_WORK = [{}, {5: 8.0, 6: 2.0}, {5: 4.0, 7: 3.0}, {6: 1.0}, {}, {8: 0.5}, {}, {5: 0.25}, {9: 1.5}]


def settle(page: Any) -> None:
    page.wait_for_timeout(60)
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def story(undefined: tuple[int, ...] = (0, 6)) -> Features:
    return featured(STORY, AT_WORK, sae=SAE, undefined=undefined)


def look_up(index: int) -> Dashboard:
    if index == 6:
        raise BadInput("Feature 6 is <b>not</b> in the index.")
    return dashboard(SAE, index, dead=index == 9)


def words(text: str) -> Features:
    if "bad" in text:
        raise BadInput("No <b>bad</b> words, please.")
    tokens = ["<s>", *(f" {word}" for word in text.split())]
    return featured(tokens, [{20 + i: 1.0 + i} for i in range(len(tokens))], sae=SAE)


def find(asked: str) -> list[tuple[int, str]]:
    return [] if asked == "nothing" else [(7, f"promotes <b>{asked}</b>"), (9, "active on it")]


def page_of(open_page: Open, view: FeaturesView, tmp_path: Path, **settings: Any) -> Any:
    assert view.wait(10)
    return open_page(view.to_html(tmp_path / "page.html"), **settings)


def as_widget(open_page: Open, view: FeaturesView, tmp_path: Path, **settings: Any) -> Any:
    assert view.wait(10)
    page = open_page(view.to_html(tmp_path / "live.html"), **settings)
    stand_in.draw(page, view)
    settle(page)
    return page


def pump(page: Any, view: FeaturesView) -> None:
    """Bring what the page set to the real view, wait for its workers, and bring all of its state back."""
    for _ in range(5):
        asked = stand_in.pump(page, view)
        assert view.wait(10)
        stand_in.receive(page, stand_in.state(view))
        settle(page)
        if not asked and not page.evaluate("window.asked.length + window.saved.length"):
            return
    raise AssertionError("it never stops setting")


def shades(page: Any) -> list[float]:
    """How deep the tone behind each token is, per cent; 0 for none."""
    return page.locator(".lk-fv-text").evaluate(
        "l => [...l.querySelectorAll('.lk-tl-word')].map(w => parseFloat(w.style.getPropertyValue('--lk-fv-deep')) || 0)"
    )


def token(page: Any, i: int) -> Any:
    return page.locator(".lk-fv-text .lk-tl-word").nth(i)


def listed(page: Any) -> list[str]:
    """The features listed beside the text, with their numbers."""
    rows = page.locator(".lk-fv-of-token .lk-fv-row")
    return [" ".join(row.inner_text().split()) for row in rows.all()]


def foot(page: Any) -> str:
    return page.locator(".lk-foot").inner_text()


def headline(page: Any) -> str:
    return page.locator(".lk-fv-headline").inner_text()


def no_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_the_text_is_shaded_by_the_open_feature(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(story()), tmp_path)
    text = page.locator(".lk-fv-text")
    assert text.evaluate("l => l.textContent") == "".join(STORY), "copied, it is the text alone"
    assert shades(page) == [0, 58, 29, 0, 0, 0, 0, 1.8, 0], "in proportion, from 0 to the text's highest"
    legend = page.locator(".lk-fv-legend").inner_text()
    assert "how active feature 5 is" in legend
    assert "to 8.000, its highest activation in this text. Underlined: active there, on 3 tokens." in legend
    assert "dotted: features are not defined, at 2 tokens." in legend
    frame = "w => getComputedStyle(w).outlineStyle"
    assert [token(page, i).evaluate(frame) for i in (0, 3, 6)] == ["dotted", "none", "dotted"]
    assert token(page, 1).evaluate("w => getComputedStyle(w).backgroundColor") != "rgba(0, 0, 0, 0)"
    assert token(page, 3).evaluate("w => getComputedStyle(w).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert listed(page)[:2] == ["feature 5 8.000 The", "feature 7 3.000 cat"]
    assert page.locator(".lk-fv-dashboard").inner_text() == ""


def test_pointing_at_a_token_lists_its_features(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(story()), tmp_path)
    token(page, 2).hover()
    assert page.locator(".lk-fv-list-title").inner_text() == "Features on “cat” token 2"
    assert listed(page) == ["feature 5 4.000", "feature 7 3.000"]
    assert foot(page).startswith("“cat” (token 2): feature 5 at 4.0000 · the reconstruction leaves 15.0 % of")
    page.mouse.move(2, 2)
    assert listed(page) == ["feature 5 4.000", "feature 7 3.000"], "so that its buttons can be reached"
    token(page, 4).hover()
    assert listed(page) == []
    assert "No feature is active on this token." in page.locator(".lk-fv-right").inner_text()
    token(page, 6).hover()
    why = "Features are not defined at this token: its residual is over 6 times as long as the typical one"
    assert why in page.locator(".lk-fv-right").inner_text()
    assert why in foot(page)
    assert "0.0" not in foot(page), "never as zero"
    token(page, 2).click()
    token(page, 5).hover()
    assert "cat" in page.locator(".lk-fv-list-title").inner_text(), "held"
    page.get_by_role("button", name="The whole text again").click()
    assert listed(page)[0] == "feature 5 8.000 The"


def test_opening_a_feature_shades_the_text_and_draws_its_dashboard(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(story(), look_up=look_up), tmp_path)
    assert headline(page) == "feature 5"
    assert "to 12.50, its highest activation in the corpus" in page.locator(".lk-fv-legend").inner_text()
    assert shades(page)[1] == pytest.approx(58 * 8 / 12.5, abs=0.06)
    token(page, 2).click()
    page.get_by_role("button", name=re.compile("^feature 7")).first.click()
    assert headline(page) == "feature 7"
    assert [i for i, deep in enumerate(shades(page)) if deep] == [2]
    dashboard_text = page.locator(".lk-fv-dashboard").inner_text()
    assert "active on 0.32 % of 6,531,000 tokens of the corpus" in dashboard_text
    assert "word7" in dashboard_text
    opened = page.locator(".lk-fv-of-token .lk-fv-open")
    assert opened.get_attribute("aria-current") == "true"
    assert opened.get_attribute("data-feature") == "7"


def test_what_a_dashboard_says(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(dashboard(SAE, 12)), tmp_path)
    assert not page.locator(".lk-fv-top").is_visible()
    sections = page.locator(".lk-fv-dashboard h3").all_inner_texts()
    assert [each.split("\n")[0] for each in sections] == [
        "Where it is strongest in the corpus",
        "Drawn over the rest of its range",
        "How strong it is where it is active",
        "In which kinds of text share of its activity",
        "Tokens it promotes change of the logit, standard deviations over the vocabulary",
        "Tokens it suppresses change of the logit, standard deviations over the vocabulary",
        "Features of nearly the same direction cosine",
    ]
    groups = page.locator(".lk-fv-passages")
    assert [groups.nth(i).locator(".lk-tl-passage").count() for i in range(2)] == [3, 2]
    peaks = page.locator(".lk-tl-peak").all_inner_texts()
    assert [peak.strip() for peak in peaks] == ["cat"] * 5
    assert page.locator(".lk-tl-passage-head").first.inner_text() == "12.50 stories"
    assert "logarithmic scale" in page.locator(".lk-fv-side").inner_text()
    assert page.locator(".lk-column").count() == 5, "from the first bin with a token to the last"
    kinds = [" ".join(row.split()) for row in page.locator(".lk-fv-kind").all_inner_texts()]
    assert kinds[0] == "stories 72.0 % of the corpus 40.0 %"
    below = page.locator(".lk-fv-below").all_inner_texts()
    assert [" ".join(row.split()) for row in below] == ["feature 15 0.120 below chance"]
    assert "random directions reaches 0.310" in page.locator(".lk-fv-side").inner_text()
    assert page.locator(".lk-fv-dashboard button").count() == 0, "nothing else can be opened here"


def test_the_dashboards_numbers_are_reached_by_pointer_and_keys(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(dashboard(SAE, 12)), tmp_path)
    reading = page.locator(".lk-fv-examples .lk-fv-reading").first
    page.locator(".lk-fv-passages").first.locator(".lk-tl-word").nth(5).hover()
    assert reading.inner_text() == "“cat”: 12.5000 (12.50, 100 % of its highest)"
    passages = page.locator(".lk-fv-passages").first
    passages.focus()
    page.keyboard.press("ArrowDown")
    assert reading.inner_text().startswith("“cat”: 11.5000"), "the same place of the next example"
    page.keyboard.press("ArrowRight")
    assert reading.inner_text().startswith("“and”")
    page.keyboard.press("Escape")
    assert "Point at a token" in reading.inner_text()
    bins = page.locator(".lk-columns")
    bins.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".lk-fv-side .lk-fv-reading").inner_text() == "1 to 2: 1,730 tokens"
    page.keyboard.press("End")
    assert page.locator(".lk-fv-side .lk-fv-reading").inner_text() == "8 to 16: 1 token"


def test_a_dead_feature_says_so(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(dashboard(SAE, 9, dead=True)), tmp_path)
    assert page.locator(".lk-fv-density").inner_text() == "dead: active on none of 6,531,000 tokens"
    assert page.locator(".lk-fv-examples, .lk-columns, .lk-fv-kind").count() == 0
    assert "word9" in page.locator(".lk-fv-side").inner_text(), "its direction still writes"


def test_a_text_with_nothing_at_work_says_why(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(featured(["<s>"], [{}], sae=SAE), look_up=look_up), tmp_path)
    assert "features are not defined at any token of this text" in page.locator(".lk-fv-legend").inner_text()
    assert "features are not defined at any token" in page.locator(".lk-fv-right").inner_text()
    assert page.get_by_label("Feature", exact=True).input_value() == ""


def test_a_file_holds_the_strongest_and_says_what_it_lacks(open_page: Open, tmp_path: Path) -> None:
    view = features(random_featured(60, sae=SAE), look_up=lambda i: dashboard(SAE, i), take=words, search=find)
    page = page_of(open_page, view, tmp_path)
    assert not page.get_by_label("Your text").is_visible()
    assert not page.get_by_label("Search the features").is_visible()
    assert "holds the dashboards of 24 features" in page.locator(".lk-fv-notes").inner_text()
    held = {feature.index for feature, _, _ in view._found.strongest(24)}
    other = next(i for i in range(400) if i not in held)
    page.get_by_label("Feature", exact=True).fill(str(other))
    page.get_by_role("button", name="Open the feature of this number").click()
    said = f"The dashboard of feature {other} is not in this file: it needs the notebook’s kernel."
    assert said in page.locator(".lk-view").inner_text()
    assert page.locator(".lk-fv-headline").count() == 0
    assert f"how active feature {other} is" in page.locator(".lk-fv-legend").inner_text()
    field = page.get_by_label("Feature", exact=True)
    for wrong in ("400", "-1", "2.5", ""):
        field.fill(wrong)
        field.press("Enter")
        assert "There are features 0 to 399." in page.locator(".lk-fv-number").inner_text()
    view.close()


def test_the_keyboard_alone(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(story(), look_up=look_up), tmp_path)
    text = page.locator(".lk-fv-text")
    text.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert foot(page).startswith("“cat” (token 2)")
    active = page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).getAttribute('aria-label')"
    )
    assert active == "cat, token 2: feature 5 at 4.0000; most active: feature 5 at 4.000"
    page.keyboard.press("Enter")
    assert text.locator("[aria-selected=true]").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert headline(page) == "feature 7"
    assert page.evaluate("document.activeElement.dataset.feature") == "7", "the focus stays where it was"
    text.focus()
    page.keyboard.press("End")
    assert foot(page).startswith("“↵” (token 8)")
    assert text.locator("[aria-selected=true]").count() == 0, "moving on lets go"
    page.keyboard.press("Home")
    assert foot(page).startswith("“<s>” (token 0): Features are not defined at the first token")
    page.keyboard.press("Escape")
    assert page.locator(".lk-fv-list-title").inner_text() == "The text’s strongest features"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")


def test_arrows_up_and_down_go_by_line(open_page: Open, tmp_path: Path) -> None:
    page = page_of(open_page, features(random_featured(60, sae=SAE)), tmp_path, width=420)
    page.locator(".lk-fv-text").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    first, second = token(page, 0).bounding_box(), page.locator(".lk-tl-here .lk-tl-word").bounding_box()
    assert second["y"] > first["y"] + 10
    assert abs(second["x"] - first["x"]) < 30
    page.keyboard.press("ArrowUp")
    assert foot(page).startswith("“<s>” (token 0)")


# with a kernel ------------------------------------------------------------------------------------------------------


def test_the_kernel_looks_up_what_is_opened(open_page: Open, tmp_path: Path) -> None:
    view = features(story(), look_up=look_up)
    page = as_widget(open_page, view, tmp_path)
    assert headline(page) == "feature 5"
    page.locator(".lk-fv-of-token .lk-fv-row").nth(1).click()
    assert headline(page) == "feature 5"
    assert page.locator(".lk-fv-old").count() == 1, "dimmed until the next is there"
    assert [i for i, deep in enumerate(shades(page)) if deep] == [2], "the text follows at once"
    pump(page, view)
    assert view.feature == 7
    assert headline(page) == "feature 7"
    assert page.locator(".lk-fv-old").count() == 0
    page.get_by_role("button", name=re.compile("^feature 8")).first.click()
    pump(page, view)
    assert headline(page) == "feature 8", "a neighbour"
    view.feature = 6
    pump(page, view)
    assert page.locator(".lk-failed").inner_text() == "Feature 6 is <b>not</b> in the index."
    assert page.locator(".lk-fv-headline").count() == 0
    assert "how active feature 6 is" in page.locator(".lk-fv-legend").inner_text()
    page.evaluate("window.done()")
    assert page.evaluate("window.held.length") == 0
    view.close()


def test_what_is_being_looked_up_is_said(open_page: Open, tmp_path: Path) -> None:
    view = features(story(), look_up=look_up)
    page = as_widget(open_page, view, tmp_path)
    page.locator(".lk-fv-of-token .lk-fv-row").nth(1).click()
    values, raw = stand_in.state(view)
    stand_in.receive(page, [{**values, "feature": 7, "opened": {"feature": 7, "state": "running", "message": ""}}, raw])
    page.wait_for_timeout(400)
    assert "looking up feature 7 …" in page.locator(".lk-view").inner_text()
    view.close()


def test_searching_and_opening_what_was_found(open_page: Open, tmp_path: Path) -> None:
    view = features(story(), look_up=look_up, search=find)
    page = as_widget(open_page, view, tmp_path)
    box = page.get_by_label("Search the features")
    box.fill("cats")
    pump(page, view)
    hits = page.locator(".lk-fv-hits button")
    assert [" ".join(text.split()) for text in hits.all_inner_texts()] == [
        "feature 7 promotes <b>cats</b>",
        "feature 9 active on it",
    ]
    hits.nth(1).click()
    pump(page, view)
    assert page.locator(".lk-fv-density").inner_text() == "dead: active on none of 6,531,000 tokens"
    assert hits.nth(1).get_attribute("aria-current") == "true"
    box.fill("nothing")
    pump(page, view)
    assert "No feature was found for “nothing”." in page.locator(".lk-view").inner_text()
    assert hits.count() == 0
    view.close()


def test_typing_another_text(open_page: Open, tmp_path: Path) -> None:
    view = features(story(), take=words)
    page = as_widget(open_page, view, tmp_path)
    box = page.get_by_label("Your text")
    assert box.input_value() == "".join(STORY[1:])
    box.fill("four words are here")
    pump(page, view)
    assert page.locator(".lk-fv-text").evaluate("l => l.textContent") == "<s> four words are here"
    assert "5 tokens" in page.locator(".lk-features > p.lk-muted >> nth=0").inner_text()
    assert "It is active on no token of this text." in page.locator(".lk-fv-legend").inner_text()
    assert listed(page)[0] == "feature 24 5.000 here"
    box.fill("bad")
    pump(page, view)
    assert page.locator(".lk-failed").inner_text() == "No <b>bad</b> words, please."
    assert page.locator(".lk-tl-token").count() == 5, "what was there stands"
    view.close()


def test_a_kernel_that_does_not_answer_is_told(open_page: Open, tmp_path: Path) -> None:
    view = features(story(), take=words, look_up=look_up)
    page = as_widget(open_page, view, tmp_path)
    page.get_by_label("Your text").fill("hello")
    page.locator(".lk-fv-of-token .lk-fv-row").nth(1).click()
    page.wait_for_timeout(4200)
    said = page.locator(".lk-failed").all_inner_texts()
    assert len(said) == 2
    assert all(each.startswith("No answer from the kernel") for each in said)
    view.close()


def test_a_feature_that_lists_leave_out_is_exact_with_a_kernel(open_page: Open, tmp_path: Path) -> None:
    sae = dictionary(3_000)
    rows = [{j: 1 + 0.001 * (300 - j) for j in range(300)} for _ in range(600)]
    view = features(featured([" a"] * 600, rows, sae=sae), feature=290)
    n = view.facts["n"]
    assert n < 290
    page = as_widget(open_page, view, tmp_path)
    token(page, 3).hover()
    assert foot(page).startswith("“a” (token 3): feature 290 at 1.0100")
    assert f"{n} or more active" in page.locator(".lk-fv-right").inner_text()
    page = page_of(open_page, view, tmp_path)
    assert shades(page)[3] == 58
    page.get_by_label("Feature", exact=True).fill("291")
    page.get_by_label("Feature", exact=True).press("Enter")
    token(page, 3).hover()
    assert f"feature 291 is not among the {n} most active here" in foot(page), "not as zero"


# every size and text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [420, 800, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_every_width_and_theme(open_page: Open, tmp_path: Path, width: int, dark: bool) -> None:
    view = features(story(), look_up=look_up, take=words, search=find)
    page = as_widget(open_page, view, tmp_path, width=width, dark=dark)
    no_sideways(page)
    paper = page.evaluate("getComputedStyle(document.querySelector('.lk-view')).backgroundColor")
    assert (paper == "rgb(21, 24, 27)") == dark
    text, features_of = (page.locator(each).bounding_box() for each in (".lk-fv-left", ".lk-fv-right"))
    assert (features_of["x"] >= text["x"] + text["width"]) == (width >= 800)
    view.close()


@pytest.mark.parametrize("width", [1100, 420])
def test_hostile_tokens_stay_text(open_page: Open, tmp_path: Path, width: int) -> None:
    tokens = [*HOSTILE, *LONE_SURROGATES]
    sae = dictionary(name="<script>window.broken=9</script>")
    found = featured(tokens, [{i: 1.0 + i} for i in range(len(tokens))], sae=sae, undefined=(2,))

    def known(index: int) -> Dashboard:
        rows = tuple((each, 0.1) for each in tokens)
        kinds = dict.fromkeys(tokens[:20], (0.1, 0.2))
        examples = (example(tokens, [1.0] * len(tokens), kind=tokens[1]), example(tokens, [2.0] * len(tokens)))
        return dashboard(sae, index, examples=examples, promoted=rows, suppressed=rows, kinds=kinds)

    view = features(found, look_up=known)
    page = page_of(open_page, view, tmp_path, width=width)
    for box in (".lk-fv-text", ".lk-fv-passages"):
        page.locator(box).first.focus()
        for _ in range(len(tokens)):
            page.keyboard.press("ArrowRight")
    assert page.locator(".lk-fv-text .lk-tl-token").count() == len(tokens)
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main svg, main script, main b, main textarea:visible").count() == 0
    no_sideways(page)
    view.close()


@pytest.mark.skipif(
    not Path(os.environ.get("LABKIT_AXE", "")).is_file(),
    reason="LABKIT_AXE names no axe.min.js to check accessibility with",
)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["story", "kernel", "dashboard", "dead", "hostile", "long", "empty"])
def test_axe_finds_nothing(open_page: Open, tmp_path: Path, which: str, dark: bool) -> None:
    views: dict[str, Callable[[], FeaturesView]] = {
        "story": lambda: features(story(), look_up=look_up),
        "kernel": lambda: features(story(), look_up=look_up, take=words, search=find),
        "dashboard": lambda: features(dashboard(SAE, 12)),
        "dead": lambda: features(dashboard(SAE, 12, dead=True)),
        "hostile": lambda: features(
            featured(HOSTILE, [{i: 1.0} for i in range(len(HOSTILE))], sae=SAE),
            look_up=lambda i: dashboard(SAE, i, examples=(example(HOSTILE, [12.5] * len(HOSTILE)),)),
        ),
        "long": lambda: features(random_featured(500, sae=SAE, k=30), look_up=look_up),
        "empty": lambda: features(featured(["<s>"], [{}], sae=SAE), look_up=look_up),
    }
    view = views[which]()
    opened = as_widget if which == "kernel" else page_of
    page = opened(open_page, view, tmp_path, dark=dark, width=420 if which == "long" else 1100)
    if which == "kernel":
        page.get_by_label("Search the features").fill("cats")
        pump(page, view)
    if which not in ("dashboard", "dead"):
        page.locator(".lk-fv-text").focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
    settle(page)
    page.add_script_tag(path=os.environ["LABKIT_AXE"])
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))")
    assert found == []
    view.close()
