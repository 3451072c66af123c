"""The features view: what it sends is what the features hold, bounded bytes, lookups in a worker, text that stays text."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pytest
import torch
import traitlets
from featured import WORDS, dashboard, dictionary, example, featured, random_featured
from generations import HOSTILE, LONE_SURROGATES

import labkit as lk
from labkit.errors import BadInput
from labkit.sae.reading import Features
from labkit.views.drawing.scene import ACCENT, PAPER, Box, Words, mixed
from labkit.views.features_view import IN_A_FILE, MOST_HITS, FeaturesView, features
from labkit.views.features_view.activations import MOST_BYTES, MOST_TOKENS, drawn, plain

SAE = dictionary()


def sent(view: FeaturesView) -> list[dict[int, float]]:
    """Feature -> activation of each token as the browser gets them, read here on its own."""
    n, kind = view.facts["n"], np.dtype("<u2" if view.facts["bytes"] == 2 else "<u4")
    indices = np.frombuffer(view.indices, kind).reshape(-1, n)
    values = np.frombuffer(view.values, "<f4").reshape(-1, n)
    none = np.iinfo(kind).max
    return [
        {int(i): float(v) for i, v in zip(*row, strict=True) if i != none} for row in zip(indices, values, strict=True)
    ]


def exported(path: Path) -> dict[str, Any]:
    state = json.loads(re.search(r'id="labkit-state">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)[1])  # type: ignore[index]
    blobs = {name: base64.b64decode(text) for name, text in state["bytes"].items()}
    return state["values"] | blobs | {n: zlib.decompress(base64.b64decode(v)) for n, v in state["packed"].items()}


def looked_up(index: int) -> Any:
    return dashboard(SAE, index)


# what is sent -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [400, 70_000])
def test_activations_are_the_features_own(size: int) -> None:
    found = random_featured(30, sae=dictionary(size), undefined=(0, 7))
    view = features(found)
    assert view.facts["bytes"] == (2 if size == 400 else 4)
    for token, row in enumerate(sent(view)):
        kept = found.indices[token] >= 0
        assert row == dict(zip(found.indices[token][kept].tolist(), found.values[token][kept].tolist(), strict=True))
        assert list(row.values()) == sorted(row.values(), reverse=True)
    assert (sent(view)[0], sent(view)[7]) == ({}, {})
    np.testing.assert_array_equal(np.frombuffer(view.unexplained, "<f4"), found.unexplained.numpy())
    assert "".join(view.texts) == "".join(found.tokens)


def test_tokens_without_features_are_named_with_the_reason() -> None:
    why = dict(features(random_featured(9, undefined=(0, 5))).facts["undefined"])
    assert why[0].startswith("Features are not defined at the first token")
    assert "over 6 times as long as the typical one" in why[5]
    unmeasured = random_featured(9, sae=dictionary(typical_norm=None, outlier=None), undefined=(0, 5))
    assert dict(features(unmeasured).facts["undefined"])[5] == "Features are not defined at this token."


def test_the_strongest_is_opened_unless_another_is_asked_for() -> None:
    found = random_featured(30, sae=SAE)
    best, value, token = found.strongest(1)[0]
    view = features(found)
    assert view.feature == best.index
    assert view.facts["strongest"][0] == [best.index, value, token]
    assert features(found, feature=3).feature == 3
    assert features(found, feature=SAE[4]).feature == 4
    assert features(found, feature=np.int64(5)).feature == 5


def test_bytes_stay_modest_and_the_open_feature_is_whole() -> None:
    sae = dictionary(3_000)
    rows = [{(31 * i + j) % 3_000: 1 + 0.001 * (500 - j) for j in range(500)} for i in range(900)]
    found = featured([" a"] * 900, rows, sae=sae)
    view = features(found, feature=40)
    n = view.facts["n"]
    assert len(view.indices) + len(view.values) <= MOST_BYTES
    assert view.facts["most"] == 500 > n
    np.testing.assert_array_equal(np.frombuffer(view.shade, "<f4"), found.of(40).numpy())
    view.feature = 41
    np.testing.assert_array_equal(np.frombuffer(view.shade, "<f4"), found.of(41).numpy())
    assert features(random_featured(30)).shade == b"", "nothing is left out, so that it would be sent twice"


def test_a_long_text_is_drawn_from_its_beginning() -> None:
    view = features(random_featured(MOST_TOKENS + 50, k=3))
    assert (view.facts["tokens"], view.facts["drawn"]) == (MOST_TOKENS + 50, MOST_TOKENS)
    assert len(sent(view)) == len(view.texts) == MOST_TOKENS


def test_a_dashboard_is_sent_whole_and_is_json() -> None:
    known = dashboard(SAE, 7)
    told = plain(known)
    json.dumps(told, allow_nan=False)
    assert told["density"] == 0.00321
    assert [row["peak"] for row in told["examples"]] == [5] * 5
    assert [row["top"] for row in told["examples"]] == [True] * 3 + [False] * 2
    np.testing.assert_allclose(told["examples"][1]["values"], known.examples[1].activations, rtol=1e-5)
    assert told["kinds"][0] == ["stories", 0.72, 0.4]
    assert told["promoted"][0] == [" cat", 0.412]
    assert told["nearest"][2] == [10, 0.12]
    odd = dashboard(SAE, 7, chance_cosine=float("nan"), examples=(example(["\ud800", "b"], [1.0, float("nan")]),))
    json.dumps(plain(odd), allow_nan=False)
    assert plain(odd)["examples"][0]["values"] == [1.0, None]


# opening, typing, searching -----------------------------------------------------------------------------------------


def test_an_opened_feature_is_looked_up_once_in_a_worker() -> None:
    asked: list[tuple[int, threading.Thread]] = []

    def look_up(index: int) -> Any:
        asked.append((index, threading.current_thread()))
        return dashboard(SAE, index)

    view = features(random_featured(20, sae=SAE), look_up=look_up, feature=3)
    assert view.wait(10)
    view.feature = 9
    assert view.wait(10)
    assert view.dashboard["feature"] == 9
    assert view.opened == {"feature": 9, "state": "done", "message": ""}
    view.feature = 3
    assert view.opened["state"] == "done", "known already"
    assert view.dashboard["feature"] == 3
    assert [index for index, _ in asked] == [3, 9]
    assert threading.main_thread() not in [thread for _, thread in asked]
    view.close()


def test_what_a_lookup_raises_is_said_and_the_view_stands() -> None:
    def look_up(index: int) -> Any:
        if index == 1:
            raise BadInput("tiny-sae came without an index; make one.")
        if index == 2:
            raise RuntimeError("<b>oops</b>")
        return dashboard(SAE, 7 if index == 3 else index) if index < 5 else "no dashboard"

    view = features(random_featured(20, sae=SAE), look_up=look_up, feature=1)
    said = {}
    for index in (1, 2, 3, 5, 4):
        view.feature = index
        assert view.wait(10)
        said[index] = (view.opened["state"], view.opened["message"])
    assert said[1] == ("failed", "tiny-sae came without an index; make one.")
    assert said[2] == ("failed", "Feature 2 can't be looked up: RuntimeError: <b>oops</b>.")
    assert said[3] == ("failed", "look_up returned the dashboard of feature 7 for feature 3.")
    assert said[5] == ("failed", "look_up returned a str for feature 5; return its Dashboard.")
    assert said[4] == ("done", "")
    view.close()


def test_without_a_lookup_nothing_is_computed() -> None:
    view = features(random_featured(20, sae=SAE))
    assert view.opened["state"] == "idle"
    assert view.dashboard == {}
    assert not view._looker.busy


def spoken(text: str) -> Features:
    if "bad" in text:
        raise BadInput("No bad words, please.")
    if "other" in text:
        return random_featured(4, sae=dictionary(name="other-sae"))
    tokens = ["<s>", *(f" {word}" for word in text.split())]
    return featured(tokens, [{i: 1.0 + i} for i in range(len(tokens))], sae=SAE)


def test_the_view_follows_what_is_typed_and_keeps_its_feature() -> None:
    view = features(random_featured(12, sae=SAE), take=spoken, feature=2)
    assert view.typed == "".join(WORDS[1:12]), "without the start token"
    view.held = 11
    view.typed = "four words are here"
    assert view.wait(10)
    assert view.status["state"] == "done"
    assert view.texts == ["<s>", " four", " words", " are", " here"]
    assert (view.feature, view.held, view.version) == (2, -1, 1)
    for text, said in (
        ("bad", "No bad words, please."),
        ("other", "take returned features of other-sae, and the view shows those of tiny-sae."),
    ):
        view.typed = text
        assert view.wait(10)
        assert view.status == {"state": "failed", "message": said}
        assert view.version == 1
    view.close()


def test_a_text_without_features_says_why_and_the_next_one_opens_its_strongest() -> None:
    view = features(featured(["<s>"], [{}], sae=SAE), take=spoken)
    assert view.feature == -1
    assert "not defined at any token of this text" in view.facts["nothing"]
    assert "not defined at any token" in view._static_text()
    view.typed = "two words"
    assert view.wait(10)
    assert (view.feature, view.facts["nothing"]) == (2, "")
    view.close()
    silent = features(featured(["<s>", " a"], [{}, {}], sae=SAE))
    assert silent.facts["nothing"] == "No feature is active on any token of this text."


def test_searching_gives_features_with_sentences() -> None:
    def search(words: str) -> list[tuple[Any, str]]:
        if words == "fail":
            raise BadInput("The index has no words.")
        if words == "wrong":
            return [(10**6, "out of range")]
        return [] if words == "nothing" else [(SAE[12], f"promotes\n{words}"), *((i, "more") for i in range(100))]

    view = features(random_featured(12, sae=SAE), search=search)
    view.asked = "cats"
    assert view.wait(10)
    assert view.hits[:2] == [[12, "promotes cats"], [0, "more"]]
    assert len(view.hits) == MOST_HITS
    expected = {
        "nothing": ("done", "No feature was found for “nothing”."),
        "fail": ("failed", "The index has no words."),
        "wrong": ("failed", "There is no feature 1000000: tiny-sae has features 0 to 399."),
    }
    for words, (state, message) in expected.items():
        view.asked = words
        assert view.wait(10)
        assert view.searching == {"state": state, "message": message}
        assert view.hits == []
    view.asked = "  "
    assert view.searching == {"state": "idle", "message": ""}
    view.close()


# what comes too late ------------------------------------------------------------------------------------------------


def states(view: FeaturesView, name: str) -> list[str]:
    """Fills with the states that a trait goes through."""
    seen: list[str] = []
    view.observe(lambda change: seen.append(change["new"]["state"]), names=name)
    return seen


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


class Lock:
    """A view's lock, which says who waits for it."""

    def __init__(self, own: Any) -> None:
        self.own, self.waiting = own, 0

    def __enter__(self) -> None:
        if not self.own.acquire(blocking=False):
            self.waiting += 1
            self.own.acquire()
            self.waiting -= 1

    def __exit__(self, *_: object) -> None:
        self.own.release()


