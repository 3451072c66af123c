"""Activation patching against one-at-a-time loops, and what must come out whatever the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_edits import CLEAN, OTHER, hooks, make_lab, value_at

import labkit as lk
from labkit.trace import interface, running
from labkit.trace.edits import patch
from labkit.trace.patching import patching
from labkit.views.patching_chart import patching as chart

EDITED = {"residual": "residual", "attention": "attention_output", "mlp": "mlp_output", "head": "head_output"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 7] - logits[-1, 40]


def run(lab: lk.Lab, **settings: Any) -> Any:
    return patching(lab, CLEAN, OTHER, metric, progress=False, **settings)


@pytest.mark.parametrize("at", list(EDITED))
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "granitemoe", "opt", "falcon", "falcon-new"])
def test_a_batch_is_the_loop_one_at_a_time(family: str, at: str) -> None:
    lab = make_lab(family)
    frame = run(lab, at=at, batch_size=5)
    clean = lab.trace(CLEAN, keep=("logits", EDITED[at]))
    other = lab.trace(OTHER, keep=("logits",))
    goal, start = float(metric(clean.logits)), float(metric(other.logits))
    assert frame.attrs["clean"] == pytest.approx(goal, abs=1e-5)
    assert frame.attrs["corrupted"] == pytest.approx(start, abs=1e-5)
    assert len(frame) == (2 * 4 if at == "head" else (3 if at == "residual" else 2) * len(CLEAN))
    for row in frame.to_dict("records"):
        place = f"{EDITED[at]}[{row['layer']}{', ' + str(row['head']) if at == 'head' else ''}]"
        value = value_at(clean, place)
        if at != "head":
            value, place = value[row["position"]], f"{place} @ {row['position']}"
        with lab.edit(patch(place, value)):
            alone = float(metric(lab.trace(OTHER, keep=("logits",)).logits))
        assert row["value"] == pytest.approx(alone, abs=1e-5)
        assert row["effect"] == pytest.approx((alone - start) / (goal - start), abs=1e-5)
    assert frame["effect"].abs().max() > 0.01
    assert hooks(lab.model) == 0
    assert not interface._LISTENERS


def test_what_must_come_out() -> None:
    """CLEAN and OTHER begin with the same two tokens; the metric reads the last position."""
    lab = make_lab()
    table = run(lab).set_index(["layer", "position"])["effect"]
    assert table[2, 6] == pytest.approx(1, abs=1e-5)  # leaving the last layer at the last position: the clean logits
    assert all(table[2, p] == 0 for p in range(6))  # nothing reads the others any more
    assert all(table[layer, p] == 0 for layer in range(3) for p in (0, 1))  # nothing there differs
    assert all(table[0, p] != 0 for p in range(2, 7))


def test_what_agrees_in_both_texts_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    passes: list[int] = []
    lab.anatomy  # noqa: B018 - its own pass is not counted
    running.answers_in_lists(lab.model)  # nor are those
    handle = lab.model.register_forward_pre_hook(lambda _m, _a, k: passes.append(len(k["input_ids"])), with_kwargs=True)
    frame = run(lab, at="mlp", batch_size=4)
    handle.remove()
    assert len(frame) == 14
    assert passes == [4, 4, 4, 4]  # the two texts themselves, then ten runs: two layers, five positions that differ
    passes.clear()
    handle = lab.model.register_forward_pre_hook(lambda _m, _a, k: passes.append(len(k["input_ids"])), with_kwargs=True)
    run(lab, at="mlp")
    handle.remove()
    assert passes == [14, 14]


def test_positions_and_columns() -> None:
    lab = make_lab()
    frame = run(lab, at="attention", positions=[-1, 3])
    assert list(frame.columns) == ["layer", "position", "token", "corrupted_token", "value", "effect"]
    assert frame["position"].tolist() == [6, 3, 6, 3]
    tokens = lab.trace(CLEAN).tokens, lab.trace(OTHER).tokens
    assert frame["token"].tolist()[:2] == [tokens[0][6], tokens[0][3]]
    assert frame["corrupted_token"].tolist()[:2] == [tokens[1][6], tokens[1][3]]
    whole = run(lab, at="attention").set_index(["layer", "position"])["effect"]
    for row in frame.to_dict("records"):
        assert row["effect"] == pytest.approx(whole[row["layer"], row["position"]], abs=1e-5)
    assert run(lab, at="mlp", positions=slice(2, 4))["position"].tolist() == [2, 3, 2, 3]
    assert run(lab, at="mlp", positions=2)["position"].tolist() == [2, 2]
    heads = run(lab, at="head", positions=[6])
    assert list(heads.columns) == ["layer", "head", "value", "effect"]
    with lab.edit(patch("head_output[1, 2] @ 6", lab.trace(CLEAN, keep=("head_output",)).head_output(1, 2)[6])):
        alone = float(metric(lab.trace(OTHER).logits))
    assert heads.set_index(["layer", "head"])["value"][1, 2] == pytest.approx(alone, abs=1e-5)
    assert frame.attrs == {"at": "attention", "clean": frame.attrs["clean"], "corrupted": frame.attrs["corrupted"]} | {
        "model": "llama",
        "runs": 4,
        "interrupted": False,
    }


def test_texts_messages_and_the_user_s_edits_around_it() -> None:
    lab = make_lab()
    plain = patching(lab, "the cat sat", "the dog sat", metric, progress=False)
    with lab.edit(patch("mlp_output[*]", 0.0)):
        without = patching(lab, "the cat sat", "the dog sat", metric, progress=False)
        values = run(lab, at="mlp")
    assert plain.attrs["clean"] != without.attrs["clean"]
    assert (values["effect"] == 0).all()  # both are zero there
    again = patching(lab, "the cat sat", "the dog sat", metric, progress=False)
    assert again.equals(plain)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"at": "residuals"}, "did you mean 'residual'"),
        ({"at": "heads"}, "did you mean 'head'"),
        ({"corrupted": OTHER[:-1]}, "clean text has 7 tokens and the corrupted one 6"),
        ({"corrupted": CLEAN}, "nothing to bring back"),
        ({"clean": ""}, "empty"),
        ({"clean": ["the cat", "the dog"]}, "once for each pair"),
        ({"metric": 3}, "is to be a function"),
        ({"metric": lambda logits: logits[-1]}, r"returned a Tensor of shape \(\d+,\); return one number"),
        ({"metric": lambda logits: None}, "returned a NoneType"),
        ({"metric": lambda logits: logits[-1, 0] * float("nan")}, "clean text is nan"),
        ({"positions": [7]}, "no token 7: the texts have tokens 0 to 6"),
        ({"positions": [1.5]}, "no token 1.5"),
        ({"positions": []}, "names no token"),
        ({"positions": slice(9, 12)}, "names no token"),
        ({"batch_size": 0}, "whole number from 1"),
    ],
)
def test_bad_input(settings: dict[str, Any], said: str) -> None:
    arguments = {"clean": CLEAN, "corrupted": OTHER, "metric": metric, "progress": False} | settings
    with pytest.raises(lk.BadInput, match=said):
        patching(make_lab(), **arguments)


def test_what_the_model_does_not_have_is_a_reason() -> None:
    lab = make_lab()
    lab.anatomy.support["mlp_output"] = "it has none; look at `residual` instead"
    with pytest.raises(lk.Unavailable, match="look at `residual` instead"):
        run(lab, at="mlp")


def after(calls: int, error: type[BaseException]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The metric, which raises from the n-th call on."""
    left = [calls]

    def counted(logits: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise error("mine")
        return metric(logits)

    return counted


def test_an_interrupt_keeps_what_is_done() -> None:
    lab = make_lab()
    whole = run(lab, at="mlp", batch_size=4)
    frame = patching(lab, CLEAN, OTHER, after(2 + 6, KeyboardInterrupt), at="mlp", batch_size=4, progress=False)
    assert frame.attrs["interrupted"]
    assert frame.attrs["runs"] == 14
    done = whole[whole["position"] < 2].index.tolist()  # the same in both texts: known without a run
    assert len(frame) == len(done) + 6
    assert frame.merge(whole).shape[0] == len(frame)
    assert hooks(lab.model) == 0
    assert lab._turns._owner is None
    with pytest.raises(KeyboardInterrupt):  # before anything was done there is nothing to keep
        patching(lab, CLEAN, OTHER, after(0, KeyboardInterrupt), progress=False)


def test_an_exception_of_the_metric_passes_through_and_leaves_nothing() -> None:
    lab = make_lab()
    before = lab.trace(OTHER).logits
    for calls in (0, 1, 5):
        with pytest.raises(ZeroDivisionError, match="mine"):
            patching(lab, CLEAN, OTHER, after(calls, ZeroDivisionError), progress=False)
        assert hooks(lab.model) == 0
        assert torch.equal(lab.trace(OTHER).logits, before)
        assert lab._turns._owner is None


def test_progress_is_shown_unless_told_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    lab = make_lab()
    run(lab)
    assert capsys.readouterr().err == ""
    patching(lab, CLEAN, OTHER, metric)
    assert "patching residual" in capsys.readouterr().err


# the chart ------------------------------------------------------------------------------------------------------------


def test_the_chart_holds_the_effects_with_zero_in_the_middle() -> None:
    frame = run(make_lab())
    figure = chart(frame)
    (heat,) = figure.data
    table = frame.set_index(["layer", "position"])["effect"]
    assert [list(row) for row in heat.z] == [[table[i, p] for p in range(7)] for i in range(3)]
    assert heat.zmin == -heat.zmax
    assert heat.zmax == frame["effect"].abs().max()
    assert heat.zmid == 0
    assert figure.layout.yaxis.autorange == "reversed"  # layers downward
    best = frame.loc[frame["effect"].idxmax()]
    assert f"entering layer {best['layer']} at token {best['position']}" in figure.layout.title.text
    assert f"{best['effect']:.0%}" in figure.layout.title.text
    assert f"effect {table[1, 3]:.4f}" in heat.customdata[1][3]


def test_the_chart_of_heads_and_of_an_interrupted_run() -> None:
    lab = make_lab()
    figure = chart(run(lab, at="head"))
    assert list(figure.data[0].x) == [0, 1, 2, 3]
    assert figure.layout.xaxis.title.text == "head"
    assert "head" in figure.layout.title.text
    partial = patching(lab, CLEAN, OTHER, after(2 + 3, KeyboardInterrupt), at="mlp", batch_size=3, progress=False)
    assert "interrupted after 7 of 14 runs" in repr(partial)
    figure = chart(partial)
    assert "interrupted after 7 of 14 runs" in figure.layout.title.text
    assert sum(value is None for row in figure.data[0].z for value in row) > 0
    assert chart(partial, title="Mine").layout.title.text == "Mine"


def test_rows_of_a_result_are_drawn_too() -> None:
    frame = run(make_lab())
    rows = frame["layer"] > 0
    assert "entering layer" in chart(frame[rows]).layout.title.text
    figure = chart(frame.table[rows])  # a DataFrame, which doesn't say what was patched
    assert figure.data[0].z == chart(frame[rows]).data[0].z
    assert figure.layout.title.text.startswith("Patching layer ")
    assert chart(run(make_lab(), at="head").table).layout.xaxis.title.text == "head"


def test_a_result_shows_what_its_effects_lie_between() -> None:
    frame = run(make_lab())
    lines = {line.split()[0]: line.split()[1:] for line in repr(frame).splitlines()}
    assert (float(lines["corrupted"][-2]), float(lines["corrupted"][-1])) == (pytest.approx(frame.corrupted, 1e-4), 0)
    assert (float(lines["clean"][-2]), float(lines["clean"][-1])) == (pytest.approx(frame.clean, 1e-4), 1)
    assert repr(frame).startswith("Activation patching of llama at 'residual'\n")
    assert list(frame.table.columns) == list(frame)


def test_tokens_and_titles_are_text() -> None:
    frame = run(make_lab())
    frame["token"] = "<img src=x>"
    frame["corrupted_token"] = "\n a&b"
    figure = chart(frame, title="<b>x</b>")
    shown = json.dumps(figure.to_plotly_json(), default=str, ensure_ascii=False)
    assert "<img" not in shown
    assert "<b>" not in shown
    assert "&lt;img·src=x&gt; | ↵·a&amp;b" in figure.layout.xaxis.ticktext[0]


def test_a_long_text_names_every_nth_token() -> None:
    lab = make_lab()
    frame = patching(
        lab, list(range(3, 103)), [9, *range(4, 103)], metric, positions=slice(0, 100), at="mlp", progress=False
    )
    figure = chart(frame)
    assert len(figure.layout.xaxis.ticktext) == 50
    assert figure.layout.width <= 1100


def test_the_chart_refuses_what_is_no_result() -> None:
    import pandas as pd

    for wrong in (pd.DataFrame({"a": [1]}), [1], None):
        with pytest.raises(lk.BadInput, match=r"no result of lk\.patching"):
            chart(wrong)  # type: ignore[arg-type]
    frame = run(make_lab())
    with pytest.raises(lk.BadInput, match="no run was done"):
        chart(frame[frame["layer"] > 9])
