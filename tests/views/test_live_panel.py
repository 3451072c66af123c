"""The live panel: events kept exactly, drawn within bounds, and a Stop that keeps what was done."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from generations import HOSTILE
from hypothesis import example, given
from hypothesis import strategies as st
from pictured import words

from labkit.errors import BadInput, Unavailable
from labkit.views import live
from labkit.views import live_panel as room
from labkit.views.drawing.svg import svg
from labkit.views.kit.curves import line_points, number
from labkit.views.live_panel import Event, LivePanel
from labkit.views.live_panel.record import as_event, bar_points

SECONDS = 10.0  # for what takes milliseconds; a test that waits so long has failed


class Steps:
    """Work of `total` steps that goes on step by step as it is let."""

    def __init__(self, total: int = 10, *, heeds: bool = True) -> None:
        self.total = total
        self.heeds = heeds
        self.let = threading.Semaphore(0)
        self.made = threading.Semaphore(0)
        self.closed = threading.Event()
        self.at_once = self.most_at_once = 0

    def __call__(self, stop: threading.Event) -> Iterator[Event]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            kept = []
            for i in range(self.total):
                while not self.let.acquire(timeout=0.01):
                    if stop.is_set():
                        break
                if self.heeds and stop.is_set():
                    return kept
                kept.append(i)
                yield Event(done=i + 1, total=self.total, say=f"step {i}", values={"loss": 1 / (i + 1)})
                self.made.release()
            return kept
        finally:
            self.at_once -= 1
            self.closed.set()

    def go(self, steps: int) -> None:
        """Let it make so many steps, and wait until it has."""
        for _ in range(steps):
            self.let.release()
        for _ in range(steps):
            assert self.made.acquire(timeout=SECONDS)


@pytest.fixture
def made() -> Iterator[Callable[..., LivePanel]]:
    panels: list[LivePanel] = []

    def make(work: Any, **settings: Any) -> LivePanel:
        panels.append(live(work, **settings))
        return panels[-1]

    yield make
    for panel in panels:
        panel.close()
        assert panel._worker.wait(SECONDS), "the worker outlived its panel"


def of(*events: Any, result: Any = None) -> Any:
    def work(_stop: threading.Event) -> Iterator[Any]:
        yield from events
        return result

    return work


def lines(panel: LivePanel) -> dict[str, np.ndarray]:
    """What the front end is given to draw."""
    values = np.frombuffer(panel.points, "<f8").reshape(-1, 2)
    ends = np.cumsum([line["n"] for line in panel.series])
    assert len(values) == (ends[-1] if len(ends) else 0)
    return {line["name"]: values[end - line["n"] : end] for line, end in zip(panel.series, ends, strict=True)}


# what is kept and shown -------------------------------------------------------------------------------------------------


def test_work_runs_and_is_kept(made: Any) -> None:
    events = [Event(done=i, total=3, say=f"at {i}", values={"loss": 3.0 - i, "test": 4.0 - i}) for i in (1, 2, 3)]
    panel = made(of(*events, result={"best": 2}), title="Losses", unit="nats", x="step", y="loss")
    assert panel.wait(SECONDS)
    assert panel.events == events
    assert panel.result == {"best": 2}
    assert panel.state == "finished"
    assert (panel.status["done"], panel.status["total"], panel.status["say"]) == (3, 3, "at 3")
    assert panel.status["values"] == [["loss", "0"], ["test", "1"]]
    assert panel.status["message"] == "finished: 3 of 3"
    assert lines(panel)["loss"].tolist() == [[1, 2], [2, 1], [3, 0]]
    assert repr(panel) == "LivePanel('Losses', finished)"


def test_dicts_tensors_and_numpy_numbers_are_events_too(made: Any) -> None:
    given_ = {
        "done": np.int64(1),
        "total": 2,
        "values": {"a": torch.tensor(0.5), "b": np.float32(2)},
        "at": torch.tensor(7),
    }
    panel = made(of(given_, {"say": "no numbers"}))
    assert panel.wait(SECONDS)
    first, second = panel.events
    assert first == Event(done=1, total=2, values={"a": 0.5, "b": 2.0}, at=7.0)
    assert {type(value) for value in first.values.values()} == {float}
    assert second == Event(say="no numbers")
    assert lines(panel)["a"].tolist() == [[7, 0.5]]
    assert panel.status["done"] == 1, "what an event does not say stays as it was"


def test_without_at_the_place_is_done_or_the_number_of_the_event(made: Any) -> None:
    panel = made(of({"values": {"a": 1}}, {"done": 10, "values": {"a": 2}}, {"values": {"a": 3}, "at": 0.5}))
    assert panel.wait(SECONDS)
    assert lines(panel)["a"][:, 0].tolist() == [1, 10, 0.5]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (3, "an int is none|a int is none"),
        ({"finished": 1}, "no field 'finished'; its fields are done, total, say, values, at"),
        ({"values": [1.0]}, "this is a list"),
        ({"values": {"loss": "low"}}, "'loss' is a str"),
        ({"values": {"loss": torch.zeros(3)}}, "'loss' is a Tensor where one number is needed"),
        ({"done": -1}, "-1 is none; give a whole number"),
        ({"done": math.nan}, "nan is none"),
        ({"total": 2.5}, "2.5 is none"),
    ],
)
def test_what_is_no_event_fails_in_one_sentence(made: Any, wrong: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        as_event(wrong)
    panel = made(of(Event(done=1, total=2), wrong, Event(done=2, total=2)))
    with pytest.raises(BadInput, match=told):
        panel.wait(SECONDS)
    assert panel.state == "failed"
    assert len(panel.events) == 1


@pytest.mark.parametrize("work", [None, 3, iter([])])
def test_work_must_be_callable(work: Any) -> None:
    with pytest.raises(BadInput, match="can't be called"):
        live(work)


def test_a_chart_of_no_kind_is_refused() -> None:
    with pytest.raises(BadInput, match='give "line", "bars" or None'):
        live(of(), chart="pie")  # type: ignore[arg-type]


def test_work_that_yields_nothing_iterable_is_told(made: Any) -> None:
    panel = made(lambda _stop: None)
    with pytest.raises(BadInput, match="write it as a generator, with yield"):
        panel.wait(SECONDS)


def test_nan_and_infinities_are_gaps_and_said(made: Any) -> None:
    values = [1.0, math.nan, 2.0, math.inf, -math.inf, 3.0]
    panel = made(of(*({"values": {"loss": value}} for value in values)))
    assert panel.wait(SECONDS)
    drawn = lines(panel)["loss"]
    assert np.isnan(drawn[:, 1]).tolist() == [False, True, False, True, True, False]
    assert panel.status["gaps"] == ["Of 6 values of loss, 1 not a number and 2 infinite: gaps."]
    assert [event.values["loss"] for event in panel.events][3:] == [math.inf, -math.inf, 3.0], "kept as they came"
    assert "gaps" in panel._static_text()


def test_numbers_are_words_where_json_has_none() -> None:
    said = [number(value) for value in (math.nan, math.inf, -math.inf, -2.0, 1234567, 0.123456, 1e-9, -1e300)]
    assert said == ["not a number", "∞", "−∞", "−2", "1,234,567", "0.1235", "1e−09", "−1e+300"]


# bounds -----------------------------------------------------------------------------------------------------------------


def test_a_flood_is_a_few_small_messages_and_exact_events(made: Any) -> None:
    sent: list[float] = []
    sizes: list[int] = []
    total = 40_000
    begin = threading.Event()

    def work(_stop: threading.Event) -> Iterator[Event]:
        begin.wait(SECONDS)
        for i in range(total):
            yield Event(done=i + 1, total=total, say="x" * 5000, values={f"n{k}": math.sin(i / 50) for k in range(20)})

    panel = made(work)
    panel.observe(lambda change: (sent.append(time.monotonic()), sizes.append(len(panel.points))), names="status")
    began = time.monotonic()
    begin.set()
    assert panel.wait(60)
    took = time.monotonic() - began
    assert len(sent) <= took / 0.1 + 4
    assert max(sizes) <= 8 * 500 * 16
    assert len(panel.events) == total
    assert len(panel.series) == 8
    assert all(line["n"] <= 500 for line in panel.series)
    assert (panel.status["more"], panel.status["undrawn"], panel.status["pooled"]) == (8, 12, True)
    assert len(panel.status["say"]) <= 300


def test_a_lone_event_is_shown_though_nothing_follows(made: Any) -> None:
    steps = Steps(5)
    panel = made(steps)
    steps.go(2)  # the second comes sooner after the first than messages are sent
    _until(lambda: panel.status["done"] == 2)
    panel.stop()


@given(st.lists(st.floats(), max_size=2000), st.integers(6, 500))
@example([1.0] * 1000 + [math.nan] + [-2.0] * 500 + [math.inf] + [7.0] * 300, 300)
def test_a_pooled_line_keeps_extremes_and_gaps(values: list[float], limit: int) -> None:
    ys = np.array(values, dtype=np.float64)
    xs = np.arange(len(ys), dtype=np.float64)
    drawn = line_points(xs, ys, limit)
    finite = ys[np.isfinite(ys)]
    shown = drawn[~np.isnan(drawn[:, 1])]
    assert len(drawn) <= limit
    assert np.isnan(drawn).any() == (len(finite) < len(ys))
    assert set(shown[:, 1]) <= set(finite)
    assert (np.diff(shown[:, 0]) > 0).all(), "in their order"
    if len(finite):
        assert (shown[:, 1].min(), shown[:, 1].max()) == (finite.min(), finite.max())
        for x, y in shown:
            assert ys[int(x)] == y


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=1200))
@example([0.0] * 700 + [-3.0] + [1.0] * 700)
def test_pooled_bars_keep_the_one_farthest_from_zero(values: list[float]) -> None:
    ys = np.array(values)
    drawn = bar_points(np.arange(len(ys), dtype=np.float64), ys)
    assert len(drawn) <= 500
    assert np.abs(drawn[:, 1]).max() == np.abs(ys).max()


# stop, start, wait ------------------------------------------------------------------------------------------------------


def test_stop_keeps_what_was_done(made: Any) -> None:
    steps = Steps(270)
    panel = made(steps, title="All heads")
    steps.go(34)
    panel._handle_custom_msg({"ask": "stop", "id": "a"}, [])  # the button
    assert panel.wait(SECONDS)
    assert panel.state == "stopped"
    assert panel.status["message"] == "stopped after 34 of 270; what was done is kept"
    assert len(panel.events) == 34
    assert panel.result == list(range(34)), "work that heeds the stop returns what it has"


def test_while_work_winds_down_the_panel_says_so(made: Any) -> None:
    release, began = threading.Event(), threading.Event()

    def work(_stop: threading.Event) -> Iterator[Event]:
        yield Event(done=1, total=3)
        began.set()
        release.wait(SECONDS)

    panel = made(work)
    assert began.wait(SECONDS)
    panel.stop()
    _until(lambda: panel.status["stopping"])
    assert panel.state == "running"
    release.set()
    assert panel.wait(SECONDS)
    assert (panel.state, panel.status["stopping"]) == ("stopped", False)


def test_work_that_never_looks_is_closed(made: Any) -> None:
    steps = Steps(1000, heeds=False)
    panel = made(steps)
    steps.go(3)
    panel.stop()
    assert panel.wait(SECONDS)
    assert steps.closed.is_set(), "its finally ran"
    assert panel.state == "stopped"
    assert 3 <= len(panel.events) <= 6
    assert panel.result is None


def test_a_stop_after_the_last_step_leaves_it_finished(made: Any) -> None:
    yielded, release = threading.Event(), threading.Event()

    def work(_stop: threading.Event) -> Iterator[Event]:
        yield Event(done=2, total=2)
        yielded.set()
        release.wait(SECONDS)
        return "whole"

    panel = made(work)
    assert yielded.wait(SECONDS)
    panel.stop()
    release.set()
    assert panel.wait(SECONDS)
    assert (panel.state, panel.result) == ("finished", "whole")


def test_stop_after_the_end_changes_nothing(made: Any) -> None:
    panel = made(of(Event(done=1, total=1)))
    assert panel.wait(SECONDS)
    panel.stop()
    panel._handle_custom_msg({"ask": "stop", "id": "a"}, [])
    assert panel.state == "finished"


def test_a_panel_not_started_waits_for_its_button_or_wait(made: Any) -> None:
    panel = made(of(Event(done=1, total=1)), start=False)
    assert (panel.state, panel.status["begun"], panel.events) == ("waiting", False, [])
    panel.stop()
    assert panel.state == "waiting"
    panel._handle_custom_msg({"ask": "start", "id": "a"}, [])
    assert panel.wait(SECONDS)
    assert panel.state == "finished"
    other = made(of(Event(done=1, total=1)), start=False)
    assert other.wait(SECONDS)
    assert other.state == "finished"


def test_starting_again_stops_the_run_and_begins_anew(made: Any) -> None:
    steps = Steps(5)
    panel = made(steps)
    steps.go(2)
    panel.start()
    for _ in range(6):  # the run that ends may still take one
        steps.let.release()
    assert panel.wait(SECONDS)
    assert panel.state == "finished"
    assert [event.done for event in panel.events] == [1, 2, 3, 4, 5]
    assert steps.most_at_once == 1, "never two at once"


def test_a_cell_run_again_stops_the_panel_it_made_before(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(cell: str, run: str) -> None:
        monkeypatch.setattr(room, "place", lambda: (cell, run))

    old, other = Steps(), Steps()
    place("cell a", "1")
    first = made(old)
    place("cell b", "2")
    elsewhere = made(other)
    old.go(2)
    other.go(1)
    place("cell a", "3")
    ended_before: list[bool] = []

    def again(_stop: threading.Event) -> Iterator[Event]:
        ended_before.append(old.closed.is_set())
        yield Event(done=1, total=1)

    second = made(again)
    assert first.wait(SECONDS)
    assert second.wait(SECONDS)
    assert (first.state, second.state, elsewhere.state) == ("stopped", "finished", "running")
    assert ended_before == [True], "the new one waits for the old one's end"


def test_two_panels_of_one_run_of_a_cell_go_side_by_side(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "place", lambda: ("cell", "1"))
    one, two = Steps(2), Steps(2)
    panels = [made(one), made(two)]
    one.go(2)
    two.go(2)
    assert all(panel.wait(SECONDS) and panel.state == "finished" for panel in panels)


def test_waiting_gives_up_in_time(made: Any) -> None:
    steps = Steps()
    panel = made(steps)
    steps.go(1)
    assert panel.wait(0.05) is False
    assert panel.state == "running"


def test_an_interrupt_of_wait_stops_keeps_and_returns(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()
    panel = made(steps)
    steps.go(3)
    changed = panel._worker._changed
    real, interrupts = changed.wait, [KeyboardInterrupt()]

    def wait(seconds: float) -> bool:
        if threading.current_thread() is threading.main_thread() and interrupts:
            raise interrupts.pop()
        return real(seconds)

    monkeypatch.setattr(changed, "wait", wait)
    assert panel.wait(SECONDS) is True
    assert (panel.state, len(panel.events), panel.result) == ("stopped", 3, [0, 1, 2])


def test_a_second_interrupt_is_raised(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    panel = made(lambda _stop: iter([release.wait(SECONDS)][:0]))
    with monkeypatch.context() as patch:
        patch.setattr(panel._worker._changed, "wait", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            panel.wait()
    release.set()
    assert panel.wait(SECONDS)


def _interrupted(_seconds: float) -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unavailable("The model has left; load it again."), "failed after 1 of 3: The model has left; load it again."),
        (
            RuntimeError("out\nof <b>luck</b>\u202e"),
            "failed after 1 of 3: the work raised RuntimeError: out of <b>luck</b>⟨U+202E⟩",
        ),
        (SystemExit(), "failed after 1 of 3: the work raised SystemExit"),
    ],
)  # fmt: skip
def test_a_failure_is_one_sentence_and_wait_raises_it(made: Any, error: BaseException, message: str) -> None:
    def work(_stop: threading.Event) -> Iterator[Event]:
        yield Event(done=1, total=3, values={"loss": 2})
        raise error

    panel = made(work)
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            panel.wait(SECONDS)
        assert raised.value is error
    assert (panel.state, panel.status["message"]) == ("failed", message)
    assert len(panel.events) == 1
    assert panel.result is None


def test_closing_ends_the_work_and_its_threads(made: Any) -> None:
    steps = Steps()
    panel = made(steps)
    steps.go(1)
    panel.close()
    assert panel._worker.wait(SECONDS)
    assert steps.closed.is_set()
    _until(lambda: not {"labkit-latest", "labkit-live-draw"} & {thread.name for thread in threading.enumerate()})
    panel.start()
    assert not panel._worker.busy


def test_one_worker_thread_and_one_that_draws(made: Any) -> None:
    steps = Steps()
    made(steps)
    steps.go(1)
    names = [thread.name for thread in threading.enumerate()]
    assert (names.count("labkit-latest"), names.count("labkit-live-draw")) == (1, 1)


# where no script runs ---------------------------------------------------------------------------------------------------


def test_static_picture_has_the_last_word_and_a_table(made: Any) -> None:
    panel = made(
        of(*(Event(done=i, total=3, values={"loss": i * 0.5}) for i in (3, 1, 2)), Event(done=3)),
        title="T",
        unit="nats",
    )
    assert panel.wait(SECONDS)
    data, _ = panel._repr_mimebundle_()
    assert data["text/html"].startswith('<img src="data:image/svg+xml;base64,')
    said = words(panel._image())
    assert said[:2] == ["T", "finished: 3 of 3"]
    assert said[-10:] == ["name", "latest (nats)", "lowest", "highest", "values", "loss", "1", "0.5", "1.5", "3"]
    assert data["text/plain"].splitlines() == ["T: finished: 3 of 3", "  loss: 1 (lowest 0.5, highest 1.5, of 3)"]


def test_hostile_text_can_not_break_out(made: Any) -> None:
    panel = made(
        of(*(Event(say=text, values={text: 1.0}) for text in HOSTILE)), title=HOSTILE[0], unit="<b>", y="</script>"
    )
    assert panel.wait(SECONDS)
    static = panel._static_html().partition(" alt=")[2]
    for tag in ("<img", "<script", "<b>", "<svg", "<textarea"):
        assert tag not in static
        assert tag not in svg(panel._image())[4:]
    assert "<script>window" not in panel._page()


def test_what_was_displayed_is_replaced_by_the_last_word(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, bool, str]] = []

    def display(data: dict, *, display_id: str, update: bool = False, **_keywords: Any) -> None:
        shown.append((display_id, update, data["text/plain"]))

    monkeypatch.setattr("labkit.views.base.display", display)
    steps = Steps(2)
    panel = made(steps, title="T")
    panel._ipython_display_()
    steps.go(2)
    assert panel.wait(SECONDS)
    assert panel.wait(SECONDS)
    (first, _, _), *updates = shown
    assert [update for _, update, _ in updates] == [True], "once, whoever waits"
    assert updates[0][0] == first
    assert "finished: 2 of 2" in updates[0][2]


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