class Held:
    """A function that goes on when it is let, with what it was asked."""

    def __init__(self, then: Callable[[str], Any]) -> None:
        self.then, self.asked, self.go = then, [], threading.Event()  # type: ignore[var-annotated]

    def __call__(self, text: str) -> Any:
        self.asked.append(text)
        if "slow" in text:
            assert self.go.wait(10)
        return self.then(text)


def late(text: str) -> list[tuple[int, str]]:
    if "bad" in text:
        raise BadInput("The index has no words.")
    return [(3, text)]


def never(_: str) -> Any:
    pytest.fail("it was asked all the same")


def test_a_search_whose_box_was_cleared_as_it_began_says_nothing() -> None:
    """The worker has taken the words, and waits to say so, when they are wiped away."""
    view = features(random_featured(12, sae=SAE), search=never)
    view._searcher._delay_seconds = 0
    lock = view._lock = Lock(view._lock)  # type: ignore[assignment]
    seen = states(view, "searching")
    with lock:
        view.asked = "cats"
        until(lambda: lock.waiting == 1)
        view.asked = ""
    assert view.wait(10)
    assert seen == ["waiting", "idle"]
    assert view.searching == {"state": "idle", "message": ""}
    view.close()


@pytest.mark.parametrize("how", ["stopped", "typed over"])
def test_a_text_that_was_dropped_as_it_began_says_nothing(how: str) -> None:
    taken = Held(spoken)
    view = features(random_featured(12, sae=SAE), take=taken, feature=2)
    view._taker._delay_seconds = 0
    lock = view._lock = Lock(view._lock)  # type: ignore[assignment]
    seen = states(view, "status")
    with lock:
        view.typed = "one text"
        until(lambda: lock.waiting == 1)
        if how == "stopped":
            view._taker.stop()
        else:
            view.typed = "a second text"
    assert view.wait(10)
    assert seen == (["waiting", "stopped"] if how == "stopped" else ["waiting", "running", "done"])
    assert taken.asked == ([] if how == "stopped" else ["a second text"])
    view.close()


