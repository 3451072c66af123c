"""The training view: the curves are the run's history, Stop stops the run, and the picture has the last of it."""

from __future__ import annotations

import numpy as np
import pytest
from tuned import DATA, HELD_OUT, SECONDS, HandRun, until

import labkit as lk
from labkit.views.training_view import TrainingView


def lines(view: TrainingView) -> dict[str, np.ndarray]:
    """(n, 2) steps and values by the line's name."""
    points = np.frombuffer(view.points, "<f8").reshape(-1, 2)
    found, at = {}, 0
    for line in (line for chart in view.charts for line in chart["lines"]):  # type: ignore[attr-defined]
        found[line["name"]] = points[at : at + line["n"]]
        at += line["n"]
    return found


def finished(steps: int = 20) -> TrainingView:
    run = HandRun(steps)
    run.step(steps)
    return lk.views.training(run)


def test_curves_are_the_history() -> None:
    view = finished()
    history = view.run.history
    found = lines(view)
    assert list(found) == ["training", "held-out", "forgetting", "KL", "learning rate", "gradient norm"]
    assert found["training"][:, 1].tolist() == history["loss"].tolist()[1:]
    assert found["training"][0, 0] == 1, "nothing is trained at step 0"
    for name, column in (("held-out", "held_out"), ("forgetting", "forgetting"), ("KL", "kl")):
        there = history.dropna(subset=[column])
        assert found[name].tolist() == there[["step", column]].to_numpy().tolist()
    assert view.table.equals(history)
    assert view.samples[0] == [0, "answer 0: 2025-05-00"]
    assert view.status["message"] == "finished: 20 of 20 steps"
    assert dict(view.status["values"])["loss"] == "0.4472 nats"


def test_a_loss_that_is_no_number_is_a_gap_and_said() -> None:
    run = HandRun(20)
    run.step(3)
    run.step(1, loss=float("nan"))
    run.step(1, loss=float("inf"))
    run.step(15)
    view = lk.views.training(run)
    assert np.isnan(lines(view)["training"][3:5, 1]).all()
    assert view.notes == ["Of 20 values of the loss, 2 are no finite number: gaps."]


def test_it_follows_a_run_to_its_end() -> None:
    run = HandRun(10)
    view = lk.views.training(run)
    assert view.status["state"] == "running"
    run.step(4)
    until(lambda: view.status["done"] == 4)
    assert len(lines(view)["training"]) == 4
    assert view.status["left"] == 56.0
    run.step(6)
    assert view.wait(SECONDS)
    assert (view.status["state"], view.status["done"], view.status["total"]) == ("finished", 10, 10)
    assert len(lines(view)["training"]) == 10


def test_stop_stops_the_run_and_returns_at_once() -> None:
    run = HandRun(60)
    view = lk.views.training(run)
    run.step(7)
    view.stop()
    assert view.status["stopping"]
    assert view.wait(SECONDS)
    assert run.stops == 1
    assert view.status["message"] == "stopped after 7 of 60 steps; the adapter holds what was learnt"
    assert not view.status["stopping"]
    assert len(lines(view)["training"]) == 7


def test_closing_the_view_leaves_the_run_alone_and_a_reset_stops_it() -> None:
    run = HandRun(60)
    view = lk.views.training(run)
    until(lambda: run._watchers)
    view.close()
    assert view.wait(SECONDS)
    assert (run.stops, run.state) == (0, "running")
    view = lk.views.training(run)
    until(lambda: run._watchers)  # not that of the view before, which has left
    view._job.stop()
    assert view.wait(SECONDS)
    assert run.stops == 1


def test_a_failure_is_told() -> None:
    run = HandRun(60)
    view = lk.views.training(run)
    run.error = lk.BadInput("The loss is not a number; take a smaller learning rate.")
    run.end("failed")
    assert view.wait(SECONDS)
    assert (
        view.status["message"] == "failed after 0 of 60 steps: The loss is not a number; take a smaller learning rate."
    )


def test_a_long_run_is_sent_in_bounds_and_drawn_whole() -> None:
    run = HandRun(5_000)
    run.step(5_000)
    view = lk.views.training(run)
    found = lines(view)
    assert len(found["training"]) <= 500
    assert found["training"][-1, 0] > 4_990
    assert len(view.samples) == 40
    assert view.samples[0][0] == 0
    assert len(view._static_html()) < 20_000


def test_the_saved_notebook_gets_the_final_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("labkit.views.base.display", lambda data, **_how: told.append(data["text/html"]))
    run = HandRun(10)
    view = lk.views.training(run)
    view._ipython_display_()
    run.step(10)
    assert view.wait(SECONDS)
    assert len(told) == 2
    assert "finished: 10 of 10 steps" in told[-1]
    assert "finished" not in told[0]


def test_a_real_run_is_followed_stopped_and_its_adapter_used(tiny_lab: lk.Lab) -> None:
    run = lk.lora.finetune(
        tiny_lab, DATA, rank=2, batch=4, steps=5_000, held_out=HELD_OUT, new_tokens=4, measure_every=2
    )
    view = lk.views.training(run)
    try:
        until(lambda: view.status["done"] >= 3, 60)
        view.stop()
        assert view.wait(60)
    finally:
        run.stop()
    assert run.state == "stopped"
    history, found = run.history, lines(view)
    assert found["training"][:, 1].tolist() == history["loss"].tolist()[1:]
    assert found["forgetting"][0].tolist() == [0, 0], "an untouched model has forgotten nothing"
    assert (view.title, view.prompt) == ("tiny, lora", "the cat where")
    assert [step for step, _ in view.samples][:2] == [0, 2]
    before = tiny_lab.trace("the cat sat", keep="logits").logits
    with run.adapter.on():
        assert (tiny_lab.trace("the cat sat", keep="logits").logits != before).any()


def test_what_is_no_run_is_refused() -> None:
    with pytest.raises(lk.BadInput, match=r"lk\.lora\.finetune"):
        lk.views.training(3)  # type: ignore[arg-type]
