"""The temperature view: exact distributions, one worker, the latest request wins, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from generations import STORY, generation
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labkit.errors import BadInput, Unavailable
from labkit.generation.record import Generation
from labkit.views.kit.latest import Latest
from labkit.views.sampling_view import TemperatureView, temperature
from labkit.views.sampling_view.distribution import (
    SETTINGS,
    as_logits,
    entropy,
    most_probable,
    probabilities,
    row,
    table,
)

LOGITS = np.random.default_rng(1).normal(0, 2, 3000).astype(np.float32)
SECONDS = 10.0  # for what takes milliseconds; a test that waits so long has failed


class Sampler:
    """A generate() that records its calls and, when asked to, waits until it is stopped."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.events: list[threading.Event] = []
        self.began = threading.Semaphore(0)
        self.hang = False
        self.error: BaseException | None = None
        self.running = self.most_running = 0

    def __call__(self, prompt: str, *, on_token: Any, stop_event: threading.Event, **settings: Any) -> Generation:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.calls.append({"prompt": prompt, **settings})
        self.events.append(stop_event)
        self.began.release()
        try:
            on_token(generation(STORY[:1]))
            if self.error is not None:
                raise self.error
            if self.hang and not stop_event.wait(SECONDS):
                raise AssertionError("never stopped")
            kept = 3 if stop_event.is_set() else settings["max_new_tokens"]
            return generation(STORY[:kept], temperature=settings["temperature"])
        finally:
            self.running -= 1


@pytest.fixture
def sampler() -> Sampler:
    return Sampler()


@pytest.fixture
def view(sampler: Sampler) -> Iterator[TemperatureView]:
    made = make(sampler)
    yield made
    made.close()
    assert made.wait(SECONDS), "the worker outlived its view"


def make(sampler: Any, **settings: Any) -> TemperatureView:
    given_: dict[str, Any] = {"next_logits": lambda _: LOGITS, "token_text": lambda i: f" t{i}", "max_new_tokens": 6}
    return TemperatureView(sampler, "Once upon", **(given_ | settings))


finite = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))


@given(finite, st.floats(0.05, 2))
def test_probabilities_are_torch_s_softmax(logits: np.ndarray, at: float) -> None:
    expected = torch.softmax(torch.from_numpy(logits).double() / at, 0).numpy()
    np.testing.assert_allclose(probabilities(as_logits(logits), at), expected, atol=1e-12)


@given(finite)
def test_greedy_is_the_first_of_the_most_probable(logits: np.ndarray) -> None:
    chosen = probabilities(as_logits(logits), 0)
    assert chosen.sum() == 1
    assert int(chosen.argmax()) == int(logits.argmax()) == most_probable(as_logits(logits), 12)[0]
    assert entropy(chosen) == 0


@given(finite, st.integers(1, 50))
def test_most_probable_is_a_stable_sort(logits: np.ndarray, count: int) -> None:
    assert most_probable(as_logits(logits), count).tolist() == np.argsort(-logits, kind="stable")[:count].tolist()


def test_rows_sum_to_one_over_the_whole_vocabulary() -> None:
    logits = as_logits(LOGITS)
    ids = most_probable(logits, 12)
    whole = table(logits, ids)
    assert whole.shape == (41, 15)
    np.testing.assert_allclose(whole[:, 0], SETTINGS, rtol=1e-6)
    np.testing.assert_allclose(whole[:, 2:].sum(axis=1), 1, atol=1e-6)
    assert (np.diff(whole[:, 1]) > 0).all(), "entropy grows with temperature"
    np.testing.assert_allclose(whole[14, 3:], probabilities(logits, 0.7)[ids], rtol=1e-6)


def test_filtered_logits_are_fine_and_broken_ones_are_not() -> None:
    masked = as_logits([0.0, -np.inf, 1.0])
    assert probabilities(masked, 1)[1] == 0
    assert np.isfinite(entropy(probabilities(masked, 1)))
    assert np.isfinite(table(masked, most_probable(masked, 3))).all()
    for wrong in ([[0.0, 1.0]], [], [np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]):
        with pytest.raises(BadInput):
            as_logits(wrong)
    assert as_logits(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)).tolist() == [1, 2]


def test_sample_is_drawn_at_once_and_shown(view: TemperatureView, sampler: Sampler) -> None:
    assert view.wait(SECONDS)
    assert sampler.calls == [{"prompt": "Once upon", "max_new_tokens": 6, "temperature": 0.7, "seed": 0}]
    assert view.generation is not None
    assert view.facts["n"] == 6
    assert view.status["state"] == "done"
    assert view.status["message"].startswith("6 tokens in ")
    assert view.names[0] == f" t{int(LOGITS.argmax())}"
    assert view.others_count == 3000 - 12


