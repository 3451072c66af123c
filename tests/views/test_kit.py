"""The kit on a small view: a job that does the latest thing asked for, and questions of a page with their answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets
import pytest
import traitlets

from labkit.errors import BadInput, Unavailable
from labkit.views.base import View
from labkit.views.kit.job import Job, Run
from labkit.views.kit.latest import stop_all
from labkit.views.kit.wire import Answer, answers, fits

SECONDS = 10.0


class Doubler(View):
    """Doubles `typed`, as `work` does it."""

    _esm = "export default { render() {} };"
    typed = traitlets.Unicode("").tag(sync=True)
    shown = traitlets.Unicode("").tag(sync=True)
    status = traitlets.Dict().tag(sync=True)

    def __init__(self, work: Callable[[str, Run], str] = lambda text, _run: 2 * text, **settings: Any) -> None:
        self.job: Job[str, str] = Job(self, work, self._draw, status="status", **settings)
        super().__init__()
        self.observe(lambda change: self.job.ask(change["new"]), names="typed")

    def _draw(self, text: str, doubled: str) -> str:
        self.shown = doubled
        return f"{text} doubled"

    @answers
    def _answer_part(self, start: int, count: int, exact: bool) -> Answer:
        if start < 0:
            raise BadInput(f"There is no part {start}.")
        if count > 9:
            raise ZeroDivisionError("that was too much")
        return Answer({"exact": exact}, [self.shown[start : start + count].encode()])

    @answers
    def _answer_name(self, other: str | None, pairs: list[list[int]]) -> str:
        return f"{other} {pairs}"


class Held:
    """Work that stops in the middle until it is let go on, or is stopped."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.began, self.go = threading.Semaphore(0), threading.Event()
        self.error = error
        self.asked: list[str] = []

    def __call__(self, text: str, run: Run) -> str:
        self.asked.append(text)
        self.began.release()
        while not self.go.wait(0.005) and not run.stop.is_set():
            pass
        if self.error is not None:
            raise self.error
        return 2 * text


def states(view: Doubler) -> list[str]:
    seen: list[str] = []
    view.observe(lambda change: seen.append(change["new"]["state"]), names="status")
    return seen


# jobs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(ipywidgets.__version__.startswith("7."), reason="ipywidgets 7 sends nothing without a kernel")
def test_a_result_comes_with_its_status_in_one_message() -> None:
    view = Doubler()
    seen = states(view)
    messages: list[dict[str, Any]] = []
    view._send = lambda message, buffers=None: messages.append(message.get("state", {}))  # type: ignore[method-assign]
    view.typed = "ab"
    assert view.wait(SECONDS)
    assert (view.shown, view.status) == ("abab", {"state": "done", "message": "ab doubled"})
    assert seen == ["waiting", "running", "done"]
    assert {"shown", "status"} <= set(messages[-1])
    view.close()


def test_what_is_out_of_date_is_not_shown_and_says_nothing() -> None:
    work = Held()
    view = Doubler(work)
    seen = states(view)
    view.typed = "old"
    assert work.began.acquire(timeout=SECONDS)
    view.typed = "new"
    work.go.set()
    assert view.wait(SECONDS)
    assert (view.shown, work.asked) == ("newnew", ["old", "new"])
    assert seen == ["waiting", "running", "waiting", "running", "done"]
    view.close()


def test_a_failure_of_something_older_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    work = Held(ZeroDivisionError())
    view = Doubler(work)
    view.typed = "old"
    assert work.began.acquire(timeout=SECONDS)
    view.job.answer("known", "known already")
    assert view.wait(SECONDS)
    assert (view.shown, view.status["state"]) == ("known already", "done")
    assert not caplog.records
    view.close()