def test_words_typed_over_as_their_search_began_are_not_searched_for() -> None:
    search = Held(late)
    view = features(random_featured(12, sae=SAE), search=search)
    view._searcher._delay_seconds = 0
    lock = view._lock = Lock(view._lock)  # type: ignore[assignment]
    with lock:
        view.asked = "bad words"
        until(lambda: lock.waiting == 1)
        view.asked = "good ones"
    assert view.wait(10)
    assert search.asked == ["good ones"]
    assert view.hits == [[3, "good ones"]]
    assert view.searching["state"] == "done"
    view.close()


@pytest.mark.parametrize("words", ["slow and bad", "slow and good"])
@pytest.mark.parametrize("then", ["", "others"])
def test_a_search_that_comes_late_overwrites_nothing(words: str, then: str) -> None:
    """Whether it finds something or fails, after the box was cleared or other words were asked for."""
    search = Held(late)
    view = features(random_featured(12, sae=SAE), search=search)
    view._searcher._delay_seconds = 0
    seen = states(view, "searching")
    view.asked = words
    until(lambda: search.asked == [words])
    view.asked = then
    search.go.set()
    assert view.wait(10)
    assert seen == (["waiting", "running", "waiting", "running", "done"] if then else ["waiting", "running", "idle"])
    assert view.hits == ([[3, "others"]] if then else [])
    assert view.searching["message"] == ""
    view.close()