def test_setting_the_temperature_does_what_the_slider_does(view: TemperatureView, sampler: Sampler) -> None:
    assert view.wait(SECONDS)
    view.temperature = 1.5
    ids = most_probable(as_logits(LOGITS), 12)
    np.testing.assert_array_equal(np.frombuffer(view.current, "<f4"), row(as_logits(LOGITS), ids, 1.5))
    assert view.wait(SECONDS)
    view.set_state({"temperature": 0.25})  # as a message of the slider arrives
    assert view.wait(SECONDS)
    assert [call["temperature"] for call in sampler.calls] == [0.7, 1.5, 0.25]
    assert view.distribution().sum() == pytest.approx(1)


def test_greedy_has_no_seed(sampler: Sampler) -> None:
    view = make(sampler, value=0)
    assert view.wait(SECONDS)
    assert sampler.calls[0]["seed"] is None
    assert sampler.calls[0]["temperature"] == 0
    view.close()


def test_another_sample_has_another_seed(view: TemperatureView, sampler: Sampler) -> None:
    assert view.wait(SECONDS)
    view._handle_custom_msg({"ask": "resample", "id": "a"}, [])  # the button
    assert view.wait(SECONDS)
    view.resample()
    assert view.wait(SECONDS)
    assert [call["seed"] for call in sampler.calls] == [0, 1, 2]


def test_latest_request_stops_the_one_in_progress(view: TemperatureView, sampler: Sampler) -> None:
    assert view.wait(SECONDS)
    sampler.began = threading.Semaphore(0)
    sampler.hang = True
    view.temperature = 1.0
    assert sampler.began.acquire(timeout=SECONDS)
    sampler.hang = False
    for value in (1.1, 1.2, 1.3):  # a slider on its way
        view.temperature = value
    assert view.wait(SECONDS)
    assert sampler.events[1].is_set()
    assert [call["temperature"] for call in sampler.calls] == [0.7, 1.0, 1.3], "only where the slider rests"
    assert sampler.most_running == 1
    assert view.generation is not None
    assert view.generation.sampling.temperature == 1.3
    assert view.status["state"] == "done"


def test_an_older_answer_never_shows_even_when_generate_cannot_be_stopped() -> None:
    began, release = threading.Event(), threading.Event()

    def stubborn(_prompt: str, *, temperature: float, on_token: Any, **_settings: Any) -> Generation:
        if temperature == 0.7:
            began.set()
            release.wait(SECONDS)
            on_token(generation(STORY[:2]))
            raise RuntimeError("old")
        return generation(STORY[:4], temperature=temperature)

    view = make(stubborn)
    seen: list[dict] = []
    assert began.wait(SECONDS)
    view.observe(lambda change: seen.append(change["new"]), names="status")
    view.temperature = 1.0
    release.set()
    assert view.wait(SECONDS)
    assert [status["state"] for status in seen] == ["waiting", "running", "done"]
    assert not any(status.get("draft") for status in seen)
    view.close()


def test_stop_keeps_what_there_is(view: TemperatureView, sampler: Sampler) -> None:
    assert view.wait(SECONDS)
    sampler.began = threading.Semaphore(0)
    sampler.hang = True
    view.resample()
    assert sampler.began.acquire(timeout=SECONDS)
    view._handle_custom_msg({"ask": "stop", "id": "b"}, [])  # the button
    assert view.wait(SECONDS)
    assert view.status["state"] == "stopped"
    assert view.status["message"].startswith("stopped after 3 tokens in ")
    assert view.facts["n"] == 3


def test_stop_before_the_start_says_so(sampler: Sampler) -> None:
    view = make(sampler)
    view.stop()
    assert view.wait(SECONDS)
    assert (view.status["state"], sampler.calls) == ("stopped", [])
    view.close()


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (Unavailable("The model has left; load it again."), "failed", "The model has left; load it again."),
        (RuntimeError("out\nof <b>luck</b>\u202e"), "failed", "The sample failed with RuntimeError: out of <b>luck</b>⟨U+202E⟩."),
        (ValueError(), "failed", "The sample failed with ValueError."),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (SystemExit(), "failed", "The sample failed with SystemExit."),
    ],
)  # fmt: skip
def test_failure_is_one_sentence_and_the_rest_stands(
    view: TemperatureView, sampler: Sampler, error: BaseException, state: str, message: str
) -> None:
    assert view.wait(SECONDS)
    before = view.block
    sampler.error = error
    view.temperature = 1.9
    assert view.wait(SECONDS)
    assert (view.status["state"], view.status["message"]) == (state, message)
    assert view.block == before
    sampler.error = None
    view.temperature = 1.8
    assert view.wait(SECONDS)
    assert view.status["state"] == "done"