@pytest.mark.parametrize(
    ("error", "state", "message", "logged"),
    [
        (BadInput("No <b>such</b> words."), "failed", "No <b>such</b> words.", False),
        (ZeroDivisionError("by 0"), "failed", "It can't be doubled: ZeroDivisionError: by 0.", True),
        (SystemExit(), "failed", "It can't be doubled: SystemExit.", True),
        (KeyboardInterrupt(), "stopped", "interrupted", False),
    ],
)
def test_an_error_is_one_sentence_and_the_unexpected_goes_to_the_log(
    error: BaseException, state: str, message: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    given_up: list[str] = []

    def work(_text: str, _run: Run) -> str:
        raise error

    view = Doubler(work, failed="It can't be doubled:", give_up=given_up.append)
    with caplog.at_level(logging.ERROR, "labkit"):
        view.typed = "ab"
        assert view.wait(SECONDS)
    assert view.status == {"state": state, "message": message}
    assert given_up == ["ab"]
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == ([error] if logged else [])
    view.close()


def test_what_show_raises_is_a_failure_too() -> None:
    view = Doubler(lambda _text, _run: 3)  # type: ignore[arg-type,return-value]
    view.typed = "ab"
    assert view.wait(SECONDS)
    assert view.status["state"] == "failed"
    assert "shown" in view.status["message"]
    view.close()


@pytest.mark.parametrize("kept", [False, True])
def test_stopping_says_so_and_shows_what_was_done_only_where_that_means_something(kept: bool) -> None:
    work = Held()
    view = Doubler(work, keep_stopped=kept)
    view.typed = "ab"
    assert work.began.acquire(timeout=SECONDS)
    assert view.job.stop() is False
    assert view.wait(SECONDS)
    assert view.status == {"state": "stopped", "message": "ab doubled" if kept else "stopped"}
    assert view.shown == ("abab" if kept else "")
    view.close()


@pytest.mark.parametrize("how", ["stop", "reset"])
def test_what_was_stopped_before_it_began_says_so(how: str) -> None:
    view = Doubler(delay_seconds=60.0)
    view.typed = "ab"
    if how == "stop":
        assert view.job.stop()
    else:
        stop_all()
    assert view.wait(SECONDS)
    assert view.status == {"state": "stopped", "message": "stopped before it began"}
    view.typed = "again"
    assert view.status["state"] == "waiting"
    view.close()


def test_interrupting_the_kernel_stops_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Held()
    view = Doubler(work)
    view.typed = "ab"
    assert work.began.acquire(timeout=SECONDS)

    def interrupted(_seconds: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(view.job._changed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view.wait()
    assert view.wait(SECONDS)
    assert view.status["state"] == "stopped"
    view.close()


def test_a_closed_view_gets_nothing_and_takes_nothing() -> None:
    work = Held()
    view = Doubler(work)
    view.typed = "ab"
    assert work.began.acquire(timeout=SECONDS)
    seen = states(view)
    view.close()
    work.go.set()
    assert view.wait(SECONDS)
    view.job.ask("more")
    assert view.wait(SECONDS)
    assert (view.shown, seen, work.asked) == ("", [], ["ab"])


def test_how_far_it_is_comes_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("labkit.views.kit.job.time.monotonic", lambda: clock[0])
    said: list[dict[str, Any]] = []

    def work(_text: str, run: Run) -> str:
        run.say("it begins")
        for done in range(1, 5):
            clock[0] += 3
            run.say(f"{done} of 4", done=done, total=4)
            run.say("too soon to be read")
        return ""

    view = Doubler(work)
    view.observe(lambda change: said.append(change["new"]), names="status")
    view.job.ask("ab")
    while view.job.busy:
        time.sleep(0.01)
    far = [status for status in said if "progress" in status]
    assert [(status["message"], status["progress"], status.get("left")) for status in far] == [
        ("1 of 4", 0.25, 9.0),
        ("2 of 4", 0.5, 6.0),
        ("3 of 4", 0.75, 3.0),
        ("4 of 4", 1.0, 0.0),
    ]
    view.close()


def test_partial_results_are_shown_while_they_are_wanted() -> None:
    wanted: list[bool] = []
    gate = threading.Event()
    view: Doubler

    def work(text: str, run: Run) -> str:
        if text == "old":
            wanted.append(run.show(lambda: view.set_trait("shown", "half")))
            gate.set()
            while not run.stop.wait(0.005):
                pass
            wanted.append(run.show(lambda: view.set_trait("shown", "out of date")))
        return 2 * text

    view = Doubler(work)
    view.typed = "old"
    assert gate.wait(SECONDS)
    assert view.shown == "half"
    view.typed = "new"
    assert view.wait(SECONDS)
    assert (wanted, view.shown) == ([True, False], "newnew")
    view.close()


def test_cleared_a_job_is_idle_and_its_facts_are_those_of_the_request() -> None:
    view = Doubler(facts=lambda text: {"of": text})
    view.typed = "ab"
    assert view.wait(SECONDS)
    assert view.status == {"state": "done", "message": "ab doubled", "of": "ab"}
    view.job.clear("none")
    assert view.status == {"state": "idle", "message": "", "of": "none"}
    view.close()


def test_a_view_refused_in_its_making_can_be_closed() -> None:
    class Refusing(View):
        _esm = "export default { render() {} };"

        def __init__(self) -> None:
            self.job: Job[str, str] = Job(self, lambda text, _run: text, lambda _text, _result: "", status="status")
            raise Unavailable("Not today.")

    with pytest.raises(Unavailable):
        Refusing()


# questions ----------------------------------------------------------------------------------------------------------


def asked(view: View, content: object) -> list[tuple[Any, list[bytes]]]:
    found: list[tuple[Any, list[bytes]]] = []
    view.send = lambda content, buffers=None: found.append((content, buffers))  # type: ignore[method-assign]
    view._handle_custom_msg(content, [])
    return found


def test_a_question_is_answered_by_the_method_of_its_name() -> None:
    view = Doubler()
    view.shown = "abcdef"
    args = {"start": 1, "count": 3, "exact": True}
    assert asked(view, {"ask": "part", "id": "x 1", "args": args}) == [
        ({"answer": "x 1", "value": {"exact": True}}, [b"bcd"])
    ]
    question = {"ask": "name", "id": 2, "args": {"other": None, "pairs": [[1, 2]]}}
    assert asked(view, question) == [({"answer": 2, "value": "None [[1, 2]]"}, [])]
    assert asked(view, {"ask": "ping", "id": 3}) == [({"answer": 3, "value": None}, [])]
    view.close()


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"ask": "close"}, "Doubler answers no question 'close'."),
        ({"ask": "part"}, "The question part takes start, count, exact, and was asked with {}."),
        ({"ask": "part", "args": [1]}, "The question part takes start, count, exact, and was asked with [1]."),
        ({"ask": "part", "args": {"start": 0, "count": 1, "exact": 1}}, "exact=1 of the question part can't be used."),
        ({"ask": "part", "args": {"start": True, "count": 1, "exact": True}}, "start=True of the question part"),
        ({"ask": "part", "args": {"start": -1, "count": 1, "exact": True}}, "There is no part -1."),
        ({"ask": "part", "args": {"start": 0, "count": 10, "exact": True}}, "It can't be answered: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    question: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    view = Doubler()
    [(said, buffers)] = asked(view, {**question, "id": 7})
    assert said["answer"] == 7
    assert said["refused"].startswith(why)
    assert buffers == []
    assert len(caplog.records) == ("ZeroDivision" in why)
    view.close()


@pytest.mark.parametrize("content", [None, "stop", [], {"type": "stop"}, {"ask": 3}])
def test_other_messages_are_left_alone(content: object) -> None:
    view = Doubler()
    assert asked(view, content) == []
    view.close()


@pytest.mark.parametrize(
    ("value", "kind", "good"),
    [
        (1, int, True),
        (True, int, False),
        (1.5, int, False),
        (1, float, True),
        ("a", str, True),
        (None, str, False),
        (None, int | None, True),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ([[1], [2, 3]], list[list[int]], True),
        ({"a": 1}, dict, True),
    ],
)
def test_values_fit_what_is_annotated(value: object, kind: object, good: bool) -> None:
    assert fits(value, kind) is good