@pytest.mark.parametrize("text", ["slow and bad", "slow and good"])
def test_a_text_that_comes_late_overwrites_nothing(text: str) -> None:
    taken = Held(spoken)
    view = features(random_featured(12, sae=SAE), take=taken, feature=2)
    view._taker._delay_seconds = 0
    seen = states(view, "status")
    view.typed = text
    until(lambda: taken.asked == [text])
    view.typed = "this one"
    taken.go.set()
    assert view.wait(10)
    assert seen == ["waiting", "running", "waiting", "running", "done"]
    assert view.texts == ["<s>", " this", " one"]
    assert view.version == 1
    view.close()


@pytest.mark.parametrize("which", ["search", "take"])
def test_a_failure_that_waits_to_be_said_is_not_said_once_it_was_dropped(which: str) -> None:
    """It failed, and was told to stop before it could say so."""
    work = Held(late if which == "search" else spoken)
    view = features(random_featured(12, sae=SAE), **{which: work})
    worker, box, name = {
        "search": (view._searcher, "asked", "searching"),
        "take": (view._taker, "typed", "status"),
    }[which]
    worker._delay_seconds = 0
    lock = view._lock = Lock(view._lock)  # type: ignore[assignment]
    seen = states(view, name)
    setattr(view, box, "slow and bad")
    until(lambda: work.asked == ["slow and bad"])
    with lock:
        work.go.set()
        until(lambda: lock.waiting == 1)
        worker.stop()
    assert view.wait(10)
    assert seen == ["waiting", "running", "stopped"]
    view.close()


# what can't be used -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [None, "text", 3, torch.zeros(3)])
def test_features_of_nothing_are_refused(found: Any) -> None:
    with pytest.raises(BadInput, match=r"shows Features or a Dashboard, not a .*; get them with lk\.sae\.features"):
        features(found)


def test_other_input_that_cannot_be_used() -> None:
    found = random_featured(12, sae=SAE)
    with pytest.raises(BadInput, match="shows one text's features, and this is a list"):
        features([found])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="of no token"):
        features(featured([], [], sae=SAE))
    with pytest.raises(BadInput, match="look_up=3 can't be called"):
        features(found, look_up=3)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="A dashboard alone has no text"):
        features(dashboard(SAE, 3), take=spoken)


@pytest.mark.parametrize("feature", [400, -1, 2.5, True, "3"])
def test_an_unknown_feature_gives_the_autoencoders_own_sentence(feature: Any) -> None:
    with pytest.raises(BadInput) as own:
        SAE[feature]
    with pytest.raises(BadInput) as said:
        features(random_featured(12, sae=SAE), feature=feature)
    assert str(said.value) == str(own.value)


def test_a_value_that_is_refused_changes_nothing() -> None:
    view = features(random_featured(12, sae=SAE), feature=3)
    with pytest.raises(BadInput, match="There is no feature 400"):
        view.feature = 400
    with pytest.raises(traitlets.TraitError):
        view.feature = -1
    with pytest.raises(BadInput, match="There is no token 12"):
        view.held = 12
    assert (view.feature, view.held) == (3, -1)


# files and fallbacks ------------------------------------------------------------------------------------------------