def test_what_is_no_generation_is_a_failure_too() -> None:
    view = make(lambda *_args, **_settings: "just text")
    assert view.wait(SECONDS)
    assert view.status["state"] == "failed"
    view.close()


def test_closing_stops_the_worker(sampler: Sampler) -> None:
    sampler.hang = True
    view = make(sampler)
    assert sampler.began.acquire(timeout=SECONDS)
    view.close()
    assert view.wait(SECONDS)
    assert sampler.events[0].is_set()
    assert "labkit-latest" not in [thread.name for thread in threading.enumerate()]
    view.resample()
    assert view.wait(SECONDS)
    assert len(sampler.calls) == 1


def test_interrupting_wait_stops_the_sample(view: TemperatureView, sampler: Sampler, monkeypatch) -> None:
    assert view.wait(SECONDS)
    sampler.began = threading.Semaphore(0)
    sampler.hang = True
    view.resample()
    assert sampler.began.acquire(timeout=SECONDS)
    changed = view._job._changed

    def interrupted(_seconds: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(changed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view.wait()
    assert view.wait(SECONDS)
    assert view.status["state"] == "stopped"


@pytest.mark.parametrize("wrong", [-0.1, 2.1, float("nan"), float("inf")])
def test_temperature_out_of_range_is_refused_and_nothing_changes(view: TemperatureView, wrong: float) -> None:
    assert view.wait(SECONDS)
    with pytest.raises(BadInput, match="can't be used; give one from 0"):
        view.temperature = wrong
    assert view.temperature == 0.7


def test_constructor_refuses_what_cannot_be_drawn(sampler: Sampler) -> None:
    for settings in ({"value": 3}, {"max_new_tokens": 0}, {"next_logits": lambda _: np.zeros((2, 3))}):
        with pytest.raises(BadInput):
            make(sampler, **settings)
    assert sampler.calls == []


def test_fewer_tokens_than_bars(sampler: Sampler) -> None:
    view = make(sampler, next_logits=lambda _: np.array([0.0, 1.0, 2.0], np.float32))
    assert (view.names, view.others_count) == ([" t2", " t1", " t0"], 0)
    assert view.wait(SECONDS)
    view.close()


def test_fallback_and_repr(view: TemperatureView) -> None:
    assert view.wait(SECONDS)
    assert repr(view) == "TemperatureView('Once upon', temperature=0.7)"
    data, _ = view._repr_mimebundle_()
    assert "Next token after 'Once upon' at temperature 0.7" in data["text/plain"]
    assert "The sky looks" in data["text/html"].replace("<u>", "").replace("</u>", "")


def test_draft_is_shown_while_the_text_grows(view: TemperatureView, sampler: Sampler) -> None:
    assert view.wait(SECONDS)
    seen: list[str] = []
    view.observe(lambda change: seen.append(change["new"].get("draft", "")), names="status")
    view.resample()
    assert view.wait(SECONDS)
    assert "The" in seen


def test_many_threads_asking_leave_one_answer() -> None:
    done: list[int] = []
    latest: Latest[int] = Latest(lambda request, _stop: done.append(request))
    threads = [threading.Thread(target=lambda i=i: [latest.submit(100 * i + j) for j in range(100)]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latest.submit(-1)
    assert latest.wait(SECONDS)
    assert done[-1] == -1
    assert not latest.busy


def test_a_run_that_raises_does_not_leave_wait_hanging() -> None:
    def fail(_request: int, _stop: threading.Event) -> None:
        raise RuntimeError("in the reporting itself")

    latest: Latest[int] = Latest(fail)
    latest.submit(1)
    assert latest.wait(SECONDS)
    latest.submit(2)
    assert latest.wait(SECONDS)


def test_wait_gives_up_in_time() -> None:
    release = threading.Event()
    latest: Latest[int] = Latest(lambda _request, _stop: release.wait(SECONDS))
    latest.submit(1)
    began = time.monotonic()
    assert latest.wait(0.05) is False
    assert time.monotonic() - began < SECONDS / 2
    release.set()
    assert latest.wait(SECONDS)


def test_a_lab_is_a_sampler(tiny_lab: Any) -> None:
    view = temperature(tiny_lab, "abc", chat=False, max_new_tokens=3)
    assert view.wait(30)
    assert view.generation is not None
    assert view.generation.prompt == "abc"
    expected = torch.softmax(tiny_lab.next_logits("abc", chat=False).double() / 0.7, 0).numpy()
    np.testing.assert_allclose(view.distribution(), expected, atol=1e-6)
    view.close()
    with pytest.raises(BadInput, match="give the lab first"):
        temperature("abc", "abc")  # type: ignore[arg-type]
