"""The steering view: one unsteered text a prompt, the latest strengths win, and what fails leaves the old text."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from generations import HOSTILE, LONE_SURROGATES
from pictured import underlined, words
from steered import FEATURES, PLAIN, PROMPT, SECONDS, STORMY, Writer

import labkit.views
from labkit.errors import BadInput, Unavailable
from labkit.views import steering_view as room
from labkit.views.kit.latest import stop_all
from labkit.views.steering_view import MOST_FEATURES, Steered, SteeringView, steering, strength_words


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def view(writer: Writer) -> Iterator[SteeringView]:
    made = steering(writer, FEATURES, prompt=PROMPT)
    yield made
    made.close()
    assert made.wait(SECONDS), "a worker outlived its view"


def done(view: SteeringView) -> SteeringView:
    assert view.wait(SECONDS)
    return view


def told(view: SteeringView) -> tuple[str, str]:
    return view.status["state"], view.status["message"]


def go(writer: Writer, tokens: int) -> None:
    for _ in range(tokens):
        writer.let.release()
        assert writer.made.acquire(timeout=SECONDS)


def held(view: SteeringView, writer: Writer, strengths: dict[Any, float], tokens: int = 3) -> None:
    """A steered text under way, so many tokens long."""
    done(view)
    writer.hold = True
    writer.began, writer.made = threading.Semaphore(0), threading.Semaphore(0)
    view.strengths = strengths
    assert writer.began.acquire(timeout=SECONDS)
    go(writer, tokens)


def of(text: str, loss: float | None = 1.0, **settings: Any) -> Callable[..., Iterator[Steered]]:
    return lambda _prompt, _strengths, _stop: iter([Steered(tuple(text.split()), loss, True, **settings)])


def finished(*events: Any, strengths: dict[Any, float] | None = None, **settings: Any) -> SteeringView:
    """A view whose unsteered and steered texts are these events."""
    plain, pushed = (events * 2)[:2]
    view = steering(
        lambda _prompt, given, _stop: iter([pushed if any(given.values()) else plain]),
        FEATURES,
        **{"prompt": PROMPT, **settings},
    )
    done(view)
    view.strengths = {1234: 5} if strengths is None else strengths
    return done(view)


# the texts ----------------------------------------------------------------------------------------------------------


def test_it_is_registered() -> None:
    assert labkit.views.steering is steering
    assert "steering" in labkit.views.__all__


def test_the_unsteered_text_comes_at_once_and_once_a_prompt(view: SteeringView, writer: Writer) -> None:
    done(view)
    assert writer.calls == [(PROMPT, {1234: 0.0, "calm": 0.0})]
    assert view.unsteered == Steered(PLAIN, 2.0, True)
    assert view.steered is None
    assert told(view) == ("done", "unsteered text: 7 tokens")
    view.strengths = {1234: 12.5}
    done(view)
    view.strengths = {"calm": -8}
    done(view)
    assert [strengths for _, strengths in writer.calls[1:]] == [{1234: 12.5, "calm": 0.0}, {1234: 0.0, "calm": -8.0}]
    assert view.steered == Steered(STORMY, 3.25, True)
    assert told(view) == ("done", "steered text: 9 tokens")
    view.strengths = {}
    done(view)
    assert len(writer.calls) == 3, "the unsteered text is kept"
    assert (view.steered, view.shown["steered"]) == (None, None)
    assert told(view) == ("done", "unsteered text: 7 tokens")
    assert writer.closed == 3


def test_the_page_sets_values_as_python_does(view: SteeringView, writer: Writer) -> None:
    done(view)
    view.set_state({"values": [0, 1.5]})  # as a message of the slider arrives
    done(view)
    assert view.strengths == {1234: 0.0, "calm": 1.5}
    assert writer.calls[-1] == (PROMPT, {1234: 0.0, "calm": 1.5})


def test_another_prompt_and_back(view: SteeringView, writer: Writer) -> None:
    view.strengths = {1234: 3}
    done(view)
    view.prompt = "Then"
    assert view.shown["unsteered"]["old"]
    assert view.unsteered is None
    done(view)
    assert [(prompt, any(strengths.values())) for prompt, strengths in writer.calls] == [
        (PROMPT, False),
        (PROMPT, True),
        ("Then", False),
        ("Then", True),
    ]
    assert not view.shown["unsteered"]["old"]
    view.prompt = PROMPT
    assert not view.shown["unsteered"]["old"], "kept, it is there at once"
    done(view)
    assert writer.calls[4:] == [(PROMPT, {1234: 3.0, "calm": 0.0})]


def test_an_empty_prompt_is_said_and_the_text_stands(view: SteeringView, writer: Writer) -> None:
    done(view)
    view.set_state({"prompt": "  \n"})
    done(view)
    assert told(view) == ("failed", "The prompt is empty; write something that the model can go on from.")
    assert view.shown["unsteered"]["tokens"] == list(PLAIN)
    assert view.shown["prompt"] == PROMPT
    assert len(writer.calls) == 1
    view.prompt = PROMPT
    assert told(done(view)) == ("done", "unsteered text: 7 tokens")


def test_it_says_what_it_does_while_it_writes(view: SteeringView, writer: Writer) -> None:
    done(view)
    seen: list[tuple[str, str]] = []
    view.observe(lambda _: seen.append(told(view)), names="status")
    held(view, writer, {1234: 4}, tokens=1)
    writer.hold = False
    done(view)
    assert seen[:4] == [
        ("waiting", ""),
        ("running", ""),
        ("running", "writing the steered text …"),
        ("running", "writing the steered text … 1 token"),
    ]
    assert seen[-1] == ("done", "steered text: 9 tokens")


def test_a_text_under_way_is_shown_beside_the_other(view: SteeringView, writer: Writer) -> None:
    held(view, writer, {1234: 4}, tokens=5)
    assert view.steered == Steered(STORMY[:5])
    shown = view._shown()
    assert shown["steered"]["state"] == "writing"
    assert shown["steered"]["of"] == [["storms", 4.0, 12.5]]
    assert shown["parted"] == 3
    assert shown["steered"]["loss"] == ""


def test_an_iterator_that_just_ends_is_done_too(writer: Writer) -> None:
    view = done(steering(lambda *_: iter([Steered(("a",)), Steered(("a", "b"))]), FEATURES, prompt="x"))
    assert told(view) == ("done", "unsteered text: 2 tokens")
    assert view.unsteered == Steered(("a", "b"))


def test_what_has_the_fields_of_an_event_is_one() -> None:
    bare = SimpleNamespace(tokens=["a", "b"], mean_loss=1, done=True)
    noted = SimpleNamespace(tokens=["a"], mean_loss=2.5, done=True, note="the model broke")
    view = finished(bare, noted)
    assert (view.unsteered, view.steered) == (
        Steered(("a", "b"), 1.0, True),
        Steered(("a",), 2.5, True, "the model broke"),
    )
    assert view.shown["steered"]["note"] == "The model broke"


# stopping -----------------------------------------------------------------------------------------------------------


def test_a_slider_that_moves_on_stops_the_text_before(view: SteeringView, writer: Writer) -> None:
    held(view, writer, {1234: 4})
    writer.hold = False
    for value in (5, 6, 7):
        view.strengths = {1234: value}
    assert view.shown["steered"]["old"]
    done(view)
    assert writer.stops[1].is_set()
    assert [strengths[1234] for _, strengths in writer.calls] == [0, 4, 7], "only where the slider rests"
    assert writer.most_running == 1
    assert writer.closed == 3
    assert view.steered == Steered(STORMY, 3.25, True)
    assert view.shown["steered"]["of"] == [["storms", 7.0, 12.5]]


def test_a_slider_does_not_stop_the_unsteered_text(writer: Writer) -> None:
    writer.hold = True
    view = steering(writer, FEATURES, prompt=PROMPT)
    assert writer.began.acquire(timeout=SECONDS)
    go(writer, 3)
    view.strengths = {1234: 4}
    view.strengths = {1234: 5}
    assert not writer.stops[0].is_set()
    go(writer, 1)
    writer.hold = False
    done(view)
    assert [strengths[1234] for _, strengths in writer.calls] == [0, 5]
    assert writer.most_running == 1
    assert view.unsteered == Steered(PLAIN, 2.0, True)
    view.close()


def test_another_prompt_stops_the_unsteered_text(writer: Writer) -> None:
    writer.hold = True
    view = steering(writer, FEATURES, prompt=PROMPT)
    assert writer.began.acquire(timeout=SECONDS)
    go(writer, 3)
    view.prompt = "Then"
    assert writer.stops[0].wait(SECONDS)
    writer.hold = False
    done(view)
    assert [prompt for prompt, _ in writer.calls] == [PROMPT, "Then"]
    assert view.unsteered == Steered(PLAIN, 2.0, True)
    view.close()


def test_stop_keeps_what_there_is_and_again_goes_on(view: SteeringView, writer: Writer) -> None:
    held(view, writer, {1234: 4})
    view._handle_custom_msg({"ask": "stop", "id": 1}, [])  # the button
    done(view)
    assert told(view) == ("stopped", "stopped after 3 tokens")
    assert view.steered == Steered(STORMY[:3])
    assert view.shown["steered"]["state"] == "stopped"
    writer.hold = False
    view._handle_custom_msg({"ask": "again", "id": 2}, [])
    assert told(done(view)) == ("done", "steered text: 9 tokens")
    assert len(writer.calls) == 3


def test_an_unsteered_text_that_was_stopped_is_not_kept(writer: Writer) -> None:
    writer.hold = True
    view = steering(writer, FEATURES, prompt=PROMPT)
    view.strengths = {1234: 4}
    assert writer.began.acquire(timeout=SECONDS)
    go(writer, 2)
    view.stop()
    done(view)
    assert told(view) == ("stopped", "stopped after 2 tokens")
    assert view.unsteered == Steered(PLAIN[:2])
    assert len(writer.calls) == 1
    writer.hold = False
    view.strengths = {1234: 5}
    done(view)
    assert [strengths[1234] for _, strengths in writer.calls] == [0, 0, 5]
    assert view.unsteered == Steered(PLAIN, 2.0, True)
    view.close()


def test_stop_before_the_start_says_so(writer: Writer) -> None:
    view = steering(writer, FEATURES, prompt=PROMPT)
    view.stop()
    done(view)
    assert (told(view), writer.calls) == (("stopped", "stopped before it began"), [])
    assert view._static_text().endswith("nothing written yet")
    view.close()


def test_stopped_before_its_first_token_it_leaves_the_old_text(view: SteeringView, writer: Writer) -> None:
    done(view)
    view.strengths = {1234: 4}
    held(view, writer, {1234: 5}, tokens=0)
    view.stop()
    done(view)
    assert told(view) == ("stopped", "stopped")
    assert view.shown["steered"]["tokens"] == list(STORMY)
    assert view.shown["steered"]["of"] == [["storms", 4.0, 12.5]]
    assert view.shown["steered"]["old"]


def test_all_workers_told_to_stop_do(writer: Writer) -> None:
    writer.hold = True
    view = steering(writer, FEATURES, prompt=PROMPT)
    assert writer.began.acquire(timeout=SECONDS)
    stop_all()  # as a notebook that begins anew
    done(view)
    writer.hold = False
    view.strengths = {1234: 4}
    assert told(done(view)) == ("done", "steered text: 9 tokens")
    view.close()


def test_closing_stops_the_workers(writer: Writer) -> None:
    writer.hold = True
    view = steering(writer, FEATURES, prompt=PROMPT)
    assert writer.began.acquire(timeout=SECONDS)
    view.close()
    done(view)
    assert writer.closed == 1
    assert "labkit-latest" not in [thread.name for thread in threading.enumerate()]
    view.again()
    done(view)
    assert len(writer.calls) == 1


def test_a_cell_run_again_stops_the_view_it_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(cell: str, run: str, writer: Any) -> SteeringView:
        monkeypatch.setattr(room, "place", lambda: (cell, run))
        return steering(writer, FEATURES, prompt=PROMPT)

    old, beside, other = Writer(), Writer(), Writer()
    for each in (old, beside, other):
        each.hold = True
    views = [made("cell a", "1", old), made("cell a", "1", beside), made("cell b", "2", other)]
    for each in (old, beside, other):
        assert each.began.acquire(timeout=SECONDS), "two of one run, and those of other cells, go side by side"
        go(each, 2)
    running_then: list[int] = []

    def again(_prompt: str, _strengths: dict[Any, float], _stop: threading.Event) -> Iterator[Steered]:
        running_then.append(old.running + beside.running)
        yield Steered(PLAIN, 2.0, True)

    new = done(made("cell a", "3", again))
    assert [told(done(view)) for view in views[:2]] == [("stopped", "stopped after 2 tokens")] * 2
    assert new.unsteered == Steered(PLAIN, 2.0, True)
    assert running_then == [0], "the new one waits for the old ones' end"
    assert other.running == 1
    assert not other.stops[0].is_set()
    views[0].strengths = {1234: 4}
    assert old.began.acquire(timeout=SECONDS), "the old one can still be used"
    for view in (*views, new):
        view.close()
        done(view)


def test_interrupting_wait_stops_the_text(view: SteeringView, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    held(view, writer, {1234: 4})

    def interrupted(_seconds: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(view._pushed._changed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view.wait()
    done(view)
    assert told(view) == ("stopped", "stopped after 3 tokens")


def test_wait_gives_up_in_time(view: SteeringView, writer: Writer) -> None:
    held(view, writer, {1234: 4})
    assert view.wait(0.05) is False


# failing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (Unavailable("The model has left; load it again."), "failed", "The model has left; load it again."),
        (RuntimeError("no\n<b>luck</b>\u202e"), "failed", "The text can't be written: RuntimeError: no <b>luck</b>⟨U+202E⟩."),
        (ValueError(), "failed", "The text can't be written: ValueError."),
        (SystemExit(), "failed", "The text can't be written: SystemExit."),
        (KeyboardInterrupt(), "stopped", "interrupted"),
    ],
)  # fmt: skip
def test_failure_is_one_sentence_and_the_old_text_is_kept(
    view: SteeringView, writer: Writer, error: BaseException, state: str, message: str
) -> None:
    view.strengths = {1234: 4}
    done(view)
    writer.error = error
    writer.stormy = (" Other", " words", " here")
    view.strengths = {1234: 5}
    done(view)
    assert told(view) == (state, message)
    shown = view.shown["steered"]
    assert (shown["tokens"], shown["of"], shown["old"]) == (list(STORMY), [["storms", 4.0, 12.5]], True)
    assert view.steered is None, "there is none at these strengths"
    writer.error = None
    view.again()
    assert told(done(view)) == ("done", "steered text: 3 tokens")


def test_an_unsteered_text_that_fails_is_tried_again(writer: Writer) -> None:
    writer.error = Unavailable("Not now.")
    view = steering(writer, FEATURES, prompt=PROMPT)
    view.strengths = {1234: 4}
    assert told(done(view)) == ("failed", "Not now.")
    assert len(writer.calls) == 1, "there is nothing to compare with"
    assert view.shown["unsteered"] is None
    writer.error = None
    view.again()
    assert told(done(view)) == ("done", "steered text: 9 tokens")
    view.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "run returned a NoneType where an iterator of Steered is needed; write it as a generator."),
        ([], "run ended without an event; let it yield a Steered at least once."),
        (["text"], "run yielded a str where a labkit.sae.Steered is needed."),
        ([Steered("text")], "tokens of a Steered are texts; give a tuple of them."),  # type: ignore[arg-type]
        ([Steered((1,))], "tokens of a Steered are texts; give a tuple of them."),  # type: ignore[arg-type]
        (
            [Steered((), "2")],  # type: ignore[arg-type]
            "mean_loss='2' of a Steered is no number; give nats per token, or None.",
        ),
    ],
)
def test_what_run_gives_wrongly_is_said(given: Any, message: str) -> None:
    view = done(steering(lambda *_: given, FEATURES, prompt=PROMPT))
    assert told(view) == ("failed", message)
    view.close()


def test_an_older_text_never_shows_even_when_it_cannot_be_stopped() -> None:
    began, release = threading.Event(), threading.Event()

    def stubborn(_prompt: str, strengths: dict[Any, float], _stop: threading.Event) -> Iterator[Steered]:
        if strengths[1234] == 4:
            began.set()
            release.wait(SECONDS)
            yield Steered(("earlier",))
            raise RuntimeError("earlier")
        yield Steered((f"at {strengths[1234]:g}",), 1.0, True)

    view = done(steering(stubborn, FEATURES, prompt=PROMPT))
    view.strengths = {1234: 4}
    assert began.wait(SECONDS)
    seen: list[Any] = []
    view.observe(lambda change: seen.append((told(view), change["new"]["steered"])), names="shown")
    view.strengths = {1234: 5}
    release.set()
    done(view)
    assert "earlier" not in str(seen)
    assert not any(state == "failed" for (state, _), _ in seen)
    assert view.steered == Steered(("at 5",), 1.0, True)
    view.close()


# what is drawn ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "pushed", "at"),
    [
        ("a b c", "a b d", 2),
        ("a b c", "x b c", 0),
        ("a b c", "a b c", None),
        ("a b c", "a b", 2),
        ("a b", "a b c", 2),
        ("", "", None),
        ("a", "", 0),
    ],
)
def test_where_they_part(plain: str, pushed: str, at: int | None) -> None:
    view = finished(Steered(tuple(plain.split()), 1.0, True), Steered(tuple(pushed.split()), 1.0, True))
    assert view.shown["parted"] == at


def test_a_shorter_text_parts_only_when_it_has_ended(view: SteeringView, writer: Writer) -> None:
    held(view, writer, {1234: 4}, tokens=2)
    assert view._shown()["parted"] is None


@pytest.mark.parametrize(
    ("plain", "pushed", "scale", "shares", "words"),
    [
        (2.0, 3.0, 4.0, (0.5, 0.75), ("3.000", "1.000 more than unsteered")),
        (3.0, 2.5, 4.0, (0.75, 0.625), ("2.500", "0.500 less than unsteered")),
        (1.0, 11.0, 12.0, (1 / 12, 11 / 12), ("11.000", "10.000 more than unsteered")),
        (2.0, None, 4.0, (0.5, None), ("", "")),
        (2.0, math.nan, 4.0, (0.5, None), ("not a number", "")),
        (2.0, math.inf, 4.0, (0.5, 1.0), ("infinite", "")),
        (0.0, 0.0, 4.0, (0.0, 0.0), ("0.000", "0.000 more than unsteered")),
        (1.0, 100.0, 100.0, (0.01, 1.0), ("100.000", "99.000 more than unsteered")),
    ],
)
def test_losses_stand_on_one_scale(
    plain: float, pushed: float | None, scale: float, shares: tuple[Any, Any], words: tuple[str, str]
) -> None:
    view = finished(Steered(("a",), plain, True), Steered(("b",), pushed, True))
    shown = view.shown
    assert shown["scale"] == scale
    assert (shown["unsteered"]["share"], shown["steered"]["share"]) == pytest.approx(shares)
    assert (shown["steered"]["loss"], shown["steered"]["gap"]) == words
    json.dumps(shown, allow_nan=False)


def test_a_bar_never_ends_before_its_loss() -> None:
    for loss in (0.1, 2, 24, 24.1, 31, 99.9, 1e6, 1e300):
        view = finished(Steered(("a",), loss, True))
        assert view.shown["scale"] >= loss
        view.close()


def test_the_note_is_shown(writer: Writer) -> None:
    writer.note = " The model\nbroke:\u202e the same token 12 times in a row. "
    view = steering(writer, FEATURES, prompt=PROMPT)
    view.strengths = {1234: 25}
    done(view)
    assert view.shown["steered"]["note"] == "The model broke:⟨U+202E⟩ the same token 12 times in a row."
    assert view.shown["unsteered"]["note"] == ""
    view.close()


def test_a_very_long_text_is_cut_and_that_is_said() -> None:
    view = finished(Steered(("a",) * 3_000, 1.0, True))
    assert (len(view.shown["steered"]["tokens"]), view.shown["steered"]["more"]) == (1_000, 2_000)
    assert view.shown["steered"]["count"] == 3_000


def test_saved_notebook_and_file_show_the_last_state(writer: Writer, tmp_path: Any) -> None:
    writer.note = "It <b>broke</b>."
    view = steering(writer, FEATURES, prompt="Once <i>upon</i>")
    view.strengths = {1234: 13.75, "calm": -3}
    done(view)
    assert repr(view) == "SteeringView('Once <i>upon</i>', 1234=13.75, calm=-3)"
    data, _ = view._repr_mimebundle_()
    assert data["text/plain"] == (
        "After 'Once <i>upon</i>':\n"
        "unsteered (mean loss 2.000 nats per token)\n"
        "  ' The cat sat on the mat.'\n"
        "steered: storms +13.75, quiet seas −3 (mean loss 3.250 nats per token; It <b>broke</b>.)\n"
        "  ' The cat sat in a storm of rain.'"
    )
    assert underlined(view._image()) == ["on", "the", "mat", ".", "in", "a", "storm", "of", "rain", "."]
    assert "After 'Once <i>upon</i>'" in words(view._image())
    assert "<b>" not in data["text/html"]
    page = view.to_html(tmp_path / "page.html").read_text("utf-8")
    assert ">storm</tspan>" in page
    assert "It &lt;b&gt;broke&lt;/b&gt;." in page
    view.close()


def test_a_text_under_way_is_written_to_a_file_as_it_was(view: SteeringView, writer: Writer, tmp_path: Any) -> None:
    held(view, writer, {1234: 4}, tokens=4)
    page = view.to_html(tmp_path / "page.html").read_text("utf-8")
    assert '"state": "writing"' in page
    assert "not finished" in page
    assert "in" in underlined(view._image())


def test_hostile_tokens_make_no_markup_and_valid_json(tmp_path: Any) -> None:
    tokens = (*HOSTILE, *LONE_SURROGATES)
    view = finished(Steered(tokens[::-1], 1.0, True), Steered(tokens, 2.0, True, HOSTILE[0]))
    page = view.to_html(tmp_path / "page.html").read_text("utf-8")
    assert "<script>window.broken" not in page
    assert "<img" not in page
    json.dumps(view.shown).encode("utf-8")
    assert repr(view)


# input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "There is no feature to steer with; give"),
        ([(i, "x", 1.0) for i in range(MOST_FEATURES + 1)], "There is room for 6 features"),
        (((i, "x", 1.0) for i in itertools.count()), "There is room for 6 features"),
        (5, "features=5 can't be used"),
        ([5], "5 names no feature"),
        (["abc"], "'abc' names no feature"),
        ([(1, "x")], "names no feature"),
        ([(1, "x", 0.0)], "The highest activation of feature 1 is 0.0, and a slider needs one above 0"),
        ([(1, "x", -1)], "needs one above 0"),
        ([(1, "x", math.nan)], "needs one above 0"),
        ([(1, "x", math.inf)], "needs one above 0"),
        ([(1, "x", True)], "needs one above 0"),
        ([(1, "x", "5")], "needs one above 0"),
        ([(1, "x", 1e308)], "can't be drawn"),
        ([(True, "x", 1.0)], "True is no key"),
        ([("", "x", 1.0)], "'' is no key"),
        ([(1.5, "x", 1.0)], "1.5 is no key"),
        ([(1, "x", 1.0), (1, "y", 2.0)], "Feature 1 comes twice"),
    ],
)
def test_features_that_cannot_be_steered_are_refused(writer: Writer, features: Any, message: str) -> None:
    with pytest.raises(BadInput) as error:
        steering(writer, features, prompt=PROMPT)
    assert message in str(error.value)
    assert writer.calls == []


def test_a_number_and_a_name_alike_are_two_features(writer: Writer) -> None:
    view = done(steering(writer, [(1, "x", 1.0), ("1", "y", 1.0)], prompt=PROMPT))
    assert view.strengths == {1: 0.0, "1": 0.0}
    view.close()


@pytest.mark.parametrize("prompt", ["", " \n", None, 5])
def test_a_prompt_of_nothing_is_refused(writer: Writer, prompt: Any) -> None:
    with pytest.raises(BadInput, match="nothing to go on from"):
        steering(writer, FEATURES, prompt=prompt)


def test_other_settings_that_cannot_be_are_refused(writer: Writer) -> None:
    with pytest.raises(BadInput, match="can't be called"):
        steering("run", FEATURES, prompt=PROMPT)  # type: ignore[arg-type]
    for limit in (0, -1, math.nan, math.inf, True, "2"):
        with pytest.raises(BadInput, match="gives a slider no room"):
            steering(writer, FEATURES, prompt=PROMPT, limit=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values", [[1.0], [1.0, 2.0, 3.0], [26.0, 0], [-25.1, 0], [math.nan, 0], ["1", 0], [True, 0], [None, 0]]
)
def test_strengths_out_of_range_are_refused_and_nothing_changes(
    view: SteeringView, writer: Writer, values: list[Any]
) -> None:
    view.strengths = {1234: 25, "calm": -8}  # the ends of both
    done(view)
    with pytest.raises(BadInput):
        view.values = values
    with pytest.raises(BadInput):
        view.set_state({"values": values})
    assert view.values == [25, -8]
    done(view)
    assert len(writer.calls) == 2


def test_an_unknown_feature_is_refused(view: SteeringView) -> None:
    with pytest.raises(BadInput, match="There is no feature 'storms' here; give of 1234, 'calm'"):
        view.strengths = {"storms": 1}


def test_limit_and_unit(writer: Writer) -> None:
    view = done(steering(writer, [(1, "x", 1 / 3)], prompt=PROMPT, limit=3, unit="norms"))
    assert view.features[0] == {"key": "1", "label": "x", "typical": 1 / 3, "high": 1.0, "steps": 40}
    assert view.unit == "norms"
    view.close()


def test_strengths_in_words() -> None:
    assert [strength_words(v) for v in (0.0, 12.5, -3.0, 0.1, 27.42)] == ["0", "+12.5", "−3", "+0.1", "+27.42"]