def test_a_file_holds_the_activations_and_the_strongest_features_dashboards(tmp_path: Path) -> None:
    found = random_featured(60, sae=SAE)

    def look_up(index: int) -> Any:
        if index == found.strongest(2)[1][0].index:
            raise BadInput("This one is not there.")
        return dashboard(SAE, index)

    view = features(found, look_up=look_up, take=spoken, search=lambda _: [], feature=399)
    state = exported(view.to_html(tmp_path / "page.html"))
    assert state["indices"] == view.indices
    assert (
        list(state["dashboards"])
        == [str(i) for i in dict.fromkeys([399, *(f.index for f, _, _ in found.strongest(IN_A_FILE))])][:IN_A_FILE]
    )
    assert state["dashboards"]["399"]["density"] == 0.00321
    assert state["dashboards"][str(found.strongest(2)[1][0].index)] == {"failed": "This one is not there."}
    assert state["typed"] == ""
    assert (tmp_path / "page.html").stat().st_size < 250_000
    assert exported(features(found).to_html(tmp_path / "bare.html"))["dashboards"] == {}
    view.close()


def test_a_dashboard_stands_alone(tmp_path: Path) -> None:
    view = features(dashboard(SAE, 12))
    assert (view.feature, view.opened["state"], view.facts["text"]) == (12, "done", False)
    assert repr(view) == "FeaturesView('tiny-sae', feature=12)"
    assert "Feature 12: active on 0.32 % of 6,531,000 tokens" in view._static_text()
    assert list(exported(view.to_html(tmp_path / "page.html"))["dashboards"]) == ["12"]
    dead = features(dashboard(SAE, 13, dead=True))
    assert "Feature 13 is dead: active on none of 6,531,000 tokens." in dead._static_text()


def test_the_static_text_and_page_name_what_is_there() -> None:
    found = featured(WORDS[:4], [{}, {5: 2.0}, {5: 1.0, 6: 0.5}, {}], sae=SAE)
    view = features(found)
    assert repr(view) == "FeaturesView('<s>The cat sat', 4 tokens, feature=5)"
    text = view._static_text()
    assert text.splitlines() == [
        "tiny-sae · 400 features of what enters layer 3 of tiny-model · 4 tokens",
        "highest activation of the strongest features:",
        "feature 5: 2 on “The” (token 1)",
        "feature 6: 0.5 on “ cat” (token 2)",
    ]
    shapes = view._image().shapes
    words = {shape.text: shape for shape in shapes if isinstance(shape, Words)}
    assert words["<s>"].colour == "#8a929b", "features are not defined there"
    fills = {box.x: box.fill for box in shapes if isinstance(box, Box) and box.hover}
    assert fills == {
        words["The"].x: mixed(PAPER, ACCENT, 0.75),
        words["cat"].x: mixed(PAPER, ACCENT, 0.375),
    }
    assert "sat" in words


@pytest.mark.parametrize("tokens", [HOSTILE, LONE_SURROGATES])
def test_hostile_tokens_stay_text(tokens: list[str], tmp_path: Path) -> None:
    found = featured(tokens, [{i: 1.0} for i in range(len(tokens))], sae=SAE, undefined=())
    hostile = [example(tokens, [1.0] * len(tokens), kind="</script><b>kind")]

    def look_up(index: int) -> Any:
        rows = tuple((token, 0.1) for token in tokens)
        return dashboard(SAE, index, examples=tuple(hostile), promoted=rows, kinds={"<i>": (1.0, 1.0)})

    view = features(found, look_up=look_up)
    assert view.wait(10)
    page = view.to_html(tmp_path / "page.html").read_text("utf-8")
    assert page.count("<script") == page.count("</script") == 2
    assert not re.search(r"<(img|i|b)\b", page)
    assert page.count("<svg") == 1, "the picture until the script has drawn"
    assert all(len(text) <= 200 for text in view.texts)
    view._static_text().encode("utf-8")
    view.close()


def test_it_is_registered_and_its_module_is_clean() -> None:
    assert lk.views.features is features
    source = FeaturesView.__dict__["_esm"]
    assert not re.search(r"^(import|export (?!default))", source, re.M)
    assert "innerHTML" not in source
    assert "insertAdjacentHTML" not in source
    assert not re.search(r"https?://|url\(|@import|fetch\(", source + FeaturesView.__dict__["_css"])
    own = set(FeaturesView.class_traits(sync=True)) - set(anywidget.AnyWidget.class_traits())
    assert not {name for name in own if hasattr(anywidget.AnyWidget, name)}


def test_reading_does_not_change_what_it_reads() -> None:
    found = random_featured(12, sae=SAE)
    before = found.indices.clone(), found.values.clone()
    drawn(found)
    assert torch.equal(found.indices, before[0])
    assert torch.equal(found.values, before[1])
